"""The cutoff's interval that a set of measurements leads one to expect.

Outcomes are drawn from what the measurements may show; for each, the posterior that it would leave
is drawn from in turn, and the best cutoff and its interval are read off as ``recommend`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import Calibration
from ..data.kernels import Kernel
from ..decide.recommendation import MAX_INTERVAL_RATIO, Choice, best_cutoff
from .coordinates import Posterior
from .stake import Stake, both_arms

Array = NDArray[np.float64]

#: Outcomes, posterior draws of each, and the seed.
OUTCOMES = 16
DRAWS = 96
SEED = 7


@dataclass(frozen=True)
class Interval:
    """A cutoff in bytes with its 90 % interval; ``hi`` None is open above.

    After measuring, medians over outcomes. ``claimed`` is the probability that the interval is
    narrow enough for a cutoff to be claimed (``recommend.MAX_INTERVAL_RATIO``).
    """

    bytes: int
    lo: int
    hi: int | None
    claimed: float

    @property
    def ratio(self) -> float:
        """Upper over lower end; infinite for an open interval."""
        return self.hi / self.lo if self.hi is not None and self.lo > 0 else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Return the interval with recommend's keys."""
        return {
            "max_bytes": self.bytes,
            "max_bytes_lo": self.lo,
            "max_bytes_hi": self.hi,
            "claimed_probability": round(self.claimed, 3),
        }


def now(stake: Stake) -> Interval:
    """Return the interval as things stand."""
    return _summary([stake.now])


def expected(
    calibration: Calibration,
    posterior: Posterior,
    stake: Stake,
    learnt: Array,
    *,
    gpu: str,
    kernel: Kernel,
) -> Interval:
    """Return the interval to expect when measuring makes E[w | data] vary by ``learnt`` (p, p)."""
    rng = np.random.default_rng(SEED)
    p = len(learnt)
    means = _antithetic(rng, OUTCOMES, p) @ root(learnt)
    rest = _antithetic(rng, DRAWS, p) @ root(np.eye(p) - learnt)
    choices = []
    for mean in means:
        one, two = both_arms(calibration, stake.shapes, posterior, mean + rest, gpu, kernel)
        choices.append(best_cutoff(stake.shapes.bytes, one, two, stake.weight))
    return _summary(choices)


def root(covariance: Array) -> Array:
    """Return the symmetric square root of a covariance."""
    size, axes = np.linalg.eigh(covariance)
    return np.asarray((axes * np.sqrt(np.maximum(size, 0.0))) @ axes.T)


def _summary(choices: list[Choice]) -> Interval:
    def median(values: list[float]) -> float:
        return float(np.quantile(values, 0.5, method="nearest"))

    high = median([np.inf if c.hi is None else c.hi for c in choices])
    narrow = [c.hi is not None and 0 < c.hi <= MAX_INTERVAL_RATIO * c.lo for c in choices]
    return Interval(
        bytes=int(median([c.bytes for c in choices])),
        lo=int(median([c.lo for c in choices])),
        hi=None if np.isinf(high) else int(high),
        claimed=float(np.mean(narrow)),
    )


def _antithetic(rng: np.random.Generator, count: int, dimensions: int) -> Array:
    half = rng.standard_normal((count // 2, dimensions))
    return np.vstack([half, -half])
