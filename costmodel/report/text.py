"""What the report's templates are given: the cases, and the words that no template can make."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..decide.evidence import MEASURED
from ..decide.explanation import choices
from ..show.recommendation import apart
from ..show.sketch import curve
from ..show.statements import flag, says
from ..show.words import percent, up_to
from ..show.worth import counted
from .case import AtWorldSize, Case
from .projects import NOTHING, OUTLINES

if TYPE_CHECKING:
    from ..decide.worth import BatchWorth
    from .pictures import Picture

#: ``report.md.j2``, ``report.html.j2`` and the parts that both include.
TEMPLATES = Path(__file__).resolve().parent / "templates"

#: Tokens of a check at most: those around the cutoff decide.
CHECKED = 6


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
    return {
        "cases": cases,
        "engine": first.engine,
        "llm": first.llm,
        "title": f"{notice}: {title(cases)}" if notice else title(cases),
        "lead": lead(cases),
        "proposes": proposes,
        "outline": OUTLINES[project or first.engine.name] if proposes else NOTHING,
        "pictures": shown,
        "drawn": drawn,
        "sketches": [sketch(c, w) for c in cases for w in (c.headline or c.crossing)[:1]],
        "commands": commands(cases, command, out),
        "measure_commands": measure_commands(first),
        "version": __version__,
        "runs": partial(runs, order=first.deployment.batches.tolist()),
        "tag": partial(tag, many=len(cases) > 1),
        "cautions": [line for case in cases for line in cautions(case, many=len(cases) > 1)],
        "says": says,
        "flag": flag,
        "counted": ". ".join(counted(first.by_world_size[0].worth)),
    }


def tag(case: Case, w: AtWorldSize, many: bool) -> str:
    """Return a world size as a table names it: ``TP4``, or ``MI355X TP4`` among several GPUs."""
    return f"{case.gpu} {w.tp}" if many else w.tp


def title(cases: Sequence[Case]) -> str:
    """Return the report's title: engine, GPU, and the decided sizes; TP2 only if nothing else."""
    engine = cases[0].engine.title
    if not any(c.proposes for c in cases):
        return f"{engine} on {' and '.join(c.gpu for c in cases)}: nothing should change"
    return f"{engine} on {'; '.join(f'{c.gpu}: {_sizes(c)}' for c in cases)}"


def _sizes(case: Case) -> str:
    """Return in words which sizes should run 1-stage, where that is decided."""
    if case.headline:
        return "1-stage " + ", ".join(f"{up_to(w.new_sizes)} at {w.tp}" for w in case.headline)
    return "only TP2 changes, by physics" if case.proposes else "nothing should change"


def lead(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """Return the first screen: what, for whom, how much, how sure, what is not known.

    Labels with their words; the last label is that of the command that checks it.
    """
    first = cases[0]
    if not any(c.proposes for c in cases):
        return [
            ("Why", " ".join(_why_nothing(c) for c in cases)),
            ("Not known", _unknown(cases)),
            ("Check on your GPUs", check_command(first)),
        ]
    many = len(cases) > 1
    headline = [(c, w) for c in cases for w in c.headline] or [
        (c, w) for c in cases for w in c.by_world_size if w.decided
    ]
    changed = "; ".join(
        f"{tag(c, w, many)} {up_to(w.new_sizes)} (before: {up_to(w.old_sizes)})"
        for c, w in headline
    )
    batches = "; ".join(
        f"{runs(w.changed, c.deployment.batches.tolist())} at {tag(c, w, many)}"
        for c, w in headline
        if w.changed
    )
    model = f"{first.llm.name} (hidden {first.llm.hidden_size}, {first.setting.dtype})"
    return [
        ("Change", f"1-stage at {changed}, in {first.engine.title}."),
        (
            "For whom",
            f"{model}, batch {batches or 'none'}; the rule reads bytes, so other models too.",
        ),
        ("Wins", "; ".join(_wins(c, w, many) for c, w in headline) + " (90 % intervals)."),
        ("How sure", " ".join(f"{_how_sure(c, w, many)}." for c in cases for w in _weighed(c))),
        ("Not known", _unknown(cases)),
        ("Check on your GPUs", check_command(first)),
    ]


def _weighed(case: Case) -> list[AtWorldSize]:
    """Return the world sizes whose evidence the first screen gives: those that change, not TP2."""
    return [w for w in case.crossing if w.changes]


def _wins(case: Case, w: AtWorldSize, many: bool) -> str:
    """Return what a change wins: us a decode step, and percent on contested calls."""
    e = w.worth.mean_us
    words = f"{tag(case, w, many)} {e.value:.1f} us a decode step ({e.lo:.1f} to {e.hi:.1f})"
    if w.worth.step_pct:
        words += f" = {percent(w.worth.step_pct)} of it"
    if w.contested is not None:
        words += f", {percent(w.contested.saved_pct, '.1f')} on contested calls"
    return words


def _how_sure(case: Case, w: AtWorldSize, many: bool) -> str:
    """Return the evidence at one world size in a few words."""
    rows = sum(arm.count for arm in w.cutoff.evidence)
    where = tag(case, w, many)
    words = w.evidence if not rows else f"{w.evidence} ({rows} rows)"
    return f"{where} {words}{'' if w.decided else ', not decided'}"


def _unknown(cases: Sequence[Case]) -> str:
    """Return what nobody knows yet."""
    lacking = [
        f"{tag(c, w, len(cases) > 1)} has no usable row"
        for c in cases
        for w in c.crossing
        if not all(arm.here for arm in w.cutoff.evidence)
    ]
    machine = "your machine: latencies here are a model's, nothing was run"
    if all(c.setting.machine for c in cases):
        machine = "other machines: the model was calibrated with rows of this one"
    return "; ".join([machine, *lacking]) + "."


def _why_nothing(case: Case) -> str:
    """Return why nothing should change on one GPU, by world size."""
    alike = [w.tp for w in case.by_world_size if not w.changes]
    said = [f"both rules decide every call of this workload alike at {' and '.join(alike)}"]
    for w in case.by_world_size:
        if w.changes:
            e = w.score.saved_pct
            said.append(
                f"at {w.tp} 1-stage {up_to(w.new_sizes)} would spare {e.lo:+.2f} to {e.hi:+.2f} % "
                "a call, which is not decided"
            )
    return f"On {case.gpu}, {'; '.join(said if alike else said[1:])}."


def cautions(case: Case, many: bool = False) -> list[str]:
    """Return what a reviewer must know beside the table, each in a sentence."""
    on = f"On {case.gpu}, " if many else ""
    lines = [f"{on}{line}" for line in apart(case.decision)]
    undecided = [w.tp for w in case.by_world_size if w.undecided]
    if undecided:
        lines.append(
            f"{on}not decided at {' and '.join(undecided)}: the 90 % interval of what the change "
            "spares includes zero; measure before you merge it"
        )
    lines += [
        f"Worse on {other.gpu} at {' and '.join(other.worse_at)}, which {case.engine.title} would "
        "run by the same rule"
        for other in case.elsewhere
        if other.worse_at
    ]
    return [line[0].upper() + line[1:] for line in lines]


def sketch(case: Case, w: AtWorldSize) -> str:
    """Return the curve of one world size in text, where it turns over."""
    found = choices(case.setting, case.llm.hidden_size, w.world_size, decision=case.decision)
    return f"{case.gpu}, {curve(found)}"


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


def commands(cases: Sequence[Case], command: str, out: str) -> str:
    """Return the commands that give the report's numbers again."""
    lines = [line for case in cases for line in _commands(case, out, len(cases) > 1)]
    return "\n".join([*lines, command])


def rule_file_of(case: Case, many: bool) -> str:
    """Return the name of a case's rule file in the report's directory."""
    return f"rule-{case.setting.arch}.json" if many else "rule.json"


def _commands(case: Case, out: str, many: bool) -> list[str]:
    target, engine = case.target, case.engine.name
    worth = f" {case.served}" if case.served else ""
    step = case.deployment.step_ms
    served = worth.replace(f" --step-ms {step}", "") if step else worth
    ranks = [w.world_size for w in case.by_world_size]
    changed = [w.world_size for w in case.by_world_size if w.changes] or ranks[-1:]
    rule_file = shlex.quote(f"{out.rstrip('/')}/{rule_file_of(case, many)}")
    lines = [
        f"costmodel recommend {target}{served} --for {engine}",
        f"{case.provenance.command} --source PATH --out rule.patch --tests test_rule.py",
    ]
    lines += [
        f"costmodel worth --tp {n} {target}{worth} --from {case.old.name} --to {rule_file}"
        for n in changed
    ]
    if case.validation is not None:
        tables = "--published" if case.published else _measurement_files(case)
        lines.append(f"costmodel validate {target} --for {engine} {tables}")
    return lines


def _measurement_files(case: Case) -> str:
    return shlex.join([f for f, _ in case.files if f.endswith(".csv")])


def check_command(case: Case) -> str:
    """Return the one command that measures both algorithms around the cutoff on one's own GPUs."""
    w = (case.headline or case.crossing)[0]
    order = case.deployment.tokens.tolist()
    around = [b.tokens for b in w.changed] or [_turn(case, w)]
    first, last = order.index(around[0]), order.index(around[-1])
    near = order[max(0, first - 2) : last + 3]
    step = -(-len(near) // CHECKED)
    tokens = sorted({*near[::step], near[-1]})
    return (
        f"torchrun --nproc-per-node={w.world_size} -m costmodel measure --backend aiter "
        f"--hidden {case.llm.hidden_size} --tokens {','.join(map(str, tokens))} --out run"
    )


def _turn(case: Case, w: AtWorldSize) -> int:
    """Return the captured tokens nearest to the cutoff, those of the middle without one."""
    tokens = case.deployment.tokens
    at = w.cutoff.estimate
    if not at:
        return int(tokens[len(tokens) // 2])
    row = case.llm.hidden_size * case.setting.element_bytes
    return int(min(tokens.tolist(), key=lambda t: abs(t * row - at)))


def measure_commands(case: Case) -> str:
    """Return the commands that measure the shapes that matter most."""
    target = f"{case.target} --for {case.engine.name}"
    carried = [w.world_size for w in case.by_world_size if w.cutoff.evidence_class != MEASURED]
    n = (carried or [w.world_size for w in case.by_world_size])[-1]
    return "\n".join(
        [
            f"costmodel plan {target} --tp {n} --out plan.json",
            f"torchrun --nproc-per-node={n} -m costmodel measure --backend aiter --plan plan.json "
            "--out run",
            f"costmodel validate {target} run/measurements.csv",
        ]
    )
