"""Loopback: closed-form cases, and the H200 measurements fitted and scored on other shapes."""

from pathlib import Path

import numpy as np
import pytest

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.data import kernels as kernel
from costmodel.data import measurement
from costmodel.data.workload import Workload
from costmodel.decide.evidence import ALWAYS_ONE_STAGE
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.decide.validation import validate
from costmodel.errors import InputError
from costmodel.model.latency import total
from costmodel.model.shape import Shapes
from costmodel.model.shared_gpu import SharedGpuCosts, SharedGpuModel

ROWS = Path(__file__).parents[1] / "measurements" / "h200-loopback"
FREE = 1e12
MODEL = SharedGpuModel()


def costs(**given):
    zero = dict.fromkeys(
        (
            "launch_us", "second_launch_us", "barrier_us", "straggler_us", "release_us",
            "release_us_per_doubling", "stage_gap_us", "norm_us", "miss_us",
        ),
        0.0,
    )  # fmt: skip
    free = dict.fromkeys(
        ("program_gbps", "miss_gbps", "cache_gbps", "memory_gbps", "cache_bytes"), FREE
    )
    return SharedGpuCosts(**{**zero, **free, **given})


def geometry(tokens, hidden, n, algorithm="1stage", op="fused_ar_rmsnorm", arch="sm_90"):
    shapes = Shapes.of(tokens, hidden, n, op=op)
    return MODEL.geometry(shapes, algorithm, kernel.calibrated("costmodel"), arch)


def latency(found, **given):
    return np.asarray(total(MODEL.terms(found, costs(**given))))


def test_programs_are_what_fits_on_the_gpu():
    # 132 multiprocessors x 2 programs over 8 ranks; 3 programs where rows take half the threads
    found = geometry([16, 128, 128], [4096, 4096, 5120], 8)
    assert found.programs.tolist() == [8 * 16, 8 * 33, 8 * 49]
    assert found.phases[0].turns.tolist() == [1, 4, 3]
    # a size between two that were read counts as the larger one
    assert geometry([512], [3500], 8).programs[0] == geometry([512], [3584], 8).programs[0]


@pytest.mark.parametrize("n", [2, 4, 8])
def test_every_rank_reads_every_rank_through_one_cache(n):
    size = 64 * 4096 * 2
    one = latency(geometry([64], 4096, n), cache_gbps=1000.0)
    two = latency(geometry([64], 4096, n, "2stage"), cache_gbps=1000.0)
    assert one == pytest.approx((n + 3) * n * size / 1e6)
    assert two == pytest.approx((2 + 4) * n * size / 1e6)


def test_memory_serves_what_the_cache_does_not_hold():
    found = geometry([512], 8192, 8)
    size = 4 * 8 * 512 * 8192 * 2
    assert latency(found, memory_gbps=1000.0, cache_bytes=1.0) == pytest.approx(size / 1e6)
    half = latency(found, memory_gbps=1000.0, cache_bytes=float(size))
    assert half == pytest.approx(size / 2e6)
    assert latency(found, memory_gbps=1000.0) < 1e-6


def test_a_turn_waits_for_memory_the_less_the_more_programs_share_a_multiprocessor():
    few, many = geometry([33], 4096, 8), geometry([49], 2048, 8)
    assert latency(few, miss_us=6.0, cache_bytes=1.0) == pytest.approx(6.0 / 2, rel=1e-4)
    assert latency(many, miss_us=6.0, cache_bytes=1.0) == pytest.approx(6.0 / 3, rel=1e-4)


def test_programs_of_the_second_kernel_pass_over_a_row_each():
    """Sum and residual in, sum out for the norm: five rows' bytes at one program's rate."""
    row = 4096 * 2
    found = geometry([1], 4096, 4, "2stage")
    assert found.local.program_bytes == 5 * row
    assert found.local.issued_bytes == 4 * 4 * row
    assert found.working_set_bytes == 5 * 4 * row


def test_fixed_times_add_up():
    fixed = {"launch_us": 1.0, "barrier_us": 0.25, "release_us": 0.5, "second_launch_us": 2.0}
    assert latency(geometry([1], 4096, 4), **fixed) == pytest.approx(1.5)
    two = latency(geometry([1], 4096, 4, "2stage"), **fixed, release_us_per_doubling=9.0)
    assert two == pytest.approx(4.0)  # the release is that of 4 ranks
    plain = latency(
        geometry([1], 4096, 4, "2stage", op="ar_then_rmsnorm"), **fixed, stage_gap_us=0.5
    )
    assert plain == pytest.approx(4.0)


def test_another_arch_is_refused():
    with pytest.raises(InputError, match="has no gfx942"):
        geometry([1], 4096, 4, arch="gfx942")


# -- H200 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def h200():
    return Setting(calibrate(observe(measurement.read(ROWS / "calibration.csv")))[0], "H200")


@pytest.fixture(scope="module")
def held_out():
    return measurement.read(ROWS / "held-out.csv")


def shapes_of(table):
    columns = (table.world_size, table.tokens, table.hidden_dim, table.dtype)
    return set(zip(*(c.tolist() for c in columns), strict=True))


def test_held_out_shapes_are_others(held_out):
    assert not shapes_of(held_out) & shapes_of(measurement.read(ROWS / "calibration.csv"))


def test_held_out_shapes_meet_the_limits(h200, held_out):
    """Error, choice and regret on shapes and runs that the fit did not see."""
    hidden = np.unique(held_out.hidden_dim).astype(int).tolist()
    found = validate(held_out, h200, workload=Workload.of(hidden))
    assert found.accuracy.n == 359
    assert found.accuracy.known == 0
    assert found.accuracy.median_ape_offset <= 5.0
    assert found.choice.agree_outside_tie >= 0.97
    ours = found.of("recommended").mean_pct
    assert ours <= 1.0
    assert all(r.mean_pct > ours for r in found.regret if r.kind == "shipped")
    assert found.passed


def test_few_resident_programs_bring_the_crossover(h200):
    """8 ranks, hidden 4096: the only measured size where 2-stage wins, from 128 tokens on."""
    eight = h200.shapes([16, 32, 256, 512], 4096, 8)
    one, two = (h200.latency_us(eight, a) for a in ("1stage", "2stage"))
    assert (one < two).tolist() == [True, True, False, False]
    four = h200.shapes([16, 256], 4096, 4)
    one, two = (h200.latency_us(four, a) for a in ("1stage", "2stage"))
    assert (one < two).all()


def test_recommendation_is_for_the_kernels_of_the_calibration(h200):
    found = recommend(h200, Workload.of((2880, 5120)), world_sizes=(2, 4))
    largest = 512 * 5120 * 2
    for cutoff in found.cutoffs:
        # 1-stage throughout, or up to where larger calls of known models end it.
        assert cutoff.verdict == ALWAYS_ONE_STAGE or cutoff.max_bytes >= largest
    assert found.hidden_rule == "hidden % 8 == 0 and hidden / 8 <= 2048"
    with pytest.raises(InputError, match="costmodel's kernels"):
        recommend(h200, Workload.of((32768,)))


def test_kernels_and_interconnect_belong_together(held_out):
    rows = held_out.to_rows()
    for row in rows:
        row["interconnect"] = "xgmi"
    found = observe(measurement.Measurements.from_rows(rows))
    assert len(found) == 0
    assert found.set_aside["kernel on this interconnect"] == 359
