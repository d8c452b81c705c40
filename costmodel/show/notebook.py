"""How calibrations, recommendations and validations show themselves in a notebook.

Each function returns HTML for ``_repr_html_``: tables and sentences, no script and no style that a
viewer could drop. All text is escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.parameters import prior
from ..units import kib
from .document import Block, Code, Paragraph, Strong, Table
from .html import render
from .recommendation import interval, sizes

if TYPE_CHECKING:
    from ..calibration.posterior import Calibration
    from ..decide.decision import Decision
    from ..decide.regret import Estimate
    from ..decide.validation import Validation


def calibration_html(calibration: Calibration) -> str:
    """Return what a calibration rests on, and its parameters with intervals and priors."""
    data = calibration.data
    gpus = ", ".join(f"{g} ({a})" for a, g in calibration.gpus)
    rows = []
    for name in calibration.names:
        lo, mid, hi = calibration.interval(name)
        p = prior(name)
        unit = "" if p.unit in ("ratio", "fraction") else p.unit
        rows.append((Code(name), f"{mid:.3g}", f"{lo:.3g} to {hi:.3g}", unit, f"{p.centre:.3g}"))
    covered = [
        (c.gpu, f"TP{c.world_size}", c.op, c.algorithm, str(c.rows),
         f"{kib(c.min_bytes)} to {kib(c.max_bytes)}", ", ".join(c.sources))
        for c in calibration.coverage
    ]  # fmt: skip
    blocks: list[Block] = [
        Paragraph.of(
            Strong(f"calibration {calibration.id}"),
            f": {gpus}; {data.get('rows_used', '?')} of {data.get('rows_read', '?')} rows, "
            f"{len(data.get('sources', ()))} sources",
        ),
        Table(("parameter", "estimate", "90 % interval", "unit", "prior"), tuple(rows)),
        Paragraph.of("measured:"),
        Table(("GPU", "ranks", "op", "algorithm", "rows", "bytes", "sources"), tuple(covered)),
    ]
    return render(
        [*blocks, *(_refused(r.gpu, r.world_size, r.reason) for r in calibration.refusals)]
    )


def _refused(gpu: str, world_size: int, reason: str) -> Block:
    return Paragraph.of(Strong("refused "), f"{gpu} at {world_size} ranks: {reason}")


def decision_html(decision: Decision) -> str:
    """Return the cutoffs with their intervals, evidence and reasons."""
    setting = decision.setting
    rows = [
        (
            f"TP{c.world_size}", Strong(sizes(c)), interval(c), c.verdict.replace("_", " "),
            f"{c.regret_pct:.2f} %", c.reason,
        )
        for c in decision.cutoffs
    ]  # fmt: skip
    head = ("ranks", "1-stage when bytes", "90 % interval", "evidence", "expected regret", "why")
    switch = [c for c in decision.cutoffs if c.switch]
    blocks: list[Block] = [
        Paragraph.of(
            Strong(f"1-stage or 2-stage on {setting.gpu}"),
            f" ({setting.arch}): {setting.op}, {setting.dtype}, {setting.kernel.title}; "
            f"calibration {setting.calibration.id}",
        ),
        Table(head, tuple(rows)),
    ]
    if switch:
        hidden = tuple(str(h) for h, _, _ in switch[0].switch)
        blocks += [
            Paragraph.of("last captured batch on 1-stage / first on 2-stage, by hidden size:"),
            Table(
                ("ranks", *hidden),
                tuple(
                    (f"TP{c.world_size}", *(f"{a or '-'} / {b or '-'}" for _, a, b in c.switch))
                    for c in switch
                ),
            ),
        ]
    return render(blocks)


def validation_html(found: Validation) -> str:
    """Return verdict, model errors and the regret of every rule on the measured pairs."""
    a = found.accuracy
    passed = "passed" if found.passed else "not passed: " + "; ".join(found.failures)
    errors = (
        ("as calibrated", str(a.n), *_errors(a.median_ape, a.p90_ape), f"{a.max_ape:.1f} %",
         f"{100 * a.coverage90:.0f} %"),
        ("one offset per source", str(a.n), *_errors(a.median_ape_offset, a.p90_ape_offset), "",
         ""),
    )  # fmt: skip
    regret = tuple(
        (
            Strong(r.rule) if r.kind == "recommended" else r.rule,
            f"{r.mean_pct:.2f} %",
            f"{r.max_pct:.1f} %",
            f"{r.mean_us:.2f}",
            _estimate(r.modelled_pct),
        )
        for r in sorted(found.regret, key=lambda r: r.mean_pct)
    )
    blocks: list[Block] = [
        Paragraph.of(Strong(passed), f"; calibration {found.calibration.id}"),
        Table(("model error", "rows", "median", "90th percentile", "largest", "in 90 %"), errors),
    ]
    if regret:
        blocks += [
            Paragraph.of(f"{len(found.pairs)} calls measured with both algorithms:"),
            Table(("rule", "mean", "max", "mean us", "over the workload, by the model"), regret),
        ]
    return render(blocks)


def _estimate(e: Estimate | None) -> str:
    return "" if e is None else f"{e.value:.2f} % ({e.lo:.2f} to {e.hi:.2f})"


def _errors(median: float, p90: float) -> tuple[str, str]:
    return f"{median:.1f} %", f"{p90:.1f} %"
