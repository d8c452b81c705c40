"""What the report's templates are given: the cases, and the words that no template can make."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..decide.explanation import choices
from ..show.place import machine
from ..show.plan import NO_SHAPE_SETTLES, planned_arms
from ..show.recommendation import apart
from ..show.sketch import curve
from ..show.statements import flag, says
from ..show.worth import counted, share_unknown
from ..units import kib
from .case import AtWorldSize, Case
from .commands import commands, emit_by_gpu, measure_commands, settle_commands
from .lead import elsewhere, lead, meanings, runs, tag, title, unidentified
from .projects import NOTHING, OUTLINES, UNIDENTIFIED, WHOSE

if TYPE_CHECKING:
    from ..decide.decision import Cutoff
    from .pictures import Picture

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
    warned = [line for case in cases for line in cautions(case, many=len(cases) > 1)]
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
        "elsewhere": elsewhere(cases),
        "meanings": meanings(cases),
        "machine": machine(*(c.setting for c in cases)),
        "project": project,
        "proposes": proposes,
        "claims": any(c.claims for c in cases),
        "estimated": estimated,
        "settles": settles,
        "outline": OUTLINES[project] if proposes else UNIDENTIFIED if settles else NOTHING,
        "pictures": shown,
        "drawn": drawn,
        "sketches": [sketch(c, w) for c in cases for w in (c.headline or c.crossing)[:1]],
        "commands": commands(cases, command, out),
        "both": emit_by_gpu(cases),
        "measure_commands": measure_commands(first),
        "settle_commands": "\n".join(map(settle_commands, cases)) if settles else "",
        "version": __version__,
        "runs": partial(runs, order=first.deployment.batches.tolist()),
        "tag": partial(tag, many=len(cases) > 1),
        "cautions": warned,
        "says": says,
        "kib": kib,
        "arms": planned_arms,
        "no_shape": NO_SHAPE_SETTLES,
        "flag": flag,
        "counted": ". ".join(counted(first.by_world_size[0].worth)),
    }


def cautions(case: Case, many: bool = False) -> list[str]:
    """Return what a reviewer must know beside the table, each in a sentence."""
    on = f"On {case.gpu}, " if many else ""
    lines = [f"{on}{line}" for line in apart(case.decision)]
    undecided = [w.tp for w in case.by_world_size if w.undecided and case.makes_calls]
    if undecided:
        though = ""
        if case.proposes:
            kept = ",".join(str(w.world_size) for w in case.by_world_size if not w.undecided)
            though = f", though the rule changes it there too (--tp {kept} leaves it as it is)"
        then = "merge" if case.proposes else "make"
        lines.append(
            f"{on}not decided at {' and '.join(undecided)}{though}: the 90 % interval of what the "
            f"change spares includes zero; measure before you {then} it"
        )
    lines += [
        f"Worse on {other.gpu} at {' and '.join(other.worse_at)}, which {case.engine.title} would "
        "run by the same rule"
        for other in case.elsewhere
        if other.worse_at
    ]
    return list(map(_sentence, lines))


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def estimated(cutoff: Cutoff) -> str:
    """Return the best estimate of a cutoff that nobody claims."""
    return "no limit" if cutoff.estimate is None else kib(cutoff.estimate)


def sketch(case: Case, w: AtWorldSize) -> str:
    """Return the curve of one world size in text, where it turns over."""
    found = choices(case.setting, case.llm.hidden_size, w.world_size, decision=case.decision)
    return f"{case.gpu}, {curve(found)}"
