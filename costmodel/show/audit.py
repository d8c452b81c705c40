"""An engine's rule as it was found, in words, and what it loses."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.engine_calls import FusedCalls
from ..engines.audit import Audit
from ..engines.consulted import Consulted
from ..engines.consumers import Consumer
from ..model.shape import WORLD_SIZES
from ..rules import table as runtime
from . import gates, words
from .table import table


def text(one: Audit, hidden_dims: Sequence[int], dtype: str, calls: FusedCalls | None) -> str:
    """Return an audit as text."""
    lines = []
    for installed in one.installed:
        lines.append(installed.statement())
        if installed.moved:
            lines.append("  not where the known releases keep it: make sure that it is in force")
        lines += [f"  on {name} over xGMI: {own.words()}" for name, own in installed.by_gpu.items()]
        if installed.known_as:
            lines.append(f"  the same as rule '{installed.known_as}'")
        lines += [f"  {installed.file}:{o.line}: {o.words()}" for o in installed.overrides]
        lines += [f"  could not be read, taken as met: {a}" for a in installed.assumed]
        lines += [f"  {installed.file}:{f.line}: {f.text}" for f in installed.findings]
    lines += [_other(other) for other in one.others]
    if one.elsewhere:
        lines.append(f"not read, below the same path: {', '.join(one.elsewhere)}")
    for file in one.consulted:
        lines += _consulted(file)
    lines += ["", gates.text(one.gates)]
    lines += ["", f"largest 1-stage batch in {dtype}, by hidden size:"]
    rules = [("installed", one.rule)]
    if one.against is not None:
        rules.append((one.against.rule.name, one.against.rule))
    rows = [
        (
            f"TP{n}",
            name,
            rule.sizes(n),
            *(_limit(rule.max_tokens(h, n, dtype=dtype)) for h in hidden_dims),
        )
        for n in WORLD_SIZES
        for name, rule in rules
    ]
    lines.append(table(rows, ("ranks", "rule", "1-stage bytes", *hidden_dims)))
    if one.against is not None:
        lines += [f"  {note}" for note in one.against.notes(one.tree.engine.title)]
    if one.scores:
        lines += ["", "by the calibrated model, over captured batch sizes:"]
        lines.append(_scores(one, calls))
    return "\n".join(lines)


def _other(one: Consumer) -> str:
    """Say what a function beside the rules that were read does."""
    if one.hidden:
        return f"never in force: {one.place}: a later definition of the same name hides it"
    if one.asks:
        return f"asks the first of these rules: {one.place}, {one.op}"
    own = f"1-stage when {one.own.words()}" if one.own is not None else "by tests of its own"
    return f"chooses too: {one.place}, {one.op}: {own}"


def _consulted(file: Consulted) -> list[str]:
    """Say where a run-time table is asked, and what the tables beside the source hold."""
    asked = ", ".join(f"{function}:{line} ({op})" for function, line, op in file.calls)
    lines = ["", f"{file.file} asks a run-time table before these rules: {asked}"]
    for beside in file.tables:
        if beside.record is None:
            lines.append(f"  not used: {beside.wrong}")
            continue
        record, made = beside.record, beside.record["calibration"]
        said = f", calibration {made['id']} (sha256 {made['sha256'][:12]})" if made["id"] else ""
        lines.append(f"  {beside.file}: of {record['date']}{said}")
        lines += [f"    {runtime.words(entry)}" for entry in record["entries"]]
    if not file.tables:
        lines.append("  no table lies beside it: these rules hold")
    return lines


def _scores(one: Audit, calls: FusedCalls | None) -> str:
    head = [
        "ranks",
        "installed loses, of the faster arm",
        "90 % interval",
        "us a call",
        "decided otherwise",
    ]
    if calls:
        head.append(f"us of {calls.words()}")
    rows = []
    for n, score in sorted(one.scores.items()):
        lost, saved = score.saved_pct, score.saved_us
        row = [
            f"TP{n}",
            f"{lost.value:.2f} %",
            f"{lost.lo:.2f} to {lost.hi:.2f}",
            f"{saved.value:.2f}",
            f"{100 * score.differ:.0f} %",
        ]
        if calls:
            row.append(words.estimate(saved.times(calls.per_step), ".0f"))
        rows.append(row)
    return table(rows, head)


def _limit(tokens: int | None) -> str:
    return words.NO_LIMIT if tokens is None else str(tokens)
