"""Many rows of few kinds: what was measured once, and each latency with its kind.

Ten million rows that were measured at twenty thousand shapes differ in their latencies alone. A
table of :class:`.Measurements` keeps every cell of every row, 80 bytes; here a row is a latency, a
number and a line, 16 bytes, and what is asked of every row is worked out once a kind. Files are
read a part at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import fields
from numpy.typing import NDArray

from . import measurement
from .measurement import ALL_COLUMNS, Measurements, stacked
from .words import Words

if TYPE_CHECKING:
    import pandas as pd

#: Columns in which rows of one kind may differ.
OF_A_ROW = ("latency_us", "line")
KIND = tuple(field.name for field in fields(Measurements) if field.name not in OF_A_ROW)


class Repeated(Struct, frozen=True):
    """Rows of a table in their order: ``latency_us`` (n,), ``kind`` (n,) and ``line`` (n,).

    ``kinds`` holds each kind once, as its first row, in the order of those.
    """

    kinds: Measurements
    kind: NDArray[np.int32]
    latency_us: NDArray[np.float64]
    line: NDArray[np.int32]

    @classmethod
    def of(cls, rows: Repeated | Measurements | pd.DataFrame) -> Repeated:
        """Return rows as they are, or those of a table."""
        return rows if isinstance(rows, Repeated) else cls.joined([Measurements.of(rows)])

    @classmethod
    def joined(cls, parts: Iterable[Measurements]) -> Repeated:
        """Return the rows of tables one after another; they may share rows."""
        kinds = measurement.concat([])
        kind: list[NDArray[np.int32]] = []
        latency: list[NDArray[np.float64]] = []
        line: list[NDArray[np.int32]] = []
        for table in parts:
            number, first = table.numbered(KIND)
            every = stacked([kinds, table.select(first)])
            known = len(kinds)
            renumbered, seen = every.numbered(KIND)
            kinds = every.select(seen)
            kind.append(renumbered[known:].astype(np.int32)[number])
            latency.append(table.latency_us)
            line.append(table.line.astype(np.int32))
        return cls(
            kinds, _taken(kind, np.int32), _taken(latency, np.float64), _taken(line, np.int32)
        )  # fmt: skip

    def __len__(self) -> int:
        return self.latency_us.size

    @property
    def times(self) -> NDArray[np.int64]:
        """How many rows are of each kind."""
        return np.bincount(self.kind, minlength=len(self.kinds))

    def select(self, kinds: NDArray[Any]) -> Repeated:
        """Return the rows of the kinds picked by a boolean mask or an index array."""
        picked = np.arange(len(self.kinds))[kinds]
        number = np.full(len(self.kinds), -1, np.int32)
        number[picked] = np.arange(picked.size)
        if picked.size == len(self.kinds) and (number == np.arange(picked.size)).all():
            return self
        kind = number[self.kind]
        rows = kind >= 0
        return Repeated(
            self.kinds.select(picked), kind[rows], self.latency_us[rows], self.line[rows]
        )

    def having(self, column: str, wanted: Sequence[Any]) -> Repeated:
        """Return the rows with one of these values in a column; :class:`InputError` for none."""
        self.kinds.having(column, wanted)
        return self.select(np.isin(getattr(self.kinds, column), wanted))

    def cells(self, rows: NDArray[np.int64]) -> list[Words | NDArray[Any]]:
        """Return the columns of schema 1 of some rows."""
        kind = self.kind[rows]
        return [
            self.latency_us[rows] if name == "latency_us" else getattr(self.kinds, name)[kind]
            for name in ALL_COLUMNS
        ]

    def where(self, row: int) -> str:
        """Return ``file:line`` of a row, for messages."""
        path = self.kinds.path[int(self.kind[row])]
        return f"{path}:{self.line[row]}" if path else f"row {row}"


def read_all(paths: Iterable[str | Path]) -> Repeated:
    """Read several schema 1 files, or all ``*.csv`` of a directory; raises as :func:`.read` does.

    A file's first fault is named; of faults further on only those of the same part are known.
    """
    found = measurement.files(paths)
    return checked(Repeated.joined(part for path in found for part in measurement.parts(path)))


def concat(tables: Sequence[Repeated]) -> Repeated:
    """Join tables; raise :class:`InputError` when the same row stands in two of them."""
    if len(tables) == 1:
        return tables[0]
    every = Repeated.of(stacked([table.kinds for table in tables]))
    # A kind's place among all: those of the tables before come first.
    first = np.cumsum([0, *(len(table.kinds) for table in tables)])
    kind = [every.kind[table.kind + n] for table, n in zip(tables, first, strict=False)]
    return checked(
        Repeated(
            every.kinds,
            np.concatenate(kind),
            np.concatenate([table.latency_us for table in tables]),
            np.concatenate([table.line for table in tables]),
        )
    )


def checked(rows: Repeated) -> Repeated:
    """Return the rows; raise :class:`InputError` where two are the same."""
    measurement.check_duplicates(rows.latency_us, rows.cells, rows.where)
    return rows


def _taken(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Join parts and let go of them."""
    whole = np.concatenate(parts) if parts else np.zeros(0, dtype)
    parts.clear()
    return whole
