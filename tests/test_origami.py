from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from costmodel.calibration.cross_validation import (
    offset_leave_one_out,
    origami_us,
    refit_offset,
)
from costmodel.calibration.observations import observe
from costmodel.calibration.origami import all_reduce_us
from costmodel.model.shape import ONE_STAGE

#: World size, workgroups, bytes, cycles at 2 GHz: outputs of origami's two-shot that its own tests
#: freeze, shared/origami/tests/comm/golden/collective_grid.csv (f756688f) of
#: https://github.com/ryanswann-amd/rocm-libraries.
FROZEN = [
    (2, 1, 1024, 90286.91745689168),
    (2, 1, 1048576, 354274.1735314963),
    (2, 32, 1048576, 127305.07316015655),
    (4, 1, 16384, 96048.92241853627),
    (4, 8, 1048576, 140269.36802636893),
    (8, 2, 262144, 145234.64071723822),
    (8, 4, 1048576, 200267.22364730237),
    (8, 32, 1048576, 145234.64071723822),
]


@pytest.mark.parametrize(("ranks", "workgroups", "size", "cycles"), FROZEN)
def test_two_shot_is_what_origami_freezes_in_its_tests(ranks, workgroups, size, cycles):
    latency = all_reduce_us(size, ranks, False, workgroups)
    assert latency == pytest.approx(cycles / 2e3, rel=1e-12)


def test_one_shot_reads_every_peer_over_one_link_in_turn():
    size = np.array([5 << 20, 10 << 20])  # whole turns of 80 workgroups
    two, eight = all_reduce_us(size, 2, True, 80), all_reduce_us(size, 8, True, 80)
    payload_gbps = 49.1 * 2**30 / 1e9 / 1.23
    assert np.diff(two)[0] == pytest.approx((5 << 20) / payload_gbps / 1e3)
    np.testing.assert_allclose(eight - 45, 7 * (two - 45))


def test_one_workgroup_is_bound_by_the_round_trip():
    # 120 cache lines of 64 bytes in flight for 660 ns.
    (small, large) = all_reduce_us([16384, 2 * 16384], 2, True, 1)
    assert large - small == pytest.approx(16384 / (120 * 64 / 0.660))


def test_rows_are_asked_by_their_own_algorithm_and_grid(published):
    observations = observe(published)
    table, latency = observations.table, origami_us(observations)
    for family, workgroups in (("aiter", 80), ("vllm", 36)):
        mine = (table.kernel_family == family) & (table.interconnect == "xgmi")
        assert mine.any()
        one_shot = observations.algorithm[mine] == ONE_STAGE
        np.testing.assert_array_equal(
            latency[mine],
            all_reduce_us(
                observations.size_bytes[mine], table.world_size[mine], one_shot, workgroups
            ),
        )


def test_it_says_nothing_off_xgmi(published):
    observations = observe(published)
    fabric = np.where(np.arange(len(observations)) < 3, "loopback", "xgmi")
    moved = replace(observations, table=replace(observations.table, interconnect=fabric))
    np.testing.assert_array_equal(np.isnan(origami_us(moved)), fabric == "loopback")


def test_the_offset_of_a_row_knows_nothing_of_that_row(published):
    observations = observe(published)
    raw = origami_us(observations)
    error = offset_leave_one_out(raw, observations)
    i = 7
    rest = np.flatnonzero(observations.harness == observations.harness[i])
    rest = rest[rest != i]
    shift = refit_offset(raw[rest], observations.latency_us[rest])
    assert error[i] == pytest.approx(100 * ((raw[i] + shift) / observations.latency_us[i] - 1))
