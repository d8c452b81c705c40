"""Others' statements in words: what they say, and whether the interval beside them holds it."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.statements import CUTOFF, WINDOW, Statement
from ..decide.statements import Beside
from ..units import kib
from .words import size_interval


def says(statement: Statement) -> str:
    """Return where the faster kernel changes: ``up to 128 KiB``, ``crossover below 154 KiB``."""
    if statement.kind == WINDOW:
        return size_interval(statement.lo_bytes, statement.hi_bytes)
    before = "up to" if statement.kind == CUTOFF else statement.kind
    return f"{before} {kib(statement.hi_bytes)}"


def flag(beside: Beside) -> str:
    """Return how a statement stands to the interval: ``inside``, ``OUTSIDE``, else why neither."""
    if beside.held is None:
        return beside.note
    more = f" ({beside.note})" if beside.note else ""
    return f"{'inside' if beside.held else 'OUTSIDE'} this interval{more}"


def line(beside: Beside, gpu: str) -> str:
    """Return a statement as one line, beside a cutoff on ``gpu``.

    ``others measured: vLLM #57886, AITER 0.1.19: crossover 192 KiB - OUTSIDE this interval``, or
    ``others (other kernels): hip_comms, its one-shot against its two-shot: the first
    is faster up to 64 KiB``.
    """
    s = beside.statement
    where = "" if s.gpu == gpu else f" on {s.gpu}"
    what = s.kernel_version if s.comparable else s.compared
    faster = "the first is faster " if s.kind == CUTOFF and not s.comparable else ""
    said = f"{s.who}{where}, {what}: {faster}{says(s)}"
    if beside.held is None:
        return f"others ({flag(beside)}): {said}"
    return f"others measured: {said} - {flag(beside)}"


def most_telling(statements: Sequence[Beside], gpu: str) -> str:
    """Return one line of the statements on ``gpu``, one that can be compared first; "" for none."""
    mine = [b for b in statements if b.statement.gpu == gpu]
    return line(min(mine, key=lambda b: b.held is None), gpu) if mine else ""
