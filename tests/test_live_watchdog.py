"""The watchdog in real processes that hang, stop, die and are interrupted; no torch needed."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from costmodel.live.run.peers import join

BODY = """
import os, sys, time
from costmodel.live.run.peers import join
from costmodel.live.run.watchdog import Watchdog
peers = join()
other = 1 - peers.rank
def meet(name):
    open(peers.meeting_place / f"{name}-{peers.rank}", "w").close()
    while not (peers.meeting_place / f"{name}-{other}").exists():
        time.sleep(0.01)
def blocked():
    os.read(os.pipe()[0], 1)
with Watchdog(peers, 1.0) as watch:
    watch.epilogue = "2 of 5 shapes are kept"
    watch.step("64 tokens, arm 2stage, round 1")
    meet("begun")
"""


def ranks(body, tmp_path, port):
    """Start two ranks as torchrun would; they meet in a place of their own."""
    script = textwrap.dedent(BODY) + textwrap.indent(textwrap.dedent(body), "    ")
    environment = {"WORLD_SIZE": "2", "MASTER_PORT": port, "TMPDIR": str(tmp_path)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def ended(processes):
    """Return exit codes and everything that was said."""
    said = "".join(process.communicate(timeout=20)[1] for process in processes)
    return [process.returncode for process in processes], said.strip()


def begun(tmp_path):
    until = time.monotonic() + 20
    while len(list(tmp_path.glob("costmodel-*/begun-*"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_hang_of_all_ranks_is_said_once(tmp_path):
    codes, said = ended(ranks("blocked()", tmp_path, "1"))
    assert codes == [3, 3]
    assert said == (
        "costmodel: error: no progress within 1 s at: 64 tokens, arm 2stage, round 1; all ranks "
        "are in it; 2 of 5 shapes are kept"
    )


def test_a_rank_that_is_behind_is_named(tmp_path):
    body = """
    if peers.rank == 0:
        watch.step("64 tokens, arm 2stage, round 2")
    else:
        watch.rest()
    blocked()
    """
    processes = ranks(body, tmp_path, "2")
    assert processes[0].wait(20) == 3
    processes[1].kill()
    _, said = ended(processes)
    assert "at: 64 tokens, arm 2stage, round 2; rank 1 is behind, still at: " in said
    assert "rank 1 is behind, still at: 64 tokens, arm 2stage, round 1;" in said


def test_a_stopped_rank_is_named_and_ended(tmp_path):
    processes = ranks("blocked()", tmp_path, "3")
    begun(tmp_path)
    os.kill(processes[1].pid, signal.SIGSTOP)
    codes, said = ended(processes)
    assert codes == [3, -signal.SIGKILL]
    assert said.startswith("costmodel: error: rank 1 is stopped (SIGSTOP) for longer than 1 s;")
    assert "this was at: 64 tokens, arm 2stage, round 1; 2 of 5 shapes are kept" in said


@pytest.mark.parametrize("reaped", [True, False])
def test_sigterm_after_a_rank_died_tells_of_the_death(tmp_path, reaped):
    processes = ranks("blocked()", tmp_path, "4")
    begun(tmp_path)
    processes[1].kill()
    # unless its launcher has waited for it, a dead process stays in the process table
    os.waitid(os.P_PID, processes[1].pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    processes[0].terminate()
    codes, said = ended(processes)
    assert codes[0] == 3
    assert said.startswith("costmodel: error: rank 1 is gone (killed or crashed); this was at: 64")


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_ends_a_process_that_is_blocked(tmp_path, number, code, name):
    processes = ranks("blocked()", tmp_path, "5")
    begun(tmp_path)
    for process in processes:
        process.send_signal(number)
    codes, said = ended(processes)
    assert codes == [code, code]
    assert said == (
        f"costmodel: stopped by {name} at: 64 tokens, arm 2stage, round 1; 2 of 5 shapes are kept"
    )


def test_a_signal_waits_for_the_end_of_a_write(tmp_path):
    body = f"""
    with watch.unbroken():
        open({str(tmp_path / "writing")!r}, "w").close()
        time.sleep(0.6)
        open({str(tmp_path / "written")!r}, "w").close()
    blocked()
    """
    processes = ranks(body, tmp_path, "6")
    while not (tmp_path / "writing").exists():
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGINT)
    codes, _ = ended(processes)
    assert codes == [130, 130]
    assert (tmp_path / "written").exists()


def test_ranks_that_finish_in_time_are_left_alone(tmp_path):
    body = """
    time.sleep(0.3)
    watch.step("64 tokens, arm 2stage, round 2")
    watch.rest()
    time.sleep(1.3)
    """
    codes, said = ended(ranks(body, tmp_path, "7"))
    assert (codes, said) == ([0, 0], "")


def test_patience_stretches_the_limit(tmp_path):
    body = """
    watch.step("compiling", patience=5.0)
    time.sleep(1.6)
    """
    codes, said = ended(ranks(body, tmp_path, "8"))
    assert (codes, said) == ([0, 0], "")


def test_patience_is_not_for_ranks_that_are_lost(tmp_path):
    body = """
    watch.step("compiling", patience=1000.0)
    blocked()
    """
    processes = ranks(body, tmp_path, "9")
    begun(tmp_path)
    os.kill(processes[1].pid, signal.SIGSTOP)
    codes, said = ended(processes)
    assert codes == [3, -signal.SIGKILL]
    assert "rank 1 is stopped (SIGSTOP) for longer than 1 s" in said


def test_meeting_places_of_dead_launchers_are_forgotten(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale = tmp_path / f"costmodel-{os.getuid()}-{gone.pid}-29500"
    alive = tmp_path / f"costmodel-{os.getuid()}-{os.getpid()}-29500"
    stale.mkdir()
    alive.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29501"}.items():
        monkeypatch.setenv(name, value)
    place = join().meeting_place
    assert place.is_dir()
    assert alive.exists()
    assert not stale.exists()
