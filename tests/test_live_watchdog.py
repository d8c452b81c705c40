"""The watchdog in real processes that hang, stop, die and are interrupted; no torch needed."""

import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from costmodel.errors import InputError
from costmodel.live.run.launcher import gone_already
from costmodel.live.run.peers import MADE, join

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


# -- ranks whose launcher is gone ------------------------------------------------------------------

HOLDS_PYTHONS_LOCK = """
import ctypes
from costmodel.live.run.launcher import end_with_launcher
end_with_launcher()
print("ready", flush=True)
ctypes.PyDLL(None).sleep(60)
"""

STARTS_ONE = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
rank.stdout.readline()
print(rank.pid, flush=True)
rank.wait()
"""


def runs(pid):
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_rank_in_which_no_thread_can_run_ends_after_its_launcher():
    launcher = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE, HOLDS_PYTHONS_LOCK], stdout=subprocess.PIPE, text=True
    )
    rank = int(launcher.stdout.readline())
    launcher.kill()
    launcher.communicate()
    assert runs(rank), "the watchdog has to have time to say what happened"
    until = time.monotonic() + 10
    while runs(rank):
        assert time.monotonic() < until, "the rank outlived its launcher"
        time.sleep(0.05)


def test_a_rank_that_starts_after_its_launcher_is_gone_ends_at_once(monkeypatch):
    with socket.create_server(("localhost", 0)) as store:
        port = str(store.getsockname()[1])
        for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        assert not gone_already()  # it was not torch's launcher that set the port
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        assert not gone_already()
    assert gone_already()


STARTS_TWO = """
import subprocess, sys
for rank in "01":
    environment = {**dict(e.split("=", 1) for e in sys.argv[2:]), "RANK": rank}
    subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environment)
sys.stdin.read()
"""


def test_a_stopped_rank_does_not_outlive_its_launcher(tmp_path):
    script = textwrap.dedent(BODY).replace("peers, 1.0", "peers, 60.0") + "    blocked()"
    settings = {"WORLD_SIZE": "2", "MASTER_PORT": "10", "TMPDIR": str(tmp_path)}
    launcher = subprocess.Popen(
        [sys.executable, "-c", STARTS_TWO, script,
         *(f"{name}={value}" for name, value in {**os.environ, **settings}.items())],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    begun(tmp_path)
    table = next(tmp_path.glob("costmodel-*/ranks")).read_bytes()
    ranks = [struct.unpack_from("q", table, 256 * rank)[0] for rank in range(2)]
    os.kill(ranks[1], signal.SIGSTOP)
    launcher.kill()
    launcher.communicate()
    until = time.monotonic() + 10
    while any(map(runs, ranks)):
        assert time.monotonic() < until, "a rank outlived its launcher"
        time.sleep(0.05)


# -- meeting places -------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's temporary folder, and a process that torchrun could have started."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29501"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def gone():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_meeting_places_of_dead_launchers_are_forgotten(temporary, gone):
    stale = temporary / f"costmodel-{os.getuid()}-{gone}-29500"
    alive = temporary / f"costmodel-{os.getuid()}-{os.getpid()}-29500"
    for made in (stale, alive):
        made.mkdir(mode=0o700)
        (made / MADE).touch()
    (stale / "said").touch()
    place = join().meeting_place
    assert place.is_dir()
    assert alive.exists()
    assert not stale.exists()


def test_what_the_tool_did_not_make_is_never_removed(temporary, gone):
    other = temporary / f"costmodel-{os.getuid()}-{gone}-notes"
    linked = temporary / f"costmodel-{os.getuid()}-{gone}-29500"
    empty = temporary / f"costmodel-{os.getuid()}-{gone}-29502"
    empty.mkdir(mode=0o700)
    other.mkdir()
    (other / "draft").write_text("mine")
    (temporary / "target").mkdir()
    (temporary / "target" / "said").write_text("mine")
    linked.symlink_to(temporary / "target")
    peers = join()
    (peers.meeting_place / "draft").write_text("mine")
    peers.leave()
    for kept in (other / "draft", temporary / "target" / "said", peers.meeting_place / "draft"):
        assert kept.read_text() == "mine"
    assert empty.is_dir()


def test_a_place_left_empty_is_removed(temporary):
    peers = join()
    assert peers.first_to_say()
    assert not peers.first_to_say()
    peers.leave()
    assert not peers.meeting_place.exists()


@pytest.mark.parametrize("trap", ["symlink", "open to all", "file"])
def test_a_place_that_others_prepared_is_refused(temporary, trap):
    place = temporary / f"costmodel-{os.getuid()}-{os.getppid()}-29501"
    if trap == "symlink":
        (temporary / "theirs").mkdir(mode=0o700)
        place.symlink_to(temporary / "theirs")
    elif trap == "file":
        place.touch(mode=0o700)
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(InputError, match="the ranks cannot meet there, since it is no folder"):
        join()


def test_a_place_that_a_process_makes_alone_cannot_be_guessed(temporary, monkeypatch):
    monkeypatch.delenv("RANK")
    places = [join().meeting_place for _ in range(2)]
    assert places[0] != places[1]
    assert all(place.stat().st_mode & 0o777 == 0o700 for place in places)
