"""``costmodel recommend``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from ..decide.recommendation import recommend
from . import options, question, targets

if TYPE_CHECKING:
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
    """A decision, and what was asked beside it."""

    decision: Decision
    weighed: question.Weighed
    constant: OneKernels | None


def _found(tp: tuple[int, ...], batch_invariant: bool, asked: question.Asked) -> _Found:
    """Answer the question about one GPU."""
    llm = question.llm_of(asked)
    # The setting first: of an unknown engine it names those that --for takes.
    engine = asked["engine"]
    setting = question.setting_of(asked)
    weighed = question.weighed(asked, llm, engine)
    decision = recommend(setting, weighed.workload, world_sizes=tp, deployment=weighed.served)
    constant = None
    if batch_invariant:
        from ..decide.batch_invariance import one_kernel

        calls = weighed.calls
        constant = one_kernel(decision, (calls.per_step or None) if calls else None)
    return _Found(decision, weighed, constant)


def _record(found: _Found) -> Recommendation:
    from ..data.deployment import Deployment

    record = found.decision.to_dict()
    served, calls = found.weighed.served, found.weighed.calls
    if served != Deployment(engine=served.engine):
        record["deployment"] = served.to_dict()
    if calls is not None:
        record["calls"] = calls.to_dict()
    if found.constant is not None:
        record["batch_invariant"] = found.constant.to_dict()
    return record


def _print(found: _Found, verbose: bool) -> None:
    from ..show.recommendation import answer_lines, brief, text
    from ..show.sketch import blocks

    served = found.weighed.served
    found.weighed.say_none()
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
