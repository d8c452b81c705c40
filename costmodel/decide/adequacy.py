"""Is one cutoff in bytes enough? Asked of every hidden size where it matters, and of windows.

Most calls of a workload are far from the cutoff, where every rule is right. So what one cutoff
leaves on the table is counted on contested calls, within a factor of two of it, for each hidden
size apart; and on the calls that a window of 1-stage calls, with the other arm below and above,
would decide otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL
from ..units import kib
from . import drawn as interval
from .objective import contested
from .regret import Arms, Cell

Array = NDArray[np.float64]

if TYPE_CHECKING:
    from .schemas import HiddenCutoffRecord, OneStageWindowRecord

#: One cutoff, and two arms, are called adequate when what is left out would gain less than this.
ADEQUATE_PCT = 0.5

#: Hidden sizes that a reason names, those that would gain most.
NAMED = 3


class HiddenCutoff(Struct, frozen=True):
    """The cutoff that one hidden size would have by itself, beside the one for all.

    ``max_bytes`` with its 90 % interval, None for no limit; the common cutoff where that decides
    alike. ``contested_gain_pct`` is what it would
    spare on the contested calls of this hidden size. ``differs``: in 90 % of the draws the two lie
    more than a captured batch apart, on the same side.
    """

    hidden_dim: int
    max_bytes: int | None
    max_bytes_lo: int
    max_bytes_hi: int | None
    contested_gain_pct: float
    differs: bool

    def to_dict(self) -> HiddenCutoffRecord:
        """Return an entry of ``by_hidden``."""
        return {
            "hidden_dim": self.hidden_dim,
            "max_bytes": self.max_bytes,
            "max_bytes_lo": self.max_bytes_lo,
            "max_bytes_hi": self.max_bytes_hi,
            "contested_gain_pct": self.contested_gain_pct,
            "differs": self.differs,
        }


class OneStageWindow(Struct, frozen=True):
    """A window of 1-stage calls beside one cutoff, from ``from_bytes`` to ``to_bytes``.

    ``gain_pct`` is what it spares on the calls that it decides otherwise than the cutoff, a share
    ``differ`` of the workload.
    """

    from_bytes: int
    to_bytes: int
    gain_pct: float
    differ: float

    def to_dict(self) -> OneStageWindowRecord:
        """Return the ``window`` of a cutoff."""
        return {
            "from_bytes": self.from_bytes,
            "to_bytes": self.to_bytes,
            "gain_pct": self.gain_pct,
            "share": self.differ,
        }


class Adequacy(Struct, frozen=True):
    """What one cutoff leaves on the table at one world size.

    ``gain_per_hidden_pct`` is what a cutoff per hidden size would gain over the whole workload;
    ``window`` None: no window beats the cutoff. ``smallest`` is the 90 % interval of the smallest
    of the own cutoffs, which a sweep over hidden sizes states.
    """

    by_hidden: tuple[HiddenCutoff, ...]
    smallest: Cell
    window: OneStageWindow | None
    gain_per_hidden_pct: float

    @classmethod
    def of(cls, arms: Arms, max_bytes: int | None) -> Adequacy:
        """Judge the cutoff ``max_bytes`` (None: 1-stage throughout) on the arms' workload."""
        limit = int(arms.shapes.bytes[-1]) if max_bytes is None else max_bytes
        by_hidden, cells = [], []
        hidden_dim = arms.shapes.hidden_dim
        for hidden in np.unique(hidden_dim).tolist():
            alone = arms.select(np.flatnonzero(hidden_dim == hidden))
            by_hidden.append(hidden_cutoff(hidden, alone, arms.each_best_bytes, max_bytes))
            cells.append(alone.each_best_cell)
        return cls(
            by_hidden=tuple(by_hidden),
            smallest=smallest_cutoff(cells),
            window=one_stage_window(arms, max_bytes),
            gain_per_hidden_pct=arms.gain_per_hidden_pct(limit),
        )

    @property
    def losing(self) -> tuple[HiddenCutoff, ...]:
        """Hidden sizes whose contested calls would gain more than allowed, the most first."""
        much = (h for h in self.by_hidden if h.contested_gain_pct > ADEQUATE_PCT)
        return tuple(sorted(much, key=lambda h: -h.contested_gain_pct))

    @property
    def enough(self) -> bool:
        """Whether one cutoff is enough."""
        return not self.reasons()

    def remark(self) -> str:
        """Return how the reason of a cutoff goes on where it is not enough, else ""."""
        return "".join(f"; one cutoff is not adequate: {why}" for why in self.reasons())

    def reasons(self) -> list[str]:
        """Return in words why one cutoff is not enough."""
        out = []
        if self.losing:
            most = self.losing[:NAMED]
            named = ", ".join(f"{h.hidden_dim} {h.contested_gain_pct:.1f} %" for h in most)
            rest = len(self.losing) - len(most)
            out.append(
                "on contested calls, of the faster arm's latency, a cutoff of its own would gain "
                f"hidden size {named}" + (f" and {rest} more" if rest else "")
            )
        w = self.window
        if w is not None and w.gain_pct > ADEQUATE_PCT:
            out.append(
                f"1-stage from {kib(w.from_bytes)} to {kib(w.to_bytes)} alone would gain "
                f"{w.gain_pct:.1f} % of the faster arm's latency on {100 * w.differ:.0f} % of the "
                "calls"
            )
        return out


def smallest_cutoff(cells: Sequence[tuple[Array, Array]]) -> Cell:
    """Return the 90 % interval of the smallest cutoff, of :attr:`.Arms.each_best_cell` of each.

    Draw by draw the smallest is taken, of the lower and of the upper ends of the cells.
    """
    lo, hi = (np.min([ends[i] for ends in cells], axis=0) for i in (0, 1))
    least, most = interval.nearest(lo)[0], interval.nearest(hi)[1]
    return Cell(int(least), None if np.isinf(most) else int(most))


def hidden_cutoff(
    hidden: int, alone: Arms, common: NDArray[np.int64], max_bytes: int | None
) -> HiddenCutoff:
    """Return the own cutoff of one hidden size; ``common`` (draws,) is that of all together."""
    best, size = alone.best(), alone.shapes.bytes
    # How many captured batches run 1-stage, draw by draw.
    own, shared = (
        np.searchsorted(size, limit, side="right") for limit in (alone.each_best_bytes, common)
    )
    apart = own.astype(int) - shared.astype(int)
    differs = max(np.mean(apart > 1), np.mean(apart < -1)) >= LEVEL
    return HiddenCutoff(
        hidden_dim=hidden,
        max_bytes=_own(best.cell, max_bytes),
        max_bytes_lo=best.lo.lo,
        max_bytes_hi=best.hi.hi,
        contested_gain_pct=contested_gain_pct(alone, max_bytes),
        differs=bool(differs),
    )


def _own(cell: Cell, common: int | None) -> int | None:
    """Return a cutoff of the cell: the common one where that decides alike, else the roundest."""
    if cell.hi is None:
        return None
    alike = common is not None and cell.lo and cell.lo <= common <= cell.hi
    return common if alike else cell.roundest()


def contested_gain_pct(arms: Arms, max_bytes: int | None) -> float:
    """Return what the best cutoff would spare on the contested calls of another, in percent.

    ``max_bytes`` None is no cutoff: 1-stage throughout, and every call is contested.
    """
    size = arms.shapes.bytes
    near = np.ones(size.size, np.bool_) if max_bytes is None else contested(size, max_bytes)
    if not near.any():
        return 0.0
    # What cutoffs cost beside sending no call to 1-stage. The mean over draws comes first.
    weight = arms.weight[near] / arms.weight[near].sum()
    curve = np.append(0.0, np.cumsum(-weight * arms.expected_gain[near]))
    ends = np.append(0, np.flatnonzero(np.diff(size[near], append=np.inf)) + 1)
    sent = int(ends[-1]) if max_bytes is None else int(np.sum(size[near] <= max_bytes))
    return 100 * float(curve[sent] - curve[ends].min())


def one_stage_window(arms: Arms, max_bytes: int | None) -> OneStageWindow | None:
    """Return the best window of 1-stage calls beside a cutoff; None where it starts at the least.

    For the sums S_k of what 1-stage costs more on the k smallest calls, the cutoff after k costs
    S_k and the window from i to j costs S_j - S_i.
    """
    size = arms.shapes.bytes
    ends = arms.ends
    total = np.concatenate([[0.0], np.cumsum(-arms.weight * arms.expected_gain)])[ends]
    highest = np.maximum.accumulate(total)
    j = int(np.argmin(total - highest))
    i = int(np.argmax(total[: j + 1]))
    if i == 0 or i == j:
        return None
    at = ends.size - 1 if max_bytes is None else int(np.sum(size[ends[1:] - 1] <= max_bytes))
    inside = np.zeros(size.size, np.bool_)
    inside[ends[i] : ends[j]] = True
    differ = float(arms.weight[inside != (np.arange(size.size) < ends[at])].sum())
    if differ == 0:
        return None
    gain = 100 * float(total[at] - total[j] + total[i]) / differ
    return OneStageWindow(int(size[ends[i]]), int(size[ends[j] - 1]), gain, differ)
