"""Predictions: latency of one arm for arrays of shapes, with terms, intervals and evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import NOISE_DOF, TYPICAL
from ..data import kernels
from ..errors import InputError
from ..model.latency import total
from ..model.shape import ONE_STAGE, PUSHED, SEPARATE_OPS, SPOKEN, Shapes, read_arm
from . import drawn as interval
from .evidence import MEASURED, MEASURED_ELSEWHERE, TRANSFERRED, ArmEvidence
from .setting import DRAWN_BLOCK, DRAWS, SEED, Setting

if TYPE_CHECKING:
    import pandas as pd

    from .schemas import PredictedRow

Array = NDArray[np.float64]


class Prediction(Struct, frozen=True):
    """Latency in us per shape with two 90 % intervals, named terms, and evidence class.

    ``latency_us`` is as the benchmark of ``reference`` (a harness key, "" for the typical one)
    shows it. ``lo_us`` and ``hi_us`` hold a measurement on *your machine*, which nobody has
    measured and whose benchmark adds what it adds; ``kernel_lo_us`` and ``kernel_hi_us`` one in
    the reference's laboratory, of *this kernel*.
    ``evidence`` is the arm's class (:mod:`.evidence`): ``measured``, ``measured_elsewhere`` or
    ``transferred``. ``kernel`` says whose kernels.

    Of an arm that pushes *your machine* too is as the reference's benchmark shows it: what another
    adds to kernels that wait at no barrier is not known.
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
    kernel: str = ""

    def to_rows(self) -> list[PredictedRow]:
        """Return one record per shape, as in ``rows`` of ``costmodel/predict/1``."""
        s = self.shapes
        names = list(self.terms)
        columns = (
            s.world_size, s.tokens, s.hidden_dim, s.bytes, self.latency_us, self.lo_us, self.hi_us,
            self.kernel_lo_us, self.kernel_hi_us, self.evidence, *self.terms.values(),
        )  # fmt: skip
        return [
            {
                "op": s.op,
                "algorithm": self.algorithm,
                "world_size": n,
                "tokens": tokens,
                "hidden_dim": hidden_dim,
                "dtype": s.dtype,
                "bytes": size,
                "latency_us": us,
                "latency_us_lo": lo,
                "latency_us_hi": hi,
                "latency_us_this_kernel_lo": kernel_lo,
                "latency_us_this_kernel_hi": kernel_hi,
                "reference": self.reference or TYPICAL,
                "evidence": evidence,
                "terms": dict(zip(names, terms, strict=True)),
            }
            for n, tokens, hidden_dim, size, us, lo, hi, kernel_lo, kernel_hi, evidence, *terms in (
                zip(*(column.ravel().tolist() for column in columns), strict=True)
            )
        ]

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

    ``algorithm`` may be ``separate``: separate ops beside the fused op, as AITER dispatches them;
    and ``ll`` or ``ll128`` beside the plain op, where a benchmark has them beside 1-stage.
    Both intervals carry parameters and row noise; *your machine* carries also the contrast of a new
    machine and the spread of harness constants over sources, unless the setting names a source.
    Raises :class:`InputError` for a shape that the kernel rejects, and for an arm that is not
    identified.
    """
    if algorithm != SEPARATE_OPS:
        algorithm = read_arm(algorithm)
    if algorithm in PUSHED:
        return _predict_pushed(setting, shapes, algorithm)
    _check_taken(setting, shapes, algorithm, algorithm)
    shape = shapes.tokens.shape
    parts = _parts(setting, shapes, algorithm)
    flat = _flat(shapes)
    ends = np.empty((4, len(flat)))
    heavy = scatter(setting)
    # Both machines differ from the draws by constants: of the benchmark, and of the laboratory.
    benchmark = setting.new_source["harness[]"] - setting.draws["harness[]"]
    shifts = benchmark, setting.laboratory_shift_us(algorithm)
    for places, some in flat.blocks(DRAWN_BLOCK // 2 // DRAWS):  # sorting holds them twice
        here = setting.latency_us(some, algorithm, setting.draws)
        for i, more in enumerate(shifts):
            drawn = here + more
            drawn *= heavy
            ends[2 * i : 2 * i + 2, places] = interval.ends(drawn)
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
        setting.kernel.title,
    )


def _predict_pushed(setting: Setting, shapes: Shapes, arm: str) -> Prediction:
    """Predict an arm that pushes, by the draws with which recommend compares it with 1-stage."""
    from .pushed import identified  # a question about other arms starts faster

    arms = identified(setting, np.unique(shapes.world_size).tolist(), arm)
    first = next(iter(arms.values()))
    other = next((a for a in arms.values() if a.benchmark != first.benchmark), None)
    if other is not None:
        raise InputError(
            f"{SPOKEN[arm]} is as {first.source} measures it at TP{first.world_size} and as "
            f"{other.source} does at TP{other.world_size}: ask for one world size"
        )
    own = first.own
    _check_taken(own, shapes, ONE_STAGE, arm)
    flat = _flat(shapes)
    ends = np.empty((4, len(flat)))
    heavy = scatter(own)
    for places, some in flat.blocks(DRAWN_BLOCK // DRAWS):
        here = arms[int(some.world_size[0])]
        for i, laboratory in enumerate((False, True)):
            drawn = here.drawn_us(some, laboratory=laboratory)
            ends[2 * i : 2 * i + 2, places] = interval.ends(drawn * heavy)
    lo, hi, kernel_lo, kernel_hi = (end.reshape(shapes.tokens.shape) for end in ends)
    parts = _parts(own, shapes, ONE_STAGE)
    known = evidence(own, shapes, ONE_STAGE)
    return Prediction(
        shapes,
        arm,
        np.asarray(total(parts)),
        lo,
        hi,
        kernel_lo,
        kernel_hi,
        own.reference,
        parts,
        known if setting.kernel.known else np.full_like(known, TRANSFERRED),
        f"{own.kernel.title} ({kernels.since(own.kernel.family)})",
    )


def _check_taken(setting: Setting, shapes: Shapes, algorithm: str, arm: str) -> None:
    """Raise :class:`InputError` for the first call that the kernel of an arm rejects."""
    takes = setting.takes(shapes, algorithm)
    if takes.all():
        return
    i = int(np.flatnonzero(~takes.ravel())[0])
    raise InputError(
        f"the {SPOKEN[arm]} kernel of {setting.kernel.title} rejects "
        f"{shapes.tokens.flat[i]} tokens x hidden {shapes.hidden_dim.flat[i]} "
        f"({shapes.dtype}): it needs {setting.limits(algorithm, shapes)}"
    )


def _parts(setting: Setting, shapes: Shapes, algorithm: str) -> dict[str, Array]:
    return {
        name: np.broadcast_to(us, shapes.tokens.shape).astype(float)
        for name, us in setting.terms(shapes, algorithm).items()
    }


def _flat(shapes: Shapes) -> Shapes:
    return Shapes(
        shapes.op, shapes.dtype,
        *(a.ravel() for a in (shapes.tokens, shapes.hidden_dim, shapes.world_size)),
    )  # fmt: skip


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
