"""Evidence classes: rows of just what is asked, of much the same, and of other places."""

from __future__ import annotations

import json

import pytest
from conftest import ROW
from msgspec import structs

from costmodel.calibration.coverage import coverage
from costmodel.calibration.observations import observe
from costmodel.data import kernels
from costmodel.data.measurement import Measurements
from costmodel.decide.evidence import (
    MEASURED,
    MEASURED_ELSEWHERE,
    TRANSFERRED,
    ArmEvidence,
    arms_evidence,
    evidence_class,
    shortfall,
)
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.figures.latency import latency_against_bytes
from costmodel.show import recommendation, words

#: The release whose 1-stage the published pairs of MI355X ran: without an exit barrier.
AS_MEASURED = "0.1.19"


@pytest.fixture(scope="module")
def mi355x(fitted):
    return Setting(fitted[0].restrict("gfx950"), "MI355X")


@pytest.fixture(scope="module")
def as_measured(mi355x):
    return mi355x.but(aiter_version=AS_MEASURED)


def rows(*changes):
    """Return coverage of rows that differ from one row of MI300X by what is given."""
    table = Measurements.from_rows([ROW | change for change in changes])
    return {(c.op, c.algorithm): c for c in coverage(observe(table))}


def test_coverage_says_what_the_rows_were():
    found = rows(
        {"algorithm": "1stage", "latency_us": 9.0},
        {"algorithm": "2stage", "latency_us": 11.0},
        {"algorithm": "2stage", "tokens": 16, "bytes": 131072, "gpu_evidence": "inferred"},
        {"op": "ar_then_rmsnorm", "algorithm": "2stage", "latency_us": 12.0},
        {"op": "ar_then_rmsnorm", "algorithm": "2stage", "source": "another"},
        {"algorithm": "1stage", "hidden_dim": 2880, "bytes": 46080, "dtype": "fp16"},
    )
    one, two = found["fused_ar_rmsnorm", "1stage"], found["fused_ar_rmsnorm", "2stage"]
    apart = found["ar_then_rmsnorm", "2stage"]
    assert (one.rows, one.hidden_dims, one.dtypes) == (2, (2880, 4096), ("bf16", "fp16"))
    assert (two.rows, two.hidden_dims, two.dtypes) == (2, (4096,), ("bf16",))
    # One shape has both arms; separate ops stand beside 1-stage in the first source alone.
    assert (one.pairs, two.pairs, apart.pairs) == (1, 1, 1)
    assert (one.gpu_inferred, two.gpu_inferred) == (0, 1)
    kernel = kernels.aiter("0.1.19")
    assert one.states == (kernel.state("fused_ar_rmsnorm", "1stage"),)
    assert two.states == (kernel.state("fused_ar_rmsnorm", "2stage"),)


def test_pairs_of_the_kernels_asked_about_are_measured(as_measured):
    arms = arms_evidence(as_measured, 4)
    assert [arm.word for arm in arms] == [MEASURED, MEASURED]
    assert shortfall(arms) == []
    cutoff = recommend(as_measured, world_sizes=(4,)).at(4)
    assert cutoff.verdict == MEASURED == evidence_class(arms)
    assert "but" not in cutoff.reason
    assert "of an inferred GPU" in cutoff.reason
    record = json.loads(json.dumps(cutoff.to_dict()))["evidence"][0]
    assert record["exact"] is True
    assert record["state"] == "no exit barrier"
    (row,) = record["rows"]
    assert row["hidden_dims"] == [7168]
    assert row["dtypes"] == ["bf16"]
    assert row["states"] == ["no exit barrier"]
    assert row["pairs"] > 0
    assert 0 < row["gpu_inferred"] <= row["rows"]


def test_another_kernel_state_is_measured_elsewhere(mi355x):
    cutoff = recommend(mi355x, world_sizes=(4,)).at(4)
    assert cutoff.verdict == MEASURED_ELSEWHERE
    assert cutoff.claimed
    assert cutoff.max_bytes
    assert (
        "1-stage rows are of kernels with no exit barrier, asked is exit barrier" in cutoff.reason
    )
    assert cutoff.measure_next
    assert words.evidence(cutoff.verdict) == "measured elsewhere"
    text = recommendation.text(recommend(mi355x, world_sizes=(2, 4)))
    assert "measured elsewhere" in text
    assert "by physics" in text


def test_another_dtype_is_measured_elsewhere(as_measured):
    cutoff = recommend(as_measured.but(dtype="fp32"), world_sizes=(4,)).at(4)
    assert cutoff.verdict == MEASURED_ELSEWHERE
    assert "1-stage rows are bf16, not fp32" in cutoff.reason


def test_arms_that_never_met_at_one_shape_are_not_measured(as_measured):
    known = as_measured.calibration
    alone = tuple(structs.replace(c, pairs=0) for c in known.coverage)
    apart = as_measured.but(calibration=structs.replace(known, coverage=alone))
    cutoff = recommend(apart, world_sizes=(4,)).at(4)
    assert cutoff.verdict == MEASURED_ELSEWHERE
    assert "no shape has both arms in one benchmark" in cutoff.reason


def test_files_of_before_say_nothing_of_states_and_are_believed_no_further(as_measured):
    known = as_measured.calibration
    bare = tuple(
        structs.replace(c, hidden_dims=(), dtypes=(), states=(), pairs=0) for c in known.coverage
    )
    old = as_measured.but(calibration=structs.replace(known, coverage=bare))
    cutoff = recommend(old, world_sizes=(4,)).at(4)
    assert cutoff.verdict == MEASURED_ELSEWHERE
    assert "a kernel state not recorded" in cutoff.reason


def test_where_an_arm_has_no_row_it_is_transferred(mi355x):
    cutoff = recommend(mi355x, world_sizes=(8,)).at(8)
    assert cutoff.verdict == TRANSFERRED == cutoff.evidence_class


def test_separate_ops_are_judged_by_rows_beside_1stage(as_measured):
    setting = as_measured.but(otherwise="separate")
    _, other = arms_evidence(setting, 4)
    assert {c.op for c in other.here} == {"ar_then_rmsnorm"}
    assert other.pairs == sum(c.pairs for c in other.here) > 0
    assert recommend(setting, world_sizes=(4,)).at(4).verdict == evidence_class(
        arms_evidence(setting, 4)
    )


def test_predictions_have_the_class_of_their_arm_and_size(mi355x, as_measured):
    calls = mi355x.shapes([32, 32, 32], 7168, [2, 4, 8])
    found = predict(mi355x, calls, "1stage").evidence.tolist()
    assert found == [TRANSFERRED, MEASURED_ELSEWHERE, TRANSFERRED]
    found = predict(as_measured, calls, "1stage").evidence.tolist()
    assert found == [TRANSFERRED, MEASURED, TRANSFERRED]
    far = predict(as_measured, mi355x.shapes([1], 512, 4), "1stage").evidence.tolist()
    assert far == [TRANSFERRED]


def test_figures_say_it_too(mi355x):
    figure = latency_against_bytes(recommend(mi355x, world_sizes=(4,)), 4, 7168)
    assert "1-stage measured elsewhere (" in figure.layout.title.subtitle.text


def test_refused_rows_carry_nothing_elsewhere(mi355x):
    known = mi355x.calibration
    refused = {(r.gpu, r.world_size) for r in known.refusals}
    arm = ArmEvidence.of(mi355x, 8, "1stage")
    assert not arm.here
    assert arm.elsewhere
    assert not {(c.gpu, c.world_size) for c in arm.elsewhere} & refused


@pytest.mark.parametrize("version", ["0.1.21", "0.1.22", "0.2.0"])
def test_kernels_that_nobody_has_read_are_transferred_from_the_newest(mi355x, version):
    known, unread = (recommend(mi355x.but(aiter_version=v)) for v in (kernels.LATEST, version))
    for n in (4, 8):
        before, after = known.at(n), unread.at(n)
        assert after.verdict == TRANSFERRED
        assert (
            f"AITER {version} has not been read: taken to be like {kernels.LATEST}" in after.reason
        )
        assert "has not been read" not in before.reason
        # What such a kernel may have changed is open in any laboratory.
        assert after.this_kernel_lo <= before.this_kernel_lo
        assert after.this_kernel_hi >= before.this_kernel_hi
        assert after.max_bytes_lo <= before.max_bytes_lo
        assert after.max_bytes_hi >= before.max_bytes_hi
