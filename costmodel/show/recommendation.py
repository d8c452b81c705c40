"""A decision in words: cutoffs, intervals, evidence, hidden sizes, what to measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..calibration.posterior import Calibration
from ..data import kernels
from ..data.deployment import ENGINES
from ..decide.adequacy import ADEQUATE_PCT
from ..decide.decision import Cutoff, Decision
from ..decide.evidence import ALWAYS_ONE_STAGE, BY_PHYSICS
from ..decide.objective import MEAN, SPOKEN_OBJECTIVE
from ..model.shape import BESIDE, FUSED, SPOKEN
from ..units import kib
from . import words
from .place import machine
from .sketch import scale, scale_head
from .statements import line
from .table import filled, table, terminal_width
from .words import OF_FASTER, OF_FASTEST, answer, arm, size, size_interval, window_sizes

if TYPE_CHECKING:
    from ..decide.pushed import Pushed, PushedCutoff
    from ..decide.three_way import ArmsBeside


def brief(decision: Decision, *, fine: bool = False) -> str:
    """Return the answer in three lines, then the table and what speaks against the answer.

    ``fine`` draws the cutoffs with block characters.
    """
    setting, cutoffs = decision.setting, decision.cutoffs
    shown = [c for c in cutoffs if c.max_bytes is not None and c.max_bytes_lo is not None]
    lines = [*answer_lines(decision), ""]
    lines.append(_cutoff_table(decision))
    if shown:
        wide = max(len(f"TP{c.world_size}") for c in shown)
        lines += ["", f"{'':{wide}}  {scale_head()}  cutoff and 90 %, {machine(setting)}"]
        lines += [f"{f'TP{c.world_size}':{wide}}  {scale(c, fine=fine)}" for c in shown]
    against = [
        f"TP{c.world_size}: {line(b, setting.gpu)}"
        for c in cutoffs
        for b in c.statements
        if b.held is False
    ]
    against += [f"TP{c.world_size}: {c.reason}" for c in cutoffs if not c.claimed]
    said = [*apart(decision)[1:], *pushing(decision), *against, *guarded(decision)]
    if setting.engine and any(c.claimed for c in cutoffs):
        said.append(f"the rule in {setting.engine}: {decision.rule.words()}")
    if said:
        lines += ["", *map(_paragraph, said)]
    lines += ["", "--verbose: why, regret, hidden sizes, batches, what to measure next"]
    return "\n".join(lines)


def answer_lines(decision: Decision) -> list[str]:
    """Return the answer in three lines: what to run, how sure it is, what may be faster still."""
    setting = decision.setting
    where = f"{setting.gpu}, {setting.op}, {setting.dtype}, {setting.kernel.title}"
    runs = [_runs_1stage(c) for c in decision.cutoffs]
    sure = [f"TP{c.world_size} {evidence(c)}" for c in decision.cutoffs]
    lost = [f"TP{c.world_size} {c.regret_pct:.2f} %" for c in decision.cutoffs if c.claimed]
    regret = f"; expected regret {', '.join(lost)} {OF_FASTER}" if lost else ""
    third = [*apart(decision)[:1], _rests_on(setting.calibration)]
    return [
        f"run 1-stage: {', '.join(runs)} ({where})",
        f"how sure: {', '.join(sure)}{regret}",
        third[0],
    ]


def _rests_on(calibration: Calibration) -> str:
    """Return what a calibration is called, and the rows that it rests on."""
    data, sources = calibration.data, len(calibration.data["sources"])
    return (
        f"calibration {calibration.id}: {data['rows_used']} of {data['rows_read']} rows used, "
        f"{sources} source{'s' if sources != 1 else ''}"
    )


def _runs_1stage(cutoff: Cutoff) -> str:
    """Return where 1-stage runs at one world size: ``TP4 up to 232 KiB``."""
    return f"TP{cutoff.world_size} {sizes(cutoff).replace('<= ', 'up to ')}"


def text(decision: Decision) -> str:
    """Return the decision as text, in full."""
    setting = decision.setting
    engine = f", for {setting.engine}" if setting.engine else ""
    if setting.objective != MEAN:
        engine += f"; least {SPOKEN_OBJECTIVE[setting.objective]}"
    lines = [
        (
            f"1-stage or {arm(setting.alternative)}: {setting.op} on {setting.gpu} "
            f"({setting.arch}), {setting.dtype}, {setting.kernel.title}{engine}"
        ),
        _rests_on(setting.calibration),
        *map(_paragraph, [*apart(decision), *pushing(decision), *guarded(decision)]),
        "",
    ]
    lines += [_cutoff_table(decision), ""]
    for c in decision.cutoffs:
        lines.append(_paragraph(f"TP{c.world_size}: {c.reason}."))
        if c.claimed:
            lines.append(_paragraph(f"     {regrets(c)}."))
        if c.three_way is not None:
            lines.append(_paragraph(f"     {beside(decision, c, c.three_way.beside)}."))
        lines += [_paragraph(f"     {line(b, setting.gpu)}") for b in c.statements]
    lines += ["", f"hidden_dim: the kernel takes {decision.hidden_rule}."]
    lines.append(f"  known models: {', '.join(map(str, decision.hidden_set))}")
    lines += [_paragraph(f"  {said}.") for said in hidden_sizes(decision)]
    if setting.engine and any(c.claimed for c in decision.cutoffs):
        lines += ["", _paragraph(f"the rule in {setting.engine}: {decision.rule.words()}")]
    if decision.rule_of_arms is not None:
        said = f"a rule of all arms: {decision.rule_of_arms.words()} (emit --for arms writes it)"
        lines += ["", _paragraph(said)]
    switch = [c for c in decision.cutoffs if c.switch]
    if switch:
        other = arm(setting.alternative)
        lines += ["", f"last captured batch on 1-stage / first on {other}, by hidden size:"]
        hidden = [h for h, _, _ in switch[0].switch]
        by_hidden = [
            (f"TP{c.world_size}", *(f"{a or '-'} / {b or '-'}" for _, a, b in c.switch))
            for c in switch
        ]
        lines.append(table(by_hidden, ("", *hidden)))
    open_ones = [c for c in decision.cutoffs if c.measure_next]
    if open_ones:
        lines += ["", "to narrow this, measure on this GPU (costmodel plan chooses fewer):"]
    for c in open_ones:
        tokens = sorted({m["tokens"] for m in c.measure_next})
        arms = [SPOKEN[a] for a in dict.fromkeys(m["algorithm"] for m in c.measure_next)]
        lines.append(
            f"  TP{c.world_size}: {' and '.join(arms)} at hidden "
            f"{c.measure_next[0]['hidden_dim']}, tokens {', '.join(map(str, tokens))}"
        )
    return "\n".join(lines)


def _cutoff_table(decision: Decision) -> str:
    rows = [
        (
            f"TP{c.world_size}", sizes(c), interval(c), this_kernel(c), evidence(c),
            f"{c.regret_pct:.2f} %" if c.claimed else "-",
        )
        for c in decision.cutoffs
    ]  # fmt: skip
    head = (
        "ranks", "1-stage when bytes", f"90 %, {machine(decision.setting)}", "90 %, this kernel",
        "evidence", "regret, of the faster arm",
    )  # fmt: skip
    return table(rows, head)


def sizes(cutoff: Cutoff) -> str:
    """Return which sizes are 1-stage: ``<= 464 KiB``, ``always`` or ``no claim``."""
    return answer(cutoff.verdict, cutoff.max_bytes)


def evidence(cutoff: Cutoff) -> str:
    """Return what a cutoff rests on: its evidence class in words, or ``by physics``.

    Where 1-stage always wins, that is the answer; what it rests on are the rows of both arms.
    """
    if cutoff.by_physics:
        return BY_PHYSICS
    always = cutoff.verdict == ALWAYS_ONE_STAGE
    return words.evidence(cutoff.evidence_class if always else cutoff.verdict)


def interval(cutoff: Cutoff) -> str:
    """Return the interval of a cutoff on the machine asked about: ``311 KiB to 581 KiB``."""
    return size_interval(cutoff.max_bytes_lo, cutoff.max_bytes_hi)


def this_kernel(cutoff: Cutoff) -> str:
    """Return the interval of a cutoff in the sources' laboratories: ``405 KiB to 504 KiB``."""
    return size_interval(cutoff.this_kernel_lo, cutoff.this_kernel_hi)


def apart(*decisions: Decision) -> list[str]:
    """Return where arms beside the two are expected to be fastest, and whether two are enough.

    Of several decisions each world size has its GPU before it.
    """
    known = [
        (_place(decisions, d, c.world_size), c.three_way)
        for d in decisions
        for c in d.cutoffs
        if c.three_way is not None
    ]
    op = decisions[0].setting.op
    fused = op == FUSED
    lines = []
    for name in BESIDE.get(op, ()):
        own = [(at, three, [w for w in three.apart if w.algorithm == name]) for at, three in known]
        if wins := [(at, three, mine) for at, three, mine in own if mine]:
            said = "; ".join(f"{at} {window_sizes(mine)}" for at, _, mine in wins)
            unsure = [at for at, three, _ in wins if not three.beside.share]
            where = "" if len(unsure) == len(wins) else f" at {', '.join(unsure)}"
            sure = f"; no size{where} reaches 90 % probability" if unsure else ""
            whom = f"{arm(name)} are" if fused else f"{with_origin(name)} is"
            lines.append(f"{whom} expected to be fastest: {said}{sure}")
    if short := [f"{three.loss_pct:.1f} % at {at}" for at, three in known if not three.enough]:
        beside_them = (
            "with separate ops as a third choice, this rule would lose"
            if fused
            else "beside a choice of all arms, a rule of two would lose"
        )
        lines.append(
            f"two arms are not enough: {beside_them} "
            f"{', '.join(short)} {OF_FASTEST} (mean over the calls)"
        )
    return lines


def guarded(*decisions: Decision) -> list[str]:
    """Return what of the regret is the engine's guards', which the rule keeps."""
    lost = ", ".join(
        f"{pct:.2f} % at {_place(decisions, d, n)}"
        for d in decisions
        for n, pct in d.lost_to_guards
    )
    whose = ENGINES.get(decisions[0].setting.engine, "")
    cost = f"the rule keeps {whose}'s guards, which cost {lost} {OF_FASTER} (mean over the calls)"
    return [f"{cost}; lifting them would be another change"] if lost else []


def _place(decisions: Sequence[Decision], decision: Decision, world_size: int) -> str:
    return f"{decision.setting.gpu} TP{world_size}" if len(decisions) > 1 else f"TP{world_size}"


def regrets(cutoff: Cutoff) -> str:
    """Return the three regrets of the rule."""
    r = cutoff.regrets
    near = "" if r.contested_pct is None else f"{r.contested_pct:.2f} % on contested calls, "
    return (
        f"expected regret, {OF_FASTER}: {r.mean_pct:.2f} % on average, {near}"
        f"{r.worst_pct:.2f} % on the worst"
    )


def pushing(decision: Decision) -> list[str]:
    """Return up to which size the plain op's arms that push win, and where no row tells."""
    known = [(c.world_size, c.pushed) for c in decision.cutoffs if c.pushed is not None]
    lines = [
        f"TP{n}: {', '.join(map(_up_to, push.cutoffs))}, as "
        f"{' and '.join(dict.fromkeys(a.source for a in push.arms))} has them beside "
        f"1-stage; no release up to {kernels.LATEST} has them on {decision.setting.gpu}"
        for n, push in known
        if push.cutoffs
    ]
    return [*lines, *unidentified(known)]


def unidentified(known: Sequence[tuple[int, Pushed]]) -> list[str]:
    """Return which arms that push no row tells of, by world size, and what to measure."""
    lacking: dict[tuple[str, ...], list[tuple[int, Pushed]]] = {}
    for n, push in known:
        if push.unidentified:
            lacking.setdefault(push.unidentified, []).append((n, push))
    lines = []
    for names, where in lacking.items():
        from ..decide.pushed import said_to_measure  # fused ops start faster

        ranks = " and ".join(f"TP{n}" for n, _ in where)
        push = where[0][1]
        lines.append(
            f"{with_origin(*names)} not identified at {ranks}: "
            f"{push.reason}; measure {said_to_measure(push.measure_next)}"
        )
    return lines


def with_origin(*names: str) -> str:
    """Return arms that push with what brought them: ``LL (AITER's main since #5272)``."""
    origin = kernels.since(kernels.pushing("aiter", names[0]))
    return f"{' and '.join(map(arm, names))} ({origin})"


def _up_to(cutoff: PushedCutoff) -> str:
    """Return up to which size an arm is faster than 1-stage, with both intervals."""
    lo, hi = cutoff.here.lo.lo, cutoff.here.hi.hi
    most = f"up to {kib(cutoff.max_bytes)}" if cutoff.max_bytes else f"at least up to {size(lo)}"
    theirs = size_interval(cutoff.this_kernel.lo.lo, cutoff.this_kernel.hi.hi)
    return (
        f"{arm(cutoff.of.arm)} is faster than 1-stage {most} (90 %: {size_interval(lo, hi)}; this "
        f"kernel {theirs})"
    )


def beside(decision: Decision, cutoff: Cutoff, found: ArmsBeside) -> str:
    """Return where the arms beside 1-stage and 2-stage beat both."""
    fused = decision.setting.op == FUSED
    who, two = (
        ("separate ops", "fused arm") if fused else ("LL and LL128", "of 1-stage and 2-stage")
    )
    if not found.share:
        return f"{who}: nowhere faster than the better {two} with 90 % probability"
    gpu, n = decision.setting.gpu, cutoff.world_size
    basis = "measured here" if found.measured else f"never measured on {gpu} at {n} ranks"
    by = " to ".join(dict.fromkeys(f"{pct:.0f}" for pct in found.gain_pct))
    what, both = ("all-reduce, then RMSNorm; ", "both fused arms") if fused else ("", "both")
    whose = f"the better {two}'s" if fused else "the better arm's"
    return (
        f"{who} ({what}{basis}) are faster than {both} with "
        f"90 % probability on {100 * found.share:.0f} % of the calls ({kib(found.from_bytes)} to "
        f"{kib(found.to_bytes)}), by {by} % of {whose} latency"
    )


def _paragraph(words: str) -> str:
    """Wrap at the terminal's width, at most 100 columns, continuation lines indented."""
    return filled(words, min(terminal_width(), 100))


def hidden_sizes(decision: Decision) -> list[str]:
    """Return what hidden size does beyond bytes: by the model, and what rows can show of it."""
    out = []
    if not decision.depends_on_hidden:
        out.append(
            f"by the model no hidden size would gain more than {ADEQUATE_PCT:g} % {OF_FASTER} on "
            "contested calls from a cutoff of its own"
        )
    for c in decision.cutoffs:
        own = [h for h in c.adequacy.by_hidden if h.differs]
        if own:
            said = ", ".join(f"{h.hidden_dim} {size(h.max_bytes)}" for h in own)
            out.append(f"TP{c.world_size}, own cutoffs that surely differ by hidden size: {said}")
    out += [_rows_of(decision, a) for a in decision.setting.arms]
    effect = decision.setting.calibration.data.get("hidden_effect")
    if effect:
        out.append(
            f"{effect['rows']} rows of arms with several hidden sizes change by "
            f"{effect['pct_per_doubling']:+.1f} % of their latency per doubling at like bytes, "
            f"beyond the model (90 % interval {effect['lo']:+.1f} to {effect['hi']:+.1f})"
        )
    return out


def _rows_of(decision: Decision, name: str) -> str:
    """Return at which hidden sizes an arm was measured, and whether that can show anything."""
    hidden = decision.hidden_dims_measured(name)
    if not hidden:
        return f"{arm(name)}: no row says its hidden size"
    rows = f"{arm(name)} rows exist at hidden {', '.join(map(str, hidden))}"
    return rows if len(hidden) > 1 else f"{rows} only: no row can show what hidden size does"
