"""What a change of rule is worth: by batch size, over a histogram, and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.calibration.posterior import Refusal
from costmodel.data import llms
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
    assert 122 * 1.7 <= before.batches[4].saved_us.value <= 122 * 2.05


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
    with pytest.raises(InputError, match=r"llama-3.1-405b, hidden size 16384: no call"):
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
    directory = tmp_path_factory.mktemp("h")
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
    return subprocess.run(
        [sys.executable, "-m", "costmodel", "worth", *map(str, args)],
        capture_output=True, text=True, timeout=120, check=False, cwd=cwd,
    )  # fmt: skip


def test_the_command_answers_for_each_arch_when_none_is_named():
    done = run("--model", "gpt-oss-120b", "--tp", "8", "--from", "sglang", "--to", "recommended")
    assert done.returncode == 0, done.stderr
    assert "MI300X, calibration gfx942-" in done.stdout
    assert "MI355X, calibration gfx950-" in done.stdout
    assert "72 calls a decode step" in done.stdout


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
        "gpu", "arch", "calibration", "evidence", "from", "to", "batches", "over_histogram",
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


def test_where_no_gpu_has_an_answer_each_says_why():
    done = run("--model", "llama-3.1-405b", "--tp", 8, "--from", "sglang")
    assert done.returncode == 2
    assert "MI300X: hidden size 16384" in done.stderr
    assert "MI355X: hidden size 16384" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_model_without_fused_calls_is_refused(mi355x):
    gemma = llms.find("gemma-2-27b")
    with pytest.raises(InputError, match=r"^gemma-2-27b makes no fused all-reduce.*post-norm"):
        worth(mi355x, gemma, 4, LOW, HIGH)
