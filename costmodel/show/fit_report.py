"""The report of a calibration in words: what a physicist would want to see before believing it."""

from __future__ import annotations

import math

from ..calibration.cross_validation import ORIGAMI_ARCH, CrossValidation, ErrorSummary
from ..decide.fit_report import SEEN, STRONG, FitReport
from ..decide.fit_schemas import FitRecord
from ..units import kib
from . import crossings
from .table import table
from .words import arm


def text(report: FitReport) -> str:
    """Return the report as text."""
    calibration, record = report.calibration, report.to_dict()
    scores, data = report.scores, calibration.data
    lines = [
        f"calibration {calibration.id}",
        "",
        f"rows: {data['rows_read']} read, {data['rows_used']} used, "
        f"{data['rows_read'] - data['rows_used']} set aside",
        *(f"  {n:5d}  {why}" for why, n in data["set_aside"].items()),
        "",
        _seen(record),
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
    lines += ["", "what each source's benchmark adds to back-to-back kernels, and its row noise"]
    lines.append(
        table(
            [
                (
                    h["source"],
                    h["rows"],
                    f"{h['excess_us']:.2f}",
                    f"{h['lo']:.2f} to {h['hi']:.2f}",
                    f"{100 * h['noise']:.1f} %",
                    f"{h['median_residual_pct']:.1f} / {h['max_residual_pct']:.1f} %",
                )
                for h in record["harness"]
            ],
            ("source", "rows", "us", "interval", "noise", "residual median / max, of measured"),
        )
    )
    if record["contrasts"]:
        lines += ["", "what an arm takes in a laboratory beyond the model, relative to 1-stage"]
        rows = [
            (c["source"], arm(c["arm"]), f"{c['us']:+.2f}", f"{c['lo']:+.2f} to {c['hi']:+.2f}")
            for c in record["contrasts"]
        ]
        lines.append(table(rows, ("source", "arm", "us", "interval")))
        spread = record["contrast_sd_us"]
        lines.append(f"between laboratories: {spread:.2f} us (standard deviation, expected)")
    if record["correlations"]:
        lines += ["", f"correlations of {STRONG} and more: only the combination is known well"]
        lines += [f"  {c['r']:+.2f}  {c['a']}  {c['b']}" for c in record["correlations"]]
    if scores:
        lines += ["", *_score_lines(scores, calibration.kernel_family)]
    if scores and scores.hidden:
        h = scores.hidden
        lines += [
            "",
            f"hidden size beyond bytes: {h.pct_per_doubling:+.2f} % per doubling "
            f"({h.lo:+.2f} to {h.hi:+.2f}; {h.rows} rows)",
        ]
    if report.crossings:
        lines += ["", *crossings.lines(report.crossings)]
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
                f"  Measure 1-stage and 2-stage again at hidden {hidden}, tokens "
                f"{', '.join(map(str, tokens))}: graph replay, maximum over ranks, at least 100 "
                "samples, A/A pairs."
            )
    return "\n".join(lines)


def _seen(record: FitRecord) -> str:
    fitted = record["parameters"]
    seen = sum(not p["prior_only"] for p in fitted)
    return (
        f"parameters: {len(fitted)}, of which the data see {seen} (90 % intervals; * = they take "
        f"less than {100 * SEEN:.0f} % off the prior's variance)"
    )


def _score_lines(scores: CrossValidation, family: str) -> list[str]:
    def cells(s: ErrorSummary) -> tuple[str, ...]:
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
    if scores.leave_hidden_out.n:
        held_out = cells(scores.leave_hidden_out)
        rows.append(("model, leaving one hidden size out", *held_out, ""))
    if scores.origami_raw.n:
        rows.append(("origami, as it stands", *cells(scores.origami_raw), ""))
    whose = "AITER-family" if family == "aiter" else family
    lines = [f"absolute errors on {whose} rows", table(rows, head)]
    if scores.origami_raw.n:
        lines += [
            "origami is AMD's closed form with its own constants. Left out, it has one offset per "
            "harness;",
            f"{scores.origami_elsewhere} of its rows are not on {ORIGAMI_ARCH}, for which alone it "
            "is calibrated.",
        ]
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
