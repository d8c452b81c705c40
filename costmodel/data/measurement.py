"""Measurements: the canonical record of a measured latency, and its interchange format, schema 1.

A table of measurements is a :class:`Measurements`: one array per column, rows in file order, and
for each row the file and line it came from, so that every message can name them. Schema 1 is a CSV
file with the columns of :data:`COLUMNS`, and those of :data:`GRID` where a row states its launch
grid; ``measurements/README.md`` defines them. Files are read in chunks, each cell's text once for
all rows that repeat it: a million rows take 120 MB.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from msgspec.structs import fields, force_setattr
from numpy.typing import NDArray

from ..errors import InputError, nearest
from ..files import replacing
from ..units import ELEMENT_BYTES, dtype_name
from . import csv_columns, ops
from .csv_columns import GrowingColumns, Number
from .ranges import LARGEST
from .words import Words, joined, numbered

if TYPE_CHECKING:
    import pandas as pd

#: Columns of schema 1 that every file has, in order.
COLUMNS = (
    "source", "url", "date", "gpu", "gpu_evidence", "arch", "interconnect", "world_size", "op",
    "algorithm", "kernel_family", "kernel_version", "tokens", "hidden_dim", "dtype", "bytes",
    "latency_us", "statistic", "rank_reduction", "timing", "quality",
)  # fmt: skip
#: The launch grid of a row's kernel: columns that a file may have, and has where a row states one.
GRID = ("workgroups", "threads")
ALL_COLUMNS = (*COLUMNS, *GRID)
INTEGER_COLUMNS = ("world_size", "tokens", "hidden_dim", "bytes", *GRID)
#: Largest whole number of a cell; bytes of a call of that many tokens and hidden elements.
LARGEST_BYTES = LARGEST * LARGEST * max(ELEMENT_BYTES.values())
NUMBER_COLUMNS = (*INTEGER_COLUMNS, "latency_us")
TEXT_COLUMNS = tuple(name for name in COLUMNS if name not in NUMBER_COLUMNS)

#: Rows of a part of a file that is read in parts.
PART = 1 << 18

#: What a cell may say where schema 1 closes the list; "" is allowed where a source may be silent.
VOCABULARY: dict[str, tuple[str, ...]] = {
    "op": tuple(ops.vocabulary()),
    "algorithm": ("1stage", "2stage", "auto", ""),
    "timing": ("graph", "eager", "profiler", ""),
    "quality": ("clean", "noisy", "suspect", "launch_bound", "serving_trace"),
    "gpu_evidence": ("stated", "inferred", ""),
}  # fmt: skip


def _upper(cell: str) -> str:
    return cell.strip().upper()


def _dtype(cell: str) -> str:
    return dtype_name(cell) or cell.strip()


#: How the cells of text are cleaned.
CLEANED: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(TEXT_COLUMNS, str.strip), "gpu": _upper, "dtype": _dtype,
}  # fmt: skip

#: A date as text that sorts by time: which kernels ran is read off it. A time may follow the day.
_DATE = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])([T ].*)?)?)?")

#: No call takes longer, us: 1000 s, at which engines' watchdogs have long ended the run.
LONGEST_US = 1e9


class Measurements(Struct, frozen=True):
    """Measured latencies, one array of equal length per schema 1 column.

    Numbers are float64 with NaN for an empty cell; text is "" for an empty cell, kept as
    :class:`.Words`, which arrays of text become. ``path`` and ``line`` say where each row was read
    (line 1 is the header); "" and 0 for rows made in memory.
    """

    source: Words
    url: Words
    date: Words
    gpu: Words
    gpu_evidence: Words
    arch: Words
    interconnect: Words
    world_size: Number
    op: Words
    algorithm: Words
    kernel_family: Words
    kernel_version: Words
    tokens: Number
    hidden_dim: Number
    dtype: Words
    bytes: Number
    latency_us: Number
    statistic: Words
    rank_reduction: Words
    timing: Words
    quality: Words
    workgroups: Number
    threads: Number
    path: Words
    line: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in (*TEXT_COLUMNS, "path"):
            force_setattr(self, name, Words.of(getattr(self, name)))

    def __repr__(self) -> str:
        gpus = ", ".join(g for g in self.gpu.used if g)
        return f"Measurements({len(self)} rows of {len(self.source.used)} sources: {gpus})"

    def __len__(self) -> int:
        return self.latency_us.size

    def select(self, rows: NDArray[Any]) -> Measurements:
        """Return the rows picked by a boolean mask or an index array."""
        return Measurements(*(getattr(self, name)[rows] for name in self.__struct_fields__))

    def having(self, column: str, wanted: Sequence[Any]) -> Measurements:
        """Return the rows with one of these values in a column; :class:`InputError` for none."""
        values = getattr(self, column)
        kept = np.isin(values, wanted)
        if kept.any():
            return self.select(kept)
        there = [f"{v:g}" if isinstance(v, float) else v for v in np.unique(values).tolist()]
        there = [v for v in there if v not in ("", "nan")]
        asked = ", ".join(map(str, wanted))
        name = column.replace("world_size", "world size").replace("gpu", "GPU")
        near = nearest(asked, there) if column != "world_size" else ""
        raise InputError(f"no rows of {name} '{asked}'{near}; there are {', '.join(there)}")

    def numbered(self, names: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number the rows by their cells in these columns: see :func:`.words.numbered`."""
        return numbered([getattr(self, name) for name in names])

    def cells(self, rows: NDArray[np.int64]) -> list[Words | NDArray[Any]]:
        """Return the columns of schema 1 of some rows."""
        return [getattr(self, name)[rows] for name in ALL_COLUMNS]

    def where(self, row: int) -> str:
        """Return ``file:line`` of a row, for messages."""
        return f"{self.path[row]}:{self.line[row]}" if self.path[row] else f"row {row}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of schema 1 that the rows need: those of a grid only where one is stated."""
        stated = (name for name in GRID if not np.isnan(getattr(self, name)).all())
        return (*COLUMNS, *stated)

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]], path: str = "") -> Measurements:
        """Build a table from dictionaries (absent keys are empty cells) and check it."""
        cells = [[_cell(row.get(name)) for name in ALL_COLUMNS] for row in rows]
        return _from_cells(cells, path, list(range(2, len(cells) + 2)) if path else None)

    def to_rows(self) -> list[dict[str, str]]:
        """Return the rows as dictionaries of cell texts, as they stand in a CSV file."""
        columns = {n: [_cell(v) for v in getattr(self, n).tolist()] for n in self.columns}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @classmethod
    def of(cls, rows: Measurements | pd.DataFrame) -> Measurements:
        """Return rows as they are, or those of a pandas data frame with schema 1 columns."""
        return rows if isinstance(rows, Measurements) else cls.from_frame(rows)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, path: str = "data frame") -> Measurements:
        """Build a table from a pandas data frame with schema 1 columns and check it."""
        _check_header(list(frame.columns), path)
        return cls.from_rows(frame.to_dict("records"), path)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame with schema 1 columns."""
        import pandas as pd

        return pd.DataFrame({name: getattr(self, name) for name in self.columns})

    def write(self, path: str | Path) -> None:
        """Write a schema 1 file atomically."""
        with replacing(Path(path)) as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(row.values() for row in self.to_rows())


@contextmanager
def writing(path: str | Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Give a function that appends rows (as for :meth:`Measurements.from_rows`) to a schema 1 file.

    The file is there when all is written, or not at all. Each batch is checked as a table of its
    own: that no row stands in two of them is for the caller to see to. Raises :class:`InputError`
    for a batch with columns of a grid after one without.
    """
    columns: tuple[str, ...] = ()
    with replacing(Path(path)) as stream:
        writer = csv.writer(stream, lineterminator="\n")

        def write(rows: list[dict[str, Any]]) -> None:
            nonlocal columns
            cells = [[_cell(cell) for cell in map(row.get, ALL_COLUMNS)] for row in rows]
            needed = _from_cells(cells, "", None).columns
            if not columns:
                columns = needed
                writer.writerow(columns)
            if set(needed) - set(columns):
                raise InputError("a launch grid is stated in late rows alone; split the file")
            kept = [ALL_COLUMNS.index(name) for name in columns]
            writer.writerows([row[i] for i in kept] for row in cells)

        yield write


def concat(tables: Sequence[Measurements]) -> Measurements:
    """Join tables; raise :class:`InputError` when the same row stands in two of them."""
    if not tables:
        return _from_cells([], "", None)
    if len(tables) == 1:
        return tables[0]
    table = stacked(tables)
    check_duplicates(table.latency_us, table.cells, table.where)
    return table


def stacked(tables: Sequence[Measurements]) -> Measurements:
    """Join tables that may share rows."""
    joint: dict[str, Any] = {}
    for field in fields(Measurements):
        parts = [getattr(table, field.name) for table in tables]
        joint[field.name] = joined(parts) if isinstance(parts[0], Words) else np.concatenate(parts)
    return Measurements(**joint)


def read(path: str | Path) -> Measurements:
    """Read a schema 1 file.

    Raises :class:`InputError`, naming file and line, for a missing file, a header other than
    schema 1's, a cell that is not what its column says, ``bytes`` that are not
    tokens x hidden_dim x element size, a latency that is not positive, duplicate rows or an
    empty table.
    """
    (table,) = parts(path, sys.maxsize)
    check_duplicates(table.latency_us, table.cells, table.where)
    return table


def parts(path: str | Path, rows: int = PART) -> Iterator[Measurements]:
    """Read a schema 1 file in tables of some ``rows``, as :func:`read` does.

    Whether a row stands twice is for the caller to see.
    """
    path = Path(path)
    some = False
    try:
        header = partial(_check_header, path=str(path))
        for columns in csv_columns.parts(path, header, CLEANED, rows):
            some = True
            if not columns.count:
                raise InputError(f"{path}: the table has a header but no rows")
            yield _table(columns)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a schema 1 CSV file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; give a schema 1 CSV file in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from None
    if not some:
        raise InputError(f"{path}: the file is empty; schema 1 starts with a header")


def read_all(paths: Iterable[str | Path]) -> Measurements:
    """Read several schema 1 files, or all ``*.csv`` of a directory, into one table."""
    return concat([read(f) for f in files(paths)])


def files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files, all ``*.csv`` of a directory; :class:`InputError` where it has none."""
    out: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: the directory holds no .csv file")
        out += found
    return out


def published_directory() -> Path:
    """Return the directory of the published tables, in a checkout or an installed package."""
    here = Path(__file__).resolve().parent.parent
    for candidate in (here / "measurements", here.parent / "measurements"):
        if (candidate / "published").is_dir():
            return candidate / "published"
    raise InputError(f"the published measurements are missing beside {here}; reinstall costmodel")


def published() -> Measurements:
    """Return all published measurements that the project ships, in arrays of their own."""
    table = _read_published(published_directory())
    return table.select(np.arange(len(table)))


@lru_cache(maxsize=1)  # figures of one report ask several times, and fifty files take 0.1 s
def _read_published(directory: Path) -> Measurements:
    return read_all([directory])


def _cell(value: Any) -> str:
    """Return the text of one cell: integers without a point, "" for None and NaN."""
    if value is None:
        return ""
    if type(value) is str:
        return value.strip()
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(float(value))
    return str(value).strip()


def _check_header(header: Sequence[str], path: str) -> dict[str, int]:
    """Return, by name of :data:`ALL_COLUMNS`, its index in ``header``, -1 where it is absent.

    Raises :class:`InputError` for a header that is not schema 1.
    """
    names = [str(name).strip() for name in header]
    for name in names:
        if name in ALL_COLUMNS:
            continue
        with_unit = [c for c in COLUMNS if c.startswith(f"{name}_") and name]
        if with_unit:
            raise InputError(
                f"{path}:1: column '{name}' has no unit; schema 1 wants '{with_unit[0]}'"
            )
        if "gbps" in names and "latency_us" not in names:
            raise InputError(
                f"{path}:1: rates of links, no latencies: no model is fitted to them and no rule "
                "is judged by them; give rows of a benchmark of the op"
            )
        for mark, said in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if len(names) == 1 and mark in name:
                raise InputError(f"{path}:1: columns between {said}; schema 1 has commas")
        raise InputError(
            f"{path}:1: unknown column '{name}'{nearest(name, ALL_COLUMNS)}; "
            f"schema 1 has {', '.join(COLUMNS)}, and may have {' and '.join(GRID)}"
        )
    missing = [c for c in COLUMNS if c not in names]
    if missing:
        raise InputError(f"{path}:1: missing column {', '.join(missing)} (schema 1)")
    if len(names) != len(set(names)):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{path}:1: column '{twice}' stands twice")
    return {c: names.index(c) if c in names else -1 for c in ALL_COLUMNS}


def _from_cells(cells: list[list[str]], path: str, lines: list[int] | None) -> Measurements:
    columns = GrowingColumns({name: i for i, name in enumerate(ALL_COLUMNS)}, CLEANED, path)
    columns.add(cells, lines)
    table = _table(columns)
    check_duplicates(table.latency_us, table.cells, table.where)
    return table


def _table(columns: GrowingColumns) -> Measurements:
    """Return the rows that came in, their cells checked."""
    table = Measurements(**columns.take(), path=Words.all(columns.path, columns.count))
    _check_cells(table)
    return table


def _check_cells(table: Measurements) -> None:
    def fail(bad: NDArray[np.bool_], says: Callable[[int], str]) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(f"{table.where(row)}: {says(row)}")

    fail(np.isnan(table.latency_us), lambda _: "latency_us is empty; every row needs one")
    fail(
        ~(table.latency_us > 0),
        lambda row: (
            f"latency_us is {table.latency_us[row]:g}; a latency is more than 0 microseconds"
        ),
    )
    fail(
        table.latency_us > LONGEST_US,
        lambda row: f"latency_us is {table.latency_us[row]:g}; the longest that is taken is 1000 s",
    )
    fail(
        ~table.date.each(lambda day: not day or bool(_DATE.fullmatch(day)), np.bool_),
        lambda row: f"date is '{table.date[row]}'; write year, month and day, such as 2026-09-30",
    )
    fail(table.source == "", lambda _: "source is empty; name where the row comes from")
    for name, allowed in VOCABULARY.items():
        column = getattr(table, name)
        for value in column.used:
            if value not in allowed:
                shown = ", ".join(a or "(empty)" for a in allowed)
                said = f"unknown {name} '{value}'{nearest(value, allowed)}; one of {shown}"
                fail(column == value, lambda _, said=said: said)  # type: ignore[misc]
    for name in TEXT_COLUMNS:
        column = getattr(table, name)
        seen = column.each(str.isprintable, np.bool_)
        if seen.all():
            continue
        fail(
            ~seen,
            lambda row, name=name, column=column: (  # type: ignore[misc]
                f"{name} is '{column[row]}', which holds a character that cannot be printed"
            ),
        )
    for name in INTEGER_COLUMNS:
        column = getattr(table, name)
        largest = LARGEST_BYTES if name == "bytes" else LARGEST
        fail(
            column > largest,
            lambda row, name=name, column=column, largest=largest: (  # type: ignore[misc]
                f"{name} is {column[row]:g}; the largest that is taken is {largest}"
            ),
        )
        given = ~np.isnan(column)
        fail(
            given & ~((column >= 1) & (column == np.floor(column))),
            lambda row, name=name, column=column: (  # type: ignore[misc]
                f"{name} is {column[row]:g}; it must be a whole number of at least 1"
            ),
        )
    element = table.dtype.each(lambda dtype: ELEMENT_BYTES.get(dtype, np.nan), np.float64)
    expected = table.tokens * table.hidden_dim * element
    wrong = ~np.isnan(expected) & ~np.isnan(table.bytes) & (expected != table.bytes)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{table.where(row)}: bytes is {table.bytes[row]:.0f}, but {table.tokens[row]:.0f} "
            f"tokens x {table.hidden_dim[row]:.0f} hidden x {element[row]:.0f} bytes "
            f"({table.dtype[row]}) = {expected[row]:.0f}"
        )


def check_duplicates(
    latency_us: Number,
    cells: Callable[[NDArray[np.int64]], list[Words | NDArray[Any]]],
    where: Callable[[int], str],
) -> None:
    """Raise :class:`InputError` where two rows are the same.

    ``cells`` gives the columns of some rows, ``where`` says where a row stands.
    """
    # Most latencies are there once: only the others' rows are compared cell by cell.
    ascending = np.sort(latency_us)
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    if not repeated.size:
        return
    rows = np.flatnonzero(np.isin(latency_us, repeated))
    number, first = numbered(cells(rows))
    later = np.flatnonzero(first[number] != np.arange(rows.size))
    if not later.size:
        return
    row, before = int(rows[later[0]]), int(rows[first[number[later[0]]]])
    raise InputError(
        f"{where(row)}: the same row as {where(before)}; "
        "remove one, or say in kernel_version how they differ"
    )
