"""One process of a run, from set-up to the exit code: the only place that ends processes."""

from __future__ import annotations

import os
import secrets
import sys
import traceback

from ...errors import InputError
from ..backends.base import Backend, load
from . import environment
from .directory import SCHEMA, RunDirectory, check_same
from .exit_codes import BAD_INPUT, LOST_RANK, RunEnded
from .harness import COMPILE_PATIENCE, check_points, together
from .options import Request
from .processes import join
from .schedule import Campaign, labels
from .watchdog import Watchdog


def run(request: Request, started: float) -> int:
    """Carry out the request in this process and return the exit code.

    ``started`` is the monotonic time from which a budget counts. In a run of several processes an
    abnormal end does not return: it is said once for all ranks, and the process ends there, since
    taking a broken process group down in good order could block for ever.
    """
    processes = join()
    backend = load(request.backend)(request.world_size)
    with Watchdog(processes, request.watchdog_s) as watch:
        watch.step("setting up the ranks", COMPILE_PATIENCE)
        try:
            code = _measure(backend, request, watch, started)
            watch.step("taking the ranks down")
            backend.exchange("done")
        except BaseException as error:
            if processes.count > 1:
                _end(error, watch)
            if isinstance(error, RuntimeError):
                raise RunEnded(watch.failure(error), LOST_RANK) from error
            raise
        finally:
            backend.close()
            if processes.rank == 0:  # with peers, here only at a good end: all have come this far
                processes.leave()
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
    if watch.processes.first_to_say():
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(LOST_RANK)


def _measure(backend: Backend, request: Request, watch: Watchdog, started: float) -> int:
    backend.set_up()
    watch.step("agreeing on the seed")
    request = _with_seed(request, backend)
    check_points(backend, request.points)
    speaks = 0 in backend.local_ranks
    run: list[RunDirectory] = []

    def open_run() -> None:
        if speaks:
            run.append(_open(backend, request))

    watch.step("opening the run directory", COMPILE_PATIENCE)
    together(backend, open_run)
    directory = run[0] if run else None
    try:
        settings = request.settings
        if speaks:
            what = "continuing" if request.resume else "starting"
            identity = directory.settings["id"] if directory else ""
            print(
                f"{what} run {identity} in {request.out}: {len(request.points)} shapes, "
                f"{request.backend} on {request.world_size} ranks, {settings.timing} timing, "
                f"seed {settings.seed}",
                flush=True,
            )
            if request.note:
                print(request.note, flush=True)
        campaign = Campaign(
            backend,
            request.points,
            settings,
            watch,
            directory,
            lambda line: print(line, flush=True),
            budget_s=request.budget_s,
            started=started,
        )
        return campaign.measure()
    finally:
        if directory:
            directory.close()


def _with_seed(request: Request, backend: Backend) -> Request:
    """Return the request with rank 0's seed where the user gave none."""
    drawn = backend.exchange(secrets.randbelow(2**31))[0]
    seed = request.settings.seed
    return request.with_seed(drawn if seed < 0 else seed)


def _open(backend: Backend, request: Request) -> RunDirectory:
    """Open the run directory, new or to be continued."""
    known = backend.environment()
    settings = {**request.to_settings(), "labels": labels(backend)}
    if request.resume:
        run = RunDirectory.resume(request.out)
        check_same(request.out, run.settings, settings)
        return run
    when = environment.now()
    stamp = when.replace("-", "").replace(":", "")
    settings = {
        "schema": SCHEMA,
        "id": f"{request.backend}-tp{request.world_size}-{stamp}-{secrets.token_hex(2)}",
        "started": when,
        **settings,
    }
    return RunDirectory.start(request.out, settings, environment.record(known))
