"""``costmodel measure`` as people run it: real processes over gloo, and what can happen to them."""

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

from ranks import rank_processes, torchrun

from costmodel.cli.main import main
from costmodel.data import measurement

QUICK = ("--rounds", "4", "--samples", "2", "--slots", "2")
SHAPES = ("--backend", "gloo", "--tp", "2", "--hidden", "512")
#: Enough shapes, each long enough, that something can happen in the midst of them.
LONG = (*SHAPES, "--tokens", "1..16", "--rounds", "8", "--samples", "8", "--slots", "2")
LONG = (*LONG, "--calls", "2")


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "costmodel", "measure", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process):
    """Return (exit code, standard output, standard error)."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def measure(*arguments, **options):
    return finish(start(*arguments, **options))


def under_torchrun(*arguments):
    """Measure on two ranks that need not import torch anew."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return torchrun(2, "-m", "costmodel", "measure", *arguments, env=environment, timeout=60)


def first_shape_done(directory, shapes=1):
    until = time.monotonic() + 40
    path = directory / "samples.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < shapes:
        assert time.monotonic() < until, "no shape was finished"
        time.sleep(0.02)


def alive(pid):
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kept(directory):
    return {name: (directory / name).read_bytes() for name in ("samples.jsonl", "measurements.csv")}


def assert_resumes(directory, before, shapes):
    done = under_torchrun("--resume", "--out", directory)
    assert done.returncode == 0, done.stderr
    for name, data in kept(directory).items():
        assert data.startswith(before[name])
    table = measurement.read(directory / "measurements.csv")
    assert len(table) == 2 * shapes
    assert len(set(zip(table.tokens, table.algorithm, strict=True))) == 2 * shapes
    return done.stdout


FORBIDDEN = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("scipy", "pandas", "plotly", "tabulate"):
            sys.stderr.write(f"imported {name}\\n")
            raise ImportError(f"{name} is not in an engine's container")
sys.meta_path.insert(0, Forbid())
"""


ARMS = "1stage,2stage,separate,plain_1stage,plain_2stage"


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.campaign)])
def test_gloo_measures_its_arms_without_scipy_pandas_and_plotly(tmp_path, ranks):
    (tmp_path / "sitecustomize.py").write_text(FORBIDDEN)
    run = tmp_path / "run"
    code, out, err = measure(
        "--backend", "gloo", "--tp", ranks, "--hidden", "512", "--tokens", "1,3", "--dtype",
        "bf16", "--arms", ARMS, *QUICK, "--calls", "2", "--seed", "11",
        "--out", run, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (code, err) == (0, "")
    table = measurement.read(run / "measurements.csv")
    assert sorted(zip(table.tokens, table.op, table.algorithm, strict=True)) == [
        (tokens, op, algorithm)
        for tokens in (1, 3)
        for op, algorithm in (
            ("all_reduce", "1stage"), ("all_reduce", "2stage"), ("ar_then_rmsnorm", ""),
            ("fused_ar_rmsnorm", "1stage"), ("fused_ar_rmsnorm", "2stage"),
        )
    ]  # fmt: skip
    assert set(table.world_size) == {ranks}
    assert set(table.interconnect) == set(table.kernel_family) == {"gloo"}
    assert set(table.timing) == {"eager"}
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["shape", "shape", "again"]
    for line in lines:
        for arm in line["arms"].values():
            assert arm["correct"]
            assert np.array(arm["latency_us"]).shape == (4, 2, ranks)
    first = lines[0]["arms"]["1stage"]
    rows = table.latency_us[(table.algorithm == "1stage") & (table.op == "fused_ar_rmsnorm")]
    rounds = np.median(np.array(first["latency_us"]).max(axis=2), axis=1)
    assert rows[0] == pytest.approx(np.median(rounds), abs=1e-3)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["libraries"]["torch"]
    assert environment["backend"]["gpu"] == "CPU"
    assert "seed 11" in out
    assert "A/A over the whole run" in out


TWO_ARMS = """
import torch
from costmodel.live.backends.base import LiveShape
from costmodel.live.backends.gloo import GlooBackend
import os
backend = GlooBackend(int(os.environ["WORLD_SIZE"]))
backend.set_up()
for shape in (LiveShape(3, 512, "bf16"), LiveShape(5, 1024, "fp16")):
    backend.prepare(shape, 1, 5)
    found = {}
    for arm in ("plain_1stage", "1stage", "plain_2stage", "2stage"):
        timed = backend.capture(arm, 1, "eager")
        backend.exchange(None)
        backend.poison()
        backend.exchange(None)
        timed.replay(1)
        found[arm] = [t.clone() for t in backend.outputs(0)[0]]
    same = all(
        torch.equal(a, b)
        for op in ("", "plain_")
        for a, b in zip(found[op + "1stage"], found[op + "2stage"])
    )
    # Of the plain op the check makes the outputs; of the fused one they are what it wrote.
    made = {arm: outputs[0].dtype == torch.float32 for arm, outputs in found.items()}
    assert made == {arm: arm.startswith("plain") for arm in found}, made
    ranks = backend.exchange((same, found["1stage"][0].float().sum().item()))
    assert all(s for s, _ in ranks), ranks
    assert len({total for _, total in ranks}) == 1, ranks
backend.close()
backend.leave()
"""


def test_both_stages_agree_to_the_bit_on_four_ranks(tmp_path):
    script = tmp_path / "two_arms.py"
    script.write_text(TWO_ARMS)
    done = torchrun(4, script, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_killed_rank_is_named(tmp_path):
    run = tmp_path / "run"
    process = start(*LONG, "--out", run)
    first_shape_done(run)
    os.kill(rank_processes(process.pid)[1], signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 3
    assert "costmodel: error: rank 1 is gone (killed or crashed); this was at: " in err
    assert "tokens x 512 hidden bf16" in err
    assert "5 shapes are finished and kept; continue with --resume" in err
    assert len(err.strip().splitlines()) == 1
    assert len(measurement.read(run / "measurements.csv")) >= 2


def test_a_stopped_rank_is_named_by_the_watchdog(tmp_path):
    run = tmp_path / "run"
    process = start(*LONG, "--watchdog", "2", "--out", run)
    first_shape_done(run)
    os.kill(rank_processes(process.pid)[1], signal.SIGSTOP)
    code, _, err = finish(process)
    assert code == 3
    assert "rank 1 is stopped (SIGSTOP) for longer than 2 s; this was at: " in err
    assert len(err.strip().splitlines()) == 1
    assert len(measurement.read(run / "measurements.csv")) >= 2


def test_ctrl_c_keeps_finished_shapes_and_the_run_resumes(tmp_path):
    run = tmp_path / "run"
    process = start(*LONG, "--out", run)
    first_shape_done(run)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "costmodel: stopped by Ctrl-C at: " in err
    assert "continue with --resume" in err
    assert len(err.strip().splitlines()) == 1
    out = assert_resumes(run, kept(run), 5)
    assert out.startswith("continuing run gloo-tp2-")


def test_a_killed_launcher_takes_its_ranks_along_and_the_run_resumes_at_once(tmp_path):
    run = tmp_path / "run"
    process = start(*LONG, "--out", run)
    first_shape_done(run)
    ranks = rank_processes(process.pid)
    assert len(ranks) == 2
    before = kept(run)
    process.kill()
    process.wait(10)
    until = time.monotonic() + 5
    while left := [pid for pid in ranks.values() if alive(pid)]:
        assert time.monotonic() < until, f"ranks {left} outlived their launcher"
        time.sleep(0.05)
    _, err = process.communicate(timeout=10)
    assert len(err.strip().splitlines()) == 1
    assert "costmodel: error: the launcher of the ranks is gone (killed or crashed); this" in err
    assert "continue with --resume" in err
    assert_resumes(run, before, 5)


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_while_the_ranks_start(tmp_path, number, code, name):
    process = start(*LONG, "--out", tmp_path / "run")
    until = time.monotonic() + 30
    while len(rank_processes(process.pid)) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, number)
    ended, _, err = finish(process)
    assert ended == code
    assert err.strip().startswith(f"costmodel: stopped by {name}")
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "samples.jsonl").exists()


def test_a_plan_is_run_in_its_order_within_a_budget(tmp_path):
    shapes = [
        {"tokens": tokens, "hidden_dim": 512, "world_size": size, "algorithm": "2stage"}
        for tokens, size in ((8, 2), (1, 2), (4, 2), (4, 8))
    ]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"schema": "costmodel/plan/1", "shapes": shapes}))
    run = tmp_path / "run"
    arguments = (
        "--backend",
        "gloo",
        "--tp",
        "2",
        "--plan",
        plan,
        *QUICK,
        "--calls",
        "2",
        "--budget",
        "600",
    )
    code, out, err = measure(*arguments, "--out", run)
    assert (code, err) == (0, "")
    table = measurement.read(run / "measurements.csv")
    assert table.tokens.tolist() == [8, 1, 4]
    assert set(table.algorithm) == {"2stage"}
    assert "1 entries are for other world sizes" in out


BAD = [
    ((), "--backend is missing"),
    (("--backend", "glo"), r"unknown back end 'glo' (did you mean gloo?)"),
    ((*SHAPES,), "--tokens is missing"),
    ((*SHAPES, "--tokens", "1,x"), "--tokens: 'x' is not a positive integer"),
    (("--backend", "gloo", "--tp", "3", "--tokens", "1", "--hidden", "8"), "unknown world size 3"),
    ((*SHAPES, "--tokens", "1", "--dtype", "fp8"), "unknown dtype 'fp8'"),
    ((*SHAPES, "--tokens", "1", "--arms", "1satge"), "unknown arm '1satge'"),
    ((*SHAPES, "--tokens", "1", "--timing", "graph"), "gloo offers eager only"),
    ((*SHAPES, "--tokens", "1", "--timing", "fast"), "--timing is 'fast'"),
    ((*SHAPES, "--tokens", "1", "--budget", "0"), "--budget is 0"),
    ((*SHAPES, "--tokens", "1", "--watchdog", "-1"), "--watchdog is -1"),
    ((*SHAPES, "--tokens", "1", "--rounds", "2"), "at least 4 rounds"),
    ((*SHAPES, "--tokens", "1", "--plan", "p.json"), "leave out --hidden"),
    (("--backend", "gloo", "--plan", "none.json"), "none.json: No such file"),
    (("--resume",), "nothing to resume"),
    (
        ("--backend", "aiter", "--tp", "2", "--tokens", "1", "--hidden", "512"),
        "start it as torchrun --nproc-per-node=2 -m costmodel measure",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["measure", *arguments, "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err.startswith("costmodel: error: ")
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""
    assert not (tmp_path / "run").exists()


def test_torchrun_and_tp_must_agree(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    for said in ("--tp is 4, but torchrun started 2 processes", ""):  # the second rank is silent
        with pytest.raises(SystemExit) as ended:
            main(["measure", "--backend", "gloo", "--tp", "4", "--tokens", "1", "--hidden", "512",
                  "--out", str(tmp_path / "run")])  # fmt: skip
        assert ended.value.code == 2
        err = capsys.readouterr().err
        assert said in err
        assert bool(err) == bool(said)


def test_a_shape_that_does_not_fit_into_memory_is_said_once(tmp_path):
    code, _, err = measure(*SHAPES, "--tokens", 10**9, "--out", tmp_path / "run")
    assert code == 2
    assert "out of memory at 1000000000 tokens x 512 hidden bf16 with 8 slots" in err
    assert len(err.strip().splitlines()) == 1


def test_the_settings_of_a_resumed_run_must_be_the_same(tmp_path, capsys):
    run = tmp_path / "run"
    settings = {
        "schema": "costmodel/run/1", "id": "x", "backend": "gloo", "world_size": 2,
        "timing": "eager", "seed": 5, "rounds": 4, "samples": 2, "calls": 2, "slots": 2,
        "warm_up": 3, "started": "2026-09-01T08:00:00Z",
        "labels": {
            "gpu": "CPU", "arch": "x86_64", "interconnect": "gloo", "kernel_family": "gloo",
            "kernel_version": "", "genuine": "no",
        },
        "points": [{"tokens": 1, "hidden_dim": 512, "dtype": "bf16", "arms": ["1stage"]}],
    }  # fmt: skip
    run.mkdir()
    (run / "run.json").write_text(json.dumps(settings))
    for arguments, message in [
        (("--tp", "4"), "--resume: --tp is 4, the run in"),
        (("--backend", "triton"), "--resume: --backend is triton"),
        (("--seed", "6"), "--resume: --seed is 6"),
        (("--tokens", "2", "--hidden", "512", "--arms", "1stage"), "the list of shapes and arms"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(["measure", "--resume", *arguments, "--out", str(run)])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    for arguments, message in [
        (
            ("--backend", "gloo", "--tp", "4", "--hidden", "8", "--tokens", "1"),
            "world size 2, this",
        ),
        (
            ("--backend", "gloo", "--tp", "2", "--hidden", "8", "--tokens", "1"),
            "holds a run already",
        ),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(["measure", *arguments, "--out", str(run)])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    # the software that it started with: labels are compared once the ranks are up
    code, _, err = measure("--resume", "--out", run)
    assert code == 2
    assert "the machine or its software" in err
