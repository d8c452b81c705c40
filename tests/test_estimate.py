"""Estimation on synthetic truth: data drawn from the model, answers known."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs

from costmodel.calibration.estimate import calibrate, known_gpus
from costmodel.calibration.fit import CONTRAST_US, FitProblem, fit
from costmodel.calibration.observations import observe
from costmodel.calibration.one_fabric import on_fabric
from costmodel.calibration.posterior import HARNESS_DOF, NOISE_DOF
from costmodel.data.kernels import LATEST
from costmodel.data.measurement import Measurements
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.fabric import FULL_MESH

REPLICATES = 24


@pytest.fixture(scope="module")
def problem(published):
    observations = on_fabric(observe(published), FULL_MESH)
    return FitProblem.of(observations, known_gpus(observations))


def with_latency(observations, latency):
    return structs.replace(
        observations, table=structs.replace(observations.table, latency_us=latency)
    )


def draw_truth(problem, rng):
    """Draw parameters from their priors, harness constants and contrasts between laboratories.

    Sums of fixed times are positive in nature, parts need not be: barriers below zero, which the
    priors allow, are drawn again.
    """
    barrier = np.array(["barrier" in name for name in problem.names])
    x = problem.prior_mean + problem.prior_sd * rng.standard_normal(len(problem.names))
    while (low := barrier & (x < 0)).any():
        x[low] = (problem.prior_mean + problem.prior_sd * rng.standard_normal(x.size))[low]
    harness = 0.7 * rng.standard_t(HARNESS_DOF, len(problem.harness))
    tau = abs(CONTRAST_US * rng.standard_normal())
    contrast = tau * rng.standard_normal(len(problem.contrast))
    return np.concatenate([np.minimum(x, problem.upper), harness, contrast])


def test_noise_free_data_give_the_truth_back(problem):
    """Where data leave nothing open, the fit reproduces them."""
    rng = np.random.default_rng(3)
    truth = draw_truth(problem, rng)
    exact = problem.predict(truth)
    _, found = calibrate(with_latency(problem.observations, exact))
    assert np.abs(found.predicted / exact - 1).max() < 0.03
    assert np.median(np.abs(found.predicted / exact - 1)) < 0.005


@pytest.mark.campaign
def test_90_percent_intervals_cover_85_to_95_percent(problem):
    """Parameters and latencies, over truths drawn from the priors.

    24 replicates x about 60 numbers: the pooled coverage has a standard error of about 2 %. That of
    printed cutoffs, also where the model is wrong, is tests/test_interval_coverage.py's.
    """
    rng = np.random.default_rng(11)
    parameter, latency = [], []
    for _ in range(REPLICATES):
        truth = draw_truth(problem, rng)
        exact = problem.predict(truth)
        scale = rng.uniform(0.015, 0.035, len(problem.harness))[problem.harness_index]
        noisy = exact * np.exp(scale * rng.standard_t(NOISE_DOF, exact.size))
        _, found = calibrate(with_latency(problem.observations, noisy))
        sd = np.sqrt(np.diag(found.covariance))
        parameter.append(np.abs(truth - found.x) <= 1.645 * sd)
        slope = found.problem.jacobian(found.x[None])[1][0]
        spread = np.sqrt(np.einsum("ij,jk,ik->i", slope, found.covariance, slope))
        latency.append(np.mean(np.abs(found.predicted - exact) <= 1.645 * spread))
    assert 0.85 <= np.mean(parameter) <= 0.95
    assert 0.83 <= np.mean(latency) <= 0.96


def test_one_wild_row_moves_little(problem, fitted):
    _, before = fitted
    latency = problem.observations.latency_us.copy()
    row = int(np.flatnonzero(problem.observations.table.source == "aiter-3458-mi355x")[2])
    latency[row] *= 3
    after = fit(
        FitProblem.of(with_latency(problem.observations, latency), known_gpus(problem.observations))
    )
    others = np.arange(latency.size) != row
    moved = np.abs(after.predicted / before.predicted - 1)[others]
    assert np.median(moved) < 0.005
    assert moved.max() < 0.08


def test_no_link_beats_its_nominal_rate(problem):
    """Data that say 100 GB/s are not believed: the estimate and the draws stay at 64 or 76.8."""
    fast = with_latency(problem.observations, np.maximum(problem.observations.latency_us / 4, 1.0))
    calibration, _ = calibrate(fast)
    draws = calibration.draw(200, 0)
    for gpu, limit in (("MI300X", 64.0), ("MI355X", 76.8)):
        assert calibration.interval(f"link_gbps[{gpu}]")[2] <= limit
        assert draws[f"link_gbps[{gpu}]"].max() <= limit


def test_draws_are_the_posterior(fitted):
    """Medians and spreads are the posterior's, except where a physical bound cuts."""
    calibration, _ = fitted
    draws = calibration.draw(4000, 5)
    for i, name in enumerate(calibration.names):
        mean, sd = calibration.mean[i], np.sqrt(calibration.covariance[i, i])
        x = draws[name][:, 0]
        if "link_gbps" in name:
            continue
        x = np.log(x) if calibration._log[i] else x
        assert np.median(x) == pytest.approx(mean, abs=0.08 * sd)
        assert x.std() == pytest.approx(sd, rel=0.06)


def test_nothing_to_fit_is_refused(row):
    with pytest.raises(InputError, match="1 read, all set aside"):
        calibrate(observe(Measurements.from_rows([row | {"op": "other"}])))


def test_a_user_s_rows_alone_can_be_calibrated(row):
    """Two arms at five sizes on one GPU: enough for a measured cutoff with an interval."""
    from costmodel.decide.recommendation import recommend

    rows = []
    for tokens in (4, 8, 16, 32, 64, 128):
        size = tokens * 4096 * 2
        for algorithm, latency in (
            ("1stage", 6 + max(1.0, size / 38e3)),
            ("2stage", 10 + max(1.0, size / 2 / 42e3)),
        ):
            rows.append(
                row | {"tokens": tokens, "bytes": size, "algorithm": algorithm,
                       "latency_us": round(latency, 2), "source": "lab",
                       "kernel_version": LATEST}
            )  # fmt: skip
    calibration, _ = calibrate(observe(Measurements.from_rows(rows)))
    cutoff = recommend(Setting(calibration, "MI300X"), world_sizes=(4,)).at(4)
    assert cutoff.verdict == "measured"
    # 6 + S/38 = 10 + S/84 at S = 277 kB = 271 KiB.
    assert cutoff.max_bytes_lo <= 277e3 <= cutoff.max_bytes_hi * 1.1
    assert 0.8 * 277e3 <= cutoff.max_bytes <= 1.25 * 277e3
