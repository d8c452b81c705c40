"""The live op judged: shapes that no calibration saw, measured here, then validated.

``costmodel validate --live BACKEND`` measures forced 1-stage and 2-stage (and ``auto`` where the
back end has a rule of its own) as ``costmodel measure`` does, and hands the rows to
:func:`~.decide.validation.validate`. Applying the recommended rule is choosing one of the two
forced arms per shape, so its latency is one of the two that were measured side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from ..calibration.observations import observe
from ..data import measurement
from ..data.measurement import Measurements
from ..data.workload import Workload
from ..decide.crossings import MeasuredCrossing, measured_crossings
from ..decide.fit_schemas import ValidationRecord
from ..decide.measured_regret import (
    RECOMMENDED,
    Agreement,
    RuleRegret,
    agreement,
    judge,
    without_gaps,
)
from ..decide.pairs import Pairs, pair
from ..decide.recommendation import recommend
from ..decide.row_errors import Rows, covered
from ..decide.setting import Setting
from ..decide.validation import Validation, ValidationLimits, validate
from ..errors import InputError
from ..files import json_text
from ..model.shape import FUSED
from ..rules.catalogue import ALWAYS_1STAGE, ALWAYS_2STAGE, current, shipped
from ..rules.rule import Rule
from .run.directory import MEASUREMENTS, SAMPLES, parse_records, read_settings
from .run.points import SCHEMA

#: Between the powers of two that calibrations are usually measured at.
TOKENS = (1, 3, 6, 12, 24, 48, 96, 192, 384)

HIDDEN_DIMS = (2880, 4096, 5120, 7168, 8192)

#: Row noise (log scale) where no calibration covers the rows.
NOISE = 0.03


ChoiceMade = TypedDict(
    "ChoiceMade",
    {
        "world_size": int, "tokens": int, "hidden_dim": int, "dtype": str, "chosen": str,
        "1stage_us": float, "2stage_us": float, "regret_pct": float,
    },
)  # fmt: skip
ChoiceMade.__doc__ = "What the recommended rule runs at one shape, and what either arm took."


class AutoRan(TypedDict):
    """Which kernels ``auto`` launched at a shape."""

    tokens: int
    hidden_dim: int
    dtype: str
    kernels: list[str]


class LiveRecord(TypedDict):
    """The ``live`` part of a record."""

    backend: str
    gpu: str
    shapes: int
    choices: list[ChoiceMade]
    auto_ran: list[AutoRan]


class LiveValidationRecord(ValidationRecord, total=False):
    """``costmodel/validate/1``, with what was measured for it, if anything was."""

    live: LiveRecord


@dataclass(frozen=True)
class Live:
    """What a live run was, beside the validation of its rows.

    ``choices`` tells per shape what the recommended rule runs and which arm was faster;
    ``kernels`` what ``auto`` launched, as profiled, for back ends that have it.
    """

    backend: str
    gpu: str
    shapes: int
    choices: tuple[ChoiceMade, ...]
    kernels: tuple[AutoRan, ...]

    def to_dict(self) -> LiveRecord:
        """Return the ``live`` part of the record."""
        return {
            "backend": self.backend,
            "gpu": self.gpu,
            "shapes": self.shapes,
            "choices": list(self.choices),
            "auto_ran": list(self.kernels),
        }


@dataclass(frozen=True)
class Measured:
    """The rules on rows that the model does not cover: measured latencies alone."""

    reason: str
    choice: Agreement
    regret: tuple[RuleRegret, ...]
    crossings: tuple[MeasuredCrossing, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def to_dict(self) -> ValidationRecord:
        """Return a ``costmodel/validate/1`` record whose accuracy has no rows."""
        return {
            "schema": "costmodel/validate/1",
            "accuracy": {
                "n": 0,
                "median_ape": None,
                "p90_ape": None,
                "max_ape": None,
                "coverage90": None,
                "median_ape_offset": None,
                "reason": self.reason,
            },
            "choice": self.choice.to_dict(),
            "regret": [r.to_dict() for r in self.regret],
            "crossings": [c.to_dict() for c in self.crossings],
            "passed": self.passed,
        }


def arguments(
    backend: str,
    world_size: int | None,
    hidden: Sequence[int],
    tokens: Sequence[int],
    dtype: str,
    out: Path,
    seen: Measurements | None,
    more: Sequence[str] = (),
) -> list[str]:
    """Return the options of ``costmodel measure`` for the shapes that are not in ``seen``.

    Raises :class:`InputError` when none is left. Writes a plan file next to ``out``.
    """
    known = set()
    if seen is not None:
        columns = (seen.world_size, seen.tokens, seen.hidden_dim, seen.dtype)
        known = set(zip(*(c.tolist() for c in columns), strict=True))
    arms = ["1stage", "2stage", *(["auto"] if backend == "aiter" else [])]
    entries = [
        {
            "world_size": world_size,
            "tokens": count,
            "hidden_dim": size,
            "dtype": kind,
            "arms": arms,
        }
        for kind in dtype.split(",")
        for size in hidden
        for count in tokens
        if (world_size, count, size, kind) not in known
    ]
    if not entries:
        raise InputError(
            "every shape asked for is among the rows of the calibration (--measurements); name "
            "others with --hidden and --tokens"
        )
    plan = out.parent / f"{out.name}.plan.json"
    plan.write_text(json_text({"schema": SCHEMA, "shapes": entries}))
    options = ["--backend", backend, "--plan", str(plan), "--out", str(out)]
    return [*options, *(["--tp", str(world_size)] if world_size else []), *more]


def judge_run(
    directory: Path, setting: Setting, *, limits: ValidationLimits | None = None
) -> tuple[Validation | Measured, Live]:
    """Judge the rows of a finished run directory, by the rule recommended for its hidden sizes.

    Raises :class:`InputError` when no shape has both arms.
    """
    limits = limits or ValidationLimits()
    table = measurement.read(directory / MEASUREMENTS)
    backend = read_settings(directory)["backend"]
    pairs = pair(table, FUSED)
    if not len(pairs):
        raise InputError(f"{directory}: no shape was measured with both algorithms")
    found: Validation | Measured
    if len(covered(setting.calibration, table)):
        found = validate(
            table, setting, limits=limits, op=FUSED,
            workload=Workload.of(np.unique(pairs.hidden_dim).tolist()),
        )  # fmt: skip
        rules = {(a.setting.gpu, a.setting.dtype): a.rule for a in found.advice}
    else:
        decision = recommend(setting, world_sizes=np.unique(pairs.world_size).tolist())
        own = without_gaps(decision, current("aiter", FUSED))
        rules = dict.fromkeys(zip(pairs.gpu.tolist(), pairs.dtype.tolist(), strict=True), own)
        found = _measured_only(table, setting, pairs, own, limits)
    machine = ", ".join(sorted(set(table.gpu.tolist()) - {""})) or "CPU processes"
    live = Live(
        backend,
        machine,
        len(pairs),
        _choices(pairs, rules, setting.aiter_version),
        _auto_ran(directory),
    )
    return found, live


def _measured_only(
    table: Measurements, setting: Setting, pairs: Pairs, rule: Rule, limits: ValidationLimits
) -> Measured:
    seen = observe(table, family=setting.calibration.kernel_family)
    why = "; ".join(f"{n} rows: {r}" for r, n in seen.set_aside.items())
    none = np.zeros(len(table), np.bool_)
    rows = Rows(
        seen, np.zeros(len(table)), none, none, np.full(len(table), NOISE),
        np.arange(len(table), dtype=np.int32), table.latency_us,
    )  # fmt: skip
    ours = pairs.use_1stage(rule, setting.aiter_version)
    field = [*shipped(FUSED), ALWAYS_1STAGE, ALWAYS_2STAGE]
    agreed = agreement(pairs, ours, limits.tie)
    regret = judge(pairs, ours, field, rows, setting.aiter_version)
    mine = next(r for r in regret if r.rule == RECOMMENDED)
    failures = []
    if mine.mean_pct > limits.regret:
        failures.append(
            f"the recommended rule's mean regret is {mine.mean_pct:.2f} %, more than "
            f"{limits.regret:g} %"
        )
    if agreed.agree_outside_tie is not None and agreed.agree_outside_tie < limits.agree:
        failures.append(
            f"the recommended rule takes the faster algorithm on "
            f"{100 * agreed.agree_outside_tie:.1f} % of the pairs outside the tie band, less than "
            f"{100 * limits.agree:g} %"
        )
    calibration = setting.calibration
    reason = f"calibration {calibration.id} ({calibration.fabric}) covers no row ({why})"
    crossings = measured_crossings(table, pairs)
    return Measured(reason, agreed, regret, crossings, tuple(failures))


def _choices(
    pairs: Pairs, rules: dict[tuple[str, str], Rule], aiter_version: str
) -> tuple[ChoiceMade, ...]:
    out: list[ChoiceMade] = []
    for i in range(len(pairs)):
        one = pairs.select(np.arange(len(pairs)) == i)
        chosen = bool(one.use_1stage(rules[str(one.gpu[0]), str(one.dtype[0])], aiter_version)[0])
        ran = float(one.one_us[0] if chosen else one.two_us[0])
        out.append(
            {
                "world_size": int(one.world_size[0]),
                "tokens": int(one.tokens[0]),
                "hidden_dim": int(one.hidden_dim[0]),
                "dtype": str(one.dtype[0]),
                "chosen": "1stage" if chosen else "2stage",
                "1stage_us": float(one.one_us[0]),
                "2stage_us": float(one.two_us[0]),
                "regret_pct": round(100 * (ran / float(one.fastest_us[0]) - 1), 3),
            }
        )
    return tuple(out)


def _auto_ran(directory: Path) -> tuple[AutoRan, ...]:
    """Return which kernels ``auto`` launched at each shape, from the raw record."""
    out = []
    path = directory / SAMPLES
    for record in parse_records(path.read_bytes(), path):
        arm, point = record["arms"].get("auto"), record["point"]
        if arm and arm["kernels"] and record["kind"] == "shape":
            out.append(
                AutoRan(
                    tokens=point["tokens"], hidden_dim=point["hidden_dim"], dtype=point["dtype"],
                    kernels=arm["kernels"],
                )
            )  # fmt: skip
    return tuple(out)
