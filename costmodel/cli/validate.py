"""``costmodel validate``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..data import kernels as kernel
from ..data.workload import Workload
from ..decide.measured_regret import NORMAL_90
from ..decide.validation import Limits
from ..errors import InputError, nearest
from . import options

if TYPE_CHECKING:
    from ..calibration.posterior import Calibration
    from ..data.measurement import Measurements
    from ..decide.measured_regret import RuleRegret
    from ..decide.validation import Validation
    from ..rules.rule import Rule

DEFAULT = Limits()


@click.command()
@click.argument("more", nargs=-1, metavar="[FILE...]")
@click.option(
    "--measurements", "files", multiple=True, metavar="FILE",
    help="Schema 1 file or directory of them; several may follow.",
)  # fmt: skip
@click.option("--published", is_flag=True, help="Add the published tables that costmodel ships.")
@options.target
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
@click.option("--aiter-version", default=kernel.LATEST, show_default=True)
@click.option(
    "--max-median-error", type=click.FloatRange(min=0), default=DEFAULT.median_ape,
    show_default=True, metavar="PCT", help="Of the model, after one offset per source.",
)  # fmt: skip
@click.option(
    "--min-agree", type=click.FloatRange(0, 100), default=100 * DEFAULT.agree,
    show_default=True, metavar="PCT", help="Pairs outside the tie band decided rightly.",
)  # fmt: skip
@click.option(
    "--max-regret", type=click.FloatRange(min=0), default=DEFAULT.regret,
    show_default=True, metavar="PCT", help="Mean regret of the recommended rule.",
)  # fmt: skip
@click.option(
    "--tie", type=click.FloatRange(min=0), default=DEFAULT.tie,
    show_default=True, metavar="PCT", help="Algorithms this close count as equally fast.",
)  # fmt: skip
@click.option(
    "--live", metavar="BACKEND",
    help="Measure first, with this back end (aiter, triton, gloo), at shapes that are not among "
    "the --measurements given; needs --tp and --out.",
)  # fmt: skip
@options.world_size(help="With --live: world size.")
@click.option(
    "--hidden", type=options.INTEGERS,
    help="Hidden sizes that the rule is recommended for [default: those of known models]; with "
    "--live also those to measure.",
)  # fmt: skip
@click.option("--tokens", type=options.INTEGERS, help="With --live: tokens.")
@click.option(
    "--dtype",
    type=options.DTYPE,
    default="bf16",
    show_default=True,
    help="With --live: bf16, fp16.",
)
@click.option("--out", metavar="DIR", help="With --live: directory of the run.")
@click.option("--measure", default="", metavar="OPTIONS", help="With --live: more for measure.")
@options.format_option
@click.pass_context
def command(
    context: click.Context,
    more: tuple[str, ...],
    files: tuple[str, ...],
    published: bool,
    arch: str | None,
    gpu: str | None,
    calibration_file: str | None,
    op: str | None,
    against: str | None,
    fallback: str | None,
    held_out: tuple[str, ...],
    include: tuple[str, ...],
    accuracy_only: bool,
    aiter_version: str,
    max_median_error: float,
    min_agree: float,
    max_regret: float,
    tie: float,
    live: str | None,
    tp: int | None,
    hidden: tuple[int, ...] | None,
    tokens: tuple[int, ...] | None,
    dtype: str,
    out: str | None,
    measure: str,
    style: str,
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

    limits = Limits(max_median_error, min_agree / 100, max_regret, tie)
    if live is not None:
        return _live(
            context, live, tp, hidden, tokens, dtype, out, measure.split(),
            (*files, *more), options.load_target(arch, gpu, calibration_file), limits,
            aiter_version, style,
        )  # fmt: skip
    table = _read((*files, *more), published or bool(held_out), held_out, include)
    if held_out:
        if calibration_file is not None:
            raise InputError("--hold-out refits the published rows; it takes no --calibration")
        from ..data import hardware, measurement

        arch, _ = hardware.choose(arch, gpu)
        calibration = hold_out(measurement.published(), held_out, arch)
    else:
        calibration, arch, _ = options.load_target(arch, gpu, calibration_file)
    found = validate(
        table,
        calibration,
        gpu=gpu.upper() if gpu else None,
        op=op,
        include=("clean", *include),
        against=_rule(against, op),
        fallback=_rule(fallback, op),
        aiter_version=aiter_version,
        workload=Workload.of(hidden) if hidden else None,
        limits=limits,
        need_pairs=not accuracy_only,
    )
    if style == "json":
        options.print_json(found.to_dict())
    else:
        click.echo(describe(found))
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
    tp: int | None,
    hidden: tuple[int, ...] | None,
    tokens: tuple[int, ...] | None,
    dtype: str,
    out: str | None,
    more: list[str],
    files: tuple[str, ...],
    target: tuple[Calibration, str, str],
    limits: Limits,
    aiter_version: str,
    style: str,
) -> int:
    """Measure in this process or its ranks, then judge the run directory on rank 0."""
    from ..data import measurement
    from ..live.validation import HIDDEN_DIMS, TOKENS, Measured, arguments, judge_run
    from ..live.validation import describe as describe_measured
    from .measure import command as measure_command

    if out is None:
        raise InputError("--live needs --out, the directory that keeps what was measured")
    if tp is None:
        raise InputError("--live needs --tp, the number of ranks")
    directory = Path(out)
    seen = measurement.read_all(files) if files else None
    asked = arguments(
        backend, tp, hidden or HIDDEN_DIMS, tokens or TOKENS, dtype, directory, seen, more
    )
    with _said_aside():
        code = _run(measure_command, asked, context)
    if code or os.environ.get("RANK", "0") != "0":
        return code
    calibration, _, gpu = target
    found, live = judge_run(directory, calibration, gpu, limits=limits, aiter_version=aiter_version)
    if style == "json":
        options.print_json({**found.to_dict(), "live": live.to_dict()})
    else:
        told = describe_measured(found, live) if isinstance(found, Measured) else describe(found)
        click.echo(told)
    return 0 if found.passed else 1


def _read(
    files: tuple[str, ...], published: bool, held_out: tuple[str, ...], include: tuple[str, ...]
) -> Measurements:
    """Return the rows to judge; with held out sources only theirs."""
    import numpy as np

    from ..data import measurement

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
    tables = [measurement.read_all(files)] if files else []
    if published:
        tables.append(measurement.published())
    table = measurement.concat(tables)
    return table.select(np.isin(table.source, held_out)) if held_out else table


def _rule(name: str | None, op: str | None) -> Rule | None:
    """Return a rule of the catalogue by name, or one from a JSON file."""
    from ..model.shape import FUSED
    from ..rules.rule import load, named

    if name is None:
        return None
    if name.endswith(".json") or Path(name).is_file():
        return load(name)
    return named(name, op=op or FUSED)


def describe(found: Validation) -> str:
    """Return a validation as text."""
    return "\n\n".join(
        "\n".join(part)
        for part in (_rows(found), _accuracy(found), _choice(found), _regret(found), _end(found))
        if part
    )


def _rows(found: Validation) -> list[str]:
    observations = found.rows.observations
    table = observations.table
    gpus = ", ".join(sorted(set(table.gpu.tolist())))
    lines = [
        f"calibration {found.calibration.id} against {len(table)} of {observations.read} rows: "
        f"{gpus}, {', '.join(sorted(set(table.op.tolist())))}"
    ]
    if observations.set_aside:
        aside = "; ".join(f"{n} {reason}" for reason, n in observations.set_aside.items())
        lines.append(f"set aside: {sum(observations.set_aside.values())} rows ({aside})")
    if found.own_sources:
        lines.append(
            f"{found.accuracy.known} of these rows are of sources that the calibration was fitted "
            f"on ({', '.join(found.own_sources)}): for them this is a fit, not a test; "
            "see --hold-out"
        )
    else:
        lines.append("none of these sources is in the calibration: this is a test on new data")
    return lines


def _accuracy(found: Validation) -> list[str]:
    from ..show.table import table

    a = found.accuracy
    head = ("model error", "rows", "median", "90th percentile", "largest", "in 90 % interval")
    rows = [
        (
            "as calibrated", a.n, f"{a.median_ape:.1f} %", f"{a.p90_ape:.1f} %",
            f"{a.max_ape:.1f} %", f"{100 * a.coverage90:.0f} %",
        ),
        (
            "one offset per source", a.n, f"{a.median_ape_offset:.1f} %",
            f"{a.p90_ape_offset:.1f} %", f"{a.max_ape_offset:.1f} %", "",
        ),
    ]  # fmt: skip
    notes = []
    if a.known < a.n:
        notes.append(
            f"{a.n - a.known} rows of unknown sources are predicted with the typical harness "
            "constant; their intervals carry its spread"
        )
    notes.append("each row's offset is fitted to the other rows of its source")
    return [table(rows, head), *notes]


def _choice(found: Validation) -> list[str]:
    from ..units import kib

    pairs, choice = found.pairs, found.choice
    if not choice.pairs:
        return ["no call was measured with both algorithms: no rule is judged"]
    where = sorted(set(zip(pairs.gpu.tolist(), pairs.world_size.tolist(), strict=True)))
    sources = sorted(set(pairs.source.tolist()))
    lines = [
        f"{choice.pairs} calls of {pairs.op} measured with both algorithms: "
        f"{', '.join(f'{g} TP{n}' for g, n in where)}; {kib(int(pairs.bytes.min()))} to "
        f"{kib(int(pairs.bytes.max()))}; {_some(sources)}"
    ]
    for a in found.advice:
        lines.append(f"recommended on {a.gpu}, {a.dtype}: {a.rule.words()}")
        for c in a.recommendation.cutoffs:
            if c.world_size in a.filled:
                lines.append(
                    f"  TP{c.world_size} by {a.fallback}, because the recommendation makes no "
                    f"claim: {c.reason}"
                )
    outside = (
        f"{100 * choice.agree_outside_tie:.0f} % of the {choice.outside_tie} that differ by more "
        f"than {found.limits.tie:g} %"
        if choice.agree_outside_tie is not None
        else f"none differs by more than {found.limits.tie:g} %"
    )
    lines.append(
        f"it takes the faster algorithm on {100 * (choice.agree or 0):.0f} % of them; {outside}"
    )
    return lines


def _regret(found: Validation) -> list[str]:
    from ..show.table import table

    if not found.regret:
        return []
    head = (
        "rule", "mean", "max", "mean us", "max us", "recommended is behind by", "noise",
        "differs on", "over the workload", "us a call",
    )  # fmt: skip
    lines = [
        "regret above the faster measured algorithm, mean and max over these calls. How far the",
        "recommended rule is behind (negative: ahead) has a 90 % interval by bootstrap over calls;",
        "noise is what measurement noise alone explains. Over the workload (captured batch sizes x",
        "hidden sizes of known models) regret is by the model, with a 90 % interval.",
        table([_row(r) for r in found.regret], head),
    ]
    alike = [r.rule for r in found.regret if r.behind and not r.differ and r.rule != "recommended"]
    noise = [r.rule for r in found.regret if r.behind and r.differ and not r.separable]
    if alike:
        lines.append(
            f"these shapes cannot separate recommended from {', '.join(alike)}: "
            "they decide alike on every one"
        )
    if noise:
        lines.append(
            f"these shapes cannot separate recommended from {', '.join(noise)}: "
            "the difference is within noise"
        )
    three = found.three_way
    if three is not None:
        named = (("the model's choice of three", three.choice), ("always fused", three.fused))
        regrets = "; ".join(
            f"{name} mean {r.mean_pct:.2f} %, max {r.max_pct:.1f} %, mean {r.mean_us:.2f} us"
            for name, r in named
        )
        lines.append(
            f"{three.choice.pairs} calls also ran as separate ops; regret above the fastest "
            f"measured arm there: {regrets}"
        )
    return lines


def _row(r: RuleRegret) -> tuple[str, ...]:
    compared = r.behind is not None and r.rule != "recommended"
    behind, pct, us = r.behind, r.modelled_pct, r.modelled_us
    return (
        r.rule, f"{r.mean_pct:.2f} %", f"{r.max_pct:.1f} %", f"{r.mean_us:.2f}",
        f"{r.max_us:.2f}",
        f"{behind.value:+.2f} ({behind.lo:+.2f} to {behind.hi:+.2f})"
        if behind and compared else "",
        f"{NORMAL_90 * r.noise_pct:.2f}" if compared else "",
        f"{r.differ} of {r.pairs}" if compared else (f"({r.pairs})" if not behind else ""),
        f"{pct.value:.2f} % ({pct.lo:.2f} to {pct.hi:.2f})" if pct else "",
        f"{us.value:.3f} ({us.lo:.3f} to {us.hi:.3f})" if us else "",
    )  # fmt: skip


def _end(found: Validation) -> list[str]:
    limits = found.limits
    asked = f"median error <= {limits.median_ape:g} %"
    if found.choice.pairs:
        asked += (
            f", right outside ties >= {100 * limits.agree:g} %, mean regret <= {limits.regret:g} %"
        )
        if found.judged_against:
            asked += f", no worse than {found.judged_against} within noise"
    if found.passed:
        return [f"passed: {asked}"]
    return [f"not passed: {failure}" for failure in found.failures]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
