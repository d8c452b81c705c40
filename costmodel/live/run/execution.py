"""A run carried out in one of its processes, from the back end's set-up to the exit code."""

from __future__ import annotations

import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from ...errors import InputError
from ...files import read_json
from ..backends.base import Backend, load
from . import environment
from .directory import AS_WRITTEN, ENVIRONMENT, RunDirectory, check_same
from .exit_codes import BAD_INPUT, FINISHED, LOST_RANK, RunEnded
from .harness import COMPILE_PATIENCE, check_points, together
from .options import RunOptions
from .peers import Peers, join
from .records import labels
from .schedule import Schedule
from .schemas import EnvironmentRecord, RunSettings
from .watchdog import Watchdog


def carry_out(
    runs: Sequence[RunOptions],
    started: float,
    walk: Callable[[Schedule], int] = Schedule.measure,
) -> int:
    """Carry out this process's part of runs at one world size each; return the exit code.

    ``started`` is the monotonic time from which a budget counts: it is one for all runs, and each
    may take an equal part of what is left when it begins. ``walk`` takes a schedule through its
    shapes. Ends as :func:`in_ranks` does.
    """
    backends = [load(run.backend)(run.world_size) for run in runs]
    for backend, run in zip(backends, runs, strict=True):
        backend.norm = run.norm or backend.norm

    def work(place: int, watch: Watchdog) -> int:
        run, began = runs[place], time.monotonic() if place else started
        if run.budget_s is not None:
            part = (run.budget_s - (began - started)) / (len(runs) - place)
            run = replace(run, budget_s=part)
        return carry_out_one(backends[place], run, watch, began, walk)

    return in_ranks(backends, join(), runs[0].watchdog_s, work)


def in_ranks(
    backends: Sequence[Backend],
    peers: Peers,
    watchdog_s: float,
    work: Callable[[int, Watchdog], int],
) -> int:
    """Do this process's part of some work of all ranks under the watchdog; return the exit code.

    ``work`` is called for each back end by its place, and sets it up; the highest code that it
    returned anywhere counts. A process that holds no rank of a back end stands by. With several
    processes an abnormal end does not return: it is said once for all ranks, and the process ends
    there, since taking a broken process group down in good order could block for ever.
    """
    code = FINISHED
    with Watchdog(peers, watchdog_s) as watch:
        try:
            for place, backend in enumerate(backends):
                watch.begin(place)
                watch.step("setting up the ranks", COMPILE_PATIENCE * backend.start_up_patience)
                try:
                    if peers.rank < backend.world_size:
                        mine = work(place, watch)
                        watch.step("taking the ranks down")
                    else:
                        backend.set_up()
                        watch.stand_by(f"standing by while {backend.world_size} ranks run")
                        mine = FINISHED
                    code = max(code, *backend.meet(mine))
                except BaseException as error:
                    if peers.count > 1:
                        _end(error, watch)
                    if isinstance(error, RuntimeError):
                        raise RunEnded(watch.failure(error), LOST_RANK) from error
                    raise
                finally:
                    backend.close()
        finally:
            backends[-1].leave()
            if peers.rank == 0:  # with peers, here only at a good end: all have come this far
                peers.leave()
    return code


def _end(error: BaseException, watch: Watchdog) -> None:
    """End this process of several because of ``error``."""
    if isinstance(error, InputError):
        watch.end(f"error: {error}", BAD_INPUT)
    if isinstance(error, RunEnded):
        watch.end(f"error: {error}", error.exit_code)
    lost = watch.lost(wait_s=2.0)
    if lost:
        watch.end_lost(lost)
    if isinstance(error, RuntimeError):  # of a device or a collective
        watch.end(f"error: {watch.failure(error)}", LOST_RANK)
    if watch.peers.first_to_say():
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(LOST_RANK)


def carry_out_one(
    backend: Backend,
    options: RunOptions,
    watch: Watchdog,
    started: float,
    walk: Callable[[Schedule], int] = Schedule.measure,
) -> int:
    """Set one back end up and carry its run out, as the ``work`` of :func:`in_ranks`."""
    backend.set_up()
    watch.step("comparing versions")
    _check_alike(backend)
    watch.step("agreeing on the seed")
    options = _with_seed(options, backend)
    check_points(backend, options.points)
    speaks = 0 in backend.local_ranks
    opened: list[RunDirectory] = []

    def open_directory() -> None:
        if speaks:
            opened.append(_open(backend, options))

    watch.step("opening the run directory", COMPILE_PATIENCE)
    together(backend, open_directory)
    directory = opened[0] if opened else None
    try:
        repetition = options.repetition
        if speaks:
            what = "continuing" if options.resume else "starting"
            identity = directory.settings["id"] if directory else ""
            print(
                f"{what} run {identity} in {options.out}: {_count(options)}, "
                f"{options.backend} on {options.world_size} ranks, {repetition.timing} timing, "
                f"seed {repetition.seed}",
                flush=True,
            )
            if options.note:
                print(options.note, flush=True)
        schedule = Schedule(
            backend,
            options.points,
            repetition,
            watch,
            directory,
            lambda line: print(line, flush=True),
            budget_s=options.budget_s,
            started=started,
            retry_skipped=options.retry_skipped,
        )
        return walk(schedule)
    finally:
        if directory:
            directory.close()


def _count(options: RunOptions) -> str:
    return f"{len(options.points)} shapes" if options.points else "shapes chosen on the way"


def _check_alike(backend: Backend) -> None:
    """Raise :class:`InputError`, on all ranks, where they would measure different programs."""
    mine = {"kernels": backend.kernel_version, **environment.libraries()}
    if wrong := environment.disagreement(backend.exchange(mine)):
        raise InputError(f"{wrong}; start all ranks in one environment")


def _with_seed(options: RunOptions, backend: Backend) -> RunOptions:
    """Return the options with rank 0's seed where the user gave none."""
    drawn = backend.exchange(secrets.randbelow(2**31))[0]
    seed = options.repetition.seed
    return options.with_seed(drawn if seed < 0 else seed)


def _open(backend: Backend, options: RunOptions) -> RunDirectory:
    """Open the run directory, new or to be continued."""
    known = backend.environment()
    settings = {**options.to_settings(), "labels": labels(backend)}
    if options.resume:
        run = RunDirectory.resume(options.out)
        check_same(options.out, run.settings, settings)
        return run
    when = environment.now()
    stamp = when.replace("-", "").replace(":", "")
    norm = f"-{options.norm}-norm" if options.norm else ""
    new = {
        "schema": "costmodel/run/1",
        "id": f"{options.backend}{norm}-tp{options.world_size}-{stamp}-{secrets.token_hex(2)}",
        "started": when,
        **settings,
    }
    started = msgspec.convert(new, RunSettings)
    machine = environment.read_machine(known)
    earlier = options.out / ENVIRONMENT
    if earlier.exists():  # of a doctor who came first
        found = read_json(earlier, EnvironmentRecord, AS_WRITTEN)
        if "doctor" in found:
            machine["doctor"] = found["doctor"]
    return RunDirectory.start(options.out, started, machine)
