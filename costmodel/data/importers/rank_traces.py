"""Traces of one rank each, joined into those of one run: the calls of all ranks on one time line.

torch's profiler writes a file a rank, rocprofv3 one a process (``HOST/PID_kernel_trace.csv``,
``PID_results.db``). Their time stamps are the host's clock, so files of one host share it; where
ranks ran on several, the calls themselves show it and :mod:`costmodel.data.importers.launches`
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from .formats import Format, find_format, named
from .launches import Launches
from .rows import Imported
from .text_file import TextFile, shortened

#: The formats whose files are joined.
JOINED = ("torch-trace", "kernel-trace", "rocprofv3-json", "rocpd")
#: The one whose files are of a rank each; others are of a process, which may be no rank.
BY_RANK = "torch-trace"
#: Files that are looked at in a directory; a run of a thousand ranks writes some of each kind.
MOST_FILES = 10_000
#: So many missing ranks are named.
_NAMED = 8


def in_directory(path: Path, kind: str) -> tuple[list[Path], int]:
    """Return the traces of a directory by name, and how many other files stand in it.

    ``kind`` names their format; without it they are of the one that is there. Raises
    :class:`InputError` for a directory without any, with several formats or too many files.
    """
    of: dict[str, list[Path]] = {}
    others = 0
    for count, file in enumerate(sorted(p for p in path.rglob("*") if p.is_file())):
        if count >= MOST_FILES:
            raise InputError(f"{shortened(str(path))}: more than {MOST_FILES} files; give traces")
        try:
            found = find_format(TextFile(file)).name
        except InputError:
            found = ""
        if found in JOINED:
            of.setdefault(found, []).append(file)
        else:
            others += 1
    wanted = named(kind).name if kind else next(iter(of), "")
    if not kind and len(of) > 1:
        there = ", ".join(f"{len(files)} {name}" for name, files in of.items())
        raise InputError(f"{shortened(str(path))}: traces of several formats ({there}): --as one")
    if wanted not in of:
        raise InputError(
            f"{shortened(str(path))}: a directory without traces; give a file, or a directory of "
            f"{' or '.join(JOINED)}"
        )
    return of[wanted], others + sum(len(files) for name, files in of.items() if name != wanted)


def parse(files: Sequence[TextFile], form: Format, imported: Imported) -> None:
    """Read traces of one rank each as one trace of all.

    Raises :class:`InputError` where they are not of one run with a rank each: a file of several
    ranks or of none of the known kernels, a rank that stands in two, other GPUs or world sizes.
    """
    read = form.load().launches
    traces = [(file.name, read(file, imported)) for file in files]
    if form.name != BY_RANK:
        silent = [name for name, found in traces if not found.ranks]
        traces = [(name, found) for name, found in traces if found.ranks]
        if silent:
            more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
            imported.note(f"no all-reduce kernel in {silent[0]}{more}: a process that is no rank")
        if not traces:
            return
    names = _ranks(traces, imported)
    for what, values in (
        ("GPU", [found.gpu for _, found in traces]),
        ("ranks of the run", [str(found.run_ranks or "") for _, found in traces]),
    ):
        _alike(what, [name for name, _ in traces], values)
    whole = Launches.joined(
        imported, [(rank, found) for rank, (_, found) in zip(names, traces, strict=True)]
    )
    _note_missing(imported, traces)
    whole.give()


def _ranks(traces: Sequence[tuple[str, Launches]], imported: Imported) -> list[str]:
    """Return the rank of each file, by its place among the files where no file says one."""
    said: dict[str, str] = {}
    for name, found in traces:
        if len(found.ranks) != 1:
            devices = f"{len(found.ranks)} devices" if found.ranks else "no all-reduce kernel"
            raise InputError(f"{name}: {devices} in it; several files are joined as one rank each")
        if found.rank in said:
            raise InputError(f"{found.rank} stands in two files, {said[found.rank]} and {name}")
        if found.rank:
            said[found.rank] = name
    for at, (name, found) in enumerate(traces):
        for other, before in traces[:at]:
            if found.same_times(before):
                raise InputError(f"{other} and {name} hold the same launches: a rank stands twice")
    if not said:
        imported.note(
            "no file says its rank: each is taken as a rank of its own, and none as missing"
        )
        return [f"file {at + 1}" for at in range(len(traces))]
    silent = [name for name, found in traces if not found.rank]
    if silent:
        raise InputError(f"{silent[0]} does not say its rank (distributedInfo), other files do")
    return [found.rank for _, found in traces]


def _alike(what: str, files: Sequence[str], values: Sequence[str]) -> None:
    """Raise where files say different things; one that says nothing agrees with any."""
    said = [(value, file) for value, file in zip(values, files, strict=True) if value]
    for value, file in said:
        if value != said[0][0]:
            raise InputError(
                f"{what}: {shortened(said[0][0])} in {said[0][1]}, {shortened(value)} in {file}; "
                "give the traces of one run"
            )


def _note_missing(imported: Imported, traces: Sequence[tuple[str, Launches]]) -> None:
    """Say which ranks of the run have no file."""
    ranks = max((found.run_ranks for _, found in traces), default=0)
    have = {found.rank for _, found in traces}
    if not ranks or have == {""}:
        return
    missing = [rank for rank in range(min(ranks, 1 << 12)) if f"rank{rank}" not in have]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        listed = ", ".join(map(str, missing[:_NAMED]))
        imported.note(f"of the run's {ranks} ranks, no file is of rank {listed}{more}")
