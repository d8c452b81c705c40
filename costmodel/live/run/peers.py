"""The processes of one run: which of them this one is, and where they meet."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Where the processes of one run meet, handed from the launcher to the ranks that it starts.
MEETING_PLACE = "COSTMODEL_MEETING_PLACE"


@dataclass(frozen=True)
class Peers:
    """This process among those of the run."""

    rank: int
    count: int
    #: A directory of the run's own in the system's temporary files.
    meeting_place: Path

    def first_to_say(self) -> bool:
        """Return True to the first process that asks: one of them tells the user of the end."""
        try:
            os.close(os.open(self.meeting_place / "said", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        except OSError:
            return True  # no place to meet: rather said twice than not at all
        return True

    def leave(self) -> None:
        """Remove the meeting place; for the last process at a good end."""
        shutil.rmtree(self.meeting_place, ignore_errors=True)


def under_torchrun() -> bool:
    """Return whether a launcher of torch started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))


def join() -> Peers:
    """Return this process's place, from the environment that torch's launcher sets."""
    if not under_torchrun():
        return Peers(0, 1, Path(tempfile.mkdtemp(prefix="costmodel-")))
    _forget_dead_launchers()
    given = os.environ.get(MEETING_PLACE)
    if given:
        place = Path(given)
    else:
        place = Path(
            tempfile.gettempdir(),
            f"costmodel-{os.getuid()}-{os.getppid()}-{os.environ['MASTER_PORT']}",
        )
        place.mkdir(mode=0o700, exist_ok=True)
    return Peers(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), place)


def _forget_dead_launchers() -> None:
    """Remove meeting places whose launcher is gone (a run that was killed leaves its own)."""
    for place in Path(tempfile.gettempdir()).glob(f"costmodel-{os.getuid()}-*-*"):
        launcher = place.name.split("-")[2]
        if (
            launcher.isdigit()
            and not Path("/proc", launcher).exists()
            and Path("/proc/self").exists()
        ):
            shutil.rmtree(place, ignore_errors=True)
