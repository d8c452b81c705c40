"""The posterior in white coordinates, in which the parameters are independent standard normals.

x = mean + root w turns white coordinates w into the calibration's own coordinates (logarithms of
rates and ratios, microseconds of fixed times). A measurement, a latency and a regret are then
functions of w alone, and what a set of measurements tells is a covariance of w.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import FORM_US, Values
from ..decide.setting import Setting
from ..model import parameters
from ..model.parameters import nominal_gbps
from ..model.shape import OTHERWISE

Array = NDArray[np.float64]

#: Draws behind the planner's expectations, and the seed that makes a plan repeatable.
DRAWS = 2048
SEED = 20260823


class Posterior(Struct, frozen=True):
    """The parameters' posterior and the contrasts of the machine that will measure.

    ``mean`` (p,), ``root`` (p, p) with root root' = covariance. A contrast is normal here with the
    variance of its mixture; ``harness[]`` is the logarithm of a measured machine's constant over
    the typical one.
    """

    names: tuple[str, ...]
    mean: Array
    root: Array

    @classmethod
    def of(cls, setting: Setting) -> Posterior:
        """Return the marginal posterior for the machine that will measure.

        Where the setting names a measured machine, its contrasts and what its benchmark adds are
        as the calibration knows them; else nothing is known of it.
        """
        calibration = setting.calibration
        k, contrasts = len(calibration.names), [f"contrast[{arm}]" for arm in OTHERWISE]
        known = list(range(k))
        names = list(calibration.names)
        if setting.machine:
            known.append(k + calibration.harness.index(setting.machine))
            names.append("harness[]")
            first = k + len(calibration.harness)
            for i, (key, arm) in enumerate(calibration.contrast):
                if key == setting.machine:
                    known.append(first + i)
                    names.append(f"contrast[{arm}]")
        p = len(known)
        new = [] if setting.machine else contrasts
        covariance = 1e-12 * np.eye(p + len(new))
        covariance[:p, :p] += calibration.covariance[np.ix_(known, known)]
        variance = FORM_US**2 + sum(weight * tau**2 for tau, weight in calibration.taus)
        covariance[range(p, p + len(new)), range(p, p + len(new))] += variance
        root = np.asarray(np.linalg.cholesky(covariance), np.float64)
        mean = np.concatenate([calibration.mean[known], np.zeros(len(new))])
        return cls((*names, *new), mean, root)

    def sample(self, count: int = DRAWS, seed: int = SEED) -> Array:
        """Return white coordinates of ``count`` draws, (count, p).

        Mean and covariance of the sample are exactly 0 and the identity: antithetic pairs, and
        ``count`` above 2 p rotated to their own principal axes. ``count`` is rounded up to even.
        """
        half = np.random.default_rng(seed).standard_normal(((count + 1) // 2, self.mean.size))
        if len(half) > self.mean.size:
            half = half @ np.linalg.inv(np.linalg.cholesky(half.T @ half / len(half))).T
        return np.vstack([half, -half])

    def values(self, white: Array) -> Values:
        """Return parameter values at white coordinates (n, p), each of shape (n, 1).

        Link rates are cut at the link's nominal rate, as in :meth:`Calibration.draw`; the harness
        is the measured machine's, else the typical one.
        """
        x = self.mean + white @ self.root.T
        values: Values = {}
        for i, name in enumerate(self.names):
            of_a_machine = name.startswith(("contrast[", "harness["))
            log = not of_a_machine and parameters.prior(name).form == "log"
            column = np.exp(x[:, i : i + 1]) if log else x[:, i : i + 1]
            limit = nominal_gbps(name)
            values[name] = np.minimum(column, limit) if limit else column
        over_typical = np.exp(values["harness[]"]) if "harness[]" in values else 1.0
        values["harness[]"] = values["harness_us"] * over_typical
        return values


def linear(white: Array, output: Array) -> Array:
    """Return the best linear predictor's slopes (k, p) of outputs (n, k) on white coordinates.

    A regression over the posterior, not a tangent at its centre: the slopes are those that matter
    over the range in which the parameters still are ("statistical linearisation").
    """
    x = white - white.mean(axis=0)
    return np.asarray(np.linalg.solve(x.T @ x, x.T @ (output - output.mean(axis=0))).T)
