"""What was tuned is kept in the run-time table: one file a GPU, which a patched engine reads too.

An entry counts for the machine that it was tuned on alone: driver, topology and kernel state are
compared as they stand, and a calibration's entry is none of a machine. What cannot be read is a
miss with a word, never an error. The folder is locked while the file is changed, the file replaced
whole; a damaged one is moved aside first.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ...decide.setting import Setting
from ...errors import InputError
from ...files import json_text, replacing
from ...model.shape import ONE_STAGE
from ...rules import table
from ...rules.schemas import CalibrationName
from ...rules.table import Call, EntryMachine, Miss, TableEntry, TableRecord
from .. import kfd
from ..backends.base import op_and_algorithm
from ..run.environment import gpu_driver

COMMAND = "costmodel.live.tune"

#: Time for which a lock that somebody holds is waited for, and between tries, s.
LOCK_S, TRY_S = 1.0, 0.02


def this_machine(setting: Setting, version: str, interconnect: str) -> EntryMachine:
    """Return on what an entry is tuned here, for kernels at a version over such links."""
    names = [gpu.card.gpu if gpu.card else gpu.arch for gpu in kfd.gpus()]
    counted = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    topology = f"{counted}, {len(kfd.xgmi_pairs())} pairs over xGMI" if names else interconnect
    kernel, other = setting.kernel, setting.alternative
    states = (kernel.state(*op_and_algorithm(arm)) for arm in (ONE_STAGE, other))
    of = "AITER" if kernel.family == "aiter" else kernel.family
    return {
        "driver": gpu_driver() or "unknown",
        "topology": topology,
        "kernel_state": f"{of} {version}, 1stage against {other}: {'; '.join(states)}",
    }


@dataclass(frozen=True)
class Cache:
    """The table of a device at a path, asked about one call on one machine."""

    path: Path
    device: str
    call: Call

    def look(self) -> TableEntry | Miss:
        """Return what was tuned here earlier, or why there is nothing."""
        try:
            if not self.path.exists():
                return Miss("no file yet")
            found = table.look_up(table.load(self.path), self.call)
        except (InputError, OSError, ValueError) as error:
            return Miss(f"not read: {str(error).removeprefix(f'{self.path}: ')}")
        if not isinstance(found, Miss) and found["machine"] is None:
            return Miss("its entry is from a calibration, not tuned here")
        return found

    def keep(self, entry: TableEntry, calibration: CalibrationName) -> None:
        """Put an entry into the file, and make its folder where that is missing.

        Raises :class:`InputError`, one line, where it cannot be: then the file is as it was.
        """
        if self.path.exists() and not self.path.is_file():
            raise InputError(f"{self.path}: not a regular file")
        entry = {**entry, "machine": self.call.machine}
        try:
            self.path.parent.mkdir(exist_ok=True)
            with _locked(self.path.parent):
                record, damaged = self._present()
                record = table.with_entry(
                    record, entry, device=self.device, calibration=calibration,
                    day=datetime.now(timezone.utc).date(), command=COMMAND,
                )  # fmt: skip
                if damaged:
                    os.replace(self.path, self.path.with_name(f"{self.path.name}.damaged"))
                with replacing(self.path) as stream:
                    stream.write(json_text(record))
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}") from None

    def _present(self) -> tuple[TableRecord | None, bool]:
        """Return the table that is there, None for none, and whether what is there is damaged."""
        if not self.path.exists():
            return None, False
        try:
            return table.load(self.path), False
        except InputError:
            return None, True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which goes with the process that holds it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ends = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise InputError(f"{folder}: locked by another process") from None
                time.sleep(TRY_S)
        yield
    finally:
        os.close(handle)
