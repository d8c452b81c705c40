"""``costmodel plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from ..planning import Budget, MeasuringTime, plan
from ..planning.measurement_plan import check_writable
from . import options, question

#: Shapes planned where neither --shapes nor --seconds is given.
SHAPES = 6


@click.command()
@question.setting_options
@question.workload_options
@options.world_sizes
@click.option("--shapes", type=int, metavar="N", help=f"At most N shapes.  [default: {SHAPES}]")
@click.option(
    "--seconds", type=options.Finite(), metavar="S", help="At most S seconds, instead of --shapes."
)
@click.option(
    "--noise",
    type=options.Finite(),
    metavar="X",
    help="Scatter of measurements around the model, 0.02 for 2 %.  [default: the calibration's]",
)
@click.option(
    "--launch-seconds",
    type=options.Finite(),
    default=MeasuringTime().launch_s,
    show_default=True,
    help="What starting the ranks of one world size takes.",
)
@click.option(
    "--shape-seconds",
    type=options.Finite(),
    default=MeasuringTime().shape_s,
    show_default=True,
    help="Set-up and fp32 reference of one shape.",
)
@click.option(
    "--arm-seconds",
    type=options.Finite(),
    default=MeasuringTime().arm_s,
    show_default=True,
    help="Capture, two checks and warm-up of one arm, beside the timed calls.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Plan file for measure --plan.")
@click.option("--force", is_flag=True, help="Replace --out when it exists.")
@options.format_option
def command(
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
    **asked: Any,
) -> None:
    """Choose the shapes whose measurement most reduces the expected regret of the rule.

    Regret is what the recommended cutoffs cost above the faster algorithm, averaged over captured
    batch sizes x hidden sizes and over what the calibration leaves open. A new benchmark adds an
    unknown constant to both algorithms, so the first shape is measured with both.

    \b
    costmodel plan --arch gfx942 --tp 4,8 --shapes 6 --out plan.json
    costmodel plan --gpu MI355X --model gpt-oss-120b --tp 8 --seconds 120
    """
    setting = question.setting_of(asked)
    if shapes is not None and seconds is not None:
        raise InputError("give --shapes or --seconds, not both")
    if out is not None:
        check_writable(out, setting, force=force)
    found = plan(
        setting,
        Budget(SHAPES if shapes is None and seconds is None else shapes, seconds),
        question.workload_of(asked),
        world_sizes=tp,
        noise=noise,
        measuring_time=MeasuringTime(launch_seconds, shape_seconds, arm_seconds),
    )
    if out is not None:
        found.save(out, force=force)
    if style == "json":
        options.print_json(found.to_dict())
    else:
        from ..show.plan import text

        options.say(text(found, out))
