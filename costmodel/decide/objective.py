"""What a cutoff minimises: the mean regret, that of the contested calls, or that of the worst call.

``mean`` averages over the workload, of which most calls are far from any cutoff. ``contested``
averages over the calls within a factor of two of the cutoff alone. ``worst`` is the largest
expected regret of a call, which is what AMD's own tuner minimises.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[np.float64]

MEAN = "mean"
CONTESTED = "contested"
WORST = "worst"
OBJECTIVES = (MEAN, CONTESTED, WORST)

#: What they are called in sentences.
SPOKEN_OBJECTIVE = {
    MEAN: "mean regret", CONTESTED: "regret of contested calls", WORST: "worst-case regret",
}  # fmt: skip

#: Calls within this factor of a cutoff are contested.
CONTESTED_FACTOR = 2


class Regrets(Struct, frozen=True):
    """Expected regrets of a rule in percent; ``contested_pct`` is None without a cutoff."""

    mean_pct: float
    contested_pct: float | None
    worst_pct: float

    @classmethod
    def of(
        cls, call_regret: Array, weight: Array, size: NDArray[np.int64], max_bytes: int | None
    ) -> Regrets:
        """Summarise calls' expected regrets (n,), fractions; ``max_bytes`` None: no cutoff."""
        near = np.zeros(size.size, np.bool_) if max_bytes is None else contested(size, max_bytes)
        inside = float(weight[near].sum())
        return cls(
            mean_pct=100 * float(call_regret @ weight),
            contested_pct=100 * float(call_regret[near] @ weight[near]) / inside
            if inside
            else None,
            worst_pct=100 * float(call_regret.max()),
        )


def contested(size: NDArray[np.int64], max_bytes: int) -> NDArray[np.bool_]:
    """Return which calls are within a factor of two of a cutoff."""
    return (size * CONTESTED_FACTOR >= max_bytes) & (size <= max_bytes * CONTESTED_FACTOR)


def contested_curve(
    one: Array, other: Array, weight: Array, size: NDArray[np.int64], ends: NDArray[np.intp]
) -> Array:
    """Return the mean regret of each cutoff's contested calls, (..., K).

    ``one`` and ``other`` (..., n) are the arms' regrets on calls ascending in bytes; the cutoff
    after ``ends[k]`` calls counts as the size of the last of them.
    """
    at = size[np.maximum(ends - 1, 0)]
    first = np.searchsorted(size * CONTESTED_FACTOR, at, side="left")
    after = np.searchsorted(size, at * CONTESTED_FACTOR, side="right")
    ones, others, inside = (_sums(part) for part in (weight * one, weight * other, weight))
    # Before the first call of the window none of them runs 1-stage.
    sent = ones[..., ends] - ones[..., np.minimum(first, ends)]
    left = others[..., after] - others[..., ends]
    return np.asarray((sent + left) / (inside[after] - inside[first]))


def worst_curve(one: Array, other: Array, ends: NDArray[np.intp]) -> Array:
    """Return the largest regret of a call under each cutoff, (..., K); arguments as above."""
    none = np.zeros((*one.shape[:-1], 1))
    up = np.concatenate([none, np.maximum.accumulate(one, axis=-1)], axis=-1)
    down = np.maximum.accumulate(other[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(np.maximum(up, np.concatenate([down, none], axis=-1))[..., ends])


def _sums(parts: Array) -> Array:
    """Return sums over the first 0, 1, ... calls, (..., n + 1)."""
    none = np.zeros((*parts.shape[:-1], 1))
    return np.concatenate([none, np.cumsum(parts, axis=-1)], axis=-1)
