"""Rehearsing measurements: hidden truths, what a benchmark would print, what would be concluded.

A truth is a draw of the posterior. It is measured with a harness constant and a scatter drawn as
estimate.py assumes them (Student-t both), the posterior is updated, the best cutoff chosen, and its
regret read off the truth. The update is Gauss-Newton to the maximum a posteriori with robust
weights and the Laplace covariance around it, as in estimate.py, but it starts from the calibration
instead of the rows behind it: all truths at once, in a second.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import HARNESS_DOF, NOISE_DOF
from ..decide.regret import Arms
from ..decide.setting import Setting
from .coordinates import Posterior
from .search import Problem
from .value import RegretSurface

Array = NDArray[np.float64]

#: Iterations of the update, and the step of its numerical derivatives.
ITERATIONS = 6
STEP = 1e-4

#: A latency is positive, whatever extreme parameters say.
FLOOR_US = 0.5


class Rehearsal(Struct, frozen=True):
    """Truths and their noise: the same for every design, so that designs compare directly.

    ``white`` (T, p); ``harness`` (T, 1), the logarithm of a harness constant over the typical one;
    ``scatter`` (T, candidates) in log latency;
    ``regret`` per stake (T, K) as a fraction.
    """

    setting: Setting
    posterior: Posterior
    problem: Problem
    noise: float
    white: Array
    harness: Array
    scatter: Array
    regret: tuple[Array, ...]

    @classmethod
    def of(
        cls,
        setting: Setting,
        posterior: Posterior,
        problem: Problem,
        *,
        noise: float,
        truths: int = 400,
        seed: int = 1,
    ) -> Rehearsal:
        """Draw the truths and their noise."""
        rng = np.random.default_rng(seed)
        white = posterior.sample(truths, seed)
        truths = len(white)
        harness = setting.calibration.harness_log_sd * rng.standard_t(HARNESS_DOF, (truths, 1))
        scatter = noise * rng.standard_t(NOISE_DOF, (truths, len(problem.candidates)))
        values = posterior.values(white)
        regret = tuple(
            Arms.of_calls(setting, now.shapes, now.weight, values).cutoff_regret
            for now in (s.cutoff.arms for s in problem.surfaces)
        )
        return cls(setting, posterior, problem, noise, white, harness, scatter, regret)

    def latency_us(self, design: list[int], white: Array, harness: Array) -> Array:
        """Return what a benchmark would print without scatter, (n, measurements)."""
        values = self.posterior.values(white)
        values["harness[]"] = values["harness_us"] * np.exp(harness)
        c, at = self.problem.candidates, np.array(design)
        out = np.empty((len(white), at.size))
        for a, arm in enumerate(self.setting.arms):
            mine = at % 2 == a
            i = at[mine] // 2
            shapes = self.setting.shapes(c.tokens[i], c.hidden_dim[i], c.world_size[i])
            out[:, mine] = self.setting.latency_us(shapes, arm, values)
        return np.maximum(out, FLOOR_US)

    def printed_us(self, design: list[int]) -> Array:
        """Return what the benchmark prints for every truth, (T, measurements)."""
        quiet = self.latency_us(design, self.white, self.harness)
        return np.asarray(quiet * np.exp(self.scatter[:, design]))

    def update(self, design: list[int]) -> tuple[Array, Array]:
        """Return (white mean (T, p), covariance (T, p, p)) after measuring, for every truth."""
        seen = np.log(self.printed_us(design))
        count, p = self.white.shape
        spread = self.setting.calibration.harness_log_sd
        x = np.zeros((count, p + 1))
        slopes = np.empty((count, len(design), p + 1))
        for _ in range(ITERATIONS):
            predicted, slopes = self._linearised(design, x)
            residual = seen - predicted
            weight = (NOISE_DOF + 1) / (NOISE_DOF * self.noise**2 + residual**2)
            pull = (HARNESS_DOF + 1) / (HARNESS_DOF * spread**2 + x[:, p] ** 2)
            information = np.einsum("tni,tn,tnj->tij", slopes, weight, slopes)
            force = np.einsum("tni,tn->ti", slopes, weight * residual)
            information[:, np.arange(p), np.arange(p)] += 1.0
            information[:, p, p] += pull
            force[:, :p] -= x[:, :p]
            force[:, p] -= pull * x[:, p]
            x += np.linalg.solve(information, force[..., None])[..., 0]
        row = (NOISE_DOF + 1) / (NOISE_DOF + 3) / self.noise**2
        information = row * np.einsum("tni,tnj->tij", slopes, slopes)
        information[:, np.arange(p), np.arange(p)] += 1.0
        information[:, p, p] += (HARNESS_DOF + 1) / (HARNESS_DOF + 3) / spread**2
        return x[:, :p], np.linalg.inv(information)[:, :p, :p]

    def regret_after(self, design: list[int]) -> Array:
        """Return the true regret of the cutoffs chosen after measuring, (surfaces, T)."""
        if not design:
            mean, left = np.zeros_like(self.white), np.eye(self.white.shape[1])[None]
        else:
            mean, left = self.update(design)
        return np.array(
            [
                regret[np.arange(len(mean)), _chosen(surface, mean, left)]
                for surface, regret in zip(self.problem.surfaces, self.regret, strict=True)
            ]
        )

    def perfect(self) -> Array:
        """Return the true regret of the cutoffs that are best for each truth, (surfaces, T)."""
        return np.array([r.min(axis=1) for r in self.regret])

    def _linearised(self, design: list[int], x: Array) -> tuple[Array, Array]:
        """Return (log latency (T, n), slopes on white coordinates and harness (T, n, p + 1))."""
        count, size = x.shape
        moved = (x[:, None, :] + STEP * np.vstack([np.zeros(size), np.eye(size)])).reshape(-1, size)
        log = np.log(self.latency_us(design, moved[:, :-1], moved[:, -1:]))
        log = log.reshape(count, size + 1, -1)
        return log[:, 0], np.swapaxes((log[:, 1:] - log[:, :1]) / STEP, 1, 2)


def _chosen(surface: RegretSurface, mean: Array, left: Array) -> NDArray[np.int64]:
    u = mean @ surface.direction.T
    learnt = np.eye(len(surface.direction)) - surface.direction @ left @ surface.direction.T
    return surface.chosen(u, learnt)
