"""What a choice hangs on: where the arms cross, and how the crossing moves with one quantity.

The crossover at one hidden size is the size in bytes at which 2-stage becomes the faster arm. It
is read off a fine grid of token counts: the cut with the least regret, then the zero of the
difference between the two neighbours by linear interpolation. The recommended cutoff
(:mod:`.recommendation`) differs from it only in that it is one of the captured sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import LEVEL, Calibration, Values
from ..data import kernels as _kernel
from ..model.eligibility import eligible
from ..model.shape import FUSED, ONE_STAGE, TWO_STAGE, Shapes
from .prediction import SEED, latency_terms, latency_us

Array = NDArray[np.float64]

#: Posterior draws behind an interval of a crossover or of a margin.
DRAWS = 400

#: Longest batch looked at for a crossover.
MAX_TOKENS = 2048


@dataclass(frozen=True)
class Setting:
    """Everything about a choice but the token count."""

    calibration: Calibration
    gpu: str
    world_size: int
    hidden_dim: int
    op: str = FUSED
    dtype: str = "bf16"
    aiter_version: str = _kernel.LATEST

    @property
    def kernel(self) -> _kernel.Kernel:
        """The kernels that the calibration speaks for, at the AITER version."""
        return _kernel.calibrated(self.calibration.kernel_family, self.aiter_version)

    @property
    def arch(self) -> str:
        """The GPU's arch."""
        return next(a for a, g in self.calibration.gpus if g == self.gpu)

    def shapes(self, tokens: Any) -> Shapes:
        """Return the calls with these token counts."""
        return Shapes.of(tokens, self.hidden_dim, self.world_size, op=self.op, dtype=self.dtype)

    def runs(self, tokens: Any, algorithm: str) -> NDArray[np.bool_]:
        """Return where the kernel of an algorithm takes the call."""
        return np.asarray(eligible(self.shapes(tokens), algorithm, self.kernel)[0])

    @cached_property
    def drawn(self) -> Values:
        """Posterior draws with the harness constant of a typical benchmark."""
        values = self.calibration.draw(DRAWS, SEED)
        values["harness[]"] = 0.0
        return values

    def terms(self, tokens: Any, algorithm: str, values: Values | None = None) -> dict[str, Any]:
        """Return the named terms in us; for point estimates or for ``values``."""
        return latency_terms(
            self.calibration, self.shapes(tokens), algorithm,
            gpu=self.gpu, kernel=self.kernel, values=values,
        )  # fmt: skip

    def latency_us(self, tokens: Any, algorithm: str, values: Values | None = None) -> Array:
        """Return the latency in us; (n,) for point estimates, (draws, n) for ``values``."""
        return latency_us(
            self.calibration, self.shapes(tokens), algorithm,
            gpu=self.gpu, kernel=self.kernel, values=values,
        )  # fmt: skip

    def margin_us(self, tokens: Any, values: Values | None = None) -> Array:
        """Return 2-stage minus 1-stage in us: positive where 1-stage is faster."""
        two = self.latency_us(tokens, TWO_STAGE, values)
        return two - self.latency_us(tokens, ONE_STAGE, values)

    def crossover_bytes(self, values: Values | None = None) -> Array:
        """Return the bytes at which 2-stage becomes faster, (draws,) or (1,) for point estimates.

        0 where 2-stage is faster from the first token on, infinity where 1-stage is to
        :data:`MAX_TOKENS`.
        """
        tokens = grid(MAX_TOKENS)
        size = self.shapes(tokens).bytes.astype(float)
        one = np.atleast_2d(self.latency_us(tokens, ONE_STAGE, values))
        two = np.atleast_2d(self.latency_us(tokens, TWO_STAGE, values))
        return crossing(size, one, two)


def grid(most: int = MAX_TOKENS, per_doubling: int = 24) -> NDArray[np.int64]:
    """Return token counts from 1 to ``most``: all at first, then evenly in the logarithm."""
    count = round(np.log2(most) * per_doubling) + 1
    return np.unique(np.rint(np.geomspace(1, most, count))).astype(np.int64)


def crossing(size_bytes: Array, one_us: Array, two_us: Array) -> Array:
    """Return where 2-stage becomes faster, per draw.

    ``size_bytes`` (n,) ascending; latencies (draws, n). The cut minimises the regret summed over
    the grid, so that a ripple of the kernel's turns does not count as the crossover.
    """
    difference = two_us / one_us - 1.0
    gain = np.where(difference > 0, difference, 1.0 - one_us / two_us)
    cut = np.argmax(np.hstack([np.zeros((len(gain), 1)), np.cumsum(gain, axis=1)]), axis=1)
    last = size_bytes.size
    rows = np.arange(len(gain))
    left, right = np.clip(cut - 1, 0, last - 1), np.clip(cut, 0, last - 1)
    d0, d1 = difference[rows, left], difference[rows, right]
    crosses = (d0 > 0) & (d1 <= 0)
    share = np.where(crosses, d0 / np.where(crosses, d0 - d1, 1.0), 0.5)
    at = size_bytes[left] + share * (size_bytes[right] - size_bytes[left])
    return np.where(cut == 0, 0.0, np.where(cut == last, np.inf, at))


def interval(draws: Array, level: float = LEVEL) -> tuple[float, float]:
    """Return the central interval of draws; an infinite end stays infinite."""
    tail = (1 - level) / 2
    lo, hi = np.quantile(draws, [tail, 1 - tail], method="nearest")
    return float(lo), float(hi)


def scaled(values: Values, name: str, factor: Any) -> Values:
    """Return the values with one parameter multiplied."""
    return {**values, name: values[name] * factor}


@dataclass(frozen=True)
class Sweep:
    """A crossover against one quantity: bytes with their 90 % interval, one per value."""

    values: Array
    crossover_bytes: Array
    lo: Array
    hi: Array


def _sweep(at: Array, cases: Iterable[tuple[Setting, Values, Values]]) -> Sweep:
    """Return the crossover for each (setting, point values, drawn values)."""
    found = []
    for setting, point, drawn in cases:
        lo, hi = interval(setting.crossover_bytes(drawn))
        found.append((float(setting.crossover_bytes(point)[0]), lo, hi))
    mid, low, high = np.array(found).T
    return Sweep(at, mid, low, high)


def against_factor(setting: Setting, name: str, factors: Array) -> Sweep:
    """Return the crossover with one parameter multiplied by each factor, the others as they are."""
    point = setting.calibration.values
    cases = ((setting, scaled(point, name, f), scaled(setting.drawn, name, f)) for f in factors)
    return _sweep(np.asarray(factors, float), cases)


def against_jitter(setting: Setting, jitter_us: Array) -> Sweep:
    """Return the crossover when ranks arrive with each spread (standard deviation, us).

    Every barrier waits for the last of the ranks; the closed form adds the expected maximum. The
    draws' own jitter is replaced.
    """
    point, drawn = setting.calibration.values, setting.drawn
    name = "arrival_jitter_us"
    cases = ((setting, {**point, name: float(j)}, {**drawn, name: float(j)}) for j in jitter_us)
    return _sweep(np.asarray(jitter_us, float), cases)


def against_version(setting: Setting, versions: Sequence[str]) -> Sweep:
    """Return the crossover with the kernels of each AITER release, numbered from 0."""
    point, drawn = setting.calibration.values, setting.drawn
    cases = ((replace(setting, aiter_version=v), point, drawn) for v in versions)
    return _sweep(np.arange(len(versions), dtype=float), cases)


@dataclass(frozen=True)
class Flip:
    """A value of one parameter at which the choice for a call turns over, the others held.

    ``now``, ``lo`` and ``hi`` are the parameter's estimate and 90 % interval; ``inside`` says
    whether the turning point lies in that interval.
    """

    name: str
    unit: str
    now: float
    lo: float
    hi: float
    at: float

    @property
    def inside(self) -> bool:
        """Whether what is known of the parameter allows the turning point."""
        return self.lo <= self.at <= self.hi

    @property
    def factor(self) -> float:
        """The turning point over the estimate; infinite for an estimate of zero."""
        return self.at / self.now if self.now else float("inf")


def flips(setting: Setting, tokens: int, *, names: Sequence[str] | None = None) -> list[Flip]:
    """Return the parameters whose change alone would turn the choice over, nearest first.

    Rates and ratios are tried from a quarter to four times their estimate, fixed times from zero to
    10 us more; a link rate only up to the link's nominal rate.
    """
    from ..calibration.posterior import nominal_gbps
    from ..model import parameters

    calibration = setting.calibration
    point = calibration.values
    found = []
    for name in names or calibration.names:
        scope = name.partition("[")[2].rstrip("]")
        if scope and scope not in (setting.gpu, setting.arch, setting.kernel.norm_kernel):
            continue
        prior = parameters.prior(name)
        now = point[name]
        if prior.form == "log":
            most = min(4.0, (nominal_gbps(name) or np.inf) / now)
            tried = now * np.geomspace(0.25, max(most, 1.0), 400)
        else:
            low = 0.0 if prior.centre > 0 else now - 10.0
            tried = np.linspace(low, now + 10.0, 801)
        margin = setting.margin_us([tokens], {**point, name: tried[:, None]})
        margin = np.broadcast_to(margin, (tried.size, 1))[:, 0]
        turns = np.flatnonzero(np.diff(np.sign(margin)) != 0)
        if not turns.size:
            continue
        share = margin[turns] / (margin[turns] - margin[turns + 1])
        at = tried[turns] + share * (tried[turns + 1] - tried[turns])
        nearest = float(at[np.argmin(np.abs(at - now))])
        lo, _, hi = calibration.interval(name)
        found.append(Flip(name, prior.unit, now, lo, hi, nearest))
    return sorted(found, key=_distance)


def _distance(flip: Flip) -> float:
    """Return how far the turning point lies, in half widths of the parameter's interval."""
    half = (flip.hi - flip.lo) / 2
    return abs(flip.at - flip.now) / half if half > 0 else float("inf")
