"""What changed, in words: calibrations, measurements, rules of an engine."""

from __future__ import annotations

from collections.abc import Sequence

from ..decide.drift import CutoffShift, RowsShift, significant
from ..decide.regret import Estimate
from ..engines.rule_change import RuleShift
from ..model.shape import ALGORITHMS
from ..units import kib
from .table import table
from .words import arm as spoken


def cutoffs(shifts: Sequence[CutoffShift]) -> str:
    """Return two calibrations side by side."""
    rows, lines = [], []
    for s in shifts:
        loses = "" if s.loses_pct is None else f"{s.loses_pct:.1f} %"
        rows.append((f"TP{s.world_size}", _cutoff(s, old=True), _cutoff(s, old=False), loses))
        lines += [f"TP{s.world_size}: {_moved(spoken(a.arm), a.us)}" for a in s.arms]
    head = ("ranks", "old cutoff", "new cutoff", "old one now loses on contested calls")
    return "\n".join([table(rows, head), "", *lines])


def _cutoff(shift: CutoffShift, *, old: bool) -> str:
    c = shift.old if old else shift.new
    if not c.claimed:
        return c.verdict.replace("_", " ")
    if c.max_bytes is None:
        return "always 1-stage"
    hi = "no limit" if c.max_bytes_hi is None else kib(c.max_bytes_hi)
    return f"{kib(c.max_bytes)} ({kib(c.max_bytes_lo or 0)} to {hi})"


def _moved(what: str, us: Estimate) -> str:
    """Return ``1-stage 1.1 us slower (0.8 to 1.4)``, or that nothing significant changed."""
    if not significant(us):
        return f"{what} unchanged within noise ({us.lo:+.2f} to {us.hi:+.2f} us)"
    word, ends = ("slower", (us.lo, us.hi)) if us.value > 0 else ("faster", (-us.hi, -us.lo))
    return f"{what} {abs(us.value):.2f} us {word} ({ends[0]:.2f} to {ends[1]:.2f})"


def rows(shifts: Sequence[RowsShift]) -> str:
    """Return two tables of measurements side by side, arm by arm."""
    lines = []
    for s in shifts:
        if s.pct is None:
            change = "too few to say"
        elif s.significant:
            change = f"{s.pct.value:+.1f} % ({s.pct.lo:+.1f} to {s.pct.hi:+.1f})"
        else:
            change = f"unchanged within noise ({s.pct.lo:+.1f} to {s.pct.hi:+.1f} %)"
        us = "" if s.us is None else f"{s.us:+.2f}"
        arm = spoken(s.algorithm) if s.algorithm in ALGORITHMS else s.algorithm or "not said"
        lines.append((s.gpu, f"TP{s.world_size}", s.op, arm, s.calls, s.alone, change, us))
    head = ("GPU", "ranks", "op", "arm", "calls in both", "in one", "median change", "us")
    return table(lines, head)


def rules(shifts: Sequence[RuleShift]) -> str:
    """Return the rules of two trees, op by op."""
    lines = []
    for s in shifts:
        if not s.changed:
            if s.new is not None:
                lines.append(f"{s.op}: unchanged: {s.new.rule.words()}")
            continue
        for name, one in (("old", s.old), ("new", s.new)):
            lines.append(f"{s.op}: {name}: {one.statement() if one else 'no rule'}")
        if s.where:
            lines.append(f"  first call decided otherwise: {s.where}")
        for n, pct in sorted(s.loses_pct.items()):
            word = "loses" if pct.value > 0 else "gains"
            lines.append(
                f"  TP{n}: the new rule {word} {abs(pct.value):.2f} % of a call's latency "
                f"({pct.lo:+.2f} to {pct.hi:+.2f})"
            )
    return "\n".join(lines)
