"""The loop on ranks that run the op: one world size after the other, each a run of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..decide.stopping import BUDGET
from ..live.run.execution import carry_out
from ..live.run.exit_codes import FINISHED, WRONG_RESULTS
from ..live.run.launch import start
from ..live.run.options import RunOptions, read_open_options
from ..live.run.schedule import Schedule
from .session import Session
from .tuner import Tuner


def measure(session: Session, options: Mapping[str, Any], budget_s: float | None) -> int:
    """Measure at every world size of the session, as far as the budget goes; return an exit code.

    Each world size may take an equal part of the time that is left. ``options`` are those of a run
    (:func:`~.live.run.options.read_open_options`) but for the world size and the directory.
    """
    began, sizes, code = time.monotonic(), session.settings["world_sizes"], FINISHED
    for i, world_size in enumerate(sizes):
        part = None
        if budget_s is not None:
            part = (budget_s - (time.monotonic() - began)) / (len(sizes) - i)
        mine = {
            **options,
            "tp": world_size,
            "out": str(session.run_directory(world_size)),
            "session": str(session.directory),
            "budget": part,
        }
        ended = measure_one(mine)
        if ended not in (FINISHED, WRONG_RESULTS):
            return ended
        code = max(code, ended)
    return code


def measure_one(options: Mapping[str, Any]) -> int:
    """Measure at one world size, in this process or in ranks of its own; return the exit code."""

    def carry(run: RunOptions, started: float) -> int:
        return carry_out(run, started, lambda schedule: _walk(schedule, options, started))

    return start(options, read_open_options, carry, f"{__package__}.rank")


def _walk(schedule: Schedule, options: Mapping[str, Any], started: float) -> int:
    """Take a schedule through the shapes that the tuner chooses; it sits on rank 0."""
    if schedule.run is None:
        return schedule.measure_as_chosen(lambda records: None)
    session, world_size = Session.open(Path(options["session"])), int(options["tp"])
    machine = session.machine(schedule.run.settings["labels"])
    journal = session.journal(world_size)
    if journal.stop is not None and journal.stop["why"] == BUDGET:
        journal.go_on()
    earlier = [record for n in session.started() if n != world_size for record in session.learnt(n)]

    def seconds_left() -> float | None:
        budget = options["budget"]
        return None if budget is None else budget - (time.monotonic() - started)

    tuner = Tuner(
        machine,
        world_size,
        session.limits,
        journal,
        earlier=machine.rows(earlier),
        seconds_left=seconds_left,
        say=lambda line: print(line, flush=True),
    )
    return schedule.measure_as_chosen(tuner.next)
