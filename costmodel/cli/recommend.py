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
@question.deployment_options
@question.BATCH_INVARIANT
@options.verbose
@options.format_option
def command(
    tp: tuple[int, ...], batch_invariant: bool, verbose: bool, style: str, **asked: Any
) -> None:
    """Recommend the dispatch rule: hidden sizes, byte cutoff per tensor-parallel size, evidence.

    \b
    costmodel recommend --arch gfx942
    costmodel recommend --gpu MI355X --model gpt-oss-120b --for sglang --format json
    costmodel recommend --gpu MI355X --model gpt-oss-120b --batch-invariant
    """
    from ..data.deployment import Deployment
    from ..data.engine_calls import fused_calls, none_left

    llm = question.llm_of(asked)
    served = question.deployment_of(asked, asked["engine"])
    setting = question.setting_of(asked)
    # A model that makes no fused call weighs nothing: the rule is that for known models.
    calls = fused_calls(llm, served) if llm else none_left(served)
    none = calls is not None and not calls.per_step
    workload = None if llm and none else question.workload_of(asked, served)
    decision = recommend(setting, workload, world_sizes=tp, deployment=served)
    constant = None
    if batch_invariant:
        from ..decide.batch_invariance import one_kernel

        constant = one_kernel(decision, (calls.per_step or None) if calls else None)
    if style == "json":
        record = decision.to_dict()
        if served != Deployment(engine=served.engine):
            record["deployment"] = served.to_dict()
        if calls is not None:
            record["calls"] = calls.to_dict()
        if constant is not None:
            record["batch_invariant"] = constant.to_dict()
        options.print_json(record)
        return
    from ..show.recommendation import answer_lines, brief, text
    from ..show.sketch import blocks

    if verbose:
        click.echo("\n".join([*answer_lines(decision), "", text(decision)]))
    else:
        click.echo(brief(decision, fine=blocks()))
    if said := served.words():
        click.echo(
            f"\nserved with {said}: {served.batches.size} captured batches, "
            f"{served.tokens[0]} to {served.tokens[-1]} tokens a step"
        )
    if none and calls is not None:
        whose = f"{llm.name} makes no fused call" if llm else "no fused call is made"
        click.echo(f"\n{whose}: {calls.why}; no rule decides anything here")
    if constant is not None:
        from ..show.batch_invariance import text as one_kernel_text

        click.echo(f"\n{one_kernel_text(constant)}")
