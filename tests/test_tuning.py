"""Tuning: when to stop, what comes next, a killed run that goes on, and the whole command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from command import costmodel
from ranks import torchrun
from samples import swap_arms

from costmodel.calibration.posterior import shipped
from costmodel.data import kernels, measurement
from costmodel.data.workload import Workload
from costmodel.decide.setting import Setting
from costmodel.decide.stopping import (
    BUDGET,
    ENOUGH,
    FEWEST,
    NO_LONGER,
    PATIENCE,
    SHAPES,
    Standing,
    StoppingLimits,
    verdict,
)
from costmodel.errors import InputError
from costmodel.live.backends.replay import truth
from costmodel.live.run.points import DEFAULT_ARMS, Point
from costmodel.planning.candidates import harness_spread_us
from costmodel.planning.coordinates import Posterior
from costmodel.tuning import choice
from costmodel.tuning.conclusion import BUSY, CONFIRMED, conclude
from costmodel.tuning.journal import Journal
from costmodel.tuning.knowledge import Question, TunedMachine, UndecidedError
from costmodel.tuning.session import Session
from costmodel.tuning.tuner import Tuner

LABELS = {
    "gpu": "MI355X", "arch": "gfx950", "interconnect": "xgmi", "kernel_family": "aiter",
    "kernel_version": kernels.aiter().version, "genuine": "yes",
}  # fmt: skip


class Quiet:
    """A machine that is a draw of the posterior, measured without scatter."""

    def __init__(self, draw, world_size, gpu="MI355X", arch="gfx950"):
        self.setting = Setting(shipped(arch), gpu)
        self.values, self.world_size = truth(self.setting, draw), world_size

    def us(self, tokens, hidden, arm):
        calls = self.setting.shapes(tokens, hidden, self.world_size)
        return self.setting.latency_us(calls, arm, self.values)[0]

    def measure(self, point):
        shape = point.shape
        rows = [
            {
                "source": "x", "date": "2026-11-01", "gpu": "MI355X", "gpu_evidence": "stated",
                "arch": "gfx950", "interconnect": "xgmi", "world_size": self.world_size,
                "op": "fused_ar_rmsnorm", "algorithm": arm, "kernel_family": "aiter",
                "kernel_version": LABELS["kernel_version"], "tokens": shape.tokens,
                "hidden_dim": shape.hidden_dim, "dtype": "bf16", "bytes": shape.bytes,
                "latency_us": float(self.us([shape.tokens], [shape.hidden_dim], arm)[0]),
                "statistic": "median", "rank_reduction": "max", "timing": "graph",
                "quality": "clean",
            }
            for arm in point.arms
        ]  # fmt: skip
        arms = {arm: {"clean": True} for arm in point.arms}
        return {"kind": "shape", "point": point.to_json(), "arms": arms, "rows": rows,
                "seconds": 1.0}  # fmt: skip


def walk(tuner, measure, most=40):
    """Measure what the tuner names until it names nothing; return the records."""
    records = []
    while (point := tuner.next(records)) is not None:
        records.append(measure(point))
        assert len(records) <= most
    return records


# When to stop


def history(*left, doublings=1.0):
    return [Standing(i, pct, doublings, always=False) for i, pct in enumerate(left)]


def test_a_small_regret_ends_it_but_not_before_a_few_pairs():
    limits = StoppingLimits(0.2)
    assert verdict(history(0.1, 0.1, 0.1), limits) is None
    assert verdict(history(0.9, 0.1, 0.1, 0.19), limits) == ENOUGH
    assert verdict(history(0.9, 0.1, 0.1, 0.21), limits) is None


def test_an_interval_that_no_longer_narrows_ends_it():
    pct = [0.9] * (FEWEST + PATIENCE + 1)
    assert verdict(history(*pct), StoppingLimits()) == NO_LONGER
    narrowing = [Standing(i, 0.9, 2.0 * 0.98**i, False) for i in range(len(pct))]
    assert verdict(narrowing, StoppingLimits()) is None
    opened = [Standing(i, None, float("inf"), False) for i in range(len(pct))]
    assert verdict(opened, StoppingLimits()) is None


def test_the_budget_of_shapes_ends_it():
    assert verdict(history(*[0.9] * 6), StoppingLimits(shapes=5)) == SHAPES


def test_always_needs_no_regret():
    steps = [Standing(i, None, float("inf"), always=True) for i in range(4)]
    assert verdict(steps, StoppingLimits()) == ENOUGH


# What is known of one machine


def test_the_planner_knows_a_named_machine_as_the_setting_does():
    setting = Setting.shipped("MI355X").but(source="vllm-54787")
    shapes = setting.shapes([8, 64], 7168, 4)
    posterior = Posterior.of(setting)
    planned = posterior.values(posterior.sample(1024))
    for arm in DEFAULT_ARMS:
        mine, theirs = (
            np.log(setting.latency_us(shapes, arm, values))
            for values in (planned, setting.new_source)
        )
        assert mine.mean(axis=0) == pytest.approx(theirs.mean(axis=0), abs=0.01)
        assert mine.std(axis=0) == pytest.approx(theirs.std(axis=0), rel=0.25)
    assert harness_spread_us(setting) == 0.0
    assert harness_spread_us(Setting.shipped("MI355X")) > 1.0


def test_three_quiet_pairs_find_the_crossing_of_a_hidden_truth():
    # The same draws are asked in benchmarks/tuning.py by the hundred, with scatter.
    for draw, world_size in ((3, 4), (17, 8)):
        hidden = Quiet(draw, world_size)
        journal = Journal()
        tuner = Tuner(
            TunedMachine(Question("mine", "bf16"), LABELS), world_size, StoppingLimits(), journal
        )
        records = walk(tuner, hidden.measure)
        assert journal.stop["why"] == ENOUGH
        assert journal.stop["shapes"] <= 4
        assert len(records) == journal.stop["shapes"] + len(choice.JUDGED_AT)
        first, last = journal.steps[0], journal.steps[-1]
        assert np.log2(last["max_bytes_hi"] / last["max_bytes_lo"]) < 0.5 * np.log2(
            first["max_bytes_hi"] / first["max_bytes_lo"]
        )
        tokens = np.array([16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160])
        gap = hidden.us(tokens, 2880, "1stage") - hidden.us(tokens, 2880, "2stage")
        crossing = 2 * 2880 * np.interp(0.0, gap, tokens)
        assert 0.9 * last["max_bytes_lo"] <= crossing <= 1.1 * last["max_bytes_hi"]


def test_a_machine_without_a_model_is_refused_in_words():
    machine = TunedMachine(
        Question("mine", "bf16"), {**LABELS, "interconnect": "gloo", "gpu": "CPU"}
    )
    assert machine.prior((4,)) is None
    row = Quiet(1, 4).measure(Point(choice.LiveShape(8, 4096, "bf16"), DEFAULT_ARMS))
    with pytest.raises(UndecidedError, match=r"no model of this interconnect \(gloo\)"):
        machine.after(machine.rows([row]), (4,))


def test_noisy_rows_leave_what_was_known_before():
    hidden = Quiet(3, 4)
    record = hidden.measure(Point(choice.LiveShape(8, 4096, "bf16"), DEFAULT_ARMS))
    for row in record["rows"]:
        row["quality"] = "noisy"
    machine = TunedMachine(Question("mine", "bf16"), LABELS)
    known = machine.after(machine.rows([record]), (4,))
    assert not known.measured
    assert known.cutoff(4).max_bytes == machine.prior((4,)).cutoff(4).max_bytes


def test_no_shape_is_chosen_twice_and_judging_shapes_were_never_learnt_from():
    hidden = Quiet(5, 4)
    journal = Journal()
    asked = Question("mine", "bf16", Workload.of([2880, 7168]))
    tuner = Tuner(TunedMachine(asked, LABELS), 4, StoppingLimits(0.0, 6), journal)
    records = walk(tuner, hidden.measure)
    shapes = [Point.from_json(record["point"]).shape for record in records]
    assert len(set(shapes)) == len(shapes)
    assert {shape.hidden_dim for shape in shapes} <= {2880, 7168}
    cutoff = journal.steps[-1]["max_bytes"]
    judged = [shape.bytes for shape in shapes[journal.stop["shapes"] :]]
    assert min(judged) < cutoff < max(judged)


def test_the_end_of_the_time_leaves_enough_to_judge():
    left = iter([100.0, 100.0, 4.0])
    last = [0.0]

    def seconds_left():
        last[0] = next(left, 4.0)
        return last[0]

    journal = Journal()
    tuner = Tuner(
        TunedMachine(Question("mine", "bf16"), LABELS),
        8,
        StoppingLimits(0.0),
        journal,
        seconds_left=seconds_left,
    )
    walk(tuner, Quiet(17, 8).measure)
    assert journal.stop["why"] == BUDGET


def test_a_journal_cuts_a_torn_line_and_names_a_damaged_one(tmp_path):
    path = tmp_path / "tuning.jsonl"
    journal = Journal(path)
    tuner = Tuner(TunedMachine(Question("mine", "bf16"), LABELS), 8, StoppingLimits(), journal)
    assert tuner.next([]) is not None
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"st')
    assert Journal(path).steps == journal.steps
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"shapes":0', b'"shapes":"x"'))
    with pytest.raises(InputError, match=r"tuning.jsonl:1: Expected `int`"):
        Journal(path)


# The command


def tune(*args, replay="MI355X:17"):
    """Run the command here: a replay starts no ranks. Reports draw no pictures: no browser."""
    environment = {"COSTMODEL_REPLAY": replay, "BROWSER_PATH": "/nonexistent/browser"}
    return costmodel("tune", *args, env=environment)


def tune_apart(*args, **more):
    """Run the command as a process, which ranks or limits of its own need."""
    # A limit on the size of files would cut the bytecode that a start leaves for others.
    quiet = {"PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **quiet, "COSTMODEL_REPLAY": "MI355X:17"}
    command = [sys.executable, "-m", "costmodel", "tune", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, **more
    )


SHORT = ("--rounds", 4, "--samples", 2, "--seed", 7)

#: A tuning over gloo as torchrun starts it, on so many ranks.
UNDER = ("-m", "costmodel", "tune", "--backend", "gloo", "--hidden", "512", "--rounds", "4",
         "--samples", "1")  # fmt: skip

#: The first shapes of such a tuning: so small a hidden size has no batch of 1 MiB.
SHAPES_OF_512 = 3


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Return (what a whole replayed tuning printed, its directory)."""
    out = tmp_path_factory.mktemp("tune") / "pr"
    done = tune("--backend", "replay", "--tp", "2,8", "--for", "vllm", "--out", out, *SHORT)
    return done, out


def test_the_whole_command_decides_and_hands_over(tuned):
    done, out = tuned
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "tune.json").read_text())
    assert record["decided"]
    assert [e["verdict"] for e in record["endings"]] == [CONFIRMED, CONFIRMED]
    two, eight = record["endings"]
    assert two["max_bytes"] is None
    assert eight["max_bytes_lo"] <= eight["max_bytes"] <= eight["max_bytes_hi"]
    assert eight["judged"] == len(choice.JUDGED_AT)
    rows = measurement.read(out / "measurements.csv")
    assert set(rows.source.tolist()) == {"replayed-MI355X-17"}
    # The rule on disk is the one that recommend reads from the calibration on disk.
    asked = costmodel(
        "recommend", "--calibration", out / "calibration.json", "--gpu", "MI355X", "--tp", "8",
        "--source", "replayed-MI355X-17", "--for", "vllm", "--format", "json",
    )  # fmt: skip
    again = json.loads(asked.stdout)
    assert again["cutoffs"][0]["max_bytes"] == eight["max_bytes"]
    assert again["cutoffs"][0]["max_bytes_lo"] == eight["max_bytes_lo"]


def test_where_separate_ops_run_otherwise_they_are_what_is_measured_and_judged(tmp_path):
    out = tmp_path / "pr"
    done = tune("--backend", "replay", "--tp", 4, "--hidden", 2880, "--otherwise", "separate",
                "--out", out, *SHORT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1-stage or separate ops on MI355X (xgmi): decided" in done.stdout
    rows = measurement.read(out / "measurements.csv")
    kinds = set(zip(rows.op.tolist(), rows.algorithm.tolist(), strict=True))
    assert kinds == {("fused_ar_rmsnorm", "1stage"), ("ar_then_rmsnorm", "")}
    (ending,) = json.loads((out / "tune.json").read_text())["endings"]
    assert ending["verdict"] == CONFIRMED
    assert ending["judged"] == len(choice.JUDGED_AT)


def test_several_models_are_tuned_for_at_once_and_each_has_its_report(tmp_path):
    out = tmp_path / "pr"
    models = "gpt-oss-120b, deepseek-v3"
    done = tune("--backend", "replay", "--tp", 8, "--for", "sglang", "--model", models,
                "--out", out, *SHORT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "tuning.json").read_text())["hidden"] == [2880, 7168]
    rows = measurement.read(out / "measurements.csv")
    assert set(rows.hidden_dim.tolist()) == {2880, 7168}
    for name in ("gpt-oss-120b", "deepseek-v3"):
        text = (out / "report" / name / "report.md").read_text()
        assert name in text
        assert "Replayed, not measured" in text
    assert (out / "rule.patch").exists()
    refused = tune("--out", out, "--finish", "--model", "gpt-oss-120b")
    assert "model gpt-oss-120b, deepseek-v3, not gpt-oss-120b" in refused.stderr


def test_whatever_a_replay_leaves_says_that_it_was_replayed(tuned):
    done, out = tuned
    assert "Replayed, not measured" in done.stdout
    for name in ("summary.md", "rule.patch"):
        assert "Replayed, not measured" in (out / name).read_text(), name
    for name in ("tune.json", "rule.json", "measurements.csv", "calibration.json"):
        text = (out / name).read_text()
        assert "replayed-MI355X-17" in text or '"replayed": true' in text, name


def test_finishing_again_writes_the_same(tuned):
    _, out = tuned
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    done = tune("--out", out, "--finish")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_killed_tuning_goes_on_to_the_same_end(tuned, tmp_path):
    _, whole = tuned
    out = tmp_path / "pr"
    command = [sys.executable, "-m", "costmodel", "tune", "--backend", "replay", "--tp", "2,8",
               "--for", "vllm", "--out", out, *SHORT]  # fmt: skip
    run = subprocess.Popen(
        [*map(str, command)], env={**os.environ, "COSTMODEL_REPLAY": "MI355X:17"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    rows = out / "tp2" / "measurements.csv"
    until = time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count("\n") >= 5) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    refused = tune("--backend", "replay", "--tp", "2,8", "--out", out)
    assert refused.returncode == 2
    assert "holds a tuning already" in refused.stderr
    done = tune("--out", out, "--resume", *SHORT)
    assert done.returncode == 0, done.stderr
    mine, theirs = (json.loads((d / "tune.json").read_text()) for d in (out, whole))
    assert mine["endings"][0]["steps"] == theirs["endings"][0]["steps"]
    assert mine["endings"][1]["max_bytes"] == theirs["endings"][1]["max_bytes"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--tp", 8), "world sizes [2, 8], not [8]"),
        (("--for", "aiter"), "engine vllm, not aiter"),
        (("--model", "gpt-oss-120b"), "model , not gpt-oss-120b"),
        (("--limit", 5), "contested pct 0.2, not 5.0"),
        (("--source", "/none"), "/none: no such file"),
    ],
)
def test_going_on_refuses_other_options_than_those_of_the_start(tuned, args, said):
    _, out = tuned
    before = (out / "tune.json").read_bytes()
    for how in ("--resume", "--finish"):
        done = tune("--out", out, how, *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    assert (out / "tune.json").read_bytes() == before


def test_a_budget_that_ends_before_three_shapes_decides_nothing(tmp_path):
    out = tmp_path / "pr"
    done = tune("--backend", "replay", "--tp", 8, "--hidden", 2880, "--budget", 0.001,
                "--out", out, *SHORT)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "not decided: the budget of time is spent after 1 of at least 3 shapes" in done.stdout
    assert not (out / "rule.json").exists()
    done = tune("--out", out, "--resume", "--tp", 8)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_at_the_end_keeps_what_was_measured(tuned, tmp_path):
    resource = pytest.importorskip("resource")
    _, whole = tuned
    out = tmp_path / "pr"
    subprocess.run(["cp", "-r", whole, out], check=True)
    small = (8192, 8192)  # bytes of one file: no calibration fits

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, small)

    done = tune_apart("--out", out, "--finish", preexec_fn=full)
    assert done.returncode == 4, done.stderr
    assert "calibration.json: cannot write" in done.stderr
    assert "then give --finish" in done.stderr
    assert tune("--out", out, "--finish").returncode == 0


def test_a_busy_machine_gets_no_rule(tuned, tmp_path):
    _, whole = tuned
    session = Session.open(whole)
    noisy = tmp_path / "pr"
    subprocess.run(["cp", "-r", whole, noisy], check=True)
    path = noisy / "tp8" / "samples.jsonl"
    path.write_text(path.read_text().replace('"clean":true', '"clean":false'))
    found = conclude(Session.open(noisy))
    assert [e.verdict for e in found.endings] == [CONFIRMED, BUSY]
    assert found.accepted == (2,)
    assert "noisy" in found.endings[1].reason
    assert conclude(session).accepted == (2, 8)


def test_a_rule_that_its_judging_shapes_contradict_is_not_handed_over(tuned, tmp_path):
    _, whole = tuned
    other = tmp_path / "pr"
    subprocess.run(["cp", "-r", whole, other], check=True)
    path = other / "tp8" / "samples.jsonl"
    learnt = json.loads((whole / "tune.json").read_text())["endings"][1]["shapes"]
    swap_arms(path, range(learnt, len(path.read_text().splitlines())))
    ending = conclude(Session.open(other)).endings[1]
    assert ending.verdict == "contradicted"
    assert ending.judged.lost_pct > 1


def test_processes_without_a_model_end_undecided_with_the_reason_and_no_patch(tmp_path):
    """Of two dtypes, in one start of the ranks; test_tuning_ops.py starts them from the command."""
    out = tmp_path / "pr"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = torchrun(2, *UNDER, "--for", "sglang", "--dtype", "bf16,fp16", "--unchecked", "--out", out,
                    env=environment, timeout=300)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("TP2: not decided: no model of this interconnect (gloo)") == 2
    for dtype in ("bf16", "fp16"):
        assert "not decided" in (out / dtype / "summary.md").read_text()
        rows = measurement.read(out / dtype / "measurements.csv")
        assert len(rows) == 2 * SHAPES_OF_512
        assert set(rows.dtype.tolist()) == {dtype}
        assert not (out / dtype / "rule.patch").exists()
        assert not (out / dtype / "rule.json").exists()


def test_several_dtypes_are_tuned_for_at_once_each_in_a_folder(tmp_path):
    out = tmp_path / "pr"
    command = ("--backend", "replay", "--tp", 8, "--hidden", 2880, "--dtype", "fp32,bf16")
    done = tune(*command, "--out", out, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TP8: confirmed") == 2
    for dtype in ("fp32", "bf16"):
        record = json.loads((out / dtype / "tune.json").read_text())
        assert record["decided"]
        assert set(measurement.read(out / dtype / "measurements.csv").dtype.tolist()) == {dtype}
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    assert tune("--out", out, "--finish").returncode == 0
    assert tune("--out", out, "--finish", "--dtype", "bf16,fp32").returncode == 0
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before
    again = tune(*command, "--out", out)
    assert (again.returncode, again.stdout) == (2, "")
    assert "exists and is not empty" in again.stderr
    other = tune("--out", out, "--finish", "--dtype", "bf16")
    assert "was started with dtype fp32, not bf16" in other.stderr


@pytest.mark.campaign
def test_ranks_of_torchrun_measure_every_world_size_that_they_make_up(tmp_path):
    out = tmp_path / "a"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = torchrun(4, *UNDER, "--out", out, env=environment, timeout=300)
    for size in (2, 4):
        assert f"TP{size}: not decided: no model of this interconnect (gloo)" in done.stdout
        assert done.stdout.count(f"the machine is ready for {size} ranks: 4 checks") == 1
        checked = json.loads((out / f"tp{size}" / "environment.json").read_text())["doctor"]
        assert len(checked) == 4
    assert "TP8" not in done.stdout
    assert set(measurement.read(out / "measurements.csv").world_size) == {2, 4}


def test_ranks_of_torchrun_refuse_once_what_they_cannot_tune(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    other = torchrun(2, *UNDER, "--tp", "8", "--out", tmp_path / "b", env=environment, timeout=300)
    assert other.stderr.count("--tp is 8, but torchrun started 2 processes; make them equal") == 1
    assert not (tmp_path / "b").exists()
    bad = torchrun(
        2, *UNDER, "--op", "fused,fp8", "--out", tmp_path / "c", env=environment, timeout=300
    )
    assert (
        bad.stderr.count("costmodel: error: no model covers fused all-reduce + RMSNorm + fp8") == 1
    )
    assert not (tmp_path / "c").exists()


def test_a_machine_that_is_not_ready_is_said_and_tuned_when_told(tmp_path):
    """One link of the AITER stand-in is slow."""
    here = Path(__file__).parent
    under = (2, "-m", "costmodel", "tune", "--backend", "aiter", "--tp", "2", "--hidden", "2048",
             "--rounds", "4", "--samples", "1", "--out", tmp_path / "pr")  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": f"{here / 'standins'}:{here.parent}", "OMP_NUM_THREADS": "1",
        "AITER_STANDIN_FAULT": "slow-link",
    }  # fmt: skip
    done = torchrun(*under, env=environment, timeout=300)
    assert done.returncode != 0
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("costmodel: ")]
    assert said.startswith("costmodel: error: the machine is not ready: link rates: free the")
    assert said.endswith("or tune it as it is with --unchecked")
    assert "not decided" not in done.stdout  # nothing was looked at that could be
    assert (tmp_path / "pr" / "tp2" / "samples.jsonl").read_text() == ""
    # One shape is enough to see that it measures.
    more = ("--resume", "--unchecked", "--budget", "0.001")
    done = torchrun(*under, *more, env=environment, timeout=300)
    assert "TP2: not decided" in done.stdout
    assert (tmp_path / "pr" / "tp2" / "samples.jsonl").read_text() != ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--tp", 8), "--backend is missing"),
        (("--backend", "nope"), "unknown back end 'nope'"),
        (("--backend", "replay", "--for", "trt"), "unknown engine 'trt'"),
        (
            ("--backend", "triton", "--for", "sglang"),
            "back end triton measures costmodel-3's kernels, which sglang does not run",
        ),
        (("--backend", "replay", "--budget", 0), "--budget is 0"),
        (("--backend", "replay", "--limit", 0), "--limit is 0"),
        (("--backend", "replay", "--shapes", 2), "--shapes"),
        (("--backend", "replay", "--dtype", "bf16,fp8"), "fp8"),
        (("--backend", "aiter", "--tp", 8), "torchrun --nproc-per-node=8"),
        (
            ("--backend", "aiter", "--op", "fused,plain"),
            "aiter cannot force both stages of all_red",
        ),
        (("--backend", "triton", "--op", "plain"), "it can those of fused_ar_rmsnorm"),
        (("--backend", "replay", "--op", "fused,fp8"), "no model covers fused all-reduce"),
        (("--backend", "replay", "--op", "nope"), "unknown op 'nope'"),
        (("--backend", "replay", "--op", ","), "--op names no op; give some of fused, plain"),
        (("--backend", "replay", "--op", "separate"), "--op fused --otherwise separate"),
        (
            ("--backend", "replay", "--op", "fused,plain", "--otherwise", "separate"),
            "--otherwise separate goes with the fused op",
        ),
        (("--backend", "replay", "--watchdog", 0), "--watchdog is 0"),
        (("--backend", "replay", "--rounds", 0), "--rounds is 0"),
        (("--backend", "gloo", "--hidden", 7), "hidden size 7 is rejected by the 1-stage kernel"),
        (("--backend", "gloo", "--op", "plain", "--hidden", 7), "input bytes a multiple of 16"),
        (("--backend", "replay", "--source", "."), "name the engine with --for"),
        (("--backend", "replay", "--for", "vllm", "--source", "/none"), "no such file"),
        (("--backend", "replay", "--model", "gpt-oss-120b,nope"), "model 'nope' is not in"),
        (
            ("--backend", "replay", "--model", "gpt-oss-120b,deepseek-v3", "--hidden", 64),
            "give one of",
        ),
        (("--resume", "--finish"), "one of --resume and --finish"),
        (("--resume",), "no tuning to go on with"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(args, said, tmp_path):
    out = tmp_path / "pr"
    done = tune(*args, "--out", out)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not out.exists()


def test_a_machine_that_is_not_ready_ends_with_that_alone(tmp_path, capsys, monkeypatch):
    """Also where this process runs all ranks: no table of what was not measured."""
    from costmodel.cli.main import main
    from costmodel.live.machine import WRONG, Check
    from costmodel.live.run import checkup

    monkeypatch.setenv("COSTMODEL_REPLAY", "MI355X:17")
    monkeypatch.setitem(
        checkup.STEPS, "looking", lambda backend: (Check("links", WRONG, "slow", "mend them"),)
    )
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--backend", "replay", "--tp", "4,8", "--hidden", "4096", "--out",
              str(tmp_path / "pr")])  # fmt: skip
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert said.err == (
        "costmodel: error: the machine is not ready: links: mend them; or tune it as it is with "
        "--unchecked\n"
    )
    assert "not decided" not in said.out


@pytest.mark.parametrize("replay", ["", "MI355X:x", "MI400:1"])
def test_a_replay_without_a_truth_is_one_line(replay, tmp_path):
    out = tmp_path / "pr"
    done = tune("--backend", "replay", "--tp", 8, "--out", out, replay=replay)
    assert done.returncode == 2
    assert done.stderr.startswith("costmodel: error:")
    assert len(done.stderr.strip().splitlines()) == 1
