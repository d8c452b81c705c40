"""More arms, and windows of sizes: what a rule of two arms and one cutoff leaves on the table.

Beside the fused op's 1-stage and 2-stage stand separate ops: an all-reduce, then an RMSNorm; beside
those of the plain op the arms that push (:mod:`.pushed`), where a benchmark has them. The choice
among all divides the sizes of a workload into windows, one arm each, so that the expected regret
above the fastest of them is least. Two arms are enough where the recommended rule loses little
against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL
from ..model.shape import (
    ALGORITHMS,
    BESIDE,
    FUSED,
    ONE_STAGE,
    PUSHED,
    SEPARATE_OPS,
    SPOKEN,
    Shapes,
)
from .adequacy import ADEQUATE_PCT
from .evidence import CLAIMED, MEASURED, ArmEvidence
from .regret import Cell

if TYPE_CHECKING:
    from ..rules.arms import RuleOfArms
    from ..rules.evidence import CutoffEvidence
    from .pushed import PushedArm
    from .regret import Arms
    from .schemas import BesideRecord, WindowRecord
    from .setting import Setting

Array = NDArray[np.float64]

#: A boundary between windows has to spare so much over the workload, or it is none.
BOUNDARY_PCT = 0.01

#: Every so manieth draw of the posterior is enough for more arms; antithetic pairs stay whole.
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


class ArmsBeside(Struct, frozen=True):
    """Where the arms beside 1-stage and 2-stage beat both with 90 % probability.

    ``share`` of the calls, between ``from_bytes`` and ``to_bytes``, by ``gain_pct`` (least and
    most). ``share`` 0: nowhere. ``measured`` says whether they were measured here.
    """

    share: float
    from_bytes: int
    to_bytes: int
    gain_pct: tuple[float, float]
    measured: bool

    def to_dict(self) -> BesideRecord:
        """Return the ``separate`` part of a cutoff, or the ``surely`` part of ``pushed``."""
        return {
            "share": self.share,
            "from_bytes": self.from_bytes,
            "to_bytes": self.to_bytes,
            "gain_pct_lo": self.gain_pct[0],
            "gain_pct_hi": self.gain_pct[1],
            "measured": self.measured,
        }


class ThreeWayChoice(Struct, frozen=True):
    """The choice among all arms at one world size: ``windows``, ascending in bytes.

    ``regret_pct`` is its expected regret above the fastest arm, a mean over the calls in percent;
    ``loss_pct`` is what the recommended rule's two arms lose against it; ``beside`` is where the
    arms beside the two surely win.
    """

    windows: tuple[Window, ...]
    regret_pct: float
    loss_pct: float
    beside: ArmsBeside

    @property
    def enough(self) -> bool:
        """Whether two arms are enough."""
        return self.loss_pct <= ADEQUATE_PCT

    @property
    def limits(self) -> tuple[tuple[str, int | None], ...]:
        """Each window's arm and the largest bytes that it runs, None for no limit.

        A limit is the roundest of those that decide alike on the calls that were weighed.
        """
        ends = [
            Cell(before.to_bytes, after.from_bytes - 1).roundest()
            for before, after in pairwise(self.windows)
        ]
        return tuple(zip((w.algorithm for w in self.windows), (*ends, None), strict=True))

    @property
    def apart(self) -> tuple[Window, ...]:
        """The windows of arms beside 1-stage and 2-stage."""
        return tuple(w for w in self.windows if w.algorithm not in ALGORITHMS)


class _AllArms(Struct, frozen=True):
    """All arms over calls ascending in bytes, some draws: ``us`` (arms, draws, n).

    ``names`` are 1-stage, 2-stage, then those beside them.
    """

    names: tuple[str, ...]
    shapes: Shapes
    weight: Array
    us: Array

    @classmethod
    def of(cls, setting: Setting, arms: Arms, pushed: Sequence[PushedArm]) -> _AllArms:
        some = {k: v[::EVERY] if np.ndim(v) else v for k, v in setting.draws.items()}
        known = {ONE_STAGE: arms.one_us[::EVERY], setting.alternative: arms.other_us[::EVERY]}
        names = [*ALGORITHMS, *([SEPARATE_OPS] if setting.op == FUSED else [])]
        us = [
            known[a]
            if a in known
            else np.where(
                setting.takes(arms.shapes, a), setting.latency_us(arms.shapes, a, some), np.inf
            )
            for a in names
        ]
        if pushed:  # all arms as the first benchmark that has one that pushes
            there = pushed[0].shift_us
            us = [each + there[::EVERY] for each in us]
            us += [
                arm.drawn_us(arms.shapes, every=EVERY) + (there - arm.shift_us)[::EVERY]
                for arm in pushed
            ]
            names += [arm.arm for arm in pushed]
        return cls(tuple(names), arms.shapes, arms.weight, np.stack(us))

    def expected_pct(self) -> Array:
        """Return each arm's expected regret above the fastest, percent, (arms, n)."""
        # An arm that does not take a call loses any comparison, but sums stay finite.
        pct = 100 * (self.us / self.us.min(axis=0) - 1)
        return np.minimum(pct, 1e6).mean(axis=1)


def three_way(
    setting: Setting, arms: Arms, max_bytes: int | None, pushed: Sequence[PushedArm] = ()
) -> ThreeWayChoice | None:
    """Return the choice among all arms beside the rule that runs 1-stage up to ``max_bytes``.

    ``max_bytes`` None: 1-stage throughout. ``pushed`` are the arms that push, of the plain op. None
    where the op has no arm beside its two.
    """
    if setting.op != FUSED and not pushed:
        return None
    every = _AllArms.of(setting, arms, pushed)
    size = every.shapes.bytes
    cost = every.weight * every.expected_pct()
    start = arms.ends[:-1]
    by_size = np.add.reduceat(cost, start, axis=1)
    arm = _cheapest(by_size, BOUNDARY_PCT)
    chosen = np.repeat(arm, np.diff([*start, size.size]))
    calls = np.arange(size.size)
    one = np.ones(size.size, np.bool_) if max_bytes is None else size <= max_bytes
    rule = np.where(one, *map(every.names.index, setting.arms))
    windows = []
    turns = np.concatenate([[0], np.flatnonzero(np.diff(chosen)) + 1, [size.size]])
    for first, after in zip(turns[:-1].tolist(), turns[1:].tolist(), strict=True):
        windows.append(Window(every.names[chosen[first]], int(size[first]), int(size[after - 1])))
    regret = float(cost[chosen, calls].sum())
    loss = float(cost[rule, calls].sum()) - regret
    return ThreeWayChoice(tuple(windows), regret, max(0.0, loss), _beside(setting, every))


def rule_of_arms(
    setting: Setting,
    choices: Mapping[int, ThreeWayChoice],
    hidden_dims: Sequence[int],
    evidence: Mapping[int, CutoffEvidence],
) -> RuleOfArms:
    """Return the choices by world size, weighed over ``hidden_dims``, as a rule.

    It asks what each arm's kernel takes; guards of an engine are not in it. ``evidence`` is what
    the choices rest on.
    """
    from ..rules.adapt import validity  # a question whose rule nobody asks for starts faster
    from ..rules.arms import RuleOfArms
    from ..rules.evidence import Provenance

    takes = {arm: validity(*setting.run_by(arm)) for arm in (*ALGORITHMS, *BESIDE[setting.op])}
    calibration = setting.calibration
    return RuleOfArms.of_windows(
        "recommended",
        {n: choice.limits for n, choice in choices.items()},
        takes,
        op=setting.op,
        dtype=setting.dtype,
        hidden_dims=tuple(hidden_dims),
        regret_pct=tuple((n, choice.regret_pct) for n, choice in sorted(choices.items())),
        provenance=Provenance(
            "", calibration.id, calibration.sha256, setting.arch, setting.gpu, evidence
        ),
    )  # fmt: skip


def evidence_of_arms(setting: Setting, world_size: int, choice: ThreeWayChoice) -> CutoffEvidence:
    """Return what the arms of the windows rest on: the least of them, and each by itself."""
    from ..rules.evidence import CutoffEvidence

    words = {}
    for arm in dict.fromkeys(w.algorithm for w in choice.windows):
        # Arms that push stand here only where a benchmark has them beside 1-stage.
        known = None if arm in PUSHED else ArmEvidence.of(setting, world_size, arm)
        words[arm] = MEASURED if known is None else known.word
    least = max(words.values(), key=CLAIMED.index)
    said = ", ".join(f"{SPOKEN[arm]} {word.replace('_', ' ')}" for arm, word in words.items())
    return CutoffEvidence(least, reason=said)


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


def _beside(setting: Setting, every: _AllArms) -> ArmsBeside:
    """Return where the arms beside 1-stage and 2-stage beat both.

    A call counts when one of them is faster in at least 90 % of the draws.
    """
    own = len(ALGORITHMS)
    third, two = every.us[own:].min(axis=0), every.us[:own].min(axis=0)
    surely = np.mean(third < two, axis=0) >= LEVEL
    n = int(every.shapes.world_size[0])
    # Arms that push stand here only where they were measured.
    measured = setting.op != FUSED or bool(ArmEvidence.of(setting, n, SEPARATE_OPS).here)
    if not surely.any():
        return ArmsBeside(0.0, 0, 0, (0.0, 0.0), measured)
    size = every.shapes.bytes[surely]
    gain = 100 * np.median(1 - third[:, surely] / two[:, surely], axis=0)
    return ArmsBeside(
        share=float(every.weight[surely].sum()),
        from_bytes=int(size.min()),
        to_bytes=int(size.max()),
        gain_pct=(float(gain.min()), float(gain.max())),
        measured=measured,
    )
