"""``costmodel recommend``."""

from __future__ import annotations

from typing import Any

import click

from ..decide.recommendation import recommend
from . import options, question


@click.command()
@question.setting_options
@question.workload_options
@options.world_sizes
@options.format_option
def command(tp: tuple[int, ...], style: str, **asked: Any) -> None:
    """Recommend the dispatch rule: hidden sizes, byte cutoff per tensor-parallel size, evidence.

    \b
    costmodel recommend --arch gfx942
    costmodel recommend --gpu MI355X --model gpt-oss-120b --for sglang --format json
    """
    setting = question.setting_of(asked)
    decision = recommend(setting, question.workload_of(asked), world_sizes=tp)
    if style == "json":
        options.print_json(decision.to_dict())
    else:
        from ..show.recommendation import text

        click.echo(text(decision))
