"""What a change of rule is worth: by batch size, over a histogram, and from the command line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from command import costmodel
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel.calibration.posterior import Refusal
from costmodel.data import llms
from costmodel.data.deployment import Deployment
from costmodel.data.engine_calls import fused_calls
from costmodel.data.histogram import BatchHistogram, read_histogram
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.decide.worth import worth
from costmodel.errors import InputError
from costmodel.model.shape import ALGORITHMS
from costmodel.rules.catalogue import named
from costmodel.rules.rule import Rule

R1 = llms.find("deepseek-r1")
LOW = Rule.from_cutoffs("low", {4: 128 * 1024})
HIGH = Rule.from_cutoffs("high", {4: 448 * 1024})
LOW8 = Rule.from_cutoffs("low8", {8: 128 * 1024})


@pytest.fixture(scope="module")
def mi355x():
    return Setting.shipped("MI355X")


@pytest.fixture(scope="module")
def raised(mi355x):
    """Raising the cutoff from 128 to 448 KiB for 14 KiB a token: batches 16, 24, 32."""
    return worth(mi355x, R1, 4, LOW, HIGH)


def test_a_step_saves_two_calls_a_layer_times_the_latency_difference(mi355x, raised):
    shapes = mi355x.shapes([16, 24, 32], 7168, 4)
    one, two = (mi355x.latency_us(shapes, a, mi355x.draws) for a in ALGORITHMS)
    saved = 2 * 61 * (two - one)
    changed = [b for b in raised.batches if b.old != b.new]
    assert [b.batch for b in changed] == [16, 24, 32]
    assert [b.bytes for b in changed] == [16 * 14336, 24 * 14336, 32 * 14336]
    for i, b in enumerate(changed):
        assert (b.old, b.new) == ("2stage", "1stage")
        assert b.saved_us.value == pytest.approx(saved[:, i].mean())
        assert b.saved_us.lo == pytest.approx(np.quantile(saved[:, i], 0.05))
        assert b.saved_us.hi == pytest.approx(np.quantile(saved[:, i], 0.95))
    # Measured at 16 tokens, before 1-stage had an exit barrier: 10.03 - 7.98 us a call in AITER
    # #3458, 9.3 - 7.6 in vLLM's fork.
    before = worth(mi355x.but(aiter_version="0.1.19"), R1, 4, LOW, HIGH)
    assert 122 * 1.7 <= before.batches[4].saved_us.value <= 122 * 2.1


def test_batches_on_which_the_rules_agree_are_worth_exactly_nothing(raised):
    alike = [b for b in raised.batches if b.old == b.new]
    assert len(alike) == captured_batch_sizes().size - 3
    assert {(b.saved_us.value, b.saved_us.lo, b.saved_us.hi) for b in alike} == {(0.0, 0.0, 0.0)}


def test_going_back_costs_what_going_there_saved(mi355x, raised):
    back = worth(mi355x, R1, 4, HIGH, LOW)
    assert back.mean_us.value == pytest.approx(-raised.mean_us.value)
    assert back.mean_us.lo == pytest.approx(-raised.mean_us.hi)
    assert raised.mean_us.value > 0


def test_a_histogram_weighs_the_batches(mi355x, raised, tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("batch,count\n32,30\n16,10\n8,0\n")
    found = worth(mi355x, R1, 4, LOW, HIGH, histogram=read_histogram(path))
    by_batch = {b.batch: b.saved_us.value for b in raised.batches}
    assert found.mean_us.value == pytest.approx(0.25 * by_batch[16] + 0.75 * by_batch[32])
    assert found.batches == raised.batches
    alike = np.mean(list(by_batch.values()))
    assert raised.mean_us.value == pytest.approx(alike)


def test_a_batch_that_the_1stage_kernel_rejects_runs_2stage_under_every_rule(mi355x):
    """AITER 0.1.16 took at most 80 tokens in its 1-stage kernel."""
    always = Rule.from_cutoffs("always", {4: None})
    never = Rule.from_cutoffs("never", {4: 0})
    old = mi355x.but(aiter_version="0.1.16")
    found = worth(old, R1, 4, never, always)
    assert [b.batch for b in found.batches if b.old != b.new][-1] == 80
    newest = worth(mi355x, R1, 4, never, always)
    assert [b.batch for b in newest.batches if b.old != b.new][-1] == 512


def test_a_model_that_no_batch_of_can_run_1stage_is_refused(mi355x):
    with pytest.raises(InputError, match=r"llama-3.1-405b: .*hidden size 16384, can run both"):
        worth(mi355x, llms.find("llama-3.1-405b"), 4, LOW, HIGH)


def test_evidence_says_whether_both_algorithms_were_measured_here(mi355x, raised):
    assert raised.evidence == "measured_elsewhere"
    as_measured = mi355x.but(aiter_version="0.1.19")
    assert worth(as_measured, R1, 4, LOW, HIGH).evidence == "measured"
    eight = worth(mi355x, R1, 8, named("sglang"), named("aiter"))
    assert eight.evidence == "transferred"


def test_a_rule_without_a_claim_is_named(mi355x):
    with pytest.raises(InputError, match="rule low: the rule makes no claim for TP8"):
        worth(mi355x, R1, 8, LOW, named("aiter"))


def test_without_a_recommendation_there_is_no_worth_but_a_reason(mi355x):
    doubt = (Refusal("MI355X", 8, "rows contradict each other"),)
    refused = mi355x.but(calibration=replace(mi355x.calibration, refusals=doubt))
    eight = recommend(refused, world_sizes=(8,))
    with pytest.raises(InputError, match="for MI355X: TP8: rows contradict each other"):
        _ = eight.rule
    both = recommend(refused, world_sizes=(4, 8))
    assert both.rule.world_sizes == (4,)
    with pytest.raises(InputError, match=r"rule recommended: .*no claim for TP8"):
        worth(refused, R1, 8, LOW8, both.rule)


# Worth of the engine's own rule


@pytest.mark.parametrize("gpu", ["MI300X", "MI308X", "MI325X", "MI350X", "MI355X"])
def test_what_the_guards_of_vllm_keep_from_2_ranks_is_not_promised(gpu):
    """vLLM sizes no workspace for 2 ranks, so that a patch changes nothing there."""
    setting = Setting.shipped(gpu, engine="vllm")
    decision = recommend(setting, Workload.of([2880]), world_sizes=(2,))
    model = llms.find("gpt-oss-120b")
    assert worth(setting, model, 2, named("vllm"), decision.rule).mean_us.value == 0.0
    bare = worth(setting, model, 2, named("vllm"), decision.unguarded_rule)
    assert bare.mean_us.value > 100


# Histograms


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(captured_batch_sizes().tolist()), st.integers(1, 10**6), min_size=1
    )
)
def test_shares_and_counts_say_the_same(tmp_path_factory, counts):
    directory = tmp_path_factory.getbasetemp()
    total = sum(counts.values())
    (directory / "count.csv").write_text(
        "batch,count\n" + "".join(f"{b},{n}\n" for b, n in counts.items())
    )
    (directory / "share.csv").write_text(
        "batch,share\n" + "".join(f"{b},{n / total!r}\n" for b, n in counts.items())
    )
    a, b = (read_histogram(directory / f"{c}.csv") for c in ("count", "share"))
    assert a.batch.tolist() == b.batch.tolist() == sorted(counts)
    assert a.share == pytest.approx(b.share)
    assert a.share.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the header is ''"),
        ("batch,tokens\n8,1\n", "the header is 'batch,tokens'"),
        ("batch,share\n", "no batch has a share above 0"),
        ("batch,count\n8,0\n", "no batch has a count above 0"),
        ("batch,share\n8,0.5\n16,0.4\n", "the shares sum to 0.9, not to 1"),
        ("batch,share\n8,50\n16,50\n", "the shares sum to 100, not to 1"),
        ("batch,share\n8,0.5\n8,0.5\n", ":3: batch 8 stands twice"),
        ("batch,share\n9,1\n", ":2: batch 9 is not a captured size"),
        ("batch,share\n9,1\n", "engines pad it to 16"),
        ("batch,share\n513,1\n", "they end at 512"),
        ("batch,share\n0,1\n", ":2: batch 0 is not a captured size"),
        ("batch,share\n8.5,1\n", ":2: batch is '8.5', not a whole number"),
        ("batch,share\n8,half\n", ":2: share is 'half', not a number"),
        ("batch,share\n8,-1\n", ":2: share is -1; it must be 0 or more"),
        ("batch,share\n8,nan\n", ":2: share is nan; it must be 0 or more"),
        ("batch,share\n8,1,2\n", ":2: 3 cells"),
        ("batch,share\n8\n", ":2: 1 cells"),
    ],
)
def test_a_histogram_that_is_none_is_refused_with_file_and_line(tmp_path, text, said):
    path = tmp_path / "h.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_histogram(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)


def test_shares_may_miss_one_by_rounding(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("batch,share\n8,0.333\n16,0.333\n24,0.333\n")
    assert read_histogram(path).share == pytest.approx(np.full(3, 1 / 3))
    assert BatchHistogram.alike().share.sum() == pytest.approx(1.0)


# Command


def run(*args, cwd=None):
    return costmodel("worth", *args, cwd=cwd)


def test_the_command_answers_for_each_arch_when_none_is_named():
    done = run("--model", "gpt-oss-120b", "--tp", "8", "--from", "sglang", "--to", "recommended")
    assert done.returncode == 0, done.stderr
    # The answer of each stands before all else, with its interval.
    answers = done.stdout.split("\n\n")[0]
    found = re.findall(r"(?m)^(\w+) TP8: [+-][\d.]+ us a decode step \(90 % ", answers)
    assert found == ["MI300X", "MI355X"]
    assert "MI300X, calibration gfx942-" in done.stdout
    assert "MI355X, calibration gfx950-" in done.stdout
    assert "71 calls a decode step in SGLang" in done.stdout
    assert "71 = blocks - 1 (72 blocks): after attention in each layer" in done.stdout


def test_json_of_a_local_config_and_a_rule_in_a_file(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"hidden_size": 7168, "num_hidden_layers": 10, "torch_dtype": "bfloat16"})
    )
    (tmp_path / "mine.json").write_text(json.dumps(HIGH.to_json()))
    done = run(
        "--config", "config.json", "--tp", 4, "--from", "sglang", "--to", "mine.json",
        "--gpu", "mi355x", "--format", "json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == [
        "schema", "model", "world_size", "dtype", "aiter_version", "histogram", "gpus",
    ]  # fmt: skip
    assert found["schema"] == "costmodel/worth/1"
    assert found["model"]["calls_per_step"] == 20
    (gpu,) = found["gpus"]
    assert list(gpu) == [
        "gpu", "arch", "calibration", "evidence", "from", "to", "batches", "over_histogram", "decided",
    ]  # fmt: skip
    assert (gpu["gpu"], gpu["from"]["rule"], gpu["to"]["rule"]) == (
        "MI355X", "sglang-128k", "high",
    )  # fmt: skip
    changed = [b for b in gpu["batches"] if b["from"] != b["to"]]
    assert [b["batch"] for b in changed] == [16, 24, 32]
    assert changed[0]["us_per_step_lo"] < changed[0]["us_per_step"] < changed[0]["us_per_step_hi"]


def test_rules_that_agree_everywhere_are_worth_nothing():
    done = run("--model", "gpt-oss-120b", "--tp", 4, "--from", "sglang", "--to", "sglang-128k",
               "--arch", "gfx950")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "worth 0 us" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--model", "gpt-oss-12b", "--tp", 8, "--from", "sglang"), "did you mean gpt-oss-120b"),
        (("--model", "gpt-oss-120b", "--tp", 3, "--from", "sglang"), "unknown world size 3"),
        (("--tp", 8, "--from", "sglang"), "give one of --model and --config"),
        (("--model", "gpt-oss-120b", "--tp", 8), "--from RULE"),
        (("--model", "gpt-oss-120b", "--tp", 8, "--from", "sglan"), "did you mean sglang"),
        (("--model", "gpt-oss-120b", "--tp", 8, "--from", "recomended"), "did you mean recommended"),
        (
            ("--model", "gpt-oss-120b", "--tp", 8, "--from", "sglang", "--to", "recomended"),
            "error: unknown rule 'recomended' (did you mean recommended?)",
        ),
        (("--model", "gpt-oss-120b", "--tp", 8, "--from", "sglang", "--batch-histogram", "no.csv"),
         "no.csv: No such file"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(args, said):
    done = run(*args)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("costmodel: error: ")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("vllm-16bit", "37 calls a decode step in vLLM"),
        ("sglang-gpt-oss", "71 calls a decode step in SGLang"),
        ("aiter-3458", "72 calls a decode step in AITER"),
        ("always-1stage", "72 calls a decode step, bf16"),
    ],
)
def test_a_rule_by_its_name_has_the_calls_of_its_engine(rule, said):
    done = run("--model", "gpt-oss-120b", "--tp", 8, "--from", rule, "--gpu", "MI355X")
    assert said in done.stdout


def test_where_no_gpu_has_an_answer_each_says_why():
    done = run("--model", "llama-3.1-405b", "--tp", 8, "--from", "aiter")
    assert done.returncode == 2
    assert "MI300X: hidden size 16384" in done.stderr
    assert "MI355X: hidden size 16384" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# Models, engines and deployments without a fused call


def test_a_model_without_fused_calls_is_worth_nothing(mi355x):
    found = worth(mi355x, llms.find("gemma-2-27b"), 4, LOW, HIGH)
    assert found.mean_us.to_dict() == {"value": 0.0, "lo": 0.0, "hi": 0.0}
    assert found.calls.per_step == 0
    assert "post-norm" in found.calls.why
    assert {b.saved_us.value for b in found.batches} == {0.0}
    # Its hidden size may be one that no kernel takes: that is no error where nothing runs.
    assert worth(mi355x, llms.find("command-a"), 4, LOW, HIGH).batches == ()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--model", "gemma-3-27b", "--from", "vllm"), "a post-norm stands between"),
        (("--model", "command-r-plus", "--from", "aiter"), "LayerNorm, not RMSNorm"),
        (("--model", "minimax-m1", "--from", "sglang"), "scaled residual"),
        (("--model", "deepseek-v4-pro", "--from", "sglang"), "mHC, which AITER fuses"),
        (("--model", "llama-3.1-405b", "--from", "sglang"), "no LayerCommunicator"),
        (("--model", "nemotron-3-nano-30b-a3b", "--from", "sglang"), "only FlashInfer fuses these"),
        (
            ("--model", "gpt-oss-120b", "--from", "sglang", "--dp-attention"),
            "--enable-dp-attention",
        ),
        (("--model", "deepseek-r1", "--from", "sglang", "--expert-parallel"), "mlp_mode SCATTERED"),
    ],
)
def test_the_answer_is_zero_with_the_reason_on_every_gpu(args, said):
    done = run(*args, "--tp", 8, "--step-ms", 20)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("worth 0 us a decode step, 0 % of a step of 20 ms") == 2
    assert "0 calls a decode step in " in done.stdout
    assert said in done.stdout
    assert done.stderr == ""
    record = json.loads(run(*args, "--tp", 8, "--format", "json").stdout)
    assert record["model"]["calls_per_step"] == 0
    assert record["model"]["calls"]["why"]
    assert [g["over_histogram"]["us_per_step"] for g in record["gpus"]] == [0.0, 0.0]


# What an engine fuses, and how the model is served


@pytest.mark.parametrize(
    ("model", "rule", "calls"),
    [
        ("gpt-oss-120b", "vllm", 37), ("gpt-oss-20b", "vllm", 25), ("gpt-oss-120b", "sglang", 71),
        ("gpt-oss-120b", "aiter", 72), ("gpt-oss-120b", "atom", 72), ("llama-3.1-8b", "vllm", 65),
    ],
)  # fmt: skip
def test_the_calls_of_the_engine_are_counted(model, rule, calls):
    done = run("--model", model, "--tp", 4, "--from", rule, "--gpu", "MI355X", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["model"]
    assert (found["calls_per_step"], found["calls"]["per_step"]) == (calls, calls)
    assert found["calls"]["source"]
    assert not found["calls"]["at_most"]


def test_calls_scale_what_a_step_saves(mi355x):
    model = llms.find("gpt-oss-120b")
    every, vllm = (
        worth(mi355x, model, 4, LOW, HIGH, deployment=Deployment(engine=e)) for e in ("", "vllm")
    )
    assert every.mean_us.value > 0
    assert vllm.mean_us.value == pytest.approx(every.mean_us.value * 37 / 72)


def test_a_saving_in_percent_of_a_step(mi355x, raised):
    found = worth(mi355x, R1, 4, LOW, HIGH, deployment=Deployment(step_ms=25.0))
    assert found.mean_us == raised.mean_us
    for end in ("value", "lo", "hi"):
        spared = getattr(raised.mean_us, end) / 25_000 * 100
        assert getattr(found.step_pct, end) == pytest.approx(spared), end
    assert raised.step_pct is None
    done = run("--model", "deepseek-r1", "--tp", 4, "--from", "sglang", "--gpu", "MI355X",
               "--step-ms", 25, "--format", "json")  # fmt: skip
    mean = json.loads(done.stdout)["gpus"][0]["over_histogram"]
    assert mean["pct_of_step"] == pytest.approx(mean["us_per_step"] / 250)


def test_draft_tokens_multiply_the_tokens_of_a_step(mi355x, raised):
    """128 to 448 KiB are 16 to 32 tokens: with 3 draft tokens a sequence, 4 and 8 sequences."""
    found = worth(mi355x, R1, 4, LOW, HIGH, deployment=Deployment(draft_tokens=3))
    changed = [b for b in found.batches if b.old != b.new]
    assert [(b.batch, b.tokens) for b in changed] == [(4, 16), (8, 32)]
    plain = {b.batch: b.saved_us.value for b in raised.batches}
    assert [b.saved_us.value for b in changed] == pytest.approx([plain[16], plain[32]])


def test_traffic_that_meets_no_change_is_worth_nothing_for_sure(tmp_path):
    """The rules differ from 24 tokens on: of 8 and 16 alone the answer is 0, not undecided."""
    path = tmp_path / "small.csv"
    path.write_text("batch,count\n8,1\n16,1\n24,0\n")
    here = ("--model", "gpt-oss-120b", "--tp", 4, "--gpu", "MI355X", "--from", "sglang")
    here = (*here, "--batch-histogram", path.name)
    answer = costmodel("worth", *here, cwd=tmp_path).stdout.split("\n\n")[0]
    said = "MI355X TP4: the rules run the same arm at every batch of small.csv: worth 0 us"
    assert " ".join(answer.split()) == said
    path.write_text("batch,count\n8,1\n24,1\n")
    assert "us a decode step" in costmodel("worth", *here, cwd=tmp_path).stdout


def test_captured_sizes_round_a_histogram_up(mi355x, raised, tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("batch,count\n9,10\n17,5\n23,15\n")
    served = Deployment(captured=(16, 24, 32))
    histogram = read_histogram(path, served)
    assert histogram.batch.tolist() == [16, 24]
    assert histogram.share.tolist() == pytest.approx([1 / 3, 2 / 3])
    found = worth(mi355x, R1, 4, LOW, HIGH, histogram=histogram, deployment=served)
    plain = {b.batch: b.saved_us.value for b in raised.batches}
    assert found.mean_us.value == pytest.approx(plain[16] / 3 + plain[24] * 2 / 3)
    path.write_text("batch,count\n33,1\n")
    with pytest.raises(InputError, match="batch 33 is not captured; sizes are 1 to 32"):
        read_histogram(path, served)


def test_a_deployment_is_part_of_the_record():
    done = run("--model", "gpt-oss-120b", "--tp", 4, "--from", "vllm", "--gpu", "MI355X",
               "--draft-tokens", 1, "--captured", "2,4,8,10", "--format", "json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["deployment"]["captured"] == [1, 2, 4, 5]
    assert [b["tokens"] for b in found["gpus"][0]["batches"]] == [2, 4, 8, 10]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--draft-tokens", -1), "-1 draft tokens; 0 to 63"),
        (("--draft-tokens", 64), "64 draft tokens"),
        (("--captured", "0,4"), "0"),
        (("--captured", "1,x"), "x"),
        (("--captured", "99999999"), "captured size 99999999"),
        (("--step-ms", 0), "0.0 ms; give one above 0"),
        (("--step-ms", 0.009), "0.009 ms: its 71 fused calls alone take 0."),
        (("--step-ms", "nan"), "nan is not a finite number"),
        (
            ("--calls-of", "trt"),
            "unknown engine 'trt' (did you mean aiter?); one of vllm, sglang, atom, aiter",
        ),
        (("--engine-version", "banana"), "engine release 'banana' is not understood"),
        (("--expert-parallel", "sideways"), "one of all-reduce, all-to-all"),
        (("--captured", "2", "--draft-tokens", 3, "--calls-of", "vllm"), "no captured size holds"),
    ],
)
def test_a_deployment_that_cannot_be_is_one_line(args, said):
    done = run("--model", "gpt-oss-120b", "--tp", 8, "--from", "sglang", *args)
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    "args", [("--from", "aiter-plain"), ("--from", "sglang", "--to", "vllm-fp8")]
)
def test_a_rule_of_another_op_has_no_worth_here(args):
    """A cutoff of the plain op beside one of the fused op would promise what no patch brings."""
    here = ("--model", "gpt-oss-120b", "--tp", 4, "--gpu", "MI355X")
    done = costmodel("worth", *here, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"rule '{args[-1]}' is for op '" in done.stderr
    assert "asked is 'fused_ar_rmsnorm'" in done.stderr


@pytest.mark.parametrize(
    ("release", "per_step"),
    [("0.20.0", 72), ("v0.20.0", 72), ("0.20.0rc1", 72), ("V0.20", 72), ("v0.33.0", 37)],
)
def test_a_release_is_the_same_in_any_spelling(release, per_step):
    """Before vLLM 0.21.0 no row holds: every block is the limit. "v0.20.0" was taken for 20."""
    found = fused_calls(llms.find("gpt-oss-120b"), Deployment(engine="vllm", release=release))
    assert found.per_step == per_step
    assert found.at_most == (per_step == 72)
