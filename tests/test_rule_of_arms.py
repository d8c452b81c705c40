"""A rule of all arms as data: closed forms at its ends, what kernels take, its file, its regret."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import costmodel
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.data import kernels
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.decide.three_way import _AllArms
from costmodel.errors import InputError
from costmodel.files import json_text
from costmodel.model.eligibility import eligible
from costmodel.model.shape import ALGORITHMS, ALL_REDUCE, BESIDE, FUSED, OPS, WORLD_SIZES, Shapes
from costmodel.rules.adapt import validity
from costmodel.rules.algebra import Bytes
from costmodel.rules.arms import ArmCase, RuleOfArms, load
from costmodel.rules.condition import Always, Calls, Compare, MultipleOf, WholeParts
from costmodel.units import KIB

TAKES = dict.fromkeys(("1stage", "2stage", "separate"), Always())


def of(windows, takes=TAKES, **about):
    return RuleOfArms.of_windows("mine", windows, takes, **about)


def own_takes(setting):
    """What each arm's kernel takes, as a decision has it."""
    return {arm: validity(*setting.run_by(arm)) for arm in (*ALGORITHMS, *BESIDE[setting.op])}


@pytest.fixture(scope="module")
def decisions():
    asked = [
        (Setting.shipped("MI355X"), WORLD_SIZES),
        (Setting.shipped("MI300X", otherwise="separate"), (4, 8)),
        (Setting.shipped("MI308X", op="plain"), (2, 4)),
    ]
    return [recommend(setting, world_sizes=n) for setting, n in asked]


def test_each_window_ends_with_its_bytes_to_the_element():
    rule = of({
        4: [("1stage", 128 * KIB), ("2stage", 512 * KIB), ("separate", None)],
        8: [("separate", 64 * KIB), ("1stage", 64 * KIB + 2), ("separate", None)],
    })  # fmt: skip
    # A row of one element of 2 bytes: every even size is a call.
    for ranks, size, arm in [
        (4, 2, "1stage"), (4, 128 * KIB, "1stage"), (4, 128 * KIB + 2, "2stage"),
        (4, 512 * KIB, "2stage"), (4, 512 * KIB + 2, "separate"), (4, 1 << 30, "separate"),
        (8, 64 * KIB, "separate"), (8, 64 * KIB + 2, "1stage"), (8, 64 * KIB + 4, "separate"),
    ]:  # fmt: skip
        assert rule.arm(Shapes.of(size // 2, 1, ranks)) == arm, (ranks, size)
    assert rule.windows(4) == (("1stage", 131072), ("2stage", 524288), ("separate", None))
    both = rule.arm(Shapes.of(32768, 1, [[4], [8]]))
    assert both.tolist() == [["1stage"], ["separate"]]
    assert rule.words() == (
        "TP4 1-stage <= 128 KiB, 2-stage <= 512 KiB, separate ops above; "
        "TP8 separate ops <= 64 KiB, 1-stage <= 65538 B, separate ops above"
    )
    assert of({2: [("1stage", None)]}).words() == "TP2 1-stage always"


def test_an_exclusive_limit_ends_below_its_bytes():
    cases = (ArmCase("1stage", Compare("bytes", "<", 1024)), ArmCase("2stage", Always()))
    rule = RuleOfArms("mine", ((4, cases),))
    assert rule.windows(4)[0] == ("1stage", 1023)
    assert rule.arm(Shapes.of([511, 512], 1, 4)).tolist() == ["1stage", "2stage"]


def test_a_call_that_its_arm_does_not_take_goes_to_the_next_larger_window_then_back():
    takes = {
        "1stage": Compare("hidden_dim", "<=", 8192), "2stage": Compare("hidden_dim", ">=", 512),
        "separate": Compare("tokens", "<=", 64),
    }  # fmt: skip
    rule = of({8: [("1stage", 1 << 20), ("separate", None)]}, takes)
    assert rule.arm(Shapes.of(8, 7168, 8)) == "1stage"
    assert rule.arm(Shapes.of(8, 16384, 8)) == "separate"
    # 2 MiB: separate ops take no 128 tokens, the smaller window's arm does.
    assert rule.arm(Shapes.of(128, 8192, 8)) == "1stage"
    # Neither window's arm: the arm without a window.
    assert rule.arm(Shapes.of(128, 16384, 8)) == "2stage"
    with pytest.raises(InputError, match="no arm takes 128 tokens x hidden 9000"):
        of({8: [("1stage", None)]}, {"1stage": takes["1stage"]}).arm(Shapes.of(128, 9000, 8))


def test_a_condition_may_be_of_its_world_size_alone():
    cases = (ArmCase("1stage", Bytes.of({4: 1024})), ArmCase("2stage", Always()))
    rule = RuleOfArms("mine", ((4, cases), (8, cases[1:])))
    assert rule.arm(Shapes.of(1, 512, [4, 8])).tolist() == ["1stage", "2stage"]


def test_no_claim_is_no_answer():
    rule = of({4: [("1stage", None)]})
    with pytest.raises(InputError, match="makes no claim for TP8"):
        rule.arm(Shapes.of(1, 512, [4, 8]))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: of({4: [("seperate", None)]}, {"seperate": Always()}),
         "unknown arm 'seperate' of fused_ar_rmsnorm.*did you mean separate"),
        (lambda: of({4: [("ll", None)]}, {"ll": Always()}), "unknown arm 'll' of fused"),
        (lambda: of({4: [("1stage", 2048), ("2stage", 1024), ("1stage", None)]}),
         "TP4: a case up to 1 KiB behind one up to 2 KiB never runs"),
        (lambda: of({3: [("1stage", None)]}), "world size 3"),
        (lambda: of({4: []}, {}), "no cases for world size 4"),
        (lambda: of({4: [("1stage", None)]}, op="fused_ar_mhc"), "no arms beside its two"),
        (lambda: of({4: [("1stage", None)]}, dtype="fp7"), "dtype"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


every_kernel = st.sampled_from(
    [kernels.aiter(v) for v in ("0.1.7", "0.1.10", "0.1.10.post2", "0.1.12", "0.1.16", "0.1.20")]
    + [kernels.at_date(f, "2026-09-01") for f in kernels.families() if f != "aiter"]
)
calls_of_any_kind = st.builds(
    lambda tokens, hidden, ranks, dtype, op: Shapes.of(tokens, hidden, ranks, dtype=dtype, op=op),
    st.integers(1, 20_000),
    st.one_of(st.integers(1, 40_000), st.sampled_from([512, 1024, 2880, 2888, 4096, 7168, 8192])),
    st.sampled_from(WORLD_SIZES), st.sampled_from(["bf16", "fp16", "fp32"]), st.sampled_from(OPS),
)  # fmt: skip


@given(every_kernel, calls_of_any_kind, st.sampled_from(ALGORITHMS))
@settings(max_examples=600, deadline=None)
def test_validity_is_what_every_kernel_takes(kernel, call, algorithm):
    takes, _ = eligible(call, algorithm, kernel)
    condition = validity(kernel, call.op, algorithm)
    assert bool(condition.holds(Calls.of(call))) == bool(takes)
    if condition not in (Always(), Always(False)):
        assert bool(condition.negated().holds(Calls.of(call))) != bool(takes)


def test_multiples_and_parts_said_both_ways():
    assert MultipleOf("packs", 64).words() == "hidden / pack a multiple of 64"
    assert MultipleOf("bytes", 16).negated().words() == "bytes no multiple of 16"
    assert WholeParts().negated().words() == "tokens x hidden / pack no multiple of the ranks"
    for wrong in (("tokens", 4), ("bytes", 0), ("bytes", 1.5)):
        with pytest.raises(InputError):
            MultipleOf(*wrong)


@st.composite
def windows_by_ranks(draw, arms):
    """Windows that ascend, of arms that differ from one to the next."""
    out = {}
    for ranks in draw(st.sets(st.sampled_from(WORLD_SIZES), min_size=1)):
        ends = sorted(draw(st.sets(st.integers(1, 1 << 24), max_size=4)))
        own = [draw(st.sampled_from(arms)) for _ in range(len(ends) + 1)]
        out[ranks] = list(zip(own, (*ends, None), strict=True))
    return out


@pytest.mark.parametrize(
    ("op", "version"), [(FUSED, kernels.LATEST), (FUSED, "0.1.10.post2"), (ALL_REDUCE, "0.1.20")]
)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_arm_runs_what_it_does_not_take_and_windows_ascend(op, version, data):
    setting = Setting.shipped("MI300X", op=op, aiter_version=version)
    arms = (*ALGORITHMS, *BESIDE[op])
    rule = of(data.draw(windows_by_ranks(arms)), own_takes(setting), op=op)
    ranks = data.draw(st.sampled_from(rule.world_sizes))
    tokens = data.draw(st.lists(st.integers(1, 4096), min_size=1, max_size=12))
    hidden = data.draw(st.lists(st.integers(1, 2500).map(lambda n: 8 * n), min_size=1, max_size=12))
    n = min(len(tokens), len(hidden))
    calls = setting.shapes(tokens[:n], hidden[:n], ranks)
    some = np.logical_or.reduce([
        validity(*setting.run_by(a)).holds(Calls.of(calls)) for a in arms
    ])  # fmt: skip
    if not some.all():
        with pytest.raises(InputError, match="no arm takes"):
            rule.arm(calls)
        calls = calls.select(some)
    chosen = rule.arm(calls)
    for i, arm in enumerate(chosen.tolist()):
        one = calls.select(np.array([i]))
        kernel, of_op, algorithm = setting.run_by(arm)
        as_run = Shapes(of_op, one.dtype, one.tokens, one.hidden_dim, one.world_size)
        assert eligible(as_run, algorithm, kernel)[0].all(), arm
        # Each call alone, as another rank or another batch of calls would ask.
        assert rule.arm(one)[0] == arm
        own = next(a for a, most in rule.windows(ranks) if most is None or one.bytes[0] <= most)
        as_own = Shapes(
            setting.run_by(own)[1], one.dtype, one.tokens, one.hidden_dim, one.world_size
        )
        if eligible(as_own, setting.run_by(own)[2], setting.run_by(own)[0])[0].all():
            assert arm == own
    ends = [most for _, most in rule.windows(ranks)]
    assert ends[:-1] == sorted(set(ends[:-1]))
    assert ends[-1] is None


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_rule_comes_back_from_json_as_it_was(data, tmp_path_factory):
    op = data.draw(st.sampled_from(tuple(BESIDE)))
    setting = Setting.shipped("MI300X", op=op)
    windows = data.draw(windows_by_ranks((*ALGORITHMS, *BESIDE[op])))
    regret = tuple((n, data.draw(st.floats(0, 100))) for n in sorted(windows))
    rule = of(windows, own_takes(setting), op=op, hidden_dims=(2880, 7168), regret_pct=regret)
    file = tmp_path_factory.getbasetemp() / "arms.json"
    file.write_text(json_text(rule.to_json()))
    again = load(file)
    assert again == rule
    assert json_text(again.to_json()) == file.read_text()


def test_a_recommended_rule_decides_as_its_windows_and_loses_what_it_says(decisions):
    """Counted again from every call's arm, over the same draws."""
    for decision in decisions:
        rule = decision.rule_of_arms
        stated = dict(rule.regret_pct)
        assert stated.keys() == set(rule.world_sizes)
        for n in rule.world_sizes:
            c = decision.at(n)
            calls = c.arms.shapes
            arm = rule.arm(calls)
            for w in c.three_way.windows:
                inside = (calls.bytes >= w.from_bytes) & (calls.bytes <= w.to_bytes)
                assert (arm[inside] == w.algorithm).all()
            every = _AllArms.of(
                decision.setting, c.arms, c.pushed.arms if c.pushed is not None else ()
            )
            regret = every.expected_pct()
            mine = [regret[every.names.index(a), i] for i, a in enumerate(arm.tolist())]
            assert float(c.arms.weight @ mine) == pytest.approx(stated[n], rel=1e-9)
            assert stated[n] == c.three_way.regret_pct
            # No other arm throughout does better.
            assert stated[n] <= (c.arms.weight @ regret.T).min() + 1e-9


def test_only_what_is_known_is_claimed(decisions):
    mi355x, _, plain = decisions
    assert mi355x.rule_of_arms.world_sizes == (2, 4, 8)
    evidence = mi355x.rule_of_arms.provenance.evidence
    assert (evidence[2].verdict, evidence[8].verdict) == ("always_1stage", "transferred")
    # The cutoff of two arms is not identified there, and no window is of either.
    assert not plain.at(2).claimed
    assert plain.rule_of_arms.world_sizes == (2,)
    assert {a for a, _ in plain.rule_of_arms.windows(2)} == {"ll", "ll128"}
    assert plain.rule_of_arms.provenance.evidence[2].verdict == "measured"
    assert recommend(Setting.shipped("MI300X", op="plain")).rule_of_arms is None


def test_a_refused_table_claims_no_window(published):
    noisy = published.select(
        (published.source == "aiter-3458-mi355x") & (published.world_size == 8)
    )
    both = calibrate(observe(noisy, include=("noisy",)))[0]
    decision = recommend(Setting(both, "MI355X"), world_sizes=(4, 8))
    assert not decision.at(8).claimed
    rule = decision.rule_of_arms
    assert rule is None or 8 not in rule.world_sizes


def test_arms_that_priors_alone_tell_of_are_in_no_rule(published, tmp_path):
    """Both fused arms measured, separate ops nowhere."""
    both = np.isin(published.source, ("aiter-3458-mi355x", "aiter-1290"))
    table = published.select(both & (published.op == FUSED) & (published.quality == "clean"))
    setting = Setting(calibrate(observe(table))[0], "MI355X")
    decision = recommend(setting, world_sizes=(8,))
    assert decision.at(8).claimed
    assert decision.at(8).three_way.apart
    assert decision.rule_of_arms is None
    file = tmp_path / "mine.json"
    setting.calibration.save(file)
    words = ("emit", "--for", "arms", "--gpu", "MI355X", "--calibration", file, "--tp")
    assert "no row of an arm beside 1-stage and 2-stage on any GPU" in costmodel(*words, 8).stderr
    apart = recommend(setting.but(otherwise="separate"), world_sizes=(8,))
    assert not apart.at(8).claimed
    assert apart.rule_of_arms is None


def test_the_command_line_writes_it_and_recommend_carries_the_same(tmp_path):
    out = tmp_path / "arms.json"
    done = costmodel("emit", "--for", "arms", "--gpu", "MI355X", "--tp", "4,8", "--out", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    rule = load(out)
    assert rule.provenance.command == "costmodel emit --for arms --gpu MI355X --tp 4,8"
    assert json_text(rule.to_json(), indent=2) == out.read_text()
    asked = ("recommend", "--gpu", "MI355X", "--tp", "4,8")
    carried = json.loads(costmodel(*asked, "--format", "json").stdout)["rule_of_arms"]
    assert carried == json.loads(json_text(rule.made_by("").to_json()))
    told = " ".join(costmodel(*asked, "--verbose").stdout.split())
    assert f"a rule of all arms: {rule.words()} (emit --for arms writes it)" in told
    again = costmodel("emit", "--for", "arms", "--gpu", "MI355X", "--out", out)
    assert again.returncode == 2
    assert "exists; give --force" in again.stderr
    assert json_text(rule.to_json(), indent=2) == out.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gpu MI300X --op plain", "no arm beside 1-stage and 2-stage of all_reduce is identified on MI300X"),
        ("--arch gfx942,gfx950", "for one GPU, not with a list of GPUs"),
        ("--rule vllm", "not with --rule"),
        ("--hidden-set --gpu MI355X", "not with --hidden-set"),
        ("--batch-invariant --gpu MI355X", "not with --batch-invariant"),
        ("--gpu MI355X --source .", "--source goes with --for sglang, vllm, aiter, not arms"),
        ("--gpu MI355X --table-out t.json", "--table-out goes with --runtime-table"),
    ],
)  # fmt: skip
def test_what_has_no_rule_of_arms_is_said_in_one_line(words, said):
    done = costmodel("emit", "--for", "arms", *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def damaged(record, change):
    record = json.loads(json.dumps(record))
    change(record)
    return record


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(schema="costmodel/rule/1"), "this version reads 'costmodel/rule-of-arms/1'"),
        (lambda r: r["cases"]["4"][0].update(arm="3stage"), "unknown arm '3stage'"),
        (lambda r: r["cases"].update(four=r["cases"].pop("4")), "cases"),
        (lambda r: r["cases"].update({"6": r["cases"].pop("4")}), "world size 6"),
        (lambda r: r["cases"]["4"][0].update(condition={}), "exactly one key"),
        (lambda r: r["cases"]["4"][0]["condition"].update(bytes=["multiple of", "16"]), "expected"),
        (lambda r: r["cases"]["4"][0].update(condition={"bytes": ["multiple of", 0]}), "1 or more"),
        (lambda r: r["cases"]["4"][0].update(condition={"tokens": ["multiple of", 2]}),
         "multiples of 'tokens'"),
        (lambda r: r["weighed"].pop("regret_pct"), "missing required field `regret_pct`"),
        (lambda r: r["weighed"]["regret_pct"].update({"4": -1}), "regret of -1 % at world size 4"),
        (lambda r: r["weighed"].update(regret_pct={"6": 1}), "at world size 6"),
        (lambda r: r["weighed"].update(hidden_dims=[0]), "hidden_dim"),
        (lambda r: r.update(op="fused_ar_mhc"), "no arms beside its two"),
        (lambda r: r["provenance"]["evidence"].update(x=r["provenance"]["evidence"]["4"]),
         "no world size"),
        (lambda r: r["provenance"].update(command='a"""b'), "cannot be written into code"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line_that_names_it(tmp_path, decisions, change, said):
    record = json.loads(json_text(decisions[0].rule_of_arms.to_json()))
    file = tmp_path / "damaged.json"
    file.write_text(json_text(damaged(record, change)))
    with pytest.raises(InputError, match=said) as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_engine_s_patch_of_what_no_engine_asks_is_refused(tmp_path):
    file = tmp_path / "rule.json"
    file.write_text(json.dumps({
        "schema": "costmodel/rule/1", "name": "odd",
        "condition": {"all": [{"bytes": ["<=", 4096]}, {"packs": ["multiple of", 64]}]},
    }))  # fmt: skip
    done = costmodel("emit", "--for", "sglang", "--rule", file)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no engine's function can ask for hidden / pack a multiple of 64" in done.stderr
