"""Calls of equal bytes that are counted and evaluated once have the values of each call alone."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.posterior import shipped
from costmodel.decide.setting import BLOCK, Setting
from costmodel.model.counted import Counted
from costmodel.model.shape import ALGORITHMS, WORLD_SIZES

ARMS = [(op, arm) for op in ("fused", "plain", "separate") for arm in ALGORITHMS]


def many(setting, ranks, count=BLOCK + 5):
    """More calls than are evaluated at once, of few numbers of bytes."""
    rng = np.random.default_rng(3)
    return setting.shapes(
        8 * rng.integers(1, 33, count),
        512 * rng.integers(1, 17, count),  # the plain 2-stage writes above a limit
        rng.choice(ranks, count),
    )


@pytest.mark.parametrize(("op", "arm"), [*ARMS, ("fused", "separate")])
@pytest.mark.parametrize("ranks", [[8], [2, 8], [2, 4, 8]])
def test_many_calls_have_the_values_of_each_few(op, arm, ranks):
    setting = Setting.shipped("MI300X", op=op)
    shapes = many(setting, ranks)
    latency_us = setting.latency_us(shapes, arm)
    terms = setting.terms(shapes, arm)
    places = np.random.default_rng(0).permutation(len(shapes))[:4000]
    few = shapes.select(places)
    np.testing.assert_allclose(latency_us[places], setting.latency_us(few, arm), rtol=1e-13)
    alone = setting.terms(few, arm)
    assert list(terms) == list(alone)
    for name, term in alone.items():
        found = np.broadcast_to(terms[name], len(shapes))
        assert found[places].tolist() == np.broadcast_to(term, len(few)).tolist(), name
    if arm != "separate":  # which has the launch of the arm that each call takes
        assert np.ndim(terms["launch"]) == 0  # what all calls share


@pytest.mark.parametrize("hidden", [8192, 8200])  # of the second, most calls differ in bytes
def test_a_term_that_is_zero_for_all_calls_is_named(hidden):
    push = shipped("gfx942").families[0]  # whose fits have no row of 8 ranks
    setting = Setting(push, "MI300X", op="plain")
    count = BLOCK + 5
    ranks = np.resize([2, 8], count)  # the term is of 8 alone
    shapes = setting.shapes(8 * np.resize(np.arange(1, 999), count), hidden, ranks)
    assert (Counted.of(shapes) is None) is (hidden == 8200)
    assert setting.terms(shapes, "2stage")["eight_ranks"] == 0.0


def test_each_number_of_bytes_is_one_call():
    shapes = many(Setting.shipped("MI355X"), [2, 4, 8])
    counted = Counted.of(shapes)
    assert counted is not None
    assert counted.world_sizes == WORLD_SIZES
    for n in WORLD_SIZES:
        calls = counted.calls(n)
        assert calls.bytes.tolist() == sorted(set(shapes.bytes.tolist()))
        assert set(calls.world_size.tolist()) == {n}


def test_a_value_that_a_world_size_lacks_is_zero_there():
    shapes = many(Setting.shipped("MI355X"), [2, 8])
    counted = Counted.of(shapes)
    assert counted is not None
    assert counted.world_sizes == (2, 8)

    def evaluate(calls):
        if calls.world_size[0] == 2:
            return {"all": 1.0, "two": 5.0}
        return {"all": 1.0, "size": calls.bytes.astype(float)}

    found = counted.spread(evaluate)
    eight = shapes.world_size == 8
    assert found["all"] == 1.0
    assert found["two"].tolist() == np.where(eight, 0.0, 5.0).tolist()
    assert found["size"].tolist() == np.where(eight, shapes.bytes, 0).tolist()


def test_calls_of_which_most_differ_are_not_counted():
    setting = Setting.shipped("MI355X")
    tokens = np.arange(1, 301)
    assert Counted.of(setting.shapes(tokens, 4096, 8)) is None
    assert Counted.of(setting.shapes(np.tile(tokens, 3), 4096, 8)) is None  # 0 has a place too
    assert Counted.of(setting.shapes(np.tile(tokens, 4), 4096, 8)) is not None
