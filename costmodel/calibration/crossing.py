"""Where two straight lines cross, with an interval: what pairs of measurements say by themselves.

The baseline of every cutoff. It knows no kernel, only sizes at which both algorithms were measured:
of n pairs (S, t1, t2) the difference of 2-stage and 1-stage, t2 - t1 = a + b S, crosses zero at
S = -a / b. Assumed: both arms are straight lines in bytes, so the difference is one; pairs are
independent, and the noise of their differences is normal with a standard deviation proportional to
the pair's latency (the fit is to relative errors, as in :mod:`.baselines`). What both arms of a
pair share cancels. No prior, nothing from other GPUs or world sizes, no size that is not measured.

Two intervals of -a / b:

- :func:`fieller`: Fieller, Some problems in interval estimation, Journal of the Royal Statistical
  Society B 16 (1954) 175-185. All S at which the line a + b S does not differ from zero by a t test
  with n - 2 degrees of freedom. It covers with exactly the stated probability under what is
  assumed, at the price that it need not be an interval: where the slopes do not differ it is
  unbounded.
- :func:`bootstrap`: pairs resampled (Efron, Bootstrap methods: another look at the jackknife,
  Annals of Statistics 7 (1979) 1-26), percentile interval. No distribution is assumed, but pairs
  have to be many: with seven it holds the crossing in about 83 % of the cases.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .posterior import LEVEL

Array = NDArray[np.float64]
Kind = Literal["bounded", "half-open", "complement", "everything", "empty"]

#: Fewest pairs with a residual left over, and the sizes that a line needs.
MIN_PAIRS = 3
MIN_SIZES = 2

RESAMPLES = 2000
SEED = 20261101

#: Pairs resampled at once: what the cache holds. The resamples are the same for any number.
AT_ONCE = 1 << 15


class SizeSet(Struct, frozen=True):
    """A set of sizes above zero, in bytes; ``lo`` and ``hi`` are its ends, None where it has none.

    ==========  ==================================================
    kind        sizes S
    ==========  ==================================================
    bounded     lo <= S <= hi
    half-open   S >= lo, or S <= hi: one of the two is None
    complement  S <= lo or S >= hi
    everything  every size
    empty       no size
    ==========  ==================================================
    """

    kind: Kind
    lo: float | None = None
    hi: float | None = None

    @classmethod
    def between(cls, lo: float, hi: float) -> SizeSet:
        """Return the sizes above zero from ``lo`` to ``hi``, which may be infinite."""
        if hi <= 0 or lo == np.inf:
            return cls("empty")
        if lo <= 0:
            return cls("everything") if hi == np.inf else cls("half-open", hi=float(hi))
        return cls("half-open", float(lo)) if hi == np.inf else cls("bounded", float(lo), float(hi))

    @classmethod
    def outside(cls, lo: float, hi: float) -> SizeSet:
        """Return the sizes above zero up to ``lo`` and from ``hi``, both finite."""
        return cls.between(hi, np.inf) if lo <= 0 else cls("complement", float(lo), float(hi))

    def __contains__(self, size_bytes: float) -> bool:
        lo = -np.inf if self.lo is None else self.lo
        hi = np.inf if self.hi is None else self.hi
        if self.kind == "complement":
            return not lo < size_bytes < hi
        return self.kind != "empty" and lo <= size_bytes <= hi


class Crossing(Struct, frozen=True):
    """The crossing of ``pairs`` pairs with its 90 % sets.

    ``size_bytes`` is None where the lines do not cross above zero. ``one_stage_below`` is whether
    1-stage gets worse with size against 2-stage, so that it is the faster one below the crossing.
    """

    pairs: int
    size_bytes: float | None
    one_stage_below: bool
    fieller: SizeSet
    bootstrap: SizeSet


def crossing(size_bytes: ArrayLike, one_us: ArrayLike, two_us: ArrayLike) -> Crossing:
    """Return where 1-stage and 2-stage cross; arrays (n,) of pairs, in bytes and us.

    Raises :class:`InputError` below :data:`MIN_PAIRS` pairs or :data:`MIN_SIZES` sizes.
    """
    line = _Line.of(size_bytes, one_us, two_us)
    at = line.crossing
    return Crossing(
        pairs=line.size.size,
        size_bytes=at if np.isfinite(at) and at > 0 else None,
        one_stage_below=line.slope < 0,
        fieller=_fieller(line, LEVEL),
        bootstrap=_bootstrap(line, LEVEL, RESAMPLES, SEED),
    )


def fieller(
    size_bytes: ArrayLike, one_us: ArrayLike, two_us: ArrayLike, *, level: float = LEVEL
) -> SizeSet:
    """Return Fieller's set of the crossing, restricted to sizes above zero.

    It is bounded where the slopes differ by a two-sided t test at this ``level``. Otherwise it is
    everything, or, where the lines differ at some sizes, the complement of these; half-open where
    one of the ends is not above zero, and empty where the whole set is not.
    """
    return _fieller(_Line.of(size_bytes, one_us, two_us), level)


def bootstrap(
    size_bytes: ArrayLike,
    one_us: ArrayLike,
    two_us: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> SizeSet:
    """Return the percentile interval of the crossing over resampled pairs, above zero.

    A resample whose difference runs the other way than that of all pairs has its crossing beyond
    every size: it counts as infinite. One that crosses below zero counts as zero. Resamples of a
    single size have no line and are left out.
    """
    return _bootstrap(_Line.of(size_bytes, one_us, two_us), level, resamples, seed)


class _Line(Struct, frozen=True):
    """The difference 2-stage minus 1-stage of pairs, and the line through it.

    ``size`` is in units of ``unit`` bytes and ``difference`` in units of the pair's latency, of
    which ``weight`` is the inverse, so that the noise is the same everywhere.
    """

    unit: float
    size: Array
    weight: Array
    difference: Array
    intercept: float
    slope: float

    @classmethod
    def of(cls, size_bytes: ArrayLike, one_us: ArrayLike, two_us: ArrayLike) -> _Line:
        size, one, two = (np.asarray(v, np.float64) for v in (size_bytes, one_us, two_us))
        if size.size < MIN_PAIRS or np.unique(size).size < MIN_SIZES:
            raise InputError(
                f"{size.size} pairs at {np.unique(size).size} sizes give no interval of a "
                f"crossing: it takes {MIN_PAIRS} pairs at {MIN_SIZES} sizes or more"
            )
        unit, weight = float(size.max()), 2 / (one + two)
        size, difference = size / unit, weight * (two - one)
        intercept, slope = (float(v) for v in _solve(weight**2, size, difference / weight))
        return cls(unit, size, weight, difference, intercept, slope)

    @property
    def crossing(self) -> float:
        """The size at which the difference is zero, bytes; not finite for parallel lines."""
        return -self.intercept / self.slope * self.unit if self.slope else np.inf


def _solve(weight: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Return intercepts and slopes of weighted least squares over the last axis; NaN for one x."""
    total = weight.sum(-1, keepdims=True)
    x0 = (weight * x).sum(-1, keepdims=True) / total
    y0 = (weight * y).sum(-1, keepdims=True) / total
    spread = np.where(np.ptp(x, axis=-1) > 0, (weight * (x - x0) ** 2).sum(-1), np.nan)
    slope = (weight * (x - x0) * (y - y0)).sum(-1) / spread
    return y0[..., 0] - slope * x0[..., 0], slope


def _fieller(line: _Line, level: float) -> SizeSet:
    from scipy.special import stdtrit

    design = line.weight[:, None] * np.column_stack([np.ones_like(line.size), line.size])
    residual = line.difference - design @ [line.intercept, line.slope]
    free = line.size.size - 2
    covariance = np.linalg.inv(design.T @ design) * (residual @ residual) / free
    t2 = float(stdtrit(free, (1 + level) / 2)) ** 2
    # (intercept + slope x)^2 <= t^2 var(intercept + slope x): c + 2 b x + a x^2 <= 0.
    c = line.intercept**2 - t2 * covariance[0, 0]
    b = line.intercept * line.slope - t2 * covariance[0, 1]
    a = line.slope**2 - t2 * covariance[1, 1]
    root = b**2 - a * c
    if a > 0:
        half = np.sqrt(max(root, 0.0))
        return SizeSet.between((-b - half) / a * line.unit, (-b + half) / a * line.unit)
    if a < 0 and root > 0:
        half = np.sqrt(root)
        return SizeSet.outside((-b + half) / a * line.unit, (-b - half) / a * line.unit)
    if a == 0 and b != 0:
        end = -c / (2 * b) * line.unit
        return SizeSet.between(-np.inf, end) if b > 0 else SizeSet.between(end, np.inf)
    return SizeSet("everything")


def _bootstrap(line: _Line, level: float, resamples: int, seed: int) -> SizeSet:
    if line.slope == 0:
        return SizeSet("everything")
    n = line.size.size
    weight, y = line.weight**2, line.difference / line.weight
    rng = np.random.default_rng(seed)
    few = max(1, AT_ONCE // n)
    solved = []
    for first in range(0, resamples, few):
        drawn = rng.integers(0, n, (min(few, resamples - first), n))
        solved.append(_solve(weight[drawn], line.size[drawn], y[drawn]))
    intercept, slope = (np.concatenate(parts) for parts in zip(*solved, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        at = np.where(slope * line.slope > 0, np.maximum(-intercept / slope, 0.0), np.inf)
    at = np.sort(at[~np.isnan(slope)]) * line.unit
    tail = (1 - level) / 2
    lo, hi = at[int(tail * at.size)], at[int(np.ceil((1 - tail) * at.size)) - 1]
    return SizeSet.between(float(lo), float(hi))


def last_crossing(size_bytes: ArrayLike, difference: ArrayLike) -> float | None:
    """Return where straight lines between neighbours last rise through zero; None for nowhere.

    ``difference`` (n,) is 1-stage minus 2-stage at sizes (n,) that ascend.
    """
    size, gap = np.asarray(size_bytes, np.float64), np.asarray(difference, np.float64)
    rises = np.flatnonzero((gap[:-1] < 0) & (gap[1:] >= 0))
    if not rises.size:
        return None
    i = int(rises[-1])
    return float(np.interp(0.0, gap[i : i + 2], size[i : i + 2]))
