"""Ends a run that cannot go on by itself, and says which rank, shape and arm it was.

A collective that misses a rank blocks inside the driver or the network, where Python's own signal
handling never runs. So each process has one thread that waits for signals (through
``signal.set_wakeup_fd``, which the C handler writes to at once) and for the time limit of the
present step, and ends the process itself.

The processes share a small memory-mapped table: process id, step number, what the step is. From it
and the system's process table a rank tells who is gone, stopped or behind. A rank whose launcher is
gone ends too: it would hold the run's directory, and nothing else would ever stop it.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ...errors import first_line
from .exit_codes import LOST_RANK, by_signal, signal_name
from .peers import RANKS, Peers

#: One row of the table: process id (0 before joining, -1 after leaving), step number, text.
_ROW = struct.Struct("qq240s")
#: Step numbers that one part of several may take.
_PART = 1 << 40
#: How often the thread looks at its own deadline, and at the other ranks' processes.
_TICK_S = 0.2
_LOOK_S = 1.0


class Watchdog:
    """Watches the steps of this process, and its peers' life. Use as a context manager."""

    def __init__(self, peers: Peers, limit_s: float) -> None:
        self.peers = peers
        self.limit_s = limit_s
        #: Said after what happened: what is kept, how to go on.
        self.epilogue = "nothing was measured yet"
        self._doing = "starting"
        self._steps = self._part = 0
        self._deadline = float("inf")
        self._unbroken = threading.RLock()
        self._closing = threading.Event()
        self._table = self._open_table()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def _open_table(self) -> mmap.mmap | None:
        size = _ROW.size * self.peers.count
        try:
            path = self.peers.meeting_place / RANKS
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(handle, 0, size)  # a full disk fails here, not at a store
                else:
                    os.ftruncate(handle, size)
                return mmap.mmap(handle, size)
            finally:
                os.close(handle)
        except OSError:
            return None  # the temporary directory is full: watch without naming peers

    def __enter__(self) -> Watchdog:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._note(os.getpid())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)
        self._note(-1)

    def step(self, doing: str, patience: float = 1.0) -> None:
        """Begin a step; it may take ``patience`` times the limit (compilers take their time)."""
        self._doing = doing
        self._steps += 1
        self._deadline = time.monotonic() + patience * self.limit_s
        self._note(os.getpid())

    def begin(self, part: int) -> None:
        """Begin a part of several, counted from 0: ranks that stood by count steps as others do."""
        self._part = part
        self._steps = part * _PART

    def stand_by(self, doing: str) -> None:
        """Wait for other ranks to end the part, without a limit; nobody takes this one for behind.

        A rank that is lost still ends this one.
        """
        self._doing = doing
        self._deadline = float("inf")
        self._steps = (self._part + 1) * _PART - 1
        self._note(os.getpid())

    def rest(self) -> None:
        """End the present step: no time limit until the next begins."""
        self._deadline = float("inf")

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        """Keep signals from ending the process inside the block (short writes to disk)."""
        with self._unbroken:
            yield

    def lost(self, wait_s: float = 0.0) -> list[tuple[int, str]]:
        """Return (rank, "gone" or "stopped") of every such peer, waiting for the first to show."""
        until = time.monotonic() + wait_s
        while True:
            lost = []
            for rank, (pid, _, _) in enumerate(self._rows()):
                state = _state(pid) if pid > 0 and pid != os.getpid() else ""
                # Its row once more: it may have ended on purpose between the two looks.
                if state and self._rows()[rank][0] == pid:
                    lost.append((rank, state))
            if lost or time.monotonic() >= until:
                return lost
            time.sleep(0.05)

    def failure(self, error: Exception) -> str:
        """Return one line on a failed device or collective: what it said, and where it was."""
        said = first_line(error)
        return f"{said}; this was at: {self._doing}; {self.epilogue}"

    def end_lost(self, lost: list[tuple[int, str]]) -> NoReturn:
        """End the run because ranks are lost."""
        self.end(f"error: {self._lost_message(lost)}; {self.epilogue}", LOST_RANK)

    def _lost_message(self, lost: list[tuple[int, str]]) -> str:
        """Return one line on lost ranks: which, how, and in which step this rank was."""
        said = {
            "gone": "is gone (killed or crashed)",
            "stopped": f"is stopped (SIGSTOP) for longer than {self.limit_s:g} s",
        }
        who = ", ".join(f"rank {rank} {said[state]}" for rank, state in lost)
        return f"{who}; this was at: {self._doing}"

    def end(self, message: str, exit_code: int) -> NoReturn:
        """Say what happened, once for all ranks, and end this process without further ado."""
        self._unbroken.acquire(timeout=10)  # a write that hangs must not keep Ctrl-C from working
        if self.peers.first_to_say():
            with suppress(OSError, ValueError):  # whoever read the output may be gone as well
                sys.stdout.flush()
            with suppress(OSError):
                os.write(2, f"\rcostmodel: {message}\n".encode())
        self._note(-1)  # ended on purpose: peers must not take this rank for lost
        if self.peers.count == 1:
            self.peers.leave()
        os._exit(exit_code)

    def _note(self, pid: int) -> None:
        if self._table is not None:
            text = self._doing.encode()[:239]
            _ROW.pack_into(self._table, _ROW.size * self.peers.rank, pid, self._steps, text)

    def _rows(self) -> list[tuple[int, int, str]]:
        if self._table is None:
            return []
        rows = []
        for rank in range(self.peers.count):
            pid, step, text = _ROW.unpack_from(self._table, _ROW.size * rank)
            rows.append((pid, step, text.rstrip(b"\0").decode(errors="replace")))
        return rows

    def _watch(self) -> None:
        lost_since: float | None = None
        looked = time.monotonic()
        while not self._closing.is_set():
            if select.select([self._read], [], [], _TICK_S)[0]:
                for number in os.read(self._read, 64):
                    self._end_by_signal(number)
            if self.peers.launcher_is_gone():
                self._kill_stopped(self.lost())
                self.end(
                    "error: the launcher of the ranks is gone (killed or crashed); this was at: "
                    f"{self._doing}; {self.epilogue}",
                    LOST_RANK,
                )
            now = time.monotonic()
            if now - looked > _LOOK_S:
                # a lost rank ends the run after the plain limit, whatever the step's patience
                looked = now
                lost_since = (lost_since or now) if self.lost() else None
            if now > self._deadline or (lost_since and now - lost_since > self.limit_s):
                self._end_hung()

    def _end_by_signal(self, number: int) -> None:
        # The launcher answers the death of one rank with SIGTERM to the others: then the death
        # is the news. A signal meant for all ranks reaches them at the same moment.
        lost = self.lost() if number == signal.SIGTERM else []
        if any(state == "gone" for _, state in lost):
            self.end_lost(lost)
        self.end(
            f"stopped by {signal_name(number)} at: {self._doing}; {self.epilogue}",
            by_signal(number),
        )

    def _end_hung(self) -> None:
        lost = self.lost()
        rows = self._rows()
        behind = [
            f"rank {rank} is behind, still at: {text}"
            for rank, (pid, step, text) in enumerate(rows)
            if pid >= 0 and step < self._steps
        ]
        if lost:
            message = self._lost_message(lost)
        else:
            where = "; ".join(behind) or "all ranks are in it"
            message = f"no progress within {self.limit_s:g} s at: {self._doing}; {where}"
        self._kill_stopped(lost)
        self.end(f"error: {message}; {self.epilogue}", LOST_RANK)

    def _kill_stopped(self, lost: list[tuple[int, str]]) -> None:
        """Kill stopped peers: they can neither see that the launcher is gone nor obey it."""
        rows = self._rows()
        for rank, state in lost:
            if state == "stopped":
                with suppress(ProcessLookupError):
                    os.kill(rows[rank][0], signal.SIGKILL)


def _state(pid: int) -> str:
    """Return "gone", "stopped" or "" (alive) for a process of this machine."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            letter = stream.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return "gone"
        letter = "R"
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "gone"
    except OSError:
        return "gone"
    return {"Z": "gone", "X": "gone", "T": "stopped", "t": "stopped"}.get(letter, "")
