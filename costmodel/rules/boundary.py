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
from numpy.typing import NDArray

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


def cases(rule: Rule) -> list[BoundaryCalls]:
    """Return the boundary cases of a rule that claims every world size."""
    return list(_cases(rule))


def _cases(rule: Rule) -> Iterator[BoundaryCalls]:
    meshes = [True]
    if asks_for_mesh(rule.condition):
        meshes.append(False)
    for n in WORLD_SIZES:
        condition = rule.condition.at(n)
        for dtype in ELEMENT_BYTES:
            for hidden in hidden_classes(condition, dtype):
                counts = np.array(_counts(condition, dtype, hidden))
                for mesh in meshes:
                    one = _holds(condition, n, dtype, hidden, counts, mesh)
                    decisions = tuple(zip(counts.tolist(), one.tolist(), strict=True))
                    yield BoundaryCalls(n, mesh, dtype, hidden, decisions)


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
    # Most rules that differ do so at once: the cases are made as they are asked for.
    for asked in chain(_cases(one), _cases(other)):
        counts = np.array([count for count, _ in asked.decisions])
        at = (asked.world_size, asked.dtype, asked.hidden_dim, counts, asked.fully_connected)
        first, second = (_holds(condition, *at) for condition in conditions[asked.world_size])
        if (first != second).any():
            count = int(counts[first != second][0])
            return (
                f"TP{asked.world_size}, {asked.dtype}, hidden {asked.hidden_dim}, {count} elements"
            )
    return None


def _counts(condition: Condition, dtype: str, hidden: int) -> list[int]:
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
    return sorted(count for count in near | rows if count >= hidden)


def _holds(
    condition: Condition, n: int, dtype: str, hidden: int, counts: NDArray[np.int64], mesh: bool
) -> NDArray[np.bool_]:
    full = np.full(counts.shape, hidden)
    calls = Calls(
        dtype, counts // hidden, full, counts, np.full(counts.shape, n), fully_connected=mesh
    )
    return condition.holds(calls)
