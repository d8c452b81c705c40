from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from costmodel.calibration.baselines import hockney, interpolation, softplus, two_lines
from costmodel.calibration.coverage import arms
from costmodel.calibration.cross_validation import leave_source_out
from costmodel.calibration.observations import observe
from costmodel.data import kernels
from costmodel.decide.crossings import measured_crossings
from costmodel.decide.pairs import pair
from costmodel.model.shape import FUSED

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


@pytest.fixture(scope="module")
def benchmark():
    """Return the module benchmarks/baselines.py."""
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "baselines.py"
    spec = importlib.util.spec_from_file_location("baselines_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_named_set_of_the_benchmark_is_that_of_the_first_calibrations(benchmark, published):
    observations = observe(published.select(np.isin(published.source, benchmark.FIRST)))
    assert len(observations) == benchmark.FIRST_ROWS
    assert tuple(np.unique(observations.table.source)) == tuple(sorted(benchmark.FIRST))


def test_in_sample_a_baseline_is_fitted_to_all_rows_of_its_arm(benchmark, fitted):
    fit = fitted[1]
    errors = benchmark.in_sample(fit)
    assert set(errors) == {"interpolation", "hockney", "two lines", "softplus", "origami"}
    arm, observations = arms(fit), fit.problem.observations
    mine = arm == arm[0]
    size, latency = observations.size_bytes[mine], observations.latency_us[mine]
    line = hockney(size, latency)(size)
    np.testing.assert_allclose(errors["hockney"][mine], 100 * (line / latency - 1))
    # More freedom, no larger error.
    both = ~np.isnan(errors["two lines"])
    assert np.sum(errors["two lines"][both] ** 2) < np.sum(errors["hockney"][both] ** 2)


def test_each_table_held_out_is_shown_with_where_it_misses(benchmark, fitted, capsys):
    fit = fitted[1]
    benchmark.held_out(fit)
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line for line in shown.splitlines() if "%" in line}
    by_source, _, _ = leave_source_out(fit)
    assert list(rows) == sorted(by_source) == sorted(set(fit.problem.observations.table.source))
    for source, error in by_source.items():
        known = error[~np.isnan(error)]
        assert rows[source].split()[1] == str(known.size)
        assert f" {np.median(np.abs(known)):.2f} %" in rows[source]
    size = fit.problem.observations.size_bytes
    small = by_source["vllm-19744"][
        (fit.problem.observations.table.source == "vllm-19744") & (size < 65536)
    ]
    assert f" {np.median(small):+.1f} %" in rows["vllm-19744"]
    assert rows["vllm-54787"].split()[1:3] == ["7", "7"]  # its separate norm is alone


def test_the_benchmark_shows_the_model_beside_the_crossing_of_its_pairs(
    benchmark, fitted, published, capsys
):
    rows = published.select(published.source == "aiter-3458-mi355x")
    crossings = measured_crossings(rows, pair(rows, FUSED))
    benchmark.crossings(rows, fitted[0])
    shown = capsys.readouterr().out.splitlines()
    noisy, clean = (
        next(line for line in shown if ranks in line) for ranks in ("MI355X TP8", "MI355X TP4")
    )
    assert noisy.count("any size") == 2
    assert "424 KiB to 536 KiB" in clean
    said, _, release = benchmark.model(crossings[1], fitted[0]).rpartition(" of ")
    assert said in clean
    assert release == "0.1.16"  # the rows are of 2026-06-16, between 0.1.16 and 0.1.17
    assert benchmark.model(replace(crossings[1], kernel_family="hip_comms"), fitted[0]) == (
        "another kernel"
    )
    later = replace(crossings[1], source="mine", kernel_version="0.1.12")
    assert benchmark.own_release(later) == "0.1.12"
    assert benchmark.own_release(replace(later, kernel_family="hip_comms")) == kernels.LATEST
    assert "no MI999" in benchmark.model(replace(crossings[1], gpu="MI999"), fitted[0])
