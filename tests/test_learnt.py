"""What a machine's measured pairs say of its other calls: closed forms of the linear update."""

import numpy as np
import pytest
from scipy.optimize import brentq

from costmodel.calibration.fit import NOISE_ROWS, NOISE_START
from costmodel.calibration.posterior import NOISE_DOF
from costmodel.decide.learnt import Learnt
from costmodel.decide.regret import Arms

HIDDEN = 4096
NONE = np.zeros(0)


def unknown(mi355x, one_us, other_us, weight=None):
    """Return what is known before any pair: draws (draws, n) of both arms at ascending sizes."""
    n = one_us.shape[1]
    shapes = mi355x.shapes(2 ** np.arange(n), np.full(n, HIDDEN), 8)
    weight = np.full(n, 1 / n) if weight is None else np.asarray(weight)
    prior = Arms(shapes, weight, one_us, other_us, mi355x.aiter_version)
    return Learnt(prior, NONE.astype(np.intp), NONE, NONE)


def normal(seed, n, mean, sd, draws=4000):
    return mean + sd * np.random.default_rng(seed).standard_normal((draws, n))


def test_what_nothing_is_known_of_is_as_it_was_measured(mi355x):
    """Precisions add up, 1 / prior + 1 / error; a call apart from the measured one stays."""
    known = unknown(mi355x, normal(1, 3, 50.0, 12.0), normal(2, 3, 60.0, 12.0))
    found = known.measured(1, 40.0, 70.0).arms
    for us, measured in ((found.one_us, 40.0), (found.other_us, 70.0)):
        # No residual: each row weighs as much as it may, (dof + 1) / dof, and its scale stays.
        error = NOISE_START * measured * np.sqrt(NOISE_DOF / (NOISE_DOF + 1))
        sd = 1 / np.sqrt(1 / error**2 + 1 / 12.0**2)
        assert us[:, 1].mean() == pytest.approx(measured, abs=0.15)
        assert us[:, 1].std() == pytest.approx(sd, rel=0.05)
    np.testing.assert_allclose(found.one_us[:, [0, 2]].mean(axis=0), 50.0, atol=1.5)
    np.testing.assert_allclose(found.one_us[:, [0, 2]].std(axis=0), 12.0, rtol=0.05)


def test_a_call_in_proportion_to_a_measured_one_moves_in_proportion(mi355x):
    one, other = normal(3, 1, 50.0, 6.0), normal(4, 1, 60.0, 6.0)
    known = unknown(mi355x, np.hstack([one, 2 * one]), np.hstack([other, 3 * other]))
    found = known.measured(0, 41.0, 66.0).arms
    assert found.one_us[:, 0].mean() == pytest.approx(41.0, abs=0.5)
    np.testing.assert_allclose(found.one_us[:, 1], 2 * found.one_us[:, 0])
    np.testing.assert_allclose(found.other_us[:, 1], 3 * found.other_us[:, 0])


@pytest.mark.parametrize("off", [0.0, 0.05, -0.05])
def test_where_all_is_known_what_was_measured_is_error(mi355x, off):
    """The errors' scale is where the weak information on it and the Student-t rows balance."""
    pairs = 4
    known = unknown(mi355x, normal(5, pairs, 50.0, 1e-6), normal(6, pairs, 60.0, 1e-6))
    for call in range(pairs):
        known = known.measured(call, 50.0 * (1 + off), 60.0 * (1 + off))
    relative = off / (1 + off)
    assert known.scatter == pytest.approx(abs(relative), rel=1e-3, abs=1e-6)
    rows = 2 * pairs

    def balance(scale):
        weight = (NOISE_DOF + 1) / (NOISE_DOF + (relative / scale) ** 2)
        found = NOISE_ROWS * NOISE_START**2 + rows * weight * relative**2
        return np.sqrt(found / (NOISE_ROWS + rows)) - scale

    variance, _, scale = known._errors
    wanted = brentq(balance, 1e-3, 1.0)
    assert scale == pytest.approx(wanted, rel=0.05)
    weight = (NOISE_DOF + 1) / (NOISE_DOF + (relative / wanted) ** 2)
    measured = np.repeat([50.0, 60.0], pairs) * (1 + off)
    np.testing.assert_allclose(np.sqrt(variance), wanted * measured / np.sqrt(weight), rtol=0.05)
    np.testing.assert_allclose(known.arms.one_us.mean(axis=0), 50.0, rtol=1e-6)


def test_the_least_known_call_is_that_of_the_widest_difference_in_proportion(mi355x):
    mean, spread = np.array([20.0, 20.0, 200.0]), np.array([1.0, 3.0, 8.0])
    sign = np.tile([[-1.0], [1.0]], (8, 1))
    # The first call may go either way; the second is decided, yet wider; the third is wider in us.
    other = mean + np.array([0.0, 8.0, 90.0]) + sign * spread
    known = unknown(mi355x, np.tile(mean, (16, 1)), other)
    assert known.least_known() == 1
    assert known.least_known([1]) == 0
    assert known.measured(1, 20.0, 28.0).least_known([0]) == 2
    assert known.least_known([0, 1, 2]) is None


def either_way(mean, sd):
    """Return (one, other) draws of two calls whose differences are ``mean`` +- ``sd``, a share."""
    signs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]] * 8)
    difference = np.asarray(mean) + signs * np.asarray(sd)
    return 50.0 * (1 - difference / 2), 50.0 * (1 + difference / 2)


@pytest.mark.parametrize(
    ("weight", "mean", "sd", "telling"),
    [
        # Known but for the noise of a pair, the wide call would tell more; it stands for few.
        ((0.75, 0.25), (0.0, 0.0), (0.03, 0.06), 0),
        ((0.25, 0.75), (0.0, 0.0), (0.06, 0.03), 1),
        # A call that leans to one arm may turn all the same, and stands for nearly all.
        ((0.92, 0.08), (0.01, 0.0), (0.03, 0.06), 0),
        # One that leans too far to turn tells nothing.
        ((0.92, 0.08), (0.3, 0.0), (0.03, 0.06), 1),
    ],
)
def test_the_most_telling_pair_is_the_one_that_may_change_the_rule(
    mi355x, weight, mean, sd, telling
):
    known = unknown(mi355x, *either_way(mean, sd), weight)
    assert known.most_telling() == telling
    assert known.most_telling([telling]) != telling
    assert known.most_telling([0, 1]) is None


def test_always_is_said_where_one_arm_wins_in_every_draw(mi355x):
    known = unknown(mi355x, *either_way((0.2, 0.2), (0.01, 0.01)))
    assert known.always
    assert not known.refusal()
    assert not unknown(mi355x, *either_way((-0.2, -0.2), (0.01, 0.01))).always
