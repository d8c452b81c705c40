"""Posterior draws: few at a time, and the ends of 90 % intervals over them.

For the ends the draws are sorted whole: numpy does that with vector instructions, and its
partition takes half as long again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import TAIL

Array = NDArray[np.float64]

#: Numbers that are evaluated at once: what the L2 cache holds.
AT_ONCE = 1 << 16


def in_turn(draws: int, calls: int) -> Iterator[slice]:
    """Yield a few of the draws at a time: a large array then needs no others of its size."""
    few = max(1, AT_ONCE // max(calls, 1))
    for first in range(0, draws, few):
        yield slice(first, first + few)


def ends(drawn: Array) -> Array:
    """Return the interval's ends (2, n) over draws (draws, n): those of numpy's quantiles."""
    last = len(drawn) - 1
    at = [TAIL * last, (1 - TAIL) * last]
    below = [math.floor(a) for a in at]
    kept = _ascending(drawn)
    out = np.empty((2, drawn.shape[1]))
    for i, (a, b) in enumerate(zip(at, below, strict=True)):
        low, high = kept[:, b], kept[:, min(b + 1, last)]
        # The nearer end is where the line starts: numpy's own rounding.
        out[i] = low + (high - low) * (a - b) if a - b < 0.5 else high - (high - low) * (1 - a + b)
    return out


def nearest(values: NDArray[Any]) -> tuple[Any, Any]:
    """Return the two of the values (draws,) that are nearest to the interval's ends."""
    ascending = np.sort(values)
    last = values.size - 1
    return ascending[round(TAIL * last)], ascending[round((1 - TAIL) * last)]


def holds(drawn: Array) -> Array:
    """Return (2, n): a value v with ``out[0] <= v < out[1]`` has no tail's share on one side.

    That is, from 5 to 95 % of the draws (draws, n) lie at or below it.
    """
    share = np.arange(len(drawn) + 1) / len(drawn)
    inside = np.flatnonzero((share >= TAIL) & (share <= 1 - TAIL))
    low, high = int(inside[0]) - 1, int(inside[-1])
    kept = _ascending(drawn)
    return np.stack([kept[:, low], kept[:, high]])


def _ascending(drawn: Array) -> Array:
    """Return the draws of each column sorted, (n, draws)."""
    rows = np.array(drawn.T, order="C")
    rows.sort(axis=1)
    return rows
