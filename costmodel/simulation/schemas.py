"""The JSON that simulations read as: one typed record each."""

from __future__ import annotations

from typing import Literal, TypedDict


class RankRecord(TypedDict):
    """One rank; ``terms`` is its own work in us by name."""

    rank: int
    arrival_us: float
    finish_us: float
    waiting_us: float
    terms: dict[str, float]


class SimulatedCall(TypedDict):
    """One algorithm; ``closed_form_us`` is null where the closed form has no fabric."""

    schema: Literal["costmodel/simulate/1"]
    algorithm: str
    tokens: int
    hidden_dim: int
    bytes: int
    fabric: str
    ranks: list[RankRecord]
    latency_us: float
    closed_form_us: float | None


class SimulationRecord(SimulatedCall, total=False):
    """``costmodel/simulate/1``: the faster algorithm, with the ``other`` where both were asked."""

    other: SimulatedCall


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
    axes: list[AxisRecord]
    cells: list[CellRecord]
