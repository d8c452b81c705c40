"""Tables in a text: markdown, console columns, tabs, CSV and JSON records, with what stands around.

A file is read line by line; what lies between tables says things about them
(:mod:`costmodel.data.importers.context`). Rows that do not have the header's number of cells are
given as they are: the reader leaves them with that reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from ...errors import InputError
from .columns import looks_like_header, time_unit
from .console_columns import console_table
from .context import CLOCK, SEVERAL, Context, is_caption, is_remark, said_by
from .formats import owner
from .headers import (
    TRANSPOSED_LINES,
    arranged,
    is_names_below,
    is_transposed,
    may_be_transposed,
    one_line,
    transposed,
)
from .html_tables import BEGINS, END, html_rows
from .json_tables import Table, json_records
from .pasted_lines import (
    BARS,
    GAP,
    PASTED_ROWS,
    Lines,
    Row,
    between,
    delimited,
    held,
    is_number,
    is_rule,
    with_bars,
)
from .quantities import figure
from .rows import Imported
from .text_file import FENCE, TextFile

#: One of so many lines has the cells of the header above it.
_SHOWN = 3
#: No header is longer; a tuner's has some hundred candidates with seven columns each.
HEADER_CHARACTERS = 200_000


def tables(file: TextFile) -> Iterator[Table]:
    """Give the tables of a file, in order; each is to be read before the next is asked for."""
    if (records := json_records(file)) is not None:
        yield from records
        return
    lines = Lines((at, with_bars(text)) for at, text in file.program_lines())
    context = Context()
    captions = ""  # where those with a number stand, once the first has shown it
    while line := lines.next():
        at, text = line
        if (begins := BEGINS(text)) and text[: begins.start()].strip(" >"):
            lines.put_back((at, text[begins.start() :]))
            line = at, text = at, text[: begins.start()]
        if FENCE.match(text):
            continue
        table = _table(line, lines)
        if table is None:
            if is_caption(text):
                captions = captions or "above"
            if captions != "below" or not is_caption(text):
                context.line(text)
            continue
        if _is_settings(table):
            for _, cells in table.rows:
                context.line(": ".join(cells))
            continue
        captions = captions or "below"
        caption = _caption_below(lines) if captions == "below" else ""
        said = said_by(caption, bare=True).items()
        table.says = {**table.says, **context.says(), **{k: v for k, v in said if v != SEVERAL}}
        table.captions = (*table.captions, *filter(None, [caption]), *context.captions())
        table.rows = _uncut(table.rows, file)
        yield table
        for _ in table.rows:  # what the reader left
            pass


_VALUE = re.compile(r"(?i)values?|settings?")


def _is_settings(table: Table) -> bool:
    """Whether a table is of names and values that speak for what is below it."""
    return len(table.header) == 2 and bool(_VALUE.fullmatch(table.header[1].strip("* ")))


def tables_of(file: TextFile, form: str, imported: Imported) -> Iterator[tuple[Table, bool]]:
    """Give the tables that are no other harness's, each with whether it is this one's by its names.

    Those of others are passed over, which the account learns.
    """
    for table in tables(file):
        names = [f"| {' | '.join(table.header)} |", ",".join(table.header), "  ".join(table.header)]
        of = owner("\n".join([*table.captions[::-1], *names]), form)
        if of in ("", form):
            yield table, of == form
        else:
            imported.others.add(of)


def _uncut(rows: Iterator[Row], file: TextFile) -> Iterator[Row]:
    """Give rows, the last without its last figure where the file may have been cut off in it.

    It may where it ends without a line end and the figure has fewer decimals than all before it.
    """
    fewest: int | None = None
    for line, cells in rows:
        last = figure(cells[-1]) if cells else None
        if last and fewest is not None and line == file.open_line and last.decimals < fewest:
            cells = [*cells[:-1], "the file ends in it"]
        elif last:
            fewest = last.decimals if fewest is None else min(fewest, last.decimals)
        yield line, cells


def _table(line: tuple[int, str], lines: Lines) -> Table | None:
    """Return the table whose header is a line, None where it is no header."""
    at, text = line
    if len(text) > HEADER_CHARACTERS:
        return None
    if text.count("|") >= 1 and (cells := _bar_header(text, lines)):
        return _arranged(cells, held(_bar_rows(text, cells, lines), at), at, lines)
    if BEGINS(text):
        return None if _holds_markdown(lines) else _html_table(line, lines)
    if CLOCK.search(text, 0, 200):  # a line of a log
        return None
    for delimiter in ("\t", ",", ";"):
        if delimiter in text and (cells := delimited(text, delimiter)):
            if table := _of_several_lines(cells, delimiter, line, lines):
                return table
            following = lines.peek()
            if following.count('"') % 2:  # a cell with a line break in it
                following = f"{following} {lines.peek(1)}"
            after = delimited(following, delimiter)
            ahead = (delimited(lines.peek(n), delimiter) for n in range(_SHOWN))
            after = next((row for row in (after, *ahead) if len(row) == len(cells)), after)
            fits = len(after) == len(cells) or (len(after) > 1 and any(map(time_unit, cells)))
            if looks_like_header(cells) and fits and any(map(is_number, after)):
                return Table(cells, at, _delimited_rows(cells, delimiter, lines), {})
    if console := console_table(text, lines):
        rows = held(console.rows, at)
        if not console.problem:
            return _arranged(console.names, rows, at, lines)
        return Table(console.names, at, iter(rows), _below(lines), problem=console.problem)
    cells = GAP.split(text.strip())
    return _turned(cells, lambda row: GAP.split(row.strip()), at, lines) if len(cells) > 2 else None


def _arranged(header: list[str], rows: list[Row], at: int, lines: Lines) -> Table | None:
    """Return a pasted table with one line of names, None without rows."""
    if not rows:
        return None
    header, rows, problem = arranged(header, rows)
    return Table(header, at, iter(rows), _below(lines), problem=problem)


#: So many lines below ``<table>`` a table of markdown that it places begins.
_WITHIN = 30


def _holds_markdown(lines: Lines) -> bool:
    """Whether the HTML that begins here places tables of markdown beside each other."""
    for ahead in range(_WITHIN):
        text = lines.peek(ahead)
        if "|" in text and is_rule(text):
            return True
        if END(text):
            return False
    return False


def _html_table(line: tuple[int, str], lines: Lines) -> Table | None:
    """Return the HTML table that begins in a line, None for one without rows."""
    at, text = line
    texts = [text]
    while not END(texts[-1]) and (following := lines.next()):
        texts.append(following[1])
        if len(texts) > PASTED_ROWS:
            raise InputError(f"line {at}: an HTML table of more than {PASTED_ROWS} lines; split it")
    if ends := END(texts[-1]):
        last = texts.pop()
        texts.append(last[: ends.end()])
        if last[ends.end() :].strip():
            lines.put_back((at + len(texts) - 1, last[ends.end() :]))
    found = html_rows(texts, at)
    if not found.rows:
        return None
    problem = ""
    header, rows = found.levels[0], found.rows
    if len(found.levels) > 1:
        header, problem = one_line(found.levels, spanned=True)
    if not problem:
        header, rows, problem = arranged(header, rows)
    said = {k: v for k, v in said_by(found.caption, bare=True).items() if v != SEVERAL}
    captions = (found.caption,) if found.caption else ()
    return Table(header, at, iter(rows), {**_below(lines), **said}, captions, problem)


def _of_several_lines(
    cells: list[str], delimiter: str, line: tuple[int, str], lines: Lines
) -> Table | None:
    """Return the table of CSV whose header is several lines, or a column; None for any other."""
    below = delimited(lines.peek(), delimiter)
    top = [*cells, *[""] * (len(below) - len(cells))]  # blanks at its end may be lost
    levels = [top]
    while len(levels) < 4 and is_names_below(
        following := delimited(lines.peek(len(levels) - 1), delimiter), top
    ):
        levels.append(following)
    after = delimited(lines.peek(len(levels) - 1), delimiter)
    if len(levels) > 1 and len(after) == len(top) and any(map(is_number, after)):
        header, problem = one_line(levels)
        if problem or looks_like_header([name.replace("=", " ") for name in header]):
            for _ in levels[1:]:
                lines.next()
            rows = _delimited_rows(header, delimiter, lines)
            return Table(header, line[0], rows, {}, problem=problem)
    if len(cells) < 2 or looks_like_header(cells):
        return None
    return _turned(cells, lambda text: delimited(text, delimiter), line[0], lines)


def _turned(
    cells: list[str], split: Callable[[str], list[str]], at: int, lines: Lines
) -> Table | None:
    """Return the table whose names stand down its first column, None for any other."""
    rows: list[Row] = []
    if not may_be_transposed(cells, split(lines.peek())):
        return None
    while len(rows) <= TRANSPOSED_LINES:
        row = split(lines.peek(len(rows)))
        if len(row) != len(cells):
            break
        rows.append((at, row))
    if not is_transposed(cells, rows):
        return None
    for _ in rows:
        lines.next()
    header, turned = transposed(cells, rows)
    return Table(header, at, iter(turned), _below(lines))


def _below(lines: Lines) -> dict[str, Any]:
    """Return what the lines right below a table say of it: ``dtype=bf16  tp=8``, ``All times``."""
    said: dict[str, Any] = {}
    for ahead in range(5):
        text = lines.peek(ahead)
        if not text.strip() or text.lstrip().startswith(("#", "|")) or BARS.search(text):
            break
        if is_rule(lines.peek(ahead + 1)) and not is_rule(text) and ahead > 0:
            break
        if not is_remark(text):
            said.update(said_by(text, bare=False))
    return {key: value for key, value in said.items() if value != SEVERAL}


def _caption_below(lines: Lines) -> str:
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
    return [cell.strip() for cell in BARS.split(inner)]


def _after_prefix(text: str) -> str:
    """Return a row of bars without what a log writes before it."""
    stripped = text.strip()
    if stripped.startswith("|") or not stripped.endswith("|"):
        return stripped
    return stripped[stripped.find("|") :]


def _bar_header(text: str, lines: Lines) -> list[str]:
    """Return the cells of a header with bars, [] where the line is none."""
    after = lines.peek()
    ruled = is_rule(after)
    row = _after_prefix(text)
    outer = row.startswith("|") and row.endswith("|")
    if not (ruled or (outer and len(BARS.findall(after)) == len(BARS.findall(text)))):
        return []
    cells = _bar_cells(row)
    return cells if len(cells) > 1 and any(cells) and not is_rule(text) else []


def _bar_rows(header_text: str, header: list[str], lines: Lines) -> Iterator[Row]:
    outer = header_text.strip().endswith("|")
    first = True

    def fits(text: str) -> bool:
        cells = _bar_cells(_after_prefix(text)) if BARS.search(text) else []
        return len(cells) == len(header) and any(map(is_number, cells))

    while True:
        text = _after_prefix(lines.peek())
        if not first and not BARS.search(text) and not (is_rule(text) and "+" in text):
            rows = between(lines, fits, header)
            if rows is None:
                return
            yield from rows
            continue
        if is_rule(text) and ("|" in text or "+" in text or first):
            lines.next()
            first = False
            continue
        if not BARS.search(text) or (outer and not text.strip().endswith("|") and "|" not in text):
            return
        cells = _bar_cells(text)
        piped_rule = "|" in lines.peek(1) and is_rule(lines.peek(1))
        if not first and piped_rule and not any(map(is_number, cells)):
            return  # the header of another table
        first = False
        at = lines.next()
        if at is not None and cells != header:
            yield at[0], cells


def _delimited_rows(header: list[str], delimiter: str, lines: Lines) -> Iterator[Row]:
    def fits(text: str) -> bool:
        cells = delimited(text, delimiter)
        return len(cells) == len(header) and any(map(is_number, cells))

    while True:
        text = lines.peek()
        if delimiter not in text or text.lstrip().startswith("#"):
            rows = between(lines, fits, header)
            if rows is None:
                return
            yield from rows
            continue
        cells = delimited(text, delimiter)
        if cells != header and not any(map(is_number, cells)) and looks_like_header(cells):
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
            cells = delimited(text, delimiter)
        if len(cells) == len(header) + 1 and not cells[-1]:  # a delimiter behind the last cell
            cells = cells[:-1]
        if cells != header:
            yield line[0], cells
