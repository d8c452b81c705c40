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
    if every == (tokens is not None):
        raise InputError("give --tokens for one call or --all for every captured batch size")
    hidden_dim = question.hidden_dim_of(asked)
    llm = question.llm_of(asked)
    engine = asked["engine"]
    setting = question.setting_of(asked)
    if setting.op == SEPARATE:
        raise InputError("explain takes --op fused or plain; separate ops stand beside fused")
    weighed = question.weighed(asked, llm, engine)
    workload = weighed.workload or known_workload(setting, weighed.served)
    if style != "json":
        weighed.say_none()
    if every:
        batches = weighed.served.tokens.tolist()
        all_calls = choices(setting, hidden_dim, tp, workload, tokens=batches)
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
