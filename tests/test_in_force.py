"""The proof that a rule is in force: kernels by name, of profiles and of saved traces."""

import json

import msgspec
import pytest

from costmodel.cli.main import main
from costmodel.cli.schemas import types_of
from costmodel.errors import InputError
from costmodel.live.in_force import check, judge
from costmodel.rules.catalogue import named
from costmodel.rules.rule import Rule

ONE = "void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16, __hip_bfloat16, 8>(aiter::RankData*)"
FP8 = "void aiter::allreduce_fusion_kernel_1stage<__bf16, _BitInt(8), 8, false>(aiter::RankData*)"
SCATTER = "void aiter::reduce_scatter_cross_device_store<__hip_bfloat16, 8>(aiter::RankData*, int)"
LOCAL = "void aiter::local_device_load_rmsnorm_512n<__hip_bfloat16, 1>(aiter::RankSignals, int)"
PLAIN = "void aiter::cross_device_reduce_1stage<__hip_bfloat16, 8, false>(aiter::RankData*)"
RCCL = "ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)"
GEMM = "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV"

SGLANG = named("sglang-128k")
SHAPE = {"hidden_dim": 2880, "world_size": 8}
#: A decode step of two layers with each arm, and the all-reduce of the embedding.
STEPS = {
    "1stage": [PLAIN, *[GEMM, ONE] * 4],
    "2stage": [PLAIN, *[GEMM, SCATTER, LOCAL] * 4],
    "separate": [PLAIN, *[GEMM, PLAIN] * 4],
}


def one(names, tokens, rule=SGLANG, **shape):
    (taken,) = judge({tokens: [names]}, rule, **{**SHAPE, **shape}).sizes
    return taken


@pytest.mark.parametrize(
    ("tokens", "ran", "in_force"),
    [
        (8, "1stage", True), (8, "2stage", False), (8, "separate", False),
        (64, "2stage", True), (64, "1stage", False), (64, "separate", False),
    ],
)  # fmt: skip
def test_the_arm_that_ran_is_held_against_the_rule(tokens, ran, in_force):
    taken = one(STEPS[ran], tokens)
    assert taken.in_force is in_force
    assert taken.says == ("1stage" if tokens == 8 else "2stage")
    assert taken.ran == ({} if ran == "separate" else {ran: 4})
    assert taken.plain == (5 if ran == "separate" else 1)


def test_a_size_on_which_both_ran_is_not_in_force():
    taken = one([ONE, SCATTER, LOCAL], 8)
    assert not taken.in_force
    assert taken.words == "1-stage x 1, 2-stage x 1"


def test_a_rule_against_separate_ops():
    rule = Rule.from_cutoffs("mine", {8: 131072}, otherwise="separate")
    assert one(STEPS["separate"], 64, rule).in_force
    assert one([RCCL, GEMM] * 3, 64, rule).in_force
    assert not one(STEPS["2stage"], 64, rule).in_force
    assert not one([GEMM], 64, rule).in_force


def test_calls_of_other_ops_do_not_count():
    taken = one([FP8, FP8], 8)
    assert not taken.in_force
    assert taken.words == "no call of the op, fused_ar_rmsnorm_quant_fp8 x 2"
    assert one([FP8, FP8], 8, named("sglang-fp8")).in_force
    cut = one(["allreduce_fusion_kernel_1stage"], 8)
    assert not cut.in_force
    assert cut.words == "no call of the op, fused, op not said x 1"


def test_what_was_not_seen_is_no_proof():
    assert one([], 8).words == "nothing seen"
    assert one([GEMM, GEMM], 8).words == "no all-reduce among 2 kernels"
    assert not one([ONE, SCATTER], 8).in_force
    assert one([ONE, SCATTER], 8).words == "1-stage x 1, half of a 2-stage call x 1"
    nothing = judge({}, SGLANG, **SHAPE)
    assert not nothing.holds
    assert str(nothing).endswith("nothing was looked at")


def test_kernels_of_other_ranks_are_refused():
    with pytest.raises(InputError, match="ran on 8 ranks, not on 4"):
        one([ONE], 8, world_size=4)


def test_streams_of_one_size_are_read_apart():
    streams = [[SCATTER, LOCAL], [PLAIN]]
    (taken,) = judge({64: streams}, SGLANG, **SHAPE).sizes
    assert (taken.ran, taken.plain, taken.in_force) == ({"2stage": 1}, 1, True)


def by_cpu_profiler(run):
    """Names as torch's profiler gives them, of a stand-in that only marks what it would launch."""
    torch = pytest.importorskip("torch")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    events = sorted(seen.events(), key=lambda event: event.time_range.start)
    return [event.name for event in events if not event.name.startswith("aten::")]


def captured(names):
    """A stand-in of a captured graph, whose replay runs under the names of its kernels."""
    torch = pytest.importorskip("torch")

    def replay():
        for name in names:
            with torch.profiler.record_function(name):
                torch.ones(4).sum()

    return replay


def test_an_engine_that_follows_the_rule_and_one_that_does_not():
    right = {
        tokens: captured(STEPS["1stage" if tokens < 23 else "2stage"]) for tokens in (64, 8, 1)
    }
    seen = check(right, SGLANG, **SHAPE, launched=by_cpu_profiler)
    assert seen.holds
    assert [size.tokens for size in seen.sizes] == [1, 8, 64]
    wrong = {**right, 64: captured(STEPS["1stage"])}
    seen = check(wrong, SGLANG, **SHAPE, launched=by_cpu_profiler)
    assert [size.in_force for size in seen.sizes] == [True, True, False]
    assert str(seen).splitlines()[-2:] == [
        "64      2-stage    1-stage x 4, all-reduce alone x 1  NO",
        "NOT in force at 64 tokens",
    ]


def trace(path, names):
    events = [
        {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": 10 * n, "dur": 5}
        for n, name in enumerate(names)
    ]
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def command(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["in-force", *map(str, words)])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_saved_traces_are_judged_by_the_command(tmp_path, capsys):
    small, large = (
        trace(tmp_path / "8.json", STEPS["1stage"]),
        trace(tmp_path / "64.json", STEPS["2stage"]),
    )
    asked = ("--rule", "sglang-128k", "--tp", 8, "--model", "gpt-oss-120b")
    code, out, _ = command(capsys, *asked, f"64={large}", f"8={small}")
    assert code == 0
    assert out.splitlines()[-1] == "the rule is in force"
    assert [line.split()[0] for line in out.splitlines()[3:5]] == ["8", "64"]
    code, out, err = command(capsys, *asked, f"8={large}")
    assert (code, err) == (1, "")
    assert "NOT in force at 8 tokens" in out


def test_the_record_holds_what_the_table_shows(tmp_path, capsys):
    small, large = (
        trace(tmp_path / "8.json", STEPS["1stage"]),
        trace(tmp_path / "64.json", [*STEPS["1stage"], RCCL, SCATTER]),
    )
    asked = ("--rule", "sglang-128k", "--tp", 8, "--hidden", 2880, "--format", "json")
    code, out, err = command(capsys, *asked, f"64={large}", f"8={small}")
    assert (code, err) == (1, "")
    (kind,) = types_of("costmodel/in-force/1")
    record = json.loads(out)
    assert json.loads(msgspec.json.encode(msgspec.json.decode(out, type=kind))) == record
    assert {key: record[key] for key in ("rule", "world_size", "hidden_dim", "dtype")} == {
        "rule": "sglang-128k", "world_size": 8, "hidden_dim": 2880, "dtype": "bf16",
    }  # fmt: skip
    assert record["condition"] == SGLANG.words()
    assert not record["in_force"]
    assert record["sizes"] == [
        {"tokens": 8, "says": "1stage", "ran": {"1stage": 4}, "plain": 1, "others": {},
         "halves": 0, "unknown": 0, "in_force": True},
        {"tokens": 64, "says": "2stage", "ran": {"1stage": 4}, "plain": 1,
         "others": {"some collective of RCCL": 1}, "halves": 1, "unknown": 0, "in_force": False},
    ]  # fmt: skip
    code, out, _ = command(capsys, *asked, f"8={small}")
    assert (code, json.loads(out)["in_force"]) == (0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["8"], "give TOKENS=TRACE"),
        (["0=t.json"], "give TOKENS=TRACE"),
        (["8=t.json", "8=t.json"], "8 tokens stand twice"),
        (["8=stats.csv"], "kernel-stats is no trace"),
        (["8=missing.json"], "No such file"),
    ],
)
def test_what_cannot_be_judged_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    trace(tmp_path / "t.json", STEPS["1stage"])
    (tmp_path / "stats.csv").write_text(
        '"Name","Calls","TotalDurationNs","AverageNs","Percentage"\n'
    )
    asked = ["--rule", "sglang-128k", "--tp", 8, "--hidden", 2880]
    code, _, err = command(capsys, *asked, *words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert command(capsys, *asked[:4], "8=t.json")[0] == 2
