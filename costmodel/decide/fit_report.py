"""The report of a calibration: what a physicist would want to see before believing it."""

from __future__ import annotations

import math

import numpy as np
from msgspec import Struct

from ..calibration.cross_validation import CrossValidation, ErrorSummary, cross_validate
from ..calibration.fit import Fit
from ..calibration.posterior import NORMAL_HALF_WIDTH, Calibration
from ..model import parameters
from ..model.shape import ALL_REDUCE, FUSED, ONE_STAGE, TWO_STAGE
from .crossings import MeasuredCrossing, measured_crossings
from .fit_schemas import (
    ContrastRecord,
    Correlation,
    FitRecord,
    FittedParameter,
    HarnessRecord,
    RefusedRecord,
    ScoreRecord,
    ScoresRecord,
)
from .pairs import pair
from .recommendation import recommend
from .schemas import MeasureNext
from .setting import Setting

#: Ops with a choice between the two algorithms.
CHOICES = (FUSED, ALL_REDUCE)

#: Correlations at least this strong are listed.
STRONG = 0.8

#: The data see a parameter when they take at least this share off its prior variance.
SEEN = 0.2


class FitReport(Struct, frozen=True):
    """A calibration with the fit behind it; ``scores`` is None without cross-validation.

    ``crossings`` is what the pairs among the rows say of a cutoff by themselves.
    """

    calibration: Calibration
    fit: Fit
    scores: CrossValidation | None
    crossings: tuple[MeasuredCrossing, ...]
    refused: tuple[RefusedRecord, ...]

    def to_dict(self) -> FitRecord:
        """Return the ``costmodel/calibrate/1`` record."""
        calibration = self.calibration
        return {
            "schema": "costmodel/calibrate/1",
            "calibration": {"id": calibration.id, "sha256": calibration.sha256},
            "rows": {
                "read": calibration.data["rows_read"],
                "used": calibration.data["rows_used"],
                "set_aside": calibration.data["set_aside"],
            },
            "parameters": _parameters(calibration),
            "harness": _harness(calibration, self.fit),
            "contrasts": _contrasts(calibration),
            "contrast_sd_us": sum(tau * weight for tau, weight in calibration.taus),
            "correlations": _correlations(calibration),
            "scores": _scores(self.scores) if self.scores else None,
            "crossings": [c.to_dict() for c in self.crossings],
            "refused": list(self.refused),
        }


def report(calibration: Calibration, found: Fit, *, left_out: bool = True) -> FitReport:
    """Return the report of a calibration; errors of ``left_out`` rows need a refit for each."""
    scores = cross_validate(found, family=calibration.kernel_family) if left_out else None
    table = found.problem.observations.table
    crossings = [c for op in CHOICES for c in measured_crossings(table, pair(table, op))]
    return FitReport(calibration, found, scores, tuple(crossings), tuple(_refusals(calibration)))


def _refusals(calibration: Calibration) -> list[RefusedRecord]:
    """Return the measured GPUs and world sizes whose rows give no cutoff, and what to measure."""
    out: list[RefusedRecord] = []
    for refusal in calibration.refusals:
        setting = Setting(calibration, refusal.gpu)
        lo = hi = None
        if not setting.lacks(*setting.arms):
            cutoff = recommend(setting, world_sizes=(refusal.world_size,)).cutoffs[0]
            lo, hi = cutoff.max_bytes_lo, cutoff.max_bytes_hi
        out.append(
            {
                "gpu": refusal.gpu,
                "world_size": refusal.world_size,
                "reason": refusal.reason,
                "estimate_bytes": [lo, hi],
                "measure_next": _again(calibration, refusal.gpu, refusal.world_size),
            }
        )
    return out


def _again(calibration: Calibration, gpu: str, n: int) -> list[MeasureNext]:
    """Return the measured range again, both arms: the rows themselves are what is in doubt."""
    arm = calibration.measured(gpu, n, FUSED, ONE_STAGE) or calibration.measured(
        gpu, n, FUSED, TWO_STAGE
    )
    assert arm is not None
    return [
        {
            "op": FUSED, "algorithm": a, "world_size": n, "tokens": max(1, round(size / 14336)),
            "hidden_dim": 7168, "dtype": "bf16",
        }
        for a in (ONE_STAGE, TWO_STAGE)
        for size in (arm.min_bytes, math.sqrt(arm.min_bytes * arm.max_bytes), arm.max_bytes)
    ]  # fmt: skip


def _parameters(calibration: Calibration) -> list[FittedParameter]:
    out: list[FittedParameter] = []
    for i, name in enumerate(calibration.names):
        p = parameters.prior(name)
        lo, mid, hi = calibration.interval(name)
        learnt = 1.0 - calibration.covariance[i, i] / p.sd**2
        out.append(
            {
                "name": name, "unit": p.unit, "estimate": mid, "lo": lo, "hi": hi,
                "prior": p.centre, "prior_sd": p.sd, "prior_form": p.form,
                "prior_only": bool(learnt < SEEN), "source": p.source,
            }
        )  # fmt: skip
    return out


def _harness(calibration: Calibration, found: Fit) -> list[HarnessRecord]:
    out: list[HarnessRecord] = []
    residual_pct = np.abs(100 * np.expm1(found.log_residual))
    for key in calibration.harness:
        lo, mid, hi = calibration.interval(f"harness[{key}]")
        mine = residual_pct[found.problem.observations.harness == key]
        out.append(
            {
                "source": key, "excess_us": mid, "lo": lo, "hi": hi,
                "noise": calibration.noise[key], "rows": len(mine),
                "median_residual_pct": float(np.median(mine)),
                "max_residual_pct": float(mine.max()),
            }
        )  # fmt: skip
    return out


def _contrasts(calibration: Calibration) -> list[ContrastRecord]:
    first = len(calibration.names) + len(calibration.harness)
    out: list[ContrastRecord] = []
    for i, (key, arm) in enumerate(calibration.contrast):
        mid = float(calibration.mean[first + i])
        half = NORMAL_HALF_WIDTH * math.sqrt(calibration.covariance[first + i, first + i])
        out.append({"source": key, "arm": arm, "us": mid, "lo": mid - half, "hi": mid + half})
    return out


def _correlations(calibration: Calibration) -> list[Correlation]:
    """Return strong correlations between parameters (harness constants all share one baseline)."""
    k = len(calibration.names)
    sd = np.sqrt(np.diag(calibration.covariance))[:k]
    r = calibration.covariance[:k, :k] / np.outer(sd, sd)
    i, j = np.nonzero(np.triu(np.abs(r) >= STRONG, 1))
    return [
        {"a": calibration.names[a], "b": calibration.names[b], "r": float(r[a, b])}
        for a, b in sorted(zip(i, j, strict=True), key=lambda p: -abs(r[p]))
    ]


def _score(s: ErrorSummary) -> ScoreRecord:
    return {"n": s.n, "median": s.median, "p90": s.p90, "max": s.max} if s.n else {"n": 0}


def _scores(scores: CrossValidation) -> ScoresRecord:
    return {
        "in_sample": _score(scores.family_in_sample),
        "per_source": {k: _score(v) for k, v in scores.in_sample.items()},
        "leave_one_out": {k: _score(v) for k, v in scores.leave_one_out.items()},
        "leave_one_out_coverage90": scores.coverage90,
        "leave_source_out": {k: _score(v) for k, v in scores.leave_source_out.items() if v.n},
        "leave_source_out_pooled": {
            k: _score(v) for k, v in scores.leave_source_out_pooled.items()
        },
        "same_rows": {
            k: {"model": _score(m), "baseline": _score(b)} for k, (m, b) in scores.same_rows.items()
        },
        "origami_raw": _score(scores.origami_raw),
        "origami_elsewhere": scores.origami_elsewhere,
        "leave_hidden_out": _score(scores.leave_hidden_out),
    }
