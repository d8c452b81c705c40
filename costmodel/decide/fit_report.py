"""The report of a calibration: what a physicist would want to see before believing it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..calibration.cross_validation import Assessment, Score, assess
from ..calibration.fit import Fit
from ..calibration.posterior import Calibration
from ..model import parameters
from ..model.shape import FUSED, ONE_STAGE, TWO_STAGE
from ..show.table import table
from ..units import kib
from .recommendation import recommend

#: Correlations at least this strong are listed.
STRONG = 0.8

#: A parameter whose posterior is nearly as wide as its prior was not learnt from the data.
PRIOR_ONLY = 0.9


def report(
    calibration: Calibration,
    found: Fit,
    *,
    cross_validate: bool = True,
) -> tuple[str, dict[str, Any]]:
    """Return the report as text and as a ``costmodel/calibrate/1`` record."""
    scores = assess(found) if cross_validate else None
    refused = _refusals(calibration)
    record = {
        "schema": "costmodel/calibrate/1",
        "calibration": {"id": calibration.id, "sha256": calibration.sha256},
        "rows": {
            "read": calibration.data["rows_read"],
            "used": calibration.data["rows_used"],
            "set_aside": calibration.data["set_aside"],
        },
        "parameters": _parameters(calibration),
        "harness": _harness(calibration),
        "correlations": _correlations(calibration),
        "scores": _scores(scores) if scores else None,
        "refused": refused,
    }
    return _text(calibration, found, record, scores), record


def _refusals(calibration: Calibration) -> list[dict[str, Any]]:
    """Return the measured GPUs and world sizes whose rows give no cutoff, and what to measure."""
    out = []
    for refusal in calibration.refusals:
        cutoff = recommend(calibration, gpu=refusal.gpu, world_sizes=(refusal.world_size,)).cutoffs[
            0
        ]
        out.append(
            {
                "gpu": refusal.gpu,
                "world_size": refusal.world_size,
                "reason": refusal.reason,
                "estimate_bytes": [cutoff.max_bytes_lo, cutoff.max_bytes_hi],
                "measure_next": _again(calibration, refusal.gpu, refusal.world_size),
            }
        )
    return out


def _again(calibration: Calibration, gpu: str, n: int) -> list[dict[str, Any]]:
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


def _parameters(calibration: Calibration) -> list[dict[str, Any]]:
    out = []
    for i, name in enumerate(calibration.names):
        p = parameters.prior(name)
        lo, mid, hi = calibration.interval(name)
        learnt = 1.0 - math.sqrt(calibration.covariance[i, i]) / p.sd
        out.append(
            {
                "name": name, "unit": p.unit, "estimate": mid, "lo": lo, "hi": hi,
                "prior": p.centre, "prior_sd": p.sd, "prior_form": p.form,
                "prior_only": learnt < 1 - PRIOR_ONLY, "source": p.source,
            }
        )  # fmt: skip
    return out


def _harness(calibration: Calibration) -> list[dict[str, Any]]:
    out = []
    for key in calibration.harness:
        lo, mid, hi = calibration.interval(f"harness[{key}]")
        out.append(
            {"source": key, "offset_us": mid, "lo": lo, "hi": hi, "noise": calibration.noise[key]}
        )
    return out


def _correlations(calibration: Calibration) -> list[dict[str, Any]]:
    """Return strong correlations between parameters (harness constants all share one baseline)."""
    k = len(calibration.names)
    sd = np.sqrt(np.diag(calibration.covariance))[:k]
    r = calibration.covariance[:k, :k] / np.outer(sd, sd)
    i, j = np.nonzero(np.triu(np.abs(r) >= STRONG, 1))
    return [
        {"a": calibration.names[a], "b": calibration.names[b], "r": float(r[a, b])}
        for a, b in sorted(zip(i, j, strict=True), key=lambda p: -abs(r[p]))
    ]


def _score(s: Score) -> dict[str, Any]:
    return {"n": s.n, "median": s.median, "p90": s.p90, "max": s.max} if s.n else {"n": 0}


def _scores(scores: Assessment) -> dict[str, Any]:
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
    }


def _text(
    calibration: Calibration, found: Fit, record: dict[str, Any], scores: Assessment | None
) -> str:
    data = calibration.data
    lines = [
        f"calibration {calibration.id}",
        "",
        f"rows: {data['rows_read']} read, {data['rows_used']} used, "
        f"{data['rows_read'] - data['rows_used']} set aside",
        *(f"  {n:5d}  {why}" for why, n in data["set_aside"].items()),
        "",
        "parameters (90 % intervals; * = the prior alone, the data say nothing)",
    ]
    lines.append(
        table(
            [
                (
                    p["name"] + (" *" if p["prior_only"] else ""),
                    f"{p['estimate']:.3g}",
                    f"{p['lo']:.3g} to {p['hi']:.3g}",
                    p["unit"],
                    f"{p['prior']:.3g} "
                    + (
                        f"x/ {math.exp(p['prior_sd']):.2f}"
                        if p["prior_form"] == "log"
                        else f"+- {p['prior_sd']:.2g}"
                    ),
                )
                for p in record["parameters"]
            ],
            ("parameter", "estimate", "interval", "unit", "prior"),
        )
    )
    lines += ["", "what each source's harness adds to the common one, and its row noise"]
    residual = np.abs(100 * np.expm1(found.log_residual))
    observations = found.problem.observations
    lines.append(
        table(
            [
                (
                    h["source"],
                    int((observations.harness == h["source"]).sum()),
                    f"{h['offset_us']:+.2f}",
                    f"{h['lo']:+.2f} to {h['hi']:+.2f}",
                    f"{100 * h['noise']:.1f} %",
                    f"{np.median(residual[observations.harness == h['source']]):.1f} / "
                    f"{residual[observations.harness == h['source']].max():.1f} %",
                )
                for h in record["harness"]
            ],
            ("source", "rows", "offset us", "interval", "noise", "residual median / max"),
        )
    )
    if record["correlations"]:
        lines += ["", f"correlations of {STRONG} and more: only the combination is known well"]
        lines += [f"  {c['r']:+.2f}  {c['a']}  {c['b']}" for c in record["correlations"]]
    if scores:
        lines += ["", *_score_lines(scores)]
    if scores and scores.hidden:
        h = scores.hidden
        lines += [
            "",
            f"hidden size beyond bytes: {h.pct_per_doubling:+.2f} % per doubling "
            f"({h.lo:+.2f} to {h.hi:+.2f}; {h.rows} rows)",
        ]
    for r in record["refused"]:
        lines += [
            "",
            f"REFUSED: no cutoff for {r['gpu']} at {r['world_size']} ranks: {r['reason']}.",
        ]
        low, high = r.get("estimate_bytes") or (None, None)
        if low is not None:
            lines.append(
                f"  What can be estimated from these rows, priors and physics: {kib(low)} to "
                f"{'no limit' if high is None else kib(high)}; do not build a rule on it."
            )
        if r["measure_next"]:
            tokens = sorted({m["tokens"] for m in r["measure_next"]})
            hidden = r["measure_next"][0]["hidden_dim"]
            lines.append(
                f"  Measure 1stage and 2stage again at hidden {hidden}, tokens "
                f"{', '.join(map(str, tokens))}: graph replay, maximum over ranks, at least 100 "
                "samples, A/A pairs."
            )
    return "\n".join(lines)


def _score_lines(scores: Assessment) -> list[str]:
    def cells(s: Score) -> tuple[str, ...]:
        if not s.n:
            return ("0", "-", "-", "-")
        return (str(s.n), f"{s.median:.2f} %", f"{s.p90:.2f} %", f"{s.max:.1f} %")

    def beside(key: str) -> str:
        pair = scores.same_rows.get(key)
        return f"{pair[0].median:.2f} / {pair[0].p90:.2f} %" if pair and pair[0].n else ""

    head = ("", "rows", "median", "p90", "max", "model on the same rows (median / p90)")
    rows = [("model, in sample", *cells(scores.family_in_sample), "")]
    rows += [
        (f"{name}, leaving one row out", *cells(s), beside(name))
        for name, s in scores.leave_one_out.items()
    ]
    rows += [
        (f"{name}, leaving one source out", *cells(s), beside(f"source:{name}"))
        for name, s in scores.leave_source_out_pooled.items()
    ]
    lines = ["absolute errors on AITER-family rows", table(rows, head)]
    lines.append(
        f"90 % intervals of left-out rows held {100 * scores.coverage90:.0f} % of the time"
    )
    if scores.leave_source_out:
        lines += ["", "leaving one source out and refitting its offset, per source"]
        lines.append(
            table(
                [(k, *cells(v)) for k, v in scores.leave_source_out.items() if v.n],
                ("source", "rows", "median", "p90", "max"),
            )
        )
        if scores.leave_source_out_skipped:
            lines.append(
                f"{scores.leave_source_out_skipped} rows not scored there: their separate RMSNorm "
                "kernel was measured by no other source"
            )
    return lines
