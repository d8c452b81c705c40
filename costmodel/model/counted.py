"""Calls of equal bytes, found by counting: of many calls, each that differs is evaluated once.

A model that looks at bytes alone (:meth:`.LatencyModel.by_bytes`) gives equal latencies to calls of
as many bytes over as many ranks, and tokens and hidden sizes have factors in common: of half a
million calls drawn from 64 token counts and 961 hidden sizes, 27 thousand differ in bytes. All
elements are multiples of a power of two. A table with a place for each multiple says in one pass
which occur and gives each call its values in another, which costs less than to sort the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from .shape import STRETCH, WORLD_SIZES, Shapes

#: 2, 4 and 8 ranks are the places 0, 1 and 2 of a table: their numbers without the last bits.
PLACE_BITS = 2


class Counted(Struct, frozen=True):
    """Flat calls, and which multiples of ``1 << bits`` elements occur among them.

    ``multiples`` ascend and are below ``count``; ``world_sizes`` are those that occur.
    """

    shapes: Shapes
    bits: int
    count: int
    multiples: NDArray[np.intp]
    world_sizes: tuple[int, ...]

    @classmethod
    def of(cls, shapes: Shapes) -> Counted | None:
        """Return the count of some flat calls, None where its table would be longer than they are.

        Nothing is gained there: most calls differ.
        """
        tokens, hidden_dim = shapes.tokens, shapes.hidden_dim
        bits = _common_bits(tokens) + _common_bits(hidden_dim)
        count = (int(tokens.max()) * int(hidden_dim.max()) >> bits) + 1
        if count * len(WORLD_SIZES) > len(shapes):
            return None
        occurs = np.zeros(count, np.bool_)
        for _, multiples in _stretches(shapes, bits):
            occurs[multiples] = True
        ranks = int(np.bitwise_or.reduce(shapes.world_size))
        return cls(
            shapes, bits, count, np.flatnonzero(occurs), tuple(n for n in WORLD_SIZES if n & ranks)
        )

    def calls(self, world_size: int) -> Shapes:
        """Return a call of each number of bytes that occurs, ascending, over so many ranks."""
        elements = self.multiples << self.bits
        return Shapes(
            self.shapes.op, self.shapes.dtype, np.ones_like(elements), elements,
            np.broadcast_to(np.int64(world_size), elements.shape),
        )  # fmt: skip

    def spread(self, evaluate: Callable[[Shapes], Mapping[str, Any]]) -> dict[str, Any]:
        """Return values of all calls by name, as ``evaluate`` gives them for :meth:`calls`.

        A value is an array like these calls, or a scalar; a name that a world size lacks is 0
        there. What is the same for all calls stays a scalar.
        """
        found = {n: evaluate(self.calls(n)) for n in self.world_sizes}
        spread: dict[str, Any] = {}
        tables: dict[str, NDArray[np.float64]] = {}
        for name in dict.fromkeys(name for values in found.values() for name in values):
            values = {n: values.get(name, 0.0) for n, values in found.items()}
            differ = any(map(np.ndim, values.values()))
            table = np.empty((len(WORLD_SIZES), self.count if differ else 1))
            for n, value in values.items():
                table[n >> PLACE_BITS, self.multiples if differ else 0] = value
            spread[name] = first = float(table[self.world_sizes[0] >> PLACE_BITS, 0])
            if differ or any(value != first for value in values.values()):
                tables[name] = table.ravel()
        # In one piece: the memory of many is given back, and had from the system anew by the page.
        spread.update(zip(tables, np.empty((len(tables), len(self.shapes))), strict=True))
        by_ranks = [name for name, table in tables.items() if table.size == len(WORLD_SIZES)]
        by_bytes = [name for name in tables if name not in by_ranks]
        for some, multiples in _stretches(self.shapes, self.bits):
            place = self.shapes.world_size[some] >> PLACE_BITS
            for name in by_ranks:
                tables[name].take(place, mode="clip", out=spread[name][some])
            place *= self.count
            place += multiples
            for name in by_bytes:
                tables[name].take(place, mode="clip", out=spread[name][some])
        return spread


def _stretches(shapes: Shapes, bits: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Yield stretches of calls, and how many times ``1 << bits`` elements each call has."""
    # Few enough that what is at work on them stays in the cache.
    for first in range(0, len(shapes), STRETCH):
        some = slice(first, first + STRETCH)
        elements = shapes.tokens[some] * shapes.hidden_dim[some]
        elements >>= bits
        yield some, elements


def _common_bits(numbers: NDArray[np.int64]) -> int:
    """Return how many last bits are zero in all of some positive numbers."""
    together = int(np.bitwise_or.reduce(numbers))
    return (together & -together).bit_length() - 1
