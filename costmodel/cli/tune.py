"""``costmodel tune``: from a machine to a pull request."""

from __future__ import annotations

import os
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from ..decide.objective import MEAN
from ..errors import InputError
from ..live.backends.base import BACKENDS, load
from ..live.backends.replay import stated
from ..live.run.exit_codes import BAD_INPUT, FINISHED, WRONG_RESULTS
from ..live.run.harness import Repetition
from ..live.run.options import ranks_of
from ..live.run.peers import under_torchrun
from ..rules import ENGINES
from ..tuning.session import Session, TuningSettings
from ..tuning.stopping import Limits
from . import options, question


@click.command()
@click.option("--backend", metavar="NAME", help=f"What runs the op: {', '.join(BACKENDS)}.")
@options.world_sizes
@question.DTYPE
@question.workload_options
@question.ENGINE
@question.OTHERWISE
@question.OBJECTIVE
@click.option("--source", metavar="PATH", help="The engine's tree: rule.patch is a diff of it.")
@click.option("--budget", type=float, metavar="SECONDS", help="Time for all measuring.")
@click.option(
    "--shapes", type=click.IntRange(min=3), default=Limits.shapes, show_default=True,
    help="Most shapes a world size.",
)  # fmt: skip
@click.option(
    "--limit", type=float, default=Limits.contested_pct, show_default=True, metavar="PERCENT",
    help="Expected regret on contested calls that is small enough.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory.")
@click.option("--resume", is_flag=True, help="Go on with the tuning in --out.")
@click.option("--finish", is_flag=True, help="Conclude from what --out holds, measure nothing.")
@click.option("--seed", type=click.IntRange(min=0), help="Fixes inputs and orders.")
@click.option("--rounds", type=int, help=f"Rounds of every arm.  [default: {Repetition.rounds}]")
@click.option("--samples", type=int, help=f"Replays a round.  [default: {Repetition.samples}]")
@click.option(
    "--watchdog", type=float, default=60.0, show_default=True, metavar="SECONDS",
    help="Longest that one step may take.",
)  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context,
    backend: str | None,
    tp: tuple[int, ...],
    source: str | None,
    budget: float | None,
    shapes: int,
    limit: float,
    out: Path,
    resume: bool,
    finish: bool,
    **given: Any,
) -> None:
    """Learn the rule for this machine, judge it on shapes it did not learn from, write it down.

    Starts from the published calibration, measures the shape that helps most, calibrates again, and
    goes on until the expected regret on contested calls is below --limit, the interval no longer
    narrows, or the budget ends. --out then holds measurements, calibration, rule, patch and tests
    (--for), a report (--model), and summary.md.

    \b
    COSTMODEL_REPLAY=MI355X:17 costmodel tune --backend replay --tp 4,8 --for sglang --out pr
    torchrun --nproc-per-node=8 -m costmodel tune --backend aiter --tp 8 \\
        --model gpt-oss-120b --for sglang --source ~/sglang --budget 300 --out pr

    Exit codes: 0 decided at every world size, 1 not so, or an arm gave wrong results, 2 bad input,
    3 a rank was lost or hung, 4 the results could not be written.
    """
    if resume and finish:
        raise InputError("give one of --resume and --finish")
    if budget is not None and not budget > 0:
        raise InputError(f"--budget is {budget:g}; give seconds, more than 0")
    if not 0 < limit < 100:
        raise InputError(f"--limit is {limit:g}; give percent, more than 0")
    run = {key: given.pop(key) for key in ("seed", "rounds", "samples", "watchdog")}
    session = (
        Session.open(out) if resume or finish else _start(backend, tp, shapes, limit, out, given)
    )
    code = FINISHED
    if not finish:
        from ..tuning.ranks import measure

        code = measure(session, {**run, "backend": session.settings["backend"]}, budget)
        if code not in (FINISHED, WRONG_RESULTS) or _is_follower():
            ctx.exit(code)
    from ..tuning.conclusion import conclude
    from ..tuning.handover import write
    from ..tuning.summary import text

    found = conclude(session)
    if found is None:
        raise InputError(f"{out}: nothing was measured there; go on with --resume")
    written = write(found, _command_line(session, source), source)
    click.echo(text(found, written.files))
    for note in written.notes:
        click.echo(f"costmodel: note: {note}", err=True)
    ctx.exit(max(code, FINISHED if found.decided else WRONG_RESULTS))


def _start(
    backend: str | None,
    tp: tuple[int, ...],
    shapes: int,
    limit: float,
    out: Path,
    asked: question.Asked,
) -> Session:
    """Start a session by the options; ranks after the first open what the first wrote."""
    if not backend:
        raise InputError(f"--backend is missing; one of {', '.join(BACKENDS)}")
    engine = asked["engine"].lower()
    if engine and engine not in ENGINES:
        raise InputError(f"unknown engine '{engine}'; one of {', '.join(ENGINES)}")
    if under_torchrun() or load(backend).launch == "torchrun":
        tp = _launched(backend, tp)
    sizes = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    replayed = f"replayed-{stated().replace(':', '-')}"
    name = replayed if backend == "replay" else f"tune-{stamp}"
    settings: TuningSettings = {
        "schema": "costmodel/tuning/1",
        "name": name,
        "backend": backend,
        "world_sizes": list(tp),
        "dtype": question.dtype_of(asked),
        "hidden": list(sizes or ()),
        "model": asked["model_name"] or "",
        "engine": engine,
        "otherwise": asked["otherwise"].lower(),
        "objective": asked["objective"].lower(),
        "contested_pct": limit,
        "shapes": shapes,
    }
    if _is_follower():
        return Session(out, settings)
    return Session.start(out, settings)


def _launched(backend: str, tp: tuple[int, ...]) -> tuple[int, ...]:
    """Return the one world size of torchrun's ranks."""
    if not under_torchrun():
        raise InputError(
            f"back end {backend} needs one process a GPU; start it as torchrun "
            f"--nproc-per-node={max(tp)} -m costmodel tune ..."
        )
    launched = ranks_of(None)
    if launched not in tp:
        if _is_follower():  # the first rank says it
            raise click.exceptions.Exit(BAD_INPUT)
        raise InputError(
            f"torchrun started {launched or 1} processes, --tp names {', '.join(map(str, tp))}"
        )
    if len(tp) > 1 and not _is_follower():
        click.echo(f"costmodel: note: TP{launched} alone: one start measures one world size",
                   err=True)  # fmt: skip
    return (launched,)


def _is_follower() -> bool:
    """Return whether this is one of torchrun's ranks other than the first."""
    return under_torchrun() and os.environ.get("RANK", "0") != "0"


def _command_line(session: Session, source: str | None) -> str:
    """Return the command that starts such a tuning again."""
    s = session.settings
    words = {
        "--backend": s["backend"],
        "--tp": s["world_sizes"],
        "--dtype": s["dtype"] if s["dtype"] != "bf16" else None,
        "--model": s["model"],
        "--hidden": None if s["model"] else s["hidden"],
        "--for": s["engine"],
        "--otherwise": s["otherwise"],
        "--objective": s["objective"] if s["objective"] != MEAN else None,
        "--source": Path(source).name if source else None,
    }
    return shlex.join(["costmodel", "tune", *question.words(words)])
