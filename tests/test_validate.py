"""Model and rules against measured rows: pairing, regret, accuracy, verdict, command."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_rows import a_row, synthetic, table
from msgspec.structs import replace

from costmodel.calibration.posterior import Refusal
from costmodel.data import kernels as kernel
from costmodel.data.measurement import Measurements
from costmodel.data.workload import Workload
from costmodel.decide.measured_regret import RuleRegret, agreement, bootstrap_means, judge
from costmodel.decide.pairs import pair
from costmodel.decide.prediction import predict
from costmodel.decide.regret import Arms, Estimate
from costmodel.decide.row_errors import compare, covered, offsets_without_row
from costmodel.decide.setting import Setting
from costmodel.decide.validation import ValidationLimits, hold_out, validate
from costmodel.errors import InputError
from costmodel.model.shape import ALGORITHMS, FUSED, SEPARATE, TWO_STAGE
from costmodel.rules.catalogue import ALWAYS_1STAGE, ALWAYS_2STAGE, named
from costmodel.rules.rule import Rule

WORKLOAD = Workload.of([2880, 7168])

#: Both algorithms at TP4 and hidden 7168 in https://github.com/ROCm/aiter/pull/3458 (MI355X).
ONE = {4: 5.83, 8: 5.88, 16: 7.98, 32: 11.55, 64: 20.09}
TWO = {4: 9.19, 8: 9.28, 16: 10.03, 32: 11.79, 64: 16.38}


@pytest.fixture(scope="module")
def gfx950():
    return Setting.shipped("MI355X")


@pytest.fixture(scope="module")
def judged(gfx950, published):
    return validate(published, gfx950)


# Pairs


# Regret over a workload


@pytest.fixture(scope="module")
def modelled(gfx950):
    return Arms.of(gfx950, WORKLOAD, world_size=4)


def test_regret_of_a_rule_is_what_it_costs_above_the_faster_algorithm(modelled):
    rule = named("sglang")
    use = modelled.shapes.bytes <= 128 * 1024
    chosen = np.where(use, modelled.one_us, modelled.other_us)
    fastest = np.minimum(modelled.one_us, modelled.other_us)
    pct = (100 * (chosen / fastest - 1)) @ modelled.weight
    found = modelled.score(rule, ALWAYS_2STAGE)
    assert found.regret_pct.value == pytest.approx(pct.mean())
    assert found.regret_pct.lo == pytest.approx(np.quantile(pct, 0.05))
    saved = (modelled.other_us - chosen) @ modelled.weight
    assert found.saved_us.value == pytest.approx(saved.mean())
    assert found.saved_us.hi == pytest.approx(np.quantile(saved, 0.95))
    assert found.differ == pytest.approx(modelled.weight[use].sum())
    lost_us = (chosen - fastest) @ modelled.weight
    assert modelled.regret_us(use) == pytest.approx(lost_us)
    assert modelled.regret_pct(use) == pytest.approx(pct)
    assert found.saved_us.value > 0


def test_a_score_changes_sign_when_the_rules_change_places(gfx950):
    eight = Arms.of(gfx950, WORKLOAD, 8)
    there = eight.score(named("vllm"), named("aiter"))
    back = eight.score(named("aiter"), named("vllm"))
    assert there.saved_us.value == pytest.approx(-back.saved_us.value)
    assert there.saved_pct.lo == pytest.approx(-back.saved_pct.hi)
    assert there.regret_pct == back.other_regret_pct
    assert there.regret_pct.lo >= 0
    assert there.saved_us.value != 0


def test_a_rule_against_itself_saves_exactly_nothing(modelled):
    found = modelled.score(named("vllm"), named("vllm"))
    assert (found.saved_us.value, found.saved_us.lo, found.saved_us.hi, found.differ) == (0,) * 4


def test_a_workload_that_one_kernel_does_not_take_is_refused(gfx950):
    with pytest.raises(InputError, match="1-stage needs hidden % 8 == 0 and hidden / 8 <= 1024"):
        Arms.of(gfx950, Workload.of([16384]), 4)


def test_the_bootstrap_gives_the_standard_error_of_a_mean():
    values = np.random.default_rng(0).normal(3, 2, (400, 1))
    found = bootstrap_means(np.hstack([values, np.full((400, 1), 7.0)]))
    assert found[:, 0].mean() == pytest.approx(values.mean(), abs=0.02)
    assert found[:, 0].std() == pytest.approx(values.std() / 20, rel=0.1)
    assert found[:, 1] == pytest.approx(7.0)


# Accuracy


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(-9, 9), st.floats(0.1, 3.0)),
        min_size=1, max_size=30,
    )
)  # fmt: skip
def test_an_offset_is_the_weighted_median_of_the_other_rows(items):
    source = np.array([str(s) for s, _, _ in items])
    residual = np.array([float(r) for _, r, _ in items])
    weight = np.array([w for _, _, w in items])
    found = offsets_without_row(residual, weight, source)
    for i in range(len(items)):
        rest = (source == source[i]) & (np.arange(len(items)) != i)
        if not rest.any():
            assert found[i] == 0
            continue

        def cost(offset, rest=rest):
            return float(np.sum(weight[rest] * np.abs(residual[rest] - offset)))

        best = min(cost(r) for r in residual[rest])
        assert found[i] in residual[rest]
        assert cost(found[i]) == pytest.approx(best)


def test_the_interval_of_a_known_source_is_that_of_predict(gfx950, published):
    observations = covered(
        gfx950.calibration, published.select(published.source == "aiter-3458-mi355x")
    )
    found = compare(gfx950.calibration, observations)
    rows = observations.table
    ran = kernel.of_row("aiter", rows.source[0], rows.kernel_version[0], rows.date[0])
    setting = gfx950.but(aiter_version="0.1.16", source="aiter-3458-mi355x")
    # The release has the kernels that the rows ran.
    assert replace(ran, version=setting.kernel.version) == setting.kernel
    for algorithm in ALGORITHMS:
        mine = rows.algorithm == algorithm
        there = predict(
            setting,
            setting.shapes(rows.tokens[mine], rows.hidden_dim[mine], rows.world_size[mine]),
            algorithm,
        )
        us = rows.latency_us[mine]
        assert found.predicted_us[mine] == pytest.approx(there.latency_us)
        assert found.inside[mine].tolist() == ((us >= there.lo_us) & (us <= there.hi_us)).tolist()
    assert found.known.all()


def test_an_unknown_source_is_judged_with_and_without_its_offset(gfx950):
    # 4 us on latencies of 10 to 25 us; the model itself is the truth but for 1 % of noise.
    mine = gfx950.calibration
    found = compare(mine, covered(mine, synthetic(gfx950, offset_us=4.0)))
    accuracy = found.accuracy()
    assert not found.known.any()
    assert accuracy.median_ape > 10
    assert accuracy.median_ape_offset < 1.5
    assert accuracy.coverage90 == 1.0
    # No harness adds 60 us: that source's rows lie outside the spread.
    odd = compare(mine, covered(mine, synthetic(gfx950, offset_us=60.0))).accuracy()
    assert odd.coverage90 == 0.0
    assert odd.median_ape_offset < 1.5


def test_intervals_hold_nine_times_in_ten_on_rows_that_the_model_made(gfx950):
    name, key = "vllm-54787", "vllm-54787/aiter"
    setting, calibration = gfx950.but(source=key), gfx950.calibration
    shapes = setting.shapes(np.tile(np.arange(4, 204, 4), 8), 7168, 4)
    rng = np.random.default_rng(3)
    rows = []
    for seed in range(40):
        draw = {k: v[seed : seed + 1] for k, v in setting.new_source.items()}
        truth = setting.latency_us(shapes, TWO_STAGE, draw)[0]
        heavy = rng.standard_t(4, truth.size) * calibration.noise[key]
        some = rng.choice(truth.size, 20, replace=False)
        rows += [
            a_row(source=name, algorithm="2stage", tokens=int(shapes.tokens[i]),
                  latency_us=float(truth[i] * np.exp(heavy[i])))
            for i in some
        ]  # fmt: skip
    accuracy = compare(calibration, covered(calibration, Measurements.from_rows(rows))).accuracy()
    assert accuracy.coverage90 == pytest.approx(0.9, abs=0.06)


def test_rows_that_the_calibration_does_not_cover_are_counted(gfx950):
    rows = table(
        a_row(), a_row(algorithm="2stage"), a_row(gpu="MI300X", arch="gfx942"),
        a_row(quality="noisy"), a_row(op="fused_ar_mhc"), a_row(interconnect="nvlink"),
        a_row(algorithm="auto"), a_row(gpu="MI999X"),
    )  # fmt: skip
    found = covered(gfx950.calibration, rows)
    assert len(found) == 2
    assert found.read == 8
    assert sum(found.set_aside.values()) == 6
    assert found.set_aside == {
        "another arch": 1, "quality is noisy": 1, "op not modelled": 1, "algorithm not stated": 1,
        "GPU not in the calibration": 1,
        "another fabric than the calibration's full_mesh": 1,
    }  # fmt: skip
    assert len(covered(gfx950.calibration, rows, gpu="MI350X")) == 0


# Verdict


def test_published_pairs_give_the_regret_that_the_table_gives(gfx950, published):
    """TP4 of the forced-stage table of AITER #3458, cutoff by cutoff."""
    judged = validate(published.select(published.source == "aiter-3458-mi355x"), gfx950)
    assert judged.choice.pairs == 5

    def regret(cutoff_tokens):
        loss = [
            100 * ((ONE if t <= cutoff_tokens else TWO)[t] / min(ONE[t], TWO[t]) - 1) for t in ONE
        ]
        return np.mean(loss), max(loss)

    for rule, cutoff in (
        ("sglang-128k", 8), ("vllm-16bit", 16), ("aiter-per-rank", 32), ("always-1stage", 64),
        ("always-2stage", 0), ("sglang-first", 0),
    ):  # fmt: skip
        found = judged.of(rule)
        assert (found.mean_pct, found.max_pct) == pytest.approx(regret(cutoff)), rule
    assert judged.of("sglang-128k").mean_us == pytest.approx((2.05 + 0.24) / 5)


def test_on_published_rows_no_rule_beats_the_recommended_one_beyond_noise(judged):
    assert judged.passed
    assert judged.accuracy.n == 49
    assert judged.accuracy.median_ape < 3
    assert judged.choice.agree_outside_tie == 1.0
    assert not [r.rule for r in judged.regret if r.better]
    lowest = min(r.mean_pct for r in judged.regret)
    assert judged.of("recommended").mean_pct - lowest < 0.5
    # Over the workload the model finds no better rule either.
    best = min(judged.regret, key=lambda r: r.modelled_pct.value)
    assert judged.of("recommended").modelled_pct.value <= best.modelled_pct.value + 0.01


def test_regret_over_the_workload_weighs_world_sizes_as_the_pairs_do(gfx950):
    shapes = [(4, 8), (4, 32), (4, 64), (8, 8)]
    judged = validate(
        table(
            *(
                a_row(world_size=n, tokens=t, algorithm=arm, latency_us=9.5 + t / 8 + n)
                for n, t in shapes
                for arm in ALGORITHMS
            )
        ),
        gfx950,
    )
    (advice,) = judged.advice
    four, eight = advice.decision.cutoffs
    for rule, use in (("always-1stage", True), ("always-2stage", False)):
        found = judged.of(rule)
        for over, of in ((found.modelled_pct, "regret_pct"), (found.modelled_us, "regret_us")):
            each = [getattr(c.arms, of)(np.full(c.arms.weight.size, use)) for c in (four, eight)]
            drawn = 0.75 * each[0] + 0.25 * each[1]
            assert over.value == pytest.approx(drawn.mean())
            assert over.hi == pytest.approx(np.quantile(drawn, 0.95))


def test_separate_ops_are_a_third_choice_where_they_were_measured(judged):
    """vLLM #54787: fused against separate ops at seven sizes; fused wins only the smallest."""
    three = judged.three_way
    assert three.choice.pairs == three.fused.pairs == 7
    assert three.choice.mean_pct <= 0.5
    assert three.fused.mean_pct == pytest.approx(3.79, abs=0.05)
    assert judged.to_dict()["regret"][-1]["rule"] == "three-way"


def test_separate_ops_are_judged_by_the_advice_for_their_own_dtype(gfx950):
    """Each call once, though both dtypes are at 4 ranks."""
    rows = [
        a_row(tokens=t, dtype=dtype, op=op, algorithm=arm, latency_us=us + t / 8)
        for dtype in ("bf16", "fp16")
        for t in (8, 16, 32)
        for op, arm, us in (
            (FUSED, "1stage", 9.5),
            (FUSED, "2stage", 11.0),
            (SEPARATE, "1stage", 12.0),
        )
    ]
    judged = validate(table(*rows), gfx950)
    assert len(judged.advice) == 2
    assert judged.choice.pairs == judged.three_way.choice.pairs == 6


def test_a_rule_that_measures_better_fails_the_recommended_one(gfx950):
    # 1-stage 40 % slower than the model thinks: the recommended cutoff is far too high.
    found = validate(synthetic(gfx950, factor=(1.4, 1.0)), gfx950, workload=WORKLOAD)
    assert not found.passed
    assert found.of(found.judged_against).better
    assert any("is worse than" in f for f in found.failures)
    assert any("mean regret is" in f for f in found.failures)
    assert any("outside the tie band" in f for f in found.failures)
    worse = found.of("recommended")
    assert worse.max_pct > 10


@pytest.mark.parametrize(("points", "better"), [(0.03, False), (0.09, False), (0.1, True)])
def test_what_does_not_matter_is_no_failure_however_many_rows_prove_it(points, better):
    """Below 0.1 points of mean regret no rule takes the recommended one's place."""
    million = RuleRegret(
        "rival", "shipped", 10**6, 0, 0, 0, 0, behind=Estimate(points, points, points),
        noise_pct=1e-4, differ=10**5,
    )  # fmt: skip
    assert million.separable
    assert million.better is better


def test_limits_decide(gfx950):
    rows = synthetic(gfx950, offset_us=2.0)
    assert validate(rows, gfx950, workload=WORKLOAD).passed
    strict = validate(rows, gfx950, workload=WORKLOAD, limits=ValidationLimits(median_ape=0.1))
    assert not strict.passed
    assert strict.failures[0].startswith("the model's median error is")
    wide = validate(rows, gfx950, workload=WORKLOAD, limits=ValidationLimits(tie=1000.0))
    assert (wide.choice.outside_tie, wide.choice.agree_outside_tie) == (0, None)
    assert wide.to_dict()["choice"]["agree_outside_tie"] is None


def test_shapes_far_from_every_cutoff_cannot_separate_rules(gfx950):
    found = validate(synthetic(gfx950, tokens=[1, 2, 600]), gfx950, workload=WORKLOAD)
    rule = found.of("aiter-per-rank")
    assert (rule.differ, rule.separable) == (0, False)
    assert rule.behind.value == 0
    assert found.of("always-1stage").separable


def test_against_judges_one_more_rule_and_takes_the_verdict(gfx950):
    rows = synthetic(gfx950)
    rule = Rule.from_cutoffs("recommended", {4: 1024})
    found = validate(rows, gfx950, workload=WORKLOAD, against=rule)
    assert found.judged_against == "given"
    assert found.of("given").mean_pct > found.of("recommended").mean_pct
    known = validate(rows, gfx950, workload=WORKLOAD, against=named("vllm-57886"))
    assert known.judged_against == "vllm-57886"
    assert [r.rule for r in known.regret].count("vllm-57886") == 1
    silent = Rule.from_cutoffs("silent", {8: 1024})
    with pytest.raises(InputError, match=r"rule silent: .*no claim for TP4"):
        validate(rows, gfx950, workload=WORKLOAD, against=silent)


def test_without_a_claim_the_fallback_decides_and_is_named(gfx950):
    doubt = (Refusal("MI355X", 4, "rows contradict each other"),)
    refused = gfx950.but(calibration=replace(gfx950.calibration, refusals=doubt))
    rows = synthetic(gfx950)
    found = validate(rows, refused, workload=WORKLOAD)
    (advice,) = found.advice
    assert (advice.filled, advice.fallback) == ((4,), "aiter-per-rank")
    assert found.of("recommended").mean_pct == found.of("aiter-per-rank").mean_pct
    other = validate(rows, refused, workload=WORKLOAD, fallback=ALWAYS_1STAGE)
    assert other.of("recommended").mean_pct == other.of("always-1stage").mean_pct


def test_the_librarys_own_choice_is_judged_by_its_own_latency(gfx950):
    rows = table(
        a_row(latency_us=8.0), a_row(algorithm="2stage", latency_us=10.0),
        a_row(algorithm="auto", latency_us=10.4),
    )  # fmt: skip
    found = validate(rows, gfx950, workload=WORKLOAD).of("auto, as measured")
    assert (found.pairs, found.mean_pct) == (1, pytest.approx(30.0))


def test_repeats_narrow_the_noise(gfx950):
    once = synthetic(gfx950, seed=1)
    rows = [r for seed in range(9) for r in synthetic(gfx950, seed=seed).to_rows()]
    often = validate(Measurements.from_rows(rows), gfx950, workload=WORKLOAD)
    single = validate(once, gfx950, workload=WORKLOAD)
    assert often.choice.pairs == single.choice.pairs
    ratio = single.of("always-2stage").noise_pct / often.of("always-2stage").noise_pct
    assert ratio == pytest.approx(3.0, rel=0.15)


def test_rows_without_pairs_are_refused_unless_the_model_alone_is_asked_for(published):
    gfx942 = Setting.shipped("MI300X")
    with pytest.raises(
        InputError,
        match=r"no call of any op was measured with both algorithms .* \d+ rows are set aside: "
        r"\d+ kernel family not modelled, \d+ ",
    ):
        validate(published, gfx942)
    found = validate(published, gfx942, need_pairs=False)
    assert (found.choice.pairs, found.choice.outside_tie, found.regret) == (0, 0, ())
    assert found.passed
    table, algorithm = found.rows.observations.table, found.rows.observations.algorithm
    for op, mine in ((None, table.op != SEPARATE), (FUSED, table.op == FUSED)):
        with pytest.raises(InputError) as error:
            validate(published, gfx942, op=op)
        one, two = (int((mine & (algorithm == a)).sum()) for a in ALGORITHMS)
        assert f"({one} 1stage and {two} 2stage rows, none alike" in str(error.value)
    assert 0 < (table.op == FUSED).sum() < (table.op != SEPARATE).sum()
    assert found.to_dict()["choice"] == {"pairs": 0, "agree": None, "agree_outside_tie": None}


def test_nothing_left_is_refused_with_the_reasons(gfx950):
    with pytest.raises(InputError, match=r"no row can be used: 1 read, all set aside \(1 another"):
        validate(table(a_row(gpu="MI300X", arch="gfx942")), gfx950)


def test_a_held_out_source_is_new_to_the_calibration(published):
    without = Setting(hold_out(published, ("aiter-3458-mi355x",), "gfx950"), "MI355X")
    rows = published.select(published.source == "aiter-3458-mi355x")
    found = validate(rows, without, workload=WORKLOAD)
    assert found.own_sources == ()
    assert found.accuracy.known == 0
    assert found.choice.agree_outside_tie == 1.0
    assert found.passed
    with pytest.raises(InputError, match="did you mean aiter-3458-mi355x"):
        hold_out(published, ("aiter-3458-mi355",), "gfx950")


# Command


def test_rows_of_other_gpus_are_refused_with_why(gfx950, published):
    others = published.select(published.arch != "gfx950")
    with pytest.raises(InputError, match=r"no row can be used: \d+ read.*give rows of MI350X"):
        compare(gfx950.calibration, covered(gfx950.calibration, others))


def compared(gfx950):
    """Three calls, each arm twice: 10 against 20 us, 20 against 10, 30 against 33."""
    arms = {8: (10.0, 20.0), 16: (20.0, 10.0), 32: (30.0, 33.0)}
    found = table(
        *(
            a_row(tokens=tokens, algorithm=algorithm, latency_us=us * factor)
            for tokens, both in arms.items()
            for algorithm, us in zip(("1stage", "2stage"), both, strict=True)
            for factor in (0.99, 1.01)
        )
    )
    rows = compare(gfx950.calibration, covered(gfx950.calibration, found))
    return rows, pair(rows.observations.table, FUSED)


def test_a_rule_s_regret_and_its_noise_in_closed_form(gfx950):
    rows, pairs = compared(gfx950)
    rows = replace(rows, noise=np.full(rows.noise.size, 0.1))
    ours = pairs.one_us < pairs.two_us
    best, one, two = judge(pairs, ours, [ALWAYS_1STAGE, ALWAYS_2STAGE], rows, kernel.LATEST)
    assert (best.mean_pct, best.max_us, best.differ, best.noise_pct) == (0, 0, 0, 0)
    # 1-stage loses 100 % and 10 us on one call of three.
    assert (one.mean_pct, one.max_pct) == pytest.approx((100 / 3, 100))
    assert (one.mean_us, one.max_us) == pytest.approx((10 / 3, 10))
    assert one.behind.value == pytest.approx(-100 / 3)
    # Two arms of 10 % noise, each measured twice: sqrt(2 x 10^2 / 2) = 10 points on each call.
    assert (one.differ, one.noise_pct) == (1, pytest.approx(10 / 3))
    assert (two.differ, two.noise_pct) == (2, pytest.approx(10 * 2**0.5 / 3))
    assert two.mean_pct == pytest.approx((100 + 10) / 3)


def test_ties_are_calls_whose_arms_differ_by_no_more_than_the_band(gfx950):
    _, pairs = compared(gfx950)
    assert sorted(pairs.gap_pct) == pytest.approx([10, 100, 100])
    found = agreement(pairs, np.ones(3, np.bool_), 15.0)
    assert (found.outside_tie, found.agree_outside_tie) == (2, 0.5)
    assert agreement(pairs, np.ones(3, np.bool_), 5.0).outside_tie == 3


def test_errors_are_shares_of_what_was_measured(gfx950):
    rows, _ = compared(gfx950)
    measured = rows.observations.latency_us
    off = np.full(measured.size, 1.1)
    off[0] = 0.5
    found = replace(rows, predicted_us=measured * off).accuracy()
    assert (found.median_ape, found.max_ape) == pytest.approx((10, 50))
    residual = measured * (1 - off)
    shift = offsets_without_row(residual, 1 / measured, rows.observations.harness)
    moved = 100 * np.abs(shift - residual) / measured
    ends = found.median_ape_offset, found.p90_ape_offset, found.max_ape_offset
    assert ends == pytest.approx((np.median(moved), np.percentile(moved, 90), moved.max()))


@pytest.mark.parametrize("at_once", [1, 5])
def test_rows_are_judged_the_same_however_many_are_drawn_at_once(
    gfx950, published, at_once, monkeypatch
):
    rows = covered(gfx950.calibration, published)
    expected = compare(gfx950.calibration, rows)
    assert len(rows) > 8 * at_once
    monkeypatch.setattr("costmodel.decide.row_errors.BLOCK", at_once)
    found = compare(gfx950.calibration, rows)
    np.testing.assert_allclose(found.predicted_us, expected.predicted_us)
    assert found.inside.tolist() == expected.inside.tolist()


def test_every_row_is_drawn_by_the_bootstrap_as_often():
    found = bootstrap_means(np.eye(3))
    assert found.sum(axis=1) == pytest.approx(1)
    assert found.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.02)


def test_a_choice_that_misses_its_limit_is_told_in_percent(gfx950):
    rows = synthetic(gfx950, offset_us=2.0)
    found = validate(rows, gfx950, workload=WORKLOAD, limits=ValidationLimits(agree=1.01))
    (said,) = found.failures
    assert "takes the faster algorithm on" in said
    assert said.endswith("outside the tie band, less than 101 %")
