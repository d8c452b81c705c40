"""Predictions: latency of one arm for arrays of shapes, with terms, intervals and evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import NOISE_DOF, TAIL, TYPICAL
from ..errors import InputError
from ..model.latency import total
from ..model.shape import SEPARATE_OPS, SPOKEN, Shapes, read_algorithm
from .evidence import MEASURED, MEASURED_ELSEWHERE, TRANSFERRED, ArmEvidence
from .setting import DRAWS, SEED, Setting

if TYPE_CHECKING:
    import pandas as pd

    from .schemas import PredictedRow

Array = NDArray[np.float64]

#: Shapes evaluated at once: small enough that the arrays of one block stay in the L2 cache.
BLOCK = 8192


@dataclass(frozen=True)
class Prediction:
    """Latency in us per shape with two 90 % intervals, named terms, and evidence class.

    ``latency_us`` is as the benchmark of ``reference`` (a harness key, "" for the typical one)
    shows it. ``lo_us`` and ``hi_us`` hold a measurement on *your machine*, which nobody has
    measured and whose benchmark adds what it adds; ``kernel_lo_us`` and ``kernel_hi_us`` one in
    the reference's laboratory, of *this kernel*.
    ``evidence`` is the arm's class (:mod:`.evidence`): ``measured``, ``measured_elsewhere`` or
    ``transferred``.
    """

    shapes: Shapes
    algorithm: str
    latency_us: Array
    lo_us: Array
    hi_us: Array
    kernel_lo_us: Array
    kernel_hi_us: Array
    reference: str
    terms: dict[str, Array]
    evidence: NDArray[np.str_]

    def to_rows(self) -> list[PredictedRow]:
        """Return one record per shape, as in ``rows`` of ``costmodel/predict/1``."""
        s = self.shapes
        if s.tokens.ndim != 1:
            return self._flat().to_rows()
        return [
            {
                "op": s.op,
                "algorithm": self.algorithm,
                "world_size": int(s.world_size[i]),
                "tokens": int(s.tokens[i]),
                "hidden_dim": int(s.hidden_dim[i]),
                "dtype": s.dtype,
                "bytes": int(s.bytes[i]),
                "latency_us": float(self.latency_us[i]),
                "latency_us_lo": float(self.lo_us[i]),
                "latency_us_hi": float(self.hi_us[i]),
                "latency_us_this_kernel_lo": float(self.kernel_lo_us[i]),
                "latency_us_this_kernel_hi": float(self.kernel_hi_us[i]),
                "reference": self.reference or TYPICAL,
                "evidence": str(self.evidence[i]),
                "terms": {name: float(value[i]) for name, value in self.terms.items()},
            }
            for i in range(len(s))
        ]

    def _flat(self) -> Prediction:
        """Return the same shapes in one row, in C order."""
        s = self.shapes
        arrays: dict[str, Any] = {
            name: np.ravel(getattr(self, name))
            for name in ("latency_us", "lo_us", "hi_us", "kernel_lo_us", "kernel_hi_us", "evidence")
        }
        sizes = (np.ravel(a) for a in (s.tokens, s.hidden_dim, s.world_size))
        terms = {name: np.ravel(us) for name, us in self.terms.items()}
        return replace(self, shapes=Shapes(s.op, s.dtype, *sizes), terms=terms, **arrays)

    def to_frame(self) -> pd.DataFrame:
        """Return a row per shape as a pandas data frame."""
        import pandas as pd

        return pd.json_normalize(self.to_rows())

    def __repr__(self) -> str:
        n = self.latency_us.size
        first = f"{self.latency_us.flat[0]:.2f} us" if n == 1 else f"{n} shapes"
        return f"Prediction({self.algorithm}, {first})"


def predict(setting: Setting, shapes: Shapes, algorithm: str) -> Prediction:
    """Predict one arm, with the intervals in which a new measurement falls 90 % of the time.

    ``algorithm`` may be ``separate``: separate ops beside the fused op, as AITER dispatches them.
    Both intervals carry parameters and row noise; *your machine* carries also the contrast of a new
    machine and the spread of harness constants over sources, unless the setting names a source.
    Raises :class:`InputError` for a shape that the kernel rejects.
    """
    if algorithm != SEPARATE_OPS:
        algorithm = read_algorithm(algorithm)
    takes = setting.takes(shapes, algorithm)
    if not takes.all():
        i = int(np.flatnonzero(~takes.ravel())[0])
        raise InputError(
            f"the {SPOKEN[algorithm]} kernel of {setting.kernel.title} rejects "
            f"{shapes.tokens.flat[i]} tokens x hidden {shapes.hidden_dim.flat[i]} "
            f"({shapes.dtype}): it needs {setting.limits(algorithm, shapes)}"
        )
    shape = shapes.tokens.shape
    parts = {
        name: np.broadcast_to(us, shape).astype(float)
        for name, us in setting.terms(shapes, algorithm).items()
    }
    flat = Shapes(
        shapes.op, shapes.dtype,
        *(a.ravel() for a in (shapes.tokens, shapes.hidden_dim, shapes.world_size)),
    )  # fmt: skip
    ends = np.empty((4, len(flat)))
    heavy = scatter(setting)
    for start in range(0, len(flat), BLOCK):
        block = slice(start, start + BLOCK)
        some = flat.select(block)
        for i, values in enumerate((setting.new_source, setting.this_kernel)):
            drawn = setting.latency_us(some, algorithm, values) * heavy
            ends[2 * i : 2 * i + 2, block] = np.quantile(drawn, [TAIL, 1 - TAIL], axis=0)
    lo, hi, kernel_lo, kernel_hi = (end.reshape(shape) for end in ends)
    return Prediction(
        shapes,
        algorithm,
        np.asarray(total(parts)),
        lo,
        hi,
        kernel_lo,
        kernel_hi,
        setting.reference,
        parts,
        evidence(setting, shapes, algorithm),
    )


def evidence(setting: Setting, shapes: Shapes, algorithm: str) -> NDArray[np.str_]:
    """Return ``measured``, ``measured_elsewhere`` or ``transferred`` per shape.

    An arm counts as measured within a factor of two of the bytes that were measured.
    """
    result = np.full(shapes.tokens.shape, TRANSFERRED, dtype="U18")
    size = shapes.bytes
    for n in np.unique(shapes.world_size):
        arm = ArmEvidence.of(setting, int(n), algorithm)
        for rows, found in ((arm.here, MEASURED_ELSEWHERE), (arm.exact, MEASURED)):
            for c in rows:
                near = (size >= c.min_bytes / 2) & (size <= c.max_bytes * 2)
                result[near & (shapes.world_size == n)] = found
    return result


def scatter(setting: Setting) -> Array:
    """Return draws of the factor by which a measurement misses the model, (draws, 1)."""
    calibration = setting.calibration
    noise = calibration.noise.get(setting.reference, calibration.typical_noise)
    return np.exp(noise * np.random.default_rng(SEED + 1).standard_t(NOISE_DOF, (DRAWS, 1)))
