"""What the report's templates are given: the case, and the words that no template can make."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..decide.evidence import MEASURED
from ..show.recommendation import apart
from ..show.statements import flag, says
from ..show.words import up_to
from ..show.worth import counted
from .case import Case

if TYPE_CHECKING:
    from ..decide.worth import BatchWorth
    from .pictures import Picture

#: ``report.md.j2``, ``report.html.j2`` and ``sections.j2``, which both include.
TEMPLATES = Path(__file__).resolve().parent / "templates"


def context(
    case: Case,
    pictures: Sequence[Picture],
    command: str,
    out: str,
    images: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return all that the templates read. ``command`` wrote the report into the directory ``out``.

    ``images`` maps a picture's name to the file that the Markdown shows; None when none was drawn.
    """
    return {
        "case": case,
        "title": title(case),
        "pictures": pictures,
        "images": images or {},
        "commands": commands(case, command, out),
        "measure_commands": measure_commands(case),
        "version": __version__,
        "runs": partial(runs, order=case.deployment.batches.tolist()),
        "says": says,
        "flag": flag,
        "apart": apart(case.decision),
        "counted": ". ".join(counted(case.by_world_size[0].worth)),
    }


def title(case: Case) -> str:
    """Return the report's title: engine, GPU, and the sizes of the new rule that change."""
    where = f"{case.engine.title} on {case.gpu}"
    changed = [w for w in case.by_world_size if w.changes]
    if not changed:
        return f"{where}: the 1-stage rule stays as it is"
    sizes = [f"{up_to(w.new_sizes)} at {w.tp}" for w in changed]
    return f"{where}: 1-stage {', '.join(sizes)}"


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


def commands(case: Case, command: str, out: str) -> str:
    """Return the commands that give the report's numbers again."""
    target, engine = case.target, case.engine.name
    worth = f" {case.served}" if case.served else ""
    step = case.deployment.step_ms
    served = worth.replace(f" --step-ms {step}", "") if step else worth
    ranks = [w.world_size for w in case.by_world_size]
    changed = [w.world_size for w in case.by_world_size if w.changes] or ranks[-1:]
    rule_file = shlex.quote(f"{out.rstrip('/')}/rule.json")
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
    lines.append(command)
    return "\n".join(lines)


def _measurement_files(case: Case) -> str:
    return shlex.join([f for f, _ in case.files if f.endswith(".csv")])


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
