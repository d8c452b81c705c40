"""Several world sizes in one start: the first ranks form the group, the others stand by."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from command import costmodel
from ranks import rank_processes

from costmodel.data import measurement
from costmodel.errors import InputError
from costmodel.live.run.options import world_sizes
from tests.test_live_aiter import ENTRY, QUICK, torchrun

SHAPES = ("--hidden", "512", "--tokens", "2,4", "--seed", "5")


def gloo(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "costmodel", "measure", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def refused(*arguments):
    """Return what is said where no rank is started."""
    done = costmodel("measure", *arguments)
    assert done.returncode == 2
    return done.stderr


def columns(directory):
    """Return what the rows of a run say beside times and names of the run."""
    table = measurement.read(directory / "measurements.csv").to_rows()
    for row in table:
        for name in ("source", "date", "latency_us", "quality"):
            del row[name]
    return sorted(table, key=str)


def test_rows_are_those_of_separate_starts_and_resume_goes_on(tmp_path):
    both, two, four = (tmp_path / name for name in ("both", "two", "four"))
    measure = ("-m", "costmodel", "measure", "--backend", "gloo", *SHAPES, *QUICK)
    code, out, err = gloo("--backend", "gloo", "--tp", "2,4", *SHAPES, *QUICK, "--out", both)
    assert (code, err) == (0, "")
    assert re.findall(r"gloo on (\d) ranks", out) == ["2", "4"]
    for size, alone in ((2, two), (4, four)):
        code, _, _ = torchrun(*measure, "--tp", size, "--out", alone, ranks=size)
        assert code == 0
        assert columns(both / f"tp{size}") == columns(alone)
        settings = [json.loads((d / "run.json").read_text()) for d in (both / f"tp{size}", alone)]
        for each in settings:
            del each["id"], each["started"]
        assert settings[0] == settings[1]
    (both / "tp4" / "run.json").unlink()  # as if it had ended before the second
    for name in ("samples.jsonl", "measurements.csv"):
        (both / "tp4" / name).unlink()
    kept = (both / "tp2" / "samples.jsonl").read_bytes()
    assert refused("--resume", "--tp", "2,4", "--out", both).count("--backend is missing") == 1
    code, out, _ = torchrun(*measure, "--tp", "2,4", "--out", both, "--resume", ranks=4)
    assert code == 0
    assert out.count("continuing run") == out.count("starting run") == 1
    assert (both / "tp2" / "samples.jsonl").read_bytes() == kept
    assert columns(both / "tp4") == columns(four)
    err = refused("--resume", "--out", both)
    assert "holds runs of several world sizes (tp2, tp4); name them with --tp" in err


def test_aiters_groups_are_made_anew_in_one_start(tmp_path):
    run = tmp_path / "run"
    code, out, _ = torchrun(
        *ENTRY, "--tp", "2,4", "--hidden", "1024", "--tokens", "2", "--arms",
        "1stage,2stage,separate,plain_1stage", *QUICK, "--out", run, ranks=4,
    )  # fmt: skip
    assert code == 0
    assert "custom all-reduce enabled on 2 ranks" in out
    assert "custom all-reduce enabled on 4 ranks" in out
    for size in (2, 4):
        (record,) = [
            json.loads(line) for line in (run / f"tp{size}" / "samples.jsonl").open()
        ][:1]  # fmt: skip
        assert f", {size}, false>" in record["arms"]["1stage"]["kernels"][0]
        assert len(record["arms"]["1stage"]["latency_us"][0][0]) == size
        assert set(measurement.read(run / f"tp{size}/measurements.csv").world_size) == {size}


def test_an_aiter_that_cannot_group_anew_is_one_line(tmp_path):
    code, _, said = torchrun(
        *ENTRY, "--tp", "2,4", *SHAPES, *QUICK, "--out", tmp_path / "run", ranks=4,
        AITER_STANDIN_VERSION="0.1.10.post2",
    )  # fmt: skip
    assert code != 0
    assert said == [
        "costmodel: error: AITER 0.1.10.post2 cannot group its ranks anew in one process (0.1.11 "
        "and later can); start each world size by itself"
    ]
    assert not (tmp_path / "run" / "tp2").exists()


def test_a_rank_that_stands_by_and_is_killed_ends_the_run(tmp_path):
    """It is told, nothing is lost, and no process is left."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "costmodel", "measure", "--backend", "gloo", "--tp", "2,4",
         *SHAPES, "--rounds", "4000", "--samples", "10", "--watchdog", "10", "--out", run],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COSTMODEL_TEST": str(run)},
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (run / "tp2" / "run.json").exists() and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(rank_processes(process.pid)[3], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "rank 3" in err
    assert "0 of 2 shapes are finished and kept" in err or "killed" in err
    until = time.monotonic() + 10
    while processes(str(run)) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes(str(run)) == []


def environment(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            pairs = [entry.partition(b"=")[::2] for entry in stream.read().split(b"\0")]
    except OSError:
        return {}
    return {name.decode(): value.decode(errors="replace") for name, value in pairs}


def processes(mark):
    found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in found if environment(pid).get("COSTMODEL_TEST") == mark]


@pytest.mark.parametrize(
    ("started", "named", "wanted"),
    [
        (1, (2, 4, 2), (2, 4)), (1, (), ()), (8, (), (8,)), (8, (2, 8, 4), (2, 8, 4)),
        (8, (4,), "--tp is 4, but torchrun started 8 processes; make them equal"),
        (8, (2, 4), "make its largest equal"), (6, (4, 6), "the others parts of it"),
    ],
)  # fmt: skip
def test_the_world_sizes_of_torchruns_processes(monkeypatch, started, named, wanted):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(started))
    if isinstance(wanted, str):
        with pytest.raises(InputError, match=wanted):
            world_sizes(named)
    else:
        assert world_sizes(named) == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tp", "2,3"), "unknown world size 3"),
        (("--tp", "2,4", "--starts", "2"), "--starts measures one world size"),
        (("--tp", "2,4", "--resume"), "nothing to resume"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, said):
    err = refused("--backend", "gloo", *SHAPES, *arguments, "--out", tmp_path / "run")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_directory_of_one_world_size_is_not_one_of_several(tmp_path):
    (tmp_path / "run.json").write_text((EXAMPLE).format(size=2))
    err = refused("--backend", "gloo", "--tp", "2,4", *SHAPES, "--out", tmp_path)
    assert "holds a run of one world size; give another --out for several, or --tp 2" in err


EXAMPLE = (
    '{{"schema": "costmodel/run/1", "id": "x", "started": "", "backend": "gloo", '
    '"world_size": {size}, "timing": "eager", "seed": 1, "rounds": 4, "samples": 1, "calls": 2, '
    '"slots": 2, "warm_up": 1, "points": [], "labels": {{"gpu": "", "arch": "", '
    '"interconnect": "", "kernel_family": "", "kernel_version": "", "genuine": "yes"}}}}'
)
