"""Ends of intervals are those of numpy's quantiles; blocks change none."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.posterior import TAIL
from costmodel.decide import drawn as interval
from costmodel.decide import prediction
from costmodel.decide.prediction import predict, scatter
from costmodel.decide.regret import Estimate
from costmodel.decide.setting import DRAWS, Setting
from costmodel.model.shape import ALGORITHMS


@pytest.mark.parametrize("draws", [20, 21, 100, DRAWS, 401])
def test_ends_are_the_quantiles(draws):
    values = np.random.default_rng(draws).lognormal(size=(draws, 30))
    expected = np.quantile(values, [TAIL, 1 - TAIL], axis=0)
    np.testing.assert_array_equal(interval.ends(values), expected)


@pytest.mark.parametrize("draws", [20, 100, DRAWS, 401])
def test_a_value_is_held_where_neither_tail_has_its_share(draws):
    values = np.sort(np.random.default_rng(1).lognormal(size=(draws, 1)), axis=0)
    low, high = interval.holds(values)
    for value in [*values[:, 0], *(values[:, 0] * (1 + 1e-9)), 0.0, np.inf]:
        share = float((values <= value).sum()) / draws
        assert bool((low <= value) & (value < high)) is (TAIL <= share <= 1 - TAIL)


@pytest.mark.parametrize("algorithm", ["1stage", "2stage", "separate"])
def test_blocks_and_one_evaluation_give_the_ends_of_every_draw_at_once(algorithm, monkeypatch):
    setting = Setting.shipped("MI355X")
    rng = np.random.default_rng(0)
    # Tokens of a multiple of eight, which leave no rest for the 2-stage at any world size.
    shapes = setting.shapes(
        8 * rng.integers(1, 11, 50), 8 * rng.integers(64, 1025, 50), rng.choice([2, 4, 8], 50)
    )
    monkeypatch.setattr(prediction, "DRAWN_BLOCK", 7 * DRAWS)
    found = predict(setting, shapes, algorithm)
    for values, ends in (
        (setting.new_source, (found.lo_us, found.hi_us)),
        (setting.this_kernel, (found.kernel_lo_us, found.kernel_hi_us)),
    ):
        every = setting.latency_us(shapes, algorithm, values) * scatter(setting)
        expected = np.quantile(every, [TAIL, 1 - TAIL], axis=0)
        np.testing.assert_allclose(ends, expected, rtol=1e-12)


def test_rows_are_the_arrays():
    setting = Setting.shipped("MI355X")
    found = predict(setting, setting.shapes([[8, 16], [24, 32]], 2880, 4), "2stage")
    rows = found.to_rows()
    assert [row["tokens"] for row in rows] == [8, 16, 24, 32]
    assert [row["latency_us"] for row in rows] == found.latency_us.ravel().tolist()
    assert [row["terms"]["launch"] for row in rows] == found.terms["launch"].ravel().tolist()
    assert all(sum(r["terms"].values()) == pytest.approx(r["latency_us"]) for r in rows)


@pytest.mark.parametrize("draws", [2, 20, 101, DRAWS])
def test_the_values_nearest_to_the_ends_are_numpys(draws):
    values = np.random.default_rng(draws).integers(0, 40, draws)
    expected = np.quantile(values, [TAIL, 1 - TAIL], method="nearest")
    assert interval.nearest(values) == tuple(expected)


def test_draws_in_turn_are_all_draws_once():
    for draws, calls in ((1, 1), (256, 3), (256, 663), (7, 1 << 20)):
        turns = [np.arange(draws)[few] for few in interval.in_turn(draws, calls)]
        assert np.concatenate(turns).tolist() == list(range(draws))
        assert all(turn.size * calls <= interval.AT_ONCE or turn.size == 1 for turn in turns)


@pytest.mark.parametrize("ranks", [4, [2, 8, 2, 4, 4, 8, 2]])
def test_blocks_hold_every_call_once_and_one_world_size_each(ranks):
    shapes = Setting.shipped("MI355X").shapes(np.arange(8, 64, 8), 2880, ranks)
    blocks = list(shapes.blocks(2))
    places = [np.arange(len(shapes))[block] for block, _ in blocks]
    assert sorted(np.concatenate(places).tolist()) == list(range(len(shapes)))
    for place in places:
        assert place.size <= 2
        assert len(set(shapes.world_size[place].tolist())) == 1
    for place, (_, some) in zip(places, blocks, strict=True):
        assert some.tokens.tolist() == shapes.tokens[place].tolist()
        assert some.hidden_dim.tolist() == shapes.hidden_dim[place].tolist()
        assert some.world_size.tolist() == shapes.world_size[place].tolist()


@pytest.mark.parametrize("algorithm", ["1stage", "2stage", "separate"])
def test_blocks_change_no_latency(algorithm, monkeypatch):
    setting = Setting.shipped("MI300X")
    shapes = setting.shapes(np.arange(8, 8 * 90, 8), 4096, np.resize([2, 4, 8], 89))
    whole = (
        setting.latency_us(shapes, algorithm),
        setting.latency_us(shapes, algorithm, setting.draws),
    )
    monkeypatch.setattr("costmodel.decide.setting.BLOCK", 10)
    monkeypatch.setattr("costmodel.decide.setting.DRAWN_BLOCK", 10 * DRAWS)
    np.testing.assert_allclose(setting.latency_us(shapes, algorithm), whole[0], rtol=1e-13)
    some = setting.latency_us(shapes, algorithm, setting.draws)
    np.testing.assert_allclose(some, whole[1], rtol=1e-13)


@pytest.mark.parametrize(
    ("op", "algorithm"),
    [(op, arm) for op in ("fused", "plain") for arm in ALGORITHMS] + [("fused", "separate")],
)
def test_blocks_change_no_term(op, algorithm, monkeypatch):
    setting = Setting.shipped("MI300X", op=op)
    tokens = np.resize([8, 512, 16, 2048], 89)  # the plain 2-stage writes above a limit
    shapes = setting.shapes(tokens, 8192, np.resize([2, 4, 8], 89))
    whole = setting.terms(shapes, algorithm)
    monkeypatch.setattr("costmodel.decide.setting.BLOCK", 10)
    monkeypatch.setattr("costmodel.model.shape.STRETCH", 25)
    some = setting.terms(shapes, algorithm)
    assert list(some) == list(whole)
    assert np.ndim(some["harness"]) == np.ndim(whole["harness"])  # a scalar, where all calls share
    for name, term in whole.items():
        assert np.broadcast_to(some[name], 89).tolist() == np.broadcast_to(term, 89).tolist()


@pytest.mark.parametrize(
    ("op", "algorithm"),
    [(op, arm) for op in ("fused", "plain", "separate") for arm in ALGORITHMS]
    + [("fused", "separate")],
)
@pytest.mark.parametrize("ranks", [2, 8, [2, 4, 8]])
def test_calls_of_equal_bytes_have_the_latencies_of_each_call_alone(op, algorithm, ranks):
    setting = Setting.shipped("MI300X", op=op)
    # 8 x 7168, 16 x 3584 and 56 x 1024 elements are as many bytes; so are the later three.
    shapes = setting.shapes([8, 16, 56, 64, 128, 448], [7168, 3584, 1024] * 2, np.resize(ranks, 6))
    together = setting.latency_us(shapes, algorithm, setting.draws)
    for i in range(len(shapes)):
        alone = setting.latency_us(shapes.select(slice(i, i + 1)), algorithm, setting.draws)
        np.testing.assert_allclose(together[:, i], alone[:, 0], rtol=1e-13)
    point = {name: float(np.mean(value)) for name, value in setting.draws.items()}
    assert setting.latency_us(shapes, algorithm, point).shape == (6,)


def test_estimates_of_many_quantities_are_those_of_each_to_the_last_bit():
    draws = np.exp(np.random.default_rng(5).standard_normal((DRAWS, 13)))
    for column, found in zip(draws.T, Estimate.of_each(draws), strict=True):
        lo, hi = np.quantile(column, [TAIL, 1 - TAIL])
        assert found == Estimate.of(column) == Estimate(float(column.mean()), float(lo), float(hi))
