import json
import os
import resource
import subprocess
import sys
import threading

import pytest
from conftest import ROW
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.data import measurement
from costmodel.errors import InputError
from costmodel.live.run.directory import RunDirectory, check_same, check_vacant, read_settings
from costmodel.live.run.exit_codes import CANNOT_WRITE, RunEnded

POINT = {"tokens": 8, "hidden_dim": 4096, "dtype": "bf16", "arms": ["1stage"]}

SETTINGS = {
    "schema": "costmodel/run/1", "id": "run-1", "started": "2026-09-01T08:00:00Z",
    "backend": "gloo", "world_size": 2, "timing": "eager", "seed": 1, "rounds": 4, "samples": 5,
    "calls": 2, "slots": 2, "warm_up": 1, "points": [POINT],
    "labels": {
        "gpu": "CPU", "arch": "x86_64", "interconnect": "gloo", "kernel_family": "gloo",
        "kernel_version": "", "genuine": "no",
    },
}  # fmt: skip


def record(index, kind="shape"):
    rows = [] if kind == "again" else [{**ROW, "latency_us": 9.5 + index}]
    arm = {
        "correct": True, "worst_error": None, "wrong_ranks": [], "summary": None, "clean": None,
        "kernels": [], "latency_us": [[[1.5, 1.5]] * 5],
    }  # fmt: skip
    return {
        "kind": kind, "index": index, "when": "2026-09-01T08:00:01Z", "seconds": 1.0,
        "point": POINT, "arms": {"1stage": arm}, "rows": rows,
    }  # fmt: skip


def started(directory, shapes=3):
    run = RunDirectory.start(directory, SETTINGS, {"gpu": "none"})
    for index in range(shapes):
        run.append(record(index))
    run.close()
    return (directory / "samples.jsonl").read_bytes(), (directory / "measurements.csv").read_bytes()


def test_what_is_written_is_schema_1_and_the_record(tmp_path):
    samples, _ = started(tmp_path / "run")
    table = measurement.read_all([tmp_path / "run"])
    assert table.latency_us.tolist() == [9.5, 10.5, 11.5]
    assert [json.loads(line)["index"] for line in samples.splitlines()] == [0, 1, 2]
    assert json.loads((tmp_path / "run" / "environment.json").read_text()) == {"gpu": "none"}
    assert read_settings(tmp_path / "run") == SETTINGS


@settings(deadline=None)  # each example syncs a dozen writes to a disk that may be busy
@given(st.data())
def test_wherever_a_run_was_cut_its_finished_shapes_are_kept(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("cut")
    samples, rows = started(directory)
    ends = [i + 1 for i, byte in enumerate(samples) if byte == 10]
    cut = data.draw(st.integers(0, len(samples)))
    finished = sum(end <= cut for end in ends)
    # the rows of a shape follow its line: they reach at most as far as the lines do
    reach = len(b"".join(rows.splitlines(keepends=True)[: finished + 1]))
    (directory / "samples.jsonl").write_bytes(samples[:cut])
    (directory / "measurements.csv").write_bytes(rows[: data.draw(st.integers(0, reach))])
    run = RunDirectory.resume(directory)
    assert run.finished() == set(range(finished))
    for index in range(finished, 3):
        run.append(record(index))
    run.close()
    assert (directory / "samples.jsonl").read_bytes() == samples
    assert (directory / "measurements.csv").read_bytes() == rows


def test_a_shape_measured_again_is_no_finished_shape(tmp_path):
    run = RunDirectory.start(tmp_path, SETTINGS, {})
    run.append(record(4, kind="again"))
    assert run.finished() == set()
    run.close()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("samples.jsonl", '{"kind": "shape"}\n', "samples.jsonl:1: object missing .* `index`"),
        ("samples.jsonl", "kind\n", "samples.jsonl:1: truncated or not JSON"),
        ("measurements.csv", "a,b\n1,2\n", "measurements.csv is not what"),
        ("run.json", "{", r"run.json: truncated or not JSON \(line 1\)"),
        ("run.json", '{"schema": "costmodel/run/9"}', "this version reads 'costmodel/run/1'"),
    ],
)
def test_a_run_that_was_changed_is_not_continued(tmp_path, name, text, message):
    started(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        RunDirectory.resume(tmp_path)


def test_two_runs_do_not_write_to_one_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("costmodel.live.run.directory.ENDING_S", 0.0)
    run = RunDirectory.start(tmp_path, SETTINGS, {})
    with pytest.raises(InputError, match="another measure is writing there"):
        RunDirectory.resume(tmp_path)
    run.close()
    RunDirectory.resume(tmp_path).close()


def test_ranks_that_still_end_are_waited_for(tmp_path):
    run = RunDirectory.start(tmp_path, SETTINGS, {})
    threading.Timer(0.3, run.close).start()
    RunDirectory.resume(tmp_path).close()


def test_a_new_run_needs_a_vacant_directory(tmp_path):
    check_vacant(tmp_path / "none", 2)
    check_vacant(tmp_path, 2)
    started(tmp_path / "run")
    with pytest.raises(InputError, match="continue it with --resume"):
        check_vacant(tmp_path / "run", 2)
    with pytest.raises(InputError, match="world size 2, this one has 8"):
        check_vacant(tmp_path / "run", 8)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(InputError, match="is no part of a run"):
        check_vacant(tmp_path / "run", 2)
    with pytest.raises(InputError, match="nothing to resume"):
        read_settings(tmp_path)


def test_other_settings_name_the_option(tmp_path):
    check_same(tmp_path, SETTINGS, {"rounds": 4, "world_size": 2, "budget": 9})
    with pytest.raises(InputError, match=r"--rounds is 5, the run in .* was started with 4"):
        check_same(tmp_path, SETTINGS, {"rounds": 5})
    with pytest.raises(InputError, match="list of shapes and arms is another"):
        check_same(tmp_path, {**SETTINGS, "points": [1]}, {"points": [2]})


def test_a_disk_that_fills_between_the_line_and_its_rows_takes_the_line_back(tmp_path):
    run = RunDirectory.start(tmp_path, SETTINGS, {})
    run.append(record(0))
    before = (tmp_path / "samples.jsonl").read_bytes()
    run._rows = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(RunEnded, match=r"cannot write .*measurements.csv") as ended:
        run.append(record(1))
    assert ended.value.exit_code == CANNOT_WRITE
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    assert run.finished() == {0}
    run.close()


FILL = """
import sys
import threading
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_live_directory import SETTINGS, record
from costmodel.live.run.exit_codes import RunEnded
from costmodel.live.run.directory import RunDirectory
run = RunDirectory.start(Path({directory!r}), SETTINGS, {{}})
try:
    for index in range(1000):
        run.append(record(index))
except RunEnded as error:
    print(len(run.records), error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("limit", [1500, 1700, 1900, 2100, 2300])
def test_a_full_disk_leaves_whole_shapes(tmp_path, limit):
    """A limit on the size of files stands for the disk: whichever of the two files meets it."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", FILL.format(tests=str(__file__).rpartition("/")[0],
                                           directory=str(tmp_path / "run"))],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == CANNOT_WRITE, done.stderr
    finished, _, message = done.stdout.partition(" ")
    assert "cannot write" in message
    assert "File too large" in message
    samples = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert samples.endswith(b"\n")
    assert samples.count(b"\n") == int(finished) > 0
    table = measurement.read(tmp_path / "run" / "measurements.csv")
    assert len(table) == int(finished)
    run = RunDirectory.resume(tmp_path / "run")
    assert run.finished() == set(range(int(finished)))
    run.close()
