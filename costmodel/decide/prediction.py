"""Predictions: latency of one arm for arrays of shapes, with terms, intervals and evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL, NOISE_DOF, Calibration, Values
from ..data.kernels import Kernel
from ..errors import InputError
from ..model.eligibility import eligible
from ..model.latency import total
from ..model.shape import Shapes

Array = NDArray[np.float64]

#: Posterior draws behind an interval, and the seed that makes them repeatable.
DRAWS = 400
SEED = 20260823

#: Shapes evaluated at once: small enough that the arrays of one block stay in the L2 cache.
BLOCK = 8192


@dataclass(frozen=True)
class Prediction:
    """Latency in us per shape with its 90 % interval, named terms, and evidence class.

    ``evidence`` is ``measured`` (this arm was measured on this GPU at this world size),
    ``transferred`` (physics carries it from other GPUs or world sizes).
    """

    shapes: Shapes
    algorithm: str
    latency_us: Array
    lo_us: Array
    hi_us: Array
    terms: dict[str, Array]
    evidence: NDArray[np.str_]


def latency_terms(
    calibration: Calibration,
    shapes: Shapes,
    algorithm: str,
    *,
    gpu: str,
    kernel: Kernel,
    values: Values | None = None,
    source: str | None = None,
) -> dict[str, Array]:
    """Return the terms in us for every shape: arrays like the shapes, or (draws, n) for draws.

    One vectorised pass without intervals; ``values`` defaults to the point estimates.
    """
    cost = calibration.costs(
        gpu, values or calibration.values, norm_kernel=kernel.norm_kernel, source=source
    )
    arch = next(a for a, g in calibration.gpus if g == gpu)
    model = calibration.model
    return model.terms(model.geometry(shapes, algorithm, kernel, arch), cost)


def latency_us(
    calibration: Calibration,
    shapes: Shapes,
    algorithm: str,
    *,
    gpu: str,
    kernel: Kernel,
    values: Values | None = None,
    source: str | None = None,
) -> Array:
    """Return the latency in us for every shape (see :func:`latency_terms`)."""
    parts = latency_terms(
        calibration, shapes, algorithm, gpu=gpu, kernel=kernel, values=values, source=source
    )
    return np.asarray(total(parts))


def predict(
    calibration: Calibration,
    shapes: Shapes,
    algorithm: str,
    *,
    gpu: str,
    kernel: Kernel,
    source: str | None = None,
) -> Prediction:
    """Predict one arm, with the interval in which a new measurement falls 90 % of the time.

    The interval carries parameters, row noise and, unless ``source`` names a calibrated source,
    the spread of harness constants over sources, which both arms share. Raises
    :class:`InputError` for a shape that the kernel rejects.
    """
    ok, rule = eligible(shapes, algorithm, kernel)
    if not ok.all():
        i = int(np.flatnonzero(~ok.ravel())[0])
        raise InputError(
            f"the {algorithm} kernel of {kernel.family} {kernel.version} rejects "
            f"{shapes.tokens.flat[i]} tokens x hidden {shapes.hidden_dim.flat[i]} "
            f"({shapes.dtype}): it needs {rule}"
        )
    if source is not None and calibration.harness_key(source, gpu) is None:
        known = ", ".join(calibration.harness)
        raise InputError(f"source '{source}' is not in this calibration; it has {known}")
    chosen = {"gpu": gpu, "kernel": kernel, "source": source}
    parts = latency_terms(calibration, shapes, algorithm, **chosen)  # type: ignore[arg-type]
    shape = shapes.tokens.shape
    parts = {k: np.broadcast_to(v, shape).astype(float) for k, v in parts.items()}
    point = np.asarray(total(parts))
    values = calibration.draw(DRAWS, SEED)
    rng = np.random.default_rng(SEED + 1)
    noise = calibration.typical_noise
    if source is not None:
        noise = calibration.noise[calibration.harness_key(source, gpu) or ""]
    heavy = rng.standard_t(NOISE_DOF, (DRAWS, 1)) * noise
    lo, hi = np.empty(shapes.tokens.size), np.empty(shapes.tokens.size)
    tail = (1 - LEVEL) / 2
    flat = [a.ravel() for a in (shapes.tokens, shapes.hidden_dim, shapes.world_size)]
    for start in range(0, lo.size, BLOCK):
        block = slice(start, start + BLOCK)
        some = Shapes(shapes.op, shapes.dtype, *(a[block] for a in flat))
        drawn = latency_us(calibration, some, algorithm, values=values, **chosen)  # type: ignore[arg-type]
        drawn = drawn * np.exp(heavy)
        lo[block], hi[block] = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return Prediction(
        shapes,
        algorithm,
        point,
        lo.reshape(shape),
        hi.reshape(shape),
        parts,
        evidence(calibration, shapes, algorithm, gpu),
    )


def evidence(calibration: Calibration, shapes: Shapes, algorithm: str, gpu: str) -> NDArray[Any]:
    """Return ``measured`` or ``transferred`` per shape.

    An arm counts as measured within a factor of two of the bytes that were measured.
    """
    result = np.full(shapes.tokens.shape, "transferred", dtype="U16")
    for n in np.unique(shapes.world_size):
        found = calibration.measured(gpu, int(n), shapes.op, algorithm)
        if found is not None:
            size = shapes.bytes
            near = (size >= found.min_bytes / 2) & (size <= found.max_bytes * 2)
            result[near & (shapes.world_size == n)] = "measured"
    return result
