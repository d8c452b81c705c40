"""What a change of rule is worth, in words: by GPU and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..data.architectures import FUSED, MHC, PLAIN
from ..data.engine_calls import later
from ..decide.evidence import (
    BY_PHYSICS,
    MEASURED,
    MEASURED_ELSEWHERE,
    TRANSFERRED,
    physics_decides,
)
from ..decide.worth import BatchWorth, Worth
from ..rules.rule import Rule
from ..units import kib
from .table import filled, table, terminal_width
from .words import arm, evidence

if TYPE_CHECKING:
    from ..data.engine_calls import FusedCalls
    from ..data.llms import LLM

#: What the evidence classes say of a GPU and world size.
MEANS = {
    MEASURED: "both arms were measured at one shape with these kernels and this dtype",
    MEASURED_ELSEWHERE: (
        "both arms were measured, but not at one shape with these kernels and this dtype"
    ),
    TRANSFERRED: "an arm has no usable row",
}

#: What blocks run, in words.
_OPS = {
    FUSED: "the fused all-reduce + RMSNorm",
    MHC: "an all-reduce and mHC, which AITER fuses in an op of its own",
    PLAIN: "a plain all-reduce",
}


def text(worths: Sequence[Worth]) -> str:
    """Return the worth of one change on several GPUs as text, the answer first."""
    first = worths[0]
    answers = "\n".join(filled(_answer(w), min(terminal_width(), 100)) for w in worths)
    llm = first.llm
    head = (
        f"{llm.name}: hidden size {llm.hidden_size}, {llm.num_layers} layers, "
        f"{first.calls.words()}, {first.setting.dtype}, TP{first.world_size} ({llm.source})"
    )
    lines = [head, *(f"  {line}" for line in counted(first))]
    end = [] if first.deployment.step_ms else [share_unknown()]
    return "\n\n".join([answers, "\n".join(lines), *map(_one, worths), *end])


def share_unknown() -> str:
    """Return what is said of the share of a decode step where its time is not given."""
    return (
        "the share of a whole decode step is not known here: --step-ms MS gives it from the step's "
        "time (what a serving benchmark prints as TPOT or ITL, in ms); 10 us are 0.1 % of a step "
        "of 10 ms"
    )


def counted(w: Worth) -> list[str]:
    """Return where the number of calls comes from, and what else the deployment does, as lines."""
    llm, calls, served = w.llm, w.calls, w.deployment
    if not calls.per_step and llm.why_none:
        lines = [f"no fused call: {llm.why_none}; its {llm.blocks} blocks run {_OPS[llm.op]}"]
    else:
        count = f"{calls.per_step} = {calls.formula} ({llm.blocks} blocks)"
        if not calls.per_step:
            count = f"no fused call, {llm.blocks} blocks"
        lines = [f"{count}: {calls.why}; {calls.evidence} ({calls.source})"]
    if (other := later(llm, served)) is not None:
        lines.append(
            f"{served.title} {other.release} and later: {other.per_step} = {other.formula} "
            f"(--engine-version {other.release}): {other.why}; {other.evidence} ({other.source})"
        )
    if said := served.words():
        lines.append(f"served with {said}")
    if llm.world_sizes is not None and w.world_size not in llm.world_sizes:
        lines.append(f"{llm.heads} attention heads: TP{w.world_size} does not divide them")
    if llm.note and not llm.hf_id:
        lines.append(f"note: {llm.note}")
    return lines


def evidence_words(w: Worth) -> str:
    """Return what a worth rests on; physics knows who is faster, and not by how much."""
    if physics_decides(w.setting, w.world_size):
        return f"{BY_PHYSICS}, its size {evidence(w.evidence)}"
    return evidence(w.evidence)


def none_made(calls: FusedCalls, llm: LLM | None = None) -> str:
    """Return what is said before any answer where no fused call is made."""
    whose = f"{llm.name} makes no fused call" if llm else "no fused call is made"
    where = f" in {calls.engine}" if calls.engine else ""
    return f"{whose}{where}, so no rule decides anything here: {calls.why}"


def _here(rule: Rule, w: Worth) -> str:
    """Return a rule as it is at the world size that is valued, which is all that was asked."""
    return replace(rule, condition=rule.condition.at(w.world_size)).words()


def _answer(w: Worth) -> str:
    """Return what the change is worth on a GPU in one line: ``MI355X TP8: +2.9 us a ...``."""
    place, mean = f"{w.setting.gpu} TP{w.world_size}", w.mean_us
    if not w.calls.per_step:
        return f"{place}: no fused call is made: worth 0 us a decode step{_share(w)}"
    if not w.changed:
        return f"{place}: the rules run the same arm at every captured batch size: worth 0 us"
    if not w.met:
        return (
            f"{place}: the rules run the same arm at every batch of {w.histogram.name}: worth 0 us"
        )
    over = w.histogram.name or "all captured batch sizes alike (no real traffic)"
    sure = "" if w.decided else "; not decided: the interval includes zero"
    return (
        f"{place}: {mean.value:+.1f} us a decode step (90 % {mean.lo:+.1f} to {mean.hi:+.1f})"
        f"{_share(w)} over {over}{sure}"
    )


def _one(w: Worth) -> str:
    s = w.setting
    lines = [
        (
            f"{s.gpu}, calibration {s.calibration.id}, {s.kernel.title}; {evidence_words(w)}: "
            f"{MEANS[w.evidence]} on {s.gpu} at TP{w.world_size}"
        ),
        f"  from {w.old.name}: {_here(w.old, w)}",
        f"  to {w.new.name}: {_here(w.new, w)}",
    ]
    if not w.calls.per_step or not w.changed:
        return "\n".join(lines)
    rows = [
        (
            _batch(b), kib(b.bytes), arm(b.old), arm(b.new), f"{b.saved_us.value:+.1f}",
            f"{b.saved_us.lo:+.1f} to {b.saved_us.hi:+.1f}",
        )
        for b in w.changed
    ]  # fmt: skip
    lines.append(
        table(
            rows, ("batch", "bytes", "from", "to", "us saved a step", "90 % interval"), right=True
        )
    )
    alike = len(w.batches) - len(w.changed)
    lines.append(f"{alike} other captured batch sizes run the same arm: worth 0 us")
    return "\n".join(lines)


def _batch(b: BatchWorth) -> str:
    """Return a captured batch: its sequences, and its tokens where those are others."""
    return str(b.batch) if b.tokens == b.batch else f"{b.batch} ({b.tokens} tokens)"


def _share(w: Worth) -> str:
    """Return what the mean is of a decode step, where its time is given."""
    share, step = w.step_pct, w.deployment.step_ms
    if share is None:
        return ""
    if not w.calls.per_step:
        return f", 0 % of a step of {step:g} ms"
    return (
        f", {share.value:+.2f} % of a step of {step:g} ms (90 % {share.lo:+.2f} to {share.hi:+.2f})"
    )
