"""The fit: maximum a posteriori with robust noise, and the Laplace posterior around it.

A row's latency is the model's, plus what its benchmark adds to both arms (one positive constant per
harness), plus the contrast of its laboratory: what an arm takes there beyond the model relative to
1-stage. Rows carry Student-t noise (4 degrees of freedom) in log latency. Two arms at one shape in
one harness are a pair: their common noise and that of their ratio have scales of their own, so that
what moved both says nothing about the difference. Scales are estimated per harness with the
leverage correction of restricted maximum likelihood.

Harness constants are Student-t random effects (8 degrees of freedom) in the logarithm around a
typical one: a benchmark adds time and never takes any. Contrasts are normal with spread tau, and
tau has a half-normal prior of :data:`CONTRAST_US`; it is integrated over a grid, each value weighed
by its Laplace evidence, and the posterior returned has the mean and covariance of the mixture. All
other parameters have the priors of ``facts/priors.csv``. References: Lange, Little and Taylor,
"Robust statistical modeling using the t distribution", JASA 84 (1989), for the weights and the
information (nu + 1) / (nu + 3); Tierney and Kadane, JASA 81 (1986), for the Laplace approximation;
Gelman, Bayesian Analysis 1 (2006), for the half-normal prior of a spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..model import parameters
from ..model.parameters import nominal_gbps
from .observations import Observations
from .posterior import HARNESS_DOF, NOISE_DOF

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Weak information on the row noise: two rows' worth at 2 %, so that a source with very few rows
#: does not claim to be exact.
NOISE_START = 0.02
NOISE_ROWS = 2.0

#: Spread of the logarithm of harness constants before any is known, counted as two sources.
HARNESS_LOG_SD_START = 1.0

#: Half-normal prior of the spread tau of contrasts between laboratories, us. Two laboratories with
#: both fused arms on MI355X at 4 ranks (aiter-3458-mi355x, vllm-fork-81) differ by 0.5 us.
CONTRAST_US = 0.5

#: Values of tau over which it is integrated, us: the half-normal puts 0.1 % beyond the last.
TAUS_US = np.array([0.05, 0.15, 0.3, 0.45, 0.6, 0.8, 1.05, 1.35, 1.65])

#: The fit has converged when a step lowers twice the negative log density by less than this.
TOLERANCE = 1e-4
MOST_STEPS = 80

#: Numbers a term of the model may hold in refits that take their steps together: tens of MB.
AT_ONCE = 2_000_000


class FitProblem(Struct, frozen=True, dict=True):
    """Observations with the parameter space that they and the arch's other GPUs need.

    Coordinates are the parameters ``names``, then per key of ``harness`` the logarithm of its
    constant over the typical one, then one contrast in us per entry of ``contrast``, (harness key,
    arm). ``pairs`` (p, 2) holds the rows of two arms at one shape.
    """

    observations: Observations
    names: tuple[str, ...]
    harness: tuple[str, ...]
    contrast: tuple[tuple[str, str], ...]
    harness_index: NDArray[np.int64]
    contrast_index: NDArray[np.int64]
    pairs: NDArray[np.int64]
    is_log: Mask
    prior_mean: Array
    prior_sd: Array
    upper: Array

    @classmethod
    def of(cls, observations: Observations, gpus: tuple[tuple[str, str], ...]) -> FitProblem:
        """Build the problem for the (arch, gpu) pairs."""
        norm_kernels = {g.norm_kernel for g in observations.groups} | {"gemma"}
        model = observations.groups[0].model
        names = tuple(model.parameter_names(gpus, norm_kernels))
        priors = [parameters.prior(n) for n in names]
        harness, index = np.unique(observations.harness, return_inverse=True)
        contrast, contrast_index = _contrasts(observations)
        log = np.array([p.form == "log" for p in priors])
        centre = np.array([p.centre for p in priors])
        limits = [nominal_gbps(n) for n in names]
        return cls(
            observations,
            names,
            tuple(harness.tolist()),
            contrast,
            index.astype(np.int64),
            contrast_index,
            _pairs(observations),
            log,
            np.where(log, np.log(np.where(log, centre, 1.0)), centre),
            np.array([p.sd for p in priors]),
            np.array([np.log(limit) if limit else np.inf for limit in limits]),
        )

    @cached_property
    def contrast_columns(self) -> Array:
        """Which contrast each row carries, (n, contrasts) of 0 and 1."""
        return (self.contrast_index[:, None] == np.arange(len(self.contrast))).astype(float)

    def predict(self, x: Array) -> Array:
        """Return modelled latencies, harness and contrast included, for coordinates (..., p)."""
        return self._latency(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    def _latency(self, x: Array) -> Array:
        """Return latencies (m, n) for coordinate vectors (m, p)."""
        k, h = len(self.names), len(self.harness)
        values = {n: v[:, None] for n, v in zip(self.names, self._values(x[:, :k]).T, strict=True)}
        harness = values["harness_us"] * np.exp(x[:, k : k + h])
        base = np.broadcast_to(self.observations.latency(values), (len(x), len(self.observations)))
        contrast = x[:, k + h :] @ self.contrast_columns.T
        return base + harness[:, self.harness_index] + contrast

    def _values(self, x: Array) -> Array:
        """Return parameter values from coordinates, along the last axis."""
        return np.where(self.is_log, np.exp(np.where(self.is_log, x, 0.0)), x)

    def jacobian(self, x: Array) -> tuple[Array, Array]:
        """Return (latency (m, n), d latency / d x (m, n, p)) for coordinate vectors (m, p).

        The model's columns are differences, all in one vectorised evaluation.
        """
        k, h = len(self.names), len(self.harness)
        step = 1e-5
        moved = np.repeat(x[:, None, :], k + 1, axis=1)
        moved[:, 1:, :k] += step * np.eye(k)
        latency = self.predict(moved)
        columns = np.empty((len(x), latency.shape[-1], x.shape[-1]))
        columns[..., :k] = ((latency[:, 1:] - latency[:, :1]) / step).transpose(0, 2, 1)
        typical = np.exp(x[:, self.names.index("harness_us")])[:, None]
        own = self.harness_index[:, None] == np.arange(h)
        columns[..., k : k + h] = own * (typical * np.exp(x[:, k : k + h]))[:, None, :]
        columns[..., k + h :] = self.contrast_columns
        return latency[:, 0], columns


def _contrasts(observations: Observations) -> tuple[tuple[tuple[str, str], ...], NDArray[np.int64]]:
    """Return the contrasts that rows carry, (harness key, arm), and each row's (-1: none).

    An arm has one where its harness measured another arm too: without, its harness's constant says
    the same. 1-stage is what the others are compared with.
    """
    keys = list(zip(observations.harness.tolist(), observations.arm.tolist(), strict=True))
    seen: dict[str, set[str]] = {}
    for harness, name in keys:
        seen.setdefault(harness, set()).add(name)
    reference = {h: "1stage" if "1stage" in arms else min(arms) for h, arms in seen.items()}
    known = tuple(sorted({(h, a) for h, a in keys if a != reference[h]}))
    at = {key: i for i, key in enumerate(known)}
    return known, np.array([at.get(key, -1) for key in keys], np.int64)


def _pairs(observations: Observations) -> NDArray[np.int64]:
    """Return the rows (p, 2) of two arms at one shape in one harness, each row once."""
    places: dict[str, dict[str, int]] = {}
    for i, (place, arm) in enumerate(zip(observations.place, observations.arm, strict=True)):
        places.setdefault(place, {}).setdefault(str(arm), i)
    pairs = [tuple(rows.values())[:2] for rows in places.values() if len(rows) > 1]
    return np.array(pairs, np.int64).reshape(-1, 2)


class Fit(Struct, frozen=True):
    """A fitted problem: posterior mean and covariance, noise scales, and per-row diagnostics.

    ``noise`` has two scales of log residuals per harness: of single rows (and of what a pair has in
    common), and of the two rows of a pair against each other. ``taus`` are (tau in us, weight).
    """

    problem: FitProblem
    x: Array
    covariance: Array
    noise: Array
    harness_log_sd: float
    taus: Array
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

    @property
    def row_noise(self) -> Array:
        """Scale of a single row's log residual per harness, whether or not it is in a pair."""
        single, ratio = self.noise.reshape(-1, 2).T
        paired = np.zeros(len(single), np.bool_)
        paired[self.problem.harness_index[self.problem.pairs[:, 0]]] = True
        return np.where(paired, np.sqrt((single**2 + ratio**2) / 2), single)


class _Rows(Struct, frozen=True):
    """The rows that carry weight, as independent residuals: pairs as their mean and difference.

    A residual is ``left`` residual +- ``right`` residual, both over sqrt(2) for a pair, and
    ``right`` -1 for a single row; ``scale`` indexes the noise scales.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    sign: Array
    scale: NDArray[np.int64]

    @classmethod
    def of(cls, problem: FitProblem, keep: Mask) -> _Rows:
        pairs = problem.pairs[keep[problem.pairs].all(axis=1)]
        alone = keep.copy()
        alone[pairs] = False
        single = np.flatnonzero(alone)
        none = np.full(single.size, -1)
        left = np.concatenate([single, pairs[:, 0], pairs[:, 0]])
        right = np.concatenate([none, pairs[:, 1], pairs[:, 1]])
        sign = np.concatenate([np.zeros(single.size), np.ones(len(pairs)), -np.ones(len(pairs))])
        return cls(left, right, sign, 2 * problem.harness_index[left] + (sign < 0))

    def combine(self, of_rows: Array) -> Array:
        """Return the residuals' combination of rows' values, along the first axis."""
        sign = self.sign.reshape(-1, *(1,) * (of_rows.ndim - 1))
        both = (of_rows[self.left] + sign * of_rows[self.right]) / np.sqrt(2.0)
        return np.where(sign == 0, of_rows[self.left], both)


def fit(problem: FitProblem, *, rounds: int = 6, taus_us: Array = TAUS_US) -> Fit:
    """Fit to all rows. ``taus_us`` is the grid of tau."""
    used = _Rows.of(problem, np.ones(len(problem.observations), np.bool_))
    k, h = len(problem.names), len(problem.harness)
    x = np.concatenate([problem.prior_mean, np.zeros(h + len(problem.contrast))])
    noise, spread = np.full(2 * h, NOISE_START * 2), HARNESS_LOG_SD_START
    tau = CONTRAST_US if len(taus_us) > 1 else float(taus_us[0])
    for _ in range(rounds):
        prior = _Prior.of(problem, spread, tau)
        top = _summits(problem, [used], prior, noise, x)[0]
        x, (covariance, leverage) = top.x, top.laplace(prior)
        noise = _noise(used, top.residual, noise, leverage)
        spread = _spread(x[k : k + h], np.diag(covariance)[k : k + h], spread)
    taus = taus_us if problem.contrast else np.array([CONTRAST_US])
    means, covariances, evidence = [], [], []
    for tau in taus.tolist():
        prior = _Prior.of(problem, spread, tau)
        top = _summits(problem, [used], prior, noise, x)[0]
        x, covariance = top.x, top.laplace(prior)[0]
        means.append(x)
        covariances.append(covariance)
        evidence.append(_log_evidence(top, prior, covariance, tau))
    log_weight = np.array(evidence) - 0.5 * (taus / CONTRAST_US) ** 2 + np.log(_widths(taus))
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = weight @ np.array(means)
    off = np.array(means) - mean
    covariance = np.tensordot(weight, np.array(covariances), 1) + (off * weight[:, None]).T @ off
    return Fit(
        problem, mean, covariance, noise, spread, np.column_stack([taus, weight]),
        np.maximum(problem.predict(mean), 1e-3),
    )  # fmt: skip


class Refit(Struct, frozen=True):
    """A fit without some rows: coordinates, their covariance, and all rows' latency.

    ``slope`` (n, p) is d log latency / d x.
    """

    x: Array
    covariance: Array
    predicted: Array
    slope: Array


def refits(found: Fit, keeps: Iterable[Mask]) -> Iterator[Refit]:
    """Refit without the rows that each mask leaves out, warm from a fit to all.

    Noise scales are kept and tau is its mean: what leaving rows out needs. As many refits as fit
    into memory take their steps together.
    """
    problem = found.problem
    prior = _Prior.of(problem, found.harness_log_sd, float(found.taus[:, 0] @ found.taus[:, 1]))
    numbers = len(problem.observations) * (len(problem.names) + 1)
    waiting = iter(keeps)
    while some := list(islice(waiting, max(1, AT_ONCE // numbers))):
        used = [_Rows.of(problem, keep) for keep in some]
        for top in _summits(problem, used, prior, found.noise, found.x):
            covariance, _ = top.laplace(prior)
            yield Refit(top.x, covariance, top.latency, top.slope)


class _Prior(Struct, frozen=True):
    """Normal priors of the first coordinates and of contrasts, Student-t ones of the harness."""

    mean: Array
    sd: Array
    heavy: slice
    upper: Array

    @classmethod
    def of(cls, problem: FitProblem, spread: float, tau: float) -> _Prior:
        k, h, c = len(problem.names), len(problem.harness), len(problem.contrast)
        return cls(
            np.concatenate([problem.prior_mean, np.zeros(h + c)]),
            np.concatenate([problem.prior_sd, np.full(h, spread), np.full(c, tau)]),
            slice(k, k + h),
            np.concatenate([problem.upper, np.full(h + c, np.inf)]),
        )


class _Place(Struct, frozen=True):
    """Rows, their noise scales and the density at coordinates ``x``; ``loss`` is twice its -log.

    ``z`` are residuals over their scales, ``weight`` those of reweighted least squares, ``u`` the
    coordinates over their priors with the weights ``light``.
    """

    used: _Rows
    scale: Array
    x: Array
    latency: Array
    loss: float
    residual: Array
    z: Array
    weight: Array
    u: Array
    light: Array
    slope: Array

    @classmethod
    def of(
        cls, problem: FitProblem, used: _Rows, prior: _Prior, noise: Array, x: Array,
        latency: Array, columns: Array | None = None,
    ) -> _Place:  # fmt: skip
        """Weigh the residuals of ``latency`` (n,); ``columns`` (n, p) is its derivative."""
        latency, scale = np.maximum(latency, 1e-3), noise[used.scale]
        residual = used.combine(np.log(latency / problem.observations.latency_us))
        z = residual / scale
        u = (x - prior.mean) / prior.sd
        heavy = u[prior.heavy]
        loss = (NOISE_DOF + 1) * float(np.sum(np.log1p(z**2 / NOISE_DOF))) + float(u @ u)
        loss += (HARNESS_DOF + 1) * float(np.sum(np.log1p(heavy**2 / HARNESS_DOF)))
        loss -= float(heavy @ heavy)
        light = np.ones_like(u)
        light[prior.heavy] = (HARNESS_DOF + 1) / (HARNESS_DOF + heavy**2)
        weight = (NOISE_DOF + 1) / (NOISE_DOF + z**2)
        slope = np.empty(0) if columns is None else columns / latency[:, None]
        return cls(used, scale, x, latency, loss, residual, z, weight, u, light, slope)

    @property
    def _scaled(self) -> Array:
        return self.used.combine(self.slope) / self.scale[:, None]

    def step(self, prior: _Prior) -> Callable[[float], Array]:
        """Return damping -> the Gauss-Newton step; rates at their nominal limit stay there."""
        slope = self._scaled
        curvature = (slope.T * self.weight) @ slope + np.diag(self.light / prior.sd**2)
        gradient = slope.T @ (self.weight * self.z) + self.light * self.u / prior.sd
        free = (self.x < prior.upper - 1e-8) | (gradient > 0)
        among, down = curvature[np.ix_(free, free)], gradient[free]

        def damped(damping: float) -> Array:
            step = np.zeros_like(self.x)
            step[free] = np.linalg.solve(among * (1 + damping * np.eye(down.size)), down)
            return step

        return damped

    def laplace(self, prior: _Prior) -> tuple[Array, Array]:
        """Return the posterior covariance and each residual's leverage."""
        scaled = self._scaled * np.sqrt((NOISE_DOF + 1) / (NOISE_DOF + 3))
        precision = prior.sd**-2.0
        precision[prior.heavy] *= (HARNESS_DOF + 1) / (HARNESS_DOF + 3)
        covariance = np.linalg.inv(scaled.T @ scaled + np.diag(precision))
        covariance = (covariance + covariance.T) / 2
        return covariance, np.einsum("ij,jk,ik->i", scaled, covariance, scaled)


def _summits(
    problem: FitProblem, used: Sequence[_Rows], prior: _Prior, noise: Array, x: Array
) -> list[_Place]:
    """Return where the posterior density of each set of rows is highest, from ``x`` on.

    Gauss-Newton steps with the weights of iteratively reweighted least squares, damped where a step
    does not pay (Levenberg and Marquardt); link rates stay within their nominal limits. The model
    is evaluated for all sets at once.
    """

    def places(which: list[int], at: Array) -> list[_Place]:
        every = zip(which, at, *problem.jacobian(at), strict=True)
        return [_Place.of(problem, used[i], prior, noise, *rest) for i, *rest in every]

    found = places(
        list(range(len(used))), np.tile(np.minimum(x, prior.upper - 1e-9), (len(used), 1))
    )
    damping = [1e-4] * len(used)
    moving = list(range(len(used)))
    for _ in range(MOST_STEPS):
        steps = {i: found[i].step(prior) for i in moving}
        accepted: dict[int, _Place] = {}
        trying = moving
        while trying:
            trials = np.array([found[i].x - steps[i](damping[i]) for i in trying])
            # With the slope at once: few steps do not pay, and of few vectors the calls cost most.
            tried = places(trying, np.minimum(trials, prior.upper - 1e-9))
            for i, place in zip(trying, tried, strict=True):
                if place.loss <= found[i].loss or damping[i] > 1e6:
                    accepted[i] = place
                else:
                    damping[i] *= 8
            trying = [i for i in trying if i not in accepted]
        gains = {i: found[i].loss - accepted[i].loss for i in moving}
        for i, place in accepted.items():
            found[i], damping[i] = place, max(damping[i] / 8, 1e-9)
        moving = [i for i in moving if gains[i] >= TOLERANCE]
        if not moving:
            break
    return found


def _log_evidence(top: _Place, prior: _Prior, covariance: Array, tau: float) -> float:
    """Return the log evidence by Laplace, up to what is the same for every tau."""
    rows = -0.5 * (NOISE_DOF + 1) * float(np.sum(np.log1p(top.z**2 / NOISE_DOF)))
    u = top.u
    heavy = u[prior.heavy]
    light = np.delete(u, np.arange(prior.heavy.start, prior.heavy.stop))
    priors = -0.5 * float(light @ light) - 0.5 * (HARNESS_DOF + 1) * float(
        np.sum(np.log1p(heavy**2 / HARNESS_DOF))
    )
    contrasts = u.size - prior.heavy.stop
    return rows + priors - contrasts * np.log(tau) + 0.5 * float(np.linalg.slogdet(covariance)[1])


def _widths(grid: Array) -> Array:
    """Return the weight of each point of a grid in the trapezoid rule from 0 on."""
    if grid.size == 1:
        return np.ones(1)
    return np.diff([0.0, *(grid[1:] + grid[:-1]) / 2, 1.5 * grid[-1] - 0.5 * grid[-2]])


def _noise(used: _Rows, residual: Array, noise: Array, leverage: Array) -> Array:
    """Return updated noise scales (one EM step, degrees of freedom by leverage)."""
    z = (residual / noise[used.scale]) ** 2
    share = (NOISE_DOF + 1) / (NOISE_DOF + z)
    free = np.bincount(used.scale, 1.0 - np.minimum(leverage, 0.95), noise.size)
    square = np.bincount(used.scale, share * residual**2, noise.size)
    return np.sqrt((NOISE_ROWS * NOISE_START**2 + square) / (NOISE_ROWS + free))


def _spread(deviation: Array, variance: Array, spread: float) -> float:
    """Return the updated log spread of harness constants (one EM step), at least 0.3."""
    if len(deviation) < 2:
        return spread
    square = deviation**2 + variance
    share = (HARNESS_DOF + 1) / (HARNESS_DOF + square / spread**2)
    # Two sources' worth of the starting value: a few sources do not pin a spread.
    total = 2 * HARNESS_LOG_SD_START**2 + float(np.sum(share * square))
    return float(max(0.3, np.sqrt(total / (2 + len(deviation)))))
