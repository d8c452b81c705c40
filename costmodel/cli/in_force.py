"""``costmodel in-force``."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError
from . import options, question


@click.command()
@click.argument("traces", metavar="TOKENS=TRACE...", nargs=-1, required=True)
@click.option(
    "--rule", "name", required=True, metavar="NAME|FILE", shell_complete=options.complete_rules,
    help="The rule that should be in force.",
)  # fmt: skip
@options.op_option()
@click.option("--tp", type=int, required=True, help="Ranks.")
@options.model_shape
@question.DTYPE
@click.option("--aiter-version", help="Of the kernels, where the rule depends on it.")
@options.format_option
def command(
    traces: tuple[str, ...], name: str, op: str, tp: int, hidden: tuple[int, ...] | None,
    model_name: str | None, config_file: str | None, dtype: str | None, aiter_version: str | None,
    style: str,
) -> int:  # fmt: skip
    """Read profiles of single replays and say whether a rule is in force.

    Each TRACE is a profile (of torch, rocprof or rocprofv3, as `costmodel import` reads them) of
    the replay that was captured for TOKENS. In the engine's process the function check of
    costmodel.live.in_force does the same without files. Exits with 1 where it is not in force.

    \b
    costmodel in-force --rule sglang-128k --tp 8 --model gpt-oss-120b 8=t8.json.gz 64=t64.json.gz
    """
    from ..data.importers import read_launches
    from ..live.in_force import judge

    sizes = options.hidden_sizes(hidden, model_name, config_file) or ()
    if len(sizes) != 1:
        raise InputError("give one hidden size: --hidden, --model or --config")
    rule = question.rule_of(name, op)
    kernels: dict[int, Any] = {}
    for trace in traces:
        tokens, equals, path = trace.partition("=")
        if not (equals and path and tokens.isdecimal() and 0 < len(tokens) < 10 and int(tokens)):
            raise InputError(f"'{trace}': give TOKENS=TRACE, such as 64=t64.json.gz")
        if int(tokens) in kernels:
            raise InputError(f"{tokens} tokens stand twice")
        kernels[int(tokens)] = read_launches(path).streams()
    seen = judge(
        kernels, rule, hidden_dim=sizes[0], world_size=tp, dtype=dtype or "bf16",
        kernel_version=aiter_version,
    )  # fmt: skip
    if style == "json":
        options.print_json(seen.to_dict())
    else:
        options.say(str(seen))
    return 0 if seen.holds else 1
