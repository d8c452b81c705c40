"""A question to the simulator as a user states it, and its cutoff over one or two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from ..decide.setting import Setting
from ..errors import InputError, nearest
from ..units import KIB
from .collective import Outcome, simulate
from .conditions import Conditions
from .cutoff import SimulatedCutoff, collective_cost, layer_cost, simulated_cutoff
from .machine import Machine, machine
from .schemas import Place, SimulationRecord, SweepRecord
from .skew import Skew

Floats = NDArray[np.float64]

#: Axis -> what its numbers are.
AXES = {
    "skew": "scale of the arrival distribution, us",
    "link": "fraction of one cable's rate",
    "rate": "factor on the rate of every link",
    "ranks": "world size",
    "slow": "factor on one rank's own times",
}

#: Draws behind a cutoff under skew; collectives in a chain of layers.
DRAWS = 8
LAYERS = 32


class Study(Struct, frozen=True):
    """Machine and conditions by name. ``links`` and ``costs`` as in :meth:`Topology.degrade` and
    :func:`machine`; ``skew`` draws arrivals from ``seed`` where ``conditions`` state none.
    ``cable`` and ``slow_rank`` are what the axes ``link`` and ``slow`` act on. With ``layers`` a
    cutoff is that of a chain of collectives (see :func:`layer_cost`).
    """

    setting: Setting
    hidden_dim: int = 7168
    fabric: str | None = None
    ranks: int | None = None
    link_gbps: float | None = None
    uplink_gbps: float | None = None
    domain: int = 8
    costs: Mapping[str, float] = field(default_factory=dict)
    links: Mapping[str, float] = field(default_factory=dict)
    conditions: Conditions = field(default_factory=Conditions)
    skew: Skew | None = None
    seed: int = 0
    cable: str = "0-1"
    rate: float = 1.0
    slow_rank: int = 0
    layers: bool = False

    def machine(self) -> Machine:
        """Return the machine."""
        found = machine(
            self.setting.calibration,
            self.setting.gpu,
            fabric=self.fabric,
            ranks=self.ranks,
            link_gbps=self.link_gbps,
            uplink_gbps=self.uplink_gbps,
            domain=self.domain,
            kernel=self.setting.kernel,
            costs=self.costs,
        )
        found = found if self.rate == 1.0 else found.scaled(self.rate)
        return found.degrade(self.links) if self.links else found

    def simulate(self, algorithm: str, tokens: int, *, record: bool = False) -> Outcome:
        """Simulate one call, under the first draw of the skew."""
        found = self.machine()
        conditions = self.conditions
        if self.skew is not None:
            conditions = conditions.late(self.skew.draw(found.ranks, self.seed)[0])
        return simulate(
            found,
            algorithm,
            tokens,
            self.hidden_dim,
            op=self.setting.op,
            dtype=self.setting.dtype,
            conditions=conditions,
            record=record,
        )

    def left_out_us(self, algorithm: str) -> float:
        """Return what the benchmark adds to a call, which no simulation has."""
        call = self.setting.shapes(1, self.hidden_dim, 2)
        return float(self.setting.terms(call, algorithm)["harness"])

    def record(self, outcomes: Sequence[Outcome]) -> SimulationRecord:
        """Return the ``costmodel/simulate/1`` record of one algorithm or both, the faster first."""
        first, *others = sorted(outcomes, key=lambda o: o.latency_us)
        return {
            **first.to_dict(),
            "gpu": self.setting.gpu,
            "calibration": self.setting.calibration.id,
            "left_out_us": self.left_out_us(first.algorithm),
            "notes": list(first.machine.notes),
            "other": others[0].to_dict() if others else None,
        }

    def cutoff(self) -> SimulatedCutoff:
        """Return the cutoff: of one collective over draws of the skew, or of a chain of layers."""
        found = self.machine()
        common: dict[str, Any] = {
            "op": self.setting.op, "dtype": self.setting.dtype, "conditions": self.conditions,
        }  # fmt: skip
        if self.layers:
            late = (self.skew or Skew("normal", 0.0)).draw(found.ranks, self.seed, LAYERS)
            cost = layer_cost(found, self.hidden_dim, late, **common)
        else:
            skew = self.skew
            drawn = None if skew is None else skew.draw(found.ranks, self.seed, DRAWS)
            cost = collective_cost(found, self.hidden_dim, arrivals_us=drawn, **common)
        return simulated_cutoff(self.setting, self.hidden_dim, found, cost)

    def along(self, axis: str, value: float) -> Study:
        """Return the study at one value of an axis."""
        if axis == "skew":
            kind = self.skew.kind if self.skew else "normal"
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"sweep skew={value:g}: give us of 0 or more")
            return replace(self, skew=Skew(kind, value))
        if axis == "link":
            return replace(self, links={**self.links, self.cable: value})
        if axis == "rate":
            return replace(self, rate=value)
        if axis == "ranks":
            if value != int(value):
                raise InputError(f"sweep ranks={value:g}: give whole numbers")
            return replace(self, ranks=int(value))
        if axis == "slow":
            slowed = {**self.conditions.slowdown, self.slow_rank: value}
            return replace(self, conditions=replace(self.conditions, slowdown=slowed))
        raise InputError(f"unknown axis '{axis}'{nearest(axis, list(AXES))}; {', '.join(AXES)}")


class Map(Struct, frozen=True):
    """Cutoffs of a ``study`` over one or two axes: ``cells`` in row-major order of ``axes``."""

    study: Study
    axes: tuple[tuple[str, tuple[float, ...]], ...]
    cells: tuple[SimulatedCutoff, ...]

    def __repr__(self) -> str:
        axes = " x ".join(f"{name} {', '.join(f'{v:g}' for v in at)}" for name, at in self.axes)
        lo, hi = self.bytes.min() / KIB, self.bytes.max() / KIB
        return f"Map({len(self.cells)} cutoffs over {axes}: {lo:.0f} to {hi:.0f} KiB)"

    @property
    def bytes(self) -> Floats:
        """The cutoffs in bytes, one array dimension per axis; inf where 1-stage always wins."""
        values = [np.inf if c.bytes is None else c.bytes for c in self.cells]
        return np.array(values).reshape([len(values) for _, values in self.axes])

    def to_dict(self) -> SweepRecord:
        """Return the ``costmodel/simulate-sweep/1`` record."""
        points = np.stack(
            np.meshgrid(*(values for _, values in self.axes), indexing="ij"), axis=-1
        ).reshape(len(self.cells), -1)
        names = [name for name, _ in self.axes]
        places: list[Place] = [dict(zip(names, p.tolist(), strict=True)) for p in points]  # type: ignore[misc]
        return {
            "schema": "costmodel/simulate-sweep/1",
            "gpu": self.study.setting.gpu,
            "hidden_dim": self.study.hidden_dim,
            "axes": [{"name": name, "values": list(values)} for name, values in self.axes],
            "cells": [
                {
                    **place,
                    "cutoff_bytes": cell.bytes,
                    "cutoff_tokens": cell.tokens,
                    "cutoff_bytes_interval": list(cell.interval) if cell.interval else None,
                }
                for place, cell in zip(places, self.cells, strict=True)
            ],
        }


def cutoff_map(study: Study, axes: Sequence[tuple[str, Sequence[float]]]) -> Map:
    """Return the cutoff of a study at every combination of the axes' values."""
    studies = [study]
    for name, values in axes:
        studies = [s.along(name, value) for s in studies for value in values]
    return Map(
        study,
        tuple((name, tuple(map(float, values))) for name, values in axes),
        tuple(s.cutoff() for s in studies),
    )
