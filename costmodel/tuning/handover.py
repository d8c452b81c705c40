"""What a tuning hands over, ready to attach, beside its runs.

``measurements.csv``, ``summary.md`` and ``tune.json`` always; where a cutoff is accepted also
``rule.json``, for an engine ``rule.patch`` (a diff of the tree that was given, else the snippet)
and ``test_rule.py``; where a cutoff is the model's also ``calibration.json``, and for a language
model ``report``, for several a folder each in it. Patch, tests and report where the engine has a
call site of the op. Files of an earlier end are replaced; those that no longer follow are taken
away.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from ..data import llms, ops
from ..data.measurement import Measurements
from ..engines import boundary_tests, kernel_version
from ..engines import patch as engine
from ..engines.call_sites import serving_engine
from ..engines.source import open_tree
from ..errors import InputError
from ..files import json_text, replacing
from ..model.fabric import FULL_MESH
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from ..rules.schemas import RuleRecord
from . import summary
from .conclusion import Conclusion
from .journal import StepRecord

ROWS, SUMMARY, RECORD = "measurements.csv", "summary.md", "tune.json"
CALIBRATION, RULE, PATCH, TESTS = "calibration.json", "rule.json", "rule.patch", "test_rule.py"
REPORT = "report"


class Surveyed(TypedDict, total=False):
    """How many calls were measured in full; older records do not say it."""

    surveyed: int


class EndingRecord(Surveyed):
    """How one world size ended; bytes are None without a claim or, for an always, without limit."""

    world_size: int
    verdict: str
    reason: str
    shapes: int
    stopped: str | None
    max_bytes: int | None
    max_bytes_lo: int | None
    max_bytes_hi: int | None
    contested_pct: float | None
    judged: int
    judged_regret_pct: float | None
    steps: list[StepRecord]


class TunedOp(TypedDict, total=False):
    """Which op and dtype a tuning was of; older records are of the fused op and do not say it."""

    op: str
    dtype: str


class TuneRecord(TunedOp):
    """``costmodel/tune/1``: how a tuning ended."""

    schema: Literal["costmodel/tune/1"]
    name: str
    replayed: bool
    decided: bool
    gpu: str
    arch: str
    interconnect: str
    kernel: str
    calibration_sha256: str | None
    endings: list[EndingRecord]
    rule: RuleRecord | None


@dataclass(frozen=True)
class Handover:
    """The files of a handover, and notes for the user."""

    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def write(found: Conclusion, command: str, source: str | None = None) -> Handover:
    """Write the handover into the session's directory; ``source`` is the engine's tree."""
    directory = found.session.directory
    files, notes = [ROWS, SUMMARY, RECORD], list[str]()
    Measurements.from_rows(map(dict, found.rows())).write(directory / ROWS)
    rule, known = found.rule, found.known
    provenance = None
    for name in (CALIBRATION, RULE, PATCH, TESTS):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / REPORT, ignore_errors=True)
    if rule is not None and known is not None:
        setting, calibration = known.setting, ("", "")
        if found.modelled:
            setting.calibration.save(directory / CALIBRATION)
            files.append(CALIBRATION)
            calibration = (setting.calibration.id, setting.calibration.sha256)
        provenance = Provenance(
            command, *calibration, setting.arch, setting.gpu, known.decision.evidence
        )
        _text(directory / RULE, json_text(rule.to_json(provenance), indent=2))
        files.append(RULE)
        if found.modelled and found.session.settings["model"] and found.machine.question.engine:
            files += _report(found, command)
    _text(directory / SUMMARY, summary.markdown(found))
    _text(directory / RECORD, json_text(_record(found, provenance)))
    if rule is not None and provenance is not None and found.session.settings["engine"]:
        # Last: a tree that cannot be patched must not cost what was measured its summary.
        more, notes = _patch(found, rule, provenance, source)
        files += more
    return Handover(tuple(files), tuple(notes))


def _patch(
    found: Conclusion, rule: Rule, provenance: Provenance, source: str | None
) -> tuple[list[str], list[str]]:
    """Write the engine's patch and its tests, or the snippet where no tree was given."""
    known, directory = found.known, found.session.directory
    assert known is not None
    if known.setting.calibration.fabric != FULL_MESH:
        return [], ["no patch: the engines' GPUs are linked otherwise than this machine's"]
    target = serving_engine(found.session.settings["engine"])
    if not found.machine.question.engine:
        what = ops.vocabulary()[found.machine.question.op].title
        return [], [f"{target.title} has no call site of the {what}: no patch, no report"]
    if source is None:
        emitted = engine.snippet(target, rule, provenance, known.setting.kernel)
        _text(directory / PATCH, f"{_banner(found, '# ')}{emitted.text}")
        return [PATCH], ["rule.patch is a snippet: give --source for a diff of your tree"]
    tree = open_tree(source, target)
    running = kernel_version.asked_for(known.setting.aiter_version)
    emitted = engine.patch(tree, rule, provenance, running.kernel, running=running)
    if not emitted.text:
        return [], list(emitted.notes)
    tests = boundary_tests.of(emitted, provenance, target, tree)
    _text(directory / PATCH, f"{_banner(found)}{emitted.text}")
    _text(directory / TESTS, f"{_banner(found, '# ')}{tests}")
    return [PATCH, TESTS], list(emitted.notes)


def _banner(found: Conclusion, mark: str = "") -> str:
    """Return the line that stands before whatever comes of a replayed tuning, else nothing."""
    return f"{mark}{summary.replayed(found)}\n\n" if found.machine.replayed else ""


def _report(found: Conclusion, command: str) -> list[str]:
    """Write the report for each model; the rows that it draws are the machine's own."""
    from ..report import case
    from ..report.directory import write as write_report

    known, directory = found.known, found.session.directory
    assert known is not None
    notice = "Replayed, not measured" if found.machine.replayed else ""
    models = [llms.find(name) for name in llms.several(found.session.settings["model"])]
    for model in models:
        gathered = case.gather(
            known.setting,
            model,
            world_sizes=found.modelled,
            measurements=[directory / ROWS],
            files=[directory / CALIBRATION],
            # Measured and judged on this machine: the patch has all of it.
            propose=found.modelled,
        )
        place = directory / REPORT
        if models[1:]:
            place /= re.sub(r"[^\w.-]+", "-", model.name)
        write_report([gathered], place, command=command, notice=notice, force=True)
    return [REPORT]


def _record(found: Conclusion, provenance: Provenance | None) -> TuneRecord:
    labels, known = found.machine.labels, found.known
    endings: list[EndingRecord] = []
    for e in found.endings:
        journal = found.session.journal(e.world_size)
        c = e.cutoff
        endings.append(
            {
                "world_size": e.world_size,
                "verdict": e.verdict,
                "reason": e.reason,
                "shapes": e.shapes,
                "stopped": journal.stop["words"] if journal.stop else None,
                "max_bytes": c.max_bytes if c else None,
                "max_bytes_lo": c.max_bytes_lo if c else None,
                "max_bytes_hi": c.max_bytes_hi if c else None,
                "contested_pct": c.regrets.contested_pct if c and c.claimed else None,
                "judged": 0 if e.judged is None else len(e.judged.pairs),
                "judged_regret_pct": None if e.judged is None else e.judged.lost_pct,
                "surveyed": e.surveyed,
                "steps": journal.steps,
            }
        )
    return {
        "schema": "costmodel/tune/1",
        "name": found.machine.question.name,
        "op": found.machine.question.op,
        "dtype": found.machine.question.dtype,
        "replayed": found.machine.replayed,
        "decided": found.decided,
        "gpu": labels["gpu"],
        "arch": labels["arch"],
        "interconnect": labels["interconnect"],
        "kernel": f"{labels['kernel_family']} {labels['kernel_version']}".strip(),
        "calibration_sha256": known.setting.calibration.sha256
        if known and found.modelled
        else None,
        "endings": endings,
        "rule": found.rule.to_json(provenance) if found.rule and provenance else None,
    }


def _text(path: Path, text: str) -> None:
    try:
        with replacing(path) as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from None
