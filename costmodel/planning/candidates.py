"""What could be measured, and what each measurement would tell.

A candidate is one arm at one shape: a captured batch size, a hidden size that the user asks
about, a world size. To first order its log latency is

    log y = const + slope' w + (1 / t) h + e

with w the white parameter coordinates, h the constant that the new benchmark adds to every latency
alike, and e the scatter of measurements around the model. h is unknown: one latency alone says
little, two say what lies between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import HARNESS_DOF, NOISE_DOF
from ..data.workload import captured_batch_sizes
from ..decide.setting import Setting
from ..model.shape import Shapes
from ..units import element_bytes
from .coordinates import Posterior, linear
from .value import RegretSurface

Array = NDArray[np.float64]

#: Draws behind the slopes; fewer do than for regrets, which have kinks.
DRAWS = 512

#: A shape is near a decision within this factor of the cutoff's interval.
NEAR = 1.5


class Candidates(Struct, frozen=True):
    """Shapes (n,) times the two ``arms``: measurement ``2 i + a`` is arm a at shape i.

    ``latency_us`` (2 n,); ``possible`` (2 n,) what may be chosen; ``rows``
    (2 n, p + 1) the slopes of log latency on w and on the harness constant in units of its
    prior's spread; ``noise_variance`` that of e.
    """

    op: str
    dtype: str
    arms: tuple[str, str]
    tokens: NDArray[np.int64]
    hidden_dim: NDArray[np.int64]
    world_size: NDArray[np.int64]
    latency_us: Array
    possible: NDArray[np.bool_]
    rows: Array
    noise_variance: float

    def __len__(self) -> int:
        return self.latency_us.size

    @classmethod
    def of(
        cls,
        setting: Setting,
        posterior: Posterior,
        shapes: Shapes,
        possible: NDArray[np.bool_],
        *,
        noise: float,
    ) -> Candidates:
        """Evaluate shapes (n,), of which those may be chosen that are ``possible`` (n,).

        ``noise`` is the scale of the Student-t scatter of a log latency and a new source's harness
        constant is Student-t as well (see estimate.py); here both are normals of equal variance.
        With many rows a robust fit does better than that, with a handful it cannot tell which row
        is the outlier.
        """
        white = posterior.sample(DRAWS)
        values = posterior.values(white)
        spread_us = harness_spread_us(setting)
        size = 2 * len(shapes)
        latency = np.empty(size)
        rows = np.empty((size, white.shape[1] + 1))
        for a, arm in enumerate(setting.arms):
            log = np.log(setting.latency_us(shapes, arm, values))
            latency[a::2] = np.exp(log.mean(axis=0))
            rows[a::2, :-1] = linear(white, log)
            rows[a::2, -1] = spread_us * np.exp(-log).mean(axis=0)
        variance = noise**2 * NOISE_DOF / (NOISE_DOF - 2)
        return cls(
            setting.op, setting.dtype, setting.arms, shapes.tokens, shapes.hidden_dim,
            shapes.world_size, latency, np.repeat(possible, 2), rows, variance,
        )  # fmt: skip

    @property
    def size_bytes(self) -> NDArray[np.int64]:
        """Input bytes of the shapes on one rank, (n,)."""
        return self.tokens * self.hidden_dim * element_bytes(self.dtype)

    def arm(self, measurement: int) -> str:
        """Return the arm of a measurement."""
        return self.arms[measurement % 2]

    def left_unknown(self, design: list[int]) -> Array:
        """Return the covariance of (w, harness) after measuring a design, (p + 1, p + 1)."""
        size = self.rows.shape[1]
        if not design:
            return np.eye(size)
        rows = self.rows[design]
        seen = rows @ rows.T + self.noise_variance * np.eye(len(design))
        return np.asarray(np.eye(size) - rows.T @ np.linalg.solve(seen, rows))


def captured(setting: Setting, hidden_dims: Sequence[int], world_sizes: Sequence[int]) -> Shapes:
    """Return captured batch sizes x hidden sizes x world sizes, flat."""
    n, h, t = np.meshgrid(world_sizes, hidden_dims, captured_batch_sizes(), indexing="ij")
    return setting.shapes(t.ravel(), h.ravel(), n.ravel())


def near(
    setting: Setting, shapes: Shapes, surfaces: tuple[RegretSurface, ...]
) -> NDArray[np.bool_]:
    """Return which shapes both kernels take and lie near a decision still open.

    Near means within a factor of :data:`NEAR` of the cutoff's present interval. Measurements
    farther away would inform the rule through the physics alone. Keeping close does not lean on
    the model where nobody checks it, and costs nothing: in rehearsals of the shipped
    calibrations it left the same regret as a free choice, within their error of 5 %.
    A decision with no captured shape so near keeps all its shapes.
    """
    both, size = setting.takes_both(shapes), shapes.bytes
    keep = np.zeros(size.size, np.bool_)
    for s in surfaces:
        if s.open:
            here = shapes.world_size == s.world_size
            low, high = s.interval
            close = here & (size >= low / NEAR) & (size <= high * NEAR)
            keep |= close if (close & both).any() else here
    return keep & both


def harness_spread_us(setting: Setting) -> float:
    """Return the standard deviation of a new source's harness constant in us, to first order.

    0 for a machine that was measured: its constant is among the posterior's coordinates.
    """
    if setting.machine:
        return 0.0
    calibration = setting.calibration
    typical_us = float(calibration.values["harness_us"])
    return typical_us * calibration.harness_log_sd * float(np.sqrt(HARNESS_DOF / (HARNESS_DOF - 2)))
