"""The files of a run and the plan it may follow: one typed record each."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from ..machine import CheckRecord
from .statistics import Latency

AtLeastOne = Annotated[int, Meta(ge=1)]


class PlannedSize(TypedDict):
    """What every shape of a plan states."""

    world_size: AtLeastOne
    tokens: AtLeastOne
    hidden_dim: AtLeastOne


class PlannedShape(PlannedSize, total=False):
    """A shape of a plan: ``arms`` of the op, or one as ``algorithm``; both stages if neither.

    ``op`` is fused_ar_rmsnorm where it is left out, ``dtype`` bf16.
    """

    op: str
    algorithm: str | None
    arms: list[str]
    dtype: str


class PlanFile(TypedDict):
    """What a run reads of ``costmodel/plan/1``; other keys are the planner's."""

    schema: Literal["costmodel/plan/1"]
    shapes: Annotated[list[PlannedShape], Meta(min_length=1)]


class PointRecord(TypedDict):
    """One shape and the arms measured there."""

    tokens: AtLeastOne
    hidden_dim: AtLeastOne
    dtype: str
    arms: list[str]


class EveryLabel(TypedDict):
    """What the rows of every run say of the machine and the kernels; ``genuine`` is yes or no."""

    gpu: str
    arch: str
    interconnect: str
    kernel_family: str
    kernel_version: str
    genuine: str


class Labels(EveryLabel, total=False):
    """What the rows of a run say; ``separate_family`` where ``separate`` is another library's."""

    separate_family: str


class EveryRun(TypedDict):
    """What every ``run.json`` holds."""

    schema: Literal["costmodel/run/1"]
    id: str
    started: str
    backend: str
    world_size: int
    timing: str
    seed: int
    rounds: int
    samples: int
    calls: int
    slots: int
    warm_up: int
    points: list[PointRecord]
    labels: Labels


class RunSettings(EveryRun, total=False):
    """``costmodel/run/1``: ``run.json``; ``norm`` is that of separate ops, if not the usual."""

    norm: str


class ArmRecord(TypedDict):
    """One arm of a shape; ``latency_us`` by round, sample and rank, null for a wrong arm.

    ``worst_error`` is null where an output was not finite.
    """

    correct: bool
    worst_error: float | None
    wrong_ranks: list[int]
    summary: Latency | None
    clean: bool | None
    kernels: list[str]
    latency_us: list[list[list[float]]] | None


class FinishedShape(TypedDict):
    """What every finished shape holds."""

    kind: Literal["shape", "again", "retry"]
    index: int
    when: str
    seconds: float
    point: PointRecord
    arms: dict[str, ArmRecord]
    rows: list[dict[str, Any]]


class SampleLine(FinishedShape, total=False):
    """A line of ``samples.jsonl``; ``again`` is the first shape, measured again at the end.

    ``retry`` holds arms of a finished shape that had been skipped.
    ``skipped`` holds the arms that could not run the shape, with the reason.
    """

    skipped: dict[str, str]


class ArmStarts(TypedDict):
    """One arm at one shape over several starts.

    ``kernels`` and ``latency_us`` have an entry for each start in which they are known; ``flips``
    counts starts whose kernels are other than those of the start before.
    """

    tokens: AtLeastOne
    hidden_dim: AtLeastOne
    dtype: str
    arm: str
    kernels: list[list[str]]
    flips: int
    latency_us: list[float]


class StartsRecord(TypedDict):
    """``costmodel/starts/1``: ``starts.json``."""

    schema: Literal["costmodel/starts/1"]
    starts: AtLeastOne
    arms: list[ArmStarts]


class Commit(TypedDict):
    """The checkout that the package lay in."""

    commit: str
    changed: bool


class AlwaysKnown(TypedDict):
    """What every environment record holds."""

    schema: Literal["costmodel/environment/1"]
    when: str
    python: str
    libraries: dict[str, str]


class EnvironmentRecord(AlwaysKnown, total=False):
    """``costmodel/environment/1``: ``environment.json``, as far as the machine can be read.

    ``backend`` is what only the back end knows; ``variables`` are those that the run was given, and
    those that differed once its libraries were up stand beside them. Those with ``nvidia`` and
    ``amd`` are what the vendors' tools print; ``doctor`` is what ``costmodel doctor --backend``
    found.
    """

    backend: dict[str, Any]
    system: str
    processor: str
    cpus: int | None
    load_average: list[float]
    variables: dict[str, str]
    variables_set_by_libraries: dict[str, str]
    nvidia_gpus: str
    nvidia_topology: str
    amd_versions: str
    amd_gpus: str
    amd_clocks: str
    amd_topology: str
    amdgpu_driver: str
    git: Commit
    doctor: list[CheckRecord]
