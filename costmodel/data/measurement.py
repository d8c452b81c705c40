"""Measurements: the canonical record of a measured latency, and its interchange format, schema 1.

A table of measurements is a :class:`Measurements`: one array per column, rows in file order, and
for each row the file and line it came from, so that every message can name them. Schema 1 is a CSV
file with the columns of :data:`COLUMNS`, and those of :data:`GRID` where a row states its launch
grid; ``measurements/README.md`` defines them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, nearest
from ..files import replacing
from ..units import ELEMENT_BYTES
from . import ops
from .ranges import LARGEST

if TYPE_CHECKING:
    import pandas as pd

#: A longer line is no row: 21 cells of the length that the csv module takes would fit twice.
LINE_CHARACTERS = 1 << 22

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

#: What a cell may say where schema 1 closes the list; "" is allowed where a source may be silent.
VOCABULARY: dict[str, tuple[str, ...]] = {
    "op": tuple(ops.vocabulary()),
    "algorithm": ("1stage", "2stage", "auto", ""),
    "timing": ("graph", "eager", "profiler", ""),
    "quality": ("clean", "noisy", "suspect", "launch_bound", "serving_trace"),
    "gpu_evidence": ("stated", "inferred", ""),
}  # fmt: skip

Text = NDArray[np.str_]
Number = NDArray[np.float64]


@dataclass(frozen=True)
class Measurements:
    """Measured latencies, one array of equal length per schema 1 column.

    Numbers are float64 with NaN for an empty cell; text is "" for an empty cell. ``path`` and
    ``line`` say where each row was read (line 1 is the header); "" and 0 for rows made in memory.
    """

    source: Text
    url: Text
    date: Text
    gpu: Text
    gpu_evidence: Text
    arch: Text
    interconnect: Text
    world_size: Number
    op: Text
    algorithm: Text
    kernel_family: Text
    kernel_version: Text
    tokens: Number
    hidden_dim: Number
    dtype: Text
    bytes: Number
    latency_us: Number
    statistic: Text
    rank_reduction: Text
    timing: Text
    quality: Text
    workgroups: Number
    threads: Number
    path: Text
    line: NDArray[np.int64]

    def __repr__(self) -> str:
        gpus = ", ".join(sorted({g for g in self.gpu.tolist() if g}))
        return f"Measurements({len(self)} rows of {len(set(self.source.tolist()))} sources: {gpus})"

    def __len__(self) -> int:
        return self.latency_us.size

    def select(self, rows: NDArray[Any]) -> Measurements:
        """Return the rows picked by a boolean mask or an index array."""
        return Measurements(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

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
            cells = [[_cell(row.get(name)) for name in ALL_COLUMNS] for row in rows]
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
    joined = Measurements(
        **{
            f.name: np.concatenate([getattr(t, f.name) for t in tables])
            for f in fields(Measurements)
        }
    )
    _check_duplicates(joined)
    return joined


def read(path: str | Path) -> Measurements:
    """Read a schema 1 file.

    Raises :class:`InputError`, naming file and line, for a missing file, a header other than
    schema 1's, a cell that is not what its column says, ``bytes`` that are not
    tokens x hidden_dim x element size, a latency that is not positive, duplicate rows or an
    empty table.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            # A line beyond LINE_CHARACTERS comes in pieces, none of which has the header's cells.
            reader = csv.reader(iter(partial(stream.readline, LINE_CHARACTERS), ""), strict=True)
            header = next(reader, None)
            if header is None:
                raise InputError(f"{path}: the file is empty; schema 1 starts with a header")
            order = _check_header(header, str(path))
            cells, lines = [], []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"{path}:{reader.line_num}: {len(row)} cells, the header has {len(header)}"
                    )
                row = [*map(str.strip, row), ""]  # the last cell is that of an absent column
                cells.append([row[i] for i in order])
                lines.append(reader.line_num)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a schema 1 CSV file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; give a schema 1 CSV file in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from None
    if not cells:
        raise InputError(f"{path}: the table has a header but no rows")
    return _from_cells(cells, str(path), lines)


def read_all(paths: Iterable[str | Path]) -> Measurements:
    """Read several schema 1 files, or all ``*.csv`` of a directory, into one table."""
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: the directory holds no .csv file")
        files += found
    return concat([read(f) for f in files])


def published_directory() -> Path:
    """Return the directory of the published tables, in a checkout or an installed package."""
    here = Path(__file__).resolve().parent.parent
    for candidate in (here / "measurements", here.parent / "measurements"):
        if (candidate / "published").is_dir():
            return candidate / "published"
    raise InputError(f"the published measurements are missing beside {here}; reinstall costmodel")


def published() -> Measurements:
    """Return all published measurements that the project ships."""
    return read_all([published_directory()])


def _cell(value: Any) -> str:
    """Return the text of one cell: integers without a point, "" for None and NaN."""
    if value is None:
        return ""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value).strip()


def _check_header(header: Sequence[str], path: str) -> list[int]:
    """Return, for each of :data:`ALL_COLUMNS`, its index in ``header``, -1 where it is absent.

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
    return [names.index(c) if c in names else -1 for c in ALL_COLUMNS]


def _from_cells(cells: list[list[str]], path: str, lines: list[int] | None) -> Measurements:
    columns = dict(
        zip(
            ALL_COLUMNS,
            zip(*cells, strict=True) if cells else [()] * len(ALL_COLUMNS),
            strict=True,
        )
    )
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        if name in NUMBER_COLUMNS:
            arrays[name] = _numbers(name, values, path, lines)
        else:
            arrays[name] = np.array(values, dtype=np.str_)
    arrays["gpu"] = np.char.upper(arrays["gpu"]) if cells else arrays["gpu"]
    table = Measurements(
        **arrays,
        path=np.full(len(cells), path),
        line=np.array(lines if lines is not None else [0] * len(cells), dtype=np.int64),
    )
    _check_cells(table)
    _check_duplicates(table)
    return table


def _numbers(name: str, values: Sequence[str], path: str, lines: list[int] | None) -> Number:
    """Convert one column; NaN stands for an empty cell and for nothing else."""
    try:
        out = np.array([float(text) if text else np.nan for text in values])
    except ValueError:
        out = np.full(len(values), np.nan)
    for i in np.flatnonzero(~np.isfinite(out)).tolist():
        if values[i] and not _is_number(values[i]):
            at = f"{path}:{lines[i]}" if lines else f"row {i}"
            raise InputError(f"{at}: {name} is '{values[i]}', not a number")
    return out


def _is_number(text: str) -> bool:
    """Tell whether a text is a finite number."""
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


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
    fail(table.source == "", lambda _: "source is empty; name where the row comes from")
    for name, allowed in VOCABULARY.items():
        column = getattr(table, name)
        for value in np.unique(column).tolist():
            if value not in allowed:
                shown = ", ".join(a or "(empty)" for a in allowed)
                said = f"unknown {name} '{value}'{nearest(value, allowed)}; one of {shown}"
                fail(column == value, lambda _, said=said: said)  # type: ignore[misc]
    for name in TEXT_COLUMNS:
        column = getattr(table, name)
        if "".join(column.tolist()).isprintable():
            continue
        seen = np.array([text.isprintable() for text in column.tolist()])
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
    element = np.full(len(table), np.nan)
    for dtype, size in ELEMENT_BYTES.items():
        element[table.dtype == dtype] = size
    expected = table.tokens * table.hidden_dim * element
    wrong = ~np.isnan(expected) & ~np.isnan(table.bytes) & (expected != table.bytes)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{table.where(row)}: bytes is {table.bytes[row]:.0f}, but {table.tokens[row]:.0f} "
            f"tokens x {table.hidden_dim[row]:.0f} hidden x {element[row]:.0f} bytes "
            f"({table.dtype[row]}) = {expected[row]:.0f}"
        )


def _check_duplicates(table: Measurements) -> None:
    seen: dict[tuple[Any, ...], int] = {}
    columns = [getattr(table, name).tolist() for name in COLUMNS if name not in NUMBER_COLUMNS]
    columns += [np.nan_to_num(getattr(table, name), nan=-1.0).tolist() for name in NUMBER_COLUMNS]
    if len(set(zip(*columns, strict=True))) == len(table):
        return
    for row, key in enumerate(zip(*columns, strict=True)):
        first = seen.setdefault(key, row)
        if first != row:
            raise InputError(
                f"{table.where(row)}: the same row as {table.where(first)}; "
                "remove one, or say in kernel_version how they differ"
            )
