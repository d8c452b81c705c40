"""``costmodel predict``."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from ..decide.prediction import predict
from ..model.shape import ALGORITHMS
from . import options, question


@click.command()
@question.setting_options
@click.option(
    "--algorithm", type=options.ARM, default="both", show_default=True,
    help="1stage, 2stage or both; of the plain op ll and ll128 too.",
)  # fmt: skip
@options.world_sizes
@click.option(
    "--tokens", type=options.INTEGERS, default="1,8,32,128", show_default=True,
    help="Numbers; 8:64:8 in steps; 1..512 doubling.",
)  # fmt: skip
@question.workload_options
@click.option("--terms", "show_terms", is_flag=True, help="Show the terms in the table.")
@options.format_option
def command(
    algorithm: str,
    tp: tuple[int, ...],
    tokens: tuple[int, ...],
    show_terms: bool,
    style: str,
    **asked: Any,
) -> None:
    """Predict latencies with their terms and 90 % intervals.

    Latencies are as the nearest source's benchmark shows them (same GPU and op), which is named; an
    interval is for that laboratory, the other for your machine, whose benchmark adds what it adds.

    \b
    costmodel predict --arch gfx950 --tp 4 --hidden 7168 --tokens 8:64:8
    costmodel predict --gpu MI300X --model gpt-oss-120b --tp 8 --algorithm 1stage --format json
    costmodel predict --gpu MI308X --op plain --tp 2 --algorithm ll
    """
    setting = question.setting_of(asked)
    workload = question.workload_of(asked)
    sizes = (7168,) if workload is None else workload.hidden_dims()
    n, h, t = (a.ravel() for a in np.meshgrid(tp, sizes, tokens, indexing="ij"))
    shapes = setting.shapes(t, h, n)
    # A family may have one kernel alone.
    has = tuple(a for a in ALGORITHMS if not setting.lacks(a))
    wanted = has or ALGORITHMS if algorithm == "both" else (algorithm,)
    predictions = [predict(setting, shapes, a) for a in wanted]
    if style == "json":
        options.print_json(
            {
                "schema": "costmodel/predict/1",
                "arch": setting.arch,
                "gpu": setting.gpu,
                "kernel": predictions[0].kernel,
                "rows": [row for p in predictions for row in p.to_rows()],
            }
        )
    else:
        from ..show.prediction import text

        options.say(text(predictions, setting, terms=show_terms))
