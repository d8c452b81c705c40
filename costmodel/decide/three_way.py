"""Three arms, and windows of sizes: what a rule of two arms and one cutoff leaves on the table.

Beside the fused op's 1-stage and 2-stage stand separate ops: an all-reduce, then an RMSNorm. The
three-way choice divides the sizes of a workload into windows, one arm each, so that the expected
regret above the fastest of the three is least. Two arms are enough where the recommended rule loses
little against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL
from ..model.shape import ARMS, ONE_STAGE, SEPARATE_OPS, Shapes
from .adequacy import ADEQUATE_PCT
from .evidence import ArmEvidence

if TYPE_CHECKING:
    from .regret import Arms
    from .schemas import SeparateRecord, WindowRecord
    from .setting import Setting

Array = NDArray[np.float64]

#: A boundary between windows has to spare so much over the workload, or it is none.
BOUNDARY_PCT = 0.01

#: Every so manieth draw of the posterior is enough for the third arm; antithetic pairs stay whole.
EVERY = 8


class Window(Struct, frozen=True):
    """An arm and the sizes that it runs: from the smallest call to the largest, in bytes."""

    algorithm: str
    from_bytes: int
    to_bytes: int

    def to_dict(self) -> WindowRecord:
        """Return an entry of ``three_way``."""
        return {
            "algorithm": self.algorithm,
            "from_bytes": self.from_bytes,
            "to_bytes": self.to_bytes,
        }


class SeparateOps(Struct, frozen=True):
    """Where all-reduce and RMSNorm as separate ops beat both fused arms with 90 % probability.

    ``share`` of the calls, between ``from_bytes`` and ``to_bytes``, by ``gain_pct`` (least and
    most). ``share`` 0: nowhere. ``measured`` says whether separate ops were measured here.
    """

    share: float
    from_bytes: int
    to_bytes: int
    gain_pct: tuple[float, float]
    measured: bool

    def to_dict(self) -> SeparateRecord:
        """Return the ``separate`` part of a cutoff."""
        return {
            "share": self.share,
            "from_bytes": self.from_bytes,
            "to_bytes": self.to_bytes,
            "gain_pct_lo": self.gain_pct[0],
            "gain_pct_hi": self.gain_pct[1],
            "measured": self.measured,
        }


class ThreeWayChoice(Struct, frozen=True):
    """The three-way choice at one world size: ``windows``, ascending in bytes.

    ``loss_pct`` is what the recommended rule's two arms lose against it, in percent of the fastest
    of the three; ``separate`` where separate ops surely win.
    """

    windows: tuple[Window, ...]
    loss_pct: float
    separate: SeparateOps

    @property
    def enough(self) -> bool:
        """Whether two arms are enough."""
        return self.loss_pct <= ADEQUATE_PCT

    @property
    def apart(self) -> tuple[Window, ...]:
        """The windows of separate ops."""
        return tuple(w for w in self.windows if w.algorithm == SEPARATE_OPS)


class _ThreeArms(Struct, frozen=True):
    """All three arms over calls ascending in bytes, some draws: ``us`` (3, draws, n) as ARMS."""

    shapes: Shapes
    weight: Array
    us: Array

    @classmethod
    def of(cls, setting: Setting, arms: Arms) -> _ThreeArms:
        some = {k: v[::EVERY] if np.ndim(v) else v for k, v in setting.draws.items()}
        known = {ONE_STAGE: arms.one_us[::EVERY], setting.alternative: arms.other_us[::EVERY]}
        us = [
            known[a]
            if a in known
            else np.where(
                setting.takes(arms.shapes, a), setting.latency_us(arms.shapes, a, some), np.inf
            )
            for a in ARMS
        ]
        return cls(arms.shapes, arms.weight, np.stack(us))

    def expected_pct(self) -> Array:
        """Return each arm's expected regret above the fastest of the three, percent, (3, n)."""
        # An arm that does not take a call loses any comparison, but sums stay finite.
        pct = 100 * (self.us / self.us.min(axis=0) - 1)
        return np.minimum(pct, 1e6).mean(axis=1)


def three_way(setting: Setting, arms: Arms, max_bytes: int | None) -> ThreeWayChoice:
    """Return the three-way choice beside the rule that runs 1-stage up to ``max_bytes``.

    ``max_bytes`` None: 1-stage throughout.
    """
    three = _ThreeArms.of(setting, arms)
    size = three.shapes.bytes
    cost = three.weight * three.expected_pct()
    start = arms.ends[:-1]
    by_size = np.add.reduceat(cost, start, axis=1)
    arm = _cheapest(by_size, BOUNDARY_PCT)
    chosen = np.repeat(arm, np.diff([*start, size.size]))
    calls = np.arange(size.size)
    one = np.ones(size.size, np.bool_) if max_bytes is None else size <= max_bytes
    rule = np.where(one, ARMS.index(ONE_STAGE), ARMS.index(setting.alternative))
    windows = []
    turns = np.concatenate([[0], np.flatnonzero(np.diff(chosen)) + 1, [size.size]])
    for first, after in zip(turns[:-1].tolist(), turns[1:].tolist(), strict=True):
        windows.append(Window(ARMS[chosen[first]], int(size[first]), int(size[after - 1])))
    loss = float(cost[rule, calls].sum() - cost[chosen, calls].sum())
    return ThreeWayChoice(tuple(windows), max(0.0, loss), _separate(setting, three))


def _cheapest(cost: Array, boundary: float) -> NDArray[np.int64]:
    """Return the arm of each size so that costs (arms, n) and ``boundary`` a change are least.

    Dynamic programming over sizes: the best way to each arm, from the same one or the best other.
    """
    steps = cost.T.tolist()
    best = steps[0]
    came = [list(range(len(best)))]
    for step in steps[1:]:
        least = min(best)
        other = best.index(least)
        change = least + boundary
        came.append([other if change < own else arm for arm, own in enumerate(best)])
        best = [min(change, own) + more for own, more in zip(best, step, strict=True)]
    arms = [best.index(min(best))]
    for before in came[:0:-1]:
        arms.append(before[arms[-1]])
    return np.array(arms[::-1], np.int64)


def _separate(setting: Setting, three: _ThreeArms) -> SeparateOps:
    """Return where separate ops beat both fused arms.

    A call counts when they are faster in at least 90 % of the draws.
    """
    third, fused = three.us[2], three.us[:2].min(axis=0)
    surely = np.mean(third < fused, axis=0) >= LEVEL
    n = int(three.shapes.world_size[0])
    measured = bool(ArmEvidence.of(setting, n, SEPARATE_OPS).here)
    if not surely.any():
        return SeparateOps(0.0, 0, 0, (0.0, 0.0), measured)
    size = three.shapes.bytes[surely]
    gain = 100 * np.median(1 - third[:, surely] / fused[:, surely], axis=0)
    return SeparateOps(
        share=float(three.weight[surely].sum()),
        from_bytes=int(size.min()),
        to_bytes=int(size.max()),
        gain_pct=(float(gain.min()), float(gain.max())),
        measured=measured,
    )
