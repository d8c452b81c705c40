"""One decision in numbers: both arms' terms, who wins with what probability, what would flip it.

The choice for a call is the algorithm with the smaller expected regret over the posterior; its
probability is the share of the draws in which it is the faster one. Latencies are those of a
typical benchmark, whose harness constant both algorithms share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL
from ..data.workload import captured_batch_sizes
from ..errors import InputError
from ..model.eligibility import eligible
from ..model.latency import TERMS
from ..model.shape import ALGORITHMS, FUSED, ONE_STAGE, SEPARATE, TWO_STAGE, Shapes
from ..rules.rule import ALWAYS_1STAGE, ALWAYS_2STAGE, Rule, catalogue
from .prediction import evidence, latency_us
from .recommendation import NOT_IDENTIFIED, recommend
from .regret import Estimate
from .sensitivity import Flip, Setting, flips, interval

Array = NDArray[np.float64]

SCHEMA = "costmodel/explain/1"

#: A choice counts as decided from this probability on.
DECIDED = LEVEL

#: Parameters that act on a call only through another one's product or sum with them.
_DOUBLES = ("read_efficiency_deviation", "release_acquire_us_per_doubling")


@dataclass(frozen=True)
class Arm:
    """One algorithm on one call: latency and terms in us with 90 % intervals of the posterior."""

    algorithm: str
    latency_us: Estimate
    terms: dict[str, Estimate]
    evidence: str

    def to_dict(self) -> dict[str, Any]:
        """Return an entry of ``arms``."""
        return {
            "latency_us": self.latency_us.value,
            "latency_us_lo": self.latency_us.lo,
            "latency_us_hi": self.latency_us.hi,
            "evidence": self.evidence,
            "terms": {name: e.to_dict() for name, e in self.terms.items()},
        }


@dataclass(frozen=True)
class Opinion:
    """What one rule says about the call; ``choice`` is "" where the rule makes no claim."""

    rule: Rule
    sizes: str
    choice: str


@dataclass(frozen=True)
class TokenFlip:
    """Where the choice turns over along captured batch sizes: the first batch beyond."""

    tokens: int
    choice: str


@dataclass(frozen=True)
class Explanation:
    """Everything about one decision.

    ``margin_us`` is 2-stage minus 1-stage; ``probability`` that of the choice. ``reason`` is set
    where only one algorithm takes the call; then there is nothing to compare.
    """

    setting: Setting
    tokens: int
    choice: str
    arms: dict[str, Arm]
    margin_us: Estimate | None
    margin_pct: float | None
    probability: float
    reason: str
    separate_us: Estimate | None
    separate_probability: float | None
    opinions: tuple[Opinion, ...]
    verdict: str
    crossover_bytes: tuple[float, float, float] | None
    token_flips: tuple[TokenFlip, ...]
    parameter_flips: tuple[Flip, ...]

    @property
    def bytes(self) -> int:
        """Input bytes on one rank."""
        return int(self.setting.shapes([self.tokens]).bytes[0])

    @property
    def decided(self) -> bool:
        """Whether the choice is the faster one with at least 90 % probability."""
        return self.probability >= DECIDED

    def to_dict(self) -> dict[str, Any]:
        """Return the ``costmodel/explain/1`` record."""
        crossover = None
        if self.crossover_bytes is not None:
            keys = ("bytes", "bytes_lo", "bytes_hi")
            crossover = {k: _finite(v) for k, v in zip(keys, self.crossover_bytes, strict=True)}
        return {
            "schema": SCHEMA,
            **about(self.setting),
            "tokens": self.tokens,
            "bytes": self.bytes,
            "choice": self.choice,
            "probability": self.probability,
            "decided": self.decided,
            "reason": self.reason,
            "margin_us": self.margin_us.to_dict() if self.margin_us else None,
            "margin_pct": self.margin_pct,
            "arms": {a: arm.to_dict() for a, arm in self.arms.items()},
            "separate": None
            if self.separate_us is None
            else {**self.separate_us.to_dict(), "probability": self.separate_probability},
            "verdict": self.verdict,
            "rules": [
                {
                    "rule": o.rule.name,
                    "engine": o.rule.engine,
                    "status": o.rule.status,
                    "sizes": o.sizes,
                    "choice": o.choice or None,
                    "agrees": o.choice == self.choice if o.choice else None,
                }
                for o in self.opinions
            ],
            "crossover": crossover,
            "flips": [
                *({"what": "tokens", "at": f.tokens, "choice": f.choice} for f in self.token_flips),
                *(
                    {
                        "what": f.name, "at": f.at, "now": f.now, "lo": f.lo, "hi": f.hi,
                        "unit": f.unit, "inside_interval": f.inside,
                    }
                    for f in self.parameter_flips
                ),
            ],
        }  # fmt: skip


@dataclass(frozen=True)
class Decisions:
    """The choice at every captured batch size, with what each rule would run there."""

    setting: Setting
    tokens: NDArray[np.int64]
    one_us: Array
    two_us: Array
    margin_us: Array
    margin_lo_us: Array
    margin_hi_us: Array
    probability_1stage: Array
    choice: NDArray[np.str_]
    opinions: dict[str, NDArray[np.str_]]

    def to_dict(self) -> dict[str, Any]:
        """Return the ``costmodel/explain/1`` record of all captured batch sizes."""
        size = self.setting.shapes(self.tokens).bytes
        return {
            "schema": SCHEMA,
            **about(self.setting),
            "calls": [
                {
                    "tokens": int(self.tokens[i]),
                    "bytes": int(size[i]),
                    "choice": str(self.choice[i]),
                    "probability_1stage": _finite(self.probability_1stage[i]),
                    "latency_us": {
                        ONE_STAGE: _finite(self.one_us[i]), TWO_STAGE: _finite(self.two_us[i]),
                    },
                    "margin_us": _finite(self.margin_us[i]),
                    "margin_us_lo": _finite(self.margin_lo_us[i]),
                    "margin_us_hi": _finite(self.margin_hi_us[i]),
                    "rules": {n: str(c[i]) or None for n, c in self.opinions.items()},
                }
                for i in range(self.tokens.size)
            ],
        }  # fmt: skip


def about(setting: Setting) -> dict[str, Any]:
    """Return the part of a record that says what was asked."""
    calibration = setting.calibration
    return {
        "arch": setting.arch,
        "gpu": setting.gpu,
        "op": setting.op,
        "dtype": setting.dtype,
        "aiter_version": setting.aiter_version,
        "calibration": {"id": calibration.id, "sha256": calibration.sha256},
        "world_size": setting.world_size,
        "hidden_dim": setting.hidden_dim,
    }


def explain(setting: Setting, tokens: int) -> Explanation:
    """Explain the choice for one call.

    Raises :class:`InputError` when neither kernel takes it.
    """
    setting.calibration.costs(setting.gpu, setting.calibration.values)
    takes = {a: eligible(setting.shapes([tokens]), a, setting.kernel) for a in ALGORITHMS}
    run = [a for a in ALGORITHMS if takes[a][0].all()]
    if not run:
        raise InputError(
            f"no kernel of {setting.kernel.title} takes {tokens} tokens x hidden "
            f"{setting.hidden_dim} ({setting.dtype}): 1-stage needs {takes[ONE_STAGE][1]}, "
            f"2-stage needs {takes[TWO_STAGE][1]}"
        )
    arms = {a: _arm(setting, tokens, a) for a in run}
    rule, verdict = _recommended(setting)
    shapes = setting.shapes([tokens])
    opinions = tuple(_opinion(setting, r, shapes) for r in _rules(setting.op, rule))
    if len(run) == 1:
        other = next(a for a in ALGORITHMS if a not in run)
        reason = f"the {other} kernel rejects the call, it needs {takes[other][1]}"
        return Explanation(
            setting, tokens, run[0], arms, None, None, 1.0, reason, None, None, opinions, verdict,
            None, (), (),
        )  # fmt: skip
    drawn = {a: setting.latency_us([tokens], a, setting.drawn)[:, 0] for a in ALGORITHMS}
    choice, probability = _choose(drawn[ONE_STAGE], drawn[TWO_STAGE])
    one, two = arms[ONE_STAGE].latency_us.value, arms[TWO_STAGE].latency_us.value
    margin = drawn[TWO_STAGE] - drawn[ONE_STAGE]
    separate, beats = _separate(setting, tokens, np.minimum(drawn[ONE_STAGE], drawn[TWO_STAGE]))
    crossing = interval(setting.crossover_bytes(setting.drawn))
    found = flips(setting, tokens)
    return Explanation(
        setting=setting,
        tokens=tokens,
        choice=choice,
        arms=arms,
        margin_us=Estimate(two - one, *interval(margin)),
        margin_pct=100 * (max(one, two) / min(one, two) - 1),
        probability=probability,
        reason="",
        separate_us=separate,
        separate_probability=beats,
        opinions=opinions,
        verdict=verdict,
        crossover_bytes=(float(setting.crossover_bytes()[0]), *crossing),
        token_flips=_token_flips(setting, tokens, choice),
        parameter_flips=tuple(f for f in found if not f.name.startswith(_DOUBLES)),
    )


def decisions(setting: Setting, tokens: Sequence[int] | None = None) -> Decisions:
    """Return the choice at every captured batch size (or at ``tokens``).

    A batch that only one kernel takes runs that one; its margin is NaN. Raises
    :class:`InputError` when neither takes the hidden size.
    """
    batch = captured_batch_sizes() if tokens is None else np.array(list(tokens), np.int64)
    setting.calibration.costs(setting.gpu, setting.calibration.values)
    runs = {a: setting.runs(batch, a) for a in ALGORITHMS}
    if not (runs[ONE_STAGE] | runs[TWO_STAGE]).all():
        explain(setting, int(batch[~(runs[ONE_STAGE] | runs[TWO_STAGE])][0]))
    both = runs[ONE_STAGE] & runs[TWO_STAGE]
    point = {
        a: np.where(runs[a], np.broadcast_to(setting.latency_us(batch, a), batch.shape), np.nan)
        for a in ALGORITHMS
    }
    drawn = {
        a: np.broadcast_to(
            setting.latency_us(batch, a, setting.drawn),
            (len(setting.drawn["launch_us"]), batch.size),
        )
        for a in ALGORITHMS
    }
    margin = drawn[TWO_STAGE] - drawn[ONE_STAGE]
    tail = (1 - LEVEL) / 2
    lo, hi = np.quantile(margin, [tail, 1 - tail], axis=0)
    prefers_1stage = _gain(drawn[ONE_STAGE], drawn[TWO_STAGE]).mean(0) > 0
    choice = np.where(both, prefers_1stage, runs[ONE_STAGE])
    rule, _ = _recommended(setting)
    shapes = setting.shapes(batch)
    return Decisions(
        setting=setting,
        tokens=batch,
        one_us=point[ONE_STAGE],
        two_us=point[TWO_STAGE],
        margin_us=point[TWO_STAGE] - point[ONE_STAGE],
        margin_lo_us=np.where(both, lo, np.nan),
        margin_hi_us=np.where(both, hi, np.nan),
        probability_1stage=np.where(both, np.mean(margin > 0, axis=0), np.nan),
        choice=_names(choice),
        opinions={r.name: _says(setting, r, shapes) for r in _rules(setting.op, rule)},
    )


def _arm(setting: Setting, tokens: int, algorithm: str) -> Arm:
    point = setting.terms([tokens], algorithm)
    drawn = setting.terms([tokens], algorithm, setting.drawn)
    terms = {
        name: Estimate(_first(point[name]), *interval(np.ravel(drawn[name])))
        for name in TERMS
        if name in point
    }
    total = np.ravel(setting.latency_us([tokens], algorithm, setting.drawn))
    value = _first(setting.latency_us([tokens], algorithm))
    where = evidence(setting.calibration, setting.shapes([tokens]), algorithm, setting.gpu)
    return Arm(algorithm, Estimate(value, *interval(total)), terms, str(where[0]))


def _gain(one_us: Array, two_us: Array) -> Array:
    """Return the regret that running 1-stage instead of 2-stage spares, as a share."""
    fastest = np.minimum(one_us, two_us)
    return np.asarray((two_us - one_us) / fastest)


def _choose(one_us: Array, two_us: Array) -> tuple[str, float]:
    """Return the algorithm of least expected regret, and the probability that it is faster."""
    wins = float(np.mean(one_us < two_us))
    if float(_gain(one_us, two_us).mean()) > 0:
        return ONE_STAGE, wins
    return TWO_STAGE, 1 - wins


def _separate(
    setting: Setting, tokens: int, fused_us: Array
) -> tuple[Estimate | None, float | None]:
    """Return the latency of separate ops and the probability that they beat both fused arms."""
    if setting.op != FUSED:
        return None, None
    apart = Shapes.of(
        [tokens], setting.hidden_dim, setting.world_size, op=SEPARATE, dtype=setting.dtype
    )

    def best(values: dict[str, Any] | None) -> Array:
        arms = [
            latency_us(
                setting.calibration, apart, a, gpu=setting.gpu, kernel=setting.kernel, values=values
            )
            for a in ALGORITHMS
        ]
        return np.ravel(np.minimum(*arms))

    drawn = best(setting.drawn)
    return Estimate(float(best(None)[0]), *interval(drawn)), float(np.mean(drawn < fused_us))


def _token_flips(setting: Setting, tokens: int, choice: str) -> tuple[TokenFlip, ...]:
    """Return the nearest captured batch below and above at which the other algorithm is chosen."""
    batch = captured_batch_sizes()
    both = setting.runs(batch, ONE_STAGE) & setting.runs(batch, TWO_STAGE)
    batch = batch[both]
    one, two = (setting.latency_us(batch, a, setting.drawn) for a in ALGORITHMS)
    other = _names(_gain(one, two).mean(0) > 0) != choice
    out = []
    for side in (batch[other & (batch < tokens)][::-1], batch[other & (batch > tokens)]):
        if side.size:
            flipped = TWO_STAGE if choice == ONE_STAGE else ONE_STAGE
            out.append(TokenFlip(int(side[0]), flipped))
    return tuple(out)


def _recommended(setting: Setting) -> tuple[Rule | None, str]:
    """Return the recommended rule for the world size (None without a claim) and its verdict."""
    try:
        found = recommend(
            setting.calibration, gpu=setting.gpu, op=setting.op, dtype=setting.dtype,
            aiter_version=setting.aiter_version, world_sizes=(setting.world_size,),
        )  # fmt: skip
    except InputError:  # a release without both algorithms
        return None, NOT_IDENTIFIED
    (cutoff,) = found.cutoffs
    return (None if cutoff.verdict == NOT_IDENTIFIED else found.rule()), cutoff.verdict


def _rules(op: str, recommended: Rule | None) -> list[Rule]:
    field = [
        r
        for r in catalogue()
        if r.op == op and r.fabric == "xgmi" and r.status in ("current", "shipped", "proposed")
    ]
    order = {"current": 0, "proposed": 1, "shipped": 2}
    field.sort(key=lambda r: order[r.status])
    return [*([recommended] if recommended else []), *field, ALWAYS_1STAGE, ALWAYS_2STAGE]


def _says(setting: Setting, rule: Rule, shapes: Shapes) -> NDArray[np.str_]:
    """Return what a rule runs, "" where it makes no claim."""
    if setting.world_size not in rule.world_sizes:
        return np.full(shapes.tokens.shape, "", dtype="U6")
    return _names(rule.use_1stage(shapes, kernel_version=setting.aiter_version))


def _opinion(setting: Setting, rule: Rule, shapes: Shapes) -> Opinion:
    claimed = setting.world_size in rule.world_sizes
    sizes = rule.sizes(setting.world_size) if claimed else "no claim"
    return Opinion(rule, sizes, str(_says(setting, rule, shapes)[0]))


def _names(one_stage: NDArray[np.bool_]) -> NDArray[np.str_]:
    return np.where(one_stage, ONE_STAGE, TWO_STAGE)


def _first(value: Any) -> float:
    return float(np.ravel(value)[0])


def _finite(value: Any) -> float | None:
    """Return a number for JSON, None for what is not finite."""
    return float(value) if np.isfinite(value) else None
