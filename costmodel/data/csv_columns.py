"""Columns out of CSV files, read in blocks: every text once, a number per row, places kept.

Almost every file is plain: no quotes, one line per row. Its commas are found with numpy, and text
columns that stand side by side are looked up as one piece of a line, so that a row costs few steps
of Python. From the first block that is not plain, :mod:`csv` reads on, which knows every case and
says what is wrong where.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .words import Words

Number = NDArray[np.float64]

#: Bytes of a block, and rows that are taken at once: what a processor's cache holds.
BLOCK_BYTES = 1 << 20
ROWS = 1 << 10

#: Digits of a whole number that a float64 holds exactly.
DIGITS = 15

#: A longer line is no row: 21 cells of the length that the csv module takes would fit twice.
LINE_CHARACTERS = 1 << 22

COMMA, NEWLINE, ZERO = b",\n0"


class GrowingColumns:
    """The columns of a table while its rows come in.

    ``order`` says at which cell of a row each column stands, -1 where it is absent; ``text`` how
    the cells of a column of text are cleaned. All others hold numbers: NaN for an empty cell.
    """

    def __init__(
        self, order: Mapping[str, int], text: Mapping[str, Callable[[str], str]], path: str = ""
    ) -> None:
        self.order = order
        self.text = text
        self.path = path
        self.count = 0
        self.lines: list[NDArray[np.int64]] = []
        self.numbers: dict[str, list[Number]] = {n: [] for n in order if n not in text}
        at = {order[name]: name for name in text if order[name] >= 0}
        starts = [i for i in sorted(at) if i - 1 not in at]
        self.runs = [_Run(i, [(n, text[n]) for n in _onwards(at, i)]) for i in starts]

    def anew(self) -> GrowingColumns:
        """Return columns for the next rows of the same file."""
        return GrowingColumns(self.order, self.text, self.path)

    def add(self, rows: Sequence[Sequence[str]], lines: Sequence[int] | None = None) -> None:
        """Take rows of cells; ``lines`` are their places in the file, None for none.

        Raises :class:`InputError` for a cell that is no number where one has to stand.
        """
        if not rows:
            return
        cells: list[tuple[str, ...]] = list(zip(*rows, strict=True))
        for name, parts in self.numbers.items():
            at = self.order[name]
            parts.append(
                self._numbers(name, cells[at], lines) if at >= 0 else np.full(len(rows), np.nan)
            )
        for run in self.runs:
            run.add(zip(*cells[run.start : run.stop], strict=True), len(rows))
        self._added(np.array(lines) if lines is not None else np.zeros(len(rows), np.int64))

    def add_plain(self, block: bytes, line: int, width: int) -> bool:
        """Take whole lines of a file, the first of them line ``line``, or nothing.

        False where the block is not plain or a row has not ``width`` cells: the caller has to take
        it another way.
        """
        if b'"' in block or b"\0" in block:
            return False
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return False
        raw = np.frombuffer(block, np.uint8)
        stops = np.flatnonzero((raw == COMMA) | (raw == NEWLINE))
        if stops.size % width:
            return False
        ends = stops.reshape(-1, width)
        if (raw[ends[:, -1]] != NEWLINE).any() or (raw[ends[:, :-1]] != COMMA).any():
            return False
        starts = np.roll(ends.ravel() + 1, 1).reshape(ends.shape)
        starts[0, 0] = 0
        if (ends - starts).max() > csv.field_size_limit():
            return False
        lines = np.arange(line, line + len(ends))
        for name, parts in self.numbers.items():
            at = self.order[name]
            if at < 0:
                parts.append(np.full(len(ends), np.nan))
                continue
            start, end = starts[:, at], ends[:, at]
            found = _whole(raw, start, end)
            if found is None:
                found = _decimal(block, start, end)
            if found is None:
                cells = [cell.decode() for cell in _cut(block, start, end)]
                found = self._numbers(name, cells, lines)
            parts.append(found)
        for run in self.runs:
            run.add(_cut(block, starts[:, run.start], ends[:, run.stop - 1]), len(ends))
        self._added(lines)
        return True

    def _added(self, lines: NDArray[np.int64]) -> None:
        self.lines.append(lines)
        self.count += lines.size

    def _numbers(self, name: str, cells: Sequence[str], lines: Any) -> Number:
        """Convert one column, by the cells that differ where they are few."""
        few = set(cells)
        try:
            if 4 * len(few) <= len(cells):
                values = {cell: _number(cell) for cell in few}
                return np.fromiter(map(values.__getitem__, cells), np.float64, len(cells))
            return np.fromiter(map(_number, cells), np.float64, len(cells))
        except ValueError:
            i, cell = next((i, c) for i, c in enumerate(cells) if not _is_number(c))
            at = f"{self.path}:{lines[i]}" if lines is not None else f"row {self.count + i}"
            raise InputError(f"{at}: {name} is '{cell.strip()}', not a number") from None

    def take(self) -> dict[str, Any]:
        """Return the columns by name, and ``line``; they are not kept here."""
        out: dict[str, Any] = {"line": _taken(self.lines, np.int64)}
        for name, parts in self.numbers.items():
            out[name] = _taken(parts, np.float64)
        for run in self.runs:
            out |= run.take()
        for name in self.order:
            if name not in out:
                out[name] = Words.all("", self.count)
        return out


Check = Callable[[list[str]], Mapping[str, int]]
Text = Mapping[str, Callable[[str], str]]


def read(path: Path, check: Check, text: Text) -> GrowingColumns | None:
    """Read a CSV file in UTF-8; None for an empty one.

    ``check`` looks at the header and says where each column stands, as :class:`GrowingColumns`
    takes it.
    Raises :class:`InputError` with file and line for a row that has not the header's cells and for
    a cell that is no number, and what opening, decoding and :mod:`csv` raise.
    """
    return next(parts(path, check, text, sys.maxsize), None)


def parts(path: Path, check: Check, text: Text, rows: int) -> Iterator[GrowingColumns]:
    """Read as :func:`read` does, but give the rows away when there are ``rows`` of them or more.

    The last part has fewer; it has none only where the file has none.
    """
    with path.open("rb") as stream:
        some = False
        for columns in _grown(stream, path, check, text, rows):
            if columns.count or not some:
                yield columns
            some = True


def _grown(
    stream: IO[bytes], path: Path, check: Check, text: Text, most: int
) -> Iterator[GrowingColumns]:
    first = stream.readline(BLOCK_BYTES)
    plain = b'"' not in first and first.endswith(b"\n") and b"\r" not in first[:-2]
    if not plain or not first.strip():
        stream.seek(0)
        reader = csv.reader(_lines(io.TextIOWrapper(stream, "utf-8-sig", newline="")), strict=True)
        header = next(reader, None)
        if header is not None:
            columns = GrowingColumns(check(header), text, str(path))
            yield from _rows(reader, columns, len(header), 0, most)
        return
    header = first.decode("utf-8-sig").rstrip("\r\n").split(",")
    columns = GrowingColumns(check(header), text, str(path))
    line, at = 2, len(first)
    while block := stream.read(BLOCK_BYTES):
        block += stream.readline(BLOCK_BYTES)
        if not block.endswith(b"\n"):
            block += b"\n"
        if not columns.add_plain(block, line, len(header)):
            break
        line = int(columns.lines[-1][-1]) + 1
        at = stream.tell()
        if columns.count >= most:
            yield columns
            columns = columns.anew()
    else:
        yield columns
        return
    stream.seek(at)
    reader = csv.reader(_lines(io.TextIOWrapper(stream, "utf-8", newline="")), strict=True)
    yield from _rows(reader, columns, len(header), line - 1, most)


def _lines(stream: io.TextIOWrapper) -> Iterator[str]:
    """Return the lines; one beyond LINE_CHARACTERS in pieces, none with the header's cells."""
    return iter(partial(stream.readline, LINE_CHARACTERS), "")


def _rows(
    reader: Any, columns: GrowingColumns, width: int, before: int, most: int
) -> Iterator[GrowingColumns]:
    """Take the rows of a reader that starts after so many lines."""
    rows: list[list[str]] = []
    lines: list[int] = []
    for row in reader:
        if not row:
            continue
        if len(row) != width:
            raise InputError(
                f"{columns.path}:{before + reader.line_num}: {len(row)} cells, the header has "
                f"{width}"
            )
        rows.append(row)
        lines.append(before + reader.line_num)
        if len(rows) == ROWS:
            columns.add(rows, lines)
            rows, lines = [], []
            if columns.count >= most:
                yield columns
                columns = columns.anew()
    columns.add(rows, lines)
    yield columns


class _Pieces(dict[Any, int]):
    """The number of a piece of a line (bytes) or of its cells (text), new ones counted up."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: dict[tuple[str, ...], int] = {}

    def __missing__(self, piece: Any) -> int:
        cells = tuple(piece.decode().split(",")) if isinstance(piece, bytes) else piece
        code = self[piece] = self.cells.setdefault(cells, len(self.cells))
        return code


class _Run:
    """Columns of text side by side, from cell ``start`` on, with how each is cleaned."""

    def __init__(self, start: int, columns: list[tuple[str, Callable[[str], str]]]) -> None:
        self.start = start
        self.stop = start + len(columns)
        self.columns = columns
        self.pieces = _Pieces()
        self.codes: list[NDArray[Any]] = []

    def add(self, pieces: Any, count: int) -> None:
        codes = np.fromiter(map(self.pieces.__getitem__, pieces), np.int64, count)
        self.codes.append(codes.astype(np.min_scalar_type(len(self.pieces.cells))))

    def take(self) -> dict[str, Words]:
        codes, pieces = _taken(self.codes, np.int64), list(self.pieces.cells)
        out = {}
        for i, (name, clean) in enumerate(self.columns):
            column = Words.of([clean(cells[i]) for cells in pieces])
            out[name] = Words(column.words, column.codes[codes])
        return out


def _onwards(at: Mapping[int, str], start: int) -> list[str]:
    """Return the names of columns that stand side by side."""
    stop = start
    while stop in at:
        stop += 1
    return [at[i] for i in range(start, stop)]


def _taken(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Join parts and let go of them."""
    whole = np.concatenate(parts) if parts else np.zeros(0, dtype)
    parts.clear()
    return whole


def _cut(block: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Any:
    """Return an iterator over the pieces of a block."""
    return map(block.__getitem__, map(slice, starts.tolist(), ends.tolist()))


def _whole(
    raw: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> Number | None:
    """Return whole numbers, NaN for empty cells; None where a cell is anything else."""
    length = ends - starts
    longest = int(length.max())
    if longest > DIGITS:
        return None
    value = np.zeros(length.size, np.int64)
    for i in range(longest):
        digit = raw[np.minimum(starts + i, ends)] - np.uint8(ZERO)
        inside = i < length
        if (inside & (digit > 9)).any():
            return None
        value = np.where(inside, 10 * value + digit, value)
    return np.where(length > 0, value, np.nan)


def _decimal(block: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Number | None:
    """Return finite numbers; None where a cell is anything else, or empty."""
    try:
        found = np.fromiter(map(float, _cut(block, starts, ends)), np.float64, starts.size)
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _number(cell: str) -> float:
    """Return the number of a cell, NaN for an empty one; :class:`ValueError` for another text."""
    try:
        value = float(cell)
    except ValueError:
        if not cell.strip():
            return math.nan
        raise
    if not math.isfinite(value):
        raise ValueError(cell)
    return value


def _is_number(cell: str) -> bool:
    """Tell whether a cell is empty or a finite number."""
    try:
        _number(cell)
    except ValueError:
        return False
    return True
