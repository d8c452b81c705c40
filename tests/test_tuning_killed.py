"""A tuning on real processes that loses one, or is stopped: one line, what was kept, none left."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from command import costmodel
from test_live_killing import killing  # noqa: F401  (a fixture)

from costmodel.data import measurement

TUNE = (
    "tune", "--backend", "gloo", "--tp", "2", "--hidden", "2048", "--for", "sglang",
    "--rounds", "4", "--samples", "1", "--seed", "7", "--unchecked",
)  # fmt: skip


def started(tmp_path, mark, killing, *more, first="tp2"):  # noqa: F811
    """Start a tuning; return it once a shape is on disk, and where."""
    out = tmp_path / "pr"
    run = subprocess.Popen(
        [sys.executable, "-m", "costmodel", *TUNE, *more, "--out", out],
        env={**os.environ, killing.MARK: mark, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    samples, until = out / first / "samples.jsonl", time.monotonic() + 120
    while not (samples.exists() and samples.read_bytes().count(b"\n")):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return run, out


@pytest.mark.parametrize(
    ("who", "how", "code", "said"),
    [
        ("launcher", signal.SIGKILL, -9, "error: the launcher of the ranks is gone"),
        ("rank", signal.SIGKILL, 3, "error: rank 1 is gone (killed or crashed)"),
        ("launcher", signal.SIGINT, 130, "stopped by Ctrl-C at: "),
    ],
)
def test_one_line_what_was_kept_and_no_process_left(
    who, how, code, said, tmp_path, killing  # noqa: F811
):  # fmt: skip
    mark = f"tuning-{os.getpid()}-{how}-{who}"
    run, out = started(tmp_path, mark, killing)
    kept = (out / "tp2" / "samples.jsonl").read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    victims = {"launcher": run.pid, "rank": killing.processes(mark)[-1]}
    os.kill(victims[who], how)
    _, err = run.communicate(timeout=120)
    until = time.monotonic() + killing.GONE_S
    while killing.processes(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert killing.processes(mark) == []
    assert run.returncode == code
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert line.startswith(f"costmodel: {said}")
    assert "finished and kept; continue with --resume" in line
    assert (out / "tp2" / "samples.jsonl").read_bytes().startswith(kept)
    # It concludes from what there is: gloo is no machine that the model is of.
    done = costmodel("tune", "--out", out, "--finish")
    assert done.returncode == 1
    assert "TP2: not decided: no model of this interconnect (gloo)" in done.stdout
    assert "next: measure where a model is of the links" in done.stdout
    assert len(measurement.read(out / "measurements.csv")) >= 2
    assert not (out / "rule.patch").exists()


def test_ctrl_c_in_the_first_of_two_ops_keeps_it_and_says_of_the_other_that_it_waits(
    tmp_path, killing  # noqa: F811
):  # fmt: skip
    mark = f"tuning-ops-{os.getpid()}"
    run, out = started(tmp_path, mark, killing, "--op", "fused,plain", first="fused/tp2")
    os.kill(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert line.startswith("costmodel: stopped by Ctrl-C at: ")
    done = costmodel("tune", "--out", out, "--finish")
    assert done.returncode == 1
    assert done.stdout.count("TP2: not decided") == 1
    assert f"{out / 'plain'}: nothing was measured there yet; go on with --resume" in done.stderr
    assert (out / "fused" / "tune.json").exists()
    assert not (out / "plain" / "tune.json").exists()
