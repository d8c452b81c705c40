"""Judging rules: the regret of the recommended rule and of the field on measured pairs.

The recommended rule is that of each pair's own GPU and dtype; every other rule is one of the
catalogue. A measured latency is the judge, except over a workload, where the model is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..calibration.posterior import NORMAL_HALF_WIDTH
from ..data.workload import Workload
from ..model.shape import SEPARATE_OPS
from ..rules.catalogue import current
from ..rules.rule import Rule
from .decision import Decision
from .pairs import Pairs
from .recommendation import recommend
from .regret import Estimate
from .row_errors import Rows
from .setting import SEED, Setting

if TYPE_CHECKING:
    from .fit_schemas import ChoiceRecord, RegretRecord

Array = NDArray[np.float64]
Choice = NDArray[np.bool_]

RECOMMENDED = "recommended"
THREE_WAY = "three-way"
AUTO = "auto, as measured"

#: Percentage points of mean regret below which a difference is no reason to change a rule, however
#: many calls make it significant: a hundredth of a microsecond on a call of 10.
MATTERS_POINTS = 0.1

#: Resamples behind an interval over measured pairs.
RESAMPLES = 1000


class RuleRegret(Struct, frozen=True):
    """Regret of one rule on ``pairs`` measured calls, and over the workload by the model.

    ``behind`` is by how many percentage points the recommended rule's mean regret exceeds this
    one's (negative: the recommended rule is better), with the bootstrap's interval; ``noise_pct``
    the standard deviation that measurement noise gives that difference; ``differ`` on how many
    pairs the two decide otherwise. None and 0 where the two are not compared. ``modelled_pct``
    and ``modelled_us`` are the mean regret a call over the workload.
    """

    rule: str
    kind: str
    pairs: int
    mean_pct: float
    max_pct: float
    mean_us: float
    max_us: float
    behind: Estimate | None = None
    noise_pct: float = 0.0
    differ: int = 0
    modelled_pct: Estimate | None = None
    modelled_us: Estimate | None = None

    @property
    def separable(self) -> bool:
        """Whether the measured difference to the recommended rule is more than noise (90 %)."""
        return self.behind is not None and abs(self.behind.value) > self.noise_90_pct

    @property
    def noise_90_pct(self) -> float:
        """What measurement noise alone explains of the difference, 90 %."""
        return NORMAL_HALF_WIDTH * self.noise_pct

    @property
    def better(self) -> bool:
        """Whether the rule beats the recommended one, beyond noise and by what matters."""
        return self.separable and self.behind is not None and self.behind.value >= MATTERS_POINTS

    def to_dict(self) -> RegretRecord:
        """Return an entry of ``regret`` in ``costmodel/validate/1``."""
        behind, pct, us = (
            e.to_dict() if e else None for e in (self.behind, self.modelled_pct, self.modelled_us)
        )
        return {
            "rule": self.rule,
            "kind": self.kind,
            "pairs": self.pairs,
            "mean_pct": self.mean_pct,
            "max_pct": self.max_pct,
            "mean_us": self.mean_us,
            "max_us": self.max_us,
            "behind": behind,
            "noise_90_pct": self.noise_90_pct,
            "differ": self.differ,
            "workload_pct": pct,
            "workload_us": us,
        }


class ThreeWay(Struct, frozen=True):
    """The model's choice between the fused op and separate ops, on calls where both were measured.

    Regrets are above the fastest of the measured arms. ``fused`` is the fused op throughout, by
    the recommended rule, on the same calls.
    """

    choice: RuleRegret
    fused: RuleRegret


class Agreement(Struct, frozen=True):
    """How often the recommended rule takes the faster measured algorithm; shares of the pairs.

    ``outside_tie`` counts the pairs whose algorithms differ by more than the tie band; a share of
    no pairs is None.
    """

    pairs: int
    agree: float | None
    outside_tie: int
    agree_outside_tie: float | None

    def to_dict(self) -> ChoiceRecord:
        """Return the ``choice`` part of ``costmodel/validate/1``."""
        return {
            "pairs": self.pairs,
            "agree": self.agree,
            "agree_outside_tie": self.agree_outside_tie,
        }


class Advice(Struct, frozen=True):
    """The rule recommended for one GPU and dtype, without gaps.

    ``rule`` decides by ``fallback`` at the world sizes ``filled``, where the decision makes no
    claim.
    """

    decision: Decision
    rule: Rule
    filled: tuple[int, ...]
    fallback: str

    @property
    def setting(self) -> Setting:
        """GPU, dtype and the rest of the question."""
        return self.decision.setting

    def covers(self, pairs: Pairs) -> Choice:
        """Return which pairs are of this GPU and dtype."""
        return (pairs.gpu == self.setting.gpu) & (pairs.dtype == self.setting.dtype)


def advise(
    setting: Setting, pairs: Pairs, fallback: Rule | None, workload: Workload | None = None
) -> tuple[Advice, ...]:
    """Return the recommended rule for each GPU and dtype of the pairs, without gaps.

    ``workload`` is what it is recommended for, as in :func:`recommend`.
    """
    other = fallback or current("aiter", pairs.op)
    out = []
    for gpu, dtype in sorted(set(zip(pairs.gpu.tolist(), pairs.dtype.tolist(), strict=True))):
        mine = (pairs.gpu == gpu) & (pairs.dtype == dtype)
        decision = recommend(
            setting.but(gpu=gpu, dtype=dtype, op=pairs.op), workload,
            world_sizes=np.unique(pairs.world_size[mine]).tolist(),
        )  # fmt: skip
        filled = tuple(c.world_size for c in decision.cutoffs if not c.claimed)
        out.append(Advice(decision, without_gaps(decision, other), filled, other.name))
    return tuple(out)


def without_gaps(decision: Decision, other: Rule) -> Rule:
    """Return the recommended rule, deciding as ``other`` does where no cutoff is claimed."""
    claimed = [c.claimed for c in decision.cutoffs]
    if not any(claimed):
        return replace(other, name=RECOMMENDED)
    return decision.rule if all(claimed) else decision.rule.completed_by(other)


def recommended_choice(pairs: Pairs, advice: tuple[Advice, ...]) -> Choice:
    """Return where the recommended rule of each pair's GPU and dtype runs 1-stage."""
    out = np.zeros(len(pairs), np.bool_)
    for a in advice:
        mine = a.covers(pairs)
        out[mine] = pairs.select(mine).use_1stage(a.rule, a.setting.aiter_version)
    return out


def agreement(pairs: Pairs, choice: Choice, tie_pct: float) -> Agreement:
    """Return how often a choice takes the faster measured algorithm."""
    right = pairs.chosen_us(choice) == pairs.fastest_us
    outside = pairs.gap_pct > tie_pct
    return Agreement(
        len(pairs),
        float(right.mean()),
        int(outside.sum()),
        float(right[outside].mean()) if outside.any() else None,
    )


def judge(
    pairs: Pairs, ours: Choice, field: list[Rule], rows: Rows, aiter_version: str
) -> tuple[RuleRegret, ...]:
    """Return the regret of the recommended rule and of the field, on the pairs."""
    named: list[tuple[str, str, Array]] = [(RECOMMENDED, "recommended", pairs.chosen_us(ours))]
    for rule in field:
        use = pairs.use_1stage(rule, aiter_version)
        kind = "shipped" if rule.status in ("shipped", "current") else rule.status
        named.append((rule.name, kind, pairs.chosen_us(use)))
    chosen = np.stack([us for _, _, us in named], axis=1)
    pct = 100 * (chosen / pairs.fastest_us[:, None] - 1)
    differ = chosen != chosen[:, :1]
    # Each arm's noise is a share of its latency, less for repeated measurements; two arms add.
    variance = 2 * (100 * rows.noise[pairs.row]) ** 2 / pairs.repeats
    noise = np.sqrt(variance @ differ) / len(pairs)
    behind = bootstrap_means(pct[:, :1] - pct)
    found = []
    for k, (name, kind, _) in enumerate(named):
        mean = float((pct[:, 0] - pct[:, k]).mean())
        found.append(
            replace(
                _plain(name, kind, chosen[:, k], pairs.fastest_us),
                behind=replace(Estimate.of(behind[:, k]), value=mean),
                noise_pct=float(noise[k]),
                differ=int(differ[:, k].sum()),
            )
        )
    auto = ~np.isnan(pairs.auto_us)
    if auto.any():
        found.append(_plain(AUTO, "measured", pairs.auto_us[auto], pairs.fastest_us[auto]))
    return tuple(found)


def _plain(name: str, kind: str, chosen_us: Array, fastest_us: Array) -> RuleRegret:
    """Return a regret without a comparison with the recommended rule."""
    us = chosen_us - fastest_us
    pct = 100 * us / fastest_us
    means = (float(pct.mean()), float(pct.max()), float(us.mean()), float(us.max()))
    return RuleRegret(name, kind, us.size, *means)


def judge_three_way(every: Pairs, advice: tuple[Advice, ...]) -> ThreeWay | None:
    """Judge the recommended rule of all arms where separate ops and a fused arm were measured.

    Where it runs a fused arm, that is the recommended rule's algorithm, or the other one where that
    was not measured.
    """
    chosen, fused, fastest = [], [], []
    for a in advice:
        rule = a.decision.rule_of_arms
        if rule is None:
            continue
        known = a.covers(every) & np.isin(every.world_size, rule.world_sizes)
        third = every.select(known & ~np.isnan(every.separate_us) & ~np.isnan(every.fastest_us))
        if not len(third):
            continue
        one = recommended_choice(third, (a,))
        one = np.where(np.isnan(third.chosen_us(one)), ~one, one)
        calls = a.setting.shapes(third.tokens, third.hidden_dim, third.world_size)
        fused_us = third.chosen_us(one)
        fused.append(fused_us)
        chosen.append(np.where(rule.arm(calls) == SEPARATE_OPS, third.separate_us, fused_us))
        fastest.append(np.fmin(third.fastest_us, third.separate_us))
    if not chosen:
        return None
    best = np.concatenate(fastest)
    return ThreeWay(
        _plain(THREE_WAY, "three-way", np.concatenate(chosen), best),
        _plain("fused throughout", "three-way", np.concatenate(fused), best),
    )


def over_workload(
    regret: tuple[RuleRegret, ...], pairs: Pairs, advice: tuple[Advice, ...], field: list[Rule]
) -> tuple[RuleRegret, ...]:
    """Add each rule's mean regret over the workload of the decisions.

    GPUs, dtypes and world sizes weigh as they do among the pairs.
    """
    total: dict[str, list[Array]] = {}
    for a in advice:
        for cutoff in a.decision.cutoffs:
            weight = float((a.covers(pairs) & (pairs.world_size == cutoff.world_size)).mean())
            for rule in (replace(a.rule, name=RECOMMENDED), *field):
                choice = cutoff.arms.use_1stage(rule)
                part = np.stack([cutoff.arms.regret_pct(choice), cutoff.arms.regret_us(choice)])
                total.setdefault(rule.name, []).append(weight * part)
    pct_us = {name: np.sum(parts, axis=0) for name, parts in total.items()}
    return tuple(
        replace(
            r,
            modelled_pct=Estimate.of(pct_us[r.rule][0]),
            modelled_us=Estimate.of(pct_us[r.rule][1]),
        )
        if r.rule in pct_us
        else r
        for r in regret
    )


def bootstrap_means(columns: Array, resamples: int = RESAMPLES) -> Array:
    """Return bootstrap draws of the columns' means, (resamples, k), for ``columns`` (n, k).

    Rows are resampled with replacement, the same ones for every column.
    """
    n, k = columns.shape
    rng = np.random.default_rng(SEED)
    out = np.empty((resamples, k))
    for start in range(0, resamples, 64):
        stop = min(start + 64, resamples)
        count = np.empty((stop - start, n))
        for i in range(stop - start):
            count[i] = np.bincount(rng.integers(0, n, n), minlength=n)
        out[start:stop] = count @ columns / n
    return out
