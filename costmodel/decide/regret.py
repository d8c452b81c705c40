"""Regret: what a rule costs above the faster arm, on every call of a workload.

The arms are 1-stage and what the rule's call site runs otherwise: the fused 2-stage, or separate
ops (:attr:`.Setting.alternative`).

The regret of a call is the latency of the arm that runs minus that of the faster one, in
microseconds or in percent of the faster one. Latencies are the model's, draw by draw of its
posterior, with the harness constant of a typical benchmark, the same for both arms. On measured
pairs the measurement is the judge instead (:mod:`.measured_regret`).

A cutoff sends every call of at most so many bytes to 1-stage. Between two neighbouring sizes of a
workload all cutoffs decide alike, so a cutoff is a :class:`Cell`: its lower end is the largest call
on 1-stage, its upper end lies just below the smallest on the other arm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..calibration.posterior import Values
from ..data.workload import Workload
from ..errors import InputError
from ..model.shape import SPOKEN, Shapes
from ..units import KIB
from . import drawn as interval
from .objective import CONTESTED, MEAN, WORST, Regrets, contested_curve, worst_curve
from .setting import Setting

if TYPE_CHECKING:
    from ..rules.rule import Rule
    from .schemas import EstimateRecord

Array = NDArray[np.float64]
Choice = NDArray[np.bool_]

#: A cutoff is claimed only when its 90 % interval spans at most this factor: with a wider one the
#: rules in the field (128 to 448 KiB at 4 ranks, a factor of 3.5) could not be told apart.
MAX_INTERVAL_RATIO = 4.0

#: (algorithm, bytes (n,)) -> us (n,).
Added = Callable[[str, NDArray[np.int64]], Array]


class Estimate(Struct, frozen=True):
    """A value with its 90 % interval."""

    value: float
    lo: float
    hi: float

    @classmethod
    def of(cls, draws: Array) -> Estimate:
        """Summarise draws by their mean and the 5 and 95 % quantiles."""
        return cls.of_each(draws[:, None])[0]

    @classmethod
    def of_each(cls, draws: Array) -> list[Estimate]:
        """Summarise each of n quantities, of draws (draws, n), as :meth:`of` does one."""
        mean = np.ascontiguousarray(draws.T).mean(axis=1)
        return [cls(*each) for each in np.stack([mean, *interval.ends(draws)], axis=1).tolist()]

    def times(self, count: int) -> Estimate:
        """Return what so many of the quantity come to."""
        return Estimate(count * self.value, count * self.lo, count * self.hi)

    def to_dict(self) -> EstimateRecord:
        """Return value, lo and hi."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi}


class Score(Struct, frozen=True):
    """A rule beside another over one workload at one world size, by the calibrated model.

    ``regret_pct`` and ``other_regret_pct`` are mean regrets; ``saved_us`` is what the rule saves a
    call against the other, ``saved_pct`` the same in percentage points of regret. ``differ`` is
    the share of the calls that they decide differently.
    """

    rule: str
    other: str
    world_size: int
    regret_pct: Estimate
    other_regret_pct: Estimate
    saved_pct: Estimate
    saved_us: Estimate
    differ: float


class Cell(Struct, frozen=True):
    """Cutoffs that decide alike on a workload, in bytes, both ends included.

    ``lo`` 0: 1-stage for no call; ``hi`` None: 1-stage for every call.
    """

    lo: int
    hi: int | None

    def roundest(self) -> int:
        """Return the roundest cutoff of the cell: any of them decides alike."""
        if self.hi is None or self.lo == 0:
            return self.lo
        for step in (64 * KIB, 32 * KIB, 16 * KIB, 8 * KIB, 4 * KIB, KIB):
            value = -(-self.lo // step) * step
            if value <= self.hi:
                return value
        return self.lo


class BestCutoff(Struct, frozen=True):
    """The cutoff of least expected regret over a workload, and where the best one of a draw lies.

    ``lo`` and ``hi`` are the cells at the ends of the 90 % interval of the draws' best cutoffs; the
    cell itself is never outside them. ``always`` is the share of the draws in which no
    cutoff beats 1-stage throughout: single calls may still lose. ``regret_pct`` is the expected
    mean regret.
    """

    cell: Cell
    lo: Cell
    hi: Cell
    regret_pct: float
    always: float

    @property
    def identified(self) -> bool:
        """Whether the interval is narrow enough for a cutoff to be claimed.

        From the middle of one cell to that of the other, by ratio: how far apart captured calls lie
        is not uncertainty.
        """
        lo, hi = self.lo, self.hi
        if lo.hi is None or hi.hi is None or lo.lo == 0:
            return False
        # A cell ends below the next one's first byte.
        return hi.lo * (hi.hi + 1) <= MAX_INTERVAL_RATIO**2 * lo.lo * (lo.hi + 1)

    def within(self, other: BestCutoff) -> BestCutoff:
        """Return this cutoff with the part of its interval that is in the other's."""
        start = attrgetter("lo")
        return replace(
            self, lo=max(self.lo, other.lo, key=start), hi=min(self.hi, other.hi, key=start)
        )


class Arms(Struct, frozen=True, dict=True):
    """Both arms over a workload at one world size: (draws, n) latencies in us.

    ``other_us`` is what runs where 1-stage does not. Holds the calls that both arms take, ascending
    in bytes; ``weight`` (n,) sums to 1. ``objective`` is what the best
    cutoff minimises (:mod:`.objective`).
    """

    shapes: Shapes
    weight: Array
    one_us: Array
    other_us: Array
    aiter_version: str
    objective: str = MEAN

    @classmethod
    def of(
        cls,
        setting: Setting,
        workload: Workload,
        world_size: int,
        *,
        values: Values | None = None,
        added_us: Added | None = None,
    ) -> Arms:
        """Evaluate the model on the workload, over ``values`` (default: the setting's draws).

        ``added_us`` is what an arm takes beyond the model, of calls of so many bytes: what a
        simulation finds for ranks, links or skew that the closed form does not know. Raises
        :class:`InputError` when no call of the workload suits both arms.
        """
        every = setting.shapes(workload.tokens, workload.hidden_dim, world_size)
        both = setting.takes_both(every)
        if not both.any():
            needs = (f"{SPOKEN[a]} needs {setting.limits(a, every)}" for a in setting.arms)
            hidden = ", ".join(map(str, workload.hidden_dims()))
            raise InputError(
                f"no call of the workload, hidden size {hidden}, can run both arms: "
                f"{', '.join(needs)}"
            )
        order = np.flatnonzero(both)[np.argsort(every.bytes[both], kind="stable")]
        weight = workload.weight[order] / workload.weight[order].sum()
        arms = cls.of_calls(setting, every.select(order), weight, values)
        if added_us is None:
            return arms
        more = [added_us(a, arms.shapes.bytes) for a in setting.arms]
        return replace(arms, one_us=arms.one_us + more[0], other_us=arms.other_us + more[1])

    @classmethod
    def of_calls(
        cls,
        setting: Setting,
        shapes: Shapes,
        weight: Array | None = None,
        values: Values | None = None,
    ) -> Arms:
        """Evaluate the model on calls that both arms take, ascending in bytes.

        ``weight`` defaults to all alike, ``values`` to the setting's draws.
        """
        if weight is None:
            weight = np.full(len(shapes), 1 / max(len(shapes), 1))
        drawn = setting.draws if values is None else values
        one, other = (setting.latency_us(shapes, a, drawn) for a in setting.arms)
        return cls(shapes, weight, one, other, setting.aiter_version, setting.objective)

    def in_laboratories(self, setting: Setting) -> Arms:
        """Return the arms of *this kernel*, of those that were drawn for the setting's machine."""
        # The other arms' contrasts are beside 1-stage, which has none.
        shift_us = setting.laboratory_shift_us(setting.alternative)
        return replace(self, other_us=self.other_us + shift_us)

    @cached_property
    def fastest_us(self) -> Array:
        """The faster arm, (draws, n)."""
        return np.minimum(self.one_us, self.other_us)

    @cached_property
    def gap(self) -> Array:
        """What 1-stage takes beyond the other arm, as a fraction of the faster, (draws, n)."""
        gap = self.one_us - self.other_us
        for few in interval.in_turn(*gap.shape):
            gap[few] /= np.minimum(self.one_us[few], self.other_us[few])
        return gap

    @cached_property
    def regret_share(self) -> tuple[Array, Array]:
        """Regret of 1-stage and of the other as a fraction of the faster arm, each (draws, n)."""
        return np.maximum(self.gap, 0.0), np.maximum(-self.gap, 0.0)

    @cached_property
    def expected_share(self) -> tuple[Array, Array]:
        """:attr:`regret_share` in expectation, each (n,), without an array for either."""
        share = np.maximum(self.gap, 0.0)
        one = share.mean(axis=0)
        np.maximum(np.negative(self.gap, out=share), 0.0, out=share)
        return one, share.mean(axis=0)

    @cached_property
    def expected_gain(self) -> Array:
        """What 1-stage spares against the other arm on each call, as a fraction, (n,)."""
        return -self.gap.mean(axis=0)

    @property
    def cutoff_regret(self) -> Array:
        """Regret of every cutoff as a fraction, (draws, K); see :attr:`cells`.

        Computed each time: few ask twice for an array as large as the draws.
        """
        curve = np.empty((len(self.gap), self.ends.size))
        for few in interval.in_turn(*self.gap.shape):
            gap, steps = self.gap[few], curve[few, 1:]
            curve[few, 0] = 0.0 - np.minimum(gap, 0.0) @ self.weight
            if steps.shape[1] < gap.shape[1]:
                np.add.reduceat(gap * self.weight, self.ends[:-1], axis=1, out=steps)
            else:
                np.multiply(gap, self.weight, out=steps)
            np.cumsum(curve[few], axis=1, out=curve[few])
        return curve

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The K cutoffs that the workload can tell apart, ascending; the first sends no call."""
        return tuple(self.cell(k) for k in range(self.ends.size))

    def cell(self, k: int) -> Cell:
        """One of :attr:`cells`."""
        sent, last = self._sent, len(self._sent) - 1
        return Cell(int(sent[k]), None if k == last else int(sent[k + 1]) - 1)

    @cached_property
    def _sent(self) -> NDArray[np.int64]:
        """Bytes of the largest call that each cutoff sends to 1-stage, (K,); 0 for none."""
        return np.append(0, self.shapes.bytes[self.ends[1:] - 1]).astype(np.int64)

    @cached_property
    def ends(self) -> NDArray[np.intp]:
        """How many calls each cutoff sends to 1-stage: none, then whole runs of equal bytes."""
        size = self.shapes.bytes
        return np.concatenate([[0], np.flatnonzero(np.diff(size)) + 1, [size.size]])

    def best(self) -> BestCutoff:
        """Return the cutoff of least expected regret, with its interval over the draws.

        Which regret, the objective says.
        """
        best, regret, each = self._least
        last = self.ends.size - 1
        lo, hi = interval.nearest(each)
        return BestCutoff(
            cell=self.cell(best),
            lo=self.cell(min(lo, best)),
            hi=self.cell(max(hi, best)),
            regret_pct=max(0.0, 100.0 * regret),
            always=float(np.mean(each == last)),
        )

    @cached_property
    def _least(self) -> tuple[int, float, NDArray[np.intp]]:
        """Return the best cutoff, its expected mean regret as a fraction, and each draw's best."""
        curve = aim = self.cutoff_regret
        if self.objective == WORST:
            one, other = self.regret_share
            best = int(np.argmin(worst_curve(one.mean(axis=0), other.mean(axis=0), self.ends)))
            aim = worst_curve(one, other, self.ends)
        else:
            if self.objective == CONTESTED:
                aim = contested_curve(*self.regret_share, self.weight, self.shapes.bytes, self.ends)
            best = int(np.argmin(aim.mean(axis=0)))
        return best, float(curve[:, best].mean()), np.argmin(aim, axis=1)

    def regrets(self, choice: Choice, max_bytes: int | None) -> Regrets:
        """Return the expected regrets under a choice whose cutoff is ``max_bytes`` (None: none)."""
        call_regret = np.where(choice, *self.expected_share)
        return Regrets.of(call_regret, self.weight, self.shapes.bytes, max_bytes)

    @cached_property
    def each_best_bytes(self) -> NDArray[np.int64]:
        """The largest call on 1-stage under the best cutoff of each draw, (draws,); 0 for none."""
        return self._sent[self._least[2]]

    @cached_property
    def each_best_cell(self) -> tuple[Array, Array]:
        """Lower and upper ends of the best cell of each draw, each (draws,); inf for no limit."""
        sent, each = self._sent.astype(float), self._least[2]
        return sent[each], np.append(sent[1:] - 1, np.inf)[each]

    def select(self, calls: Choice | NDArray[np.intp] | slice) -> Arms:
        """Return the calls of a mask, an index or a slice; their weights sum to 1 again."""
        weight = self.weight[calls]
        some = replace(
            self, shapes=self.shapes.select(calls), weight=weight / weight.sum(),
            one_us=self.one_us[:, calls], other_us=self.other_us[:, calls],
        )  # fmt: skip
        vars(some)["gap"] = self.gap[:, calls]  # the cached property's place
        return some

    def use_1stage(self, rule: Rule) -> Choice:
        """Return where a rule runs 1-stage, (n,)."""
        try:
            return rule.use_1stage(self.shapes, kernel_version=self.aiter_version)
        except InputError as error:
            raise InputError(f"rule {rule.name}: {error}") from None

    def regret_pct(self, choice: Choice) -> Array:
        """Return the mean regret a call under a choice in percent, (draws,)."""
        one, other = self.regret_share
        return np.asarray(100 * (one @ (self.weight * choice) + other @ (self.weight * ~choice)))

    def regret_us(self, choice: Choice) -> Array:
        """Return the mean regret a call under a choice in us, (draws,)."""
        return np.asarray((self.chosen_us(choice) - self.fastest_us) @ self.weight)

    def chosen_us(self, choice: Choice) -> Array:
        """Return the latencies under a choice, (draws, n)."""
        return np.where(choice, self.one_us, self.other_us)

    def score(self, rule: Rule, other: Rule) -> Score:
        """Score a rule beside another, draw by draw."""
        mine, theirs = self.use_1stage(rule), self.use_1stage(other)
        mine_pct, theirs_pct = self.regret_pct(mine), self.regret_pct(theirs)
        return Score(
            rule=rule.name,
            other=other.name,
            world_size=int(self.shapes.world_size[0]),
            regret_pct=Estimate.of(mine_pct),
            other_regret_pct=Estimate.of(theirs_pct),
            saved_pct=Estimate.of(theirs_pct - mine_pct),
            saved_us=Estimate.of(self.regret_us(theirs) - self.regret_us(mine)),
            differ=float(self.weight[mine != theirs].sum()),
        )

    def gain_per_hidden_pct(self, cutoff: int) -> float:
        """Return what a cutoff per hidden size would spare beside one cutoff, in percent."""
        one, other = (part * self.weight for part in self.expected_share)
        size = self.shapes.bytes
        spared = 0.0
        for hidden in set(self.shapes.hidden_dim.tolist()):
            mine = self.shapes.hidden_dim == hidden
            # Ascending bytes, no two alike: every place is a possible cutoff, the first sends none.
            step = np.append(0.0, np.cumsum(one[mine] - other[mine]))
            spared += step[int(np.sum(size[mine] <= cutoff))] - step.min()
        return 100 * float(spared)
