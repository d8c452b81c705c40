"""``costmodel audit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..data.deployment import Deployment
from ..data.engine_calls import FusedCalls, fused_calls
from ..decide.recommendation import recommend
from ..engines import callers
from ..engines.audit import Audit, audit
from ..engines.source import Tree, open_trees
from ..errors import InputError
from ..model.shape import OPS
from ..show.audit import text
from . import options, question

#: Hidden sizes that token counts are given for: GPT-OSS, Llama 8B, Llama 4, DeepSeek V3.
HIDDEN_DIMS = (2880, 4096, 5120, 7168)


@click.command()
@click.argument("path")
@options.target
@click.option(
    "--against",
    metavar="NAME|FILE",
    shell_complete=options.complete_rules,
    help="Rule to compare with [default: the recommended one, with --arch or --gpu].",
)
@options.op_option("Whose rule is compared; the rules of all ops are stated.")
@question.DTYPE
@question.AITER
@question.OTHERWISE
@question.OBJECTIVE
@question.workload_options
@options.world_sizes
@click.option(
    "--fail-above",
    type=options.Finite(),
    metavar="PCT",
    help="Exit with 1 when the installed rule loses more than this many percent.",
)
@options.format_option
def command(
    path: str,
    against: str | None,
    op: str,
    tp: tuple[int, ...],
    fail_above: float | None,
    style: str,
    **asked: Any,
) -> int:
    """State the dispatch rule of an installed SGLang, vLLM or AITER, and judge it.

    Of ATOM, which takes AITER's rule, state where it calls AITER and what its recipes set.

    PATH is a package directory, a site-packages directory, a checkout or a wheel. Its sources are
    parsed, never imported or run. Beside each rule stand the flags, variables, limits and methods
    that decide whether the op runs at all and which kernel, each with the line that decides. With
    --arch or --gpu the rule is compared with the recommended one, as that would stand in the same
    place, in bytes, tokens, regret and worth.

    \b
    costmodel audit $(python -c 'import sglang, os; print(os.path.dirname(sglang.__file__))')
    costmodel audit vllm-0.33.0.whl --gpu MI355X --model gpt-oss-120b --fail-above 2
    """
    llm = question.llm_of(asked)
    sizes = options.hidden_sizes(asked["hidden"], asked["model_name"], asked["config_file"])
    workload = question.workload_of(asked)
    rule = question.rule_of(against, op) if against is not None else None
    if rule is not None:
        rule.check_op(op)
    version, dtype = asked["aiter_version"], asked["dtype"] or (llm.dtype if llm else "bf16")
    has_model = bool(asked["arch"] or asked["gpu"] or asked["calibration_file"])
    if fail_above is not None and not has_model:
        raise InputError("--fail-above needs --arch, --gpu or --calibration: a model to score with")
    decision = None
    if has_model:
        try:
            setting = question.setting_of({**asked, "op": op})
            decision = recommend(setting, workload, world_sizes=tp)
        except InputError as error:
            # An op that no model covers has a rule in force all the same.
            if op in OPS or fail_above is not None:
                raise
            click.echo(f"costmodel: note: {error}", err=True)

    def audited(tree: Tree) -> Audit:
        return audit(tree, against=rule, decision=decision, aiter_version=version, op=op)

    def calls_of(one: Audit) -> FusedCalls | None:
        return fused_calls(llm, Deployment(engine=one.tree.engine.name)) if llm else None

    done = _all(path, audited, style)
    shown = sizes or HIDDEN_DIMS
    if style == "json":
        records = [one.to_dict(shown, dtype, fail_above, calls_of(one)) for one in done]
        options.print_json(records[0] if len(records) == 1 else {"audits": records})
    else:
        for one in done:
            options.say(text(one, shown, dtype, calls_of(one)))
    failed = [one for one in done if not one.passed(fail_above)]
    for one in failed:
        click.echo(
            f"costmodel: {one.tree.engine.title}'s rule loses {one.loses_pct:.2f} %, more than "
            f"the {fail_above:g} % allowed",
            err=True,
        )
    return 1 if failed else 0


def _all(path: str, audited: Callable[[Tree], Audit], style: str) -> list[Audit]:
    """Audit every engine at a path; one that cannot be read is named, unless none can.

    An engine that takes AITER's rule has none to audit: that is said, and where.
    """
    done, failed = [], []
    caller = callers.read(path)
    try:
        trees = open_trees(path)
    except InputError:
        if caller is None:
            raise
        trees = []
    if caller is not None and style != "json":
        options.say("\n".join(caller.lines()))
    if caller is not None and not trees:
        if style == "json":
            raise InputError(caller.answer())
        return []
    for tree in trees:
        try:
            done.append(audited(tree))
        except InputError as error:
            failed.append(error)
    if not done:
        raise failed[0]
    for unread in failed:
        click.echo(f"costmodel: note: {unread}", err=True)
    return done
