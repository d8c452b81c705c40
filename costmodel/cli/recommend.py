"""``costmodel recommend``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from ..decide.recommendation import recommend
from . import options, question, targets

if TYPE_CHECKING:
    from ..data.deployment import Deployment
    from ..data.engine_calls import FusedCalls
    from ..data.llms import LLM
    from ..decide.batch_invariance import OneKernels
    from ..decide.decision import Decision
    from ..decide.schemas import Recommendation


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

    A list of archs or GPUs is answered one after another (as JSON in "recommendations").

    \b
    costmodel recommend --arch gfx942
    costmodel recommend --gpu MI355X --model gpt-oss-120b --for sglang --format json
    costmodel recommend --gpu MI355X --model gpt-oss-120b --batch-invariant
    costmodel recommend --arch gfx942,gfx950
    """
    kinds = targets.several(asked)
    several = [targets.one(asked, kind) for kind in kinds] or [asked]
    if style == "json":
        records = [_record(_found(tp, batch_invariant, dict(one))) for one in several]
        options.print_json({"recommendations": records} if kinds else records[0])
        return
    # Each is printed when it is found: the second takes as long as the first.
    for number, one in enumerate(several):
        if number:
            click.echo()
        _print(_found(tp, batch_invariant, dict(one)), verbose)


class _Found(Struct, frozen=True):
    """A decision, and what was asked beside it; ``none`` tells that no fused call is made."""

    decision: Decision
    served: Deployment
    llm: LLM | None
    calls: FusedCalls | None
    none: bool
    constant: OneKernels | None


def _found(tp: tuple[int, ...], batch_invariant: bool, asked: question.Asked) -> _Found:
    """Answer the question about one GPU."""
    from ..data.engine_calls import fused_calls, none_left

    llm = question.llm_of(asked)
    # The setting first: of an unknown engine it names those that --for takes.
    engine = asked["engine"]
    setting = question.setting_of(asked)
    served = question.deployment_of(asked, engine)
    # A model that makes no fused call weighs nothing: the rule is that for known models.
    calls = fused_calls(llm, served) if llm else none_left(served)
    none = calls is not None and not calls.per_step
    workload = None if llm and none else question.workload_of(asked, served)
    decision = recommend(setting, workload, world_sizes=tp, deployment=served)
    constant = None
    if batch_invariant:
        from ..decide.batch_invariance import one_kernel

        constant = one_kernel(decision, (calls.per_step or None) if calls else None)
    return _Found(decision, served, llm, calls, none, constant)


def _record(found: _Found) -> Recommendation:
    from ..data.deployment import Deployment

    record = found.decision.to_dict()
    if found.served != Deployment(engine=found.served.engine):
        record["deployment"] = found.served.to_dict()
    if found.calls is not None:
        record["calls"] = found.calls.to_dict()
    if found.constant is not None:
        record["batch_invariant"] = found.constant.to_dict()
    return record


def _print(found: _Found, verbose: bool) -> None:
    from ..show.recommendation import answer_lines, brief, text
    from ..show.sketch import blocks

    served, calls = found.served, found.calls
    if found.none and calls is not None:
        from ..show.worth import none_made

        options.say(f"{none_made(calls, found.llm)}\n")
    if verbose:
        answer = answer_lines(found.decision)
        options.say("\n".join([*answer, "", text(found.decision)]))
    else:
        options.say(brief(found.decision, fine=blocks()))
    if said := served.words():
        options.say(
            f"\nserved with {said}: {served.batches.size} captured batches, "
            f"{served.tokens[0]} to {served.tokens[-1]} tokens a step"
        )
    if found.constant is not None:
        from ..show.batch_invariance import text as one_kernel_text

        options.say(f"\n{one_kernel_text(found.constant)}")
