"""The case for a rule that a report makes: recommendation, regret, worth, validation, data."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.observations import observe
from ..calibration.posterior import Calibration, shipped
from ..data import hardware, measurement
from ..data import kernels as _kernel
from ..data.histogram import BatchHistogram
from ..data.llms import LLM
from ..data.measurement import Measurements
from ..decide.recommendation import (
    MEASURED,
    NOT_IDENTIFIED,
    TRANSFERRED,
    Cutoff,
    Recommendation,
    recommend,
)
from ..decide.regret import Score, score
from ..decide.row_errors import covered
from ..decide.validation import Validation, validate
from ..decide.worth import BatchWorth, Worth, worth
from ..engines.call_sites import Engine
from ..engines.call_sites import engine as engine_named
from ..engines.patch import Emitted, snippet
from ..errors import InputError
from ..model.fabric import FULL_MESH
from ..model.shape import FUSED, WORLD_SIZES
from ..rules.condition import Compare, WholePacks, all_of, factors
from ..rules.rule import CutoffEvidence, Provenance, Rule, current, validity
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
    def claimed(self) -> bool:
        """Whether the recommendation makes a claim; where not, the engine's cutoff stays."""
        return self.cutoff.verdict != NOT_IDENTIFIED

    @property
    def undecided(self) -> bool:
        """Whether the interval of what the change spares over the workload includes zero."""
        return self.score.differ > 0 and self.score.saved_pct.lo <= 0 <= self.score.saved_pct.hi

    @property
    def evidence(self) -> str:
        """The evidence class in words, with what the latencies rest on where that differs."""
        words = evidence(self.cutoff.verdict)
        verdicts = (MEASURED, TRANSFERRED)
        return words if self.cutoff.verdict in verdicts else f"{words} ({self.worth.evidence})"

    @property
    def changed(self) -> tuple[BatchWorth, ...]:
        """The captured batch sizes that change the algorithm."""
        return tuple(b for b in self.worth.batches if b.old != b.new)

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
    ``target`` are the options that choose GPU, calibration and AITER version on a command line,
    ``files`` the user's files with their hashes.
    """

    engine: Engine
    llm: LLM
    dtype: str
    aiter_version: str
    recommendation: Recommendation
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
    target: str
    files: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        ranks = ", ".join(w.tp for w in self.by_world_size)
        return (
            f"Case({self.engine.title} on {self.gpu}, {self.llm.name}, {ranks}; calibration "
            f"{self.calibration.id})"
        )

    @property
    def calibration(self) -> Calibration:
        """The calibration behind it all."""
        return self.recommendation.calibration

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
        return self.recommendation.gpu

    @property
    def kernels(self) -> str:
        """The kernels that the calibration speaks for, as people call them."""
        return _kernel.calibrated(self.calibration.kernel_family, self.aiter_version).title

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
    calibration: Calibration,
    *,
    gpu: str,
    engine: str,
    llm: LLM,
    dtype: str | None = None,
    aiter_version: str = _kernel.LATEST,
    world_sizes: Sequence[int] = WORLD_SIZES,
    measurements: Sequence[str | Path] = (),
    histogram: BatchHistogram | None = None,
    files: Sequence[str | Path] = (),
    target: Sequence[str] | None = None,
) -> Case:
    """Work out everything that a report says.

    ``measurements`` are schema 1 files or directories (default: the published rows); ``files`` are
    further files of the user's whose hashes are stated; ``target`` the options that chose GPU and
    calibration on the command line. Raises :class:`InputError` when the recommendation makes no
    claim at any of the world sizes.
    """
    place = engine_named(engine)
    dtype = dtype or llm.dtype
    found = recommend(
        calibration, gpu=gpu, dtype=dtype, aiter_version=aiter_version,
        world_sizes=tuple(world_sizes),
    )  # fmt: skip
    if all(c.verdict == NOT_IDENTIFIED for c in found.cutoffs):
        why = "; ".join(f"TP{c.world_size}: {c.reason}" for c in found.cutoffs)
        raise InputError(
            f"nothing to report for {gpu}: no cutoff is identified ({why}); 'costmodel plan' says "
            "what to measure"
        )
    ran = _kernel.calibrated(calibration.kernel_family, aiter_version)
    options = shlex.join(_target(found) if target is None else target)
    provenance = Provenance(
        f"costmodel emit --for {place.name} {options}",
        calibration.id, calibration.sha256, found.arch, gpu,
        {
            c.world_size: CutoffEvidence(c.verdict, c.max_bytes_lo, c.max_bytes_hi, c.reason)
            for c in found.cutoffs
        },
    )  # fmt: skip
    emitted = snippet(place, _with_old_limits(found.rule(), ran), provenance, ran)
    old, new = current(place.name, FUSED), emitted.adapted.rule
    load = histogram or BatchHistogram.alike()
    rows = measurement.read_all(measurements) if measurements else measurement.published()
    judged, unjudged = _validate(rows, calibration, gpu, aiter_version)
    how: dict[str, Any] = {"gpu": gpu, "dtype": dtype, "aiter_version": aiter_version}
    return Case(
        engine=place,
        llm=llm,
        dtype=dtype,
        aiter_version=aiter_version,
        recommendation=found,
        provenance=provenance,
        emitted=emitted,
        old=old,
        by_world_size=tuple(
            AtWorldSize(
                world_size=c.world_size,
                cutoff=c,
                old_sizes=_sizes(old, c.world_size),
                new_sizes=_sizes(new, c.world_size),
                score=score(calibration, new, old, world_size=c.world_size, **how),
                worth=worth(calibration, llm, c.world_size, old, new, histogram=load, **how),
            )
            for c in found.cutoffs
        ),
        elsewhere=_elsewhere(found, old, new, tuple(world_sizes), dtype, aiter_version),
        validation=judged,
        unjudged=unjudged,
        table=rows,
        published=not measurements,
        histogram=load,
        target=options,
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


def _elsewhere(
    found: Recommendation,
    old: Rule,
    new: Rule,
    world_sizes: tuple[int, ...],
    dtype: str,
    aiter_version: str,
) -> tuple[Elsewhere, ...]:
    """Score the change on the default GPUs of the other archs, by the calibrations shipped."""
    out = []
    if found.calibration.fabric != FULL_MESH:
        return ()
    for arch, gpus in hardware.GPUS.items():
        if arch == found.arch:
            continue
        other = shipped(arch)
        scores = tuple(
            score(
                other, new, old, gpu=gpus[0], world_size=n, dtype=dtype,
                aiter_version=aiter_version,
            )
            for n in world_sizes
        )  # fmt: skip
        out.append(Elsewhere(gpus[0], other.id, scores))
    return tuple(out)


def _target(found: Recommendation) -> list[str]:
    """Return the options that choose the recommendation's GPU and AITER version."""
    out = ["--gpu", found.gpu]
    return (
        out
        if found.aiter_version == _kernel.LATEST
        else [*out, "--aiter-version", found.aiter_version]
    )


def _with_old_limits(rule: Rule, kernel: _kernel.Kernel) -> Rule:
    """Add what old kernels ask for and no engine checks: a token cap, a hidden set."""
    limits = [
        f
        for f in factors(validity(kernel))
        if not isinstance(f, WholePacks) and not (isinstance(f, Compare) and f.quantity == "packs")
    ]
    return replace(rule, condition=all_of(rule.condition, *limits))


def _validate(
    rows: Measurements, calibration: Calibration, gpu: str, aiter_version: str
) -> tuple[Validation | None, str]:
    """Judge the rules on measured pairs of the GPU, or say why that cannot be done."""
    try:
        return validate(rows, calibration, gpu=gpu, op=FUSED, aiter_version=aiter_version), ""
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
