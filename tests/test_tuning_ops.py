"""``costmodel tune --op fused,plain``: an answer of its own for each op, in one start and budget."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from command import costmodel
from test_tuning import SHAPES_OF_512, SHORT, tune, tune_apart

from costmodel.data import measurement
from costmodel.tuning import choice


@pytest.fixture(scope="module")
def two_ops(tmp_path_factory):
    """Return (what a whole replayed tuning of two ops printed, its directory)."""
    out = tmp_path_factory.mktemp("tune") / "pr"
    done = tune("--backend", "replay", "--tp", 8, "--op", "fused,plain", "--for", "sglang",
                "--model", "gpt-oss-120b", "--out", out, *SHORT, replay="MI300X:0")  # fmt: skip
    return done, out


def test_several_ops_are_tuned_for_at_once_each_an_answer_of_its_own(two_ops):
    done, out = two_ops
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TP8: confirmed") == 2
    assert "TP8 after 3 shapes: 1-stage <= 136 KiB" in done.stdout
    assert "TP8 plain after 3 shapes: 1-stage <= 56 KiB" in done.stdout
    assert "plain all-reduce, 1-stage or 2-stage on MI300X (xgmi): decided" in done.stdout
    asked = {"fused": "fused_ar_rmsnorm", "plain": "all_reduce"}
    found = {}
    for name, op in asked.items():
        rows = measurement.read(out / name / "measurements.csv")
        kinds = set(zip(rows.op.tolist(), rows.algorithm.tolist(), strict=True))
        assert kinds == {(op, "1stage"), (op, "2stage")}
        record = json.loads((out / name / "tune.json").read_text())
        assert (record["op"], record["decided"], record["rule"]["op"]) == (op, True, op)
        assert ("--op all_reduce" in record["rule"]["provenance"]["command"]) == (name == "plain")
        (found[name],) = record["endings"]
        assert found[name]["judged"] == len(choice.JUDGED_AT)
    assert found["fused"]["max_bytes_lo"] > found["plain"]["max_bytes_hi"]
    # The engine has a call site of the fused op alone.
    assert (out / "fused" / "rule.patch").exists()
    assert (out / "fused" / "report" / "report.md").exists()
    assert not (out / "plain" / "rule.patch").exists()
    assert not (out / "plain" / "report").exists()
    assert "SGLang has no call site of the plain all-reduce: no patch, no report" in done.stderr
    assert "rule.json goes where the plain all-reduce is dispatched" in done.stdout


def test_a_rule_of_the_plain_op_is_what_recommend_reads_from_its_calibration(two_ops):
    _, out = two_ops
    asked = costmodel(
        "recommend", "--calibration", out / "plain" / "calibration.json", "--gpu", "MI300X",
        "--tp", 8, "--op", "plain", "--model", "gpt-oss-120b", "--source", "replayed-MI300X-0",
        "--format", "json",
    )  # fmt: skip
    (cutoff,) = json.loads(asked.stdout)["cutoffs"]
    (ending,) = json.loads((out / "plain" / "tune.json").read_text())["endings"]
    assert cutoff["max_bytes"] == ending["max_bytes"]
    assert cutoff["max_bytes_lo"] == ending["max_bytes_lo"]
    assert cutoff["max_bytes_hi"] == ending["max_bytes_hi"]


def test_several_ops_are_finished_again_alike_and_not_as_others(two_ops):
    _, out = two_ops
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    assert tune("--out", out, "--finish", "--op", "plain,fused").returncode == 0
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before
    for dtype in ((), ("--dtype", "bf16")):
        other = tune("--out", out, "--finish", "--op", "plain", *dtype)
        assert (other.returncode, other.stdout) == (2, "")
        assert "was started with op fused_ar_rmsnorm, not all_reduce" in other.stderr
    more = tune("--out", out / "plain", "--finish", "--op", "plain,fused")
    assert (more.returncode, more.stdout) == (2, "")
    assert "holds no tuning of fused_ar_rmsnorm, only of all_reduce" in more.stderr


def test_a_tuning_of_two_ops_that_is_killed_in_the_second_goes_on_to_the_same_end(
    two_ops, tmp_path
):
    _, whole = two_ops
    out = tmp_path / "pr"
    command = [sys.executable, "-m", "costmodel", "tune", "--backend", "replay", "--tp", 8,
               "--op", "fused,plain", "--for", "sglang", "--model", "gpt-oss-120b", "--out", out,
               *SHORT]  # fmt: skip
    run = subprocess.Popen(
        [*map(str, command)], env={**os.environ, "COSTMODEL_REPLAY": "MI300X:0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    rows = out / "plain" / "tp8" / "measurements.csv"
    until = time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count("\n") >= 3) and time.monotonic() < until:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (out / "fused" / "tune.json").exists()
    done = tune("--out", out, "--resume", *SHORT, replay="MI300X:0")
    assert done.returncode == 0, done.stderr
    for op in ("fused", "plain"):
        mine, theirs = (json.loads((d / op / "tune.json").read_text()) for d in (out, whole))
        assert mine["endings"] == theirs["endings"]


def test_ops_and_dtypes_share_the_budget_and_have_a_folder_each(tmp_path):
    """One shape each: the budget is spent before it begins."""
    out = tmp_path / "pr"
    done = tune("--backend", "replay", "--tp", 8, "--hidden", 2880, "--op", "plain,fused",
                "--dtype", "bf16,fp32", "--budget", 0.001, "--out", out, *SHORT,
                replay="MI300X:0")  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("the budget of time is spent after 1 of at least 3 shapes") == 4
    found = set()
    for op in ("plain", "fused"):
        for dtype in ("bf16", "fp32"):
            rows = measurement.read(out / op / dtype / "measurements.csv")
            assert len(rows) == 2
            found |= set(zip(rows.op.tolist(), rows.dtype.tolist(), strict=True))
    assert found == {
        (op, dtype) for op in ("all_reduce", "fused_ar_rmsnorm") for dtype in ("bf16", "fp32")
    }
    again = tune("--out", out, "--finish", "--op", "fused,plain", "--dtype", "fp32,bf16")
    assert again.returncode == 1
    assert again.stdout.count("not decided: the budget") == 4
    more = tune("--out", out, "--finish", "--dtype", "fp32,bf16,fp16")
    assert "holds no tuning of fp16, only of bf16, fp32" in more.stderr


def test_processes_run_both_ops_and_say_of_each_why_it_is_not_decided(tmp_path):
    out = tmp_path / "pr"
    done = tune_apart("--backend", "gloo", "--tp", 2, "--hidden", 512, "--for", "sglang", "--out", out,
                "--op", "fused,plain", "--rounds", 4, "--samples", 1, "--unchecked")  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "TP2: stopped after 3 shapes: no model of this interconnect (gloo)" in done.stdout
    assert "TP2 plain: stopped after 3 shapes: no model of this interconnect" in done.stdout
    for name, op in (("fused", "fused_ar_rmsnorm"), ("plain", "all_reduce")):
        rows = measurement.read(out / name / "measurements.csv")
        assert len(rows) == 2 * SHAPES_OF_512
        kinds = set(zip(rows.op.tolist(), rows.algorithm.tolist(), strict=True))
        assert kinds == {(op, "1stage"), (op, "2stage")}
        assert "not decided" in (out / name / "summary.md").read_text()
        assert not (out / name / "rule.json").exists()
