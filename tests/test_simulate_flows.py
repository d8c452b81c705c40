"""Max-min fair rates and the fluid: cases solved by hand, and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.simulation import flows as flows_module
from costmodel.simulation.flows import Batch, Fluid, completion_times, fair_rates
from costmodel.simulation.topology import build

INF = np.inf


def rates(paths, capacity, weight=None, limit=None):
    count = len(paths)
    width = max(map(len, paths))
    padded = np.array([p + [len(capacity)] * (width - len(p)) for p in paths])
    return fair_rates(
        padded,
        np.ones(count) if weight is None else np.array(weight, float),
        np.full(count, INF) if limit is None else np.array(limit, float),
        np.array([*capacity, INF]),
    )


def test_one_link_is_shared_equally():
    assert rates([[0], [0], [0]], [12.0]) == pytest.approx([4, 4, 4])


def test_long_flow_and_two_short_ones():
    # Bertsekas and Gallager's line: link 0 (10) carries A and B, link 1 (4) carries A, C and D.
    # Link 1 is tightest: 4/3 each for A, C, D. B takes what A leaves on link 0.
    found = rates([[0, 1], [0], [1], [1]], [10.0, 4.0])
    assert found == pytest.approx([4 / 3, 10 - 4 / 3, 4 / 3, 4 / 3])


def test_chain_of_bottlenecks():
    # 1: A, B -> 1 each of 2; 2: B, C of 5 -> C gets 4; 3: C, D of 10 -> D gets 6.
    assert rates([[0], [0, 1], [1, 2], [2]], [2.0, 5.0, 10.0]) == pytest.approx([1, 1, 4, 6])


def test_a_limited_flow_leaves_the_rest():
    assert rates([[0], [0]], [10.0], limit=[2.0, INF]) == pytest.approx([2, 8])
    assert rates([[0], [0]], [10.0], limit=[6.0, INF]) == pytest.approx([5, 5])


def test_weight_is_that_many_flows():
    one_by_one = rates([[0, 1], [0, 1], [0, 1], [0], [1]], [9.0, 5.0])
    together = rates([[0, 1], [0], [1]], [9.0, 5.0], weight=[3, 1, 1])
    assert together == pytest.approx(one_by_one[2:])


def test_what_is_left_goes_faster_when_a_flow_ends():
    # Two flows of 10 and 30 bytes at 10 bytes/us: 5 each until t = 2, then 10 for 20 bytes.
    paths = np.array([[0], [0]])
    ends = completion_times(np.zeros(2), np.array([10.0, 30.0]), paths, np.array([10.0]))
    assert ends == pytest.approx([2.0, 4.0])


def test_a_late_flow_slows_the_early_one():
    # The first has 10 of 20 bytes left when the second comes at t = 1: 5 each, both end at t = 3.
    paths = np.array([[0], [0]])
    ends = completion_times(np.array([0.0, 1.0]), np.array([20.0, 10.0]), paths, np.array([10.0]))
    assert ends == pytest.approx([3.0, 3.0])


def test_a_flow_over_a_dead_link_never_ends():
    ends = completion_times(np.zeros(1), np.array([1.0]), np.array([[0]]), np.array([0.0]))
    assert ends == [INF]


def test_endless_traffic_takes_its_share_for_ever():
    fluid = Fluid(np.array([10.0]), 1)
    note = np.zeros((2, 0))
    flows = Batch(
        np.zeros((2, 1), int), np.array([INF, 10.0]), np.ones(2), np.array([4.0, INF]),
        np.array([7, 8]), note,
    )  # fmt: skip
    fluid.add(0.0, flows)
    assert fluid.next_completion() == pytest.approx(10 / 6)
    done = fluid.complete(fluid.next_completion())
    assert done is not None
    assert done.tag.tolist() == [8]
    assert fluid.next_completion() == INF


@st.composite
def networks(draw):
    links = draw(st.integers(1, 6))
    capacity = draw(st.lists(st.floats(0.5, 50.0), min_size=links, max_size=links))
    paths = draw(
        st.lists(
            st.lists(st.integers(0, links - 1), min_size=1, max_size=links, unique=True),
            min_size=1, max_size=8,
        )
    )  # fmt: skip
    count = len(paths)
    weight = draw(st.lists(st.integers(1, 80), min_size=count, max_size=count))
    limit = draw(
        st.lists(st.one_of(st.just(INF), st.floats(0.01, 20.0)), min_size=count, max_size=count)
    )
    return paths, capacity, weight, limit


@given(networks())
def test_rates_are_max_min_fair(network):
    paths, capacity, weight, limit = network
    rate = rates(paths, capacity, weight, limit)
    load = np.zeros(len(capacity))
    for path, r, w in zip(paths, rate, weight, strict=True):
        load[path] += r * w
    assert (load <= np.array(capacity) * (1 + 1e-9)).all()
    # The definition: each flow is at its limit, or crosses a full link on which nobody has more.
    for path, r, top in zip(paths, rate, limit, strict=True):
        stopped = r == pytest.approx(top, rel=1e-9)
        for link in path:
            on_it = [x for p, x in zip(paths, rate, strict=True) if link in p]
            full = load[link] == pytest.approx(capacity[link], rel=1e-9)
            stopped |= full and r >= max(on_it) * (1 - 1e-9)
        assert stopped


def one_by_one(start, size, paths, capacity, weight, limit):
    """Return completion times, all flows shared anew at every change, in plain Python."""
    count = len(start)
    left, ends, time = list(size), [INF] * count, 0.0
    while True:
        moving = [i for i in range(count) if start[i] <= time and ends[i] == INF]
        rate = dict.fromkeys(moving, 0.0)
        rising, room = set(moving), dict(enumerate(capacity))
        while rising:
            load = {k: sum(weight[i] for i in rising if k in paths[i]) for k in room}
            step = min(
                [room[k] / load[k] for k in room if load[k]] + [limit[i] - rate[i] for i in rising]
            )
            for i in rising:
                rate[i] += step
            room = {k: room[k] - step * load[k] for k in room}
            full = {k for k in room if load[k] and room[k] <= 1e-12 * capacity[k]}
            rising = {
                i for i in rising
                if not full & set(paths[i]) and rate[i] < limit[i] * (1 - 1e-12)
            }  # fmt: skip
        until = [
            left[i] / rate[i] if left[i] > 0 else 0.0 for i in moving if rate[i] or not left[i]
        ]
        later = [s - time for s in start if s > time]
        if not until and not later:
            return ends
        step = min(until + later)
        ended = [i for i in moving if rate[i] and left[i] / rate[i] <= step * (1 + 1e-13)]
        for i in moving:
            left[i] = max(left[i] - rate[i] * step, 0.0)
        time = min([time + step, *(s for s in start if s > time and s - time <= step)])
        for i in ended:
            ends[i] = time


@pytest.mark.parametrize("few", [0, 256])
@pytest.mark.parametrize("seed", [*range(6), 16, 20, 29])
def test_sharing_what_a_change_touches_is_sharing_everything(seed, few, monkeypatch):
    monkeypatch.setattr(flows_module, "FEW", few)
    rng = np.random.default_rng(seed)
    ranks, count = 6, 60
    fabric = build("switch", ranks, 1e-3)
    a, b = np.divmod(np.arange(ranks * ranks), ranks)
    pair = rng.choice(np.flatnonzero(a != b), count)
    start = np.round(rng.uniform(0, count / 6, count), rng.choice([0, 1, 9]))
    # Equal ports and unequal ones: ties, and flows that gain where others lose.
    capacity = fabric.capacity.copy()
    if seed % 3:
        capacity[np.isfinite(capacity)] *= rng.uniform(0.2, 1.0, np.isfinite(capacity).sum())
    size = rng.choice([0.5, 1.0, 3.0], count) if seed % 2 else rng.uniform(0.1, 3.0, count)
    weight = rng.integers(1, 4, count).astype(float)
    limit = np.where(
        rng.random(count) < (0.3 if seed % 2 else 0.0), rng.uniform(0.05, 0.5, count), INF
    )
    paths = fabric.paths[pair]
    found = completion_times(start, size, paths, capacity, weight, limit)
    finite = {k: c for k, c in enumerate(capacity.tolist()) if np.isfinite(c)}
    assert list(finite) == list(range(len(finite)))
    plain = [[k for k in path if k in finite] for path in paths.tolist()]
    expected = one_by_one(
        start.tolist(), size.tolist(), plain, list(finite.values()), weight.tolist(),
        limit.tolist(),
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_flows_that_touch_nothing_are_shared_by_themselves(monkeypatch):
    """A rank that starts later reads at its own port's rate; nobody else is shared anew."""
    shared = []
    filled = flows_module._filled
    monkeypatch.setattr(
        flows_module, "_filled", lambda *columns: shared.append(columns[1].size) or filled(*columns)
    )
    ranks = 20
    fabric = build("switch", ranks, 400.0)
    a, b = np.divmod(np.arange(ranks * ranks), ranks)
    pair = np.flatnonzero(a != b)
    completion_times(0.01 * b[pair], np.full(pair.size, 2e5), fabric.paths[pair], fabric.capacity)
    # The first fourteen of 19 flows each are few; from then on a start shares its own alone.
    assert 14 * (ranks - 1) > flows_module.FEW
    assert shared[13:20] == [14 * (ranks - 1), *[ranks - 1] * 6]


def test_working_on_few_flows_at_once_changes_no_end(monkeypatch):
    fabric, rng = build("switch", 12, 400.0), np.random.default_rng(3)
    source, target = np.divmod(np.arange(144), 12)
    pair = np.repeat(np.flatnonzero(source != target), 4)
    limit = np.where(rng.random(pair.size) < 0.3, rng.uniform(1e4, 4e4, pair.size), INF)
    arguments = (
        rng.uniform(0, 30, 12)[source[pair]], rng.uniform(1e5, 4e5, pair.size),
        fabric.paths[pair], fabric.capacity, rng.integers(1, 4, pair.size).astype(float), limit,
    )  # fmt: skip
    whole = completion_times(*arguments)
    monkeypatch.setattr(flows_module, "AT_ONCE", 7)
    assert completion_times(*arguments).tolist() == whole.tolist()
