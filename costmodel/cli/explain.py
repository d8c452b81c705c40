"""``costmodel explain``."""

from __future__ import annotations

from typing import Any

import click

from ..decide.explanation import choices, explain
from ..decide.recommendation import known_workload
from ..errors import InputError
from ..model.shape import SEPARATE
from . import options, question


@click.command()
@question.setting_options
@options.world_size(required=True)
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens of the call.")
@question.workload_options
@question.deployment_options
@click.option("--all", "every", is_flag=True, help="The choice at every captured batch size.")
@options.verbose
@options.format_option
def command(
    tp: int, tokens: int | None, every: bool, verbose: bool, style: str, **asked: Any
) -> None:
    """Explain which algorithm a call should run: terms, probability, rules, what would flip it.

    The choice is that of the rule that costmodel recommend gives for the same options.

    \b
    costmodel explain --arch gfx942 --tp 8 --hidden 2880 --tokens 32
    costmodel explain --gpu MI355X --tp 4 --model gpt-oss-120b --all
    """
    from ..data.engine_calls import fused_calls, none_left

    if every == (tokens is not None):
        raise InputError("give --tokens for one call or --all for every captured batch size")
    hidden_dim = question.hidden_dim_of(asked)
    llm = question.llm_of(asked)
    engine = asked["engine"]
    setting = question.setting_of(asked)
    if setting.op == SEPARATE:
        raise InputError("explain takes --op fused or plain; separate ops stand beside fused")
    served = question.deployment_of(asked, engine)
    calls = fused_calls(llm, served) if llm else none_left(served)
    # As in recommend: a model that makes no fused call weighs nothing, known models stand in.
    none = calls is not None and not calls.per_step
    known = known_workload(setting, served) if llm and none else None
    workload = known or question.workload_of(asked, served)
    if none and calls is not None and style != "json":
        from ..show.worth import none_made

        options.say(f"{none_made(calls, llm)}\n")
    if every:
        all_calls = choices(setting, hidden_dim, tp, workload, tokens=served.tokens.tolist())
        if style == "json":
            options.print_json(all_calls.to_dict())
        else:
            from ..show.explanation import choices_text
            from ..show.sketch import blocks, curve

            options.say(curve(all_calls, fine=blocks()))
            options.say(f"\n{choices_text(all_calls)}")
        return
    explanation = explain(setting, setting.shapes(tokens or 1, hidden_dim, tp), workload)
    if style == "json":
        options.print_json(explanation.to_dict())
    else:
        from ..show.explanation import answer, brief, text
        from ..show.sketch import blocks

        if verbose:
            options.say("\n".join([*answer(explanation), "", text(explanation)]))
        else:
            options.say(brief(explanation, fine=blocks()))
