"""``costmodel emit --runtime-table``: a patch that asks a file of sizes, and that file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ..data import hardware, kernels
from ..errors import InputError
from ..files import json_text
from ..rules import table
from ..rules.evidence import Provenance
from ..rules.rule import Rule

if TYPE_CHECKING:
    from ..engines.consultation import Consultation
    from ..engines.kernel_version import RunningKernel
    from ..engines.source import Tree


class Files(Struct, frozen=True):
    """Where output goes: the patch (None: standard output), its tests, and the table."""

    out: str | None
    tests: str | None
    table: str | None

    def check_apart(self) -> None:
        """Raise :class:`InputError` where two of them are one file."""
        given = {"--out": self.out, "--tests": self.tests, "--table-out": self.table}
        seen: dict[Path, str] = {}
        for option, file in given.items():
            if file is None:
                continue
            other = seen.setdefault(Path(file).resolve(), option)
            if other != option:
                raise InputError(f"{other} and {option} name the same file {file}")


def emit(
    wanted: str,
    asked: tuple[Rule, Provenance] | None,
    dtype: str,
    running: RunningKernel,
    tree: Tree | None,
    files: Files,
    write: Callable[[str | None, str], None],
    *,
    fills: bool = False,
) -> Sequence[str]:
    """Write the patch or the snippet, its tests and the table; return what to tell.

    With ``fills`` the engine tunes at its start-up and fills the table. ``asked`` is the rule that
    goes into the table, None where only the patch is wanted.
    """
    from ..engines import consultation_notes as about
    from ..engines import consultation_tests
    from ..engines.call_sites import serving_engine
    from ..engines.consultation import consult

    engine, command = serving_engine(wanted), _command(wanted, running, fills)
    if tree is None:
        text, made = about.snippet(engine, running.kernel, command, fills=fills)
    else:
        made = consult(tree, running.kernel, command, fills=fills)
        text = made.text
    record = _table(asked, dtype, running, made) if asked else None
    found = about.notes(made, running, record)
    notes = [note.short for note in found if note.short]
    if tree is not None and text:
        text = about.head(engine, tree.version, found, command) + text
    elif tree is not None:
        notes = ["the table is already asked; the diff is empty", *notes[1:2]]
    tests = ""
    if files.tests:
        root = str(tree.path) if tree is not None and tree.path.is_dir() else ""
        tests = consultation_tests.render(made, engine, root)
    if text:
        write(files.out, text)
    if files.tests:
        write(files.tests, tests)
    if files.table and record is not None:
        write(files.table, json_text(record))
    return notes


def _table(
    asked: tuple[Rule, Provenance], dtype: str, running: RunningKernel, made: Consultation
) -> table.TableRecord:
    rule, provenance = asked
    place = next((p for p in made.done if p.op == rule.op), None)
    if place is None:
        ops = ", ".join(dict.fromkeys(p.op for p in made.done))
        raise InputError(f"nothing asks a table for op '{rule.op}' here; asked for: {ops}")
    today = datetime.now(timezone.utc).date()
    return table.make(rule, provenance, running.kernel, dtype=dtype, held=place.held(), day=today)


def with_gpu(provenance: Provenance, arch: str | None, gpu: str | None) -> Provenance:
    """Return where a rule by name comes from, with the GPU that its table is for."""
    if provenance.gpu or not (arch or gpu):
        return provenance
    arch, gpu = hardware.choose(arch, gpu)
    return replace(provenance, arch=arch, gpu=gpu)


def _command(wanted: str, running: RunningKernel, fills: bool) -> str:
    """Return the command that makes the same patch; no GPU decides what stands in it."""
    newest = kernels.aiter()
    same = replace(running.kernel, version=newest.version) == newest
    version = [] if same else ["--aiter-version", running.stated or "unknown"]
    option = "--runtime" if fills else "--runtime-table"
    return shlex.join(["costmodel", "emit", option, "--for", wanted, *version])
