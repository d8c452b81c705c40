"""Boundary cases of a rule, and a test file that runs them against a patched engine.

Each cutoff is probed one element below, at, and one element above it, at every world size, for a
member of every hidden class and its neighbours outside. A count of elements that is not a whole
number of rows exists only as a stand-in; it is what tells ``<`` from ``<=``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted
from ..rules.condition import Calls, Compare, Condition, FullMesh, Member, WholePacks, parts_of
from ..rules.rule import Provenance, Rule
from ..units import ELEMENT_BYTES, PACK_BYTES, element_bytes
from . import comment
from .call_sites import Engine

#: Hidden sizes that every test covers: GPT-OSS, Llama 8B, DeepSeek V3.
TYPICAL = (2880, 4096, 7168)

#: Bytes probed where a rule has no cutoff.
ONE_MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """Inputs of one dtype and hidden size at one world size, by element count."""

    world_size: int
    fully_connected: bool
    dtype: str
    hidden_dim: int
    decisions: tuple[tuple[int, bool], ...]


def cases(rule: Rule) -> list[Case]:
    """Return the boundary cases of a rule that claims every world size."""
    out = []
    meshes = [True]
    if any(isinstance(p, FullMesh) for p in parts_of(rule.condition)):
        meshes.append(False)
    for n in WORLD_SIZES:
        condition = rule.condition.at(n)
        for dtype in ELEMENT_BYTES:
            for hidden in hidden_classes(condition, dtype):
                counts = np.array(_counts(condition, dtype, hidden))
                for mesh in meshes:
                    one = _holds(condition, n, dtype, hidden, counts, mesh)
                    decisions = tuple(zip(counts.tolist(), one.tolist(), strict=True))
                    out.append(Case(n, mesh, dtype, hidden, decisions))
    return out


def hidden_classes(condition: Condition, dtype: str) -> list[int]:
    """Return hidden sizes on both sides of everything that a condition asks of them."""
    pack = PACK_BYTES // element_bytes(dtype)
    found = set(TYPICAL)
    for part in parts_of(condition):
        if isinstance(part, Member) and part.quantity == "hidden_dim":
            found |= {int(h) + d for h in part.values for d in (0, pack)}
        elif isinstance(part, WholePacks):
            found.add(TYPICAL[0] + pack // 2)
        elif isinstance(part, Compare):
            edge = {
                "hidden_dim": part.value,
                "packs": part.value * pack,
                "row_bytes": part.value // element_bytes(dtype),
            }.get(part.quantity)
            if edge is not None:
                found |= {edge - pack, edge, edge + pack}
    return sorted(h for h in found if h > 0)


def first_difference(one: Rule, other: Rule) -> str | None:
    """Return the first boundary case in which two rules differ, in words; None when none does."""
    for asked in cases(one) + cases(other):
        counts = np.array([count for count, _ in asked.decisions])
        at = (asked.world_size, asked.dtype, asked.hidden_dim, counts, asked.fully_connected)
        first, second = (_holds(r.condition.at(asked.world_size), *at) for r in (one, other))
        if (first != second).any():
            count = int(counts[first != second][0])
            return (
                f"TP{asked.world_size}, {asked.dtype}, hidden {asked.hidden_dim}, {count} elements"
            )
    return None


def render(
    adapted: Adapted,
    provenance: Provenance,
    engine: Engine,
    file: str,
    function: str,
    source: str = "",
) -> str:
    """Return a test file for the patched function; it needs neither GPU, torch nor the engine.

    ``file`` is the patched file relative to ``source``, the tree as given on the command line;
    without one the installed package is looked for.
    """
    code = Path(__file__).with_name("stand_in.py").read_text(encoding="utf-8")
    body = code.split("from typing import Any\n", 1)[1].strip()
    rule = adapted.rule
    about = [rule.words(), *comment.lines(adapted, provenance, engine.title)]
    rows = [
        f"    ({c.world_size}, {c.fully_connected}, {c.dtype!r}, {c.hidden_dim}, "
        f"{{{', '.join(f'{count}: {one}' for count, one in c.decisions)}}}),"
        for c in cases(rule)
    ]
    tests = [
        f"def test_decides_as_the_rule_at_tp{n}():\n"
        f"    wrong = differences({n})\n"
        f"    assert not wrong, wrong[:5]\n"
        for n in WORLD_SIZES
    ]
    return _FILE.format(
        engine=engine.title,
        function=function,
        about="\n".join(about),
        file=file,
        package=engine.package,
        inside=_inside(file, engine),
        source=source,
        stand_in=body,
        rows="\n".join(rows),
        tests="\n\n".join(tests),
    )


_FILE = '''"""Boundary cases of the dispatch rule in {engine}'s {function}.

{about}

Run with pytest or as a script; COSTMODEL_SOURCE names the patched tree. No GPU, no torch, no import
of the engine: the function is cut out of its file and run on stand-ins.
"""
# fmt: off
# ruff: noqa

from __future__ import annotations

import ast
import builtins
import importlib.util
import math
import os as _os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FILE = {file!r}
FUNCTION = {function!r}


def source():
    """Return the text of the file under test."""
    root = _os.environ.get("COSTMODEL_SOURCE") or {source!r}
    if root:
        return (Path(root) / FILE).read_text(encoding="utf-8")
    package = importlib.util.find_spec({package!r})
    if package is None or not package.submodule_search_locations:
        raise SystemExit("{package} is not installed; set COSTMODEL_SOURCE to the patched tree")
    return (Path(package.submodule_search_locations[0]) / {inside!r}).read_text(encoding="utf-8")


{stand_in}


# (world size, fully connected, dtype, hidden size, {{elements: 1-stage?}})
CASES = [
{rows}
]


def differences(world_size):
    """Return the cases of a world size in which the function does not decide as the rule."""
    decide = decider(source(), FUNCTION)
    return [
        f"TP{{n}} mesh={{mesh}} {{dtype}} hidden={{hidden}} elements={{elements}}: not {{one}}"
        for n, mesh, dtype, hidden, decisions in CASES
        if n == world_size
        for elements, one in decisions.items()
        if decide(n, dtype, hidden, elements, mesh) is not one
    ]


{tests}

if __name__ == "__main__":
    failed = [line for n in ({sizes}) for line in differences(n)]
    print("\\n".join(failed) or f"{{len(CASES)}} groups of boundary cases: all as the rule")
    raise SystemExit(bool(failed))
'''.replace("{sizes}", ", ".join(map(str, WORLD_SIZES)))


def _inside(file: str, engine: Engine) -> str:
    """Return a file's path inside the engine's package."""
    for place in engine.places:
        if file.endswith(place.file):
            return place.file
    return file


def _counts(condition: Condition, dtype: str, hidden: int) -> list[int]:
    size = element_bytes(dtype)
    edges = {hidden, ONE_MIB // size}
    for part in parts_of(condition):
        if isinstance(part, Compare):
            if part.quantity == "bytes":
                edges.add(part.value // size)
            elif part.quantity == "elements":
                edges.add(part.value)
            elif part.quantity == "tokens":
                edges |= {part.value * hidden, (part.value + 1) * hidden}
    return sorted({e + d for e in edges for d in (-1, 0, 1) if e + d >= hidden} | {hidden})


def _holds(
    condition: Condition, n: int, dtype: str, hidden: int, counts: NDArray[np.int64], mesh: bool
) -> NDArray[np.bool_]:
    full = np.full(counts.shape, hidden)
    calls = Calls(
        dtype, counts // hidden, full, counts, np.full(counts.shape, n), fully_connected=mesh
    )
    return condition.holds(calls)
