"""Cutoffs of simulated machines: what moves them, and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from costmodel.calibration.posterior import shipped
from costmodel.decide.prediction import latency_us
from costmodel.errors import InputError
from costmodel.model.shape import ONE_STAGE, TWO_STAGE, Shapes
from costmodel.simulation import Conditions, Skew, Study, crossing, cutoff_map


@pytest.fixture(scope="module")
def eight():
    return Study(shipped("gfx950"), "MI355X", ranks=8)


def test_crossing_of_two_lines():
    # 10 + t against 20.25 + t/2 meet at t = 20.5.
    def cost(algorithm, tokens):
        return 10 + tokens if algorithm == ONE_STAGE else 20.25 + tokens / 2

    found = crossing(cost, 100)
    assert found.tokens == 20
    assert found.bytes == pytest.approx(2050)


def test_arms_that_never_cross():
    def cheap(name):
        return lambda algorithm, tokens: 1.0 if algorithm == name else 2.0

    assert crossing(cheap(ONE_STAGE), 100).bytes is None
    assert crossing(cheap(TWO_STAGE), 100).bytes == 0.0


def test_cutoff_on_the_mesh_is_the_closed_forms(eight):
    found = eight.crossing()
    size = eight.hidden_dim * 2
    at = Shapes.of(np.arange(1, 200), eight.hidden_dim, 8)
    arms = [
        latency_us(eight.calibration, at, a, gpu="MI355X", kernel=eight.machine().kernel)
        for a in (ONE_STAGE, TWO_STAGE)
    ]
    first_on_2stage = int(at.tokens[np.flatnonzero(arms[0] > arms[1])[0]])
    assert found.bytes == pytest.approx(first_on_2stage * size, rel=0.06)


def test_skew_leaves_the_cutoff_alone_when_every_rank_waits_at_entry(eight):
    still = eight.crossing().bytes
    for scale in (1.0, 60.0):
        assert eight.along("skew", scale).crossing().bytes == pytest.approx(still, rel=1e-6)
    layered = replace(eight.along("skew", 20.0), layers=True)
    assert layered.crossing().bytes == pytest.approx(still, rel=1e-6)


def test_skew_moves_the_cutoff_when_no_rank_waits_at_entry(eight, monkeypatch):
    monkeypatch.setattr("costmodel.simulation.study.LAYERS", 8)
    push = replace(eight, conditions=Conditions(entry_barrier=False), layers=True)
    still = push.crossing().bytes
    assert push.along("skew", 20.0).crossing().bytes > 1.2 * still


def test_one_slow_cable_is_as_bad_as_all(eight):
    one = eight.along("link", 0.5).crossing().bytes
    every = eight.along("rate", 0.5).crossing().bytes
    assert one == pytest.approx(every, rel=1e-6)
    assert one < 0.6 * eight.crossing().bytes


def test_a_slow_rank_favours_1stage(eight):
    # It does more of its own work in 2-stage: a second launch, a fence and a local pass.
    assert eight.along("slow", 2.0).crossing().bytes > 1.3 * eight.crossing().bytes


def test_incast_on_a_switch_takes_1stage_away(eight):
    found = [
        replace(eight, fabric="mi450").along("ranks", n).crossing().bytes for n in (4, 8, 16, 72)
    ]
    assert found[0] > found[1] > found[2]
    assert found[3] == 0.0


def test_a_map_has_a_cell_for_every_combination(eight):
    found = cutoff_map(eight, [("link", (1.0, 0.5)), ("ranks", (2, 4, 8))])
    assert found.bytes.shape == (2, 3)
    assert np.isinf(found.bytes[:, 0]).all()  # two ranks: 1-stage always
    assert found.bytes[1, 2] == pytest.approx(eight.along("link", 0.5).crossing().bytes)
    record = found.to_dict()
    assert record["schema"] == "costmodel/simulate-sweep/1"
    assert record["cells"][0] == {
        "link": 1.0, "ranks": 2.0, "cutoff_bytes": None, "cutoff_tokens": None,
    }  # fmt: skip
    assert record["cells"][5]["link"] == 0.5
    assert record["cells"][5]["ranks"] == 8


def test_skew_axis_keeps_the_distribution(eight):
    study = replace(eight, skew=Skew("exponential", 1.0)).along("skew", 4.0)
    assert study.skew == Skew("exponential", 4.0)


@pytest.mark.parametrize(
    ("axis", "value", "message"),
    [
        ("sknew", 1.0, "did you mean skew"),
        ("skew", -1.0, "0 or more"),
        ("ranks", 2.5, "whole numbers"),
    ],
)
def test_bad_axes(eight, axis, value, message):
    with pytest.raises(InputError, match=message):
        eight.along(axis, value)
