"""Boundary cases of a rule: the inputs on which two rules would differ if they differ at all.

Each cutoff is probed one element below, at, and one element above it, at every world size, for a
member of every hidden class and its neighbours outside. A count of elements that is not a whole
number of rows exists only as a stand-in; it is what tells ``<`` from ``<=``. So each cutoff is
probed at the whole rows on both sides of it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
from msgspec import Struct

from ..model.shape import WORLD_SIZES
from ..units import ELEMENT_BYTES, PACK_BYTES, element_bytes
from .algebra import asks_for_mesh, parts_of
from .condition import Calls, Compare, Condition, Member, WholePacks
from .rule import Rule

#: Hidden sizes that the cases always cover: GPT-OSS, Llama 8B, DeepSeek V3.
TYPICAL = (2880, 4096, 7168)

#: Bytes probed where a rule has no cutoff.
ONE_MIB = 1 << 20


class BoundaryCalls(Struct, frozen=True):
    """Inputs of one dtype and hidden size at one world size, by element count."""

    world_size: int
    fully_connected: bool
    dtype: str
    hidden_dim: int
    decisions: tuple[tuple[int, bool], ...]


class _Inputs(Struct, frozen=True):
    """What the cases of one dtype and hidden size at one world size are asked with."""

    world_size: int
    dtype: str
    hidden_dim: int
    elements: tuple[int, ...]
    fully_connected: bool


def cases(rule: Rule) -> list[BoundaryCalls]:
    """Return the boundary cases of a rule that claims every world size."""
    conditions = {n: rule.condition.at(n) for n in WORLD_SIZES}
    return [
        BoundaryCalls(
            given.world_size,
            given.fully_connected,
            given.dtype,
            given.hidden_dim,
            tuple(zip(given.elements, _holds(conditions[given.world_size], given), strict=True)),
        )
        for given in _inputs(rule)
    ]


def _inputs(rule: Rule) -> Iterator[_Inputs]:
    meshes = (True, False) if asks_for_mesh(rule.condition) else (True,)
    for n in WORLD_SIZES:
        condition = rule.condition.at(n)
        for dtype in ELEMENT_BYTES:
            for hidden in hidden_classes(condition, dtype):
                counts = _counts(condition, dtype, hidden)
                for mesh in meshes:
                    yield _Inputs(n, dtype, hidden, counts, mesh)


def hidden_classes(condition: Condition, dtype: str) -> list[int]:
    """Return hidden sizes on both sides of everything that a condition asks of them."""
    pack = PACK_BYTES // element_bytes(dtype)
    hidden = set(TYPICAL)
    for part in parts_of(condition):
        if isinstance(part, Member) and part.quantity == "hidden_dim":
            hidden |= {int(h) + d for h in part.values for d in (0, pack)}
        elif isinstance(part, WholePacks):
            hidden.add(TYPICAL[0] + pack // 2)
        elif isinstance(part, Compare):
            edge = {
                "hidden_dim": part.value,
                "packs": part.value * pack,
                "row_bytes": part.value // element_bytes(dtype),
            }.get(part.quantity)
            if edge is not None:
                hidden |= {edge - pack, edge, edge + pack}
    return sorted(h for h in hidden if h > 0)


def first_difference(one: Rule, other: Rule) -> str | None:
    """Return the first boundary case in which two rules differ, in words; None when none does."""
    conditions = {n: [rule.condition.at(n) for rule in (one, other)] for n in WORLD_SIZES}
    apart = {n for n, (first, second) in conditions.items() if first != second}
    asked = set()
    # Most rules that differ do so at once: the inputs are made as they are asked for.
    for given in chain(_inputs(one), _inputs(other)):
        if given.world_size not in apart or given in asked:
            continue
        asked.add(given)
        first, second = (_holds(condition, given) for condition in conditions[given.world_size])
        for count, here, there in zip(given.elements, first, second, strict=True):
            if here != there:
                at = f"{given.dtype}, hidden {given.hidden_dim}, {count} elements"
                return f"TP{given.world_size}, {at}"
    return None


def _counts(condition: Condition, dtype: str, hidden: int) -> tuple[int, ...]:
    size = element_bytes(dtype)
    edges, rows = {hidden, ONE_MIB // size}, {hidden}
    for part in parts_of(condition):
        if isinstance(part, Compare):
            if part.quantity in ("bytes", "elements"):
                edge = part.value // (size if part.quantity == "bytes" else 1)
                edges.add(edge)
                # A function may go by the shape, and see whole rows alone.
                rows |= {edge // hidden * hidden, edge // hidden * hidden + hidden}
            elif part.quantity == "tokens":
                edges |= {part.value * hidden, (part.value + 1) * hidden}
    near = {edge + d for edge in edges for d in (-1, 0, 1)}
    return tuple(sorted(count for count in near | rows if count >= hidden))


def _holds(condition: Condition, given: _Inputs) -> list[bool]:
    counts = np.array(given.elements)
    full = np.full(counts.shape, given.hidden_dim)
    calls = Calls(
        given.dtype,
        counts // given.hidden_dim,
        full,
        counts,
        np.full(counts.shape, given.world_size),
        fully_connected=given.fully_connected,
    )
    decided: list[bool] = condition.holds(calls).tolist()
    return decided
