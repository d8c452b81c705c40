"""The JSON that simulations read as: one typed record each."""

from __future__ import annotations

from typing import Literal, TypedDict


class RankRecord(TypedDict):
    """One rank; ``terms`` is its own work in us by name, ``duration_us`` what a profiler shows."""

    rank: int
    arrival_us: float
    finish_us: float
    duration_us: float
    waiting_us: float
    terms: dict[str, float]


class SimulatedCall(TypedDict):
    """One algorithm; ``closed_form_us`` is null where the closed form has no fabric.

    ``departures`` say which of its assumptions do not hold here.
    """

    schema: Literal["costmodel/simulate/1"]
    algorithm: str
    tokens: int
    hidden_dim: int
    bytes: int
    fabric: str
    ranks: list[RankRecord]
    latency_us: float
    closed_form_us: float | None
    departures: list[str]


class SimulationRecord(SimulatedCall):
    """``costmodel/simulate/1``: the faster algorithm, with the ``other`` where both were asked.

    ``left_out_us`` is what the benchmark adds that ``costmodel predict`` answers for; ``notes`` are
    of the machine.
    """

    gpu: str
    calibration: str
    left_out_us: float
    notes: list[str]
    other: SimulatedCall | None


class AxisRecord(TypedDict):
    """One axis of a sweep."""

    name: str
    values: list[float]


class Place(TypedDict, total=False):
    """Where a cell lies: its value on each axis of the sweep."""

    skew: float
    link: float
    rate: float
    ranks: float
    slow: float


class CellRecord(Place):
    """The cutoff in one cell; null where 1-stage is best at every size."""

    cutoff_bytes: int | None
    cutoff_tokens: int | None
    cutoff_bytes_interval: list[int | None] | None


class SweepRecord(TypedDict):
    """``costmodel/simulate-sweep/1``; cells in row-major order of the axes."""

    schema: Literal["costmodel/simulate-sweep/1"]
    gpu: str
    hidden_dim: int
    axes: list[AxisRecord]
    cells: list[CellRecord]
