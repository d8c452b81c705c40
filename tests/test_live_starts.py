"""Several fresh starts of one measurement, and whether the library's choice flipped between them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.cli.schemas import types_of
from costmodel.files import read_json
from costmodel.live.run.starts import compare, describe

STANDINS = Path(__file__).parent / "standins"
LINE = (
    "measure", "--backend", "aiter", "--tp", "2", "--hidden", "1024", "--tokens", "1",
    "--arms", "auto", "--rounds", "4", "--samples", "2", "--slots", "2", "--calls", "2",
    "--starts", "2",
)  # fmt: skip


def measure(path, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "costmodel", *LINE, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(path), **environment},
    )


def record(*kernels, latency_us=10.0):
    from costmodel.live.run.statistics import Latency

    fields = dict.fromkeys(Latency.__annotations__, 0.0)
    summary = Latency(**{**fields, "latency_us": latency_us})
    point = {"tokens": 8, "hidden_dim": 512, "dtype": "bf16", "arms": ["auto"]}
    return {"kind": "shape", "point": point, "arms": {"auto": {
        "kernels": list(kernels), "summary": summary}}}  # fmt: skip


def test_a_flip_is_a_start_whose_kernels_are_other_than_before():
    starts = [[record("a")], [record("b", "c")], [record("b", "c")], [record("a")]]
    found = compare(starts)
    (arm,) = found["arms"]
    assert (found["starts"], arm["flips"]) == (4, 2)
    assert arm["kernels"] == [["a"], ["b", "c"], ["b", "c"], ["a"]]
    assert describe(found)[0] == (
        "auto flipped 2 times at 8 tokens x 512 hidden bf16: a; b, c; b, c; a"
    )
    assert "the kernels of 1 of 1 arms and shapes changed" in describe(found)[1]


def test_kernels_that_cannot_be_named_are_no_flip():
    found = compare([[record(latency_us=10.0)], [record(latency_us=11.0)]])
    assert found["arms"][0]["flips"] == 0
    assert describe(found) == [
        "2 starts: no kernels could be named; measure --arms auto",
        "medians of one arm and shape lie at most 10.0 % apart between starts",
    ]


def test_a_choice_that_flips_between_starts_is_counted(tmp_path):
    standin = tmp_path / "standin"
    shutil.copytree(STANDINS, standin)
    file = standin / "aiter" / "dist" / "device_communicators" / "communicator_cuda.py"
    rule = "        if self._ar_1stage_override is not None:\n"
    text = file.read_text()
    assert rule in text
    flips = '        import sys\n\n        use_1stage = "start-2" in sys.argv[1]\n'
    file.write_text(text.replace(rule, flips + rule))
    done = measure(standin, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (
        "auto flipped 1 times at 1 tokens x 1024 hidden bf16: aiter::reduce_scatter" in done.stdout
    )
    kind = types_of("costmodel/starts/1")[0]
    kept = read_json(tmp_path / "out" / "starts.json", kind, "starts")
    assert kept["arms"][0]["flips"] == 1
    for number in (1, 2):
        run = json.loads((tmp_path / "out" / f"start-{number}" / "run.json").read_text())
        assert run["world_size"] == 2


def test_torchrun_and_starts_exclude_each_other(tmp_path):
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500", "TMPDIR": str(tmp_path)}
    done = measure(STANDINS, "--out", tmp_path / "out", **torchrun)
    assert done.returncode == 2
    assert done.stderr == "costmodel: error: --starts starts the ranks itself; leave out torchrun\n"
