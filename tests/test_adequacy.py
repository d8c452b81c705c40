"""Whether one cutoff in bytes is enough: per hidden size on contested calls, and for windows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.adequacy import ADEQUATE_PCT, Adequacy, contested_gain_pct, hidden_cutoff
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Arms
from costmodel.decide.setting import Setting
from costmodel.model.shape import Shapes
from costmodel.show import recommendation

HIDDEN = (2048, 4096, 8192)


def crossing_at(*crossing, spread=0.0, draws=64):
    """Return arms whose sizes cross at so many bytes for each hidden size, captured batches.

    ``spread`` moves all crossings together from draw to draw, by a factor.
    """
    tokens, hidden = (a.ravel() for a in np.meshgrid(captured_batch_sizes(), HIDDEN))
    order = np.argsort(tokens * hidden, kind="stable")
    calls = Shapes.of(tokens[order], hidden[order], 4)
    at = dict(zip(HIDDEN, crossing, strict=True))
    cross = np.array([at[h] for h in calls.hidden_dim.tolist()], float)
    factor = np.exp(spread * np.linspace(-1, 1, draws))[:, None]
    size = calls.bytes / 100e3
    other = np.broadcast_to(8 + size / 2, (draws, size.size))
    # 1-stage is twice as steep and meets the other arm at the crossing.
    one = 8 + size - factor * cross / 200e3
    return Arms(calls, np.full(size.size, 1 / size.size), one, np.array(other), "0.1.20")


def test_alike_hidden_sizes_are_served_by_one_cutoff():
    arms = crossing_at(400e3, 400e3, 400e3, spread=0.3)
    found = Adequacy.of(arms, arms.best().cell.roundest())
    assert found.enough
    assert found.reasons() == []
    assert [h.hidden_dim for h in found.by_hidden] == list(HIDDEN)
    # They move together, so none differs from the others, uncertain as each of them is.
    assert not any(h.differs for h in found.by_hidden)
    assert all(h.max_bytes_lo < h.max_bytes < h.max_bytes_hi for h in found.by_hidden)


def test_a_hidden_size_that_crosses_elsewhere_is_named_with_its_number():
    arms = crossing_at(400e3, 400e3, 60e3, spread=0.1)
    found = Adequacy.of(arms, 400_000)
    assert not found.enough
    (odd,) = found.losing
    assert odd.hidden_dim == 8192
    assert odd.differs
    assert odd.max_bytes_lo <= 60e3 <= odd.max_bytes_hi
    assert odd.contested_gain_pct > 5
    (reason,) = found.reasons()
    assert f"hidden size 8192 {odd.contested_gain_pct:.1f} %" in reason
    # Averaged over the workload it would hardly show.
    assert found.gain_per_hidden_pct < odd.contested_gain_pct / 10


@given(
    st.lists(st.sampled_from([100e3, 200e3, 400e3, 800e3]), min_size=3, max_size=3),
    st.integers(50_000, 1_000_000),
)
@settings(max_examples=40, deadline=None)
def test_gains_are_those_of_every_cutoff_tried(crossing, limit):
    arms = crossing_at(*crossing, spread=0.2, draws=5)
    for h in Adequacy.of(arms, limit).by_hidden:
        mine = arms.shapes.hidden_dim == h.hidden_dim
        size = arms.shapes.bytes[mine]
        near = (size >= limit / 2) & (size <= 2 * limit)
        if not near.any():
            assert h.contested_gain_pct == 0
            continue
        one, other = (part[:, mine][:, near].mean(axis=0) for part in arms.regret_share)
        close = size[near]
        tried = [float(np.where(close <= c, one, other).mean()) for c in (0, *close)]
        now = float(np.where(close <= limit, one, other).mean())
        assert h.contested_gain_pct == pytest.approx(100 * (now - min(tried)), abs=1e-9)


def test_without_a_cutoff_every_call_is_contested():
    arms = crossing_at(400e3, 400e3, 400e3)
    assert contested_gain_pct(arms, None) > 10
    never = replace(arms, one_us=arms.other_us - 1.0)
    assert contested_gain_pct(never, None) == 0
    assert contested_gain_pct(arms.select(arms.shapes.bytes > 4e6), 400_000) == 0


def test_a_window_that_gains_is_a_reason():
    arms = crossing_at(400e3, 400e3, 400e3)
    small = arms.shapes.bytes <= 20_000
    slow = replace(arms, one_us=np.where(small, arms.other_us * 1.1, arms.one_us))
    found = Adequacy.of(slow, 400_000)
    assert found.window is not None
    assert found.window.from_bytes > 20_000
    # What those calls lose is 10 %, each of them.
    assert found.window.gain_pct == pytest.approx(10.0, rel=1e-6)
    assert any("alone would gain 10.0 %" in why for why in found.reasons())
    assert Adequacy.of(arms, 400_000).window is None


def test_the_decision_says_it_with_the_rows_that_can_show_it():
    decision = recommend(Setting.shipped("MI355X"), world_sizes=(4, 8))
    record = json.loads(json.dumps(decision.to_dict()))
    text = recommendation.text(decision)
    assert "hidden size does not matter" not in text
    assert "1-stage rows exist at hidden 7168 only: no row can show" in text
    assert record["hidden_dims"]["measured"]["1stage"] == [7168]
    assert len(record["hidden_dims"]["measured"]["2stage"]) > 1
    for c, said in zip(decision.cutoffs, record["cutoffs"], strict=True):
        found = c.adequacy
        assert [h["hidden_dim"] for h in said["by_hidden"]] == decision.workload.hidden_dims()
        assert said["adequate"] is found.enough
        gains = [h["contested_gain_pct"] for h in said["by_hidden"]]
        assert found.enough == (max(gains) <= ADEQUATE_PCT and not said["window"])
        for h in found.by_hidden:
            mine = c.arms.select(c.arms.shapes.hidden_dim == h.hidden_dim)
            cell = mine.best().cell
            alike = cell.lo <= c.max_bytes <= cell.hi
            assert h.max_bytes == (c.max_bytes if alike else cell.roundest())
    assert record["hidden_dims"]["depends_on_hidden"] is any(
        h["contested_gain_pct"] > ADEQUATE_PCT for c in record["cutoffs"] for h in c["by_hidden"]
    )


def test_own_cutoffs_that_surely_differ_are_offered():
    decision = recommend(Setting.shipped("MI355X"), world_sizes=(4,))
    (c,) = decision.cutoffs
    first = replace(c.adequacy.by_hidden[0], differs=True)
    apart = replace(c.adequacy, by_hidden=(first, *c.adequacy.by_hidden[1:]))
    text = recommendation.text(replace(decision, cutoffs=(replace(c, adequacy=apart),)))
    said = f"TP4, own cutoffs that surely differ by hidden size: {first.hidden_dim} "
    assert said in " ".join(text.split())
    assert "surely differ" not in recommendation.text(decision)


@pytest.mark.parametrize(("sure", "differs"), [(10, True), (9, True), (8, False)])
def test_a_hidden_size_differs_where_nine_draws_in_ten_say_so(sure, differs):
    """By more than one captured batch; here 1-stage wins throughout or nowhere."""
    calls = Shapes.of([8, 16, 24, 32], 2880, 4)
    one = np.full((10, 4), 10.0)
    other = np.where(np.arange(10)[:, None] < sure, 20.0, 5.0) * np.ones(4)
    alone = Arms(calls, np.full(4, 0.25), one, other, "0.1.20")
    assert hidden_cutoff(2880, alone, np.zeros(10, np.int64), None).differs == differs
    assert not hidden_cutoff(2880, alone, alone.each_best_bytes, None).differs


@pytest.mark.parametrize(("gpu", "hidden"), [("MI355X", 7168), ("MI300X", 2304), ("MI308X", 8192)])
def test_the_own_cutoff_of_the_only_hidden_size_is_the_cutoff(gpu, hidden):
    """Of cutoffs that decide alike both name the same."""
    decision = recommend(Setting.shipped(gpu), Workload.of([hidden]))
    for cutoff in decision.cutoffs:
        (own,) = cutoff.adequacy.by_hidden
        best = cutoff.max_bytes if cutoff.claimed else cutoff.estimate
        assert (own.hidden_dim, own.max_bytes) == (hidden, best)
