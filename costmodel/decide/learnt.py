"""Both arms of one machine after some of its calls were measured, in closed form.

The arms of a machine that nobody has measured are posterior draws: both latencies of every call of
a workload. In microseconds they are close to linear in what is unknown there (what its benchmark
adds, its arms' contrast, fixed times, link rates), so that a measured pair updates all calls by
their covariance with it, as in linear regression. Each draw is moved by what would be learnt if it
had been measured with an error of its own, so that mean and covariance of the draws become those of
the posterior (Journel and Huijbregts, "Mining Geostatistics", 1978: conditioning by kriging;
Evensen, Ocean Dynamics 53 (2003), for an ensemble). No refit: some milliseconds a pair, for
where a calibration would be too slow (an engine's start-up).

Errors of a measured latency are Student-t, by weights, as in :mod:`..calibration.fit`, whose weak
information on their scale is used too.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..calibration.coverage import MAX_SCATTER
from ..calibration.fit import NOISE_ROWS, NOISE_START
from ..calibration.posterior import NOISE_DOF
from ..data.workload import Workload
from .recommendation import ALWAYS_PROBABILITY
from .regret import Arms, BestCutoff
from .setting import SEED, Setting
from .stopping import Standing

Array = NDArray[np.float64]

#: Steps of the weights: the third moves no cutoff by a captured batch.
ROBUST_STEPS = 5

#: Points of the normal distribution over what a measurement may show.
OUTCOMES = 15

#: No call takes less, whatever a draw is moved by, us.
LEAST_US = 0.1


class Learnt(Struct, frozen=True, eq=False, dict=True):
    """The arms of one machine at one world size, given ``at`` (k,) of the prior's calls.

    ``one_us`` and ``other_us`` (k,) were measured there: 1-stage and what runs where it does not.
    """

    prior: Arms
    at: NDArray[np.intp]
    one_us: Array
    other_us: Array

    @classmethod
    def nothing(cls, setting: Setting, workload: Workload, world_size: int) -> Learnt:
        """Return what is known of a machine before any of its calls is measured.

        What its benchmark adds is as unknown as its arms' contrast. Raises :class:`InputError`
        where no call of the workload suits both arms.
        """
        none = np.zeros(0)
        prior = Arms.of(setting, workload, world_size, values=setting.new_source)
        return cls(prior, none.astype(np.intp), none, none)

    def measured(self, call: int, one_us: float, other_us: float) -> Learnt:
        """Return what is known once one more call is measured."""
        return Learnt(
            self.prior,
            np.append(self.at, call),
            np.append(self.one_us, one_us),
            np.append(self.other_us, other_us),
        )

    @cached_property
    def _measured_us(self) -> Array:
        return np.concatenate([self.one_us, self.other_us])

    @cached_property
    def _covariance(self) -> Array:
        """Covariance of both latencies of all calls with the measured ones, (2 n, 2 k)."""
        deviation = self._drawn - self._drawn.mean(axis=0)
        return np.asarray(deviation.T @ deviation[:, self._seen] / (len(deviation) - 1))

    @cached_property
    def _drawn(self) -> Array:
        return np.hstack([self.prior.one_us, self.prior.other_us])

    @property
    def _seen(self) -> NDArray[np.intp]:
        return np.concatenate([self.at, len(self.prior.shapes) + self.at])

    @cached_property
    def _errors(self) -> tuple[Array, Array, float]:
        """Return the errors' variance (2 k,) in us^2, the relative residuals, and their scale."""
        measured, seen = self._measured_us, self._covariance[self._seen]
        off = measured - self._drawn.mean(axis=0)[self._seen]
        weight, scale = np.ones(measured.size), NOISE_START
        residual = np.zeros(measured.size)
        for _ in range(ROBUST_STEPS):
            total = seen + np.diag((scale * measured) ** 2 / weight)
            residual = (off - seen @ np.linalg.solve(total, off)) / measured
            weight = (NOISE_DOF + 1) / (NOISE_DOF + (residual / scale) ** 2)
            # Each parameter that the rows pin down takes a row's freedom from the residuals.
            free = measured.size - float(np.trace(np.linalg.solve(total, seen)))
            scale = float(
                np.sqrt(
                    (NOISE_ROWS * NOISE_START**2 + weight @ residual**2)
                    / (NOISE_ROWS + max(free, 0.0))
                )
            )
        return (scale * measured) ** 2 / weight, residual, scale

    @cached_property
    def arms(self) -> Arms:
        """Both arms over the draws, as far as they are known now."""
        if not self.at.size:
            return self.prior
        variance, _, _ = self._errors
        normal = np.random.default_rng(SEED).standard_normal((len(self._drawn), variance.size))
        shown = self._measured_us + normal * np.sqrt(variance) - self._drawn[:, self._seen]
        total = self._covariance[self._seen] + np.diag(variance)
        moved = self._drawn + shown @ np.linalg.solve(total, self._covariance.T)
        one, other = np.hsplit(np.maximum(moved, LEAST_US), 2)
        return replace(self.prior, one_us=one, other_us=other)

    @cached_property
    def best(self) -> BestCutoff:
        """The cutoff of least expected regret, with its interval on this machine."""
        return self.arms.best()

    @property
    def always(self) -> bool:
        """Whether no cutoff beats 1-stage throughout, with :data:`ALWAYS_PROBABILITY`."""
        return self.best.always >= ALWAYS_PROBABILITY

    @property
    def scatter(self) -> float:
        """Root mean square of what the model leaves of the measured latencies, a fraction."""
        residual = self._errors[1]
        return float(np.sqrt(np.mean(residual**2))) if residual.size else 0.0

    def refusal(self) -> str:
        """Return why no cutoff may be read from what is known, "" where one may.

        The same three reasons for which a decision claims none.
        """
        if self.scatter > MAX_SCATTER:
            return (
                f"latencies scatter by {100 * self.scatter:.0f} % around the model (limit "
                f"{100 * MAX_SCATTER:.0f} %): it does not cover this machine"
            )
        if self.always or self.best.identified:
            return ""
        return "the interval of the best cutoff is too wide for a claim"

    def standing(self) -> Standing:
        """Return what is known as :func:`.stopping.verdict` wants it."""
        best = self.best
        low, high = best.lo.lo, best.hi.hi
        return Standing(
            self.at.size,
            None if self.refusal() else self._contested_pct(),
            float(np.log2(high / low)) if low and high else float("inf"),
            self.always and not self.refusal(),
        )

    def _contested_pct(self) -> float | None:
        cell = self.best.cell
        sent = self.arms.shapes.bytes <= (cell.hi or cell.lo)
        return self.arms.regrets(sent, None if cell.hi is None else cell.roundest()).contested_pct

    @property
    def _difference(self) -> Array:
        """What the other arm takes more of a call than 1-stage, a fraction, (draws, n)."""
        arms = self.arms
        return np.asarray((arms.other_us - arms.one_us) / (0.5 * (arms.other_us + arms.one_us)))

    def least_known(self, refused: Collection[int] = ()) -> int | None:
        """Return the call whose arms' difference is known least, None where all were measured.

        For where no pair would change the rule and too few were measured to claim one.
        """
        spread = self._difference.std(axis=0)
        spread[[*self.at.tolist(), *refused]] = -1.0
        call = int(np.argmax(spread))
        return call if spread[call] >= 0 else None

    def most_telling(self, refused: Collection[int] = ()) -> int | None:
        """Return the call whose pair leaves the least expected regret; None where none helps.

        Calls that were measured, and ``refused`` ones, are left out. The regret of a cutoff is
        taken to be linear in the pair's difference, so that what it may come to is exact up to the
        normal distribution's points (Frazier, Powell and Dayanik, INFORMS J. Computing 21 (2009)).
        """
        curve, difference = self.arms.cutoff_regret, self._difference
        mean = curve.mean(axis=0)
        deviation = difference - difference.mean(axis=0)
        scale = self._errors[2] if self.at.size else NOISE_START
        spread = np.sqrt(deviation.var(axis=0) + 2 * scale**2)
        slope = (curve - mean).T @ deviation / (len(curve) - 1) / spread
        points, weights = np.polynomial.hermite_e.hermegauss(OUTCOMES)
        after = sum(
            weight * (mean[:, None] + point * slope).min(axis=0)
            for point, weight in zip(points, weights / weights.sum(), strict=True)
        )
        gain = mean.min() - np.asarray(after)
        gain[[*self.at.tolist(), *refused]] = -np.inf
        best = int(np.argmax(gain))
        return best if gain[best] > 0 else None
