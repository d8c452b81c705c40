"""``costmodel diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..data import measurement
from ..errors import InputError
from . import options, question

if TYPE_CHECKING:
    from ..decide.drift_schemas import DiffRecord

CALIBRATION, ROWS, TREE = "a calibration", "measurements", "an engine"


@click.command()
@click.argument("old")
@click.argument("new")
@click.option("--gpu", help="GPU that calibrations are asked about, and trees are judged on.")
@click.option("--arch", help="The same, by arch: its first GPU.")
@question.OP
@question.DTYPE
@question.AITER
@question.workload_options
@options.world_sizes
@click.option(
    "--fail-above", type=options.Finite(min=0), metavar="PCT",
    help="Exit with 1 where the old cutoff or the new rule loses more than this, or an arm became "
    "slower by more, beyond noise.",
)  # fmt: skip
@options.format_option
def command(
    old: str,
    new: str,
    tp: tuple[int, ...],
    fail_above: float | None,
    style: str,
    **asked: Any,
) -> int:
    """Say what changed from OLD to NEW, and whether it matters.

    Both are calibration files, schema 1 measurements (a file or a directory), or trees of one
    engine (package, checkout or wheel). Calibrations: how each arm's latency and each cutoff moved,
    and what the old cutoff now loses. Measurements: calls that both measured, arm by arm. Trees:
    where the rules decide otherwise; with --gpu or --arch, what the new one loses.

    \b
    costmodel diff last-week.json today.json --gpu MI355X
    costmodel diff old.csv new.csv --fail-above 3
    costmodel diff vllm-0.32.0.whl vllm-0.33.0.whl --gpu MI355X --fail-above 1
    """
    from ..show import drift as show

    kinds = {path: _kind(path) for path in (old, new)}
    if kinds[old] != kinds[new]:
        raise InputError(f"{old} is {kinds[old]}, {new} is {kinds[new]}; compare like with like")
    record: DiffRecord = {
        "schema": "costmodel/diff/1", "old": old, "new": new, "cutoffs": [], "rows": [],
        "rules": [], "passed": True,
    }  # fmt: skip
    lost: list[float] = []
    if kinds[old] == CALIBRATION:
        from ..decide import drift

        was, now = (question.setting_of({**asked, "calibration_file": f}) for f in (old, new))
        cutoffs = drift.calibrations(was, now, question.workload_of(asked), tp)
        text, record["cutoffs"] = show.cutoffs(cutoffs), [s.to_dict() for s in cutoffs]
        lost = [s.loses_pct for s in cutoffs if s.loses_pct is not None]
    elif kinds[old] == ROWS:
        from ..decide import drift

        rows = drift.rows(measurement.read_all([old]), measurement.read_all([new]))
        if not any(s.calls for s in rows):
            raise InputError(f"{old} and {new} have no clean row of one call in common")
        text, record["rows"] = show.rows(rows), [s.to_dict() for s in rows]
        lost = [s.pct.value for s in rows if s.pct is not None and s.significant]
    else:
        from ..decide.recommendation import recommend
        from ..engines.rule_change import rule_changes
        from ..engines.source import open_trees

        decision = None
        if asked["gpu"] or asked["arch"]:
            setting = question.setting_of({**asked, "calibration_file": None})
            decision = recommend(setting, question.workload_of(asked), world_sizes=tp)
        before, after = ({t.engine.name: t for t in open_trees(path)} for path in (old, new))
        if not before.keys() & after.keys():
            there = [", ".join(t.engine.title for t in trees.values()) for trees in (before, after)]
            raise InputError(
                f"{old} is {there[0]}, {new} is {there[1]}; compare one engine's trees"
            )
        rules = [
            shift
            for name in before
            if name in after
            for shift in rule_changes(before[name], after[name], decision)
        ]
        text, record["rules"] = show.rules(rules), [s.to_dict() for s in rules]
        lost = [pct.value for s in rules for pct in s.loses_pct.values() if pct.lo > 0]
    record["passed"] = fail_above is None or not any(pct > fail_above for pct in lost)
    if style == "json":
        options.print_json(record)
    else:
        options.say(text)
    return 0 if record["passed"] else 1


def _kind(path: str) -> str:
    """Return what a path holds, by its name alone; what is wrong in it is for its reader to say."""
    place = Path(path)
    if not place.exists():
        raise InputError(f"{path}: no such file or directory")
    if place.is_dir():
        return ROWS if any(place.glob("*.csv")) else TREE
    return {".json": CALIBRATION, ".csv": ROWS}.get(place.suffix.lower(), TREE)
