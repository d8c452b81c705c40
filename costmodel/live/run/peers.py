"""The processes of one run: which of them this one is, who started them, and where they meet.

They meet in a folder ``costmodel-USER-LAUNCHER-...`` of the system's temporary files. Where one
process makes it for the others its name cannot be guessed; ranks of torchrun share nothing secret
and derive the name, so the folder must be this user's and closed to others. Only files that a run
makes there are ever removed, and the folder once it is empty, if a run marked it as its own.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError

#: Where the ranks meet, handed to them by a launcher of this package.
MEETING_PLACE = "COSTMODEL_MEETING_PLACE"

#: Files of a meeting place: that the end of the run was said, and the watchdog's table of ranks.
SAID = "said"
RANKS = "ranks"
#: Made with the folder: a folder without it is somebody else's.
MADE = "made-by-costmodel"

#: Read before slow imports, during which the process that started this one may go.
_PARENT = os.getppid()


@dataclass(frozen=True)
class Peers:
    """This process among those of the run.

    ``launcher`` is the id of the process that started them all, None where none did.
    """

    rank: int
    count: int
    meeting_place: Path
    launcher: int | None = None

    def launcher_is_gone(self) -> bool:
        """Return whether the process that started this one has ended, however it did."""
        return self.launcher is not None and os.getppid() != self.launcher

    def first_to_say(self) -> bool:
        """Return True to the first process that asks: one of them tells the user of the end."""
        try:
            os.close(os.open(self.meeting_place / SAID, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        except OSError:
            return True  # no place to meet: rather said twice than not at all
        return True

    def leave(self) -> None:
        """Remove the meeting place; for the last process at a good end."""
        _remove(self.meeting_place)


def under_torchrun() -> bool:
    """Return whether a launcher of torch started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))


def new_meeting_place() -> Path:
    """Make a meeting place for this process and those that it starts."""
    _forget_dead_launchers()
    place = Path(tempfile.mkdtemp(prefix=f"costmodel-{os.getuid()}-{os.getpid()}-"))
    _mark(place)
    return place


def join() -> Peers:
    """Return this process's place, from the environment that torch's launcher sets.

    Raises :class:`InputError` where the meeting place is not this user's alone.
    """
    if not under_torchrun():
        return Peers(0, 1, new_meeting_place())
    given = os.environ.get(MEETING_PLACE)
    place = Path(given) if given else _place_under_torchrun()
    launcher = _launcher(place)
    if launcher is None:
        raise InputError(
            f"{place}: the ranks cannot meet there, since it is no folder of this user's alone; "
            "remove it, or set TMPDIR to a folder of your own"
        )
    return Peers(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), place, launcher)


def _place_under_torchrun() -> Path:
    """Return the place that all ranks of one torchrun derive alike; the first makes it."""
    _forget_dead_launchers()
    name = f"costmodel-{os.getuid()}-{_PARENT}-{os.environ['MASTER_PORT']}"
    place = Path(tempfile.gettempdir(), name)
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
        _mark(place)
    return place


def _mark(place: Path) -> None:
    with suppress(OSError):  # a full disk: the folder then stays, empty
        (place / MADE).touch(mode=0o600)


def _launcher(place: Path) -> int | None:
    """Return the launcher in the name of a meeting place; None if it is none of this user's."""
    name = re.fullmatch(rf"costmodel-{os.getuid()}-(\d+)-\w+", place.name)
    try:
        status = place.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return int(name[1]) if name and own and not status.st_mode & 0o077 else None


def _forget_dead_launchers() -> None:
    """Remove meeting places whose launcher is gone (a run that was killed leaves its own)."""
    for place in Path(tempfile.gettempdir()).glob(f"costmodel-{os.getuid()}-*-*"):
        launcher = _launcher(place)
        if launcher is None:
            continue
        try:
            os.kill(launcher, 0)
        except ProcessLookupError:
            _remove(place)
        except OSError:  # it lives, as somebody else's
            continue


def _remove(place: Path) -> None:
    with suppress(OSError):  # gone already, or somebody else keeps something there
        if not (place / MADE).exists():
            return
        for name in (SAID, RANKS, MADE):
            (place / name).unlink(missing_ok=True)
        place.rmdir()
