"""Other harnesses' output, read into schema 1 measurements.

A reader turns a file into rows; what the file does not say stays empty unless the user says it
(:class:`~costmodel.data.importers.rows.Said`). Nothing is guessed, and every result that the file
states is a row or is left with a reason (:class:`~costmodel.data.importers.rows.Imported`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from .. import links, measurement
from ..measurement import Measurements
from .formats import FORMATS, LINK_RATES, Format, beside, find_format, named
from .grouped import OTHER_RANK
from .launchers import ranks_with_tables
from .rows import ASKED, Imported, Said
from .text_file import TextFile

if TYPE_CHECKING:
    from .launches import Launches

__all__ = [
    "ASKED",
    "FORMATS",
    "Format",
    "Imported",
    "Said",
    "account",
    "convert",
    "read",
    "read_launches",
]

#: Longer messages about a file have their middle left out.
MESSAGE_CHARACTERS = 450


def read(path: str | Path, said: Said, kind: str = "") -> tuple[Measurements, Imported]:
    """Read a file of another harness; return its measurements and the account of the file.

    ``kind`` names the format; without it the file's content decides. Raises :class:`InputError`
    for an unknown format, an unreadable file, a file without a latency that is a row, and results
    that contradict what the user said.
    """
    file, form = _opened(path, kind)
    if form.makes == LINK_RATES:
        raise InputError(f"{file.name}: {form.name} states link rates, no latencies")
    imported = Imported(said, kind or form.name, asked=bool(kind))
    _parse(file.name, form, imported, lambda: _read(file, form, imported))
    _note_ranks(file, form, imported)
    return Measurements.from_rows(imported.rows), imported


def convert(
    path: str | Path | Sequence[str | Path], out: str | Path, said: Said, kind: str = ""
) -> tuple[Format, Imported]:
    """Read a file of another harness and write its rows to ``out``, in batches.

    Arguments and errors are those of :func:`read`; ``out`` is written whole or not at all. Link
    rates are written in their own schema (:mod:`costmodel.data.links`). Several paths, or a
    directory, are traces of one rank each, which are joined
    (:mod:`costmodel.data.importers.rank_traces`).
    """
    paths, others = _files(path, kind)
    if len(paths) != 1:
        return _convert_joined(paths, out, said, kind, others)
    file, form = _opened(paths[0], kind)
    with measurement.writing(out) if form.makes != LINK_RATES else links.writing(out) as write:
        imported = Imported(said, kind or form.name, write, asked=bool(kind))
        _note_others(imported, others)
        _parse(file.name, form, imported, lambda: _read(file, form, imported))
        _note_ranks(file, form, imported)
        imported.hand_on()
    return form, imported


def _read(file: TextFile, form: Format, imported: Imported) -> None:
    """Read a file into the account, and count what output of others stands in it."""
    ranks = ranks_with_tables(file.head) if form.general else []
    if len(ranks) < 2 or not _read_ranks(ranks, file, form, imported):
        form.parse(file, imported)
    names = {other.name for other in beside(file, form)} | imported.others
    for name in sorted(names):
        there = Imported(imported.said, name, lambda rows: None)
        try:
            named(name).parse(file, there)
        except InputError as error:
            imported.note(f"output of {name} stands in it too, and cannot be read: {error}"[:200])
        if count := there.n_rows + there.n_left:
            what = "other tables" if name == "table" else f"output of {name}"
            imported.leave(file.name, f"{what}, which --as {name} reads", count)


def _read_ranks(ranks: Sequence[str], file: TextFile, form: Format, imported: Imported) -> bool:
    """Read tables that each rank printed as calls of all; return False where they differ.

    The slowest rank's time is the call's.
    Each rank's lines are read by themselves, so that those of others do not stand between them.
    """
    accounts = []
    for rank in ranks:
        view = copy.copy(file)  # a pipe can be read but once
        view.rank = rank
        there = Imported(imported.said, imported.kind, asked=imported.asked)
        form.parse(view, there)
        accounts.append(there)
    calls = [[{**row, "latency_us": 0.0} for row in there.rows] for there in accounts]
    if not calls[0] or any(found != calls[0] for found in calls):
        return False
    for of_call in zip(*(there.rows for there in accounts), strict=True):
        slowest = max(of_call, key=lambda row: row["latency_us"])
        imported.add({**slowest, "rank_reduction": "max"}, file.name)
        imported.leave(file.name, OTHER_RANK, len(of_call) - 1)
    for there in accounts:
        for reason, left in there.left.items():
            imported.leave(left.first, reason, left.count)
        for note in there.notes:
            imported.note(note)
    return True


def _note_ranks(file: TextFile, form: Format, imported: Imported) -> None:
    """Say where several ranks printed tables: the reader of rccl-tests alone knows them apart."""
    ranks = ranks_with_tables(file.head) if form.name != "rccl-tests" else []
    if len(ranks) > 1 and OTHER_RANK not in imported.left:
        imported.note(
            f"tables of {len(ranks)} ranks stand in it, by the launcher's prefix: each is read, so "
            "that a call may be several rows; keep the lines of one rank"
        )


def _files(path: str | Path | Sequence[str | Path], kind: str) -> tuple[list[Path], int]:
    """Return the files of paths and directories, and how many of the latter are no traces."""
    paths = [path] if isinstance(path, str | Path) else list(path)
    files: list[Path] = []
    others = 0
    for one in map(Path, paths):
        if one.is_dir():
            from . import rank_traces

            found, beside = rank_traces.in_directory(one, kind)
            files, others = files + found, others + beside
        else:
            files.append(one)
    return files, others


def _note_others(imported: Imported, others: int) -> None:
    if others:
        imported.note(f"{others} other files of the directory are not read")


def _convert_joined(
    paths: Sequence[Path], out: str | Path, said: Said, kind: str, others: int
) -> tuple[Format, Imported]:
    from . import rank_traces

    if not paths:
        raise InputError("give a file to import")
    files = []
    forms = []
    for path in paths:
        file, found = _opened(path, kind)
        if found.name not in rank_traces.JOINED:
            raise InputError(
                f"{file.name} is {found.title}; several files are joined only where each is a "
                f"trace of one rank ({', '.join(rank_traces.JOINED)}): import others one by one"
            )
        files.append(file)
        forms.append(found)
    form = forms[0]
    if other := next((n for n, found in enumerate(forms) if found is not form), 0):
        raise InputError(
            f"{files[0].name} is {form.title}, {files[other].name} {forms[other].title}; give "
            "traces of one format"
        )
    with measurement.writing(out) as write:
        imported = Imported(said, kind or form.name, write, asked=bool(kind))
        _note_others(imported, others)
        _parse(
            f"{files[0].name} and {len(files) - 1} more", form, imported,
            lambda: rank_traces.parse(files, form, imported),
        )  # fmt: skip
        imported.hand_on()
    return form, imported


def read_launches(path: str | Path, kind: str = "") -> Launches:
    """Return the launches of all-reduce kernels in a trace.

    ``kind`` names the format; without it the file's content decides. Raises :class:`InputError`
    for a file that is no trace of kernels.
    """
    file, form = _opened(path, kind)
    module = form.load()
    if not hasattr(module, "launches"):
        raise InputError(f"{file.name}: {form.name} is no trace of kernels in their order")
    found: Launches = module.launches(file, Imported(Said(), kind or form.name))
    return found


def _opened(path: str | Path, kind: str) -> tuple[TextFile, Format]:
    form = named(kind) if kind else None
    file = TextFile(path, form.title if form else "output of a harness that is read")
    return file, form or find_format(file)


def _parse(name: str, form: Format, imported: Imported, parse: Callable[[], None]) -> None:
    """Read what ``name`` says into the account; raise where it gives no row."""
    try:
        parse()
    except InputError as error:  # names and cells of a file may be of any length
        text = str(error)
        if len(text) <= MESSAGE_CHARACTERS:
            raise
        half = MESSAGE_CHARACTERS // 2
        raise InputError(f"{text[: half - 1]} … {text[2 - half :]}") from None
    if imported.n_rows:
        return
    said = "; ".join([*account(imported), *imported.notes])[:200]
    raise InputError(
        f"{name}: no row could be read from it" + (f" ({said})" if said else "")
        + f"; {imported.kind} means: {form.title}"
    )  # fmt: skip


def account(imported: Imported) -> Iterator[str]:
    """Give each reason for which results were left, with their number."""
    for reason, left in sorted(imported.left.items(), key=lambda item: -item[1].count):
        yield f"{reason}: {left.count}"
