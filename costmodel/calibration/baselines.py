"""Simple models of latency against bytes, that anything more elaborate has to beat.

Each is fitted to the rows of one arm (one source, GPU, world size, op and algorithm) and knows
nothing but bytes. All are fitted to relative errors. :mod:`.origami`, which is fitted to nothing,
stands beside them in :mod:`.cross_validation`.

- ``interpolation``: linear in bytes between the nearest measured sizes (beyond the ends: the line
  through the last two).
- ``hockney``: t = a + S / w (Hockney, Parallel Computing 20 (1994)).
- ``two lines``: the minimum of two lines where the data bend down, the maximum where they bend up.
- ``softplus``: t = base + softplus(S / w - 1), the form of NCCL's ``sym_kernels.cc``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Curve = Callable[[Array], Array]


def interpolation(size: Array, latency: Array) -> Curve:
    """Fit bracket-linear interpolation; needs two different sizes. Equal sizes are averaged."""
    x, index = np.unique(size, return_inverse=True)
    y = np.bincount(index, latency) / np.bincount(index)

    def curve(s: Array) -> Array:
        at = np.clip(np.searchsorted(x, s) - 1, 0, x.size - 2)
        return y[at] + (s - x[at]) * (y[at + 1] - y[at]) / (x[at + 1] - x[at])

    return curve


def hockney(size: Array, latency: Array) -> Curve:
    """Fit a + S / w by weighted least squares; needs two different sizes."""
    a, b = _line(size, latency)
    return lambda s: a + b * s


def two_lines(size: Array, latency: Array) -> Curve:
    """Fit two lines meeting at the best of the measured sizes; needs four different sizes."""
    best, best_cost = None, np.inf
    for knot in np.unique(size)[1:-1]:
        design = np.column_stack([np.ones_like(size), size, np.maximum(size - knot, 0.0)])
        coefficient, *_ = np.linalg.lstsq(design / latency[:, None], np.ones_like(size), rcond=None)
        cost = float(np.sum((design @ coefficient / latency - 1) ** 2))
        if cost < best_cost:
            best, best_cost = (knot, coefficient), cost
    assert best is not None
    knot, (a, b, c) = best
    return lambda s: a + b * s + c * np.maximum(s - knot, 0.0)


def softplus(size: Array, latency: Array) -> Curve:
    """Fit base + log(1 + exp(S / w - 1)), w from a grid of 400 by ratio; needs two sizes."""
    grid = np.geomspace(1e2, 1e6, 400)
    shape = np.logaddexp(0.0, size / grid[:, None] - 1.0)
    offset = ((latency - shape) / latency**2).sum(axis=1) / np.sum(1 / latency**2)
    cost = (((offset[:, None] + shape) / latency - 1) ** 2).sum(axis=1)
    best = int(np.argmin(cost))
    return lambda s: offset[best] + np.logaddexp(0.0, s / grid[best] - 1.0)


#: Name -> (fit, different sizes it needs).
BASELINES: dict[str, tuple[Callable[[Array, Array], Curve], int]] = {
    "interpolation": (interpolation, 2),
    "hockney": (hockney, 2),
    "two lines": (two_lines, 4),
    "softplus": (softplus, 2),
}


def _line(size: Array, latency: Array) -> tuple[float, float]:
    design = np.column_stack([np.ones_like(size), size])
    (a, b), *_ = np.linalg.lstsq(design / latency[:, None], np.ones_like(size), rcond=None)
    return float(a), float(b)
