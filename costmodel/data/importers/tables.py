"""Tables in a text: markdown, console columns, tabs, CSV and JSON records, with what stands around.

A file is read line by line; what lies between tables says things about them
(:mod:`costmodel.data.importers.context`). Rows that do not have the header's number of cells are
given as they are: the reader leaves them with that reason.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from msgspec import Struct

from ...errors import InputError
from .cells import number
from .columns import looks_like_header, time_unit
from .context import CLOCK, SEVERAL, SHORT, Context, is_caption, said_by
from .text_file import TextFile

Row = tuple[int, list[str]]

#: No header is longer; a tuner's has some hundred candidates with seven columns each.
HEADER_CHARACTERS = 200_000
#: A pasted table is held as a whole; CSV is not.
PASTED_ROWS = 200_000

_RULE_SIGNS = frozenset("-=_+:| \t")
_BARS = re.compile(r"(?<!\\)\|")
_GAP = re.compile(r"\s{2,}")


class Table(Struct):
    """One table: its header, the line it stands in, its rows, and what is said around it.

    ``says`` are cells for all rows, ``captions`` the lines right above, the nearest first.
    """

    header: list[str]
    line: int
    rows: Iterator[Row]
    says: dict[str, Any]
    captions: tuple[str, ...] = ()


class _Lines:
    """Lines with a look ahead."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self._lines = lines
        self._ahead: deque[tuple[int, str]] = deque()

    def peek(self, ahead: int = 0) -> str:
        """Return the text of a line to come, "" after the last."""
        while len(self._ahead) <= ahead:
            line = next(self._lines, None)
            if line is None:
                return ""
            self._ahead.append(line)
        return self._ahead[ahead][1]

    def next(self) -> tuple[int, str] | None:
        """Return the next line, None after the last."""
        self.peek()
        return self._ahead.popleft() if self._ahead else None


def tables(file: TextFile) -> Iterator[Table]:
    """Give the tables of a file, in order; each is to be read before the next is asked for."""
    if (records := json_records(file)) is not None:
        yield from records
        return
    lines = _Lines(file.program_lines())
    context = Context()
    fenced = False
    captions = ""  # where those with a number stand, once the first has shown it
    while line := lines.next():
        text = line[1]
        if re.match(r"\s*(?:```|~~~)", text):
            fenced = not fenced
            continue
        table = _table(line, lines)
        if table is None:
            if is_caption(text):
                captions = captions or "above"
            if captions != "below" or not is_caption(text):
                context.line(text, markdown=not fenced)
            continue
        captions = captions or "below"
        caption = _caption_below(lines) if captions == "below" else ""
        said = said_by(caption, bare=True).items()
        table.says = {**table.says, **context.says(), **{k: v for k, v in said if v != SEVERAL}}
        table.captions = (*([caption] if caption else []), *context.captions())
        yield table
        for _ in table.rows:  # what the reader left
            pass


def _is_rule(text: str) -> bool:
    """Whether a line parts a header from its rows: ``|--:|:-:|``, ``+---+``, dashes."""
    if not set(text) <= _RULE_SIGNS:
        return False
    if re.search(r"[-=_]{3}", text):
        return True
    cells = text.strip().strip("|").split("|")
    ruled = all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in cells)
    return ruled and (":" in text or text.count("--") >= len(cells) > 1)


def _table(line: tuple[int, str], lines: _Lines) -> Table | None:
    """Return the table whose header is a line, None where it is no header."""
    at, text = line
    if len(text) > HEADER_CHARACTERS:
        return None
    if text.count("|") >= 1 and (cells := _bar_header(text, lines)):
        rows = _held(_bar_rows(text, cells, lines), at)
        return Table(cells, at, iter(rows), _below(lines)) if rows else None
    if CLOCK.search(text, 0, 200):  # a line of a log
        return None
    for delimiter in ("\t", ",", ";"):
        if delimiter in text and (cells := _delimited(text, delimiter)):
            following = lines.peek()
            if following.count('"') % 2:  # a cell with a line break in it
                following = f"{following} {lines.peek(1)}"
            after = _delimited(following, delimiter)
            fits = len(after) == len(cells) or (len(after) > 1 and any(map(time_unit, cells)))
            if looks_like_header(cells) and fits and any(map(_is_number, after)):
                return Table(cells, at, _delimited_rows(cells, delimiter, lines), {})
    cells = _GAP.split(text.strip())
    if len(cells) > 1 and looks_like_header(cells):
        ruled = _is_rule(lines.peek())
        after = _GAP.split(lines.peek(1 if ruled else 0).strip())
        fits = abs(len(after) - len(cells)) <= (len(cells) if ruled else 1)
        fits = fits and any(map(_is_number, after))
        found = None if ruled else _aligned(text, lines)
        if found and len(found.names) > len(cells):  # one blank alone between some columns
            rows = _held(_aligned_rows(found, lines), at)
            return Table(found.names, at, iter(rows), _below(lines))
        if fits or (ruled and len(after) == len(cells)):
            rows = _held(_console_rows(cells, lines), at)
            return Table(cells, at, iter(rows), _below(lines)) if rows else None
    return None


def _held(rows: Iterator[Row], at: int) -> list[Row]:
    held = []
    for row in rows:
        held.append(row)
        if len(held) > PASTED_ROWS:
            raise InputError(f"line {at}: a table of more than {PASTED_ROWS} rows; give it as CSV")
    return held


def _is_number(text: str) -> bool:
    return bool(re.match(r"\W*\d", text))


def _below(lines: _Lines) -> dict[str, Any]:
    """Return what the lines right below a table say of it: ``dtype=bf16  tp=8``, ``All times``."""
    said: dict[str, Any] = {}
    for ahead in range(5):
        text = lines.peek(ahead)
        if not text.strip() or text.lstrip().startswith(("#", "|")) or _BARS.search(text):
            break
        if _is_rule(lines.peek(ahead + 1)) and not _is_rule(text) and ahead > 0:
            break
        said.update(said_by(text, bare=False))
    return {key: value for key, value in said.items() if value != SEVERAL}


def _caption_below(lines: _Lines) -> str:
    """Return the next line, if it is a caption with a number."""
    ahead = 0
    while ahead < 3 and not lines.peek(ahead).strip():
        ahead += 1
    text = lines.peek(ahead)
    return text.strip(" *_") if is_caption(text) else ""


def _bar_cells(text: str) -> list[str]:
    inner = text.strip()
    inner = inner[1:] if inner.startswith("|") else inner
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return [cell.strip() for cell in _BARS.split(inner)]


def _after_prefix(text: str) -> str:
    """Return a row of bars without what a log writes before it."""
    stripped = text.strip()
    if stripped.startswith("|") or not stripped.endswith("|"):
        return stripped
    return stripped[stripped.find("|") :]


def _bar_header(text: str, lines: _Lines) -> list[str]:
    """Return the cells of a header with bars, [] where the line is none."""
    after = lines.peek()
    ruled = _is_rule(after)
    row = _after_prefix(text)
    outer = row.startswith("|") and row.endswith("|")
    if not (ruled or (outer and len(_BARS.findall(after)) == len(_BARS.findall(text)))):
        return []
    cells = _bar_cells(row)
    return cells if len(cells) > 1 and any(cells) and not _is_rule(text) else []


def _bar_rows(header_text: str, header: list[str], lines: _Lines) -> Iterator[Row]:
    outer = header_text.strip().endswith("|")
    first = True

    def fits(text: str) -> bool:
        cells = _bar_cells(_after_prefix(text)) if _BARS.search(text) else []
        return len(cells) == len(header) and any(map(_is_number, cells))

    while True:
        text = _after_prefix(lines.peek())
        if not first and not _BARS.search(text) and not (_is_rule(text) and "+" in text):
            rows = _between(lines, fits, header)
            if rows is None:
                return
            yield from rows
            continue
        if _is_rule(text) and ("|" in text or "+" in text or first):
            lines.next()
            first = False
            continue
        if not _BARS.search(text) or (outer and not text.strip().endswith("|") and "|" not in text):
            return
        cells = _bar_cells(text)
        piped_rule = "|" in lines.peek(1) and _is_rule(lines.peek(1))
        if not first and piped_rule and not any(map(_is_number, cells)):
            return  # the header of another table
        first = False
        at = lines.next()
        if at is not None and cells != header:
            yield at[0], cells


#: Lines of others in a table, such as a log's, behind which it may go on.
_BETWEEN = 3


def _between(lines: _Lines, fits: Callable[[str], bool], header: list[str]) -> list[Row] | None:
    """Pass over lines that are not a table's, where it goes on behind them; None where it ends.

    Those that say something of the lines below are given, in the first cell of an empty row.
    """
    for ahead in range(_BETWEEN + 1):
        text = lines.peek(ahead)
        cells = next(
            (c for d in "|,;\t" if len(c := _delimited(text, d)) > 1), _GAP.split(text.strip())
        )
        if looks_like_header(cells) or (set(text) & set("|+-=") and _is_rule(text)):
            return None
        if re.match(r"\s*(?:```|~~~)", text):
            return None
        if ahead and fits(text):
            break
    else:
        return None
    passed = [line for line in (lines.next() for _ in range(ahead)) if line is not None]
    empty = [""] * (len(header) - 1)
    return [
        (n, [text.strip("#*: "), *empty]) for n, text in passed
        if len(text) <= SHORT and not CLOCK.search(text) and said_by(text, bare=True)
    ]  # fmt: skip


def _delimited(text: str, delimiter: str) -> list[str]:
    """Return the cells of a line of CSV, [] where it is none."""
    if delimiter not in text:
        return []
    try:
        return [
            cell.strip()
            for cell in next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
        ]
    except csv.Error:
        return []


def _delimited_rows(header: list[str], delimiter: str, lines: _Lines) -> Iterator[Row]:
    def fits(text: str) -> bool:
        cells = _delimited(text, delimiter)
        return len(cells) == len(header) and any(map(_is_number, cells))

    while True:
        text = lines.peek()
        if delimiter not in text or text.lstrip().startswith("#"):
            rows = _between(lines, fits, header)
            if rows is None:
                return
            yield from rows
            continue
        cells = _delimited(text, delimiter)
        if cells != header and not any(map(_is_number, cells)) and looks_like_header(cells):
            return  # the header of another table
        line = lines.next()
        if line is None:
            return
        if text.count('"') % 2 and len(cells) < len(header):  # a cell with a line break in it
            for _ in range(5):
                following = lines.next()
                if following is None:
                    break
                text = f"{text} {following[1]}"
                if not text.count('"') % 2:
                    break
            cells = _delimited(text, delimiter)
        if cells != header:
            yield line[0], cells


def _console_rows(header: list[str], lines: _Lines) -> Iterator[Row]:
    first = True

    def fits(text: str) -> bool:
        cells = _GAP.split(text.strip())
        return len(cells) == len(header) and _is_number(cells[0])

    while True:
        text = lines.peek()
        if _is_rule(text):
            if not first:
                return
            lines.next()
            first = False
            continue
        first = False
        cells = _console_cells(text, len(header))
        figures = any(map(_is_number, cells)) or re.search(r"\s\d+\.\d", text)
        if len(cells) < 2 or not (figures or len(cells) == len(header)):
            rows = _between(lines, fits, header)
            if rows is None:
                return
            yield from rows
            continue
        line = lines.next()
        if line is None:
            return
        if cells != header:
            yield line[0], cells


class _Aligned(NamedTuple):
    """Columns whose cells end below their names' ends, as pandas prints them; ``indexed`` rows
    begin with a number that has no name."""

    names: list[str]
    ends: list[int]
    indexed: bool


#: So many lines show where columns end.
_SHOWN = 200


def _aligned(header: str, lines: _Lines) -> _Aligned | None:
    """Return the columns of a header by where the cells below end, None where they do not."""
    if not any(map(_is_number, lines.peek().split())):
        return None
    width = len(lines.peek().split())
    following = (lines.peek(n) for n in range(_SHOWN))
    rows = list(itertools.takewhile(lambda row: len(row.split()) == width, following))
    indexed = header[:1].isspace() and all(row[:1].strip() for row in rows)
    rows = [_without_index(row) for row in rows] if indexed else rows
    ends = {
        end for end in (match.end() for match in re.finditer(r"\S(?=\s|$)", header))
        if all(row[end - 1 : end].strip() and not row[end : end + 1].strip() for row in rows)
    }  # fmt: skip
    if not rows or len(ends) < 2 or max(ends) != len(header.rstrip()):
        return None
    cuts = sorted(ends)
    names = [header[start:end].strip() for start, end in itertools.pairwise([0, *cuts])]
    return _Aligned(names, cuts, indexed) if looks_like_header(names) else None


def _without_index(row: str) -> str:
    return re.sub(r"^\S+", lambda match: " " * len(match[0]), row)


def _aligned_rows(columns: _Aligned, lines: _Lines) -> Iterator[Row]:
    width = len(lines.peek().split())
    while len((text := lines.peek()).split()) == width:
        row = _without_index(text) if columns.indexed else text
        line = lines.next()
        whole = all(not row[end : end + 1].strip() for end in columns.ends)
        cuts = itertools.pairwise([0, *columns.ends])
        cells = [row[start:end].strip() for start, end in cuts] if whole else row.split()
        if line is not None and cells != columns.names:
            yield line[0], cells


def _console_cells(text: str, wanted: int) -> list[str]:
    """Return the cells of a line of columns; a name that fills its column ends with one blank."""
    cells = _GAP.split(text.strip())
    if len(cells) == wanted + 1 and number(cells[0]) is not None:
        return cells[1:]  # the index that pandas prints
    if len(cells) != wanted:
        parts = text.strip().rsplit(None, wanted - 1)
        if len(parts) == wanted and any(map(_is_number, parts[1:])):
            return parts
    return cells


def json_records(file: TextFile) -> list[Table] | None:
    """Return the records of a JSON file, or of one with a JSON object a line, as tables.

    None for a file that is no JSON. Raises :class:`InputError` for one that starts as JSON and
    cannot be read.
    """
    start = file.head.lstrip()[:200]
    if not re.match(r"\{\s*(?:\"|\}|$)|\[\s*(?:\{|\]|$)", start):
        return None
    text = file.text()
    try:
        data = [(1, json.loads(text))]
    except RecursionError:
        raise InputError(f"{file.name}: nested too deeply; give JSON records") from None
    except ValueError as error:
        lines = [(at, line) for at, line in enumerate(text.splitlines(), 1) if line.strip()]
        try:
            data = [(at, json.loads(line)) for at, line in lines]
        except (ValueError, RecursionError):
            line = getattr(error, "lineno", 1)
            raise InputError(
                f"{file.name}: truncated or not JSON (line {line}); give JSON records, in one list "
                "or one a line"
            ) from None
    if len(data) > 1 or isinstance(data[0][1], list):
        listed = data if len(data) > 1 else list(enumerate(data[0][1]))
        found = [(at, record) for at, record in listed if isinstance(record, dict)]
        return [_of_records(found, {})] if found else []
    whole = data[0][1]
    if not isinstance(whole, dict):
        return []
    constants = {k: v for k, v in whole.items() if not isinstance(v, list | dict)}
    lists = [
        v for v in whole.values() if isinstance(v, list) and any(isinstance(r, dict) for r in v)
    ]
    if not lists:
        return [_of_records([(0, whole)], {})] if constants else []
    return [
        _of_records([(i, r) for i, r in enumerate(v) if isinstance(r, dict)], constants)
        for v in lists
    ]


def _of_records(records: list[tuple[int, dict[str, Any]]], constants: dict[str, Any]) -> Table:
    flat = [(at, {**_flat(constants), **_flat(record)}) for at, record in records]
    header = list(dict.fromkeys(key for _, record in flat for key in record))[:2000]
    rows: Iterator[Row] = ((at, [_text(record.get(key)) for key in header]) for at, record in flat)
    return Table(header, 1, rows, {})


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key} {inner}": v for inner, v in value.items() if not isinstance(v, dict)}
        else:
            flat[key] = value
    return flat


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    return repr(value) if isinstance(value, float) else str(value)[:2000]
