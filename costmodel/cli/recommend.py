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
@question.BATCH_INVARIANT
@options.format_option
def command(tp: tuple[int, ...], batch_invariant: bool, style: str, **asked: Any) -> None:
    """Recommend the dispatch rule: hidden sizes, byte cutoff per tensor-parallel size, evidence.

    \b
    costmodel recommend --arch gfx942
    costmodel recommend --gpu MI355X --model gpt-oss-120b --for sglang --format json
    costmodel recommend --gpu MI355X --model gpt-oss-120b --batch-invariant
    """
    llm = question.llm_of(asked)
    setting = question.setting_of(asked)
    decision = recommend(setting, question.workload_of(asked), world_sizes=tp)
    constant = None
    if batch_invariant:
        from ..decide.batch_invariance import one_kernel

        constant = one_kernel(decision, (llm.calls_per_step or None) if llm else None)
    if style == "json":
        record = decision.to_dict()
        if constant is not None:
            record["batch_invariant"] = constant.to_dict()
        options.print_json(record)
        return
    from ..show.recommendation import text

    click.echo(text(decision))
    if constant is not None:
        from ..show.batch_invariance import text as one_kernel_text

        click.echo(f"\n{one_kernel_text(constant)}")
