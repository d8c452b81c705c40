"""The crossing of two straight lines: Fieller's set and the bootstrap against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from costmodel.calibration.crossing import (
    SizeSet,
    bootstrap,
    crossing,
    fieller,
    last_crossing,
)
from costmodel.errors import InputError

SIZE = 14336.0 * np.array([1, 2, 4, 8, 16, 32, 64])
ONE = 6 + SIZE / 45e3
TWO = 9 + SIZE / 90e3
TRUTH = 3 * 90e3


def noisy(rng, scale, one=ONE, two=TWO):
    return one * (1 + rng.normal(0, scale, one.size)), two * (1 + rng.normal(0, scale, two.size))


def held(method, scale, replicates):
    rng = np.random.default_rng(7)
    return np.mean([TRUTH in method(SIZE, *noisy(rng, scale)) for _ in range(replicates)])


@pytest.mark.parametrize("scale", [0.005, 0.02, 0.1, 0.3])
def test_fieller_covers_with_the_stated_probability(scale):
    # 1000 replicates: binomial standard error 0.95 %.
    assert 0.87 <= held(fieller, scale, 1000) <= 0.93


def test_the_bootstrap_of_few_pairs_is_too_narrow_and_of_many_is_not():
    rng = np.random.default_rng(3)
    few, many = [], []
    for _ in range(300):
        few.append(TRUTH in bootstrap(SIZE, *noisy(rng, 0.02), resamples=400))
        size = rng.uniform(SIZE[0], SIZE[-1], 60)
        pair = noisy(rng, 0.02, 6 + size / 45e3, 9 + size / 90e3)
        many.append(TRUTH in bootstrap(size, *pair, resamples=400))
    assert np.mean(few) < 0.87
    assert 0.84 <= np.mean(many) <= 0.94  # binomial standard error 1.8 %


def test_fieller_is_unbounded_where_slopes_do_not_differ():
    rng = np.random.default_rng(5)
    kinds = [fieller(SIZE, *noisy(rng, 0.02, TWO, TWO)).kind for _ in range(400)]
    # Slopes that are equal differ by a two-sided test at 90 % in a tenth of the cases; another
    # tenth at most has its bounded or its unbounded part below zero.
    assert np.mean(np.array(kinds) != "bounded") >= 0.85
    assert "everything" in kinds
    parallel = [fieller(SIZE, *noisy(rng, 0.001, TWO, TWO + 2)).kind for _ in range(400)]
    assert {"complement", "half-open"} & set(parallel)
    assert np.mean(np.array(parallel) == "everything") == 0


def test_the_bootstrap_is_unbounded_where_resamples_run_the_other_way():
    rng = np.random.default_rng(8)
    sets = [bootstrap(SIZE, *noisy(rng, 0.02, TWO, TWO + 2)) for _ in range(100)]
    assert np.mean([s.hi is None for s in sets]) > 0.7


@st.composite
def tables(draw):
    """Pairs on lines of any slopes, with noise from little to more than the difference."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(3, 9))
    size = rng.uniform(1e4, 1e6, n)
    one, two = (rng.uniform(5, 10) + rng.uniform(0, 20) * size / 1e6 for _ in range(2))
    return size, *noisy(rng, draw(st.sampled_from([0.003, 0.03, 0.15])), one, two)


def accepted(size, one, two, at):
    """Whether a t test finds no difference between the lines at a size, and by what margin."""
    weight = 2 / (one + two)
    design = weight[:, None] * np.column_stack([np.ones_like(size), (size - at) / size.max()])
    estimate, *_ = np.linalg.lstsq(design, weight * (two - one), rcond=None)
    residual = weight * (two - one) - design @ estimate
    error = np.sqrt(
        np.linalg.inv(design.T @ design)[0, 0] * (residual @ residual) / (size.size - 2)
    )
    statistic = abs(estimate[0]) / error
    limit = stats.t.ppf(0.95, size.size - 2)
    return statistic <= limit, abs(statistic / limit - 1)


@settings(max_examples=300, deadline=None)
@given(tables(), st.floats(-1.0, 2.0))
def test_fieller_holds_the_sizes_at_which_a_t_test_finds_no_difference(table, where):
    size, one, two = table
    at = size.max() * 10**where
    inside, margin = accepted(size, one, two, at)
    assume(margin > 1e-6)
    assert (at in fieller(size, one, two)) == inside


@settings(max_examples=200, deadline=None)
@given(tables(), st.floats(0.01, 100), st.floats(0.01, 100))
def test_sets_scale_with_bytes_and_not_with_the_unit_of_time(table, k, unit):
    size, one, two = table
    for method in (fieller, bootstrap):
        here = method(size, one, two)
        there = method(k * size, unit * one, unit * two)
        assert there.kind == here.kind
        for end in ("lo", "hi"):
            a, b = getattr(here, end), getattr(there, end)
            assert (a is None) == (b is None)
            if a is not None:
                assert b == pytest.approx(k * a, rel=1e-6)


def test_both_agree_on_precise_data():
    size = np.linspace(SIZE[0], SIZE[-1], 40)
    pair = noisy(np.random.default_rng(2), 1e-3, 6 + size / 45e3, 9 + size / 90e3)
    at = crossing(size, *pair)
    assert at.pairs == 40
    assert at.one_stage_below
    assert at.size_bytes == pytest.approx(TRUTH, rel=2e-3)
    assert at.fieller.kind == at.bootstrap.kind == "bounded"
    assert at.size_bytes in at.fieller
    assert at.size_bytes in at.bootstrap
    width = at.fieller.hi - at.fieller.lo
    assert width < 0.01 * TRUTH
    assert at.bootstrap.hi - at.bootstrap.lo == pytest.approx(width, rel=0.25)
    assert at.bootstrap.lo == pytest.approx(at.fieller.lo, abs=0.25 * width)


def test_straight_lines_without_noise_cross_at_a_point():
    at = crossing(SIZE, ONE, TWO)
    assert at.size_bytes == pytest.approx(TRUTH)
    for end in (at.fieller.lo, at.fieller.hi, at.bootstrap.lo, at.bootstrap.hi):
        assert end == pytest.approx(TRUTH, rel=1e-6)


def test_the_other_direction_is_told_apart():
    assert not crossing(SIZE, TWO, ONE).one_stage_below
    assert crossing(SIZE, TWO, ONE).size_bytes == pytest.approx(TRUTH)


def test_an_arm_that_is_always_ahead_never_crosses():
    rng = np.random.default_rng(4)
    one, two = noisy(rng, 0.005, ONE, 1.5 * ONE)
    at = crossing(SIZE, one, two)
    assert at.size_bytes is None
    assert at.fieller.kind == at.bootstrap.kind == "empty"


def test_identical_arms_say_nothing():
    at = crossing(SIZE, ONE, ONE)
    assert at.size_bytes is None
    assert at.fieller.kind == at.bootstrap.kind == "everything"


def test_the_bootstrap_repeats_with_its_seed():
    pair = noisy(np.random.default_rng(6), 0.05)
    assert bootstrap(SIZE, *pair, seed=1) == bootstrap(SIZE, *pair, seed=1)
    assert bootstrap(SIZE, *pair, seed=1) != bootstrap(SIZE, *pair, seed=2)


@pytest.mark.parametrize(
    ("made", "kind", "inside", "outside"),
    [
        (SizeSet.between(2.0, 5.0), "bounded", (2.0, 3.0, 5.0), (1.0, 6.0)),
        (SizeSet.between(-1.0, 5.0), "half-open", (0.5, 5.0), (6.0,)),
        (SizeSet.between(2.0, np.inf), "half-open", (2.0, 1e9), (1.0,)),
        (SizeSet.between(-np.inf, np.inf), "everything", (1.0, 1e9), ()),
        (SizeSet.between(-2.0, -1.0), "empty", (), (1.0, 1e9)),
        (SizeSet.outside(2.0, 5.0), "complement", (1.0, 2.0, 5.0, 6.0), (3.0,)),
        (SizeSet.outside(-2.0, 5.0), "half-open", (5.0, 6.0), (1.0, 4.0)),
        (SizeSet.outside(-2.0, -1.0), "everything", (1.0,), ()),
    ],
)
def test_sets_of_sizes(made, kind, inside, outside):
    assert made.kind == kind
    assert all(s in made for s in inside)
    assert not any(s in made for s in outside)


@pytest.mark.parametrize("size", [[1e4, 2e4], [1e4, 1e4, 1e4]])
def test_too_little_for_an_interval_is_said(size):
    with pytest.raises(InputError, match="it takes 3 pairs at 2 sizes or more"):
        crossing(size, np.arange(len(size)) + 5.0, np.arange(len(size)) + 6.0)


def test_two_sizes_in_three_pairs_are_enough():
    size = np.array([1e4, 1e4, 4e4])
    found = crossing(size, 6 + size / 45e3, 6.3 + size / 90e3)
    assert found.size_bytes == pytest.approx(0.3 * 90e3)


@pytest.mark.parametrize(
    ("gap", "crossing"),
    [
        ([-2.0, -1.0, 1.0, 2.0], 3e4),
        ([-1.0, 1.0, -1.0, 3.0], 4e4 + 5e3 / 4),  # the last of two
        ([-2.0, -1.0, 0.0, 0.0], 4e4),
        ([-4.0, -3.0, -2.0, -1.0], None),
        ([1.0, 2.0, 1.0, -1.0], None),  # it falls through zero
        ([0.0, 1.0, 2.0, 3.0], None),
    ],
)
def test_the_last_crossing_is_where_1stage_begins_to_lose(gap, crossing):
    found = last_crossing([1e4, 2e4, 4e4, 4.5e4], gap)
    assert found == (None if crossing is None else pytest.approx(crossing))


def test_the_bootstrap_is_that_of_weighted_lines_one_by_one():
    one, two = noisy(np.random.default_rng(9), 0.02)
    weight = 2 / (one + two)
    crossed = []
    for drawn in np.random.default_rng(11).integers(0, SIZE.size, (205, SIZE.size)):
        if np.ptp(SIZE[drawn]) > 0:
            # polyfit squares its weights.
            b, a = np.polyfit(SIZE[drawn], (two - one)[drawn], 1, w=weight[drawn])
            crossed.append(max(-a / b, 0.0) if b < 0 else np.inf)
    crossed = np.sort(crossed)
    lo, hi = crossed[int(0.05 * crossed.size)], crossed[int(np.ceil(0.95 * crossed.size)) - 1]
    found = bootstrap(SIZE, one, two, level=0.9, resamples=205, seed=11)
    assert all(s in found for s in (lo * 1.0001, hi * 0.9999))
    assert not any(s in found for s in (lo * 0.9999, hi * 1.0001))


@pytest.mark.parametrize("at_once", [1, 60, 1 << 30])
def test_resamples_are_the_same_however_many_are_drawn_at_once(at_once, monkeypatch):
    rng = np.random.default_rng(2)
    size = rng.choice(np.arange(1, 30), 40) * 8192.0
    one, two = 5 + size / 4e4 * np.exp(0.1 * rng.standard_normal(40)), 9 + size / 9e4
    expected = bootstrap(size, one, two, resamples=500)
    assert expected.kind == "bounded"
    monkeypatch.setattr("costmodel.calibration.crossing.AT_ONCE", at_once)
    assert bootstrap(size, one, two, resamples=500) == expected
