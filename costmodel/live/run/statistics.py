"""Medians, their order-statistics intervals, and A/A comparisons, with numpy alone.

The timed replays of one arm come in rounds; between two rounds of one arm the other arms run.
Replays inside a round share whatever the machine was doing just then, so they are not independent,
and an interval that counts them as such is too narrow. The round is therefore the unit: each gives
one median, the latency is the median of these, and its interval comes from their order statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Confidence of every interval of a live run.
CONFIDENCE = 0.95

#: An arm is ``clean`` when its A/A difference, its drift and half of its interval's width are each
#: at most this many percent of its latency: the tie band within which two arms count as equal.
CLEAN_PERCENT = 3.0

#: With more than this share of noisy arms, the machine was busy.
NOISY_SHARE = 0.34


def median_interval(
    values: NDArray[np.float64], confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Return (lower, upper, coverage) of the distribution-free interval of the median.

    ``[x_(l), x_(n+1-l)]`` (1-based order statistics) covers the median of any continuous
    distribution with probability ``1 - 2 P(Binomial(n, 1/2) < l)``; l is the largest that still
    reaches ``confidence`` (David and Nagaraja, Order Statistics, 3rd ed., section 7.1). Fewer than
    six values cannot reach 95 %: then the range is returned, with the coverage it does have.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n = ordered.size
    if n < 2:
        if n == 0:
            raise ValueError("an interval needs at least one value")
        return float(ordered[0]), float(ordered[0]), 0.0
    rank, tail = 1, 0.5**n  # tail = P(Binomial(n, 1/2) < rank)
    while rank < (n + 1) // 2:
        more = tail + math.comb(n, rank) * 0.5**n
        if 1.0 - 2.0 * more < confidence:
            break
        rank, tail = rank + 1, more
    return float(ordered[rank - 1]), float(ordered[n - rank]), 1.0 - 2.0 * tail


@dataclass(frozen=True)
class Latency:
    """The latency of one arm at one shape, with what its own repetitions say of it.

    ``latency_us`` is the median of the rounds' medians, ``lower_us`` and ``upper_us`` its interval
    with probability ``coverage``. ``aa_percent`` compares the even rounds with the odd ones: two
    measurements of the same thing under the same conditions, so it is noise. ``drift_percent``
    compares the second half with the first: clocks, heat, neighbours.
    """

    latency_us: float
    lower_us: float
    upper_us: float
    coverage: float
    aa_percent: float
    drift_percent: float

    @property
    def half_width_percent(self) -> float:
        """Half of the interval's width, in percent of the latency."""
        return 50.0 * (self.upper_us - self.lower_us) / self.latency_us

    @property
    def clean(self) -> bool:
        """Whether noise, drift and interval are each within :data:`CLEAN_PERCENT`."""
        worst = max(abs(self.aa_percent), abs(self.drift_percent), self.half_width_percent)
        return worst <= CLEAN_PERCENT


def summarize(latency_us: NDArray[np.float64]) -> Latency:
    """Summarize the latency of one arm, shape (rounds, samples, ranks), at least two rounds.

    A collective is over when its last rank is: each sample counts as its maximum over the ranks.
    """
    over_ranks = np.asarray(latency_us, np.float64).max(axis=2)
    rounds = np.median(over_ranks, axis=1)
    if rounds.size < 2:
        raise ValueError("an A/A comparison needs at least two rounds")
    middle = float(np.median(rounds))
    lower, upper, coverage = median_interval(rounds)
    half = rounds.size // 2

    def percent(late: NDArray[np.float64], early: NDArray[np.float64]) -> float:
        return 100.0 * float(np.median(late) - np.median(early)) / middle

    return Latency(
        latency_us=middle,
        lower_us=lower,
        upper_us=upper,
        coverage=coverage,
        aa_percent=percent(rounds[1::2], rounds[0::2]),
        drift_percent=percent(rounds[-half:], rounds[:half]),
    )
