"""What a cutoff minimises: the mean regret, that of contested calls, that of the worst call."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel.cli.main import main
from costmodel.data.workload import Workload
from costmodel.decide.objective import CONTESTED, MEAN, OBJECTIVES, WORST, contested
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Arms
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.shape import Shapes
from costmodel.show import recommendation


@pytest.fixture(scope="module")
def answers():
    setting = Setting.shipped("MI355X")
    return {o: recommend(setting.but(objective=o), world_sizes=(4, 8)) for o in OBJECTIVES}


def random_arms(seed, objective):
    rng = np.random.default_rng(seed)
    n, draws = int(rng.integers(2, 25)), int(rng.integers(1, 6))
    size = np.sort(rng.integers(1, 40, n)) * 1000
    one_us, other_us = rng.uniform(1, 10, (2, draws, n))
    calls = Shapes.of(1, size // 2, 4)
    return Arms(calls, rng.dirichlet(np.ones(n)), one_us, other_us, "0.1.20", objective)


def price(arms, objective, limit, draws):
    """Return the objective of one cutoff over some draws, counted call by call."""
    size, total, weight, worst = arms.shapes.bytes, 0.0, 0.0, 0.0
    # A cutoff below every call is nearest to the smallest.
    near = limit or size[0]
    for i in range(size.size):
        ran = arms.one_us if size[i] <= limit else arms.other_us
        regret = float(np.mean(ran[draws, i] / arms.fastest_us[draws, i] - 1))
        worst = max(worst, regret)
        if objective == MEAN or near / 2 <= size[i] <= 2 * near:
            total += arms.weight[i] * regret
            weight += arms.weight[i]
    return worst if objective == WORST else total / weight


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_best_cutoff_is_the_best_of_all_by_brute_force(objective, seed):
    arms = random_arms(seed, objective)
    best = arms.best()
    limits = [0, *np.unique(arms.shapes.bytes).tolist()]
    every = slice(None)
    prices = [price(arms, objective, limit, every) for limit in limits]
    assert price(arms, objective, best.cell.lo, every) == pytest.approx(min(prices), abs=1e-12)
    # And its interval is that of the draws' own.
    own = [
        limits[int(np.argmin([price(arms, objective, limit, [d]) for limit in limits]))]
        for d in range(len(arms.one_us))
    ]
    assert best.lo.lo <= max(own)
    assert best.hi.lo >= min(own)
    assert best.lo.lo <= best.cell.lo <= best.hi.lo


def test_each_objective_is_least_where_it_is_minimised(answers):
    for n in (4, 8):
        worst = {o: d.at(n).regrets.worst_pct for o, d in answers.items()}
        mean = {o: d.at(n).regret_pct for o, d in answers.items()}
        assert worst[WORST] == pytest.approx(min(worst.values()))
        assert mean[MEAN] == pytest.approx(min(mean.values()))
    assert answers[CONTESTED].at(4).max_bytes != answers[MEAN].at(4).max_bytes


def test_all_three_are_counted_and_printed(answers):
    for decision in answers.values():
        text = " ".join(recommendation.text(decision).split())
        for c in decision.cutoffs:
            arms, size = c.arms, c.arms.shapes.bytes
            one, other = (part.mean(axis=0) for part in arms.regret_share)
            regret = 100 * np.where(size <= c.max_bytes, one, other)
            near = (size >= c.max_bytes / 2) & (size <= 2 * c.max_bytes)
            assert contested(size, c.max_bytes).tolist() == near.tolist()
            r = c.regrets
            assert r.mean_pct == pytest.approx(regret @ arms.weight)
            assert r.contested_pct == pytest.approx(
                regret[near] @ arms.weight[near] / arms.weight[near].sum()
            )
            assert r.worst_pct == pytest.approx(regret.max())
            assert r.mean_pct <= r.contested_pct <= r.worst_pct
            record = json.loads(json.dumps(c.to_dict()))
            assert record["regret_pct"] == r.mean_pct
            assert record["contested_regret_pct"] == r.contested_pct
            assert record["worst_regret_pct"] == r.worst_pct
            said = (
                f"{r.mean_pct:.2f} % on average, {r.contested_pct:.2f} % on contested calls, "
                f"{r.worst_pct:.2f} % on the worst"
            )
            assert said in text


def test_where_1stage_always_wins_no_call_is_contested():
    c = recommend(Setting.shipped("MI355X"), world_sizes=(2,)).at(2)
    assert c.regrets.contested_pct is None
    assert c.to_dict()["contested_regret_pct"] is None


def test_an_engine_s_guards_cost_in_all_three():
    """vLLM's cap of 80 tokens keeps small hidden sizes from 1-stage far below the cutoff."""
    load = Workload.of([1024])
    free, kept = (
        recommend(Setting.shipped("MI355X", engine=engine), load, world_sizes=(4,)).at(4).regrets
        for engine in ("", "vllm")
    )
    assert kept.mean_pct > free.mean_pct
    assert kept.worst_pct > free.worst_pct


def test_the_objective_is_named(answers):
    assert "least worst-case regret" in recommendation.text(answers[WORST]).splitlines()[0]
    assert "least regret of contested" in recommendation.text(answers[CONTESTED]).splitlines()[0]
    assert "least" not in recommendation.text(answers[MEAN]).splitlines()[0]
    assert answers[WORST].to_dict()["objective"] == WORST


def test_an_unknown_objective_is_refused(capsys):
    with pytest.raises(InputError, match="did you mean worst"):
        Setting.shipped("MI355X", objective="wurst")
    with pytest.raises(SystemExit) as ended:
        main(["recommend", "--gpu", "MI355X", "--objective", "wurst"])
    assert ended.value.code == 2
    assert "one of mean, contested, worst" in capsys.readouterr().err


def test_arms_of_a_setting_have_its_objective():
    setting = Setting.shipped("MI355X", objective=WORST)
    arms = Arms.of(setting, Workload.of([7168]), 4)
    assert arms.objective == WORST
    assert replace(arms, objective=MEAN).best().regret_pct <= arms.best().regret_pct
