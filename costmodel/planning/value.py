"""What measuring is worth at one world size: the regret and the interval to expect afterwards.

For a cutoff after the k-th size of the workload the regret is linear in the calls' relative
differences D of the two algorithms (see :attr:`~costmodel.decide.regret.Arms.cutoff_regret`)::

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

The interval to expect is that of simulated outcomes: for each, the posterior that it would leave is
drawn from in turn, and the best cutoff and its interval are read off as ``recommend`` does.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import Values
from ..decide.decision import Cutoff
from ..decide.drawn import in_turn
from ..decide.regret import Arms, BestCutoff
from ..decide.setting import Setting
from .coordinates import Posterior, linear

if TYPE_CHECKING:
    from .schemas import IntervalRecord

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

#: Outcomes behind an interval to expect, posterior draws of each, and the seed.
OUTCOMES = 16
OUTCOME_DRAWS = 96
OUTCOME_SEED = 7

#: With less to gain than this (a fraction: 0.001 %), a decision counts as made.
NEGLIGIBLE = 1e-5


class Interval(Struct, frozen=True):
    """A cutoff in bytes with its 90 % interval; ``hi`` None is open above.

    After measuring, medians over outcomes. ``claimed`` is the probability that the interval is
    narrow enough for a cutoff to be claimed (:attr:`.BestCutoff.identified`).
    """

    bytes: int | None
    lo: int | None
    hi: int | None
    claimed: float

    @classmethod
    def of(cls, outcomes: list[BestCutoff]) -> Interval:
        """Summarise outcomes by their medians."""

        def median(values: list[float]) -> float:
            return float(np.quantile(values, 0.5, method="nearest"))

        high = median([np.inf if o.hi.hi is None else o.hi.hi for o in outcomes])
        return cls(
            bytes=int(median([o.cell.roundest() for o in outcomes])),
            lo=int(median([o.lo.lo for o in outcomes])),
            hi=None if np.isinf(high) else int(high),
            claimed=float(np.mean([o.identified for o in outcomes])),
        )

    @property
    def ratio(self) -> float:
        """Upper over lower end; infinite for an open interval."""
        return self.hi / self.lo if self.hi is not None and self.lo else float("inf")

    def to_dict(self) -> IntervalRecord:
        """Return the interval with recommend's keys."""
        return {
            "max_bytes": self.bytes,
            "max_bytes_lo": self.lo,
            "max_bytes_hi": self.hi,
            "claimed_probability": round(self.claimed, 3),
        }


class RegretSurface(Struct, frozen=True):
    """How the regret of every cutoff at one world size depends on what is known.

    ``cutoff`` is the decision as things stand. By the planner's draws ``before`` is the expected
    regret of the best cutoff now, ``perfect`` that with the parameters known, which no cutoff in
    bytes avoids, and ``call_regret`` (n,) each call's under the cutoff. The response surface covers
    the cutoffs ``kept``: ``direction`` (q, p) gives u = direction w, ``surface``
    (1 + q + q (q + 1) / 2, kept) its coefficients.
    """

    cutoff: Cutoff
    before: float
    perfect: float
    call_regret: Array
    kept: NDArray[np.int64]
    direction: Array
    surface: Array

    @classmethod
    def of(cls, setting: Setting, cutoff: Cutoff, white: Array, values: Values) -> RegretSurface:
        """Evaluate a decision over posterior draws at white coordinates (draws, p).

        ``values`` are the parameters there, see :meth:`.Posterior.values`.
        """
        now = cutoff.arms
        shapes = now.shapes
        limit = np.inf if cutoff.estimate is None else cutoff.estimate
        choice = shapes.bytes <= limit
        regret = np.empty((len(white), now.ends.size))
        over_fastest = np.zeros(len(shapes))
        # A few draws at a time: only the regret is kept of them.
        for few in in_turn(len(white), len(shapes)):
            some = {name: value[few] for name, value in values.items()}
            arms = Arms.of_calls(setting, shapes, now.weight, some)
            regret[few] = arms.cutoff_regret
            over = arms.chosen_us(choice) / arms.fastest_us
            over[0] += over_fastest
            over_fastest = over.sum(axis=0)
        call_regret = over_fastest / len(white) - 1.0
        mean = regret.mean(axis=0)
        best = np.argmin(regret, axis=1)
        # Cutoffs that no draw comes near are never chosen.
        low, high = max(best.min() - 2, 0), min(best.max() + 2, mean.size - 1)
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
        perfect = float(regret.min(axis=1).mean())
        return cls(
            cutoff, float(mean.min()), perfect, call_regret, kept, direction, surface
        )  # fmt: skip

    @property
    def world_size(self) -> int:
        """Ranks."""
        return self.cutoff.world_size

    @property
    def interval(self) -> tuple[float, float]:
        """The cutoff's present interval in bytes; an open end is 0 or infinite."""
        high = self.cutoff.max_bytes_hi
        return float(self.cutoff.max_bytes_lo or 0), np.inf if high is None else float(high)

    @property
    def open(self) -> bool:
        """Whether measuring can gain more than :data:`NEGLIGIBLE`."""
        return self.before - self.perfect > NEGLIGIBLE

    def after(self, known: Array, points: int = POINTS) -> Array:
        """Return the expected regret after measuring, (m,).

        ``known`` (m, q, q) is the covariance of E[u | data], between 0 and the identity.
        """
        mean = normal_points(points, len(self.direction)) @ _root(known)
        curve = self._curve(mean, known[..., None, :, :])
        return np.asarray(curve.min(axis=-1).mean(axis=-1))

    def chosen(self, mean: Array, known: Array) -> NDArray[np.int64]:
        """Return the cutoff (index into the decision's cells) chosen at each E[u | data] (n, q)."""
        return self.kept[np.argmin(self._curve(mean, known), axis=-1)]

    def _curve(self, mean: Array, known: Array) -> Array:
        """Return the expected regret of every cutoff kept for each E[u | data], (..., kept)."""
        q = len(self.direction)
        first, second = _pairs(q)
        return np.asarray(
            self.surface[0]
            + mean @ self.surface[1 : 1 + q]
            + (mean[..., first] * mean[..., second] - known[..., first, second])
            @ self.surface[1 + q :]
        )

    def open_calls(self) -> tuple[float, float]:
        """Return (share of the calls inside the cutoff's interval, their mean expected regret)."""
        low, high = self.interval
        size, weight = self.cutoff.arms.shapes.bytes, self.cutoff.arms.weight
        inside = (size > low) & (size <= high)
        share = float(weight[inside].sum())
        if share == 0:
            return 0.0, 0.0
        return share, float(weight[inside] @ self.call_regret[inside]) / share

    def expected(self, setting: Setting, posterior: Posterior, learnt: Array) -> Interval:
        """Return the interval to expect when measuring makes E[w | data] vary by ``learnt``.

        ``learnt`` (p, p) is a covariance of white coordinates.
        """
        rng = np.random.default_rng(OUTCOME_SEED)
        p = len(learnt)
        means = _antithetic(rng, OUTCOMES, p) @ _root(learnt)
        rest = _antithetic(rng, OUTCOME_DRAWS, p) @ _root(np.eye(p) - learnt)
        shapes, weight = self.cutoff.arms.shapes, self.cutoff.arms.weight
        return Interval.of(
            [
                Arms.of_calls(setting, shapes, weight, posterior.values(mean + rest)).best()
                for mean in means
            ]
        )


def at_present(cutoff: Cutoff) -> Interval:
    """Return the decision's own interval; without a claim, what could be estimated."""
    return Interval(
        cutoff.estimate, cutoff.max_bytes_lo, cutoff.max_bytes_hi, float(cutoff.claimed)
    )


@cache
def normal_points(count: int, dimensions: int) -> Array:
    """Return ``count`` quasi-random standard normals in antithetic pairs, (count, dimensions).

    An additive recurrence with the powers of the generalised golden ratio (M. Roberts, "The
    unreasonable effectiveness of quasirandom sequences", 2018), through the inverse normal
    distribution, then turned so that the covariance is exactly the identity.
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1.0 + ratio) ** (1.0 / (dimensions + 1))
    step = ratio ** -np.arange(1.0, dimensions + 1)
    uniform = (0.5 + np.outer(np.arange(1, count // 2 + 1), step)) % 1.0
    normal = NormalDist().inv_cdf
    half = np.array([normal(u) for u in uniform.flat]).reshape(uniform.shape)
    half = half @ np.linalg.inv(np.linalg.cholesky(half.T @ half / len(half))).T
    return np.vstack([half, -half])


def _root(known: Array) -> Array:
    """Return symmetric square roots: smooth in the covariance, so that designs compare smoothly."""
    size, axes = np.linalg.eigh(known)
    return np.asarray(
        (axes * np.sqrt(np.maximum(size, 0.0))[..., None, :]) @ np.swapaxes(axes, -1, -2)
    )


def _antithetic(rng: np.random.Generator, count: int, dimensions: int) -> Array:
    half = rng.standard_normal((count // 2, dimensions))
    return np.vstack([half, -half])


def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(count)


def _products(u: Array) -> Array:
    first, second = _pairs(u.shape[1])
    return u[:, first] * u[:, second] - (first == second)
