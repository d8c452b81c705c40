"""The fit: maximum a posteriori with robust noise, and the Laplace posterior around it.

The likelihood of a row is Student-t (4 degrees of freedom) in the log residual, with a scale per
harness that is estimated with the leverage correction of restricted maximum likelihood; harness
constants are Student-t random effects (3 degrees of freedom) around a common one; all other
parameters have the priors of ``facts/priors.csv``. References: Lange, Little and Taylor,
"Robust statistical modeling using the t distribution", JASA 84 (1989), for the weights and the
information (nu + 1) / (nu + 3); Tierney and Kadane, JASA 81 (1986), for the Laplace approximation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model import parameters
from .observations import Observations
from .posterior import HARNESS_DOF, NOISE_DOF, nominal_gbps

Array = NDArray[np.float64]

#: Weak information on the row noise: two rows' worth at 2 %, so that a source with very few rows
#: does not claim to be exact.
NOISE_START = 0.02
NOISE_ROWS = 2.0
HARNESS_SD_START_US = 3.0


@dataclass(frozen=True)
class FitProblem:
    """Observations with the parameter space that they and the arch's other GPUs need."""

    observations: Observations
    names: tuple[str, ...]
    harness: tuple[str, ...]
    harness_index: NDArray[np.int64]
    is_log: NDArray[np.bool_]
    prior_mean: Array
    prior_sd: Array
    lower: Array
    upper: Array

    @classmethod
    def of(cls, observations: Observations, gpus: tuple[tuple[str, str], ...]) -> FitProblem:
        """Build the problem for the (arch, gpu) pairs."""
        norm_kernels = {g.norm_kernel for g in observations.groups} | {"gemma"}
        model = observations.groups[0].model
        names = tuple(model.parameter_names(gpus, norm_kernels))
        priors = [parameters.prior(n) for n in names]
        harness, index = np.unique(observations.harness, return_inverse=True)
        log = np.array([p.form == "log" for p in priors])
        centre = np.array([p.centre for p in priors])
        limits = [nominal_gbps(n) for n in names]
        return cls(
            observations,
            names,
            tuple(harness.tolist()),
            index.astype(np.int64),
            log,
            np.where(log, np.log(np.where(log, centre, 1.0)), centre),
            np.array([p.sd for p in priors]),
            np.where(log | (centre == 0.0), -np.inf, 0.0),
            np.array([np.log(limit) if limit else np.inf for limit in limits]),
        )

    def predict(self, x: Array) -> Array:
        """Return modelled latencies, harness included, for one parameter vector."""
        k = len(self.names)
        values = dict(zip(self.names, self._values(x[:k]), strict=True))
        base = self.observations.latency(values) + values["harness_us"]
        return base + x[k:][self.harness_index]

    def _values(self, x: Array) -> Array:
        """Return parameter values from coordinates, along the last axis."""
        return np.where(self.is_log, np.exp(np.where(self.is_log, x, 0.0)), x)

    def jacobian(self, x: Array) -> tuple[Array, Array]:
        """Return (latency, d latency / d x), all columns in one vectorised evaluation."""
        k, h = len(self.names), len(self.harness)
        step = 1e-5
        moved = x[:k] + step * np.vstack([np.zeros(k), np.eye(k)])
        moved = self._values(moved)
        values = {n: moved[:, i : i + 1] for i, n in enumerate(self.names)}
        latency = self.observations.latency(values) + values["harness_us"]
        columns = np.empty((latency.shape[1], k + h))
        columns[:, :k] = ((latency[1:] - latency[0]) / step).T
        columns[:, k:] = self.harness_index[:, None] == np.arange(h)
        return latency[0] + x[k:][self.harness_index], columns


@dataclass(frozen=True)
class Fit:
    """A fitted problem: MAP, posterior covariance, noise scales, and per-row diagnostics."""

    problem: FitProblem
    x: Array
    covariance: Array
    noise: Array
    harness_sd_us: float
    predicted: Array

    def __repr__(self) -> str:
        error = 100 * np.median(np.abs(np.expm1(self.log_residual)))
        return (
            f"Fit({len(self.predicted)} rows, {len(self.problem.names)} parameters, "
            f"{len(self.problem.harness)} harness constants; median error {error:.1f} %)"
        )

    @property
    def log_residual(self) -> Array:
        """log(predicted / measured) per row."""
        return np.log(self.predicted / self.problem.observations.latency_us)


def fit(
    problem: FitProblem,
    *,
    rows: NDArray[np.bool_] | None = None,
    start: Fit | None = None,
    rounds: int = 6,
) -> Fit:
    """Fit to all rows, or to those of a mask (the others are predicted but carry no weight).

    ``start`` warm-starts from another fit of the same problem; its noise scales are kept, which is
    what leave-one-out needs.
    """
    from scipy.optimize import least_squares

    observed = problem.observations.latency_us
    weight = np.ones(len(observed), bool) if rows is None else rows
    log_y = np.log(observed)
    k, h = len(problem.names), len(problem.harness)
    n = len(observed)
    if start is None:
        x = np.concatenate([problem.prior_mean, np.zeros(h)])
        noise = np.full(h, NOISE_START * 2)
        spread = HARNESS_SD_START_US
    else:
        x, noise, spread = start.x.copy(), start.noise, start.harness_sd_us
        rounds = 1
    lower = np.concatenate([problem.lower, np.full(h, -np.inf)])
    upper = np.concatenate([problem.upper, np.full(h, np.inf)])
    x = np.clip(x, lower + 1e-6, upper - 1e-6)

    def tail(z: Array) -> Array:
        """Robust loss for rows and harness constants, plain squares for the priors."""
        rho = np.empty((3, z.size))
        rho[0], rho[1], rho[2] = z, 1.0, 0.0
        for part, dof in ((slice(0, n), NOISE_DOF), (slice(n + k, None), HARNESS_DOF)):
            rho[0, part] = (dof + 1) * np.log1p(z[part] / dof)
            rho[1, part] = (dof + 1) / (dof + z[part])
            rho[2, part] = -(dof + 1) / (dof + z[part]) ** 2
        return rho

    for _ in range(rounds):
        scale = noise[problem.harness_index]

        def residual(v: Array, scale: Array = scale, spread: float = spread) -> Array:
            t = np.maximum(problem.predict(v), 1e-3)
            return np.concatenate(
                [
                    weight * (np.log(t) - log_y) / scale,
                    (v[:k] - problem.prior_mean) / problem.prior_sd,
                    v[k:] / spread,
                ]
            )

        def slope(v: Array, scale: Array = scale, spread: float = spread) -> Array:
            t, columns = problem.jacobian(v)
            top = columns * (weight / (scale * np.maximum(t, 1e-3)))[:, None]
            below = np.zeros((k + h, k + h))
            np.fill_diagonal(below, np.concatenate([1 / problem.prior_sd, np.full(h, 1 / spread)]))
            return np.vstack([top, below])

        # scipy's typing knows no callable loss; its documentation does.
        solution = least_squares(
            residual, x, slope, bounds=(lower, upper), loss=tail, x_scale="jac", max_nfev=60
        )
        x = solution.x
        covariance, leverage = _laplace(problem, x, weight, noise, spread)
        if start is None:
            noise = _noise(problem, x, weight, noise, leverage)
            spread = _spread(x[k:], np.diag(covariance)[k:], spread)
    covariance, _ = _laplace(problem, x, weight, noise, spread)
    return Fit(problem, x, covariance, noise, spread, np.maximum(problem.predict(x), 1e-3))


def _laplace(
    problem: FitProblem, x: Array, weight: NDArray[np.bool_], noise: Array, spread: float
) -> tuple[Array, Array]:
    """Return the posterior covariance and each row's leverage."""
    t, columns = problem.jacobian(x)
    scaled = columns / (np.maximum(t, 1e-3) * noise[problem.harness_index])[:, None]
    scaled *= (weight * np.sqrt((NOISE_DOF + 1) / (NOISE_DOF + 3)))[:, None]
    information = scaled.T @ scaled
    k = len(problem.names)
    prior = np.full(len(x), (HARNESS_DOF + 1) / (HARNESS_DOF + 3) / spread**2)
    prior[:k] = problem.prior_sd**-2.0
    covariance = np.linalg.inv(information + np.diag(prior))
    covariance = (covariance + covariance.T) / 2
    return covariance, np.einsum("ij,jk,ik->i", scaled, covariance, scaled)


def _noise(
    problem: FitProblem, x: Array, weight: NDArray[np.bool_], noise: Array, leverage: Array
) -> Array:
    """Return updated noise scales per harness (one EM step, degrees of freedom by leverage)."""
    residual = np.log(np.maximum(problem.predict(x), 1e-3) / problem.observations.latency_us)
    z = (residual / noise[problem.harness_index]) ** 2
    share = (NOISE_DOF + 1) / (NOISE_DOF + z) * weight
    updated = noise.copy()
    for i in range(len(noise)):
        mine = (problem.harness_index == i) & weight
        free = float(np.sum(1.0 - np.minimum(leverage[mine], 0.95)))
        square = float(np.sum(share[mine] * residual[mine] ** 2))
        updated[i] = np.sqrt((NOISE_ROWS * NOISE_START**2 + square) / (NOISE_ROWS + free))
    return updated


def _spread(deviation: Array, variance: Array, spread: float) -> float:
    """Return the updated spread of harness constants (one EM step), at least half a us."""
    if len(deviation) < 2:
        return spread
    square = deviation**2 + variance
    share = (HARNESS_DOF + 1) / (HARNESS_DOF + square / spread**2)
    # Two sources' worth of the starting value: a few sources do not pin a spread.
    total = 2 * HARNESS_SD_START_US**2 + float(np.sum(share * square))
    return float(max(0.5, np.sqrt(total / (2 + len(deviation)))))
