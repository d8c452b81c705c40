"""Cutoffs of simulated machines: what moves them, and what does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from costmodel.calibration.posterior import load
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.evidence import ALWAYS_ONE_STAGE
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.shape import ONE_STAGE, TWO_STAGE
from costmodel.simulation import Conditions, Skew, Study, cutoff_map
from costmodel.simulation.collective import simulate
from costmodel.simulation.cutoff import BATCH_SIZES, collective_cost, simulated_cutoff
from costmodel.simulation.machine import machine as machine_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def eight():
    return Study(Setting.shipped("MI355X"), ranks=8)


def switched(ranks=16):
    """Return a study of a machine that was never calibrated: costs alone decide its cutoff."""
    return Study(Setting.shipped("MI355X"), fabric="switch", ranks=ranks, hidden_dim=4096)


def test_cutoff_of_two_lines():
    # 10 + t against 50.25 + t/2 meet at t = 80.5: the last simulated batch below is 80.
    def cost(algorithm, tokens):
        return 10 + tokens if algorithm == ONE_STAGE else 50.25 + tokens / 2

    study = switched()
    found = simulated_cutoff(study.setting, 4096, study.machine(), cost)
    assert found.tokens == 80
    assert 80 * 8192 <= found.bytes < 96 * 8192
    assert found.interval is None


def test_arms_that_never_cross():
    def cheap(name):
        return lambda algorithm, tokens: 1.0 if algorithm == name else 2.0

    study = switched()
    always = simulated_cutoff(study.setting, 4096, study.machine(), cheap(ONE_STAGE))
    never = simulated_cutoff(study.setting, 4096, study.machine(), cheap(TWO_STAGE))
    assert (always.bytes, always.tokens) == (None, None)
    assert (never.bytes, never.tokens) == (0, 0)


@pytest.mark.parametrize("hidden", [2880, 7168])
@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("gpu", ["MI300X", "MI355X"])
def test_with_nothing_disturbed_the_cutoff_is_the_recommended_one(gpu, n, hidden):
    setting = Setting.shipped(gpu)
    found = Study(setting, hidden_dim=hidden, ranks=n).cutoff()
    mine = recommend(setting, Workload.of([hidden]), world_sizes=(n,)).at(n)
    if mine.verdict == ALWAYS_ONE_STAGE:
        assert (found.bytes, found.interval) == (None, None)
        return
    # Where nothing is claimed, a sweep shows the best estimate with the same interval.
    assert found.bytes == (mine.estimate)
    assert found.interval == (mine.max_bytes_lo, mine.max_bytes_hi)


@pytest.mark.parametrize("question", [
    {"gpu": "MI355X", "otherwise": "separate"},
    {"gpu": "MI300X", "otherwise": "separate", "dtype": "fp16"},
    {"gpu": "MI300X", "aiter_version": "0.1.16"},  # whose 1-stage stops at 80 tokens
])  # fmt: skip
@pytest.mark.parametrize("n", [4, 8])
def test_a_sweep_weighs_the_arms_that_recommend_weighs(question, n):
    setting = Setting.shipped(**question)
    found = Study(setting, hidden_dim=4096, ranks=n).cutoff()
    mine = recommend(setting, Workload.of([4096]), world_sizes=(n,)).at(n)
    assert (found.bytes, found.interval) == (mine.estimate, (mine.max_bytes_lo, mine.max_bytes_hi))


def test_late_ranks_add_to_separate_ops_as_they_add_to_the_all_reduce():
    setting = Setting.shipped("MI355X", otherwise="separate")
    study = Study(setting, hidden_dim=4096, ranks=4)
    machine = study.machine()
    cost = collective_cost(machine, 4096)
    below, above = 8, 512  # the plain op's own dispatch changes over between them
    for tokens, stage in ((below, ONE_STAGE), (above, TWO_STAGE)):
        apart = simulate(machine, stage, tokens, 4096, op="ar_then_rmsnorm")
        assert cost("separate", tokens) == apart.latency_us


def test_ranks_split_over_gpus_are_not_simulated():
    calibration = load(ROOT / "measurements" / "h200-pair" / "second" / "calibration.json")
    with pytest.raises(InputError, match=r"ranks split over GPUs .* which are not simulated"):
        machine_of(calibration, "H200", ranks=4)


def test_a_calibrated_cutoff_follows_what_a_simulation_adds(eight):
    """3 us on 2-stage alone, which takes about 20, hold 1-stage in front for longer."""
    machine = eight.machine()
    calm = collective_cost(machine, 7168)

    def late(algorithm, tokens):
        return calm(algorithm, tokens) + (3.0 if algorithm == TWO_STAGE else 0.0)

    still = simulated_cutoff(eight.setting, 7168, machine, calm)
    mine = recommend(eight.setting, Workload.of([7168]), world_sizes=(8,)).at(8)
    assert (still.bytes, still.interval) == (mine.max_bytes, (mine.max_bytes_lo, mine.max_bytes_hi))
    moved = simulated_cutoff(eight.setting, 7168, machine, late)
    assert moved.bytes > 1.3 * still.bytes


def test_simulated_batches_are_captured_ones():
    assert set(BATCH_SIZES) <= set(captured_batch_sizes().tolist())


def test_skew_leaves_the_cutoff_alone_when_every_rank_waits_at_entry(eight):
    still = eight.cutoff()
    for scale in (1.0, 60.0):
        assert eight.along("skew", scale).cutoff() == still
    # A layer also waits for the latest rank, on every algorithm alike: shares of a call shrink.
    layered = replace(eight.along("skew", 20.0), layers=True).cutoff()
    assert abs(layered.tokens - still.tokens) <= 8


def test_skew_moves_the_cutoff_when_no_rank_waits_at_entry(eight, monkeypatch):
    monkeypatch.setattr("costmodel.simulation.study.LAYERS", 8)
    push = replace(eight, conditions=Conditions(entry_barrier=False), layers=True)
    still = push.cutoff().bytes
    assert push.along("skew", 20.0).cutoff().bytes > 1.2 * still


def test_one_slow_cable_is_as_bad_as_all(eight):
    one = eight.along("link", 0.5).cutoff().bytes
    every = eight.along("rate", 0.5).cutoff().bytes
    assert one == pytest.approx(every, rel=1e-6)
    assert one < 0.6 * eight.cutoff().bytes


def test_a_slow_rank_favours_1stage(eight):
    # It does more of its own work in 2-stage: a second launch, a fence and a local pass.
    assert eight.along("slow", 2.0).cutoff().bytes > 1.3 * eight.cutoff().bytes


def test_incast_on_a_switch_takes_1stage_away(eight):
    found = [
        replace(eight, fabric="mi450").along("ranks", n).cutoff().bytes for n in (4, 8, 16, 72)
    ]
    assert found[0] > found[1] > found[2]
    assert found[3] == 0.0


def test_a_map_has_a_cell_for_every_combination(eight):
    found = cutoff_map(eight, [("link", (1.0, 0.5)), ("ranks", (2, 4, 8))])
    assert found.bytes.shape == (2, 3)
    assert np.isinf(found.bytes[:, 0]).all()  # two ranks: 1-stage always
    assert found.bytes[1, 2] == pytest.approx(eight.along("link", 0.5).cutoff().bytes)
    record = found.to_dict()
    assert record["schema"] == "costmodel/simulate-sweep/1"
    assert record["cells"][0] == {
        "link": 1.0, "ranks": 2.0, "cutoff_bytes": None, "cutoff_tokens": None,
        "cutoff_bytes_interval": None,
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
