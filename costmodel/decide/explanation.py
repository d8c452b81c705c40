"""One decision in numbers: both arms' terms, who wins with what probability, what would flip it.

The choice is that of the recommended rule (:mod:`.recommendation`), whose one cutoff serves every
call of a workload. Beside it stands what the call alone would choose: the arm with the smaller
expected regret, and the probability with which each is faster. Latencies and their intervals are
those of :func:`~.prediction.predict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL, TAIL
from ..data.workload import Workload, captured_batch_sizes
from ..errors import InputError
from ..model.latency import TERMS
from ..model.shape import (
    ALGORITHMS,
    ALL_REDUCE,
    FUSED,
    ONE_STAGE,
    SEPARATE_OPS,
    SPOKEN,
    TWO_STAGE,
    Shapes,
)
from ..rules.algebra import factors
from ..rules.catalogue import ALWAYS_1STAGE, ALWAYS_2STAGE, catalogue
from ..rules.condition import Calls, Condition
from ..rules.rule import Rule
from . import drawn as drawn_interval
from .decision import Cutoff, Decision
from .evidence import NOT_IDENTIFIED
from .prediction import Prediction, predict
from .recommendation import recommend
from .regret import Arms, Estimate
from .sensitivity import Flip, flips
from .setting import Setting

if TYPE_CHECKING:
    import pandas as pd

    from .schemas import (
        Explained,
        ExplainedArm,
        ExplainedBatches,
        ExplainedCall,
        FlipRecord,
        PushedCallRecord,
    )

Array = NDArray[np.float64]

#: A call counts as decided from this probability on.
DECIDED = LEVEL

#: Parameters that act on a call only through another one's product or sum with them.
_DOUBLES = ("release_acquire_us_per_doubling",)


class Arm(Struct, frozen=True):
    """One arm on one call: latency as predicted, and terms in us with 90 % intervals."""

    name: str
    latency_us: Estimate
    terms: dict[str, Estimate]
    evidence: str

    def to_dict(self) -> ExplainedArm:
        """Return an entry of ``arms``."""
        return {
            "latency_us": self.latency_us.value,
            "latency_us_lo": self.latency_us.lo,
            "latency_us_hi": self.latency_us.hi,
            "evidence": self.evidence,
            "terms": {name: e.to_dict() for name, e in self.terms.items()},
        }


class PushedCall(Struct, frozen=True):
    """An arm that pushes on one call, as ``source`` measures it, beside 1-stage as it does.

    ``probability`` is that with which it is faster than 1-stage and 2-stage.
    """

    arm: str
    latency_us: Estimate
    one_us: float
    source: str
    probability: float

    def to_dict(self) -> PushedCallRecord:
        """Return an entry of ``pushed``."""
        return {
            **self.latency_us.to_dict(),
            "probability": self.probability,
            "latency_us_1stage": self.one_us,
            "benchmark": self.source,
        }


class Opinion(Struct, frozen=True):
    """What one rule says about the call; ``choice`` is "" where the rule makes no claim."""

    rule: Rule
    sizes: str
    choice: str


class TokenFlip(Struct, frozen=True):
    """Where the choice turns over along captured batch sizes: the first batch beyond."""

    tokens: int
    choice: str


class Explanation(Struct, frozen=True):
    """Everything about one decision.

    ``choice`` is what the recommended rule runs, ``alone`` the arm of least expected regret for
    this call by itself, ``probability`` that with which the choice is the faster arm. ``margin_us``
    is what the alternative (2-stage, or separate ops where they run otherwise) takes more than
    1-stage. ``reason`` is set where only one of the two takes the call; then there is nothing to
    compare. ``decision`` is None for kernels without a choice.
    """

    setting: Setting
    decision: Decision | None
    call: Shapes
    choice: str
    alone: str
    arms: dict[str, Arm]
    margin_us: Estimate | None
    margin_pct: float | None
    probability: float
    reason: str
    separate_us: Estimate | None
    separate_probability: float | None
    pushed: tuple[PushedCall, ...]
    opinions: tuple[Opinion, ...]
    token_flips: tuple[TokenFlip, ...]
    parameter_flips: tuple[Flip, ...]

    @property
    def cutoff(self) -> Cutoff | None:
        """The recommended cutoff at the call's world size."""
        return self.decision.at(self.world_size) if self.decision else None

    @property
    def tokens(self) -> int:
        """Tokens of the call."""
        return int(self.call.tokens[0])

    @property
    def hidden_dim(self) -> int:
        """Hidden size of the call."""
        return int(self.call.hidden_dim[0])

    @property
    def world_size(self) -> int:
        """Ranks of the call."""
        return int(self.call.world_size[0])

    @property
    def bytes(self) -> int:
        """Input bytes on one rank."""
        return int(self.call.bytes[0])

    @property
    def decided(self) -> bool:
        """Whether one of the two arms is the faster one with at least 90 % probability."""
        return max(self.probability, 1 - self.probability) >= DECIDED

    @property
    def unmet_guards(self) -> tuple[Condition, ...]:
        """What the engine's guards ask and the call lacks, where the cutoff alone runs 1-stage."""
        decided, n = self.decision, self.world_size
        rule = _recommended(decided, n)
        if decided is None or rule is None or self.choice == ONE_STAGE:
            return ()
        if _says(self.setting, decided.unguarded_rule, self.call)[0] != ONE_STAGE:
            return ()
        call = Calls.of(self.call, kernel_version=self.setting.aiter_version)
        return tuple(part for part in factors(rule.condition.at(n)) if not part.holds(call)[0])

    def agrees(self, opinion: Opinion) -> bool | None:
        """Return whether a rule runs 1-stage where the choice does; None without a claim."""
        if not opinion.choice:
            return None
        return (opinion.choice == ONE_STAGE) == (self.choice == ONE_STAGE)

    def to_dict(self) -> ExplainedCall:
        """Return the ``costmodel/explain/2`` record."""
        by_tokens: list[FlipRecord] = [
            {"what": "tokens", "at": f.tokens, "choice": f.choice} for f in self.token_flips
        ]
        by_parameter: list[FlipRecord] = [
            {
                "what": f.name, "at": f.at, "now": f.now, "lo": f.lo, "hi": f.hi,
                "unit": f.unit, "inside_interval": f.inside,
            }
            for f in self.parameter_flips
        ]  # fmt: skip
        return {
            **_about(self.setting, self.decision, self.call),
            "tokens": self.tokens,
            "bytes": self.bytes,
            "choice": self.choice,
            "alone": self.alone,
            "probability": self.probability,
            "decided": self.decided,
            "reason": self.reason,
            "margin_us": self.margin_us.to_dict() if self.margin_us else None,
            "margin_pct": self.margin_pct,
            "arms": {a: arm.to_dict() for a, arm in self.arms.items()},
            "separate": None
            if self.separate_us is None
            else {**self.separate_us.to_dict(), "probability": self.separate_probability},
            "pushed": {p.arm: p.to_dict() for p in self.pushed},
            "rules": [
                {
                    "rule": o.rule.name,
                    "engine": o.rule.engine,
                    "status": o.rule.status,
                    "sizes": o.sizes,
                    "choice": o.choice or None,
                    "agrees": self.agrees(o),
                }
                for o in self.opinions
            ],
            "flips": [*by_tokens, *by_parameter],
        }  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"Explanation({self.tokens} tokens x {self.hidden_dim}, TP{self.world_size}: "
            f"{self.choice}, faster with probability {self.probability:.2f})"
        )


class Choices(Struct, frozen=True):
    """The choice at every captured batch size, with what each rule would run there.

    Arrays over the calls. ``choice`` is the recommended rule's; ``probability_1stage`` that with
    which 1-stage is the faster arm.
    """

    setting: Setting
    decision: Decision | None
    calls: Shapes
    latency_us: dict[str, Array]
    margin_us: Array
    margin_lo_us: Array
    margin_hi_us: Array
    probability_1stage: Array
    choice: NDArray[np.str_]
    opinions: dict[str, NDArray[np.str_]]

    def to_dict(self) -> ExplainedBatches:
        """Return the ``costmodel/explain/2`` record of all captured batch sizes."""
        return {
            **_about(self.setting, self.decision, self.calls),
            "calls": [
                {
                    "tokens": int(self.calls.tokens[i]),
                    "bytes": int(self.calls.bytes[i]),
                    "choice": str(self.choice[i]),
                    "probability_1stage": _finite(self.probability_1stage[i]),
                    "latency_us": {a: _finite(us[i]) for a, us in self.latency_us.items()},
                    "margin_us": _finite(self.margin_us[i]),
                    "margin_us_lo": _finite(self.margin_lo_us[i]),
                    "margin_us_hi": _finite(self.margin_hi_us[i]),
                    "rules": {n: str(c[i]) or None for n, c in self.opinions.items()},
                }
                for i in range(len(self.calls))
            ],
        }

    def to_frame(self) -> pd.DataFrame:
        """Return a row per call as a pandas data frame."""
        import pandas as pd

        return pd.json_normalize(self.to_dict()["calls"])

    def __repr__(self) -> str:
        ones = int((self.choice == ONE_STAGE).sum())
        return f"Choices({len(self.calls)} captured batch sizes, {ones} on 1-stage)"


def explain(setting: Setting, call: Shapes, workload: Workload | None = None) -> Explanation:
    """Explain the choice for one call (a shape of one element, see :meth:`Setting.shapes`).

    ``workload`` is what the rule is recommended for, as in :func:`recommend`; by default the call's
    own hidden size at captured batches, as ``costmodel explain`` and ``recommend --hidden`` weigh
    it. Raises :class:`InputError` when neither kernel takes the call.
    """
    call = _flat(call)
    run = [a for a in setting.arms if setting.takes(call, a).all()]
    if not run:
        raise _taken_by_none(setting, call)
    decision = _decide(setting, call, workload)
    arms = {a: _arm(setting, call, a) for a in _shown(setting) if setting.takes(call, a).all()}
    opinions = tuple(
        _opinion(setting, r, call) for r in _rules(setting, decision, int(call.world_size[0]))
    )
    if len(run) == 1:
        other = next(a for a in setting.arms if a not in run)
        needs = setting.limits(other, call)
        reason = f"the {SPOKEN[other]} kernel rejects the call, it needs {needs}"
        return Explanation(
            setting, decision, call, run[0], run[0], arms, None, None, 1.0, reason, None, None, (),
            opinions, (), (),
        )  # fmt: skip
    drawn = Arms.of_calls(setting, call)
    one, other_us = drawn.one_us[:, 0], drawn.other_us[:, 0]
    alone = ONE_STAGE if drawn.expected_gain[0] > 0 else setting.alternative
    choice = str(_chosen(setting, decision, call, np.array([alone]))[0])
    wins = float(np.mean(one < other_us))
    point = [arms[a].latency_us.value for a in setting.arms]
    separate = beats = None
    if setting.op == FUSED:
        apart = setting.latency_us(call, SEPARATE_OPS, setting.draws)[:, 0]
        separate = Estimate(float(setting.latency_us(call, SEPARATE_OPS)[0]), *_ends(apart))
        beats = float(np.mean(apart < _fused_us(setting, call, one)))
    return Explanation(
        setting=setting,
        decision=decision,
        call=call,
        choice=choice,
        alone=alone,
        arms=arms,
        margin_us=Estimate(point[1] - point[0], *_ends(other_us - one)),
        margin_pct=100 * (max(point) / min(point) - 1),
        probability=wins if choice == ONE_STAGE else 1 - wins,
        reason="",
        separate_us=separate,
        separate_probability=beats,
        pushed=_pushed(setting, call, drawn) if setting.op == ALL_REDUCE else (),
        opinions=opinions,
        token_flips=_token_flips(setting, decision, call, choice),
        parameter_flips=tuple(f for f in flips(setting, call) if not f.name.startswith(_DOUBLES)),
    )


def choices(
    setting: Setting,
    hidden_dim: int,
    world_size: int,
    workload: Workload | None = None,
    *,
    tokens: Sequence[int] | None = None,
    decision: Decision | None = None,
) -> Choices:
    """Return the choice at every captured batch size (or at ``tokens``).

    ``workload`` as in :func:`explain`. A batch that only one kernel takes runs that one; its margin
    is NaN. ``decision`` spares recommending again. Raises :class:`InputError` when neither takes
    the hidden size.
    """
    batch = captured_batch_sizes() if tokens is None else np.array(list(tokens), np.int64)
    calls = setting.shapes(batch, hidden_dim, world_size)
    runs = {a: setting.takes(calls, a) for a in _shown(setting)}
    other = setting.alternative
    neither = ~(runs[ONE_STAGE] | runs[other])
    if neither.any():
        raise _taken_by_none(setting, calls.select(neither))
    both = runs[ONE_STAGE] & runs[other]
    decided = decision or _decide(setting, calls, workload)
    point = {a: np.where(took, setting.latency_us(calls, a), np.nan) for a, took in runs.items()}
    drawn = Arms.of_calls(setting, calls)
    lo, hi = np.quantile(drawn.other_us - drawn.one_us, [TAIL, 1 - TAIL], axis=0)
    alone = _names(np.where(both, drawn.expected_gain > 0, runs[ONE_STAGE]), other)
    return Choices(
        setting=setting,
        decision=decided,
        calls=calls,
        latency_us=point,
        margin_us=point[other] - point[ONE_STAGE],
        margin_lo_us=np.where(both, lo, np.nan),
        margin_hi_us=np.where(both, hi, np.nan),
        probability_1stage=np.where(both, np.mean(drawn.one_us < drawn.other_us, axis=0), np.nan),
        choice=np.where(both, _chosen(setting, decided, calls, alone), alone),
        opinions={r.name: _says(setting, r, calls) for r in _rules(setting, decided, world_size)},
    )


def _decide(setting: Setting, calls: Shapes, workload: Workload | None) -> Decision | None:
    """Return the decision for the calls' world size; None for kernels without a choice.

    Where a kernel rejects all that would be weighed, the known workload stands in.
    """
    if setting.lacks(*setting.arms):
        return None
    n = int(calls.world_size[0])
    load = workload or Workload.of(calls.hidden_dim)
    both = setting.takes_both(setting.shapes(load.tokens, load.hidden_dim, n)).any()
    return recommend(setting, load if both else None, world_sizes=(n,))


def _flat(call: Shapes) -> Shapes:
    if len(call) != 1:
        raise InputError(f"explain takes one call, got {len(call)}; choices() takes many")
    arrays = (a.reshape(1) for a in (call.tokens, call.hidden_dim, call.world_size))
    return Shapes(call.op, call.dtype, *arrays)


def _taken_by_none(setting: Setting, calls: Shapes) -> InputError:
    needs = ", ".join(f"{SPOKEN[a]} needs {setting.limits(a, calls)}" for a in setting.arms)
    return InputError(
        f"no kernel of {setting.kernel.title} takes {calls.tokens[0]} tokens x hidden "
        f"{calls.hidden_dim[0]} ({setting.dtype}): {needs}"
    )


def _shown(setting: Setting) -> tuple[str, ...]:
    """Return the arms shown: both algorithms, and separate ops where they run otherwise."""
    return tuple(dict.fromkeys((*ALGORITHMS, setting.alternative)))


def _fused_us(setting: Setting, call: Shapes, one_us: Array) -> Array:
    """Return the faster fused arm of a call, (draws,)."""
    if not setting.takes(call, TWO_STAGE).all():
        return one_us
    two = setting.latency_us(call, TWO_STAGE, setting.draws)[:, 0]
    return np.asarray(np.minimum(one_us, two))


def _pushed(setting: Setting, call: Shapes, both: Arms) -> tuple[PushedCall, ...]:
    """Return the arms that push on a call, beside ``both`` arms of the setting."""
    from .pushed import pushed_arms  # a question about the fused op starts faster

    found = []
    for arm in pushed_arms(setting, int(call.world_size[0])):
        wins = arm.drawn_us(call) < both.fastest_us + arm.shift_us
        found.append(
            PushedCall(
                arm.arm,
                _latency(predict(setting, call, arm.arm)),
                float(arm.one_stage_us(call)[0]),
                arm.source,
                float(np.mean(wins)),
            )
        )
    return tuple(found)


def _latency(predicted: Prediction) -> Estimate:
    """Return the latency of one call as predicted."""
    us = predicted.latency_us, predicted.lo_us, predicted.hi_us
    return Estimate(*(float(a[0]) for a in us))


def _arm(setting: Setting, call: Shapes, arm: str) -> Arm:
    predicted = predict(setting, call, arm)
    drawn = setting.terms(call, arm, setting.draws)
    named = [name for name in TERMS if name in drawn]
    columns = np.broadcast_arrays(*(np.reshape(drawn[name], (-1, 1)) for name in named))
    ends = drawn_interval.ends(np.hstack(columns)).T.tolist()
    # What draws alone have is unknown and expected to be zero.
    point = {name: float(us[0]) for name, us in predicted.terms.items()}
    terms = {
        name: Estimate(point.get(name, 0.0), *both) for name, both in zip(named, ends, strict=True)
    }
    return Arm(arm, _latency(predicted), terms, str(predicted.evidence[0]))


def _ends(draws: Array) -> tuple[float, float]:
    estimate = Estimate.of(np.asarray(draws, float))
    return estimate.lo, estimate.hi


def _chosen(
    setting: Setting, decision: Decision | None, calls: Shapes, alone: NDArray[np.str_]
) -> NDArray[np.str_]:
    """Return what the rule runs; without a claim, what each call alone would."""
    rule = _recommended(decision, int(calls.world_size[0]))
    return alone if rule is None else _says(setting, rule, calls)


def _recommended(decision: Decision | None, world_size: int) -> Rule | None:
    """Return the recommended rule, None without a claim for the world size."""
    return decision.rule if decision is not None and decision.at(world_size).claimed else None


def _token_flips(
    setting: Setting, decision: Decision | None, call: Shapes, choice: str
) -> tuple[TokenFlip, ...]:
    """Return the nearest captured batch below and above at which the other arm is chosen."""
    batch = captured_batch_sizes()
    calls = setting.shapes(batch, call.hidden_dim[0], call.world_size[0])
    calls = calls.select(setting.takes_both(calls))
    if not len(calls):
        return ()
    drawn = Arms.of_calls(setting, calls)
    alone = _names(drawn.expected_gain > 0, setting.alternative)
    other = _chosen(setting, decision, calls, alone) != choice
    out = []
    below, above = calls.tokens < call.tokens[0], calls.tokens > call.tokens[0]
    for side in (calls.tokens[other & below][::-1], calls.tokens[other & above]):
        if side.size:
            flipped = setting.alternative if choice == ONE_STAGE else ONE_STAGE
            out.append(TokenFlip(int(side[0]), flipped))
    return tuple(out)


def _rules(setting: Setting, decision: Decision | None, world_size: int) -> list[Rule]:
    field = [
        r
        for r in catalogue()
        if r.op == setting.op
        and r.fabric == "xgmi"
        and r.status in ("current", "shipped", "proposed")
    ]
    order = {"current": 0, "proposed": 1, "shipped": 2}
    field.sort(key=lambda r: order[r.status])
    recommended = _recommended(decision, world_size)
    return [*([recommended] if recommended else []), *field, ALWAYS_1STAGE, ALWAYS_2STAGE]


def _says(setting: Setting, rule: Rule, calls: Shapes) -> NDArray[np.str_]:
    """Return what a rule runs, "" where it makes no claim."""
    if int(calls.world_size[0]) not in rule.world_sizes:
        return np.full(calls.tokens.shape, "", dtype="U8")
    return _names(rule.use_1stage(calls, kernel_version=setting.aiter_version), rule.otherwise)


def _opinion(setting: Setting, rule: Rule, call: Shapes) -> Opinion:
    n = int(call.world_size[0])
    sizes = rule.sizes(n) if n in rule.world_sizes else "no claim"
    return Opinion(rule, sizes, str(_says(setting, rule, call)[0]))


def _names(one_stage: NDArray[np.bool_], otherwise: str) -> NDArray[np.str_]:
    return np.where(one_stage, ONE_STAGE, otherwise)


def _finite(value: Any) -> float | None:
    """Return a number for JSON, None for what is not finite."""
    return float(value) if np.isfinite(value) else None


def _about(setting: Setting, decision: Decision | None, calls: Shapes) -> Explained:
    """Return the part of a record that says what was asked, and the rule's cutoff there."""
    cutoff = decision.at(int(calls.world_size[0])) if decision else None
    return {
        "schema": "costmodel/explain/2",
        **setting.about_its_rule(),
        "world_size": int(calls.world_size[0]),
        "hidden_dim": int(calls.hidden_dim[0]),
        "verdict": cutoff.verdict if cutoff else NOT_IDENTIFIED,
        "cutoff": {
            "bytes": cutoff.max_bytes if cutoff else None,
            "bytes_lo": cutoff.max_bytes_lo if cutoff else None,
            "bytes_hi": cutoff.max_bytes_hi if cutoff else None,
            "bytes_this_kernel_lo": cutoff.this_kernel_lo if cutoff else None,
            "bytes_this_kernel_hi": cutoff.this_kernel_hi if cutoff else None,
            "statements": [b.to_dict() for b in cutoff.statements] if cutoff else [],
        },
    }
