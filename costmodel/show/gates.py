"""The gates of an engine as text: what each does where it is set, and the lines that decide."""

from __future__ import annotations

import textwrap

from ..engines.gate_lines import GateLine
from ..engines.gates import ENVIRONMENT, FLAG, Gate, Gates

#: Lines shown of a gate; JSON has all.
SHOWN = 4


def text(gates: Gates) -> str:
    """Return the gates of a tree as text, in the order in which engines are known for them."""
    lines = ["beside the rule, what decides whether the fused op runs and which kernel:"]
    for gate in gates.present:
        default = f" (default {gate.default})" if gate.default else ""
        lines += textwrap.wrap(
            f"{gate.name}{default}: {gate.does}", 98, initial_indent="  ", subsequent_indent="    "
        )
        if not gate.decides and gate.kind in (ENVIRONMENT, FLAG):
            lines.append("    no line about the fused op hangs on it here; it stands at")
        lines += [f"    {line(place)}" for place in _lines(gate)[:SHOWN]]
        if len(_lines(gate)) > SHOWN:
            lines.append(f"    and {len(_lines(gate)) - SHOWN} more lines (--format json)")
    if not gates.present:
        lines.append("  nothing that is known of this engine stands in this tree")
    if gates.absent:
        lines += textwrap.wrap(
            f"not in this tree: {'; '.join(gates.absent)}", 98, initial_indent="  ",
            subsequent_indent="    ",
        )  # fmt: skip
    return "\n".join(lines)


def line(place: GateLine) -> str:
    """Return a place in one line: ``file:12 function: what it says``."""
    where = f" {place.function}" if place.function else ""
    return f"{place.file}:{place.line}{where}: {place.text}"


def _lines(gate: Gate) -> tuple[GateLine, ...]:
    """Return the lines that decide, one for each function first; else those that read the gate."""
    if not gate.decides:
        return gate.reads
    first = {(p.file, p.function): p for p in reversed(gate.decides)}
    leading = [p for p in gate.decides if first[p.file, p.function] == p]
    return (*leading, *(p for p in gate.decides if p not in leading))
