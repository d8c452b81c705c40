"""What the report's templates are given: the cases, and the words that no template can make."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..decide.evidence import MEASURED_ELSEWHERE
from ..decide.explanation import choices
from ..decide.validation import ValidationLimits
from ..model.shape import SPOKEN, TWO_STAGE
from ..show.place import machine
from ..show.plan import NO_SHAPE_SETTLES, planned_arms
from ..show.recommendation import apart, guarded
from ..show.sketch import curve
from ..show.statements import flag, says
from ..show.worth import counted, share_unknown
from ..units import kib
from .case import AtWorldSize, Case
from .commands import (
    commands,
    confirmations,
    emit_by_gpu,
    measure_commands,
    settle_commands,
)
from .lead import check, elsewhere, in_words, lead, meanings, runs, tag, title, unidentified
from .projects import NOTHING, OTHER_LINKS, OUTLINES, UNIDENTIFIED, WHOSE

if TYPE_CHECKING:
    from ..decide.decision import Cutoff
    from .pictures import Picture
    from .projects import Outline

#: ``report.md.j2``, ``report.html.j2`` and the parts that both include.
TEMPLATES = Path(__file__).resolve().parent / "templates"


def context(
    cases: Sequence[Case],
    command: str,
    out: str,
    *,
    project: str = "",
    notice: str = "",
    shown: Sequence[Picture] = (),
    drawn: Sequence[str] = (),
) -> dict[str, Any]:
    """Return all that the templates read. ``command`` wrote the report into the directory ``out``.

    ``notice`` stands before the title. ``shown`` are the pictures of the page; ``drawn`` the files
    beside the text, which names them and shows none: a path would not survive pasting.
    """
    first = cases[0]
    proposes = any(c.proposes for c in cases)
    makes_calls = any(c.makes_calls for c in cases)
    warned = cautions(cases) if makes_calls else []
    if proposes and not first.deployment.step_ms:
        warned.append(_sentence(share_unknown()))
    settles = not proposes and bool(unidentified(cases)) and first.makes_calls
    project = project or first.engine.name
    named = title(cases, WHOSE.get(project, first.engine.title))
    head = f"{notice}: {named}" if notice else named
    return {
        "cases": cases,
        "engine": first.engine,
        "llm": first.llm,
        "title": head,
        "lead": lead(cases, head),
        "check": check(cases),
        "elsewhere": elsewhere(cases),
        "meanings": meanings(cases),
        "machine": machine(*(c.setting for c in cases)),
        "project": project,
        "proposes": proposes,
        "claims": any(c.claims for c in cases),
        "makes_calls": makes_calls,
        "estimated": estimated,
        "settles": settles,
        "patches": proposes and any(c.is_xgmi for c in cases),
        "outline": _outline(cases, project) if proposes else UNIDENTIFIED if settles else NOTHING,
        "pictures": shown,
        "drawn": drawn,
        "sketches": [
            sketch(c, w) for c in cases if c.makes_calls for w in (c.headline or c.crossing)[:1]
        ],
        "commands": commands(cases, command, out),
        "both": emit_by_gpu(cases),
        "measure_commands": measure_commands(first),
        "settle_commands": "\n".join(map(settle_commands, cases)) if settles else "",
        "version": __version__,
        "runs": partial(runs, order=first.deployment.batches.tolist()),
        "tag": partial(tag, many=len(cases) > 1),
        "weighed": partial(weighed, many=len(cases) > 1),
        "cautions": warned,
        "confirmations": confirmations(cases),
        "limits": ValidationLimits(),
        "says": says,
        "kib": kib,
        "arms": planned_arms,
        "no_shape": NO_SHAPE_SETTLES,
        "flag": flag,
        "counted": ". ".join(counted(first.by_world_size[0].worth)),
    }


def weighed(case: Case, w: AtWorldSize, many: bool) -> str:
    """Return a world size as a table of what changes are worth names it; some are not proposed."""
    stays = case.proposes and w.changes and not w.proposed
    return f"{tag(case, w, many)}{', if it changed' if stays else ''}"


def _outline(cases: Sequence[Case], project: str) -> Outline:
    return OUTLINES[project] if any(c.is_xgmi for c in cases) else OTHER_LINKS


def cautions(cases: Sequence[Case]) -> list[str]:
    """Return what a reviewer must know beside the table, a line for each kind of thing."""
    decisions = [c.decision for c in cases]
    lines = [*apart(*decisions), *guarded(*decisions)]
    if any(c.proposes and c.decision.setting.alternative == TWO_STAGE for c in cases) and any(
        cut.three_way is not None and not cut.three_way.enough
        for d in decisions
        for cut in d.cutoffs
    ):
        engine = cases[0].engine.title
        lines.insert(
            0,
            f"compared here are the two fused arms, between which {engine}'s rule chooses; "
            "separate ops may beat both, and would be a change of their own (costmodel recommend "
            "--otherwise separate weighs 1-stage against them)",
        )
    other_rows = [
        (c, w)
        for c in cases
        for w in c.in_order
        if w.decided and w.cutoff.verdict == MEASURED_ELSEWHERE
    ]
    if other_rows:
        lacks = dict.fromkeys(
            arm.otherwise for _, w in other_rows for arm in w.cutoff.evidence if arm.otherwise
        )
        lines.append(
            f"measured elsewhere at {in_words(cases, other_rows)}, on this GPU and this number of "
            f"ranks: {'; '.join(lacks) or 'no benchmark has both arms at one shape'}; the model "
            "carries them over, which widens the interval"
        )
    for proposed in (True, False):
        open_ones = [
            (c, w)
            for c in cases
            if c.makes_calls
            for w in c.in_order
            if w.undecided and w.proposed == proposed
        ]
        if open_ones:
            lines.append(_not_decided(cases, open_ones, proposed))
    lines += [
        f"worse on {other.gpu} at {' and '.join(other.worse_at)}, which {case.engine.title} would "
        "run by the same rule"
        for case in cases
        for other in case.elsewhere
        if other.worse_at
    ]
    return list(map(_sentence, lines))


def _not_decided(
    cases: Sequence[Case], places: Sequence[tuple[Case, AtWorldSize]], proposed: bool
) -> str:
    """Return where a change is not decided, and what to do about it before it is made."""
    where = in_words(cases, places)
    why = "the 90 % interval of the mean saving includes zero"
    if proposed:
        return f"not decided at {where}, though it changes there too: {why}"
    by_arm: dict[str, list[str]] = {}
    for c, w in places:
        if w.changed:
            batches = runs(w.changed, c.deployment.batches.tolist())
            at = f"{tag(c, w, len(cases) > 1)} batch {batches}"
            by_arm.setdefault(w.changed[0].new, []).append(at)
    taken = "; ".join(f"{SPOKEN[arm]} at {', '.join(at)}" for arm, at in by_arm.items())
    decides = (
        f". It is decided if your GPUs run the best estimate's arm faster by more than "
        f"{ValidationLimits().tie:g} %: {taken}"
    )
    return f"not decided at {where}, so nothing changes there: {why}{decides if taken else ''}"


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def estimated(cutoff: Cutoff) -> str:
    """Return the best estimate of a cutoff that nobody claims."""
    return "no limit" if cutoff.estimate is None else kib(cutoff.estimate)


def sketch(case: Case, w: AtWorldSize) -> str:
    """Return the curve of one world size in text, where it turns over."""
    found = choices(case.setting, case.llm.hidden_size, w.world_size, decision=case.decision)
    # Where nothing is proposed the rule in force stays, which runs other arms.
    rule = "the candidate" if w.changes and not w.decided else "the rule"
    return f"{case.gpu}, {curve(found, rule=rule)}"
