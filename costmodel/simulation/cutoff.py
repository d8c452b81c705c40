"""The cutoff of a simulated machine: the size up to which 1-stage is not slower than 2-stage.

A cost is any function (algorithm, tokens) -> us. :func:`collective_cost` is one collective's
latency after the last arrival, :func:`layer_cost` what a layer costs when layer follows layer and
ranks are late by chance each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.shape import FUSED, ONE_STAGE, TWO_STAGE
from ..units import MIB, element_bytes
from .collective import simulate
from .conditions import Conditions
from .machine import Machine

Floats = NDArray[np.float64]
Cost = Callable[[str, int], float]

#: Largest input looked at. No cutoff in the field is above 1 MiB.
MAX_BYTES = 64 * MIB


@dataclass(frozen=True)
class Crossing:
    """Where the arms cross. ``bytes`` is interpolated between ``tokens`` and ``tokens`` + 1, the
    first on 1-stage and the second on 2-stage; None: 1-stage up to ``MAX_BYTES``; 0: never.
    """

    bytes: float | None
    tokens: int | None


def crossing(cost: Cost, row_bytes: int, *, max_bytes: int = MAX_BYTES) -> Crossing:
    """Return where 2-stage becomes faster, looking at doubling token counts and then between two.

    Of several crossings (a last turn that is nearly empty can make one), it returns one.
    """

    def gain(tokens: int) -> float:
        return cost(TWO_STAGE, tokens) - cost(ONE_STAGE, tokens)

    low, at_low = 1, gain(1)
    if at_low < 0:
        return Crossing(0.0, 0)
    last = max(max_bytes // row_bytes, 1)
    while True:
        if low == last:
            return Crossing(None, None)
        high = min(2 * low, last)
        at_high = gain(high)
        if at_high < 0:
            break
        low, at_low = high, at_high
    while high - low > 1:
        middle = (low + high) // 2
        at_middle = gain(middle)
        if at_middle < 0:
            high, at_high = middle, at_middle
        else:
            low, at_low = middle, at_middle
    return Crossing(row_bytes * (low + at_low / (at_low - at_high)), low)


def collective_cost(
    machine: Machine, hidden_dim: int, *, op: str = FUSED, dtype: str = "bf16",
    conditions: Conditions | None = None, arrivals_us: Floats | None = None,
) -> Cost:  # fmt: skip
    """Return the latency after the last arrival, averaged over draws ``arrivals_us`` (n, ranks)."""
    stated = conditions or Conditions()
    every = [stated] if arrivals_us is None else [stated.late(a) for a in arrivals_us]

    def cost(algorithm: str, tokens: int) -> float:
        outcomes = [
            simulate(machine, algorithm, tokens, hidden_dim, op=op, dtype=dtype, conditions=c)
            for c in every
        ]
        return float(np.mean([o.latency_us for o in outcomes]))

    return cost


def layer_cost(
    machine: Machine, hidden_dim: int, late_us: Floats, *, op: str = FUSED, dtype: str = "bf16",
    conditions: Conditions | None = None,
) -> Cost:  # fmt: skip
    """Return the time per layer of a chain of collectives.

    ``late_us`` (layers, ranks) is what each rank takes between one collective and the next, beyond
    what all take. A rank that leaves a collective early starts its next layer early.
    """
    stated = conditions or Conditions()

    def cost(algorithm: str, tokens: int) -> float:
        ready = np.zeros(machine.ranks)
        for late in late_us:
            start = ready + late
            first = float(start.min())
            outcome = simulate(
                machine, algorithm, tokens, hidden_dim, op=op, dtype=dtype,
                conditions=stated.late(start - first),
            )  # fmt: skip
            ready = first + outcome.run.finish_us
        return float(ready.max()) / len(late_us)

    return cost


def row_bytes(hidden_dim: int, dtype: str = "bf16") -> int:
    """Return the bytes of one token."""
    return hidden_dim * element_bytes(dtype)
