"""1-stage, 2-stage and separate ops: which branch is taken, and whether two arms are enough."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from costmodel.cli.main import main
from costmodel.data import llms
from costmodel.decide.adequacy import ADEQUATE_PCT, one_stage_window
from costmodel.decide.explanation import choices, explain
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Arms
from costmodel.decide.setting import Setting
from costmodel.decide.three_way import (
    BOUNDARY_PCT,
    ArmsBeside,
    Window,
    _AllArms,
    _beside,
    _cheapest,
    three_way,
)
from costmodel.decide.validation import validate
from costmodel.decide.worth import worth
from costmodel.errors import InputError
from costmodel.figures.latency import latency_against_bytes
from costmodel.figures.terms import terms_of_call
from costmodel.model.shape import ARMS, SEPARATE_OPS, Shapes
from costmodel.rules import catalogue
from costmodel.show import explanation as shown
from costmodel.show import recommendation


@pytest.fixture(scope="module")
def fused():
    return recommend(Setting.shipped("MI355X"), world_sizes=(4, 8))


@pytest.fixture(scope="module")
def apart():
    return recommend(Setting.shipped("MI355X", otherwise="separate"), world_sizes=(4, 8))


def test_the_branch_moves_the_cutoff_to_where_the_arms_that_run_cross(fused, apart):
    for one, other in zip(fused.cutoffs, apart.cutoffs, strict=True):
        assert other.max_bytes < one.max_bytes
        arms = other.arms
        assert np.array_equal(
            arms.other_us, apart.setting.latency_us(arms.shapes, SEPARATE_OPS, apart.setting.draws)
        )
    assert apart.rule.otherwise == "separate"
    assert apart.rule.to_json()["otherwise"] == "separate"
    assert apart.to_dict()["otherwise"] == "separate"
    assert fused.rule.otherwise == "2stage"


def test_the_engine_s_main_call_site_says_what_runs_otherwise():
    for engine in catalogue.ENGINES:
        setting = Setting.shipped("MI355X", engine=engine)
        assert setting.alternative == catalogue.current(engine).otherwise == "2stage"
        assert setting.but(otherwise="separate").alternative == "separate"


def test_other_arms_and_other_ops_are_refused():
    with pytest.raises(InputError, match="did you mean separate"):
        Setting.shipped("MI355X", otherwise="seperate")
    with pytest.raises(InputError, match="only the fused op"):
        Setting.shipped("MI355X", op="all_reduce", otherwise="separate")


def test_windows_cover_the_workload_and_separate_ops_have_theirs(fused):
    for c in fused.cutoffs:
        windows = c.three_way.windows
        size = c.arms.shapes.bytes
        assert (windows[0].from_bytes, windows[-1].to_bytes) == (size.min(), size.max())
        for before, after in itertools.pairwise(windows):
            assert before.to_bytes < after.from_bytes
            assert before.algorithm != after.algorithm
            assert not ((size > before.to_bytes) & (size < after.from_bytes)).any()
        assert windows[0].algorithm == "1stage"
        arms, ends = zip(*c.three_way.limits, strict=True)
        assert arms == tuple(w.algorithm for w in windows)
        assert ends[-1] is None
        for end, (before, after) in zip(ends, itertools.pairwise(windows), strict=False):
            assert before.to_bytes <= end < after.from_bytes
            steps = [1024 << k for k in (6, 5, 4, 3, 2, 0)]
            fits = [s for s in steps if -(-before.to_bytes // s) * s < after.from_bytes]
            assert not fits or end % fits[0] == 0, "the roundest of those that decide alike"
        (third,) = c.three_way.apart
        record = json.loads(json.dumps(c.to_dict()))
        assert record["three_way"][-1] == {
            "algorithm": "separate", "from_bytes": third.from_bytes, "to_bytes": third.to_bytes,
        }  # fmt: skip
        assert record["two_arms_loss_pct"] == c.three_way.loss_pct
        assert record["two_arms_enough"] is (c.three_way.loss_pct <= ADEQUATE_PCT)


def test_a_limit_between_windows_is_round_up_to_the_next_one(fused):
    windows = (Window("1stage", 8192, 20000), Window("2stage", 40000, 80000))
    found = structs.replace(fused.cutoffs[0].three_way, windows=windows)
    assert found.limits == (("1stage", 32768), ("2stage", None))


def test_the_loss_is_that_of_the_rule_beside_the_windows(fused):
    """Counted again, call by call, over the same draws."""
    setting = fused.setting
    for c in fused.cutoffs:
        arms = c.arms
        some = {k: v[::8] if np.ndim(v) else v for k, v in setting.draws.items()}
        us = {a: setting.latency_us(arms.shapes, a, some) for a in ARMS}
        best = np.minimum.reduce(list(us.values()))
        regret = {a: 100 * (one / best - 1).mean(axis=0) for a, one in us.items()}
        size = arms.shapes.bytes
        rule = np.where(size <= c.max_bytes, regret["1stage"], regret["2stage"])
        chosen = np.zeros(size.size)
        for w in c.three_way.windows:
            inside = (size >= w.from_bytes) & (size <= w.to_bytes)
            chosen[inside] = regret[w.algorithm][inside]
        loss = float(arms.weight @ (rule - chosen))
        assert c.three_way.loss_pct == pytest.approx(loss)
        assert not c.three_way.enough


def test_two_arms_are_enough_where_the_third_runs_otherwise(apart):
    for c in apart.cutoffs:
        assert c.three_way.enough
        assert c.three_way.loss_pct < 0.1


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_windows_are_the_cheapest_of_all_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 1, (3, int(rng.integers(1, 7))))
    boundary = float(rng.uniform(0, 1))

    def price(arm):
        changes = sum(a != b for a, b in itertools.pairwise(arm))
        return sum(cost[a, i] for i, a in enumerate(arm)) + boundary * changes

    every = itertools.product(range(3), repeat=cost.shape[1])
    assert price(_cheapest(cost, boundary)) == pytest.approx(min(map(price, every)))


def two_arms(one_us, other_us):
    size = np.arange(1, len(one_us) + 1) * 1000
    calls = Shapes.of(1, size // 2, 4)
    weight = np.full(size.size, 1 / size.size)
    return Arms(calls, weight, np.array([one_us]), np.array([other_us]), "0.1.20")


def test_a_window_of_1stage_is_found_where_small_calls_are_faster_without():
    arms = two_arms([3.0, 3.0, 1.0, 1.0, 4.0], [2.0, 2.0, 2.0, 2.0, 2.0])
    found = one_stage_window(arms, 4000)
    assert (found.from_bytes, found.to_bytes) == (3000, 4000)
    assert found.differ == pytest.approx(0.4)
    # The two smallest calls lose half each under any cutoff that keeps the next two.
    assert found.gain_pct == pytest.approx(50.0)
    assert one_stage_window(two_arms([1.0, 1.0, 3.0], [2.0, 2.0, 2.0]), 2000) is None
    assert one_stage_window(two_arms([1.0, 1.0], [2.0, 2.0]), None) is None


def test_no_window_beats_one_cutoff_on_the_shipped_calibrations(fused):
    for c in fused.cutoffs:
        assert one_stage_window(c.arms, c.estimate) is None or "alone would gain" in c.reason
        assert BOUNDARY_PCT < ADEQUATE_PCT


def test_what_separate_ops_win_stands_in_the_first_lines(fused, apart):
    head = recommendation.text(fused).split("\n\n")[0]
    assert "separate ops are expected to be fastest: TP4 " in head
    assert re.search(
        r"(?s)two arms are not enough: .*% at TP8 of the\s+fastest arm.s latency", head
    )
    head = recommendation.text(apart).split("\n\n")[0]
    assert head.startswith("1-stage or separate ops: ")
    assert "not enough" not in head
    s = fused.setting
    large = shown.text(explain(s, s.shapes(256, 2880, 4))).split("\n\n")[0]
    assert "separate ops are expected fastest here" in large
    small = shown.text(explain(s, s.shapes(1, 2880, 4))).split("\n\n")[0]
    assert "separate ops are expected" not in small


def test_explain_weighs_what_runs(apart):
    s = apart.setting
    found = explain(s, s.shapes(256, 2880, 4))
    assert (found.choice, found.alone) == ("separate", "separate")
    assert set(found.arms) == set(ARMS)
    third = predict(s, found.call, "separate")
    arm = found.arms["separate"]
    assert arm.latency_us.value == third.latency_us[0] == s.latency_us(found.call, SEPARATE_OPS)[0]
    assert sum(e.value for e in arm.terms.values()) == pytest.approx(arm.latency_us.value)
    one = found.arms["1stage"].latency_us.value
    assert found.margin_us.value == pytest.approx(arm.latency_us.value - one)
    by_name = {o.rule.name: o for o in found.opinions}
    assert by_name["recommended"].choice == by_name["vllm-gemma"].choice == "separate"
    assert by_name["vllm-16bit"].choice == "2stage"
    assert all(found.agrees(by_name[n]) for n in ("recommended", "vllm-gemma", "vllm-16bit"))
    assert not found.agrees(by_name["always-1stage"])
    text = shown.text(found)
    assert re.search(r"separate ops are faster by .* of their latency", text)
    every = choices(s, 2880, 4)
    assert set(every.choice.tolist()) == {"1stage", "separate"}
    assert list(every.latency_us) == list(ARMS)


def test_worth_of_a_call_site_that_falls_back_to_separate_ops(capsys):
    words = ["worth", "--model", "gpt-oss-120b", "--gpu", "MI355X", "--tp", "4"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--from", "vllm-gemma", "--format", "json"])
    assert ended.value.code == 0
    (gpu,) = json.loads(capsys.readouterr().out)["gpus"]
    assert {b["from"] for b in gpu["batches"]} == {"1stage", "separate"}
    setting = Setting.shipped("MI355X", otherwise="separate")
    old = catalogue.named("vllm-gemma")
    new = recommend(setting, None, world_sizes=(4,)).rule
    mine = worth(setting, llms.find("gpt-oss-120b"), 4, old, new)
    assert all(b.saved_us.value == 0 for b in mine.batches if b.old == b.new)


def test_validate_judges_against_measured_separate_ops(published):
    setting = Setting.shipped("MI355X", otherwise="separate")
    found = validate(published, setting, every_gpu=False)
    assert len(found.pairs)
    assert np.array_equal(found.pairs.two_us, found.pairs.separate_us)
    assert found.of("vllm-gemma") is not None
    assert found.of("vllm-16bit") is None
    assert found.three_way is None


def test_figures_draw_the_arm_that_runs(apart):
    figure = latency_against_bytes(apart, 4, 2880)
    names = " ".join(t.name or "" for t in figure.data)
    assert "separate ops, model" in names
    assert "2-stage, model" not in names
    assert figure.layout.yaxis3.title.text == "separate ops slower,<br>% of 1-stage"
    s = apart.setting
    fall = terms_of_call(explain(s, s.shapes(80, 2880, 4)))
    assert fall.data[0].x[-1] == "separate ops"


def test_three_way_of_a_calibration_that_knows_no_limit():
    setting = Setting.shipped("MI355X")
    c = recommend(setting, world_sizes=(2,)).at(2)
    assert c.estimate is None
    again = three_way(setting, c.arms, None)
    assert again.windows[0].algorithm == "1stage"
    assert again == c.three_way


def test_separate_ops_win_where_nine_draws_in_ten_say_so():
    """Over 20 draws: 20 % in all of them, 50 % in 18, 50 % in 17."""
    third = np.full((20, 3), [8.0, 5.0, 5.0])
    third[18:, 1] = third[17:, 2] = 20.0
    us = np.stack([np.full((20, 3), 12.0), np.full((20, 3), 10.0), third])
    calls = Shapes.of([1, 2, 4], 7168, 8)
    every = _AllArms(ARMS, calls, np.array([0.5, 0.3, 0.2]), us)
    found = _beside(Setting.shipped("MI355X"), every)
    assert (found.share, found.from_bytes, found.to_bytes) == (pytest.approx(0.8), 14336, 28672)
    assert found.gain_pct == pytest.approx((20.0, 50.0))
    us[2] = 30.0
    none = _beside(Setting.shipped("MI355X"), every)
    assert none == ArmsBeside(0.0, 0, 0, (0.0, 0.0), none.measured)
