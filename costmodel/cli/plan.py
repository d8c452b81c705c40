"""``costmodel plan``."""

from __future__ import annotations

from pathlib import Path

import click

from ..data import kernels as kernel
from ..errors import InputError
from ..model.fabric import LOOPBACK
from ..model.shape import FUSED
from ..planning import Budget, Effort, Plan, plan
from ..planning.candidates import harness_spread_us
from ..planning.measurement_plan import check_writable
from ..planning.outlook import Interval
from ..show.table import table
from ..units import kib
from . import options

#: Shapes planned where neither --shapes nor --seconds is given.
SHAPES = 6


@click.command()
@options.target
@options.op_option()
@options.dtype_option
@click.option("--aiter-version", default=kernel.LATEST, show_default=True)
@options.model_shape
@options.world_sizes
@click.option("--shapes", type=int, metavar="N", help=f"At most N shapes.  [default: {SHAPES}]")
@click.option("--seconds", type=float, metavar="S", help="At most S seconds, instead of --shapes.")
@click.option(
    "--noise",
    type=float,
    metavar="X",
    help="Scatter of measurements around the model, 0.02 for 2 %.  [default: the calibration's]",
)
@click.option(
    "--launch-seconds",
    type=float,
    default=Effort.launch_s,
    show_default=True,
    help="What starting the ranks of one world size takes.",
)
@click.option(
    "--shape-seconds",
    type=float,
    default=Effort.shape_s,
    show_default=True,
    help="Set-up and fp32 reference of one shape.",
)
@click.option(
    "--arm-seconds",
    type=float,
    default=Effort.arm_s,
    show_default=True,
    help="Capture, two checks and warm-up of one arm, beside the timed calls.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Plan file for measure --plan.")
@click.option("--force", is_flag=True, help="Replace --out when it exists.")
@options.format_option
def command(
    arch: str | None,
    gpu: str | None,
    calibration_file: str | None,
    op: str,
    dtype: str,
    aiter_version: str,
    hidden: tuple[int, ...] | None,
    model_name: str | None,
    config_file: str | None,
    tp: tuple[int, ...],
    shapes: int | None,
    seconds: float | None,
    noise: float | None,
    launch_seconds: float,
    shape_seconds: float,
    arm_seconds: float,
    out: Path | None,
    force: bool,
    style: str,
) -> None:
    """Choose the shapes whose measurement most reduces the expected regret of the rule.

    Regret is what the recommended cutoffs cost above the faster algorithm, averaged over captured
    batch sizes x hidden sizes and over what the calibration leaves open. A new benchmark adds an
    unknown constant to both algorithms, so the first shape is measured with both.

    \b
    costmodel plan --arch gfx942 --tp 4,8 --shapes 6 --out plan.json
    costmodel plan --gpu MI355X --model gpt-oss-120b --tp 8 --seconds 120
    """
    calibration, _, gpu = options.load_target(arch, gpu, calibration_file)
    if shapes is not None and seconds is not None:
        raise InputError("give --shapes or --seconds, not both")
    if out is not None:
        check_writable(out, op, force=force)
    found = plan(
        calibration,
        gpu=gpu,
        budget=Budget(SHAPES if shapes is None and seconds is None else shapes, seconds),
        op=op,
        dtype=dtype,
        aiter_version=aiter_version,
        hidden_dims=options.hidden_sizes(hidden, model_name, config_file),
        world_sizes=tp,
        noise=noise,
        effort=Effort(launch_seconds, shape_seconds, arm_seconds),
    )
    if out is not None:
        found.save(out, force=force)
    if style == "json":
        options.print_json(found.to_dict())
    else:
        click.echo(describe(found, out))


def describe(found: Plan, out: Path | None = None) -> str:
    """Return the plan as text; ``out`` is where it was written."""
    calibration = found.calibration
    lines = [
        f"what to measure next: {found.op} on {found.gpu} ({found.arch}), {found.dtype}, "
        f"{kernel.calibrated(calibration.kernel_family, found.aiter_version).title}",
        f"calibration {calibration.id}; measurements scatter by {100 * found.noise:.1f} % around "
        f"the model, a new benchmark adds a constant unknown to "
        f"+-{harness_spread_us(calibration):.1f} us",
        "",
        _prospects(found),
        "",
    ]
    for p in found.prospects:
        if p.note:
            lines.append(f"TP{p.world_size}: {p.note}.")
        if p.open_share > 0:
            lines.append(
                f"TP{p.world_size}: {100 * p.open_share:.0f} % of the calls lie inside the "
                f"interval; there the expected regret is {p.open_regret_pct:.2f} %."
            )
    if not found.entries:
        return "\n".join(
            [*lines, "nothing to measure: no measurement in this budget would change the rule."]
        )
    lines += ["", _entries(found), ""]
    lines += [f"{i}. {e.reason}." for i, e in enumerate(found.entries, 1)]
    lines += ["", _total(found)]
    lines += ["", *_next(found, out)]
    return "\n".join(lines)


def _prospects(found: Plan) -> str:
    rows = []
    for p in found.prospects:
        if p.before.hi is None and p.before.lo == p.before.bytes:
            rows.append((f"TP{p.world_size}", "always", "-", "-", f"{p.regret_pct_before:.3f} %",
                         "-", f"{p.regret_pct_perfect:.3f} %"))  # fmt: skip
            continue
        rows.append(
            (
                f"TP{p.world_size}",
                f"<= {kib(p.before.bytes)}",
                _span(p.before),
                _span(p.after),
                f"{p.regret_pct_before:.3f} %",
                f"{p.regret_pct_after:.3f} %",
                f"{max(p.regret_pct_perfect, 0):.3f} %",
            )
        )
    head = (
        "ranks", "cutoff now", "90 % interval", "expected after", "regret now", "expected after",
        "unavoidable",
    )  # fmt: skip
    return table(rows, head)


def _span(interval: Interval) -> str:
    if interval.hi is None:
        return f"{kib(interval.lo)} to no limit"
    ratio = f" (x{interval.ratio:.2f})" if interval.lo else ""
    return f"{kib(interval.lo)} to {kib(interval.hi)}{ratio}"


def _entries(found: Plan) -> str:
    rows = [
        (
            i,
            f"TP{e.world_size}",
            e.hidden_dim,
            e.tokens,
            kib(e.bytes),
            " + ".join(e.arms),
            " / ".join(f"{t:.1f}" for t in e.latency_us),
            f"{e.seconds:.0f}",
            f"{e.regret_pct_left:.3f} %",
        )
        for i, e in enumerate(found.entries, 1)
    ]
    head = ("", "ranks", "hidden", "tokens", "bytes", "arms", "model us", "s", "regret left")
    return table(rows, head)


def _total(found: Plan) -> str:
    before, after, perfect = found.regret_pct
    removed = 100 * (before - after) / max(before - perfect, 1e-12)
    text = (
        f"{len(found.entries)} shape{'s' * (len(found.entries) > 1)}, {found.latencies} "
        f"latenc{'ies' if found.latencies > 1 else 'y'}, about {found.seconds:.0f} s: "
        f"mean expected regret {before:.3f} % -> {after:.3f} %, "
        f"{removed:.0f} % of what measuring can remove"
    )
    limit = found.budget.shapes
    if limit is not None and len(found.entries) < limit:
        text += ". More shapes would bring next to nothing"
    return text + "."


def _next(found: Plan, out: Path | None) -> list[str]:
    sizes = sorted({e.world_size for e in found.entries})
    if found.op != FUSED:
        return [
            f"'costmodel measure' runs {FUSED} alone: measure these with a harness of your own; "
            "'costmodel import' reads its output"
        ]
    if out is None:
        return ["--out plan.json writes this for: costmodel measure --plan plan.json"]
    # Ranks on one GPU run in one process, on the project's own kernels.
    alone = found.calibration.fabric == LOOPBACK
    lines = [f"written: {out}. Measure, then calibrate with the new rows:"]
    for n in sizes:
        start = f"torchrun --nproc-per-node={n} -m costmodel measure --backend aiter"
        if alone:
            start = "costmodel measure --backend triton"
        lines.append(f"  {start} --plan {out} --tp {n} --out run-tp{n}")
    rows = " ".join(f"run-tp{n}/measurements.csv" for n in sizes)
    old = "YOUR_ROWS.csv" if alone else f"--published --arch {found.arch}"
    lines.append(f"  costmodel calibrate {rows} {old} --out mine.json")
    return lines
