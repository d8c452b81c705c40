"""What the rule of one world size has at stake, and what is left of it after measuring.

For a cutoff after the k-th size of the workload the regret is linear in the calls' relative
differences D of the two algorithms (see recommend.best_cutoff)::

    C_k = sum_i w_i max(0, t2_i / t1_i - 1) + sum_(i <= k) w_i D_i
    D_i = t1_i / t2_i - 1  where 2-stage is faster, else  1 - t2_i / t1_i

Whoever has measured picks the k with the least E[C_k | data], so the expected regret after
measuring is E[min_k E[C_k | data]], the expectation over what the measurements may show; without
data it is min_k E[C_k], with perfect knowledge E[min_k C_k]. (Raiffa and Schlaifer, "Applied
Statistical Decision Theory", 1961: preposterior analysis; Frazier, Powell and Dayanik, INFORMS J.
Computing 21 (2009), for the correlated knowledge gradient.)

C depends on the parameters through a few combinations u of them, independent standard normals; to
second order (fitted to posterior draws, since the latencies are not linear in the parameters)

    C_k = c_k + sum_a b_ka u_a + sum_ab d_kab (u_a u_b - [a = b])

If measuring leaves the covariance I - A of u, then E[u | data] = m has covariance A, and

    E[C_k | data] = c_k + sum_a b_ka m_a + sum_ab d_kab (m_a m_b - A_ab)

exactly. The outer expectation is a sum over points of a quasi-random normal sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import Calibration
from ..data.kernels import Kernel
from ..data.workload import Workload
from ..decide.prediction import latency_us
from ..decide.recommendation import Choice, best_cutoff
from ..model.eligibility import eligible
from ..model.shape import ONE_STAGE, TWO_STAGE, Shapes
from .coordinates import Posterior, linear

Array = NDArray[np.float64]

#: Combinations of parameters kept: those with more than this share of the variance, and at most so
#: many. The response surface then gives the value of perfect knowledge within a few percent.
SHARE = 1e-4
COMBINATIONS = 4

#: Cutoffs compared in the search, and quasi-random points: few to rank candidates, many to report.
CUTOFFS = 40
POINTS_COARSE = 24
POINTS = 128
POINTS_FINE = 2048

#: With less to gain than this (a fraction: 0.001 %), a decision counts as made.
NEGLIGIBLE = 1e-5


@dataclass(frozen=True)
class Stake:
    """The decision at one world size.

    ``shapes`` is the workload ascending in bytes with ``weight`` summing to 1, ``regret`` (draws,
    K) the regret of every cutoff as a fraction, ``edges`` (K,) the cutoffs in bytes, ``now`` the
    best cutoff as things stand, ``call_regret`` each call's expected regret under it. The response
    surface covers the cutoffs ``kept``: ``direction`` (q, p) gives u = direction w, ``surface``
    (1 + q + q (q + 1) / 2, kept) its coefficients.
    """

    world_size: int
    shapes: Shapes
    weight: Array
    regret: Array
    edges: NDArray[np.int64]
    now: Choice
    call_regret: Array
    kept: NDArray[np.int64]
    direction: Array
    surface: Array

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        posterior: Posterior,
        white: Array,
        workload: Workload,
        world_size: int,
        *,
        gpu: str,
        op: str,
        dtype: str,
        kernel: Kernel,
    ) -> Stake:
        """Evaluate the decision over posterior draws at white coordinates (draws, p)."""
        shapes, weight = callable_by_both(workload, world_size, op, dtype, kernel)
        one, two = both_arms(calibration, shapes, posterior, white, gpu, kernel)
        regret, edges = regret_of_cutoffs(shapes.bytes, one, two, weight)
        now = best_cutoff(shapes.bytes, one, two, weight)
        chosen = np.where(shapes.bytes <= now.bytes, one, two)
        call_regret = (chosen / np.minimum(one, two)).mean(axis=0) - 1.0
        mean = regret.mean(axis=0)
        best = np.argmin(regret, axis=1)
        # Cutoffs that no draw comes near are never chosen.
        low, high = max(best.min() - 2, 0), min(best.max() + 2, edges.size - 1)
        kept = np.unique(
            np.append(np.linspace(low, high, CUTOFFS).round().astype(int), np.argmin(mean))
        )
        slopes = linear(white, regret[:, kept])
        _, size, rows = np.linalg.svd(slopes - slopes.mean(axis=0), full_matrices=False)
        count = int(np.sum(size**2 > SHARE * np.sum(size**2)))
        direction = rows[: max(1, min(count, COMBINATIONS))]
        u = white @ direction.T
        # The constant is the draws' own mean, so that the surface's "before" is theirs.
        surface = np.vstack([mean[kept], linear(np.hstack([u, _products(u)]), regret[:, kept]).T])
        return cls(
            world_size, shapes, weight, regret, edges, now, call_regret, kept, direction, surface
        )

    @property
    def before(self) -> float:
        """Expected regret of the best cutoff as things stand."""
        return float(self.regret.mean(axis=0).min())

    @property
    def perfect(self) -> float:
        """Expected regret with the parameters known: what one cutoff in bytes cannot avoid."""
        return float(self.regret.min(axis=1).mean())

    @property
    def open(self) -> bool:
        """Whether measuring can gain more than :data:`NEGLIGIBLE`."""
        return self.before - self.perfect > NEGLIGIBLE

    def after(self, known: Array, points: int = POINTS) -> Array:
        """Return the expected regret after measuring, (m,).

        ``known`` (m, q, q) is the covariance of E[u | data], between 0 and the identity.
        """
        q = len(self.direction)
        mean = normal_points(points, q) @ _root(known)
        first, second = _pairs(q)
        curve = (
            self.surface[0]
            + mean @ self.surface[1 : 1 + q]
            + (mean[..., first] * mean[..., second] - known[..., None, first, second])
            @ self.surface[1 + q :]
        )
        return np.asarray(curve.min(axis=-1).mean(axis=-1))

    def chosen(self, mean: Array, known: Array) -> NDArray[np.int64]:
        """Return the cutoff (index into ``edges``) chosen for each E[u | data], (n, q)."""
        q = len(self.direction)
        first, second = _pairs(q)
        curve = (
            self.surface[0]
            + mean @ self.surface[1 : 1 + q]
            + (mean[..., first] * mean[..., second] - known[..., first, second])
            @ self.surface[1 + q :]
        )
        return self.kept[np.argmin(curve, axis=-1)]

    def open_calls(self) -> tuple[float, float]:
        """Return (share of the calls inside the cutoff's interval, their mean expected regret)."""
        high = np.inf if self.now.hi is None else self.now.hi
        inside = (self.shapes.bytes > self.now.lo) & (self.shapes.bytes <= high)
        share = float(self.weight[inside].sum())
        if share == 0:
            return 0.0, 0.0
        return share, float(self.weight[inside] @ self.call_regret[inside]) / share


def callable_by_both(
    workload: Workload, world_size: int, op: str, dtype: str, kernel: Kernel
) -> tuple[Shapes, Array]:
    """Return the calls that both kernels take, ascending in bytes, and their weights."""
    every = Shapes.of(workload.tokens, workload.hidden_dim, world_size, op=op, dtype=dtype)
    both = eligible(every, ONE_STAGE, kernel)[0] & eligible(every, TWO_STAGE, kernel)[0]
    order = np.flatnonzero(both)[np.argsort(every.bytes[both], kind="stable")]
    shapes = Shapes(
        op, dtype, every.tokens[order], every.hidden_dim[order], every.world_size[order]
    )
    return shapes, workload.weight[order] / workload.weight[order].sum()


def both_arms(
    calibration: Calibration,
    shapes: Shapes,
    posterior: Posterior,
    white: Array,
    gpu: str,
    kernel: Kernel,
) -> tuple[Array, Array]:
    """Return 1-stage and 2-stage latencies in us at white coordinates (n, p), each (n, shapes)."""
    values = posterior.values(white)
    one, two = (
        latency_us(calibration, shapes, a, gpu=gpu, kernel=kernel, values=values)
        for a in (ONE_STAGE, TWO_STAGE)
    )
    return one, two


def regret_of_cutoffs(
    size_bytes: NDArray[np.int64], one_us: Array, two_us: Array, weight: Array
) -> tuple[Array, NDArray[np.int64]]:
    """Return (regret of every cutoff (n, K) as a fraction, the cutoffs in bytes (K,)).

    ``size_bytes`` ascending, latencies (n, calls). The first cutoff sends nothing to 1-stage.
    """
    fastest = np.minimum(one_us, two_us)
    regret2 = weight * (two_us / fastest - 1.0)
    step = weight * (one_us / fastest - 1.0) - regret2
    curve = np.hstack([np.zeros((len(step), 1)), np.cumsum(step, axis=1)])
    curve += regret2.sum(axis=1, keepdims=True)
    ends = np.append(np.flatnonzero(np.diff(size_bytes)) + 1, size_bytes.size)
    return curve[:, np.append(0, ends)], np.append(0, size_bytes[ends - 1])


@cache
def normal_points(count: int, dimensions: int) -> Array:
    """Return ``count`` quasi-random standard normals in antithetic pairs, (count, dimensions).

    An additive recurrence with the powers of the generalised golden ratio (M. Roberts, "The
    unreasonable effectiveness of quasirandom sequences", 2018), through the inverse normal
    distribution, then turned so that the covariance is exactly the identity.
    """
    from scipy.special import ndtri

    ratio = 2.0
    for _ in range(60):
        ratio = (1.0 + ratio) ** (1.0 / (dimensions + 1))
    step = ratio ** -np.arange(1.0, dimensions + 1)
    half = ndtri((0.5 + np.outer(np.arange(1, count // 2 + 1), step)) % 1.0)
    half = half @ np.linalg.inv(np.linalg.cholesky(half.T @ half / len(half))).T
    return np.vstack([half, -half])


def _root(known: Array) -> Array:
    """Return symmetric square roots: smooth in the covariance, so that designs compare smoothly."""
    size, axes = np.linalg.eigh(known)
    return np.asarray(
        (axes * np.sqrt(np.maximum(size, 0.0))[..., None, :]) @ np.swapaxes(axes, -1, -2)
    )


def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(count)


def _products(u: Array) -> Array:
    first, second = _pairs(u.shape[1])
    return u[:, first] * u[:, second] - (first == second)
