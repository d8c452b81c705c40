"""Others' statements beside a recommended cutoff: does its interval hold them?

Only a statement about the same two kernels, in the state that the setting asks about, on the same
GPU can agree or disagree; of any other is said why it cannot. None of them was fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from ..data import kernels
from ..data.statements import CROSSOVER_BELOW, SMALLEST_CROSSOVER, Statement, about
from ..model.fabric import FULL_MESH
from ..model.shape import ALGORITHMS
from ..units import kib
from .regret import Cell
from .setting import Setting

if TYPE_CHECKING:
    from .schemas import StatementRecord


class Beside(Struct, frozen=True):
    """A statement beside a cutoff.

    ``held`` says whether the cutoff's interval holds it, None where the two cannot be compared;
    ``note`` then says why, else what to bear in mind, if anything.
    """

    statement: Statement
    held: bool | None
    note: str = ""

    def to_dict(self) -> StatementRecord:
        """Return an entry of ``statements``."""
        s = self.statement
        return {
            "who": s.who,
            "url": s.url,
            "date": s.date,
            "gpu": s.gpu,
            "gpu_evidence": s.gpu_evidence,
            "compared": s.compared,
            "kernel_version": s.kernel_version,
            "kind": s.kind,
            "lo_bytes": s.lo_bytes,
            "hi_bytes": s.hi_bytes,
            "words": s.words,
            "held": self.held,
            "note": self.note,
        }


def beside(
    setting: Setting,
    world_size: int,
    cutoff: Cell,
    smallest: Cell,
    families: Mapping[str, Cell] | None = None,
) -> tuple[Beside, ...]:
    """Return what others state of the setting's op, beside intervals in bytes.

    ``cutoff`` is that of one cutoff for all hidden sizes, ``smallest`` that of the smallest of a
    cutoff for each, ``families`` that up to which kernels of other families are faster than
    1-stage. Statements are of GPUs joined by xGMI; other fabrics have none.
    """
    if setting.calibration.fabric != FULL_MESH:
        return ()
    out = []
    for statement in about(setting.gpu, setting.arch, world_size, setting.op):
        why = _incomparable(setting, statement)
        other = (families or {}).get(statement.kernel_family)
        if other is not None and statement.gpu == setting.gpu:
            out.append(Beside(statement, _holds(statement, other), f"of that arm: {_words(other)}"))
        elif why:
            out.append(Beside(statement, None, why))
        else:
            interval = smallest if statement.kind == SMALLEST_CROSSOVER else cutoff
            held = _holds(statement, interval)
            out.append(Beside(statement, held, _bear_in_mind(statement, smallest)))
    return tuple(out)


def _incomparable(setting: Setting, statement: Statement) -> str:
    """Return why a statement is about something else, "" where it is not."""
    if not statement.comparable or statement.kernel_family != setting.kernel.family:
        return "other kernels"
    if statement.gpu != setting.gpu:
        return "another GPU"
    theirs = kernels.of_row(
        statement.kernel_family, statement.who, statement.kernel_version, statement.date
    )
    if theirs is None or any(
        theirs.state(setting.op, a) != setting.kernel.state(setting.op, a) for a in ALGORITHMS
    ):
        return "another kernel version"
    return ""


def _holds(statement: Statement, interval: Cell) -> bool:
    """Whether an interval of cutoffs holds a statement; of a window its upper end counts."""
    if statement.kind == CROSSOVER_BELOW:
        return interval.lo < statement.hi_bytes
    above = interval.hi is None or statement.hi_bytes <= interval.hi
    return interval.lo <= statement.hi_bytes and above


def _words(interval: Cell) -> str:
    return f"{kib(interval.lo)} to {'no limit' if interval.hi is None else kib(interval.hi)}"


def _bear_in_mind(statement: Statement, smallest: Cell) -> str:
    """Return what qualifies a comparison."""
    notes = []
    if statement.kind == SMALLEST_CROSSOVER:
        notes.append(f"the smallest over the hidden sizes asked: {_words(smallest)}")
    if statement.gpu_evidence != "stated":
        notes.append(f"its GPU is {statement.gpu_evidence}")
    return "; ".join(notes)
