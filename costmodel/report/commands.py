"""The commands that a report names: those that give its numbers again, and those that check it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..decide.evidence import MEASURED
from ..show.place import measure
from ..show.plan import measuring
from .case import AtWorldSize, Case, without


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
    changed = [w for w in case.by_world_size if w.changes] or case.by_world_size[-1:]
    rule_file = shlex.quote(f"{out.rstrip('/')}/{rule_file_of(case, many)}")
    lines = [f"costmodel recommend {target}{served} --for {engine}"]
    if case.provenance is None:
        return lines
    if case.is_xgmi:
        lines.append(
            f"{case.provenance.command} --source PATH --out rule.patch --tests test_rule.py"
        )
    which = case.target_but("--tp")
    lines += [
        f"costmodel worth --tp {w.world_size} {which}{worth} --from {case.old.name} "
        f"--to {rule_file if w.proposed or not case.proposes else f'recommended --for {engine}'}"
        for w in changed
    ]
    if case.validation is not None:
        tables = "--published" if case.published else _measurement_files(case)
        lines.append(f"costmodel validate {_judged_by(case)} {tables}")
    return lines


def _measurement_files(case: Case) -> str:
    return shlex.join([f for f, _ in case.files if f.endswith(".csv")])


def emit_by_gpu(cases: Sequence[Case]) -> str:
    """Return the command that writes a patch with what is proposed on several GPUs, "" for one."""
    if len(cases) == 1 or not any(case.proposes for case in cases):
        return ""
    words = shlex.split(cases[0].target)
    by_arch = "--arch" in words
    proposed = {
        case.setting.arch if by_arch else case.gpu: [
            str(w.world_size) for w in case.by_world_size if w.proposed
        ]
        for case in cases
        if case.proposes
    }
    # What chose GPU and world sizes is said for all at once; emit takes no reference.
    words = without(words, "--arch", "--gpu", "--tp", "--source")
    each = {",".join(sizes) for sizes in proposed.values()}
    if len(each) == 1:
        words += ["--tp", each.pop()]
    else:
        for name, sizes in proposed.items():
            words += ["--tp", f"{name}:{','.join(sizes)}"]
    which = ["--arch" if by_arch else "--gpu", ",".join(proposed)]
    gate = ["--gate"] if len(proposed) == 1 else []
    command = ["costmodel", "emit", "--for", cases[0].engine.name, *which, *words, *gate]
    return shlex.join([*command, "--source", "PATH", "--out", "rule.patch"])


def check_command(case: Case) -> str:
    """Return the one command that measures both algorithms around the cutoffs on one's own GPUs."""
    places = checked(case)
    order = case.deployment.tokens.tolist()
    tokens = {t for w in places for t in _around(case, w, order)}
    dtype = case.setting.dtype
    of_dtype = "" if dtype == "bf16" else f" --dtype {dtype}"
    return (
        f"{_measure(case, *(w.world_size for w in places))} --hidden {case.llm.hidden_size} "
        f"--tokens {','.join(map(str, sorted(tokens)))}{of_dtype} --out run"
    )


def confirmations(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """Return GPUs that change, each with the command that judges the run of a check there."""
    return [(case.gpu, _confirmation(case)) for case in cases if case.proposes]


def _confirmation(case: Case) -> str:
    sizes = ",".join(str(w.world_size) for w in case.by_world_size if w.proposed)
    return f"costmodel validate {_judged_by(case)} --against {case.old.name} --tp {sizes} run"


def _judged_by(case: Case) -> str:
    """Return the options with which rows are judged: they have dtypes and sources of their own."""
    return f"{case.target_but('--tp', '--dtype', '--source')} --for {case.engine.name}"


def _around(case: Case, w: AtWorldSize, order: list[int]) -> list[int]:
    """Return captured tokens: three of those that change, and one beyond on either side.

    Where none changes, those about the cutoff.
    """
    inside = [b.tokens for b in w.changed] or [_turn(case, w)]
    first, last = order.index(inside[0]), order.index(inside[-1])
    beyond = 1 if w.changed else 2
    sides = [*order[max(0, first - beyond) : first], *order[last + 1 : last + 1 + beyond]]
    return [*sides, *inside[:: max(1, (len(inside) - 1) // 2)], inside[-1]]


def _measure(case: Case, *world_sizes: int) -> str:
    """Return the start of a measurement; processes that hold other ranks are told how many."""
    start = measure(case.calibration, max(world_sizes))
    whole = f"--nproc-per-node={max(world_sizes)}" in start and len(world_sizes) == 1
    return start if whole else f"{start} --tp {','.join(map(str, sorted(world_sizes)))}"


def checked(case: Case) -> tuple[AtWorldSize, ...]:
    """Return the world sizes that the check is of: what changes, else where arms cross first."""
    changing = tuple(w for w in case.by_world_size if w.changes and case.makes_calls)
    return changing or case.crossing[:1]


def _turn(case: Case, w: AtWorldSize) -> int:
    """Return the captured tokens nearest to the cutoff, those of the middle without one."""
    tokens = case.deployment.tokens
    at = w.cutoff.estimate
    if not at:
        return int(tokens[len(tokens) // 2])
    row = case.llm.hidden_size * case.setting.element_bytes
    return int(min(tokens.tolist(), key=lambda t: abs(t * row - at)))


def settle_commands(case: Case) -> str:
    """Return the commands that plan what settles a cutoff, measure it and learn from it."""
    served = f" {case.served}" if case.served else ""
    planned = f"costmodel plan {case.target}{served} --for {case.engine.name} --out plan.json"
    after = measuring(case.settling, Path("plan.json")) if case.settling.entries else []
    return "\n".join([planned, *after])


def measure_commands(case: Case) -> str:
    """Return the commands that measure the shapes that matter most."""
    target = f"{case.target_but('--tp')} --for {case.engine.name}"
    carried = [w.world_size for w in case.by_world_size if w.cutoff.evidence_class != MEASURED]
    n = (carried or [w.world_size for w in case.by_world_size])[-1]
    return "\n".join(
        [
            f"costmodel plan {target} --tp {n} --out plan.json",
            f"{_measure(case, n)} --plan plan.json --out run",
            f"costmodel validate {_judged_by(case)} run/measurements.csv",
        ]
    )
