"""The loop on ranks that run the op: one tuning and world size after the other, in one start."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..decide.stopping import BUDGET
from ..live.run.checkup import NOT_READY, look_over, record, to_do
from ..live.run.directory import ENVIRONMENT
from ..live.run.execution import carry_out
from ..live.run.exit_codes import RunEnded
from ..live.run.launch import start
from ..live.run.options import RunOptions, read_open_options
from ..live.run.schedule import Schedule
from .journal import Journal
from .knowledge import Known
from .session import Session
from .tuner import Tuner


def measure(sessions: Sequence[Session], options: Mapping[str, Any], budget_s: float | None) -> int:
    """Measure at every world size of the sessions, as far as the budget goes; return an exit code.

    They have the same world sizes; each may take an equal part of the time that is left.
    ``options`` are those of a run (:func:`~.live.run.options.read_open_options`) but for world
    sizes, directory and budget.
    """
    return measure_there(
        {
            **options,
            "tp": sessions[0].settings["world_sizes"],
            "outs": [str(session.directory) for session in sessions],
            "budget": budget_s,
        }
    )


def measure_there(options: Mapping[str, Any]) -> int:
    """Measure for the sessions in ``options["outs"]``, in this process or in ranks of its own."""

    def read(options: Mapping[str, Any]) -> list[RunOptions]:
        each = (read_open_options({**options, "out": out}) for out in options["outs"])
        return [run for runs in each for run in runs]

    return start(
        options,
        read,
        lambda runs, started: carry_out(
            runs, started, lambda plan: _walk(plan, checked=not options["unchecked"])
        ),
        f"{__package__}.rank",
    )


def _look(schedule: Schedule) -> None:
    """Look at the machine before it is measured; raise :class:`RunEnded` where it is not ready.

    Whatever was found stands in ``environment.json`` of the run.
    """
    backend, run = schedule.backend, schedule.run
    checks = look_over(backend, schedule.watch)
    if run is not None:
        record(checks, backend, run.directory)
    lacks = to_do(checks)
    if lacks:
        more = f" and {len(lacks) - 1} more (see {ENVIRONMENT})" if lacks[1:] else ""
        raise RunEnded(
            f"the machine is not ready: {lacks[0]}{more}; or tune it as it is with --unchecked",
            NOT_READY,
        )
    if run is not None:
        schedule.say(f"the machine is ready for {backend.world_size} ranks: {len(checks)} checks")


def _draw_for(world_size: int, journal: Journal) -> Callable[[Known, str], None]:
    """Return what draws the view of a world size on this terminal."""
    from ..show.sketch import blocks
    from .view import view

    def draw(known: Known, left: str) -> None:
        print(view(known, world_size, journal.steps, left, fine=blocks()), flush=True)

    return draw


def _walk(schedule: Schedule, *, checked: bool) -> int:
    """Take a schedule through the shapes that the tuner chooses; it sits on rank 0."""
    if checked:
        _look(schedule)
    if schedule.run is None:
        return schedule.measure_as_chosen(lambda records: None)
    session = Session.open(schedule.run.directory.parent)
    world_size = schedule.backend.world_size
    machine = session.machine(schedule.run.settings["labels"])
    journal = session.journal(world_size)
    learning = journal.survey is None
    if learning and journal.stop is not None and journal.stop["why"] == BUDGET:
        journal.go_on()
    earlier = [record for n in session.started() if n != world_size for record in session.learnt(n)]

    def seconds_left() -> float | None:
        budget = schedule.budget_s
        return None if budget is None else budget - (time.monotonic() - schedule.started)

    tuner = Tuner(
        machine,
        world_size,
        session.limits,
        journal,
        earlier=machine.rows(earlier),
        seconds_left=seconds_left,
        say=lambda line: print(line, flush=True),
        draw=_draw_for(world_size, journal) if sys.stdout.isatty() else None,
    )
    return schedule.measure_as_chosen(tuner.next)
