"""The case for a rule on one GPU: recommendation, regret, worth, validation, data.

A report makes one case per arch: whatever writes it takes a list of them.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ..calibration.posterior import Calibration, shipped
from ..calibration.row_accounts import AccountRecord, accounts
from ..data import hardware, kernels, measurement
from ..data.deployment import Deployment
from ..data.engine_calls import FusedCalls, fused_calls
from ..data.histogram import BatchHistogram
from ..data.llms import LLM
from ..data.measurement import Measurements
from ..decide.decision import Cutoff, Decision
from ..decide.objective import MEAN, contested
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
from ..show.recommendation import evidence as cutoff_evidence
from ..show.words import answer
from ..show.worth import evidence_words

if TYPE_CHECKING:
    from ..calibration.observations import Observations
    from ..planning import Plan


class AtWorldSize(Struct, frozen=True):
    """The change at one world size: cutoff, score of the recommended rule against the old, worth.

    ``contested`` scores the calls within a factor of two of the cutoff; None where it has none.
    ``proposed``: the report proposes it. What is not decided is weighed and shown, and stays.
    """

    world_size: int
    cutoff: Cutoff
    old_sizes: str
    new_sizes: str
    score: Score
    contested: Score | None
    worth: Worth
    proposed: bool = False

    @property
    def cutoff_words(self) -> str:
        """The recommended cutoff as a rule's sizes: ``<= 464 KiB``, ``always``."""
        return answer(self.cutoff.verdict, self.cutoff.max_bytes)

    @property
    def tp(self) -> str:
        """The world size as people write it: ``TP4``."""
        return f"TP{self.world_size}"

    @property
    def undecided(self) -> bool:
        """Whether something changes that is neither decided nor surely a loss."""
        return self.score.differ > 0 and not self.decided and self.score.saved_pct.hi >= 0

    @property
    def decided(self) -> bool:
        """Whether something changes, and its intervals lie above zero.

        Both of them: what it saves over the workload, and in a decode step.
        """
        saves = not self.worth.changed or self.worth.mean_us.lo > 0
        return self.changes and self.score.saved_pct.lo > 0 and saves

    @property
    def evidence(self) -> str:
        """The evidence class in words; at 2 ranks 1-stage always wins by physics."""
        return cutoff_evidence(self.cutoff)

    @property
    def worth_evidence(self) -> str:
        """What the worth rests on, in words."""
        return evidence_words(self.worth)

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


class LossElsewhere(Struct, frozen=True):
    """What the engine's rule and the proposed one lose on another GPU that would run it too."""

    arch: str
    gpu: str
    calibration_id: str
    scores: tuple[Score, ...]

    @property
    def worse_at(self) -> list[str]:
        """The world sizes at which the change surely loses there: ``TP4``."""
        return [f"TP{s.world_size}" for s in self.scores if s.saved_pct.hi < 0]


#: Shapes of the plan that a report draws and names: as many as ``costmodel plan`` gives unasked.
PLANNED = 6

#: Kernel states that a table names before it only counts them.
NAMED_KERNELS = 2


class Source(Struct, frozen=True):
    """What a source of the calibration measured on one GPU, and how; texts as a table shows them.

    ``gpu`` says whether the source states it or it was inferred. ``used`` and ``set_aside`` count
    all rows of the source on that GPU.
    """

    name: str
    url: str
    gpu: str
    ranks: str
    used: int
    set_aside: int
    statistic: str
    timing: str
    kernels: str

    @classmethod
    def of(cls, records: Sequence[AccountRecord]) -> Source:
        """Return one source's rows on one GPU, from the accounts of its arms."""

        def said(values: Iterable[object]) -> str:
            return ", ".join(dict.fromkeys(str(v) for v in values if v)) or "-"

        first = records[0]
        versions = list(dict.fromkeys(v for r in records for v in r["kernel_versions"] if v))
        return cls(
            name=first["source"],
            url=next((r["url"] for r in records if r["url"]), ""),
            gpu=f"{first['gpu']} ({said(r['gpu_evidence'] for r in records)})",
            ranks=said(sorted({r["world_size"] or 0 for r in records})),
            used=sum(r["used"] for r in records),
            set_aside=sum(n for r in records for n in r["set_aside"].values()),
            statistic=said(r["statistic"] for r in records),
            timing=said(r["timing"] for r in records),
            kernels=said(versions) if len(versions) <= NAMED_KERNELS else f"{len(versions)} states",
        )


class Case(Struct, frozen=True, dict=True):
    """Everything that a report says. ``old`` is the engine's rule.

    ``emitted`` is the rule that is proposed, as it will stand: recommended cutoffs where the change
    is decided, the engine's elsewhere. Where none is decided it is the recommended rule.
    ``provenance`` and ``emitted`` are None where no cutoff is identified: there is no new rule.
    ``validation`` is None where no call was measured with both algorithms; ``unjudged`` says why.
    ``calls`` are the fused calls of a decode step in ``deployment``.
    ``target`` are the options that choose GPU, calibration and AITER version on a command line,
    ``served`` those of the deployment, ``files`` the user's files with their hashes.
    """

    engine: ServingEngine
    llm: LLM
    decision: Decision
    provenance: Provenance | None
    emitted: Emitted | None
    old: Rule
    by_world_size: tuple[AtWorldSize, ...]
    elsewhere: tuple[LossElsewhere, ...]
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

    def target_but(self, *options: str) -> str:
        """Return ``target`` without these options and their values."""
        return shlex.join(without(shlex.split(self.target), *options))

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
        """The rule as it would stand in the engine, guards included; without a claim ``old``."""
        return self.emitted.adapted.rule if self.emitted else self.old

    @property
    def claims(self) -> bool:
        """Whether a cutoff is identified at any of the world sizes."""
        return self.emitted is not None

    @property
    def changing(self) -> tuple[AtWorldSize, ...]:
        """The world sizes that the report proposes to change; where it proposes none, all."""
        return tuple(w for w in self.by_world_size if w.proposed) or self.by_world_size

    @cached_property
    def settling(self) -> Plan:
        """The shapes whose measurement helps most, as ``costmodel plan`` gives them unasked."""
        from ..planning import Budget, plan

        decision = self.decision
        budget = Budget(PLANNED)
        return plan(self.setting, budget, decision.workload, world_sizes=decision.world_sizes)

    @property
    def crossing(self) -> tuple[AtWorldSize, ...]:
        """The world sizes at which the arms can cross: with 2 ranks there is nothing to cross."""
        return tuple(w for w in self.by_world_size if w.world_size > 2) or self.by_world_size[:1]

    @property
    def in_order(self) -> tuple[AtWorldSize, ...]:
        """The world sizes as tables have them: 2 ranks, which physics decides, come last."""
        return tuple(sorted(self.by_world_size, key=lambda w: (w.world_size == 2, w.world_size)))

    @property
    def headline(self) -> tuple[AtWorldSize, ...]:
        """The world sizes that the report is about: the change is decided, and not by physics."""
        decided = (w for w in self.by_world_size if w.world_size > 2 and w.decided)
        return tuple(decided) if self.makes_calls else ()

    @property
    def makes_calls(self) -> bool:
        """Whether the model makes any fused call as it is deployed."""
        return self.calls.per_step > 0

    @property
    def proposes(self) -> bool:
        """Whether anything should change: a change at some world size is decided."""
        return self.makes_calls and any(w.decided for w in self.by_world_size)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """The sources that the calibration used, by GPU, with how they measured."""
        covered_by = self.calibration.coverage
        wanted = sorted({(str(s), c.gpu) for c in covered_by for s in c.sources})
        names = [name for name, _ in wanted]
        by_source: dict[tuple[str, str], list[AccountRecord]] = {pair: [] for pair in wanted}
        for record in accounts(self.table.select(np.isin(self.table.source, names))):
            by_source.get((record["source"], record["gpu"]), []).append(record)
        return tuple(Source.of(records) for records in by_source.values() if records)

    @cached_property
    def rows(self) -> Observations:
        """The measured rows that the report draws and judges by; there may be none."""
        return covered(self.calibration, self.table)

    @cached_property
    def rows_sha256(self) -> str:
        """Hash of these rows, "none" without one."""
        from ..calibration.estimate import data_sha256

        return data_sha256(self.rows) if len(self.rows) else "none"


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
    propose: Sequence[int] | None = None,
) -> Case:
    """Work out everything that a report says.

    The setting names the engine. The rule is the one recommended for the model, as ``costmodel
    recommend --model`` gives it, at the world sizes of ``propose`` (default: those at which the
    change is decided; the engine's rule stays at others). ``measurements`` are schema 1 files or
    directories (default: the published rows); ``files`` are further files of the user's whose
    hashes are stated; ``target`` the options that chose GPU, calibration and model on the command
    line, ``served`` those that chose the ``deployment`` (default: the engine, nothing else). Where
    no world size has a claim, the engine's rule stays. Raises :class:`InputError` where there is
    nothing to choose between, or no call that both arms take.
    """
    engine = serving_engine(setting.engine)
    deployed = deployment or Deployment(engine=engine.name)
    calls = fused_calls(llm, deployed)
    # Without a call of the model's the rule is that for known models: no kernel may take its size.
    load = deployed.workload([llm.hidden_size]) if calls.per_step else None
    decision = recommend(setting, load, world_sizes=world_sizes, deployment=deployed)
    options = shlex.join(_target(setting, llm) if target is None else target)
    old = current(engine.name, FUSED)
    emitting = ["costmodel", "emit", "--for", engine.name]
    # emit takes no reference: its cutoffs and their intervals are those of any benchmark.
    plain = decision
    if setting.source:
        plain = recommend(
            setting.but(source=""), load, world_sizes=world_sizes, deployment=deployed
        )
    said = without(shlex.split(options), "--source")
    provenance, emitted = _emitted(plain, engine, shlex.join([*emitting, *said]))
    new = emitted.adapted.rule if emitted else old
    weights = histogram or BatchHistogram.alike(deployed)
    by_world_size = [
        AtWorldSize(
            world_size=c.world_size,
            cutoff=c,
            old_sizes=_sizes(old, c.world_size),
            new_sizes=_sizes(new, c.world_size),
            score=c.arms.score(new, old),
            contested=_contested(c, new, old),
            worth=worth(
                setting, llm, c.world_size, old, new, histogram=weights, deployment=deployed
            ),
        )
        for c in decision.cutoffs
    ]
    decided = [w.world_size for w in by_world_size if w.decided and calls.per_step]
    proposed = decided and [n for n in world_sizes if n in (propose or decided)]
    if proposed and len(proposed) < len(world_sizes):
        only = replace(plain, cutoffs=tuple(map(plain.at, proposed)))
        said = [*without(said, "--tp"), "--tp", ",".join(map(str, proposed))]
        provenance, emitted = _emitted(only, engine, shlex.join([*emitting, *said]))
    rows = measurement.read_all(measurements) if measurements else measurement.published()
    judged, unjudged = _validate(rows, decision)
    return Case(
        engine=engine,
        llm=llm,
        decision=decision,
        provenance=provenance,
        emitted=emitted,
        old=old,
        by_world_size=tuple(replace(w, proposed=w.world_size in proposed) for w in by_world_size),
        elsewhere=_elsewhere(decision, old, emitted.adapted.rule if emitted else old),
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


def _emitted(
    decision: Decision, engine: ServingEngine, command: str
) -> tuple[Provenance | None, Emitted | None]:
    """Return a decision's rule as it would stand in the engine, with its source; None without."""
    if not any(c.claimed for c in decision.cutoffs):
        return None, None
    setting = decision.setting
    by = setting.calibration
    provenance = Provenance(command, by.id, by.sha256, setting.arch, setting.gpu, decision.evidence)
    return provenance, snippet(engine, decision.unguarded_rule, provenance, setting.kernel)


def without(words: Sequence[str], *options: str) -> list[str]:
    """Return a command line without these options and their values."""
    out = list(words)
    for option in options:
        if option in out:
            at = out.index(option)
            del out[at : at + 2]
    return out


def _contested(cutoff: Cutoff, new: Rule, old: Rule) -> Score | None:
    """Score the change on the calls within a factor of two of the new cutoff."""
    if cutoff.max_bytes is None:
        return None
    near = contested(cutoff.arms.shapes.bytes, cutoff.max_bytes)
    return cutoff.arms.select(near).score(new, old) if near.any() else None


def _sizes(rule: Rule, world_size: int) -> str:
    """Return which sizes a rule runs 1-stage, with its token cap."""
    caps = [
        f.words()
        for f in factors(rule.condition.at(world_size))
        if isinstance(f, Compare) and f.quantity == "tokens"
    ]
    return ", ".join([rule.sizes(world_size), *caps])


def _elsewhere(decision: Decision, old: Rule, new: Rule) -> tuple[LossElsewhere, ...]:
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
        out.append(LossElsewhere(arch, gpus[0], there.calibration.id, scores))
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
