from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.baselines import hockney, interpolation, softplus, two_lines

SIZE = np.array([1e4, 2e4, 4e4, 8e4, 16e4, 32e4])
ASKED = np.array([1.5e4, 6e4, 30e4])


def test_hockney_recovers_a_line():
    line = lambda s: 5 + s / 40e3  # noqa: E731
    np.testing.assert_allclose(hockney(SIZE, line(SIZE))(ASKED), line(ASKED))


def test_interpolation_goes_through_its_points_and_between_them():
    latency = np.array([5.0, 5, 6, 8, 12, 20])
    curve = interpolation(SIZE, latency)
    np.testing.assert_allclose(curve(SIZE), latency)
    assert curve(np.array([3e4]))[0] == pytest.approx(5.5)
    assert curve(np.array([64e4]))[0] == pytest.approx(36)


def test_interpolation_averages_repeated_sizes():
    curve = interpolation(np.array([1.0, 1.0, 2.0]), np.array([4.0, 6.0, 9.0]))
    assert curve(np.array([1.0]))[0] == pytest.approx(5)


@pytest.mark.parametrize("bend", [1 / 20e3, -1 / 50e3])
def test_two_lines_recover_a_bend_up_or_down(bend):
    latency = lambda s: 20 + s / 40e3 + bend * np.maximum(s - 8e4, 0)  # noqa: E731
    np.testing.assert_allclose(two_lines(SIZE, latency(SIZE))(ASKED), latency(ASKED))


def test_softplus_recovers_its_own_form():
    latency = lambda s: 4 + np.logaddexp(0, s / 30e3 - 1)  # noqa: E731
    np.testing.assert_allclose(softplus(SIZE, latency(SIZE))(ASKED), latency(ASKED), rtol=0.01)
