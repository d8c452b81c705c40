"""Figures of the simulator hold what the simulator found."""

import numpy as np
import pytest

from costmodel import simulation
from costmodel.decide.setting import Setting
from costmodel.figures.simulated import cutoffs_along, latency_along, time_per_rank


@pytest.fixture(scope="module")
def node():
    return simulation.Study(Setting.shipped("MI355X"), ranks=4, skew=simulation.Skew("uniform", 20))


def test_bars_run_from_arrival_to_finish(node):
    outcome = node.simulate("2stage", 8)
    waiting, own = time_per_rank(outcome).data
    np.testing.assert_allclose(np.asarray(waiting.base, float), outcome.run.arrival_us)
    np.testing.assert_allclose(waiting.x, outcome.run.waiting_us)
    np.testing.assert_allclose(np.asarray(own.base, float) + own.x, outcome.run.finish_us)
    np.testing.assert_allclose(
        np.asarray(waiting.base, float) + waiting.x, np.asarray(own.base, float)
    )


def test_cutoffs_are_those_of_the_maps(node):
    links = simulation.cutoff_map(node, [("link", [1.0, 0.5])])
    few = simulation.cutoff_map(node, [("link", [1.0])])
    figure = cutoffs_along({"a <b>": links, "few": few}, node)
    np.testing.assert_allclose(figure.data[0].y, links.bytes / 1024)
    assert figure.data[0].name == "a &lt;b&gt;"
    assert list(figure.data[1].x) == [1.0]
    assert list(figure.layout.xaxis.ticktext) == ["0.5", "1"]
    assert "Simulated" in figure.layout.title.subtitle.text


def test_no_skew_stands_at_the_left_edge_of_a_logarithmic_axis(node):
    found = simulation.cutoff_map(node, [("skew", [0, 3])])
    figure = cutoffs_along({"a": found}, node, log=True)
    assert figure.layout.xaxis.type == "log"
    assert list(figure.data[0].x) == [1.0, 3.0]
    assert list(figure.layout.xaxis.ticktext) == ["0", "3"]


def test_latencies_are_those_of_the_simulation(node):
    figure = latency_along(node, "ranks", [2, 4], tokens=8)
    for line, algorithm in zip(figure.data, ("1stage", "2stage"), strict=True):
        expected = [node.along("ranks", n).simulate(algorithm, 8).latency_us for n in (2, 4)]
        np.testing.assert_allclose(line.y, expected)
    assert "ranks" not in figure.layout.title.subtitle.text.split(";")[0]
