"""One decision in words: who is faster, what to run and why, what would flip it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.deployment import ENGINES
from ..data.timing import stated
from ..decide.explanation import Choices, Explanation
from ..decide.sensitivity import Flip
from ..model.latency import TERMS
from ..model.shape import ONE_STAGE, SEPARATE_OPS
from ..rules.catalogue import catalogue
from ..units import kib
from . import words
from .place import machine
from .recommendation import (
    evidence,
    guarded,
    interval,
    pushing,
    sizes,
    this_kernel,
    unidentified,
    with_origin,
)
from .sketch import bars
from .statements import most_telling
from .table import table, terminal_width
from .words import arm, chance, parameter, unit

#: Parameters listed: the nearest ones; the rest is in the JSON.
SHOWN = 6


def brief(found: Explanation, *, fine: bool = False) -> str:
    """Return the answer first, then both arms as bars and the nearest thing that would flip it.

    ``fine`` draws with block characters.
    """
    s = found.setting
    lines = [*answer(found), "", *bars(found, fine=fine), f"  {_measured_as(found)}"]
    said = [*_interval(found), *_apart(found), *_pushing(found)]
    others = most_telling(found.cutoff.statements, s.gpu) if found.cutoff else ""
    if others:
        said.append(others)
    if not found.reason:
        said += [line.strip() for line in _flip_lines(found)[:1]]
    against = [
        o.rule.name for o in found.opinions if found.agrees(o) is False and _listed(o.rule.name)
    ]
    if against:
        said.append(f"rules in force that run the other arm: {', '.join(against)}")
    lines += [
        "",
        *said,
        "",
        "--verbose: terms with intervals, every rule, what would flip it",
    ]
    return "\n".join(lines)


def answer(found: Explanation) -> list[str]:
    """Return the answer in three lines: who is faster, what to run and how sure, which call."""
    s = found.setting
    call = (
        f"{found.tokens} tokens x hidden {found.hidden_dim} ({kib(found.bytes)} on one rank), "
        f"TP{found.world_size} on {s.gpu}, {s.op}, {s.dtype}, {s.kernel.title}"
    )
    return [*_headline(found).splitlines(), call]


def text(found: Explanation) -> str:
    """Return one decision as text, in full."""
    s = found.setting
    arms = ", ".join(f"{arm(a)} {words.evidence(part.evidence)}" for a, part in found.arms.items())
    lines = [
        f"{found.tokens} tokens x hidden {found.hidden_dim}, {s.dtype}, TP{found.world_size} on "
        f"{s.gpu} ({s.arch}): {kib(found.bytes)} on one rank",
        f"{s.op}, {s.kernel.title}; calibration {s.calibration.id}; evidence: {arms}",
        *_apart(found),
        "",
        *_headline(found).splitlines(),
        *_interval(found),
    ]
    lines += ["", _terms(found)]
    if found.separate_us is not None and found.separate_probability is not None:
        e = found.separate_us
        lines += [
            "",
            (
                f"separate ops (all-reduce, then RMSNorm): {e.value:.2f} us ({e.lo:.1f} to "
                f"{e.hi:.1f}); faster than both with "
                f"{chance(found.separate_probability, short=True)} probability"
            ),
        ]
    if pushing := _pushing(found):
        lines += ["", *pushing]
    others = most_telling(found.cutoff.statements, s.gpu) if found.cutoff else ""
    if others:
        lines += ["", others]
    lines += ["", "what the rules say", _opinions(found)]
    if found.reason:
        lines.append("the kernel's own check comes before any rule")
    if not found.reason:
        lines += ["", "what would flip it", *_flip_lines(found)]
    return "\n".join(lines)


def _headline(found: Explanation) -> str:
    if found.margin_us is None or found.margin_pct is None:
        return f"Only {arm(found.choice)} runs here: {found.reason}."
    m = found.margin_us
    one, other = found.setting.arms
    faster = one if m.value > 0 else other
    sign = 1 if m.value > 0 else -1
    lo, hi = sorted((sign * m.lo, sign * m.hi))
    sure = "" if found.decided else ": not decided at 90 %"
    it = "It is" if found.alone == found.choice else _are(found.choice)
    return (
        f"{_faster(faster)} by {abs(m.value):.2f} us (90 %: {lo:+.2f} to {hi:+.2f}), "
        f"{found.margin_pct:.1f} % of {'their' if faster == SEPARATE_OPS else 'its'} latency.\n"
        f"{_rule(found)} {it} the faster one with {chance(found.probability, short=True)} "
        f"probability{sure}."
    )


def _faster(name: str) -> str:
    """Return that an arm is faster: ``2-stage is faster``, ``separate ops are faster``."""
    return f"{_are(name)} faster"


def _are(name: str) -> str:
    return f"{arm(name)} {'are' if name == SEPARATE_OPS else 'is'}"


def _apart(found: Explanation) -> list[str]:
    """Return in one line that separate ops are the fastest, where they are."""
    if found.separate_us is None or found.separate_probability is None:
        return []
    least = min(part.latency_us.value for part in found.arms.values())
    # Where separate ops run otherwise they are one of the arms.
    if found.separate_us.value > least or found.separate_probability <= 0.5:
        return []
    sure = chance(found.separate_probability, short=True)
    return [f"separate ops are expected fastest here, with {sure} probability"]


def _pushing(found: Explanation) -> list[str]:
    """Return what the plain op's arms that push take, a line for each; then what no row tells."""
    push = found.cutoff.pushed if found.cutoff else None
    lacking = [] if push is None else unidentified([(found.world_size, push)])
    return [
        f"{with_origin(p.arm)}: {p.latency_us.value:.2f} us ({p.latency_us.lo:.1f} to "
        f"{p.latency_us.hi:.1f}) as {p.source} measures it, where 1-stage takes {p.one_us:.2f}; "
        f"faster than both with {chance(p.probability, short=True)} probability"
        for p in found.pushed
    ] + lacking


def _rule(found: Explanation) -> str:
    """Return what to run and by which rule, and what the call alone would choose."""
    run = arm(found.choice)
    if found.cutoff is None or not found.cutoff.claimed:
        return f"No cutoff is claimed; least expected regret: run {run}."
    where = (
        f"recommended at TP{found.world_size}: 1-stage {sizes(found.cutoff)}, "
        f"{evidence(found.cutoff)}"
    )
    alone = ""
    if found.alone != found.choice:
        alone = f" This call alone would lose less with {arm(found.alone)}."
    kept = ""
    if guards := found.unmet_guards:
        asked = " and ".join(part.words() for part in guards)
        kept = f": {ENGINES[found.setting.engine]} keeps 1-stage to {asked}"
    return f"Run {run}{kept} ({where}).{alone}"


def _interval(found: Explanation) -> list[str]:
    """Return both intervals of the recommended cutoff in one line, where there is one."""
    c = found.cutoff
    if c is None or not c.claimed or c.max_bytes is None:
        return []
    return [
        f"cutoff, 90 %, weighed over {_weighed(found)}: {interval(c)} on "
        f"{machine(found.setting)}, {this_kernel(c)} for this kernel"
    ]


def _weighed(found: Explanation) -> str:
    """Return the hidden sizes that the recommended cutoff is weighed over."""
    hidden = found.decision.workload.hidden_dims() if found.decision else [found.hidden_dim]
    return f"hidden {hidden[0]}" if len(hidden) == 1 else f"{len(hidden)} hidden sizes"


def _terms(found: Explanation) -> str:
    one, two = (found.arms.get(a) for a in found.setting.arms)
    rows: list[tuple[str, ...]] = []

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    for name in TERMS:
        a, b = (part.terms.get(name) if part else None for part in (one, two))
        if all(max(abs(e.lo), abs(e.hi)) < 0.005 for e in (a, b) if e):
            continue
        left, right = (e.value if e else None for e in (a, b))
        change = f"{(right or 0.0) - (left or 0.0):+.2f}" if one and two else ""
        spread = [f"{e.lo:.1f} to {e.hi:.1f}" if e else "" for e in (a, b)]
        rows.append((name, cell(left), spread[0], cell(right), spread[1], change))
    total = [part.latency_us if part else None for part in (one, two)]
    change = f"{found.margin_us.value:+.2f}" if found.margin_us else ""
    spread = [f"{e.lo:.1f} to {e.hi:.1f}" if e else "" for e in total]
    rows.append(
        (
            "total", cell(total[0].value if total[0] else None), spread[0],
            cell(total[1].value if total[1] else None), spread[1], change,
        )
    )  # fmt: skip
    other = arm(found.setting.alternative)
    head = ("us", "1-stage", "90 %", other, "90 %", f"{other} - 1-stage")
    adds = "whatever constant its own" if found.setting.any_benchmark else "the constant that this"
    notes = [
        f"latencies {_measured_as(found)}",
        *_timed(found.setting.reference),
        f"total, 90 %: of a new measurement, with {adds} benchmark adds",
    ]
    return "\n".join([table(rows, head, right=True), *notes])


def _timed(reference: str) -> list[str]:
    """Return what the benchmark's source states of its timing: causes of the harness's share."""
    name = reference.partition("/")[0]
    known = stated(name)
    if known is None:
        return []
    said = "; ".join(known) or "nothing, so no cause of the harness's share is known"
    return [f"of its timing {name} states: {said}"]


def _measured_as(found: Explanation) -> str:
    """Return whose benchmark the latencies are of, and how much of each is that benchmark's own."""
    harness = next(
        (part.terms["harness"].value for part in found.arms.values() if "harness" in part.terms),
        0.0,
    )
    adds = f" (harness: {harness:.2f} us of each)" if harness >= 0.005 else ""
    return f"{words.benchmark(found.setting.reference)}{adds}"


def _opinions(found: Explanation) -> str:
    rows = [
        (
            o.rule.name,
            o.rule.status,
            o.sizes,
            arm(o.choice),
            {None: "", True: "yes", False: "NO"}[found.agrees(o)],
        )
        for o in found.opinions
    ]
    return table(rows, ("rule", "status", "1-stage sizes here", "runs", "agrees"))


def _flip_lines(found: Explanation) -> list[str]:
    lines = []
    for flip in found.token_flips:
        word = "from" if flip.tokens > found.tokens else "down to"
        lines.append(
            f"  tokens: {arm(flip.choice)} {word} {flip.tokens} (captured batch sizes, "
            f"{kib(flip.tokens * found.bytes // found.tokens)})"
        )
    if not found.token_flips:
        lines.append(f"  tokens: no captured batch size up to 512 at hidden {found.hidden_dim}")
    if found.margin_us is not None:
        slower = found.setting.alternative if found.margin_us.value > 0 else ONE_STAGE
        lines.append(
            f"  fixed times: {abs(found.margin_us.value):.2f} us less in {arm(slower)}, or as "
            "much more in the other"
        )
    if found.parameter_flips:
        lines.append("  one parameter alone, the others held (nearest first):")
        rows = [_flip_row(f) for f in found.parameter_flips[:SHOWN]]
        head = ("", "flips at", "now", "90 % interval", "")
        text = table(rows, head, width=terminal_width() - 4)
        lines += [f"    {line}" for line in text.splitlines()]
    else:
        lines.append("  no single parameter within a factor of 4 (or 10 us) of its estimate")
    return lines


def _flip_row(flip: Flip) -> tuple[str, ...]:
    behind = f" {flip.unit}" if unit(flip.unit) else ""
    return (
        parameter(flip.name),
        f"{flip.at:.3g}{behind}",
        f"{flip.now:.3g}",
        f"{flip.lo:.3g} to {flip.hi:.3g}",
        "inside it" if flip.inside else "outside it",
    )


def choices_text(found: Choices) -> str:
    """Return the choice at every captured batch size as a table."""
    s, calls = found.setting, found.calls
    shown = [n for n, c in found.opinions.items() if (c != "").any() and _listed(n)]
    rows = []
    for i in range(len(calls)):
        margin = found.margin_us[i]
        rows.append(
            (
                int(calls.tokens[i]),
                kib(int(calls.bytes[i])),
                _us(found.latency_us[ONE_STAGE][i]),
                _us(found.latency_us[s.alternative][i]),
                "" if np.isnan(margin) else f"{margin:+.2f}",
                ""
                if np.isnan(margin)
                else f"{found.margin_lo_us[i]:+.1f} to {found.margin_hi_us[i]:+.1f}",
                "" if np.isnan(margin) else chance(float(found.probability_1stage[i]), short=True),
                arm(str(found.choice[i])),
                *(_mark(str(found.opinions[n][i]), str(found.choice[i])) for n in shown),
            )
        )
    other = arm(s.alternative)
    head = (
        "tokens", "bytes", "1-stage us", f"{other} us", f"{other} - 1-stage", "90 %",
        "P(1-stage)", "choice", *shown,
    )  # fmt: skip
    return "\n".join(
        [
            (
                f"hidden {calls.hidden_dim[0]}, {s.dtype}, TP{calls.world_size[0]} on {s.gpu} "
                f"({s.arch}), {s.op}, {s.kernel.title}; calibration {s.calibration.id}"
            ),
            "",
            table(rows, head, right=True),
            "",
            (
                "rules: 1 or 2 stages, s for separate ops; * where a rule runs another arm than "
                "the choice"
            ),
            *([*pushing(found.decision), *guarded(found.decision)] if found.decision else ()),
        ]
    )


def _listed(name: str) -> bool:
    """Whether a rule has a column: the recommended one and what engines run now."""
    return name == "recommended" or any(
        r.name == name and r.status == "current" for r in catalogue()
    )


def _mark(says: str, choice: str) -> str:
    if not says:
        return ""
    return f"{says[0]}{'' if says == choice else '*'}"


def _us(value: Any) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"
