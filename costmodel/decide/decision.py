"""The decision: per world size the cutoff, its interval and evidence, and the rule they make.

``recommend`` returns a :class:`Decision`; explain, plan, worth, validate, emit, audit, report and
the figures take it, and none works out a cutoff, a regret or a rule of its own.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from ..data.workload import Workload
from ..errors import InputError
from ..model.shape import FUSED, PUSHED
from ..rules.evidence import CutoffEvidence
from ..units import kib
from .adequacy import ADEQUATE_PCT, Adequacy, contested_gain_pct
from .evidence import (
    ALWAYS_ONE_STAGE,
    BY_PHYSICS,
    NOT_IDENTIFIED,
    ArmEvidence,
    evidence_class,
)
from .objective import Regrets, contested
from .regret import Arms, Cell
from .setting import Setting
from .statements import Beside
from .three_way import ThreeWayChoice, evidence_of_arms, rule_of_arms, three_way

if TYPE_CHECKING:
    import pandas as pd

    from ..rules.arms import RuleOfArms
    from ..rules.rule import Rule
    from .pushed import Pushed
    from .schemas import CutoffRecord, MeasureNext, PushedRecord, Recommendation

#: Hidden sizes at which an emitted rule is checked: the 1-stage kernel takes multiples of 8 up to
#: 8192, and models have multiples of 64.
CHECKED_HIDDEN_DIMS = tuple(range(512, 8193, 128))

#: Points of regret that an engine's guards cost and that are worth a word.
NOTICED_PCT = 0.1


class Cutoff(Struct, frozen=True, eq=False, dict=True):
    """The answer for one world size; bytes are None where none is claimed.

    1-stage runs up to ``max_bytes`` inclusive. ``max_bytes_lo`` <= ``max_bytes`` <=
    ``max_bytes_hi`` are the 90 % interval on a machine that nobody has measured, ``this_kernel_lo``
    and ``this_kernel_hi`` that in the sources' laboratories; all are ends of cells (None above: no
    limit). ``cell`` holds the
    cutoffs that decide alike for every hidden size that the kernel takes. ``estimate`` is the best
    cutoff whether or not it is claimed, None for no limit. ``regrets`` are what
    the rule is expected to lose. ``beside_three`` is the setting where arms may stand beside the
    two, else None; ``pushed`` is what is known of the plain op's arms that push. ``switch`` gives
    (hidden_dim, last captured batch on 1-stage, first on 2-stage).
    ``statements`` are others', beside the interval.
    """

    world_size: int
    max_bytes: int | None
    max_bytes_lo: int | None
    max_bytes_hi: int | None
    this_kernel_lo: int | None
    this_kernel_hi: int | None
    estimate: int | None
    cell: Cell | None
    verdict: str
    reason: str
    evidence: tuple[ArmEvidence, ...]
    measure_next: tuple[MeasureNext, ...]
    regrets: Regrets
    beside_three: Setting | None
    pushed: Pushed | None
    adequacy: Adequacy
    switch: tuple[tuple[int, int, int | None], ...]
    statements: tuple[Beside, ...]
    arms: Arms

    def __repr__(self) -> str:
        sizes = "no claim" if not self.claimed else "always"
        if self.max_bytes is not None:
            sizes = f"1-stage <= {kib(self.max_bytes)}"
        return f"TP{self.world_size} {sizes} ({self.verdict})"

    @property
    def claimed(self) -> bool:
        """Whether a rule may be built on it."""
        return self.verdict != NOT_IDENTIFIED

    @cached_property
    def three_way(self) -> ThreeWayChoice | None:
        """What a choice of all arms would do, None for ops without an arm beside their two.

        Found when it is asked for: only what shows a decision says it.
        """
        at, pushed = self.beside_three, self.pushed.arms if self.pushed else ()
        return None if at is None else three_way(at, self.arms, self.estimate, pushed)

    @property
    def arms_claimed(self) -> bool:
        """Whether a rule of all arms may be built on it.

        Its windows are claimed with the cutoff, where rows tell of each arm that the cutoff does
        not choose between; and where each is of an arm that a benchmark has beside 1-stage: what
        the cutoff lacks is then in none of them.
        """
        three, setting = self.three_way, self.beside_three
        if three is None or setting is None:
            return False
        arms = {w.algorithm for w in three.windows}.difference(PUSHED)
        if not arms or not self.claimed:
            return not arms
        others = arms.difference(setting.arms)
        return all(ArmEvidence.of(setting, self.world_size, arm).rows for arm in others)

    @property
    def regret_pct(self) -> float:
        """What the rule is expected to lose over the workload."""
        return self.regrets.mean_pct

    @property
    def evidence_class(self) -> str:
        """What both arms' latencies rest on, whether or not a cutoff is claimed."""
        return evidence_class(self.evidence)

    @property
    def by_physics(self) -> bool:
        """Whether 1-stage wins everywhere for a reason that needs no row."""
        return self.verdict == ALWAYS_ONE_STAGE and self.reason.startswith(BY_PHYSICS)

    def pushed_record(self) -> PushedRecord | None:
        """Return the ``pushed`` part of the entry, None for ops without such arms."""
        three, push = self.three_way, self.pushed
        return push.to_dict(three.beside.to_dict() if three else None) if push else None

    def to_dict(self) -> CutoffRecord:
        """Return an entry of ``cutoffs``."""
        three, push = self.three_way, self.pushed
        return {
            "world_size": self.world_size,
            "max_bytes": self.max_bytes,
            "inclusive": True,
            "max_bytes_lo": self.max_bytes_lo,
            "max_bytes_hi": self.max_bytes_hi,
            "max_bytes_this_kernel_lo": self.this_kernel_lo,
            "max_bytes_this_kernel_hi": self.this_kernel_hi,
            "verdict": self.verdict,
            "reason": self.reason,
            "measure_next": list(self.measure_next),
            "cell_bytes": [self.cell.lo, self.cell.hi] if self.cell else None,
            "regret_pct": self.regret_pct,
            "contested_regret_pct": self.regrets.contested_pct,
            "worst_regret_pct": self.regrets.worst_pct,
            "evidence": [arm.to_dict() for arm in self.evidence],
            "separate": three.beside.to_dict() if three and not push else None,
            "pushed": self.pushed_record(),
            "three_way": [w.to_dict() for w in three.windows] if three else [],
            "three_way_regret_pct": three.regret_pct if three else None,
            "two_arms_loss_pct": three.loss_pct if three else None,
            "two_arms_enough": three.enough if three else None,
            "adequate": self.adequacy.enough,
            "gain_per_hidden_pct": self.adequacy.gain_per_hidden_pct,
            "by_hidden": [h.to_dict() for h in self.adequacy.by_hidden],
            "smallest_over_hidden_lo": self.adequacy.smallest.lo,
            "smallest_over_hidden_hi": self.adequacy.smallest.hi,
            "window": self.adequacy.window.to_dict() if self.adequacy.window else None,
            "switch": [
                {"hidden_dim": h, "last_1stage_tokens": last, "first_2stage_tokens": first}
                for h, last, first in self.switch
            ],
            "statements": [b.to_dict() for b in self.statements],
        }


class HiddenLoss(Struct, frozen=True):
    """A hidden size at which the rule loses more on contested calls than one of its own would."""

    world_size: int
    hidden_dim: int
    loss_pct: float


class Decision(Struct, frozen=True, eq=False, dict=True):
    """Cutoffs per world size with the hidden-size answer, for one setting and workload."""

    setting: Setting
    workload: Workload
    cutoffs: tuple[Cutoff, ...]
    hidden_rule: str
    hidden_set: tuple[int, ...]

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """World sizes that were asked about."""
        return tuple(c.world_size for c in self.cutoffs)

    @property
    def depends_on_hidden(self) -> bool:
        """Whether one cutoff in bytes is not adequate for all hidden sizes of the workload."""
        return any(c.adequacy.losing for c in self.cutoffs)

    def hidden_dims_measured(self, arm: str) -> tuple[int, ...]:
        """Return the hidden sizes of the rows behind an arm, at any world size asked about."""
        rows = (e.hidden_dims for c in self.cutoffs for e in c.evidence if e.arm == arm)
        return tuple(sorted({h for hidden in rows for h in hidden}))

    def at(self, world_size: int) -> Cutoff:
        """Return the cutoff of a world size that was asked about.

        Raises :class:`InputError` for any other.
        """
        for c in self.cutoffs:
            if c.world_size == world_size:
                return c
        asked = ", ".join(f"TP{n}" for n in self.world_sizes)
        raise InputError(f"TP{world_size} was not asked about; this decision is of {asked}")

    @cached_property
    def unguarded_rule(self) -> Rule:
        """The rule before an engine's guards join it; limits of old kernels are included.

        World sizes without a claim are left out. Raises :class:`InputError`, with the reasons,
        where no world size has a claim.
        """
        from ..rules.adapt import kernel_limits
        from ..rules.rule import Rule

        claimed = {c.world_size: c.max_bytes for c in self.cutoffs if c.claimed}
        if not claimed:
            raise InputError(self.refusal())
        setting = self.setting
        limits = kernel_limits(setting.kernel) if setting.op == FUSED else None
        return Rule.from_cutoffs(
            "recommended", claimed, requires=limits, op=setting.op, otherwise=setting.alternative
        )

    @cached_property
    def rule(self) -> Rule:
        """The rule as the engine that it is meant for will run it, its guards included.

        World sizes without a claim keep the engine's own cutoff.
        """
        if not self.setting.engine:
            return self.unguarded_rule
        from ..rules.adapt import adapt
        from ..rules.catalogue import current

        installed = current(self.setting.engine, self.setting.op)
        return adapt(self.unguarded_rule, installed.condition, self.setting.kernel).rule

    @cached_property
    def rule_of_arms(self) -> RuleOfArms | None:
        """The choice among all arms as a rule, None where no arm beside the two is known.

        World sizes without a claim are left out. It says what each arm's kernel takes; an engine
        has no place for it yet, so no guard of one is in it.
        """
        choices = {
            c.world_size: c.three_way for c in self.cutoffs if c.three_way and c.arms_claimed
        }
        if not choices:
            return None
        of_two = self.evidence
        rests_on = {
            n: evidence_of_arms(self.setting, n, choice)
            if choice.apart
            else CutoffEvidence(of_two[n].verdict, reason=of_two[n].reason)
            for n, choice in choices.items()
        }
        return rule_of_arms(self.setting, choices, self.workload.hidden_dims(), rests_on)

    @cached_property
    def lost_to_guards(self) -> tuple[tuple[int, float], ...]:
        """World sizes at which the engine's guards cost regret, with how many points of percent.

        Left out is what costs less than :data:`NOTICED_PCT`.
        """
        if not self.setting.engine or not any(c.claimed for c in self.cutoffs):
            return ()
        free, guarded = self.unguarded_rule, self.rule
        claimed = [c for c in self.cutoffs if c.claimed]
        lost = [(c.world_size, c.arms.score(free, guarded).saved_pct.value) for c in claimed]
        return tuple((n, pct) for n, pct in lost if pct >= NOTICED_PCT)

    @property
    def evidence(self) -> dict[int, CutoffEvidence]:
        """What supports each cutoff, for a rule's provenance."""
        return {
            c.world_size: CutoffEvidence(c.verdict, c.max_bytes_lo, c.max_bytes_hi, c.reason)
            for c in self.cutoffs
        }

    def refusal(self) -> str:
        """Return why no cutoff is claimed, each with what could be estimated."""
        said = []
        for c in self.cutoffs:
            if not c.claimed:
                low = kib(c.max_bytes_lo or 0)
                high = "no limit" if c.max_bytes_hi is None else kib(c.max_bytes_hi)
                said.append(f"TP{c.world_size}: {c.reason} (90 % interval {low} to {high})")
        return f"no cutoff is identified for {self.setting.gpu}: {'; '.join(said)}"

    @cached_property
    def losses_by_hidden(self) -> tuple[HiddenLoss, ...]:
        """Hidden sizes that lose :data:`ADEQUATE_PCT` more on contested calls than by their own.

        Checked over every hidden size of :data:`CHECKED_HIDDEN_DIMS` that the kernel takes: the
        engine sends all of them through the rule, whatever workload it was weighed on.
        """
        out = []
        for c in self.cutoffs:
            if not c.claimed:
                continue
            every = Workload.of(CHECKED_HIDDEN_DIMS)
            calls = self.setting.shapes(every.tokens, every.hidden_dim, c.world_size)
            near = self.setting.takes_both(calls)
            if c.max_bytes is not None:
                near &= contested(calls.bytes, c.max_bytes)
            order = np.flatnonzero(near)[np.argsort(calls.bytes[near], kind="stable")]
            arms = Arms.of_calls(self.setting, calls.select(order))
            for hidden in sorted(set(arms.shapes.hidden_dim.tolist())):
                alone = arms.select(arms.shapes.hidden_dim == hidden)
                loss = contested_gain_pct(alone, c.max_bytes)
                if loss > ADEQUATE_PCT:
                    out.append(HiddenLoss(c.world_size, hidden, loss))
        return tuple(out)

    def to_dict(self) -> Recommendation:
        """Return the ``costmodel/recommend/1`` record."""
        data = self.setting.calibration.data
        return {
            "schema": "costmodel/recommend/1",
            **self.setting.about_its_rule(),
            "hidden_dims": {
                "rule": self.hidden_rule,
                "set": list(self.hidden_set),
                "depends_on_hidden": self.depends_on_hidden,
                "adequate_pct": ADEQUATE_PCT,
                "workload": self.workload.hidden_dims(),
                "effect": data.get("hidden_effect"),
                "measured": {a: list(self.hidden_dims_measured(a)) for a in self.setting.arms},
            },
            "cutoffs": [c.to_dict() for c in self.cutoffs],
            "engine": self.setting.engine or None,
            "source": self.setting.source or None,
            "rule": self.rule.to_json() if any(c.claimed for c in self.cutoffs) else None,
            "rule_of_arms": self.rule_of_arms.to_json() if self.rule_of_arms else None,
            "rows": {
                "read": data.get("rows_read"),
                "used": data.get("rows_used"),
                "sources": list(data.get("sources", ())),
            },
            "batch_invariant": None,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a row per world size as a pandas data frame."""
        import pandas as pd

        return pd.DataFrame([c.to_dict() for c in self.cutoffs])

    def __repr__(self) -> str:
        return f"Decision({self.setting.gpu}: {', '.join(map(repr, self.cutoffs))})"
