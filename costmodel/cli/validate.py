"""``costmodel validate``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data import measurement, repeated
from ..decide.validation import ValidationLimits
from ..errors import InputError, nearest
from ..model.shape import FUSED
from . import options, question

if TYPE_CHECKING:
    from ..data.measurement import Measurements
    from ..data.repeated import Repeated

DEFAULT = ValidationLimits()

#: Options that say what --live measures, and those of what is judged without it.
_OF_LIVE = ("tokens", "dtype", "out", "measure")
_OF_TABLES = ("published", "held_out", "include", "accuracy_only", "op", "against", "fallback")


@click.command()
@click.argument("more", nargs=-1, metavar="[FILE...]")
@click.option(
    "--measurements", "files", multiple=True, metavar="FILE",
    help="Schema 1 file or directory of them; several may follow.",
)  # fmt: skip
@click.option("--published", is_flag=True, help="Add the published tables that costmodel ships.")
@options.target
@question.AITER
@question.ENGINE
@question.OTHERWISE
@question.OBJECTIVE
@click.option("--op", type=options.OP, help="fused or plain [default: fused if it has pairs].")
@click.option(
    "--against", metavar="NAME|FILE", shell_complete=options.complete_rules,
    help="Judge this rule too, and compare the recommended rule with it instead of the best "
    "shipped one.",
)  # fmt: skip
@click.option(
    "--fallback", metavar="NAME|FILE", shell_complete=options.complete_rules,
    help="Rule where the recommendation makes no claim [default: AITER's current one].",
)  # fmt: skip
@click.option(
    "--hold-out", "held_out", multiple=True, metavar="SOURCE",
    help="Judge this published source alone, by a calibration fitted to all others.",
)  # fmt: skip
@click.option(
    "--include", multiple=True, metavar="QUALITY",
    help="Also use rows of this quality: noisy, suspect, launch_bound, serving_trace.",
)  # fmt: skip
@click.option("--accuracy-only", is_flag=True, help="Judge the model, with or without pairs.")
@click.option(
    "--max-median-error", type=options.Finite(min=0), default=DEFAULT.median_ape,
    show_default=True, metavar="PCT", help="Of the model, after one offset per source.",
)  # fmt: skip
@click.option(
    "--min-agree", type=options.Finite(0, 100), default=100 * DEFAULT.agree,
    show_default=True, metavar="PCT", help="Pairs outside the tie band decided rightly.",
)  # fmt: skip
@click.option(
    "--max-regret", type=options.Finite(min=0), default=DEFAULT.regret,
    show_default=True, metavar="PCT", help="Mean regret of the recommended rule.",
)  # fmt: skip
@click.option(
    "--tie", type=options.Finite(min=0), default=DEFAULT.tie,
    show_default=True, metavar="PCT", help="Algorithms this close count as equally fast.",
)  # fmt: skip
@click.option(
    "--live", metavar="BACKEND",
    help="Measure first, with this back end (aiter, triton, gloo), at shapes that are not among "
    "the --measurements given; needs --tp and --out.",
)  # fmt: skip
@options.asked_world_sizes("World sizes to judge; with --live the one to measure.")
@question.workload_options
@click.option("--tokens", type=options.INTEGERS, help="With --live: tokens.")
@click.option(
    "--dtype", type=options.DTYPE, default="bf16", show_default=True,
    help="With --live: bf16, fp16.",
)  # fmt: skip
@click.option("--out", metavar="DIR", help="With --live: directory of the run.")
@click.option("--measure", default="", metavar="OPTIONS", help="With --live: more for measure.")
@options.format_option
@click.pass_context
def command(
    context: click.Context,
    more: tuple[str, ...],
    files: tuple[str, ...],
    published: bool,
    op: str | None,
    against: str | None,
    fallback: str | None,
    held_out: tuple[str, ...],
    include: tuple[str, ...],
    accuracy_only: bool,
    max_median_error: float,
    min_agree: float,
    max_regret: float,
    tie: float,
    live: str | None,
    tp: tuple[int, ...] | None,
    tokens: tuple[int, ...] | None,
    dtype: str,
    out: str | None,
    measure: str,
    style: str,
    **asked: Any,
) -> int:
    """Judge the model and every rule of the field on measured rows.

    Rules are judged on calls that were measured with both algorithms: rows that agree in all
    columns but the algorithm. Rows of other archs, ops and kernels that the model lacks, and rows
    that are not clean are set aside and counted.

    Exit code 0: the recommended rule is no worse than the best shipped one within noise (or than
    --against) and the limits are met. 1: not so. 2: bad input, such as rows without pairs.

    \b
    costmodel validate --arch gfx950 --measurements mine.csv
    costmodel validate --gpu MI355X --published --hold-out aiter-3458-mi355x
    costmodel validate --arch gfx942 --published --accuracy-only
    """
    from ..decide.validation import hold_out, validate

    limits = ValidationLimits(max_median_error, min_agree / 100, max_regret, tie)
    workload = question.workload_of(asked)
    if live is not None:
        options.refuse(context, _OF_TABLES, "belongs to tables; --live judges what it measured")
        return _live(
            context, live, tp, asked, tokens, dtype, out, measure.split(), (*files, *more), limits,
            style,
        )  # fmt: skip
    options.refuse(context, _OF_LIVE, "belongs to --live; give a back end, or leave it out")
    table = _read((*files, *more), published or bool(held_out), held_out, include)
    if tp is not None:
        table = table.having("world_size", tp)
    every_gpu = asked["gpu"] is None
    if held_out and asked["calibration_file"] is not None:
        raise InputError("--hold-out refits the published rows; it takes no --calibration")
    setting = question.setting_of({**asked, "dtype": None})
    if held_out:
        calibration = hold_out(measurement.published(), held_out, setting.arch)
        setting = setting.but(calibration=calibration)
    found = validate(
        table,
        setting,
        every_gpu=every_gpu,
        op=op,
        include=("clean", *include),
        against=question.rule_of(against, op or FUSED) if against else None,
        fallback=question.rule_of(fallback, op or FUSED) if fallback else None,
        workload=workload,
        limits=limits,
        need_pairs=not accuracy_only,
    )
    if style == "json":
        options.print_json(found.to_dict())
    else:
        from ..show.validation import text

        click.echo(text(found))
    return 0 if found.passed else 1


@contextlib.contextmanager
def _said_aside() -> Iterator[None]:
    """Send standard output, that of started processes included, to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _run(measuring: click.Command, asked: list[str], context: click.Context) -> int:
    """Run a command with these arguments and return its exit code."""
    with measuring.make_context("measure", asked, context) as inner:
        try:
            measuring.invoke(inner)
        except click.exceptions.Exit as ended:
            return ended.exit_code
    return 0


def _live(
    context: click.Context,
    backend: str,
    tp: tuple[int, ...] | None,
    asked: question.Asked,
    tokens: tuple[int, ...] | None,
    dtype: str,
    out: str | None,
    more: list[str],
    files: tuple[str, ...],
    limits: ValidationLimits,
    style: str,
) -> int:
    """Measure in this process or its ranks, then judge the run directory on rank 0."""
    from ..live.validation import HIDDEN_DIMS, TOKENS, Measured, arguments, judge_run
    from ..show.live import describe as describe_measured
    from .measure import command as measure_command

    if out is None:
        raise InputError("--live needs --out, the directory that keeps what was measured")
    if tp is None or len(tp) > 1:
        raise InputError("--live needs --tp, the number of ranks of one run")
    directory = Path(out)
    seen = _checked(files) if files else None
    hidden = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    wanted = arguments(
        backend, tp[0], hidden or HIDDEN_DIMS, tokens or TOKENS, dtype, directory, seen, more
    )
    setting = question.setting_of({**asked, "dtype": None})
    with _said_aside():
        code = _run(measure_command, wanted, context)
    if code or os.environ.get("RANK", "0") != "0":
        return code
    found, live = judge_run(directory, setting, limits=limits)
    if style == "json":
        options.print_json({**found.to_dict(), "live": live.to_dict()})
    else:
        from ..show.validation import text

        told = describe_measured(found, live) if isinstance(found, Measured) else text(found)
        click.echo(told)
    return 0 if found.passed else 1


def _checked(files: tuple[str, ...]) -> Measurements:
    """Return a user's rows, names and units checked."""
    from ..calibration.plausibility import check

    table = measurement.read_all(files)
    check(table)
    return table


def _read(
    files: tuple[str, ...], published: bool, held_out: tuple[str, ...], include: tuple[str, ...]
) -> Repeated:
    """Return the rows to judge; with held out sources only theirs."""
    import numpy as np

    from ..calibration.plausibility import check

    known = measurement.VOCABULARY["quality"]
    for quality in include:
        if quality not in known:
            raise InputError(
                f"unknown quality '{quality}' in --include{nearest(quality, known)}; "
                f"one of {', '.join(known)}"
            )
    if not files and not published:
        raise InputError("give --measurements FILE (schema 1) or --published")
    if held_out and files:
        raise InputError("--hold-out judges published rows alone; leave out the files")
    tables = []
    if files:
        tables.append(repeated.read_all(files))
        check(tables[0])
    if published:
        tables.append(repeated.Repeated.of(measurement.published()))
    table = repeated.concat(tables)
    return table.select(np.isin(table.kinds.source, held_out)) if held_out else table
