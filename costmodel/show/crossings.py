"""The crossings of tables of pairs in words."""

from __future__ import annotations

from collections.abc import Sequence

from ..calibration.crossing import SizeSet
from ..decide.crossings import MeasuredCrossing
from . import words
from .table import table


def lines(crossings: Sequence[MeasuredCrossing]) -> list[str]:
    """Return the crossings as a titled table, nothing where there are none."""
    if not crossings:
        return []
    labels = [_label(c) for c in crossings]
    # Kernel versions are sentences: shown where nothing else tells two tables apart.
    apart = len(set(labels)) < len(labels)
    rows = []
    for label, c in zip(labels, crossings, strict=True):
        kernel = [f"{c.kernel_family} {c.kernel_version}"] if apart else []
        sets = sizes(c.crossing.fieller), sizes(c.crossing.bootstrap)
        rows.append((*label, *kernel, c.crossing.pairs, point(c), *sets))
    head = ("pairs of", "op", "on", "hidden", *(["kernel"] if apart else []), "pairs", "cross at")
    return [
        "pairs by themselves, without the model: where straight lines through both algorithms",
        "cross, with 90 % sets by Fieller and by bootstrap over pairs",
        table(rows, (*head, "Fieller", "bootstrap")),
    ]


def sizes(found: SizeSet) -> str:
    """Return a set of sizes: ``405 KiB to 480 KiB``, ``from 405 KiB``, ``any size``."""
    lo, hi = (None if end is None else words.about(end) for end in (found.lo, found.hi))
    return {
        "bounded": f"{lo} to {hi}",
        "half-open": f"up to {hi}" if lo is None else f"from {lo}",
        "complement": f"up to {lo} or from {hi}",
        "everything": "any size",
        "empty": "no size",
    }[found.kind]


def point(c: MeasuredCrossing) -> str:
    """Return where the lines cross: ``473 KiB``, ``nowhere``, ``12 KiB, 2-stage first``."""
    at = c.crossing
    if at.size_bytes is None:
        return "nowhere"
    first = "" if at.one_stage_below else ", 2-stage first"
    return f"{words.about(at.size_bytes)}{first}"


def _label(c: MeasuredCrossing) -> tuple[str, ...]:
    hidden = "all" if c.hidden_dim is None else str(c.hidden_dim)
    return c.source, c.op, f"{c.gpu} TP{c.world_size} {c.dtype}", hidden
