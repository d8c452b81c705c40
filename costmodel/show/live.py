"""How rules compare on freshly measured rows that the model does not cover, as text."""

from __future__ import annotations

from ..live.validation import Live, Measured
from . import crossings
from .table import table


def describe(measured: Measured, live: Live) -> str:
    """Return a measured-only comparison as text."""
    choice = measured.choice
    head = ("rule", "mean regret", "max", "mean us")
    rows = [
        (r.rule, f"{r.mean_pct:.2f} %", f"{r.max_pct:.1f} %", f"{r.mean_us:.2f}")
        for r in measured.regret
    ]
    end = [f"not passed: {f}" for f in measured.failures] or ["passed"]
    return "\n\n".join(
        [
            f"{live.shapes} shapes measured live on {live.backend} ({live.gpu})",
            f"model error: no row to judge, {measured.reason}; what follows is measured latencies "
            "alone, under the rule for the calibration's own GPU as it stands",
            f"it takes the faster algorithm on {100 * (choice.agree or 0):.0f} % of {choice.pairs} "
            "shapes",
            table(rows, head),
            *(["\n".join(crossed)] if (crossed := crossings.lines(measured.crossings)) else []),
            *end,
        ]
    )
