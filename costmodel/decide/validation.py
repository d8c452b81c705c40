"""Validation: the model and every rule of the field against measured rows.

The model is judged on every row that it covers (:mod:`.row_errors`), the rules on the calls that
were measured with both algorithms (:mod:`.pairs`), by their regret (:mod:`.regret`). A measured
latency is the judge throughout; only the regret over a workload is the model's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, to_builtins
from msgspec.structs import replace

from ..calibration.libraries import all_of_a_library, of_a_library
from ..calibration.posterior import Calibration
from ..data.measurement import Measurements
from ..data.repeated import Repeated
from ..data.workload import Workload
from ..errors import InputError, nearest
from ..model.fabric import FULL_MESH
from ..model.shape import ALL_REDUCE, FUSED, ONE_STAGE, OPS, SEPARATE, TWO_STAGE
from ..rules.catalogue import ALWAYS_1STAGE, ALWAYS_2STAGE, shipped
from ..rules.rule import Rule
from .crossings import MeasuredCrossing, measured_crossings
from .measured_regret import (
    RECOMMENDED,
    Advice,
    Agreement,
    RuleRegret,
    ThreeWay,
    advise,
    agreement,
    judge,
    judge_three_way,
    over_workload,
    recommended_choice,
)
from .pairs import Pairs, calls
from .row_errors import Accuracy, Rows, compare, covered
from .setting import Setting
from .unmodelled import refusal

if TYPE_CHECKING:
    import pandas as pd

    from .fit_schemas import JudgedRecord, ValidationRecord


class ValidationLimits(Struct, frozen=True):
    """What a validation has to meet; percent, except ``agree``, a share.

    ``median_ape`` bounds the model's median error after one offset per source, ``agree`` the share
    of the pairs outside the tie band on which the recommended rule takes the faster algorithm,
    ``regret`` its mean regret. Algorithms within ``tie`` of each other count as equally fast.
    """

    median_ape: float = 5.0
    agree: float = 0.97
    regret: float = 1.0
    tie: float = 3.0


class Validation(Struct, frozen=True):
    """The outcome; ``rows`` and ``pairs`` hold what it rests on.

    ``crossings`` is what the pairs say of a cutoff by themselves, without the model.
    ``failures`` says in words what kept it from passing, ``own_sources`` which sources of the rows
    the calibration was fitted on.
    """

    calibration: Calibration
    rows: Rows
    pairs: Pairs
    limits: ValidationLimits
    accuracy: Accuracy
    choice: Agreement
    advice: tuple[Advice, ...]
    regret: tuple[RuleRegret, ...]
    three_way: ThreeWay | None
    crossings: tuple[MeasuredCrossing, ...]
    judged_against: str
    failures: tuple[str, ...]
    own_sources: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def of(self, rule: str) -> RuleRegret | None:
        """Return the regret of a rule by name, or None when it was not judged."""
        return next((r for r in self.regret if r.rule == rule), None)

    def to_frame(self) -> pd.DataFrame:
        """Return the regret of every rule as a pandas data frame."""
        import pandas as pd

        return pd.DataFrame([r.to_dict() for r in self.regret])

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else f"not passed: {'; '.join(self.failures)}"
        return f"Validation({len(self.rows)} rows, {len(self.pairs)} pairs: {verdict})"

    def to_dict(self) -> ValidationRecord:
        """Return the ``costmodel/validate/1`` record.

        Errors and regrets are in percent (``_ape``, ``_pct``) and us; ``coverage90``, ``agree``
        and ``agree_outside_tie`` are shares, null where there is nothing to share. The regret of
        ``three-way`` is above the fastest of three arms, on the calls with separate ops.
        """
        apart = (self.three_way.choice,) if self.three_way else ()
        return {
            "schema": "costmodel/validate/1",
            "accuracy": self.accuracy.to_dict(),
            "choice": self.choice.to_dict(),
            "regret": [r.to_dict() for r in (*self.regret, *apart)],
            "crossings": [c.to_dict() for c in self.crossings],
            "passed": self.passed,
            "failures": list(self.failures),
            "judged": self._judged(),
        }

    def _judged(self) -> JudgedRecord:
        rows, size, three = self.rows.observations, self.pairs.bytes, self.three_way
        return {
            "rows": {
                "read": rows.read, "used": len(self.rows), "set_aside": dict(rows.set_aside)
            },
            "known": self.accuracy.known,
            "pairs_from_bytes": int(size.min()) if len(size) else None,
            "pairs_to_bytes": int(size.max()) if len(size) else None,
            "outside_tie": self.choice.outside_tie,
            "recommended": {
                f"{a.setting.gpu}, {a.setting.dtype}": a.rule.words() for a in self.advice
            },
            "fused_regret": three.fused.to_dict() if three else None,
            "limits": to_builtins(self.limits),
        }  # fmt: skip


def validate(
    table: Measurements | Repeated | pd.DataFrame,
    setting: Setting,
    *,
    every_gpu: bool = True,
    op: str | None = None,
    include: tuple[str, ...] = ("clean",),
    against: Rule | None = None,
    fallback: Rule | None = None,
    workload: Workload | None = None,
    limits: ValidationLimits | None = None,
    need_pairs: bool = True,
) -> Validation:
    """Judge the model and the rules on the rows of a table that the setting's calibration covers.

    Rows have GPUs and dtypes of their own; ``every_gpu=False`` keeps those of the setting's GPU.
    ``op`` is the op whose rules are judged (default: the fused op if it has pairs, else plain
    all-reduce). ``against`` is judged too and takes the place of the best shipped rule in the
    verdict. Where the recommendation makes no claim, ``fallback`` decides (default: AITER's
    current rule for the op). ``workload``, for which the rule is recommended and over which regret
    is modelled, defaults to captured batch sizes crossed with the hidden sizes of known models.
    ``need_pairs=False`` judges the model alone where there are no pairs.

    Raises :class:`InputError` when no row is covered, when all are a library's (RCCL's), when no
    call was measured with both algorithms, for a rule of another op, and for one without a claim
    for a world size of the pairs.
    """
    if op is not None and op not in OPS:
        raise InputError(refusal(op, setting.gpu))
    limits = limits or ValidationLimits()
    read = Repeated.of(table)
    kinds = read.kinds
    calibration = setting.calibration
    observations = covered(
        calibration, kinds, gpu=None if every_gpu else setting.gpu, include=include,
        times=read.times,
    )  # fmt: skip
    if all_of_a_library(kinds):
        raise InputError(f"no row can be used: {of_a_library(kinds, read.times)}")
    measured = read.select(observations.index)
    rows = compare(calibration, observations, measured)
    kept = observations.table
    auto = read.select((kinds.algorithm == "auto") & np.isin(kinds.quality, include))
    for judged in (op,) if op else (FUSED, ALL_REDUCE):
        every = calls(measured, judged, auto)
        against_other = every.against(setting.alternative)
        pairs = against_other.select(against_other.both)
        if len(pairs):
            break
    if not len(pairs) and need_pairs:
        raise InputError(_no_pairs(rows, op))
    regret: tuple[RuleRegret, ...] = ()
    advice: tuple[Advice, ...] = ()
    agreed = Agreement(0, None, 0, None)
    three_way: ThreeWay | None = None
    rival = ""
    if len(pairs):
        for given in (against, fallback):
            if given is not None:
                given.check_op(judged)
        advice = advise(setting, pairs, fallback, workload)
        other = setting.alternative
        field = [*shipped(judged, otherwise=other), ALWAYS_1STAGE, ALWAYS_2STAGE]
        if against is not None:
            if against.name == RECOMMENDED:
                against = replace(against, name="given")
            field = [*(r for r in field if r.name != against.name), against]
        ours = recommended_choice(pairs, advice)
        agreed = agreement(pairs, ours, limits.tie)
        regret = judge(pairs, ours, field, rows, setting.aiter_version)
        three_way = judge_three_way(every, advice) if other == TWO_STAGE else None
        regret = over_workload(regret, pairs, advice, field)
        rival = against.name if against is not None else _best_shipped(regret)
    accuracy = rows.accuracy()
    found = Validation(
        calibration=calibration,
        rows=rows,
        pairs=pairs,
        limits=limits,
        accuracy=accuracy,
        choice=agreed,
        advice=advice,
        regret=regret,
        three_way=three_way,
        crossings=measured_crossings(kept, pairs),
        judged_against=rival,
        failures=(),
        own_sources=tuple(np.unique(kept.source[rows.known]).tolist()),
    )
    return replace(found, failures=_failures(found))


def hold_out(training: Measurements, sources: tuple[str, ...], arch: str) -> Calibration:
    """Return a calibration for ``arch`` fitted to the clean rows over xGMI of all other sources.

    Raises :class:`InputError` for a source that has no rows, and when the others say nothing of
    the arch.
    """
    from ..calibration.estimate import calibrate
    from ..calibration.observations import observe
    from ..calibration.one_fabric import on_fabric

    known = np.unique(training.source).tolist()
    for source in sources:
        if source not in known:
            raise InputError(
                f"no rows of source '{source}' to hold out{nearest(source, known)}; "
                f"known: {', '.join(known)}"
            )
    kept = on_fabric(observe(training.select(~np.isin(training.source, sources))), FULL_MESH)
    try:
        return calibrate(kept, arch=arch)[0]
    except InputError as error:
        raise InputError(f"without {', '.join(sources)}: {error}") from None


def _no_pairs(rows: Rows, op: str | None) -> str:
    table = rows.observations.table
    of_op = (table.op == op) if op else (table.op != SEPARATE)
    times = np.bincount(rows.kind, minlength=len(table))
    arms = " and ".join(
        f"{int(times[of_op & (rows.observations.algorithm == a)].sum())} {a}"
        for a in (ONE_STAGE, TWO_STAGE)
    )
    aside = sorted(rows.observations.set_aside.items(), key=lambda item: -item[1])
    why = ", ".join(f"{count} {reason}" for reason, count in aside[:3])
    more = ", ..." if len(aside) > 3 else ""
    said = f"; {sum(count for _, count in aside)} rows are set aside: {why}{more}" if aside else ""
    return (
        f"no call of {op or 'any op'} was measured with both algorithms ({arms} rows, none alike "
        f"in all but the algorithm), so no rule can be judged{said}; --accuracy-only judges the "
        "model"
    )


def _best_shipped(regret: tuple[RuleRegret, ...]) -> str:
    found = [r for r in regret if r.kind == "shipped"]
    return min(found, key=lambda r: r.mean_pct).rule if found else ""


def _failures(found: Validation) -> tuple[str, ...]:
    """Return in words what a validation does not meet."""
    limits, accuracy, choice = found.limits, found.accuracy, found.choice
    ours, rival = found.of(RECOMMENDED), found.of(found.judged_against)
    out = []
    if accuracy.median_ape_offset > limits.median_ape:
        out.append(
            f"the model's median error is {accuracy.median_ape_offset:.1f} % of the measured "
            f"latency after one offset per source, more than {limits.median_ape:g} %"
        )
    if choice.agree_outside_tie is not None and choice.agree_outside_tie < limits.agree:
        out.append(
            f"the recommended rule takes the faster algorithm on "
            f"{100 * choice.agree_outside_tie:.1f} % of the {choice.outside_tie} pairs outside the "
            f"tie band, less than {100 * limits.agree:g} %"
        )
    if ours is not None and ours.mean_pct > limits.regret:
        out.append(
            f"the recommended rule's mean regret is {ours.mean_pct:.2f} % of the faster "
            f"algorithm's latency, more than {limits.regret:g} %"
        )
    if rival is not None and rival.better and rival.behind is not None:
        out.append(
            f"the recommended rule is worse than {rival.rule} by {rival.behind.value:.2f} "
            f"percentage points of mean regret (noise explains {rival.noise_90_pct:.2f})"
        )
    return tuple(out)
