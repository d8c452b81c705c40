"""Starting a run: in this process, in the ranks that it starts, or as one of torchrun's.

A run of several processes is started by torch's launcher: by ``torchrun``, or for back ends whose
``launch`` is ``spawn`` by this process, which calls the same launcher through its own interface.
Those ranks are forked on Linux: they need not import torch anew, which takes seconds a rank. Ranks
of a back end that has devices or a library of its own start from nothing.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..backends.base import load
from ..machine import Check
from . import checkup
from .execution import carry_out, in_ranks
from .exit_codes import BAD_INPUT, LOST_RANK, RunEnded, by_signal, signal_name
from .launcher import end_with_launcher, gone_already
from .options import RunOptions, read_options, world_sizes
from .peers import MEETING_PLACE, Peers, join, new_meeting_place, under_torchrun
from .starts import measure_starts

#: Signals beside Ctrl-C at which torch's launcher ends its ranks, in handlers that a fork inherits.
_OF_LAUNCHER = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def measure(options: Mapping[str, Any]) -> int:
    """Run what the options of ``costmodel measure``, given by name, ask for; return the exit code.

    Raises :class:`InputError` for bad input, but as one of several ranks says it once for all.
    """
    if options.get("starts", 1) > 1 and len(options["tp"] or ()) > 1:
        raise InputError("--starts measures one world size; name one with --tp")
    if options.get("starts", 1) > 1 and not under_torchrun():
        return measure_starts(options)
    return start(options, _read_one_start, carry_out, f"{__package__}.rank")


def _read_one_start(options: Mapping[str, Any]) -> list[RunOptions]:
    if options.get("starts", 1) > 1:
        raise InputError("--starts starts the ranks itself; leave out torchrun")
    return read_options(options)


def start(
    options: Mapping[str, Any],
    read: Callable[[Mapping[str, Any]], Sequence[RunOptions]],
    carry: Callable[[Sequence[RunOptions], float], int],
    rank_module: str,
) -> int:
    """Start runs here, in ranks of their own, or as one of torchrun's; return the exit code.

    ``read`` makes the runs' options, one for each world size, of those given by name; ``carry``
    carries them out in one process. Ranks of their own, as many as the largest run has, are started
    as ``python -m rank_module``, the options as JSON.
    """
    started = time.monotonic()
    if _launcher_is_gone():
        return LOST_RANK
    try:
        runs = read(options)
        if not under_torchrun():
            name, ranks = runs[0].backend, max(run.world_size for run in runs)
            launch = load(name).launch
            if launch == "torchrun" and not options.get("launches"):
                raise InputError(
                    f"back end {name} needs one process a GPU; start it as torchrun "
                    f"--nproc-per-node={ranks} -m costmodel measure ..."
                )
            if launch != "in_process":
                forks = launch == "spawn" and sys.platform == "linux"
                return _spawn(ranks, options, rank_module, forks=forks)
        return carry(runs, started)
    except (InputError, RunEnded) as error:
        return _ended(error)


def look_through(
    name: str,
    tp: int | None,
    directory: Path | None,
    watchdog_s: float,
    tell: Callable[[Sequence[Check]], None],
) -> int:
    """Look at the machine through a back end, on all ranks; return 0 where it is ready, else 1.

    ``tell`` is given the checks, in one process; ``directory`` gets them in ``environment.json``.
    """
    if _launcher_is_gone():
        return LOST_RANK
    try:
        kind = load(name)
        if not under_torchrun() and kind.launch != "in_process":
            tell(checkup.without_ranks(kind, tp))
            return checkup.NOT_READY
        sizes = world_sizes(() if tp is None else (tp,))
        if not sizes:
            raise InputError("--tp is missing; give the number of ranks")
        backend = kind(sizes[0])
        return in_ranks(
            [backend],
            join(),
            watchdog_s,
            lambda place, watch: checkup.check_up(backend, watch, directory, tell),
        )
    except (InputError, RunEnded) as error:
        return _ended(error)


def _launcher_is_gone() -> bool:
    """Get ready to be one of torchrun's ranks; return whether torchrun has ended already."""
    if not under_torchrun():
        return False
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the watchdog answers: no tracebacks
    end_with_launcher()
    return gone_already()


def _ended(error: InputError | RunEnded) -> int:
    """Say how the work ended, once for all ranks, and return the exit code.

    Raises bad input where this is the only process.
    """
    if isinstance(error, RunEnded):
        print(f"costmodel: error: {error}", file=sys.stderr)
        return error.exit_code
    if not under_torchrun():
        raise error
    if _speaks():
        print(f"costmodel: error: {error}", file=sys.stderr)
    return BAD_INPUT


def _speaks() -> bool:
    """Return whether this rank tells the user; rank 0 does where the ranks cannot meet."""
    try:
        return join().first_to_say()
    except InputError:
        return os.environ["RANK"] == "0"


def _spawn(world_size: int, options: Mapping[str, Any], rank_module: str, *, forks: bool) -> int:
    """Start ``rank_module`` once a rank by torch's launcher; return an exit code.

    The ranks are forked from this process, or start from nothing. They tell the user how the run
    ended; this process speaks only when none of them could.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # the launcher reports failures at length; the ranks say it
    place = new_meeting_place()
    os.environ[MEETING_PLACE] = str(place)
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
        start_method="fork",
    )
    speaker = Peers(-1, 1, place)
    held = {signal.SIGINT, *(_OF_LAUNCHER if forks else ())}
    try:
        _start_ranks_with_signals_held(held)
        given = json.dumps(options, default=str)  # paths among them
        if forks:
            elastic_launch(config, _be_rank)(rank_module, given)
        else:
            elastic_launch(config, sys.executable)("-m", rank_module, given)
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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        logging.disable(logging.NOTSET)
        del os.environ[MEETING_PLACE]
        speaker.leave()


def _be_rank(module: str, options: str) -> None:
    """Be ``python -m MODULE OPTIONS`` in a process that was forked from the launcher's."""
    for number in _OF_LAUNCHER:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_LAUNCHER)
    logging.disable(logging.NOTSET)
    sys.argv = [module, options]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:  # at a good end the launcher waits for what a rank returns
            raise


def _start_ranks_with_signals_held(held: set[signal.Signals]) -> None:
    """Block signals in this thread, whose signal mask the ranks inherit.

    A Python that is interrupted while it starts prints a traceback, and one that was forked has the
    launcher's handlers; a rank unblocks a signal once it can end quietly (Ctrl-C: :mod:`.rank`).
    This process still hears them, on another thread.
    """
    threading.Thread(target=threading.Event().wait, name="hears signals", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
