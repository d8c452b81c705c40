"""Parts of the fit against closed forms: rows in pairs, noise scales, the grid of tau."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.fit import (
    HARNESS_LOG_SD_START,
    NOISE_ROWS,
    NOISE_START,
    _noise,
    _Rows,
    _spread,
    _widths,
)
from costmodel.decide import fit_report


@pytest.fixture(scope="module")
def problem(fitted):
    return fitted[1].problem


@pytest.fixture(scope="module")
def used(problem):
    return _Rows.of(problem, np.ones(len(problem.observations), np.bool_))


@pytest.mark.parametrize("columns", [(), (3,)])
def test_pairs_are_turned_into_what_they_have_in_common_and_what_they_differ_by(
    problem, used, columns
):
    """A rotation: no residual is counted twice, and none is lost."""
    rows = len(problem.observations)
    residual = np.random.default_rng(4).standard_normal((rows, *columns))
    turned = used.combine(residual)
    assert turned.shape == residual.shape
    np.testing.assert_allclose((turned**2).sum(axis=0), (residual**2).sum(axis=0))
    first, second = problem.pairs.T
    assert first.size > 40
    both = (used.left == first[:, None]) & (used.right == second[:, None])
    common, apart = (np.array([np.flatnonzero(one)[i] for one in both]) for i in (0, 1))
    root = np.sqrt(2)
    np.testing.assert_allclose(turned[common], (residual[first] + residual[second]) / root)
    np.testing.assert_allclose(turned[apart], (residual[first] - residual[second]) / root)
    # Each harness has two scales of noise, the second for differences.
    index = problem.harness_index[first]
    assert used.scale[common].tolist() == (2 * index).tolist()
    assert used.scale[apart].tolist() == (2 * index + 1).tolist()


def test_a_row_alone_scatters_as_both_parts_of_a_pair_do(fitted):
    found = fitted[1]
    for i, harness in enumerate(found.problem.harness):
        common, apart = found.noise[2 * i : 2 * i + 2]
        paired = (found.problem.harness_index[found.problem.pairs] == i).any()
        wanted = np.hypot(common, apart) / np.sqrt(2) if paired else common
        assert found.row_noise[i] == pytest.approx(wanted), harness


def test_the_report_has_what_each_benchmark_adds_and_misses(fitted):
    calibration, found = fitted
    said = fit_report._harness(calibration, found)
    assert tuple(one["source"] for one in said) == calibration.harness
    assert sum(one["rows"] for one in said) == len(found.problem.observations)
    off = 100 * np.abs(found.predicted / found.problem.observations.latency_us - 1)
    for one in said:
        mine = off[found.problem.observations.harness == one["source"]]
        assert one["max_residual_pct"] == pytest.approx(mine.max())
        assert one["median_residual_pct"] == pytest.approx(np.median(mine))
        assert one["lo"] < one["excess_us"] < one["hi"]


@pytest.mark.parametrize("leverage", [0.0, 0.5, 1.0])
def test_noise_scales_rest_on_their_rows_and_on_two_of_the_usual_size(used, leverage):
    counts = np.bincount(used.scale)
    noise = np.linspace(0.01, 0.08, counts.size)
    # A row whose fit follows it wholly still frees a twentieth.
    free = counts * max(1 - leverage, 0.05)
    each = np.full(used.scale.size, leverage)
    none = _noise(used, np.zeros(used.scale.size), noise, each)
    np.testing.assert_allclose(none**2, NOISE_ROWS * NOISE_START**2 / (NOISE_ROWS + free))
    # Residuals of one scale each have the weight of a normal row, 1; wild ones have next to none.
    usual = _noise(used, noise[used.scale], noise, each)
    square = NOISE_ROWS * NOISE_START**2 + counts * noise**2
    np.testing.assert_allclose(usual**2, square / (NOISE_ROWS + free))
    wild = _noise(used, 1e6 * noise[used.scale], noise, each)
    square = NOISE_ROWS * NOISE_START**2 + 5 * counts * noise**2
    np.testing.assert_allclose(wild**2, square / (NOISE_ROWS + free))


def test_the_spread_of_harnesses_rests_on_two_of_the_usual_one():
    usual = HARNESS_LOG_SD_START
    assert _spread(np.array([5.0]), np.array([1.0]), 0.7) == 0.7
    for n, spread in ((2, 0.5), (7, 0.5), (7, 2.0)):
        found = _spread(np.full(n, 0.6 * spread), np.full(n, (0.8 * spread) ** 2), spread)
        assert found == pytest.approx(np.sqrt((2 * usual**2 + n * spread**2) / (2 + n)))
    assert _spread(np.zeros(200), np.zeros(200), 0.5) == 0.3


def test_points_of_a_grid_weigh_as_the_trapezoid_rule_has_them():
    assert _widths(np.array([0.7])).tolist() == [1.0]
    grid = np.array([0.25, 0.5, 1.0, 2.0])
    assert _widths(grid).tolist() == pytest.approx([0.375, 0.375, 0.75, 1.0])
