"""The description before a patch's diff: what a maintainer asks before merging it.

``patch`` and ``git apply`` skip it. It says what is measured and what is not, for which AITER the
patch is made, who else is concerned, what happens to batch invariance, and how to check it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from ..data.hosts import Kind
from ..model.shape import SEPARATE_OPS, SPOKEN, TWO_STAGE, WORLD_SIZES
from ..rules.adapt import Adapted
from ..rules.algebra import parts_of
from ..rules.condition import Compare, exact_size
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from .by_arch import Gated
from .consumers import Consumer
from .kernel_version import RunningKernel
from .overrides import Override

_WIDTH = 96
#: Hidden size whose shapes the check proposes: that of most measured rows.
_HIDDEN = 7168
_ELEMENT_BYTES = 2

#: AITER's variable that forces a stage for every fused op, not for one alone.
_FORCES = "AITER_AR_1STAGE"


class Note(Struct, frozen=True):
    """One thing to know: ``short`` goes into a report too ("" where it does not).

    ``brief`` is what the terminal is told, in few words ("" where nothing is). ``command`` stands
    on a line of its own, so that it can be pasted.
    """

    text: str
    short: str = ""
    command: str = ""
    brief: str = ""

    def whole(self) -> str:
        """Return all of it on one line."""
        return f"{self.text} {self.command}".rstrip()


def notes(
    adapted: Adapted,
    provenance: Provenance,
    engine: str,
    *,
    running: RunningKernel,
    overrides: tuple[Override, ...],
    concerned: list[Consumer],
    copies: Collection[str],
    against_separate: Callable[[], Rule | None],
    more: Sequence[Note] = (),
) -> list[Note]:
    """Return the notes of a patch, in the order in which they are read.

    ``copies`` names those of the concerned that are changed alike; ``more`` are notes of whoever
    made the rule: what it loses elsewhere, or where one cutoff is not enough.
    """
    made = f"made for {running.words()}; the patched rule may run on {adapted.releases()}"
    said = [Note(made, made, brief=_made_for(running))]
    said += guards(adapted, engine)
    if adapted.limits:
        joined = ", ".join(f.words() for f in adapted.limits)
        text = f"{running.limits_words()} join the rule: {joined}"
        said.append(Note(text, text, brief=f"joined to the rule, by that AITER's limits: {joined}"))
    said += [_two_stage_limits(adapted)] if adapted.rule.otherwise == TWO_STAGE else []
    said += [_measured(adapted, provenance)]
    said += [_override(one, adapted) for one in overrides]
    said += one_gpu(engine, provenance)
    said += more
    said += _concerned(concerned, copies, adapted, against_separate)
    said += [batch_invariance(adapted)]
    said += [Note("to check on your machine:", command=check(adapted, provenance))]
    return said


def notes_by_host(
    gated: Gated,
    provenances: Mapping[Kind, Provenance],
    engine: str,
    *,
    running: RunningKernel,
    overrides: tuple[Override, ...],
    concerned: list[Consumer],
    copies: Collection[str],
    losses: Callable[[Gated], list[str]],
) -> list[Note]:
    """Return the notes of a patch with rules for several kinds of GPU.

    ``losses`` gives, in words, what a rule loses on GPUs of its kind that it was not made for, and
    last what to do about it. The terminal is told in a few words what the description says in full.
    """
    kinds = gated.kinds
    made = f"made for {running.words()}; the patched rule may run on {gated.elsewhere.releases()}"
    names = " and ".join(kind.name for kind in kinds)
    gate = (
        f"the cutoffs for {names} hold on hosts whose GPUs are all of that kind and each have an "
        f"xGMI link, by the topology of amdkfd; every other host keeps {engine}'s own: one without "
        "that topology, one of different GPUs, GPUs over PCIe (MI350P is gfx950), cards whose PCI "
        "id is not listed and an MI300A (gfx942, of which nothing is modelled)"
    )
    short = f"over xGMI alone; on any other host {engine}'s own cutoffs stay"
    version = f"AITER {running.stated}" if running.stated else "an AITER that is not known"
    said = [Note(made, f"made for {version}"), Note(gate, short)]
    told = dict.fromkeys(n for a in kinds.values() for n in a.notes(engine))
    said += [Note(n, n) for n in told]
    if gated.elsewhere.limits:
        joined = ", ".join(f.words() for f in gated.elsewhere.limits)
        text = f"{running.limits_words()} join the rule everywhere: {joined}"
        said.append(Note(text, text))
    if gated.elsewhere.rule.otherwise == TWO_STAGE:
        said.append(_two_stage_limits(gated.elsewhere))
    for kind, adapted in kinds.items():
        said.append(Note(f"{kind.name}: {_measured(adapted, provenances[kind]).text}"))
    elsewhere = losses(gated)
    said += [Note(text) for text in elsewhere[:-1]]
    said += [
        Note(text, f"other cards of an arch: see the patch; {text}") for text in elsewhere[-1:]
    ]
    said += [_override(one, gated.elsewhere) for one in overrides]
    # Who asks the patched rule, or held a copy, gets the same cutoffs, those of its host.
    by_gpu = "; ".join(f"{kind.name}: {cutoffs(a.rule)}" for kind, a in kinds.items())
    said += _concerned(concerned, copies, gated.elsewhere, lambda: None, by_gpu)
    changing = [a for a in (*kinds.values(), gated.elsewhere) if batch_invariance(a).short]
    said += [batch_invariance((changing or [gated.elsewhere])[0])]
    for kind, adapted in kinds.items():
        said.append(
            Note(
                f"to check on your machine, {kind.name}:",
                command=check(adapted, provenances[kind]),
            )
        )
    return said


def guards(adapted: Adapted, engine: str) -> list[Note]:
    """Return what was kept of the engine's rule, and what of it gives way."""
    # That guards stay is what anybody expects; what changes is told.
    return [Note(n, n, brief="" if "guards stay" in n else n) for n in adapted.notes(engine)]


def lines(found: list[Note]) -> list[str]:
    """Return notes as the lines of a list."""
    out = []
    for note in found:
        out += textwrap.wrap(
            note.text, _WIDTH, initial_indent="* ", subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        out += [f"  {note.command}"] if note.command else []
    return out


def one_gpu(engine: str, provenance: Provenance) -> list[Note]:
    """Say that the engine serves every GPU while a calibration is for one."""
    if not provenance.gpu:
        return []
    text = f"{engine} runs this rule on every GPU; it is calibrated for {provenance.gpu}"
    return [Note(text, text, brief=f"calibrated for {provenance.gpu}, run on every GPU")]


def batch_invariance(adapted: Adapted) -> Note:
    """Say what the rule does to the independence of a token's result from its batch."""
    changing = [n for n in WORLD_SIZES if not _is_one_kernel(adapted, n)]
    if not changing:
        return Note("batch invariance: the rule takes one kernel for every size")
    names = ", ".join(f"TP{n}" for n in changing)
    short = f"not batch-invariant at {names}: the size of the batch decides which kernel rounds"
    why = "1-stage alone is: one workgroup sums a token, always in the order of the ranks"
    return Note(f"{short}; {why}", short, brief=f"not batch-invariant at {names}")


def check(adapted: Adapted, provenance: Provenance) -> str:
    """Return one command that measures both arms around the largest world size's cutoff."""
    ranks, tokens = max(WORLD_SIZES), [1, 8, 32]
    for n in sorted(adapted.rule.world_sizes):
        cutoff = adapted.rule.cutoff_bytes(n)
        if cutoff is not None and n not in adapted.unclaimed:
            at = max(1, cutoff[1] // (_HIDDEN * _ELEMENT_BYTES))
            ranks, tokens = n, sorted({max(1, at // 2), at, at + max(1, at // 4), 2 * at})
    target = f"--gpu {provenance.gpu}" if provenance.gpu else "--gpu YOURS"
    return (
        f"torchrun --nproc-per-node={ranks} -m costmodel measure --backend aiter "
        f"--hidden {_HIDDEN} --tokens {','.join(map(str, tokens))} --out run "
        f"&& costmodel validate {target} --measurements run/measurements.csv"
    )


def _is_one_kernel(adapted: Adapted, world_size: int) -> bool:
    """Tell whether no size or number of tokens changes the kernel at a world size."""
    asked = parts_of(adapted.rule.condition.at(world_size))
    return not any(
        isinstance(part, Compare) and part.quantity in ("bytes", "elements", "tokens")
        for part in asked
    )


def _two_stage_limits(adapted: Adapted) -> Note:
    """Say what the kernel that runs elsewhere takes; no rule changes that."""
    kernel = adapted.kernel
    most = kernel.fused_2stage_max_packs
    most_words = f" and at most {most}" if most else ""
    return Note(
        f"where 1-stage does not run, the 2-stage kernel takes hidden / pack of at least "
        f"{kernel.fused_2stage_min_packs}{most_words}, and throws outside; the patch leaves the "
        "engine's own checks of that as they are"
    )


def _measured(adapted: Adapted, provenance: Provenance) -> Note:
    if not provenance.evidence:
        where = adapted.rule.source or "no source is stated"
        return Note(
            f"the rule is taken as it stands ({where}); nothing was measured for this patch"
        )
    said = []
    for n in WORLD_SIZES:
        evidence = provenance.evidence.get(n)
        if n in adapted.unclaimed or evidence is None:
            said.append(f"TP{n} no claim")
        elif evidence.verdict == "measured":
            said.append(f"TP{n} measured (both arms on {provenance.gpu})")
        elif evidence.verdict == "always_1stage" and n == 2:
            said.append(f"TP{n} by physics (2 ranks move the same bytes either way)")
        elif evidence.verdict == "always_1stage":
            said.append(f"TP{n} 1-stage at every size, by the model")
        elif evidence.verdict == "batch_invariant":
            said.append(f"TP{n} one kernel for every size, whatever is faster")
        else:
            said.append(f"TP{n} not measured here: {evidence.verdict.replace('_', ' ')}")
    return Note(f"what is measured: {'; '.join(said)}")


def _override(override: Override, adapted: Adapted) -> Note:
    text = f"{override.words()}, as before"
    if override.name.endswith(_FORCES):
        text += "; with it, of the fused fp8 and MXFP4 ops too"
    brief = f"{override.name} still overrides it"
    cap = adapted.kernel.fused_1stage_max_tokens
    if cap is not None and override.replaces != "limit":
        unguarded = f"it has no guard: 1-stage throws above {cap} tokens"
        text, brief = f"{text}; {unguarded}", f"{brief}; {unguarded}"
    return Note(text, text, brief=brief)


def _made_for(running: RunningKernel) -> str:
    if not running.stated:
        return "made for an AITER that is not known; --aiter-version says which one runs"
    return f"made for AITER {running.stated}, {running.found.partition(', ')[0]}"


def _concerned(
    found: list[Consumer],
    copies: Collection[str],
    adapted: Adapted,
    against_separate: Callable[[], Rule | None],
    by_gpu: str = "",
) -> list[Note]:
    """Say who else is concerned, what each runs where 1-stage does not, and by which cutoffs."""
    hidden = sum(one.hidden for one in found)
    asks = sum(one.asks and not one.hidden for one in found)
    alike = sum(one.function in copies and not one.hidden for one in found)
    said = by_gpu or cutoffs(adapted.rule)
    out = []
    if found:
        counts = [
            (asks, "asking the patched rule"),
            (alike, "with a copy of it, patched alike"),
            (len(found) - asks - alike - hidden, "with its own"),
            (hidden, "hidden by a later definition"),
        ]
        words = ", ".join(f"{count} {what}" for count, what in counts if count)
        text = f"other functions that choose: {words}"
        same_op = [
            one.place
            for one in found
            if one.op == adapted.rule.op
            and not one.asks
            and (one.hidden or one.function not in copies)
        ]
        named = f"; not patched: {', '.join(same_op)}" if same_op else ""
        out.append(
            Note(
                f"{text}:",
                f"{text} (listed in the patch){named}",
                brief=f"{text}; see the patch{named}",
            )
        )
    for one in found:
        if one.hidden:
            text = f"not patched, {one.op}: {one.place} is never in force: a later definition of"
            out.append(Note(f"{text} the same name hides it"))
            continue
        if one.function in copies:
            out.append(_alike(one, adapted, said))
            continue
        if not one.asks:
            own = one.own.words() if one.own else "its own tests hold (not read)"
            text = f"not patched, {one.op}: {one.place} keeps its rule: 1-stage when {own}"
            out.append(Note(f"{text}, else {SPOKEN[one.otherwise]}"))
            continue
        first = f"{one.before} where that is on, else " if one.before else ""
        text = f"patched with it, {one.op}: {one.place}: {said}, else {first}"
        text += SPOKEN[one.otherwise]
        if one.otherwise == SEPARATE_OPS != adapted.rule.otherwise:
            text += f". The cutoffs are against 2-stage; {_separately(against_separate())}"
        out.append(Note(text))
    return out


def not_patched(elsewhere: Collection[str]) -> list[Note]:
    """Say which packages of engines lie below the same path, which this patch does not touch."""
    if not elsewhere:
        return []
    text = f"not patched, below the same path: {', '.join(elsewhere)}"
    return [Note(text, text, brief=text)]


def _alike(one: Consumer, adapted: Adapted, said: str) -> Note:
    """Say what stands in a function that held the same rule: the cutoffs that ``said`` gives."""
    text = f"patched alike, {one.op}: {one.place} held the same rule: {said}"
    text += f", else {SPOKEN[one.otherwise]}"
    if one.op != adapted.rule.op:
        text += f"; these are the cutoffs of {adapted.rule.op}, none is known for {one.op} alone"
    return Note(text)


def _separately(rule: Rule | None) -> str:
    if rule is None:
        return "for those against separate ops see costmodel recommend --otherwise separate"
    return f"against separate ops costmodel recommends {cutoffs(rule)}"


def cutoffs(rule: Rule) -> str:
    """Return which sizes are 1-stage at each world size that the rule claims."""
    said = []
    for n in rule.world_sizes:
        cutoff = rule.cutoff_bytes(n)
        sizes = rule.sizes(n) if cutoff is None else f"{cutoff[0]} {exact_size(cutoff[1])}"
        said.append(f"TP{n} {sizes}")
    return f"1-stage {', '.join(said)}"
