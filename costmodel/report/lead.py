"""The first screen in words: title, what, for whom, how much, how sure, what is not known.

At most 120 words stand before the first table, however many GPUs a report has, so places that say
the same stand together: ``MI300X TP4 and TP8, MI355X TP8``. Two ranks, which physics decides, come
last everywhere.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..decide.evidence import BY_PHYSICS, TRANSFERRED
from ..decide.objective import CONTESTED_FACTOR
from ..model.shape import SPOKEN, TWO_STAGE
from ..show.glossary import MEANING
from ..show.place import THIS_MACHINE, YOUR_MACHINE, fabrics, machine
from ..show.words import OF_FASTER, chance, percent, size_interval, up_to
from ..show.worth import none_made
from ..units import KIB, kib
from .case import AtWorldSize, Case
from .commands import check_command

if TYPE_CHECKING:
    from ..decide.worth import BatchWorth

#: A case at one of its world sizes.
Place = tuple[Case, AtWorldSize]

#: Words that may stand before the first table, and those of them that are the project's heading.
WORDS, HEADING = 120, 1

#: Places up to which each is named with its sizes and intervals, and whether an aside is said,
#: tried in this order until the words fit; more places stand in the table alone.
DETAILS = tuple((most, aside) for most in (4, 3, 2, 1, 0) for aside in (True, False))

#: What is said of sizes that rest on no latency of their own.
FROM_OTHERS = f"{TRANSFERRED} from other GPUs' rows"

#: How one sees on one's own machine that a model makes no fused call.
NO_CALL_CHECK = "costmodel import PROFILE --out calls.csv"

#: GPUs up to which the title names them.
TITLED = 3


def tag(case: Case, w: AtWorldSize, many: bool) -> str:
    """Return a world size as a table names it: ``TP4``, or ``MI355X TP4`` among several GPUs."""
    return f"{case.gpu} {w.tp}" if many else w.tp


def title(cases: Sequence[Case], whose: str) -> str:
    """Return the report's title: ``whose`` rule, GPUs, and the sizes of what is decided.

    What physics decides comes last and is no headline. Kernels that no engine runs are named in
    the engine's place.
    """
    gpus = [c.gpu for c in cases]
    on = listed(gpus) if len(gpus) <= TITLED else f"{len(gpus)} GPUs"
    head = f"{whose} on {on}"
    if not all(c.is_xgmi for c in cases):
        head = f"{cases[0].kernels} on {on} (not xGMI)"
    changed, unsettled = _changed(cases), [*_open(cases), *unidentified(cases)]
    if not any(c.claims for c in cases):
        return f"{head}: no cutoff is identified, so no rule is proposed"
    if not changed:
        return f"{head}: nothing should change{' yet' if unsettled else ''}"
    if all(w.evidence == BY_PHYSICS for _, w in changed) and unsettled:
        return f"{head}: only TP2 is decided: run 1-stage {_runs(changed[0][1])}, by physics"
    headed = [(c, w) for c, w in changed if w.evidence != BY_PHYSICS] or changed
    runs_1stage = _grouped(cases, [(_runs(w), (c, w)) for c, w in headed])
    said = ", ".join(f"{sizes} at {where}" for sizes, where in runs_1stage)
    physics = ", by physics" if all(w.evidence == BY_PHYSICS for _, w in headed) else ""
    others = {
        "nothing": [c.gpu for c in cases if c.claims and not c.proposes],
        "no cutoff identified": [c.gpu for c in cases if not c.claims],
    }
    beside = [f"; {listed(gpus)}: {what}" for what, gpus in others.items() if gpus]
    return f"{head}: run 1-stage {said}{physics}{''.join(beside)}"


def lead(cases: Sequence[Case], above: str) -> list[tuple[str, str]]:
    """Return the first screen: what, for whom, how much, how sure, what is not known.

    Labels with their words, as many as fit below the title ``above``; :func:`check` is the command
    that checks it.
    """
    said: list[tuple[str, str]] = []
    room = WORDS - HEADING - _count(above) - _count(elsewhere(cases))
    for most, aside in DETAILS:
        said = _lead(cases, most, aside=aside)
        if sum(_count(" ".join(line)) for line in said) <= room:
            break
    return said


def check(cases: Sequence[Case]) -> tuple[str, str]:
    """Return the label and the command of the check on one's own machine."""
    if not any(c.makes_calls for c in cases):
        return "Check on a profile of a decode step", NO_CALL_CHECK
    first = next((c for c in cases if c.headline), cases[0])
    label = "Check" if any(c.claims for c in cases) else "Measure"
    return f"{label} on your GPUs", check_command(first)


def elsewhere(cases: Sequence[Case]) -> str:
    """Return what a calibration of other links than xGMI is no reason for, "" without one."""
    others = [c for c in cases if not c.is_xgmi]
    if not others:
        return ""
    fabric = fabrics(c.calibration for c in others)
    return f"{fabric[0].upper()}{fabric[1:]}: no reason to change {others[0].engine.title}."


def _lead(cases: Sequence[Case], most: int, *, aside: bool) -> list[tuple[str, str]]:
    """Return the first screen with at most so many places named at once."""
    changed, lacking = _changed(cases), _lacking(cases)
    first = next((c for c in cases if c.headline), cases[0])
    model = f"{first.llm.name} (hidden {first.llm.hidden_size}, {first.setting.dtype})"
    if drafted := first.deployment.draft_tokens:
        model += f", {1 + drafted} tokens a sequence"
    if not any(c.claims for c in cases) and first.makes_calls:
        return [
            ("Asked", f"where 1-stage should run; {model}, batch {_every_batch(first)}."),
            ("Not identified", _reasons(unidentified(cases), len(cases) > 1, most)),
            ("Stays", _stays(unidentified(cases), len(cases) > 1, most)),
            ("Would narrow it", settled(cases)),
        ]
    if not any(c.makes_calls for c in cases):
        how = first.deployment.words()
        served = f", served with {how}" if how else ""
        return [
            ("For whom", f"{model}{served}."),
            ("Why", _why_nothing(cases, most)),
            ("Not known", "other releases of the engine: one was read in its source, none run."),
        ]
    if not changed:
        claimed = [(c, w) for c in cases for w in c.in_order if w.cutoff.claimed]
        return [
            ("For whom", f"fused all-reduce + RMSNorm of {model}, batch {_every_batch(first)}."),
            ("Why", _why_nothing(cases, most)),
            ("How sure", _how_sure(cases, claimed, [], most, without_rows=False)),
            ("Not known", _unknown(cases, [], most)),
        ]
    open_ones = _open(cases)
    # What is open for want of rows is said once; the table's evidence tells of many places.
    alike = _names(open_ones) == _names(lacking)
    unsaid = [] if alike or len(lacking) > most else lacking
    batches = _batches(cases, changed, most)
    others = "; the rule applies to every model" if aside else ""
    sure = _how_sure(cases, changed, open_ones, most, without_rows=alike)
    return [
        ("Change", f"fused all-reduce + RMSNorm: {_changes(cases, changed, open_ones, most)}."),
        ("For whom", f"{model}, batch {batches}{others}."),
        ("Wins", _wins(cases, changed, most)),
        ("How sure", sure),
        ("Not known", _unknown(cases, unsaid, most)),
    ]


def _count(text: str) -> int:
    # As it is written: the sign of "tokens <= 80" becomes a word there.
    return len(re.findall(r"\S*\w\S*", html.escape(text)))


def _changed(cases: Sequence[Case]) -> list[Place]:
    """Return where a change is decided for a model that makes the call, 2 ranks last."""
    decided = [(c, w) for c in cases if c.makes_calls for w in c.by_world_size if w.decided]
    return sorted(decided, key=lambda place: place[1].world_size == 2)


def _open(cases: Sequence[Case]) -> list[Place]:
    """Return where something would change that is not decided, for a model that makes the call."""
    every = [(c, w) for c in cases if c.makes_calls for w in c.in_order]
    return [(c, w) for c, w in every if w.changes and not w.decided]


def unidentified(cases: Sequence[Case]) -> list[Place]:
    """Return where the data identify no cutoff, so that the rule in force stays."""
    return [(c, w) for c in cases for w in c.in_order if not w.cutoff.claimed]


def _lacking(cases: Sequence[Case]) -> list[Place]:
    """Return where arms can cross and one of them has no usable row of its own."""
    return [
        (c, w) for c in cases for w in c.crossing if not all(arm.here for arm in w.cutoff.evidence)
    ]


def _runs(w: AtWorldSize) -> str:
    """Return the sizes that run 1-stage afterwards: ``up to 360 KiB``, ``always``.

    A guard stands only beside ``always``, which would be wrong without it.
    """
    size, _, guard = w.new_sizes.partition(", ")
    if size != "every size":
        return up_to(size)
    return f"always ({guard})" if guard else "always"


def _before(w: AtWorldSize) -> str:
    return up_to(w.old_sizes)


def _changes(
    cases: Sequence[Case], changed: Sequence[Place], open_ones: Sequence[Place], most: int
) -> str:
    """Return sizes after and before, those alike together; then what is not decided."""
    before = {_before(w) for _, w in changed}
    if not most:
        return (
            f"as the title says (before: {before.pop() if len(before) == 1 else 'see the table'})"
        )
    each = len(before) > 1 and len(changed) <= most
    found = [
        (f"{_runs(w)} at PLACES{f' (before: {_before(w)})' if each else ''}", (c, w))
        for c, w in changed
    ]
    every = {2: " on both"}.get(len(cases), " on all") if len(cases) > 1 else ""
    words = ", ".join(
        said.replace("PLACES", where if any(c.gpu in where for c in cases) else f"{where}{every}")
        for said, where in _grouped(cases, found)
    )
    were = f" (before: {before.pop()})" if len(before) == 1 else ""
    if all(c.setting.alternative == TWO_STAGE for c, _ in changed):
        above = ", 2-stage above"
        were = f"{were}{above}" if "up to" in words else were.replace(")", f"{above})")
    if not open_ones:
        return f"1-stage {words}{were}"
    where = "rest" if len(open_ones) > most else in_words(cases, open_ones)
    if all(w.proposed for _, w in open_ones):
        return f"1-stage {words}{were}; {where} undecided"
    ending = "s" * (where == "rest" or len(open_ones) == 1)
    return f"1-stage {words}{were}; {where} stay{ending} (undecided)"


def _batches(cases: Sequence[Case], changed: Sequence[Place], most: int) -> str:
    """Return the batches that change."""
    order = cases[0].deployment.batches.tolist()
    found = [(_short(runs(w.changed, order)), (c, w)) for c, w in changed if w.changed]
    by_batches = _grouped(cases, found)
    if not by_batches:
        return "none"
    if len(by_batches) > max(1, most):
        every = [b.batch for _, w in changed for b in w.changed]
        return f"{min(every)}-{max(every)}"
    if len(by_batches) == 1:
        return by_batches[0][0]
    return "; ".join(f"{said} at {where}" for said, where in by_batches)


def _every_batch(case: Case) -> str:
    """Return the captured batches that are weighed: ``1-512``."""
    batches = case.deployment.batches
    return f"{batches.min()}-{batches.max()}"


def _short(batches: str) -> str:
    """Return runs of batch sizes in as few words as can be: ``24-64``."""
    return batches.replace(" to ", "-")


def _wins(cases: Sequence[Case], changed: Sequence[Place], most: int) -> str:
    """Return what changes win in us of a decode step, and in percent on contested calls.

    Beside others, 2 ranks come last.
    """
    many = len(cases) > 1
    crossing = [(c, w) for c, w in changed if w.world_size > 2]
    told = crossing or changed
    over = cases[0].histogram.name
    mean = f"mean over {over}" if over else "mean, unchanged batches counted too"
    if len(told) <= max(most, 1):
        words = [_win(c, w, many, mean if i == 0 else "") for i, (c, w) in enumerate(told)]
    else:
        words = [f"{_span(told, many)} us a decode step ({mean}; 90 % intervals in the table)"]
    near = [w for _, w in told if w.contested is not None]
    saved = [w.contested.saved_pct for w in near if w.contested is not None]
    contested = f"{OF_FASTER} on contested calls, within {CONTESTED_FACTOR}x of the cutoff"
    if len(near) == 1:
        e, cutoff = saved[0], near[0].cutoff.max_bytes or 0
        still = ", undecided" if e.lo <= 0 else ""
        ends = f"{cutoff // CONTESTED_FACTOR // KIB} to {kib(cutoff * CONTESTED_FACTOR)}"
        close = f"near the cutoff ({ends}){still}"
        words.insert(1, f"{close}: {e.value:.1f} % a call ({e.lo:.1f} to {e.hi:.1f})")
    elif near and len(near) == len(told) <= most:
        each = " and ".join(f"{e.value:.1f} %" for e in saved)
        words.append(f"{each} {contested}")
    if most and (last := [place for place in changed if place not in told]):
        alone = len(last) < most
        words += [_win(c, w, many, "") for c, w in last] if alone else [f"{_span(last, many)} us"]
    return "; ".join(words) + "."


def _span(places: Sequence[Place], many: bool) -> str:
    """Return the means of places in us, of more than two of a kind the least and the most."""
    by_ranks: dict[str, list[Place]] = {}
    for place in places:
        by_ranks.setdefault(place[1].tp, []).append(place)
    said = []
    for tp, mine in by_ranks.items():
        means = [w.worth.mean_us.value for _, w in mine]
        if len(mine) == 2:
            said += [f"{tag(c, w, many)} {w.worth.mean_us.value:.1f}" for c, w in mine]
            continue
        least, largest = f"{min(means):.1f}", f"{max(means):.1f}"
        where = tag(*mine[0], many) if len(mine) == 1 else tp
        said.append(f"{where} {least}" if least == largest else f"{where} {least} to {largest}")
    return ", ".join(said)


def _win(case: Case, w: AtWorldSize, many: bool, mean: str) -> str:
    """Return the us that a change wins; what they are of is said by the first, by its ``mean``."""
    e = w.worth.mean_us
    unit, mean = ("us a decode step", f"{mean}; ") if mean else ("us", "")
    words = f"{tag(case, w, many)} {e.value:.1f} {unit} ({mean}90 %: {e.lo:.1f} to {e.hi:.1f})"
    return f"{words} = {percent(w.worth.step_pct)} of the step" if w.worth.step_pct else words


def _how_sure(
    cases: Sequence[Case],
    changed: Sequence[Place],
    open_ones: Sequence[Place],
    most: int,
    *,
    without_rows: bool,
) -> str:
    """Return the evidence of what changes, that alike together, and what has none."""

    def evidence(gpu: str, w: AtWorldSize) -> str:
        rows = sum(arm.count for arm in w.cutoff.evidence)
        if sum(other.world_size > 2 for _, other in changed) > most or not most:
            return w.evidence
        if w.evidence == BY_PHYSICS:
            measured = f"{rows} latencies" if rows else "unmeasured"
            return f"{w.evidence} (same bytes, one launch less; {measured})"
        if w.evidence == TRANSFERRED:
            return FROM_OTHERS
        if not rows:
            return w.evidence
        other = {a.measured_with: SPOKEN[a.arm] for a in w.cutoff.evidence if a.measured_with}
        of = "".join(f", {spoken}'s with {what}" for what, spoken in other.items())
        whose = "" if len(cases) > 1 else f"{gpu} "
        return f"{w.evidence} ({rows} {whose}latencies{of})"

    found = _grouped(cases, [(evidence(c.gpu, w), (c, w)) for c, w in changed])
    words = [f"{where} {said}" for said, where in found]
    unclaimed = [place for place in unidentified(cases) if place[1].world_size > 2]
    # What is not decided stands beside the change, where that is said in full.
    if (open_ones and not most) or len(unclaimed) > most:
        words.append("rest not decided")
    elif without_rows and 0 < len(open_ones) <= most:
        carried = all(w.evidence == TRANSFERRED for _, w in open_ones)
        where = in_words(cases, open_ones)
        words.append(f"{where} {FROM_OTHERS}" if carried else f"no usable latencies at {where}")
    return "; ".join(words) + "."


def _unknown(cases: Sequence[Case], lacking: Sequence[Place], most: int) -> str:
    """Return what nobody knows yet."""
    unclaimed = [
        (c, w) for c, w in unidentified(cases) if w.world_size > 2 and any(k.claims for k in cases)
    ]
    words = [YOUR_MACHINE]
    if machine(*(c.setting for c in cases)) == THIS_MACHINE:
        words = ["other machines: the model was calibrated with rows of this one"]
    if lacking:
        said = f"no usable latencies at {in_words(cases, lacking)}"
        if len(lacking) > most and all(w.evidence == TRANSFERRED for _, w in lacking):
            said = f"no usable latencies behind what is {TRANSFERRED}"
        words.append(said)
    if unclaimed and len(unclaimed) <= most:
        where = in_words(cases, unclaimed)
        words.append(f"the cutoff at {where}, where the rule in force stays")
    return "; ".join(words) + "."


def _why_nothing(cases: Sequence[Case], most: int) -> str:
    """Return why nothing should change: no call, where rules decide alike, what is not decided."""
    many = len(cases) > 1
    every = [(c, w) for c in cases if c.makes_calls for w in c.by_world_size if w.cutoff.claimed]
    alike = [(c, w) for c, w in every if not w.changes]
    open_ones = [(c, w) for c, w in every if w.changes]
    without = next((c for c in cases if not c.makes_calls), None)
    said = [none_made(without.calls, without.llm)] if without else []
    unclaimed = [place for place in unidentified(cases) if place[0].makes_calls]
    if unclaimed:
        where = in_words(cases, unclaimed)
        if len(unclaimed) <= most:
            where = _short_reasons(unclaimed, many).replace("; ", "; at ")
        said.append(f"no cutoff is identified at {where}")
    if alike:
        named = f"at {in_words(cases, alike)}"
        where = named if len(cases) <= max(1, most) else "where the table says no change"
        rules = "the rule in force and the best estimate"
        said.append(f"{where} {rules} run the same arm at every captured batch")
    ends = [(w.score.saved_pct.lo, w.score.saved_pct.hi) for _, w in open_ones]
    if len(open_ones) > most:
        least, largest = min(lo for lo, _ in ends), max(hi for _, hi in ends)
        said.append(
            f"the table's other changes would save {least:+.2f} to {largest:+.2f} % of a call's "
            "latency (90 %), so none is decided"
        )
    elif open_ones:
        saved = ", ".join(
            f"1-stage {up_to(w.new_sizes)} at {tag(c, w, many)} would save {lo:+.2f} to {hi:+.2f} %"
            for (c, w), (lo, hi) in zip(open_ones, ends, strict=True)
        )
        said.append(f"{saved} of a call's latency (90 %): not decided")
    # A model's name is written as it is.
    said[1 if without else 0 :] = [f"{s[0].upper()}{s[1:]}" for s in said[1 if without else 0 :]]
    return ". ".join(said) + "."


def _reasons(places: Sequence[Place], many: bool, most: int) -> str:
    """Return why no cutoff is identified, each reason in short; the evidence has them whole."""
    if len(places) > most:
        return f"a cutoff at {_span_of(places, many)}; reasons under the table."
    return f"{_short_reasons(places, many)}."


def _short_reasons(places: Sequence[Place], many: bool) -> str:
    # A reason goes on with its rows, or with what one cutoff costs.
    return "; ".join(
        f"{tag(c, w, many)}: {re.split('[:;] ', w.cutoff.reason)[0]}" for c, w in places
    )


def _stays(places: Sequence[Place], many: bool, most: int) -> str:
    """Return the rule that stays where none is claimed, and what the model says that it loses."""
    rule = f"{places[0][0].engine.title}'s rule, 1-stage {up_to(places[0][1].old_sizes)}"
    lost = [w.score.other_regret_pct for _, w in places]
    if len(places) > most:
        said = f"{min(e.lo for e in lost):.2f} to {max(e.hi for e in lost):.2f} %"
    else:
        said = ", ".join(
            f"{tag(c, w, many)} {e.value:.2f} % ({e.lo:.2f} to {e.hi:.2f})"
            for (c, w), e in zip(places, lost, strict=True)
        )
    return f"{rule}; by the model it loses, of a call's latency (90 %): {said}."


def settled(cases: Sequence[Case]) -> str:
    """Return which measurement would narrow what is not identified, and what that costs."""
    plans = [c.settling for c in cases]
    shapes, seconds = sum(len(p.entries) for p in plans), sum(p.seconds for p in plans)
    if not shapes:
        return "rows of both arms that agree (below); no plan is expected to change the answer."
    after = ", ".join(
        f"TP{p.world_size} {size_interval(p.after.lo or 0, p.after.hi)}, which is claimed with "
        f"{chance(p.after.claimed)} probability"
        for p in plans[0].prospects
        if p.world_size in {e.world_size for e in plans[0].entries}
    )
    left = f"; expected to leave {after}" if len(plans) == 1 else ""
    count = f"{shapes} shape{'s' * (shapes > 1)}"
    return f"{count}, about {seconds:.0f} s of measuring (planned below){left}."


def _span_of(places: Sequence[Place], many: bool) -> str:
    """Return where, in few words: the world sizes, and how many GPUs."""
    ranks = listed(sorted({w.tp for _, w in places}))
    return f"{ranks} of {len({c.gpu for c, _ in places})} GPUs" if many else ranks


def meanings(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """Return the words of the first screen that need it, each with its meaning."""
    classes = [w.evidence for c in cases for w in c.by_world_size]
    used = [
        "1-stage", "2-stage", "cutoff", machine(*(c.setting for c in cases)), "this kernel",
        "worth", "contested call", "decided", "separate ops", *dict.fromkeys(classes),
    ]  # fmt: skip
    return [(word, MEANING[word]) for word in used if word in MEANING]


def runs(batches: Sequence[BatchWorth], order: Sequence[int]) -> str:
    """Return captured batch sizes, of all in ``order``, as runs: ``24 to 80``."""
    found: list[list[int]] = []
    for i in (order.index(b.batch) for b in batches):
        if found and i == found[-1][-1] + 1:
            found[-1].append(i)
        else:
            found.append([i])
    return ", ".join(
        f"{order[r[0]]} to {order[r[-1]]}" if len(r) > 1 else str(order[r[0]]) for r in found
    )


def _grouped(cases: Sequence[Case], found: Sequence[tuple[str, Place]]) -> list[tuple[str, str]]:
    """Return what is said with the places that it is said of, in the order of first mention."""
    by_words: dict[str, list[Place]] = {}
    for said, place in found:
        by_words.setdefault(said, []).append(place)
    return [(said, in_words(cases, places)) for said, places in by_words.items()]


def in_words(cases: Sequence[Case], places: Sequence[Place]) -> str:
    """Return places in words: ``MI300X TP4 and TP8, MI355X TP8``; without a GPU it is all."""
    by_gpu: dict[str, list[str]] = {}
    for case, w in places:
        by_gpu.setdefault(case.gpu, []).append(w.tp)
    sets = list(by_gpu.values())
    if len(by_gpu) == len(cases) and all(s == sets[0] for s in sets):
        return listed(sets[0])
    return ", ".join(f"{gpu} {listed(tps)}" for gpu, tps in by_gpu.items())


def _names(places: Sequence[Place]) -> set[tuple[str, int]]:
    return {(case.gpu, w.world_size) for case, w in places}


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words: ``TP2, TP4 and TP8``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
