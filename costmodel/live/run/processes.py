"""The processes of one run: who they are, where they meet, and starting them where that is ours.

A run of several processes is started by torch's launcher: by ``torchrun``, or for back ends whose
``launch`` is ``spawn`` by :func:`spawn`, which calls the same launcher through its own interface.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .exit_codes import BAD_INPUT, LOST_RANK, by_signal, signal_name

#: Where the processes of one run meet, handed from :func:`spawn` to its children.
_MEETING = "COSTMODEL_MEETING_PLACE"


@dataclass(frozen=True)
class Processes:
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


def join() -> Processes:
    """Return this process's place, from the environment that torch's launcher sets."""
    if not under_torchrun():
        return Processes(0, 1, Path(tempfile.mkdtemp(prefix="costmodel-")))
    _forget_dead_launchers()
    given = os.environ.get(_MEETING)
    if given:
        place = Path(given)
    else:
        place = Path(
            tempfile.gettempdir(),
            f"costmodel-{os.getuid()}-{os.getppid()}-{os.environ['MASTER_PORT']}",
        )
        place.mkdir(mode=0o700, exist_ok=True)
    return Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), place)


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


def spawn(world_size: int, arguments: Sequence[str]) -> int:
    """Start ``costmodel measure ARGUMENTS`` once a rank by torch's launcher; return an exit code.

    The ranks tell the user how the run ended; this process speaks only when none of them could.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # the launcher reports failures at length; the ranks say it
    place = tempfile.mkdtemp(prefix="costmodel-")
    os.environ[_MEETING] = place
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world_size,
        run_id=f"costmodel-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.1,
    )
    speaker = Processes(-1, 1, Path(place))
    try:
        _start_ranks_with_ctrl_c_held()
        elastic_launch(config, sys.executable)("-m", "costmodel.cli.rank", *arguments)
        return 0
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        if speaker.first_to_say():
            name = signal_name(-failure.exitcode)
            print(f"costmodel: error: rank {rank} was ended by {name}", file=sys.stderr)
        return LOST_RANK
    except SignalException as error:
        if speaker.first_to_say():
            name = signal_name(error.sigval)
            print(f"costmodel: stopped by {name} while the ranks started", file=sys.stderr)
        return by_signal(error.sigval)
    except (OSError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"costmodel: error: the ranks could not be started: {first}", file=sys.stderr)
        return BAD_INPUT
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        logging.disable(logging.NOTSET)
        del os.environ[_MEETING]
        speaker.leave()


def _start_ranks_with_ctrl_c_held() -> None:
    """Block Ctrl-C in this thread, whose signal mask the ranks inherit.

    A Python that is interrupted while it starts prints a traceback; a rank unblocks the signal once
    it can end quietly (:mod:`costmodel.cli.rank`). This process still hears it, on another thread.
    """
    threading.Thread(target=threading.Event().wait, name="hears Ctrl-C", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
