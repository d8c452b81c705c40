from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.data import kernels as kernel
from costmodel.errors import InputError
from costmodel.model.choose import for_fabric, for_interconnect
from costmodel.model.fabric import FullMesh, Ports
from costmodel.model.latency import (
    EXPECTED_MAXIMUM,
    FLOOR_BYTES,
    LOCAL_US,
    SECOND_LAUNCH_US,
    LinkCosts,
    LinkModel,
    parts_of_sum,
    smooth_maximum,
    total,
)
from costmodel.model.shape import Shapes

MESH = FullMesh()


def costs(**change):
    """Costs with nothing but what a test sets."""
    base = {
        "link_gbps": 50.0, "read_efficiency": 1.0, "eight_rank_efficiency": 1.0,
        "one_stage_eight_rank_efficiency": 1.0, "round_trip_us": 0.0, "read_floor_us": 0.0,
        "read_floor_growth": 1.0, "turn_exposure_us": 0.0, "launch_us": 0.0,
        "second_launch_us": 0.0, "barrier_us": 0.0, "arrival_jitter_us": 0.0,
        "stage_gap_us": 0.0, "fused_exit_us": 0.0, "plain_exit_us": 0.0, "release_acquire_us": 0.0,
        "norm_us": 0.0, "local_us": 0.0, "local_gbps": 1e12, "separate_launch_us": 0.0,
        "separate_norm_us": 0.0, "separate_norm_gbps": 1e12, "eight_rank_fused_us": 0.0,
        "eight_rank_plain_us": 0.0,
    }  # fmt: skip
    return LinkCosts(**(base | change))


def latency(op, algorithm, tokens, n, cost, *, wiring=MESH, hidden=5000, arch="gfx950"):
    model, shapes = LinkModel(wiring), Shapes.of(tokens, hidden, n, op=op)
    return np.asarray(
        total(model.terms(model.geometry(shapes, algorithm, kernel.aiter(), arch), cost))
    )


def test_1stage_is_bytes_over_link_rate():
    # 5000 hidden x 2 bytes x 10 tokens = 100 kB over 50 GB/s.
    assert latency("all_reduce", "1stage", [10], 4, costs()) == pytest.approx([2.0])


@pytest.mark.parametrize("n", [2, 4, 8])
def test_2stage_moves_2_over_n(n):
    assert latency("all_reduce", "2stage", [10], n, costs()) == pytest.approx([4.0 / n])
    assert latency("fused_ar_rmsnorm", "2stage", [10], n, costs()) == pytest.approx([4.0 / n])


def test_with_two_ranks_both_algorithms_move_the_same():
    one, two = (latency("all_reduce", a, [1, 7, 400], 2, costs()) for a in ("1stage", "2stage"))
    np.testing.assert_allclose(one, two)


def test_the_cutoff_of_the_closed_form():
    """B* = (a2 - a1) w / (1 - 2/N) on a full mesh."""
    n, extra = 8, 3.0
    size = extra * 50.0e3 / (1 - 2 / n)
    cost = costs(second_launch_us=extra)
    tokens = [int(size / 1e4) - 1, int(size / 1e4) + 1]
    gap = latency("fused_ar_rmsnorm", "1stage", tokens, n, cost) - latency(
        "fused_ar_rmsnorm", "2stage", tokens, n, cost
    )
    assert gap[0] < 0 < gap[1]


@pytest.mark.parametrize("n", [4, 8])
def test_a_switch_shares_one_port(n):
    mesh = latency("all_reduce", "1stage", [10], n, costs())
    switch = latency("all_reduce", "1stage", [10], n, costs(), wiring=Ports())
    assert switch == pytest.approx((n - 1) * mesh)


@pytest.mark.parametrize("op", ["all_reduce", "fused_ar_rmsnorm", "ar_then_rmsnorm"])
@pytest.mark.parametrize("algorithm", ["1stage", "2stage"])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_gpu_for_every_rank_is_a_switch(op, algorithm, n):
    cost = costs(round_trip_us=0.7, read_floor_us=1.8, barrier_us=0.1, launch_us=1.0)
    switch = latency(op, algorithm, [1, 10, 700], n, cost, wiring=Ports())
    split = latency(op, algorithm, [1, 10, 700], n, cost, wiring=Ports(n))
    assert (split == switch).all()


@pytest.mark.parametrize(("n", "gpus", "pairs"), [(2, 2, 1), (4, 2, 4), (8, 2, 16), (8, 4, 12)])
def test_ranks_of_a_gpu_share_its_port(n, gpus, pairs):
    """Counted: ordered pairs of ranks that one GPU's port carries towards the others."""
    gpu = np.arange(n) // (n // gpus)
    assert np.sum((gpu[:, None] == 0) & (gpu[None, :] != 0)) == pairs
    wiring = Ports(gpus)
    assert wiring.bottleneck_bytes(np.array([3.0]), n) == pytest.approx([3.0 * pairs])
    mesh = latency("all_reduce", "1stage", [10], n, costs())
    split = latency("all_reduce", "1stage", [10], n, costs(), wiring=wiring)
    assert split == pytest.approx(pairs * mesh)


def test_the_crossover_of_ranks_split_over_two_gpus():
    """(n/2)^2 S against (n/2)^2 2S/n over the port: B* = (a2 - a1) W / ((n/2)^2 (1 - 2/n))."""
    n, extra = 8, 3.0
    size = extra * 50.0e3 / ((n / 2) ** 2 * (1 - 2 / n))
    cost = costs(second_launch_us=extra)
    tokens = [int(size / 1e3) - 1, int(size / 1e3) + 1]
    one, two = (
        latency("fused_ar_rmsnorm", a, tokens, n, cost, wiring=Ports(2), hidden=500)
        for a in ("1stage", "2stage")
    )
    assert one[0] < two[0]
    assert one[1] > two[1]


def test_world_sizes_that_do_not_split_are_refused():
    with pytest.raises(InputError, match=r"^2 ranks do not split evenly over .* split_4$"):
        latency("all_reduce", "1stage", [10], 2, costs(), wiring=Ports(4))
    with pytest.raises(InputError, match="split over 1 GPU: give 2 or more"):
        Ports(1)


def test_models_are_chosen_by_fabric_and_by_interconnect():
    for fabric in ("full_mesh", "switch", "split_2", "split_4", "loopback"):
        assert for_fabric(fabric).fabric == fabric
    chosen = {
        "xgmi": "full_mesh",
        "nvlink": "switch",
        "nvlink/2": "split_2",
        "loopback": "loopback",
    }
    for interconnect, fabric in chosen.items():
        assert for_interconnect(interconnect).fabric == fabric
    for interconnect in ("gloo", "", "nvlink/1", "nvlink/two", "xgmi/2"):
        assert for_interconnect(interconnect) is None
    with pytest.raises(InputError, match=r"unknown fabric 'mesh' \(did you mean full_mesh"):
        for_fabric("mesh")


def test_a_short_transfer_hides_under_the_round_trip():
    cost = costs(round_trip_us=2.0)
    # 10 kB is 0.2 us of wire under 2 us of round trip: seen is 2 (1 + 0.1^2)^(1/2).
    assert latency("all_reduce", "1stage", [1], 4, cost) == pytest.approx([2.0 * 1.01**0.5])


def test_one_workgroup_bounds_a_single_token():
    cost = costs(read_floor_us=FLOOR_BYTES / 10e3)
    # One token of 10 kB from each of 7 peers through one workgroup at 10 GB/s.
    # A link takes 0.2 us for them.
    one = latency("fused_ar_rmsnorm", "1stage", [1], 8, cost)
    assert one == pytest.approx([np.hypot(7.0, 0.2)])
    # Eight tokens run on eight workgroups side by side, over the same links.
    eight = latency("fused_ar_rmsnorm", "1stage", [8], 8, cost)
    assert eight == pytest.approx([np.hypot(7.0, 1.6)])


def test_a_floor_that_does_not_grow_is_a_time():
    cost = costs(read_floor_us=3.0, read_floor_growth=0.0, link_gbps=1e9)
    for n, hidden in ((2, 512), (4, 7168), (8, 8192)):
        assert latency("fused_ar_rmsnorm", "1stage", [1], n, cost, hidden=hidden) == pytest.approx(
            [3.0]
        )


def test_at_eight_ranks_1stage_reads_and_2stage_times_have_factors_of_their_own():
    cost = costs(eight_rank_efficiency=0.8, one_stage_eight_rank_efficiency=0.5)
    assert latency("all_reduce", "1stage", [10], 8, cost) == pytest.approx([2.0 / 0.4])
    assert latency("all_reduce", "2stage", [10], 8, cost) == pytest.approx([4.0 / 8 / 0.8])
    assert latency("all_reduce", "1stage", [10], 4, cost) == pytest.approx([2.0])
    for op, name in (("fused_ar_rmsnorm", "fused"), ("ar_then_rmsnorm", "plain")):
        more = costs(**{f"eight_rank_{name}_us": 5.0})
        for n, added in ((4, 0.0), (8, 5.0)):
            wire = latency(op, "2stage", [10], n, costs())
            assert latency(op, "2stage", [10], n, more) == pytest.approx(wire + added)
            assert latency(op, "1stage", [10], n, more) == latency(op, "1stage", [10], n, costs())


@pytest.mark.parametrize(("version", "barriers"), [("0.1.19", 1), ("0.1.19.post1", 2)])
def test_the_fused_1stage_got_its_exit_barrier_with_0_1_19_post1(version, barriers):
    cost = costs(barrier_us=64.0, fused_exit_us=4.0, link_gbps=1e9)
    shapes = Shapes.of([1], 7168, 4)
    did = LinkModel(MESH).geometry(shapes, "1stage", kernel.aiter(version), "gfx950")
    expected = 64.0 * barriers + 4.0 * (barriers - 1)
    assert total(LinkModel(MESH).terms(did, cost)) == pytest.approx([expected])


@given(st.floats(-3, 9), st.floats(0.5, 2))
def test_parts_of_a_sum_add_up_to_it(total_us, scale):
    first, second = parts_of_sum(total_us, scale, SECOND_LAUNCH_US, LOCAL_US)
    assert first + second == pytest.approx(total_us)
    assert parts_of_sum(2.75, 1.0, SECOND_LAUNCH_US, LOCAL_US) == pytest.approx((1.75, 1.0))


def test_what_a_sum_has_beyond_its_parts_is_shared_by_variance():
    # 3 us beyond the means, 9 : 16
    assert parts_of_sum(5.0, 1.0, (1.0, 3.0), (1.0, 4.0)) == pytest.approx((2.08, 2.92))


def test_calls_of_several_world_sizes_at_once_are_those_one_by_one():
    cost = costs(
        eight_rank_fused_us=3.0, eight_rank_plain_us=5.0, eight_rank_efficiency=0.5,
        one_stage_eight_rank_efficiency=0.5, barrier_us=0.3, arrival_jitter_us=1.0,
    )  # fmt: skip
    n = [2, 4, 8, 4]
    for op in ("all_reduce", "fused_ar_rmsnorm"):
        for algorithm in ("1stage", "2stage"):
            together = latency(op, algorithm, [10] * 4, n, cost)
            alone = [latency(op, algorithm, [10], k, cost)[0] for k in n]
            assert together == pytest.approx(alone)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_barriers_wait_for_the_last_of_n(n):
    cost = costs(barrier_us=0.3, arrival_jitter_us=1.0)
    # Entry and exit.
    expected = 2 * (0.3 + EXPECTED_MAXIMUM[n])
    assert latency("fused_ar_rmsnorm", "1stage", [1], n, cost) == pytest.approx(
        [expected], rel=0.15
    )


def test_expected_maximum_of_normals():
    rng = np.random.default_rng(0)
    for n, value in EXPECTED_MAXIMUM.items():
        assert rng.standard_normal((400_000, n)).max(1).mean() == pytest.approx(value, abs=0.005)


def test_fixed_costs_of_each_arm():
    cost = costs(
        launch_us=1, second_launch_us=2, norm_us=4, local_us=8, release_acquire_us=16, stage_gap_us=128,
        separate_launch_us=2, separate_norm_us=32, barrier_us=64, plain_exit_us=256, fused_exit_us=512,
    )  # fmt: skip
    tiny = {"tokens": [1], "n": 4, "cost": cost}
    wire = 10_000 / 50e3
    assert latency("all_reduce", "1stage", **tiny) == pytest.approx([1 + 128 + 256 + wire])
    assert latency("all_reduce", "2stage", **tiny) == pytest.approx([1 + 128 + 128 + wire / 2])
    assert latency("fused_ar_rmsnorm", "1stage", **tiny) == pytest.approx(
        [1 + 128 + 4 + 512 + wire]
    )
    assert latency("fused_ar_rmsnorm", "2stage", **tiny) == pytest.approx(
        [1 + 128 + 16 + 2 + 8 + wire / 2]
    )
    assert latency("ar_then_rmsnorm", "1stage", **tiny) == pytest.approx(
        [1 + 128 + 256 + 2 + 32 + wire]
    )


def test_local_pass_moves_four_times_the_input():
    assert latency(
        "fused_ar_rmsnorm", "2stage", [10], 4, costs(link_gbps=1e9, local_gbps=1000.0)
    ) == (pytest.approx([0.4], rel=1e-3))


def test_write_mode_pushes_at_the_copy_rate():
    cost = costs(read_efficiency=0.5)
    push = latency("all_reduce", "2stage", [800], 8, cost, arch="gfx942")
    pull = latency("all_reduce", "2stage", [800], 8, cost, arch="gfx950")
    wire = 8e6 / 8 / 50e3
    assert pull == pytest.approx([4 * wire])
    assert push == pytest.approx([3 * wire])


@given(
    st.lists(st.integers(1, 2048), min_size=1, max_size=8),
    st.sampled_from([2, 4, 8]),
    st.sampled_from(["all_reduce", "fused_ar_rmsnorm", "ar_then_rmsnorm"]),
    st.sampled_from(["1stage", "2stage"]),
)
def test_terms_add_up_and_grow_with_tokens(tokens, n, op, algorithm):
    cost = costs(
        launch_us=1.7, round_trip_us=0.7, read_floor_us=1.8, norm_us=0.4, local_us=1.0,
        local_gbps=4000.0, barrier_us=0.1, separate_norm_us=2.0, separate_norm_gbps=4000.0,
    )  # fmt: skip
    tokens = sorted(tokens)
    model, shapes = LinkModel(MESH), Shapes.of(tokens, 4096, n, op=op)
    parts = model.terms(model.geometry(shapes, algorithm, kernel.aiter(), "gfx942"), cost)
    latency_us = np.asarray(total(parts))
    np.testing.assert_allclose(
        latency_us, sum(np.broadcast_to(v, len(tokens)) for v in parts.values())
    )
    assert all(np.min(v) >= 0 for v in parts.values())
    assert (np.diff(latency_us) >= -1e-9).all()


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4), st.sampled_from([2.0, 2.5, 4.0, 12.0])
)
def test_smooth_maximum_lies_between_maximum_and_sum(parts, power):
    value = float(smooth_maximum(*parts, power=power))
    assert max(parts) * (1 - 1e-12) <= value <= max(parts) * len(parts) ** (1 / power) * (1 + 1e-12)


def test_draws_broadcast_against_shapes():
    cost = costs(link_gbps=np.array([[25.0], [50.0]]))
    assert latency("all_reduce", "1stage", [5, 10, 20], 4, cost).tolist() == [
        pytest.approx([2, 4, 8]),
        pytest.approx([1, 2, 4]),
    ]
