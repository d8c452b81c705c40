"""Columns of a console: parted by blanks, aligned as pandas prints them, ruled or not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .cells import number
from .columns import looks_like_header
from .context import CLOCK
from .headers import OPEN, is_names, one_line
from .pasted_lines import GAP, Lines, Row, between, is_number, is_rule

#: Why the figures of a data frame are left whose lines have names of several levels.
NESTED = "lines with names of several levels: print the frame with reset_index()"


class Console(NamedTuple):
    """Names, rows and what in the names is open, as of any table."""

    names: list[str]
    rows: Iterator[Row]
    problem: str = ""


def console_table(text: str, lines: Lines) -> Console | None:
    """Return the table whose header is a line, None where it is none."""
    if ruled := _of_rules(text, lines):
        return ruled
    if of_two_levels := _of_two_levels(text, lines):
        return of_two_levels
    header = text
    text = _with_name_of_lines(text, lines)
    nested = NESTED if len(text.split()) > len(header.split()) + 1 else ""
    cells = GAP.split(text.strip())
    if len(cells) < 2 or not looks_like_header(cells):
        return None
    is_ruled = is_rule(lines.peek())
    after = GAP.split(lines.peek(1 if is_ruled else 0).strip())
    fits = abs(len(after) - len(cells)) <= (len(cells) if is_ruled else 1)
    fits = fits and any(map(is_number, after))
    aligned = None if is_ruled else _aligned(text, lines)
    if aligned and len(aligned.names) > len(cells):  # one blank alone between some columns
        return Console(aligned.names, _aligned_rows(aligned, lines), nested)
    if fits or (is_ruled and len(after) == len(cells)):
        return Console(cells, _console_rows(cells, lines), nested)
    return None


def _of_rules(text: str, lines: Lines) -> Console | None:
    """Return the table whose columns a rule of equals signs shows, as reStructuredText has it."""
    if not re.fullmatch(r"=+(?: +=+)+\s*", text) or lines.peek(1).rstrip() != text.rstrip():
        return None
    starts = [match.start() for match in re.finditer("=+", text)]
    names = _cut(lines.peek(), starts)
    if not looks_like_header(names):
        return None
    lines.next(), lines.next()
    return Console(names, _ruled_rows(text.rstrip(), starts, lines))


def _cut(text: str, starts: Sequence[int]) -> list[str]:
    return [text[a:b].strip() for a, b in itertools.pairwise([*starts, len(text) + starts[-1]])]


def _ruled_rows(rule: str, starts: Sequence[int], lines: Lines) -> Iterator[Row]:
    while (line := lines.next()) and line[1].rstrip() != rule and line[1].strip():
        yield line[0], _cut(line[1], starts)


def _with_name_of_lines(text: str, lines: Lines) -> str:
    """Return a header with the names that pandas writes below it, left of all others."""
    below = lines.peek().rstrip()
    if not below or below != below.lstrip() or not text.strip() or text[: len(below) + 1].strip():
        return text
    named = below + text[len(below) :]
    if not all(map(_is_name, below.split())) or len(lines.peek(1).split()) < len(named.split()):
        return text
    lines.next()
    return named


def _is_name(word: str) -> bool:
    return bool(re.search(r"[A-Za-z]", word)) and is_names([word])


def _of_two_levels(text: str, lines: Lines) -> Console | None:
    """Return the table of which a line and the next are the header, None where they are none."""
    below = lines.peek()
    names = below.split()
    if "|" in text or len(set(names)) == len(names) or not all(map(_is_name, names)):
        return None
    upper = [(match.start(), match.end(), match[0]) for match in _NAMES.finditer(text)]
    if not upper or len(upper) > len(names):
        return None
    ruled = is_rule(lines.peek(1))
    named = "" if ruled else lines.peek(1).strip()
    of_lines = named if len(named.split()) == 1 and _is_name(named) else ""
    taken = 1 + bool(ruled or of_lines)
    width = len(lines.peek(taken).split())
    if not any(map(is_number, lines.peek(taken).split())) or width - len(names) not in (0, 1):
        return None
    lower = [(match.start(), match.end(), match[0]) for match in re.finditer(r"\S+", below)]
    if width > len(names):
        lower.insert(0, (-1, -1, ""))
    top = [""] * width
    for side in (0, 1):
        places = {name[side]: at for at, name in enumerate(lower)}
        if all(name[side] in places for name in upper):
            for name in upper:
                top[places[name[side]]] = name[2]
            break
    for _ in range(taken):
        lines.next()
    levels = [top, [name for _, _, name in lower]]
    if of_lines:
        levels.append([of_lines, *[""] * (width - 1)])
    header, problem = one_line(levels) if any(top) else (levels[1], OPEN)
    return Console(header, _console_rows(header, lines), problem)


def _console_rows(header: list[str], lines: Lines) -> Iterator[Row]:
    first = True

    def fits(text: str) -> bool:
        cells = GAP.split(text.strip())
        return len(cells) == len(header) and is_number(cells[0])

    while True:
        text = lines.peek()
        if is_rule(text):
            if not first:
                return
            lines.next()
            first = False
            continue
        first = False
        cells = _console_cells(text, len(header))
        figures = any(map(is_number, cells)) or re.search(r"\s\d+\.\d", text)
        of_log = CLOCK.search(text) is not None
        if of_log or len(cells) < 2 or not (figures or len(cells) == len(header)):
            rows = between(lines, fits, header)
            if rows is None:
                return
            yield from rows
            continue
        line = lines.next()
        if line is None:
            return
        if cells != header:
            yield line[0], cells


#: Names of a header, each with single blanks at most.
_NAMES = re.compile(r"\S+(?: \S+)*")


class _Aligned(NamedTuple):
    """Columns whose cells end below their names' ends, as pandas prints them; ``indexed`` rows
    begin with a number that has no name."""

    names: list[str]
    ends: list[int]
    indexed: bool


#: So many lines show where columns end.
_SHOWN = 200


def _aligned(header: str, lines: Lines) -> _Aligned | None:
    """Return the columns of a header by where the cells below end, None where they do not."""
    if not any(map(is_number, lines.peek().split())):
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


def _aligned_rows(columns: _Aligned, lines: Lines) -> Iterator[Row]:
    width = len(lines.peek().split())
    while len((text := lines.peek()).split()) == width or _is_short(text, columns):
        row = _without_index(text) if columns.indexed else text
        line = lines.next()
        whole = all(not row[end : end + 1].strip() for end in columns.ends)
        cuts = itertools.pairwise([0, *columns.ends])
        cells = [row[start:end].strip() for start, end in cuts] if whole else row.split()
        if line is not None and cells != columns.names:
            yield line[0], cells


def _is_short(row: str, columns: _Aligned) -> bool:
    """Whether a row lacks its first cells, as pandas prints what is as in the row above."""
    whole = all(not row[end : end + 1].strip() for end in columns.ends)
    last = columns.ends[-1]
    return (
        whole
        and row[:1].isspace()
        and len(row.rstrip()) == last
        and any(map(is_number, row.split()))
    )


def _console_cells(text: str, wanted: int) -> list[str]:
    """Return the cells of a line of columns; a name that fills its column ends with one blank."""
    cells = GAP.split(text.strip())
    if len(cells) == wanted + 1 and number(cells[0]) is not None:
        return cells[1:]  # the index that pandas prints
    if len(cells) != wanted:
        parts = text.strip().rsplit(None, wanted - 1)
        if len(parts) == wanted and any(map(is_number, parts[1:])):
            return parts
    return cells
