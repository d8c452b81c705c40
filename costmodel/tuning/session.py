"""One tuning on disk: what was asked, and a run directory for each world size.

``tuning.json``
    What was asked (schema ``costmodel/tuning/1``), written once.
``tp2``, ``tp4``, ``tp8``
    The run at each world size (:mod:`costmodel.live.run.directory`) with its journal.

What is handed over at the end stands beside them (:mod:`.handover`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from ..data.workload import Workload
from ..decide.stopping import StoppingLimits
from ..engines.call_sites import serving_engine
from ..errors import InputError
from ..files import json_text, read_json, replacing
from ..live.run.directory import RUN, SAMPLES, of_world_size, parse_records, read_settings
from ..live.run.schemas import Labels, SampleLine
from ..model.shape import FUSED
from .journal import FILE, Journal
from .knowledge import Question, TunedMachine

SETTINGS = "tuning.json"


class AskedOp(TypedDict, total=False):
    """The op of a tuning, which older ones do not say: the fused one."""

    op: str


class TuningSettings(AskedOp):
    """``costmodel/tuning/1``: what a tuning was started with; ``name`` is the source of its rows.

    ``hidden`` empty: known models. ``model`` names models of the catalogue, with commas, or none.
    """

    schema: Literal["costmodel/tuning/1"]
    name: str
    backend: str
    world_sizes: list[int]
    dtype: str
    hidden: list[int]
    model: str
    engine: str
    otherwise: str
    objective: str
    contested_pct: float
    shapes: int


class Session:
    """A tuning's directory with what was asked."""

    def __init__(self, directory: Path, settings: TuningSettings) -> None:
        self.directory = directory
        self.settings = settings

    @classmethod
    def start(cls, directory: Path, settings: TuningSettings) -> Session:
        """Make the directory; raise :class:`InputError` where something stands there."""
        cls.check_vacant(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with replacing(directory / SETTINGS) as stream:
                stream.write(json_text(settings))
        except OSError as error:
            raise InputError(f"--out {directory}: cannot be made: {error.strerror}") from None
        return cls(directory, settings)

    @staticmethod
    def check_vacant(directory: Path) -> None:
        """Raise :class:`InputError` where no tuning can start in a directory."""
        if directory.exists() and not directory.is_dir():
            raise InputError(f"--out {directory}: is a file; give a directory")
        if (directory / SETTINGS).exists():
            raise InputError(
                f"{directory} holds a tuning already; go on with --resume, conclude from what "
                "there is with --finish, or give another --out"
            )
        if directory.is_dir() and any(directory.iterdir()):
            raise InputError(f"--out {directory}: exists and is not empty; give another")

    @classmethod
    def open(cls, directory: Path, asked: Mapping[str, Any] | None = None) -> Session:
        """Open a tuning that was started; ``asked`` are settings that must be the same.

        Raises :class:`InputError` where there is none, or it was started with others.
        """
        path = directory / SETTINGS
        if not path.exists():
            raise InputError(f"{directory}: no tuning to go on with: there is no {SETTINGS}")
        settings = read_json(path, TuningSettings, "the file as 'costmodel tune' wrote it")
        settings.setdefault("op", FUSED)
        for key, value in (asked or {}).items():
            if value != settings[key]:  # type: ignore[literal-required]
                was = settings[key]  # type: ignore[literal-required]
                raise InputError(
                    f"{directory} was started with {key.replace('_', ' ')} {was}, not {value}; "
                    "leave that option out, or give another --out"
                )
        return cls(directory, settings)

    @property
    def limits(self) -> StoppingLimits:
        """What ends the learning."""
        return StoppingLimits(self.settings["contested_pct"], self.settings["shapes"])

    @property
    def question(self) -> Question:
        """What is to be learnt; an engine that has no call site of the op is none for it."""
        s = self.settings
        workload = Workload.of(s["hidden"]) if s["hidden"] else None
        chooses = bool(s["engine"]) and s["op"] in serving_engine(s["engine"]).ops
        return Question(
            s["name"], s["dtype"], workload, s["engine"] if chooses else "", s["otherwise"],
            s["objective"], s["op"],
        )  # fmt: skip

    def run_directory(self, world_size: int) -> Path:
        """Return where the run of a world size stands."""
        return of_world_size(self.directory, world_size)

    def started(self) -> list[int]:
        """Return the world sizes whose run was started."""
        sizes = self.settings["world_sizes"]
        return [n for n in sizes if (self.run_directory(n) / RUN).exists()]

    def labels(self) -> Labels | None:
        """Return what the machine is, None before any run was started.

        By its largest world size, which may share GPUs where a smaller one does not.
        """
        started = self.started()
        return read_settings(self.run_directory(max(started)))["labels"] if started else None

    def machine(self, labels: Labels) -> TunedMachine:
        """Return the machine with the question."""
        return TunedMachine(self.question, labels)

    def journal(self, world_size: int) -> Journal:
        """Return the journal of a world size."""
        return Journal(self.run_directory(world_size) / FILE)

    def records(self, world_size: int) -> list[SampleLine]:
        """Return the finished shapes of a world size, and the repetitions at the end of runs."""
        path = self.run_directory(world_size) / SAMPLES
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return []
        return parse_records(text[: text.rfind(b"\n") + 1], path)

    def shapes(self, world_size: int) -> list[SampleLine]:
        """Return the finished shapes of a world size."""
        return [record for record in self.records(world_size) if record["kind"] == "shape"]

    def learnt(self, world_size: int) -> list[SampleLine]:
        """Return the shapes that the rule of a world size was learnt from."""
        return self._parts(world_size)[0]

    def judged(self, world_size: int) -> list[SampleLine]:
        """Return the shapes that were measured to judge the rule of a world size."""
        return self._parts(world_size)[1]

    def surveyed(self, world_size: int) -> list[SampleLine]:
        """Return the calls that were measured in full after the model was left aside."""
        return self._parts(world_size)[2]

    def _parts(self, world_size: int) -> tuple[list[SampleLine], ...]:
        """Return the shapes as they were measured one after the other: learnt, judged, surveyed."""
        shapes, stop = self.shapes(world_size), self.journal(world_size).stop
        learnt = len(shapes) if stop is None else stop["shapes"]
        judged = learnt + (0 if stop is None else len(stop["judging"]))
        return shapes[:learnt], shapes[learnt:judged], shapes[judged:]
