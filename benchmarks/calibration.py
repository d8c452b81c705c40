"""The calibration's search beside those of scipy, lmfit and iminuit, on the same objective.

    python benchmarks/calibration.py [--times 3]

The objective is twice the negative log posterior density of all published rows, with the noise
scales, the spread of harness constants and tau of the shipped calibration: Student-t residuals,
normal and Student-t priors, link rates at most nominal. As a sum of squares of signed roots it is a
least-squares problem too, which is what scipy and lmfit are given; iminuit gets the sum. All start
from the priors' centres, with derivatives by differences; costmodel's columns take one evaluation,
and those of scipy too where its line says so.

Prints processor seconds, the loss above the least found, and how far each optimum is from
costmodel's in posterior standard deviations, at most. lmfit and iminuit are left out where they are
not installed; exit code 1 where an optimum is another one.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import least_squares

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.fit import CONTRAST_US, Fit, _Place, _Prior, _Rows, _summits
from costmodel.calibration.observations import observe
from costmodel.calibration.one_fabric import on_fabric
from costmodel.calibration.posterior import HARNESS_DOF, NOISE_DOF
from costmodel.data import measurement
from costmodel.model.fabric import FULL_MESH
from costmodel.show.table import table

Array = np.ndarray

#: Optima are the same within this loss (twice a log density) and these standard deviations.
SAME_LOSS, SAME_SD = 0.01, 0.05


class Objective:
    """The density of a fit's rows, noise scales kept, as a loss and as residuals."""

    def __init__(self, found: Fit) -> None:
        self.problem, self.noise = found.problem, found.noise
        self.used = _Rows.of(self.problem, np.ones(len(self.problem.observations), np.bool_))
        self.prior = _Prior.of(self.problem, found.harness_log_sd, CONTRAST_US)
        self.start = np.minimum(self.prior.mean, self.prior.upper - 1e-9)
        self.evaluations = 0

    def place(self, x: Array) -> _Place:
        self.evaluations += 1
        latency = self.problem.predict(x)
        return _Place.of(self.problem, self.used, self.prior, self.noise, x, latency)

    def loss(self, x: Array) -> float:
        return self.place(np.asarray(x)).loss

    def residuals(self, x: Array) -> Array:
        """Return residuals (n + p,) whose squares add up to the loss."""
        place = self.place(np.asarray(x))
        u = place.u.copy()
        u[self.prior.heavy] = rooted(u[self.prior.heavy], HARNESS_DOF)
        return np.concatenate([rooted(place.z, NOISE_DOF), u])

    def slopes(self, x: Array) -> Array:
        """Return d residuals / d x, all columns in one evaluation."""
        step = 1e-6
        latency = self.problem.predict(np.vstack([x, x + step * np.eye(x.size)]))
        each = [
            _Place.of(self.problem, self.used, self.prior, self.noise, at, us)
            for at, us in zip(np.vstack([x, x + step * np.eye(x.size)]), latency, strict=True)
        ]
        parts = []
        for place in each:
            u = place.u.copy()
            u[self.prior.heavy] = rooted(u[self.prior.heavy], HARNESS_DOF)
            parts.append(np.concatenate([rooted(place.z, NOISE_DOF), u]))
        return ((np.array(parts[1:]) - parts[0]) / step).T


def rooted(z: Array, dof: int) -> Array:
    """Return signed roots of Student-t losses (dof + 1) log(1 + z^2 / dof)."""
    return np.sign(z) * np.sqrt((dof + 1) * np.log1p(z**2 / dof))


def searches(of: Objective) -> dict[str, Callable[[], Array]]:
    """Return each search by name: no arguments, coordinates of its optimum."""
    upper = of.prior.upper
    found: dict[str, Callable[[], Array]] = {
        "costmodel": lambda: _summits(of.problem, [of.used], of.prior, of.noise, of.start)[0].x,
        "scipy least_squares": lambda: (
            least_squares(of.residuals, of.start, bounds=(-np.inf, upper), x_scale=of.prior.sd).x
        ),
        "scipy least_squares, columns at once": lambda: (
            least_squares(
                of.residuals, of.start, of.slopes, bounds=(-np.inf, upper), x_scale=of.prior.sd
            ).x
        ),
    }
    try:
        import lmfit

        def by_lmfit() -> Array:
            given = lmfit.Parameters()
            for i, (value, most) in enumerate(zip(of.start, upper, strict=True)):
                given.add(f"x{i}", value=value, max=most)
            done = lmfit.minimize(
                lambda p: of.residuals(np.array([p[f"x{i}"].value for i in range(upper.size)])),
                given, method="leastsq",
            )  # fmt: skip
            return np.array([done.params[f"x{i}"].value for i in range(upper.size)])

        found["lmfit leastsq"] = by_lmfit
    except ImportError:
        print("lmfit is not installed", file=sys.stderr)
    try:
        from iminuit import Minuit

        def by_iminuit() -> Array:
            search = Minuit(of.loss, of.start)
            search.errordef = Minuit.LEAST_SQUARES
            search.errors = of.prior.sd
            search.limits = [(None, most if np.isfinite(most) else None) for most in upper]
            search.strategy = 0
            search.migrad(ncall=100_000)
            return np.array(search.values)

        found["iminuit migrad"] = by_iminuit
    except ImportError:
        print("iminuit is not installed", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="repetitions; the least counts")
    times = parser.parse_args().times
    _, fit = calibrate(on_fabric(observe(measurement.published()), FULL_MESH))
    of = Objective(fit)
    sd = np.sqrt(np.diag(fit.covariance))
    found = {}
    for name, search in searches(of).items():
        least = np.inf
        for _ in range(times):
            of.evaluations = 0
            began = time.process_time()
            x = search()
            least = min(least, time.process_time() - began)
        found[name] = (least, of.evaluations, of.loss(x), x)
    mine, best = found["costmodel"], min(loss for _, _, loss, _ in found.values())
    rows, code = [], 0
    for name, (cpu_s, evaluations, loss, x) in found.items():
        apart = float(np.max(np.abs(x - mine[3]) / sd))
        if loss - best > SAME_LOSS or apart > SAME_SD:
            code = 1
        rows.append(
            (
                name, f"{cpu_s:.3f}", f"{cpu_s / mine[0]:.1f}x", str(evaluations or "-"),
                f"{loss - best:.5f}", f"{apart:.4f}",
            )
        )  # fmt: skip
    print(f"{len(fit.predicted)} rows, {mine[3].size} coordinates")
    print(table(rows, ["search", "CPU s", "ratio", "evaluations", "loss above least", "sd apart"]))
    return code


if __name__ == "__main__":
    sys.exit(main())
