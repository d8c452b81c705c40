"""Judging rules: the regret of the recommended rule and of the field on measured pairs.

The recommended rule is that of each pair's own GPU and dtype; every other rule is one of the
catalogue. A measured latency is the judge, except over a workload, where the model is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import Calibration
from ..data import kernels as _kernel
from ..data.workload import Workload
from ..model.shape import ONE_STAGE, SEPARATE, TWO_STAGE, Shapes
from ..rules.catalogue import current
from ..rules.rule import Rule
from .pairs import Pairs
from .prediction import latency_us
from .recommendation import NOT_IDENTIFIED, Recommendation, recommend
from .regret import Estimate, ModelledPairs, bootstrap_means
from .row_errors import Rows

Array = NDArray[np.float64]
Choice = NDArray[np.bool_]

RECOMMENDED = "recommended"
THREE_WAY = "three-way"
AUTO = "auto, as measured"

#: Two-sided 90 % point of the normal distribution.
NORMAL_90 = 1.645


@dataclass(frozen=True)
class RuleRegret:
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
        return self.behind is not None and abs(self.behind.value) > NORMAL_90 * self.noise_pct

    @property
    def better(self) -> bool:
        """Whether the rule beats the recommended one on these pairs, beyond noise."""
        return self.separable and self.behind is not None and self.behind.value > 0

    def to_dict(self) -> dict[str, Any]:
        """Return an entry of ``regret`` in ``costmodel/validate/1``."""
        return {k: getattr(self, k) for k in ("rule", "mean_pct", "max_pct", "mean_us")}


@dataclass(frozen=True)
class ThreeWay:
    """The model's choice between the fused op and separate ops, on calls where both were measured.

    Regrets are above the fastest of the measured arms. ``fused`` is the fused op throughout, by
    the recommended rule, on the same calls.
    """

    choice: RuleRegret
    fused: RuleRegret


@dataclass(frozen=True)
class Agreement:
    """How often the recommended rule takes the faster measured algorithm; shares of the pairs.

    ``outside_tie`` counts the pairs whose algorithms differ by more than the tie band; a share of
    no pairs is None.
    """

    pairs: int
    agree: float | None
    outside_tie: int
    agree_outside_tie: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the ``choice`` part of ``costmodel/validate/1``."""
        keys = ("pairs", "agree", "agree_outside_tie")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Advice:
    """The recommended rule for one GPU and dtype, and the world sizes filled by another rule."""

    gpu: str
    dtype: str
    rule: Rule
    filled: tuple[int, ...]
    fallback: str
    recommendation: Recommendation


def advise(
    calibration: Calibration,
    pairs: Pairs,
    fallback: Rule | None,
    aiter_version: str,
    workload: Workload | None = None,
) -> tuple[Advice, ...]:
    """Return the recommended rule for each GPU and dtype of the pairs, without gaps.

    ``workload`` is what it is recommended for (default: that of :func:`recommend`).
    """
    found = []
    other = fallback or current("aiter", pairs.op)
    for gpu, dtype in sorted(set(zip(pairs.gpu.tolist(), pairs.dtype.tolist(), strict=True))):
        mine = (pairs.gpu == gpu) & (pairs.dtype == dtype)
        sizes = tuple(np.unique(pairs.world_size[mine]).tolist())
        recommendation = recommend(
            calibration, gpu=gpu, op=pairs.op, dtype=dtype, aiter_version=aiter_version,
            workload=workload, world_sizes=sizes,
        )  # fmt: skip
        open_ = tuple(c.world_size for c in recommendation.cutoffs if c.verdict == NOT_IDENTIFIED)
        if len(open_) == len(sizes):
            rule = replace(other, name=RECOMMENDED)
        else:
            rule = recommendation.rule()
            rule = rule.completed_by(other) if open_ else rule
        found.append(Advice(gpu, dtype, rule, open_, other.name, recommendation))
    return tuple(found)


def recommended_choice(pairs: Pairs, advice: tuple[Advice, ...], aiter_version: str) -> Choice:
    """Return where the recommended rule of each pair's GPU and dtype runs 1-stage."""
    out = np.zeros(len(pairs), np.bool_)
    for a in advice:
        mine = (pairs.gpu == a.gpu) & (pairs.dtype == a.dtype)
        out[mine] = pairs.select(mine).use_1stage(a.rule, aiter_version)
    return out


def agreement(pairs: Pairs, choice: Choice, tie_pct: float) -> Agreement:
    """Return how often a choice takes the faster measured algorithm."""
    right = np.where(choice, pairs.one_us, pairs.two_us) == pairs.fastest_us
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
    named: list[tuple[str, str, Array]] = [
        (RECOMMENDED, "recommended", np.where(ours, pairs.one_us, pairs.two_us))
    ]
    for rule in field:
        use = pairs.use_1stage(rule, aiter_version)
        kind = "shipped" if rule.status in ("shipped", "current") else rule.status
        named.append((rule.name, kind, np.where(use, pairs.one_us, pairs.two_us)))
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


def judge_three_way(
    calibration: Calibration, every: Pairs, advice: tuple[Advice, ...], aiter_version: str
) -> ThreeWay | None:
    """Judge the three-way choice where separate ops and a fused arm were measured.

    The model chooses between separate ops and the recommended rule's algorithm, or the other one
    where that was not measured.
    """
    claimed = {(a.gpu, a.dtype, n) for a in advice for n in a.rule.world_sizes}
    keys = zip(every.gpu.tolist(), every.dtype.tolist(), every.world_size.tolist(), strict=True)
    known = np.array([key in claimed for key in keys], np.bool_)
    third = every.select(known & ~np.isnan(every.separate_us) & ~np.isnan(every.fastest_us))
    if not len(third):
        return None
    one = recommended_choice(third, advice, aiter_version)
    one = np.where(np.isnan(np.where(one, third.one_us, third.two_us)), ~one, one)
    plain = _kernel.calibrated(calibration.kernel_family, aiter_version)
    plain_one = np.array(
        [
            plain.auto_is_1stage(int(n), float(b))
            for n, b in zip(third.world_size, third.bytes, strict=True)
        ]
    )
    modelled = [
        np.where(
            use_one,
            _point_us(calibration, third, op, ONE_STAGE, aiter_version),
            _point_us(calibration, third, op, TWO_STAGE, aiter_version),
        )
        for op, use_one in ((third.op, one), (SEPARATE, plain_one))
    ]
    fused_us = np.where(one, third.one_us, third.two_us)
    chosen_us = np.where(modelled[1] < modelled[0], third.separate_us, fused_us)
    fastest = np.fmin(third.fastest_us, third.separate_us)
    return ThreeWay(
        _plain(THREE_WAY, "three-way", chosen_us, fastest),
        _plain("fused throughout", "three-way", fused_us, fastest),
    )


def _point_us(
    calibration: Calibration, pairs: Pairs, op: str, algorithm: str, aiter_version: str
) -> Array:
    """Return the model's point estimates for the calls with another op or algorithm."""
    out = np.zeros(len(pairs))
    ran = _kernel.calibrated(calibration.kernel_family, aiter_version)
    for gpu, dtype in sorted(set(zip(pairs.gpu.tolist(), pairs.dtype.tolist(), strict=True))):
        mine = (pairs.gpu == gpu) & (pairs.dtype == dtype)
        shapes = Shapes.of(
            pairs.tokens[mine], pairs.hidden_dim[mine], pairs.world_size[mine], op=op, dtype=dtype
        )
        out[mine] = latency_us(calibration, shapes, algorithm, gpu=gpu, kernel=ran)
    return out


def over_workload(
    regret: tuple[RuleRegret, ...],
    calibration: Calibration,
    pairs: Pairs,
    advice: tuple[Advice, ...],
    field: list[Rule],
    workload: Workload,
    aiter_version: str,
) -> tuple[RuleRegret, ...]:
    """Add each rule's mean regret over the workload.

    GPUs, dtypes and world sizes weigh as they do among the pairs.
    """
    total: dict[str, list[Array]] = {}
    for a in advice:
        for n in np.unique(pairs.world_size[(pairs.gpu == a.gpu) & (pairs.dtype == a.dtype)]):
            mine = (pairs.gpu == a.gpu) & (pairs.dtype == a.dtype) & (pairs.world_size == n)
            model = ModelledPairs.of(
                calibration, workload, int(n),
                gpu=a.gpu, op=pairs.op, dtype=a.dtype, aiter_version=aiter_version,
            )  # fmt: skip
            for rule in (replace(a.rule, name=RECOMMENDED), *field):
                choice = model.use_1stage(rule)
                part = np.stack([model.regret_pct(choice), model.regret_us(choice)])
                total.setdefault(rule.name, []).append(mine.mean() * part)
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
