"""The directory of one run: what a killed run leaves behind, and how it is continued.

``run.json``
    Settings of the run (schema ``costmodel/run/1``), written once, atomically.
``environment.json``
    The machine it ran on (:mod:`costmodel.live.run.environment`).
``samples.jsonl``
    One line per finished shape, with every sample of every rank. Append-only; the record.
``measurements.csv``
    Schema 1, one row per shape and correct arm, computed from ``samples.jsonl`` line by line.

A shape is finished once its line and then its rows are flushed and synced. Whatever ends a run, the
bytes of finished shapes stay as they are; a torn last line is cut off when the run is resumed.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...data.measurement import COLUMNS, Measurements
from ...errors import InputError
from ...files import json_text, parse_json, read_json
from .exit_codes import CANNOT_WRITE, RunEnded
from .schemas import EnvironmentRecord, RunSettings, SampleLine

RUN = "run.json"
ENVIRONMENT = "environment.json"
SAMPLES = "samples.jsonl"
MEASUREMENTS = "measurements.csv"

#: What a damaged file of a run should be, for messages.
AS_WRITTEN = "the file as the run wrote it, or another --out"

#: Longest that ranks without a launcher may take to end (:mod:`.launcher`: 3 s), with room.
ENDING_S = 6.0

#: The option that sets each setting, for messages.
OPTIONS = {
    "backend": "--backend",
    "world_size": "--tp",
    "norm": "--norm",
    "timing": "--timing",
    "seed": "--seed",
    "rounds": "--rounds",
    "samples": "--samples",
    "calls": "--calls",
    "slots": "--slots",
    "warm_up": "the number of warm-up replays",
    "labels": "the machine or its software",
    "points": "the list of shapes and arms",
}


def of_world_size(directory: Path, world_size: int) -> Path:
    """Return where the run of one world size stands, in the directory of several."""
    return directory / f"tp{world_size}"


def read_settings(directory: Path) -> RunSettings:
    """Return ``run.json`` of a directory; raise :class:`InputError` where there is no run."""
    path = directory / RUN
    if not path.exists():
        several = ", ".join(sorted(found.parent.name for found in directory.glob(f"tp*/{RUN}")))
        raise InputError(
            f"{directory} holds runs of several world sizes ({several}); name them with --tp, or "
            "one of their directories"
            if several
            else f"{directory}: nothing to resume: there is no {RUN}; leave out --resume to start "
            "a run"
        )
    return read_json(path, RunSettings, AS_WRITTEN)


def parse_records(lines: bytes, path: Path) -> list[SampleLine]:
    """Return the lines of ``samples.jsonl``; raise :class:`InputError` for what is no record."""
    return [
        parse_json(line, SampleLine, f"{path}:{number}", AS_WRITTEN)
        for number, line in enumerate(lines.splitlines(), start=1)
    ]


def check_same(directory: Path, started: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` where ``given`` settings differ from those a run started with."""
    for key, value in given.items():
        if key not in OPTIONS or started.get(key) == value:
            continue
        name = OPTIONS[key]
        if key == "points":
            raise InputError(
                f"--resume: {name} is another than that of the run in {directory}; give the same "
                "options or none, or another --out"
            )
        raise InputError(
            f"--resume: {name} is {value}, the run in {directory} was started with "
            f"{started.get(key)}; give the same, or another --out"
        )


def check_vacant(directory: Path, world_size: int) -> None:
    """Raise :class:`InputError` if a new run cannot start in ``directory``."""
    if (directory / RUN).exists():
        started = read_settings(directory)
        if started["world_size"] != world_size:
            raise InputError(
                f"{directory} holds a run of world size {started['world_size']}, this one has "
                f"{world_size}; a directory holds one world size: give another --out"
            )
        raise InputError(
            f"{directory} holds a run already; continue it with --resume, or give another --out"
        )
    for name in (SAMPLES, MEASUREMENTS):
        if (directory / name).exists():
            raise InputError(
                f"{directory / name} exists and is no part of a run; give another --out"
            )


class RunDirectory:
    """An open run directory, held by one process at a time (rank 0)."""

    def __init__(self, directory: Path, settings: RunSettings) -> None:
        self.directory = directory
        self.settings = settings
        self.records: list[SampleLine] = []
        self._samples = self._open(SAMPLES)
        if not _locked(self._samples):
            os.close(self._samples)
            raise InputError(f"{directory}: another measure is writing there; wait for it")
        self._rows = self._open(MEASUREMENTS)

    def _open(self, name: str) -> int:
        path = self.directory / name
        with _writing(path):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    @classmethod
    def start(
        cls, directory: Path, settings: RunSettings, environment: EnvironmentRecord
    ) -> RunDirectory:
        """Start a run: write its settings and environment, and an empty table."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {directory}: cannot be made: {error.strerror}") from None
        _replace(directory / ENVIRONMENT, environment)
        _replace(directory / RUN, settings)
        run = cls(directory, settings)
        _append(run._rows, _csv([]), directory / MEASUREMENTS)
        return run

    @classmethod
    def resume(cls, directory: Path) -> RunDirectory:
        """Continue a run: read the finished shapes, cut off a torn last line, complete the rows.

        Raises :class:`InputError` where a finished line or row is not what this program wrote.
        """
        run = cls(directory, read_settings(directory))
        path = directory / SAMPLES
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        run.records = parse_records(whole, path)
        table = directory / MEASUREMENTS
        wanted = _csv([row for record in run.records for row in record["rows"]])
        rows = table.read_bytes()
        complete = rows[: rows.rfind(b"\n") + 1]
        if not wanted.startswith(complete):
            raise InputError(
                f"{table} is not what {path} says; restore it, or delete it and resume"
            )
        with _writing(directory):
            os.ftruncate(run._samples, len(whole))
            os.ftruncate(run._rows, len(complete))
        _append(run._rows, wanted[len(complete) :], table)
        return run

    def append(self, record: SampleLine) -> None:
        """Add one finished shape: its line, then its ``rows`` (schema 1 dictionaries).

        Both are on the disk when this returns. Where they cannot be written, both files are cut
        back to the last finished shape and :class:`RunEnded` is raised.
        """
        # Not msgspec, which would turn a number that is not finite into null.
        line = json.dumps(record, separators=(",", ":"), allow_nan=False, default=asdict) + "\n"
        before = os.fstat(self._samples).st_size
        _append(self._samples, line.encode(), self.directory / SAMPLES)
        try:
            _append(self._rows, _csv(record["rows"], header=False), self.directory / MEASUREMENTS)
        except RunEnded:
            os.ftruncate(self._samples, before)
            raise
        self.records.append(record)

    def finished(self) -> set[int]:
        """Return the indices of the finished points."""
        return {record["index"] for record in self.records if record["kind"] == "shape"}

    def skipped(self) -> dict[int, dict[str, str]]:
        """Return by finished point the arms that were skipped when last asked, with reasons."""
        last: dict[int, dict[str, str]] = {}
        for record in self.records:
            if record["kind"] != "again":
                last[record["index"]] = record.get("skipped", {})
        return {index: arms for index, arms in last.items() if arms}

    def close(self) -> None:
        """Close the files and free the lock."""
        for handle in (self._samples, self._rows):
            if handle >= 0:
                os.close(handle)
        self._samples = self._rows = -1


def _locked(handle: int) -> bool:
    """Take the lock of a run, waiting a little for ranks of a killed launcher, which still end."""
    until = time.monotonic() + ENDING_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.1)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into the end of the run, in one line."""
    try:
        yield
    except OSError as error:
        raise RunEnded(
            f"cannot write {path}: {error.strerror or error}; finished shapes are kept, continue "
            "with --resume once that is mended",
            CANNOT_WRITE,
        ) from None


def _append(handle: int, data: bytes, path: Path) -> None:
    """Append all of ``data`` and sync it, or leave the file as it was."""
    before = os.fstat(handle).st_size
    with _writing(path):
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, before)
            raise


def _replace(path: Path, data: RunSettings | EnvironmentRecord) -> None:
    """Write a JSON file atomically and sync it."""
    temporary = path.with_name(f".{path.name}.new")
    with _writing(path):
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.write(json_text(data))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _csv(rows: list[dict[str, Any]], header: bool = True) -> bytes:
    """Return schema 1 text of rows, checked by the project's own reader of rows."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    if rows:
        writer.writerows(row.values() for row in Measurements.from_rows(rows).to_rows())
    return out.getvalue().encode()
