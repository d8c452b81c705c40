import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from costmodel.live.run.statistics import CLEAN_PERCENT, median_interval, summarize

# Ranks of the 95 % interval of the median, as tabulated (Conover, Practical Nonparametric
# Statistics, 3rd ed., table A3; Hahn and Meeker, Statistical Intervals, table A.15).
TABULATED = {6: (1, 6), 10: (2, 9), 20: (6, 15), 25: (8, 18), 50: (18, 33), 100: (40, 61)}


@pytest.mark.parametrize(("n", "ranks"), TABULATED.items())
def test_the_tabulated_ranks(n, ranks):
    lower, upper, coverage = median_interval(np.arange(1.0, n + 1))
    assert (lower, upper) == ranks
    assert coverage >= 0.95


@given(st.integers(2, 300), st.floats(0.5, 0.999))
def test_coverage_is_the_binomial_one_and_the_interval_the_shortest(n, confidence):
    lower, upper, coverage = median_interval(np.arange(1.0, n + 1), confidence)
    rank = int(lower)
    assert upper == n + 1 - rank
    assert coverage == pytest.approx(1 - 2 * stats.binom.cdf(rank - 1, n, 0.5), abs=1e-9)
    if rank > 1:
        assert coverage >= confidence
    if rank < (n + 1) // 2:
        assert 1 - 2 * stats.binom.cdf(rank, n, 0.5) < confidence + 1e-12


def test_the_interval_covers_the_median_of_a_skewed_law():
    draws = np.random.default_rng(1).exponential(size=(2000, 15))
    hits = [low <= np.log(2) <= high for low, high, _ in map(median_interval, draws)]
    _, _, coverage = median_interval(draws[0])
    assert np.mean(hits) == pytest.approx(coverage, abs=0.02)


@pytest.mark.parametrize(("values", "coverage"), [([3.0], 0.0), ([3.0, 4.0], 0.5)])
def test_too_few_values_admit_their_coverage(values, coverage):
    assert median_interval(np.array(values)) == (values[0], values[-1], coverage)


def test_no_value_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        median_interval(np.array([]))


def steady(rounds, level=10.0):
    return np.full((rounds, 3, 2), level)


def test_a_sample_is_its_slowest_rank():
    latency_us = steady(4)
    latency_us[:, :, 1] = 12.0
    assert summarize(latency_us).latency_us == 12.0


def test_noise_between_neighbouring_rounds_is_aa_and_not_drift():
    latency_us = steady(8)
    latency_us[1::2] *= 1.10
    found = summarize(latency_us)
    assert found.aa_percent == pytest.approx(100 / 10.5)
    assert found.drift_percent == 0.0
    assert not found.clean


def test_a_step_in_the_middle_is_drift_and_not_aa():
    latency_us = steady(8)
    latency_us[4:] *= 1.10
    found = summarize(latency_us)
    assert found.drift_percent == pytest.approx(100 / 10.5)
    assert found.aa_percent == 0.0
    assert not found.clean


def test_steady_is_clean_and_one_slow_replay_changes_nothing():
    latency_us = steady(8)
    latency_us[3, 0] = 500.0
    found = summarize(latency_us)
    assert found.clean
    assert (found.latency_us, found.lower_us, found.upper_us) == (10.0, 10.0, 10.0)


def test_a_wide_interval_alone_is_noisy():
    level = 1 + np.array([-1, 1, 0, 0, 0, 0, 1, -1]) * 2 * CLEAN_PERCENT / 100
    found = summarize(steady(8) * level[:, None, None])
    assert found.half_width_percent > CLEAN_PERCENT
    assert found.drift_percent == found.aa_percent == 0.0
    assert not found.clean


def test_one_round_has_no_aa_pair():
    with pytest.raises(ValueError, match="at least two rounds"):
        summarize(steady(1))
