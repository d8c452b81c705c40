"""The case for a rule that a report makes: recommendation, regret, worth, validation, data."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..calibration.observations import observe
from ..calibration.posterior import Calibration, shipped
from ..data import hardware, kernels, measurement
from ..data.deployment import Deployment
from ..data.engine_calls import FusedCalls, fused_calls
from ..data.histogram import BatchHistogram
from ..data.llms import LLM
from ..data.measurement import Measurements
from ..decide.decision import Cutoff, Decision
from ..decide.evidence import CLAIMED
from ..decide.objective import MEAN
from ..decide.recommendation import recommend
from ..decide.regret import Arms, Score
from ..decide.row_errors import covered
from ..decide.setting import Setting
from ..decide.validation import Validation, validate
from ..decide.worth import BatchWorth, Worth, worth
from ..engines.call_sites import ServingEngine, serving_engine
from ..engines.patch import Emitted, snippet
from ..errors import InputError
from ..model.fabric import FULL_MESH
from ..model.shape import FUSED, WORLD_SIZES
from ..rules.algebra import factors
from ..rules.catalogue import current
from ..rules.condition import Compare
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from ..show.words import evidence


@dataclass(frozen=True)
class AtWorldSize:
    """The change at one world size: cutoff, score of the new rule against the old, worth."""

    world_size: int
    cutoff: Cutoff
    old_sizes: str
    new_sizes: str
    score: Score
    worth: Worth

    @property
    def tp(self) -> str:
        """The world size as people write it: ``TP4``."""
        return f"TP{self.world_size}"

    @property
    def undecided(self) -> bool:
        """Whether the interval of what the change spares over the workload includes zero."""
        return self.score.differ > 0 and self.score.saved_pct.lo <= 0 <= self.score.saved_pct.hi

    @property
    def evidence(self) -> str:
        """The evidence class in words, with what the latencies rest on where that differs."""
        words = evidence(self.cutoff.verdict)
        if self.cutoff.verdict in CLAIMED:
            return words
        return f"{words} ({evidence(self.worth.evidence)})"

    @property
    def changed(self) -> tuple[BatchWorth, ...]:
        """The captured batch sizes that change the algorithm."""
        return self.worth.changed

    @property
    def most_saved(self) -> BatchWorth:
        """The batch size at which the change saves most; there must be one that changes."""
        return max(self.changed, key=lambda b: b.saved_us.value)

    @property
    def changes(self) -> bool:
        """Whether the two rules decide any call of the workload or any batch differently."""
        return self.score.differ > 0 or bool(self.changed)


@dataclass(frozen=True)
class Elsewhere:
    """What the engine's rule and the proposed one lose on another GPU that would run it too."""

    gpu: str
    calibration_id: str
    scores: tuple[Score, ...]

    @property
    def worse_at(self) -> list[str]:
        """The world sizes at which the change surely loses there: ``TP4``."""
        return [f"TP{s.world_size}" for s in self.scores if s.saved_pct.hi < 0]


@dataclass(frozen=True)
class Source:
    """A source of measured rows that the calibration used: where it is, and how many rows."""

    name: str
    url: str
    gpus: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Case:
    """Everything that a report says. ``old`` is the engine's rule now, ``new`` as it will stand.

    ``validation`` is None where no call was measured with both algorithms; ``unjudged`` says why.
    ``calls`` are the fused calls of a decode step in ``deployment``.
    ``target`` are the options that choose GPU, calibration and AITER version on a command line,
    ``served`` those of the deployment, ``files`` the user's files with their hashes.
    """

    engine: ServingEngine
    llm: LLM
    decision: Decision
    provenance: Provenance
    emitted: Emitted
    old: Rule
    by_world_size: tuple[AtWorldSize, ...]
    elsewhere: tuple[Elsewhere, ...]
    validation: Validation | None
    unjudged: str
    table: Measurements
    published: bool
    histogram: BatchHistogram
    deployment: Deployment
    calls: FusedCalls
    target: str
    served: str
    files: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        ranks = ", ".join(w.tp for w in self.by_world_size)
        return (
            f"Case({self.engine.title} on {self.gpu}, {self.llm.name}, {ranks}; calibration "
            f"{self.calibration.id})"
        )

    @property
    def setting(self) -> Setting:
        """What was asked."""
        return self.decision.setting

    @property
    def calibration(self) -> Calibration:
        """The calibration behind it all."""
        return self.setting.calibration

    @property
    def is_xgmi(self) -> bool:
        """Whether the calibration is of the mesh of xGMI links, which the engines' GPUs have."""
        return self.calibration.fabric == FULL_MESH

    @property
    def judged_on_its_own_rows(self) -> bool:
        """Whether the measured pairs are of sources that the calibration was fitted to."""
        v = self.validation
        return v is not None and bool(set(v.pairs.source.tolist()) & set(v.own_sources))

    @property
    def gpu(self) -> str:
        """The GPU."""
        return self.setting.gpu

    @property
    def kernels(self) -> str:
        """The kernels that the calibration speaks for, as people call them."""
        return self.setting.kernel.title

    @property
    def new(self) -> Rule:
        """The rule as it will stand in the engine, its guards included."""
        return self.emitted.adapted.rule

    @property
    def changes(self) -> bool:
        """Whether anything changes at all."""
        return any(w.changes for w in self.by_world_size)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The sources that the calibration used, with the addresses that the rows give."""
        rows = observe(self.table).table
        found = []
        for name in sorted({str(s) for c in self.calibration.coverage for s in c.sources}):
            mine = rows.source == name
            url = next((u for u in np.unique(rows.url[mine]).tolist() if u), "")
            gpus = {c.gpu for c in self.calibration.coverage if name in c.sources}
            found.append(Source(name, url, tuple(sorted(gpus)), int(mine.sum())))
        return tuple(found)

    @cached_property
    def rows_sha256(self) -> str:
        """Hash of the measured rows that the report draws and judges by."""
        from ..calibration.estimate import data_sha256

        return data_sha256(covered(self.calibration, self.table))


def gather(
    setting: Setting,
    llm: LLM,
    *,
    world_sizes: Sequence[int] = WORLD_SIZES,
    measurements: Sequence[str | Path] = (),
    histogram: BatchHistogram | None = None,
    files: Sequence[str | Path] = (),
    target: Sequence[str] | None = None,
    deployment: Deployment | None = None,
    served: Sequence[str] = (),
) -> Case:
    """Work out everything that a report says.

    The setting names the engine. The rule is the one recommended for the model, as
    ``costmodel recommend --model`` gives it. ``measurements`` are schema 1 files or directories
    (default: the published rows); ``files`` are further files of the user's whose hashes are
    stated; ``target`` the options that chose GPU, calibration and model on the command line,
    ``served`` those that chose the ``deployment`` (default: the engine, nothing else). Raises
    :class:`InputError` when the recommendation makes no claim at any of the world sizes.
    """
    engine = serving_engine(setting.engine)
    deployed = deployment or Deployment(engine=engine.name)
    calls = fused_calls(llm, deployed)
    # Without a call of the model's the rule is that for known models: no kernel may take its size.
    load = deployed.workload([llm.hidden_size]) if calls.per_step else None
    decision = recommend(setting, load, world_sizes=world_sizes, deployment=deployed)
    if not any(c.claimed for c in decision.cutoffs):
        raise InputError(
            f"nothing to report: {decision.refusal()}; 'costmodel plan' says what to measure"
        )
    calibration, gpu = setting.calibration, setting.gpu
    options = shlex.join(_target(setting, llm) if target is None else target)
    provenance = Provenance(
        f"costmodel emit --for {engine.name} {options}",
        calibration.id, calibration.sha256, setting.arch, gpu, decision.evidence,
    )  # fmt: skip
    emitted = snippet(engine, decision.unguarded_rule, provenance, setting.kernel)
    old, new = current(engine.name, FUSED), emitted.adapted.rule
    weights = histogram or BatchHistogram.alike(deployed)
    rows = measurement.read_all(measurements) if measurements else measurement.published()
    judged, unjudged = _validate(rows, decision)
    return Case(
        engine=engine,
        llm=llm,
        decision=decision,
        provenance=provenance,
        emitted=emitted,
        old=old,
        by_world_size=tuple(
            AtWorldSize(
                world_size=c.world_size,
                cutoff=c,
                old_sizes=_sizes(old, c.world_size),
                new_sizes=_sizes(new, c.world_size),
                score=c.arms.score(new, old),
                worth=worth(
                    setting, llm, c.world_size, old, new, histogram=weights, deployment=deployed
                ),
            )
            for c in decision.cutoffs
        ),
        elsewhere=_elsewhere(decision, old, new),
        validation=judged,
        unjudged=unjudged,
        table=rows,
        published=not measurements,
        histogram=weights,
        deployment=deployed,
        calls=calls,
        target=options,
        served=shlex.join(served),
        files=tuple((str(f), _sha256(Path(f))) for f in [*_files(measurements), *files]),
    )


def _sizes(rule: Rule, world_size: int) -> str:
    """Return which sizes a rule runs 1-stage, with its token cap."""
    caps = [
        f.words()
        for f in factors(rule.condition.at(world_size))
        if isinstance(f, Compare) and f.quantity == "tokens"
    ]
    return ", ".join([rule.sizes(world_size), *caps])


def _elsewhere(decision: Decision, old: Rule, new: Rule) -> tuple[Elsewhere, ...]:
    """Score the change on the default GPUs of the other archs, by the calibrations shipped."""
    out = []
    setting = decision.setting
    if setting.calibration.fabric != FULL_MESH:
        return ()
    for arch, gpus in hardware.GPUS.items():
        if arch == setting.arch:
            continue
        there = setting.but(calibration=shipped(arch), gpu=gpus[0], source="")
        scores = tuple(
            Arms.of(there, decision.workload, n).score(new, old) for n in decision.world_sizes
        )
        out.append(Elsewhere(gpus[0], there.calibration.id, scores))
    return tuple(out)


def _target(setting: Setting, llm: LLM) -> list[str]:
    """Return the options that choose the decision's GPU, kernels and model."""
    out = ["--gpu", setting.gpu]
    if setting.aiter_version != kernels.LATEST:
        out += ["--aiter-version", setting.aiter_version]
    if setting.otherwise:
        out += ["--otherwise", setting.otherwise]
    if setting.objective != MEAN:
        out += ["--objective", setting.objective]
    return [*out, *(["--model", llm.name] if llm.hf_id else ["--config", llm.source])]


def _validate(rows: Measurements, decision: Decision) -> tuple[Validation | None, str]:
    """Judge the report's rule on measured pairs of the GPU, or say why that cannot be done."""
    load = decision.workload
    try:
        return validate(rows, decision.setting, every_gpu=False, op=FUSED, workload=load), ""
    except InputError as error:
        return None, str(error)


def _files(measurements: Sequence[str | Path]) -> list[Path]:
    """Return the files behind schema 1 files and directories."""
    found: list[Path] = []
    for path in map(Path, measurements):
        found += sorted(path.rglob("*.csv")) if path.is_dir() else [path]
    return found


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; cannot be read") from None
