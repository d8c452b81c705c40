"""The journal of one tuning at one world size: what was known after each shape, and why it ended.

``tuning.jsonl`` in the run's directory, one line a step, append-only: the record from which a
killed tuning goes on, and which shows how the interval closed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypedDict

import msgspec

from ..errors import InputError
from ..live.run.schemas import PointRecord

FILE = "tuning.jsonl"


class StepRecord(TypedDict):
    """What was known after ``shapes`` shapes; bytes and percent are None where nothing is claimed.

    ``max_bytes`` None with the verdict ``always_1stage``: no limit. ``next`` is the shape chosen
    then.
    """

    kind: Literal["step"]
    shapes: int
    verdict: str
    max_bytes: int | None
    max_bytes_lo: int | None
    max_bytes_hi: int | None
    regret_pct: float | None
    contested_pct: float | None
    next: PointRecord | None


class StopRecord(TypedDict):
    """Why learning ended after ``shapes`` shapes, and the shapes by which the rule is judged."""

    kind: Literal["stop"]
    shapes: int
    why: str
    words: str
    judging: list[PointRecord]


class SurveyRecord(TypedDict):
    """The calls that are measured in full, in their order; ``words``: what the model lacks."""

    kind: Literal["survey"]
    words: str
    points: list[PointRecord]


class LineKind(TypedDict):
    """What tells the lines of a journal apart."""

    kind: str


Line = StepRecord | StopRecord | SurveyRecord

_LINES: dict[str, type[Line]] = {"stop": StopRecord, "survey": SurveyRecord}


class Journal:
    """The lines of a journal, read and appended to; ``path`` None keeps them in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.steps: list[StepRecord] = []
        self.stop: StopRecord | None = None
        self.survey: SurveyRecord | None = None
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                kind = msgspec.json.decode(line, type=LineKind)["kind"]
                record: Line = msgspec.json.decode(line, type=_LINES.get(kind, StepRecord))
            except msgspec.MsgspecError as error:
                raise InputError(
                    f"{path}:{number}: {error}; give the file as 'costmodel tune' wrote it"
                ) from None
            self._keep(record)
        if len(whole) < len(text):  # a torn last line
            with path.open("r+b") as stream:
                stream.truncate(len(whole))

    def add(self, record: Line) -> None:
        """Append a line and sync it."""
        self._keep(record)
        if self.path is None:
            return
        try:
            with self.path.open("ab") as stream:
                stream.write(msgspec.json.encode(record) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror or error}") from None

    def go_on(self) -> None:
        """Take back the end, so that more is learnt; shapes measured to judge count as learnt."""
        self.stop = None

    def _keep(self, record: Line) -> None:
        if record["kind"] == "stop":
            self.stop = record
        elif record["kind"] == "survey":
            self.survey = record
        else:
            self.stop = self.survey = None  # a step after an end: it was resumed
            self.steps.append(record)
