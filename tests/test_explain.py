"""``costmodel explain``: the numbers of one decision, and refusals, through real processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import costmodel

from costmodel.calibration.posterior import shipped
from costmodel.data import kernels as kernel
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.explanation import choices, explain
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.decide.sensitivity import flips
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.shape import ALGORITHMS, ONE_STAGE, TWO_STAGE
from costmodel.rules import catalogue
from costmodel.show import explanation
from costmodel.show.words import arm as spoken

KEYS = [
    "schema", "arch", "gpu", "op", "dtype", "aiter_version", "kernel", "calibration", "otherwise",
    "objective", "world_size",
    "hidden_dim", "verdict", "cutoff", "tokens", "bytes", "choice", "alone", "probability",
    "decided", "reason", "margin_us", "margin_pct", "arms", "separate", "pushed",
    "rules", "flips",
]  # fmt: skip


def run(*args):
    return costmodel("explain", *args)


def refused(*args):
    done = run(*args)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("costmodel: error: ")
    return lines[0]


@pytest.fixture(scope="module")
def mi300x():
    return Setting.shipped("MI300X")


@pytest.fixture(scope="module")
def near():
    """Return the last captured batch that runs 1-stage, close to where the arms cross."""
    mi355x = Setting.shipped("MI355X")
    ((_, tokens, _),) = recommend(mi355x, Workload.of([2880]), world_sizes=(8,)).at(8).switch
    return explain(mi355x, mi355x.shapes(tokens, 2880, 8), Workload.of([2880]))


def test_json_has_exactly_the_documented_keys_and_adds_up():
    done = run(
        "--arch", "gfx942", "--tp", 8, "--hidden", 2880, "--tokens", 32, "--format", "json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == KEYS
    assert found["schema"] == "costmodel/explain/2"
    assert (found["gpu"], found["bytes"]) == ("MI300X", 32 * 2880 * 2)
    for arm in found["arms"].values():
        terms = sum(t["value"] for t in arm["terms"].values())
        assert terms == pytest.approx(arm["latency_us"])
        assert arm["latency_us_lo"] < arm["latency_us"] < arm["latency_us_hi"]
        assert arm["evidence"] == "transferred"
    margin = found["arms"]["2stage"]["latency_us"] - found["arms"]["1stage"]["latency_us"]
    assert found["margin_us"]["value"] == pytest.approx(margin)
    assert found["margin_us"]["lo"] < 0 < found["margin_us"]["hi"]
    assert not found["decided"]
    assert {"what", "at", "choice"} <= set(found["flips"][0])


def test_text_says_who_wins_by_how_much_and_what_would_flip_it(near):
    asked = ("--gpu", "MI355X", "--tp", 8, "--hidden", 2880, "--tokens", near.tokens)
    done = run(*asked, "--verbose")
    assert done.returncode == 0, done.stderr
    short = run(*asked).stdout.splitlines()
    # The answer stands in the first three lines, whether or not the rest follows.
    assert short[:3] == done.stdout.splitlines()[:3]
    assert " is faster by " in short[0]
    assert short[1].startswith("Run ")
    assert f"{near.tokens} tokens x hidden 2880" in short[2]
    assert len(short) <= 15
    # Percentages have the benchmark's own time in them, so it is said, with the waterfall too.
    harness = near.arms[ONE_STAGE].terms["harness"].value
    assert harness > 0.1
    for said in (short, done.stdout.splitlines()):
        (line,) = [line for line in said if "as the benchmark of " in line]
        assert line.endswith(f"measures (harness: {harness:.2f} us of each)")
    bars = {line.split()[0]: line.split() for line in short if line.endswith("#")}
    for algorithm, part in near.arms.items():
        if algorithm in ALGORITHMS:
            assert bars[spoken(algorithm)][1] == f"{part.latency_us.value:.2f}"
    longest = max(len(b[-1]) for b in bars.values())
    slowest = max(near.arms.values(), key=lambda part: part.latency_us.value)
    assert len(bars[spoken(slowest.name)][-1]) == longest
    text, margin = done.stdout, near.margin_us.value
    fast = "1-stage" if margin > 0 else "2-stage"
    assert f"{fast} is faster by {abs(margin):.2f} us (90 %: " in text
    assert "not decided at 90 %" in text
    (flip,) = near.token_flips
    assert f"2-stage from {flip.tokens} (captured batch sizes, " in text
    assert "link_read" in text
    disagree = {line.split()[0] for line in text.splitlines() if line.endswith("NO")}
    assert disagree >= {o.rule.name for o in near.opinions if o.choice == "2stage"}
    assert "always-2stage" in disagree
    assert "always-1stage" not in disagree


def test_arms_are_those_of_predict(near):
    for algorithm in ALGORITHMS:
        modelled = predict(near.setting, near.call, algorithm)
        latency = near.arms[algorithm].latency_us
        assert (latency.value, latency.lo, latency.hi) == (
            modelled.latency_us[0], modelled.lo_us[0], modelled.hi_us[0],
        )  # fmt: skip
        arm = near.arms[algorithm]
        for name, term in arm.terms.items():
            point = modelled.terms[name][0] if name in modelled.terms else 0.0
            assert term.value == pytest.approx(point)


def test_probability_is_the_share_of_the_posterior(near):
    s = near.setting
    one, two = (s.latency_us(near.call, a, s.draws)[:, 0] for a in ALGORITHMS)
    margin = two - one
    assert near.choice == ONE_STAGE
    assert near.probability == pytest.approx(float(np.mean(margin > 0)))
    inside = (margin >= near.margin_us.lo) & (margin <= near.margin_us.hi)
    assert 0.88 <= inside.mean() <= 0.92


def test_a_clear_call_is_decided_both_ways():
    setting = Setting.shipped("MI355X")
    small, large = (explain(setting, setting.shapes(t, 7168, 4)) for t in (1, 256))
    assert (small.choice, large.choice) == (ONE_STAGE, TWO_STAGE)
    assert small.decided
    assert large.decided
    assert small.margin_us.lo > 0 > large.margin_us.hi
    assert small.arms["1stage"].evidence == "measured_elsewhere"


@pytest.mark.parametrize(("n", "hidden_dim"), [(2, 7168), (4, 1024)])
def test_a_guard_that_keeps_1stage_from_a_call_is_named(n, hidden_dim):
    """2-stage below the cutoff is the engine's doing, and that 1-stage is faster is known."""
    free = Setting.shipped("MI355X")
    call = free.shapes(100, hidden_dim, n)
    assert explain(free, call).choice == ONE_STAGE
    assert "keeps" not in explanation.brief(explain(free, call))
    found = explain(free.but(engine="vllm"), call)
    assert found.choice == TWO_STAGE
    assert found.probability < 0.1
    assert found.decided
    for said in (explanation.brief(found), explanation.text(found)):
        assert (
            f"Run 2-stage: vLLM keeps 1-stage to tokens <= 80 (recommended at TP{n}: 1-stage"
            in said
        )
        assert "2-stage is the faster one with" in said
        assert "not decided" not in said
    # Above the cutoff no guard is needed.
    beyond = explain(free.but(engine="vllm"), free.shapes(400, 7168, 4))
    assert beyond.choice == TWO_STAGE
    assert not beyond.unmet_guards
    every = explanation.choices_text(choices(free.but(engine="vllm"), hidden_dim, n))
    assert "the rule keeps vLLM's guards, which cost" in every


def test_rules_say_what_they_run(near):
    for opinion in near.opinions:
        rule = opinion.rule
        if rule.name == "recommended":
            assert opinion.sizes == f"<= {near.cutoff.max_bytes // 1024} KiB"
        use = rule.use_1stage(near.call, kernel_version=kernel.LATEST)[0]
        assert opinion.choice == (ONE_STAGE if use else rule.otherwise)
    names = [o.rule.name for o in near.opinions]
    for engine in catalogue.ENGINES:
        assert catalogue.current(engine).name in names
    assert not any(o.rule.fabric == "nvlink" for o in near.opinions)


def test_token_flips_are_where_the_choice_changes(near):
    every = choices(near.setting, 2880, 8, Workload.of([2880]))
    tokens = every.calls.tokens
    assert tokens.tolist() == captured_batch_sizes().tolist()
    by_tokens = dict(zip(tokens.tolist(), every.choice.tolist(), strict=True))
    assert by_tokens[near.tokens] == near.choice
    (flip,) = near.token_flips
    assert by_tokens[flip.tokens] == flip.choice != near.choice
    before = tokens[(tokens >= near.tokens) & (tokens < flip.tokens)]
    assert {by_tokens[t] for t in before.tolist()} == {near.choice}
    cutoff = near.cutoff
    assert cutoff.max_bytes_lo <= cutoff.max_bytes <= cutoff.max_bytes_hi
    assert near.tokens * 5760 <= cutoff.max_bytes < flip.tokens * 5760


def test_the_choice_is_the_rule_s_and_alone_what_the_call_would_choose(mi300x):
    """Between the model's own cutoff and the rule's, the two may differ; both are said."""
    decision = recommend(mi300x, world_sizes=(8,))
    every = choices(mi300x, 2880, 8, decision=decision)
    runs = decision.rule.use_1stage(every.calls, kernel_version=kernel.LATEST)
    assert every.choice.tolist() == np.where(runs, ONE_STAGE, TWO_STAGE).tolist()
    for tokens in (1, 24, 32, 40, 48, 512):
        call = mi300x.shapes(tokens, 2880, 8)
        found = explain(mi300x, call)
        one, two = (mi300x.latency_us(call, a, mi300x.draws) for a in ALGORITHMS)
        spared = (two - one) / np.minimum(one, two)
        assert found.alone == (ONE_STAGE if spared.mean() > 0 else TWO_STAGE)
        assert found.choice == every.choice[every.calls.tokens == tokens][0]


def test_a_workload_moves_the_rule_and_with_it_the_choice(mi300x):
    """Weighed on hidden 8192 alone, the cutoff at 8 ranks is another than for all models."""
    load = Workload.of([8192])
    found = explain(mi300x, mi300x.shapes(8, 8192, 8), load)
    mine = recommend(mi300x, load, world_sizes=(8,)).at(8)
    assert found.cutoff.max_bytes == mine.max_bytes
    assert found.cutoff.max_bytes_hi == mine.max_bytes_hi


def test_without_a_workload_the_call_s_hidden_size_is_weighed_as_the_command_weighs_it():
    """Where hidden 3072 alone and all hidden sizes decide a call otherwise, one answer is given."""
    mi355x = Setting.shipped("MI355X")
    call = mi355x.shapes(64, 3072, 4)
    found, every = explain(mi355x, call), choices(mi355x, 3072, 4)
    done = run("--gpu", "MI355X", "--tp", 4, "--hidden", 3072, "--tokens", 64, "--format", "json")
    printed = json.loads(done.stdout)
    assert found.choice == printed["choice"] == every.choice[every.calls.tokens == 64][0]
    assert found.cutoff.max_bytes == every.decision.at(4).max_bytes == printed["cutoff"]["bytes"]
    whole = recommend(mi355x, world_sizes=(4,))
    assert found.cutoff.max_bytes != whole.at(4).max_bytes
    assert explain(mi355x, call, whole.workload).choice != found.choice


@pytest.mark.parametrize(
    ("served", "steps"),
    [
        ("--captured 1,2,4,8,16", [1, 2, 4, 8, 16]),
        ("--captured 1:1024:341", [1, 342, 683, 1024]),
        ("--captured 1,2,64 --draft-tokens 3", [4, 8, 256]),
    ],
)
def test_how_the_model_is_served_is_weighed_as_in_recommend(served, steps):
    call = ["--gpu", "MI355X", "--tp", "4", "--hidden", "2880", *served.split()]

    def json_of(command, *more):
        return json.loads(costmodel(command, *call, *more, "--format", "json").stdout)

    (said,) = json_of("recommend")["cutoffs"]
    held = json_of("explain", "--tokens", "64")["cutoff"]
    ends = ("bytes", "bytes_lo", "bytes_hi")
    assert [held[end] for end in ends] == [said[f"max_{end}"] for end in ends]
    assert [c["tokens"] for c in json_of("explain", "--all")["calls"]] == steps


def test_a_call_beyond_a_kernel_s_limit_is_held_against_the_same_cutoff():
    """AITER 0.1.12's kernels take 80 tokens; the cutoff is that of recommend for hidden 2880."""
    asked = ("--gpu", "MI355X", "--tp", "4", "--hidden", "2880", "--aiter-version", "0.1.12.post1")
    done = costmodel("recommend", *asked, "--format", "json")
    (weighed,) = json.loads(done.stdout)["cutoffs"]
    for tokens in (80, 100):
        found = json.loads(run(*asked, "--tokens", tokens, "--format", "json").stdout)
        assert found["cutoff"]["bytes"] == weighed["max_bytes"]


def test_all_marks_what_the_rules_do_otherwise():
    done = run("--gpu", "MI355X", "--tp", 4, "--model", "gpt-oss-120b", "--all")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    row = next(line for line in lines if line.split()[:1] == ["24"] and "tokens" not in line)
    assert "1-stage" in row
    assert "2*" in row
    done = run(
        "--gpu", "MI355X", "--tp", 4, "--model", "gpt-oss-120b", "--all", "--format", "json"
    )  # fmt: skip
    calls = json.loads(done.stdout)["calls"]
    assert [c["tokens"] for c in calls] == captured_batch_sizes().tolist()
    choices = [c["choice"] for c in calls]
    assert choices == sorted(choices)
    for c in calls:
        sglang = c["rules"]["sglang-128k"]
        assert sglang == ("1stage" if c["bytes"] <= 131072 else "2stage")


def test_a_call_that_one_kernel_rejects_has_no_margin(mi300x):
    found = explain(mi300x, mi300x.shapes(8, 8224, 4))
    assert found.choice == TWO_STAGE
    assert found.margin_us is None
    assert list(found.arms) == [TWO_STAGE]
    assert "the 1-stage kernel rejects the call" in found.reason
    record = found.to_dict()
    assert record["margin_us"] is None
    assert record["flips"] == []
    every = choices(mi300x, 8224, 4)
    assert set(every.choice.tolist()) == {TWO_STAGE}
    assert np.isnan(every.margin_us).all()
    json.dumps(every.to_dict(), allow_nan=False)
    with pytest.raises(InputError, match="no kernel of AITER"):
        explain(mi300x, mi300x.shapes(8, 2881, 4))


def test_bad_input_is_one_line():
    good = ["--arch", "gfx942", "--tp", 8, "--hidden", 2880, "--tokens", 32]
    assert "2, 4 or 8" in refused(*good[:2], "--tp", 3, *good[4:])
    assert "--tokens for one call or --all" in refused(*good, "--all")
    assert "one hidden size" in refused(*good[:4], "--hidden", "2880,4096", "--tokens", 32)
    assert "unknown GPU" in refused("--gpu", "MI400X", *good[2:])
    assert "no kernel" in refused(*good[:4], "--hidden", 2881, "--tokens", 32)
    assert "separate ops stand beside" in refused(*good, "--op", "separate")


@pytest.mark.parametrize(
    ("gpu", "tokens", "hidden", "n"),
    [("MI355X", 24, 2880, 8), ("MI355X", 32, 7168, 4), ("MI300X", 16, 7168, 4)],  # the last: twice
)
def test_where_one_parameter_turns_a_call_its_arms_meet(gpu, tokens, hidden, n):
    setting = Setting.shipped(gpu)
    call = setting.shapes([tokens], hidden, n)

    def margin(name, values):
        changed = {k: np.full((len(values), 1), v) for k, v in setting.point.items()}
        changed[name] = np.asarray(values, float)[:, None]
        one, two = (setting.latency_us(call, a, changed)[:, 0] for a in ALGORITHMS)
        return two - one

    found = flips(setting, call)
    assert len(found) > 4
    for flip in found:
        assert flip.now == setting.point[flip.name]
        step = 2e-3 * (flip.at - flip.now)
        before, at, after = margin(flip.name, [flip.at - step, flip.at, flip.at + step])
        assert before * after < 0, flip
        assert abs(at) < 0.01, flip
        # It is the nearest: on the way there the same arm stays the faster one.
        way = margin(flip.name, np.linspace(flip.now, flip.at - step, 200))
        assert np.unique(np.sign(way)).size == 1, flip


@pytest.mark.parametrize(("arch", "gpu"), [("gfx950", "MI355X"), ("sm_90", "H200")])
def test_what_8_ranks_take_more_is_no_part_of_a_call_of_4(arch, gpu):
    setting = Setting(shipped(arch), gpu)
    for n in (4, 8):
        call = setting.shapes([8], 7168, n)
        assert ("eight_ranks" in setting.terms(call, TWO_STAGE)) == (n == 8)
        assert "eight_ranks" not in setting.terms(call, ONE_STAGE)


def test_the_margin_in_percent_is_above_the_faster_arm(near):
    one, two = (float(near.setting.latency_us(near.call, a)[0]) for a in ALGORITHMS)
    assert near.margin_pct == pytest.approx(100 * (max(one, two) - min(one, two)) / min(one, two))


def test_a_time_of_one_arm_turns_a_call_by_just_its_lead():
    """Us for us; what only differs from another time may be less than nothing."""
    name, setting = "eight_rank_us[fused]", Setting(shipped("sm_90"), "H200")
    call = setting.shapes([1], 1024, 8)
    one, two = (float(setting.latency_us(call, a)[0]) for a in ALGORITHMS)
    now = setting.point[name]
    assert now - (two - one) < 0 < two - one < 10
    (flip,) = flips(setting, call, names=[name])
    assert flip.at == pytest.approx(now - (two - one), abs=0.02)


def test_choices_hold_the_ends_of_the_margin_and_say_how_many_run_1stage(near):
    some = choices(near.setting, 2880, 8, Workload.of([2880]), tokens=[1, 24, 48, 512])
    one, two = (near.setting.latency_us(some.calls, a, near.setting.draws) for a in ALGORITHMS)
    lo, hi = np.quantile(two - one, [0.05, 0.95], axis=0)
    assert some.margin_lo_us == pytest.approx(lo)
    assert some.margin_hi_us == pytest.approx(hi)
    ones = some.choice.tolist().count(ONE_STAGE)
    assert 0 < ones < 4
    assert repr(some) == f"Choices(4 captured batch sizes, {ones} on 1-stage)"


@pytest.mark.parametrize("how", [("--tokens", 32), ("--all",)])
def test_a_model_without_the_call_is_said_first_and_decides_as_recommend_does(how):
    asked = ("--arch", "gfx950", "--tp", 4, "--model", "mixtral-8x22b", "--for", "sglang")
    done = run(*asked, *how)
    assert done.returncode == 0, done.stderr
    said, empty, *answer = done.stdout.splitlines()
    assert said.startswith("mixtral-8x22b makes no fused call in SGLang, so no rule ")
    assert not empty
    assert answer
    # A model that makes the call is said nothing of.
    other = run(*asked[:5], "gpt-oss-120b", *asked[6:], *how)
    assert "fused call" not in other.stdout
    if how == ("--all",):
        return
    # As in recommend it weighs nothing, so the rule is that for known models.
    told = json.loads(run(*asked, *how, "--format", "json").stdout)["cutoff"]
    found = recommend(Setting.shipped("MI355X", engine="sglang"), world_sizes=(4,)).at(4)
    assert (told["bytes"], told["bytes_lo"], told["bytes_hi"]) == (
        found.max_bytes, found.max_bytes_lo, found.max_bytes_hi,
    )  # fmt: skip
