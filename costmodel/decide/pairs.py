"""Pairs: calls that were measured with both algorithms, so that the faster one is known.

:func:`calls` lists every call with the arms that were measured, :func:`pair` those with both
algorithms. Two rows belong to one call when they agree in every column of schema 1 but the
algorithm, the latency and its quality. Repeated measurements of one arm count as their median.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..calibration.observations import SILENT_DTYPE
from ..data.measurement import ALL_COLUMNS, GRID, Measurements, stacked
from ..data.repeated import KIND, Repeated
from ..data.words import Words
from ..errors import InputError
from ..model.shape import FUSED, ONE_STAGE, SEPARATE, SEPARATE_OPS, TWO_STAGE, Shapes
from ..rules.rule import Rule
from ..units import ELEMENT_BYTES

Array = NDArray[np.float64]

#: Columns in which the rows of a pair may differ, and those in which separate ops may differ from
#: the fused op that they replace.
ARM = ("algorithm", "latency_us", "quality")
THIRD_ARM = (*ARM, "op", "kernel_family", "kernel_version", *GRID)


class Pairs(Struct, frozen=True):
    """Measured calls, arm by arm: arrays of one length, latencies in us, NaN where not measured.

    ``row`` is one row of the table that they came from; ``repeats`` counts the measurements of the
    arm that has fewer. ``separate_us`` is all-reduce and RMSNorm as separate ops, ``auto_us`` what
    the library ran when it chose itself.
    """

    op: str
    row: NDArray[np.int64]
    source: Words
    gpu: Words
    dtype: Words
    world_size: NDArray[np.int64]
    tokens: NDArray[np.int64]
    hidden_dim: NDArray[np.int64]
    repeats: NDArray[np.int64]
    one_us: Array
    two_us: Array
    separate_us: Array
    auto_us: Array

    def __len__(self) -> int:
        return self.row.size

    @property
    def fastest_us(self) -> Array:
        """The faster of the two algorithms."""
        return np.fmin(self.one_us, self.two_us)

    def chosen_us(self, choice: NDArray[np.bool_]) -> Array:
        """Return the measured latencies under a choice."""
        return np.where(choice, self.one_us, self.two_us)

    @property
    def gap_pct(self) -> Array:
        """By how much the slower algorithm is slower, percent."""
        return 100 * (np.maximum(self.one_us, self.two_us) / self.fastest_us - 1)

    @property
    def bytes(self) -> NDArray[np.int64]:
        """Input bytes on one rank."""
        return self.tokens * self.hidden_dim * _element_bytes(self.dtype)

    def against(self, alternative: str) -> Pairs:
        """Return the pairs with another arm in the place of 2-stage: ``2stage`` or ``separate``.

        Where separate ops run otherwise, they are what 1-stage is judged against; how often those
        were measured is not kept, once at least.
        """
        if alternative != SEPARATE_OPS:
            return self
        repeats = np.maximum(self.repeats, 1)
        swapped = replace(self, two_us=self.separate_us, repeats=repeats)
        return swapped.select(~np.isnan(self.separate_us))

    @property
    def both(self) -> NDArray[np.bool_]:
        """Where both algorithms were measured."""
        return ~np.isnan(self.one_us) & ~np.isnan(self.two_us)

    def select(self, rows: NDArray[np.bool_]) -> Pairs:
        """Return the pairs of a mask."""
        names = (name for name in self.__struct_fields__ if name != "op")
        arrays = {name: getattr(self, name)[rows] for name in names}
        return Pairs(op=self.op, **arrays)

    def use_1stage(self, rule: Rule, kernel_version: str) -> NDArray[np.bool_]:
        """Return where a rule runs 1-stage.

        Raises :class:`InputError`, naming the rule, for a world size without a claim.
        """
        out = np.zeros(len(self), np.bool_)
        for dtype in self.dtype.used:
            mine = self.dtype == dtype
            shapes = Shapes.of(
                self.tokens[mine], self.hidden_dim[mine], self.world_size[mine],
                op=self.op, dtype=dtype,
            )  # fmt: skip
            try:
                out[mine] = rule.use_1stage(shapes, kernel_version=kernel_version)
            except InputError as error:
                raise InputError(f"rule {rule.name}: {error}") from None
        return out


def calls(
    table: Measurements | Repeated, op: str, auto: Measurements | Repeated | None = None
) -> Pairs:
    """Return every call of ``op`` in a table of rows that the model covers, NaN for a missing arm.

    ``auto`` may hold rows of the same op in which the library chose; they are matched to the calls.
    Of rows that are repeated, the pairs' ``row`` is a kind.
    """
    every = Repeated.of(table)
    kinds = every.kinds
    mine = (kinds.op == op) & np.isin(kinds.algorithm, (ONE_STAGE, TWO_STAGE))
    stated = every.select(mine)
    call, seen = _numbered(stated.kinds, ARM)
    count = seen.size
    arms, sizes = [], []
    for algorithm in (ONE_STAGE, TWO_STAGE):
        run = stated.select(stated.kinds.algorithm == algorithm)
        of_run = call[stated.kinds.algorithm == algorithm][run.kind]
        arms.append(group_median(run.latency_us, of_run, count))
        sizes.append(np.bincount(of_run, minlength=count))
    first = np.flatnonzero(mine)[seen]
    rows = kinds.select(first)
    dtype = rows.dtype.renamed(lambda said: said or SILENT_DTYPE)
    # An all-reduce may come as bytes alone: one token of so many elements.
    flat = np.isnan(rows.tokens) | np.isnan(rows.hidden_dim)
    separate, chosen = np.full((2, count), np.nan)
    apart = every.select(kinds.op == SEPARATE)
    if op == FUSED and len(apart):
        separate = _matched(rows, apart, THIRD_ARM)
    if auto is not None:
        ran = Repeated.of(auto)
        ran = ran.select(ran.kinds.op == op)
        chosen = _matched(rows, ran, ARM) if len(ran) else chosen
    if isinstance(table, Measurements):
        first = table.numbered(KIND)[1][first]
    return Pairs(
        op,
        first,
        rows.source,
        rows.gpu,
        dtype,
        rows.world_size.astype(np.int64),
        np.where(flat, 1, rows.tokens).astype(np.int64),
        np.where(flat, rows.bytes / _element_bytes(dtype), rows.hidden_dim).astype(np.int64),
        np.minimum(*sizes),
        arms[0],
        arms[1],
        separate,
        chosen,
    )


def pair(table: Measurements, op: str) -> Pairs:
    """Return the calls of ``op`` that were measured with both algorithms."""
    found = calls(table, op)
    return found.select(found.both)


def group_median(values: Array, group: NDArray[np.int64], count: int) -> Array:
    """Return the median of the values in each of ``count`` groups, NaN for an empty one."""
    order = np.lexsort((values, group))
    size = np.bincount(group, minlength=count)
    start = np.cumsum(size) - size
    out = np.full(count, np.nan)
    some = size > 0
    low, high = (start + (size - 1) // 2)[some], (start + size // 2)[some]
    out[some] = (values[order[low]] + values[order[high]]) / 2
    return out


def _element_bytes(dtype: Words) -> NDArray[np.int64]:
    return dtype.each(ELEMENT_BYTES.__getitem__, np.int64)


def _matched(rows: Measurements, others: Repeated, but: tuple[str, ...]) -> Array:
    """Return, per row, the median latency of the others that agree in all columns but ``but``.

    Where the others ran several algorithms, the fastest counts.
    """
    key, first = _numbered(stacked([rows, others.kinds]), but)
    count = first.size
    mine, theirs = key[: len(rows)], key[len(rows) :]
    best = np.full(count, np.nan)
    for algorithm in others.kinds.algorithm.used:
        ran = others.kinds.algorithm == algorithm
        run = others.select(ran)
        best = np.fmin(best, group_median(run.latency_us, theirs[ran][run.kind], count))
    return best[mine]


def _numbered(
    table: Measurements, but: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the rows so that equal numbers mean equal cells in all columns but ``but``."""
    return table.numbered(name for name in ALL_COLUMNS if name not in but)
