"""Plain text tables that fit the terminal: wide text columns wrap, wide tables go in parts.

Numbers are never broken, nor parted from their unit; a single word wider than the terminal stays
whole. No table is made narrower than 80 columns.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence

#: Columns of output that goes to no terminal, and the fewest that tables are fitted to.
WIDTH, LEAST = 100, 80

#: Between two columns.
GAP = "  "

#: Where a cell may be broken: at spaces, but not between a number and its unit or its sign, nor
#: between a note's mark and its address.
_SPACE = re.compile(r"(?<!\S[<>=+])(?<!\d\]) (?!(?:[KMG]i?B|B|GB/s|us|s|%)(?!\w))")
#: Where names may be broken if nothing else helps; never beside a digit.
_NAME = re.compile(r"(?<=[A-Za-z][_/-])(?=[A-Za-z])")

#: What later lines of a sentence begin with.
_LATER = " " * 5
#: A line whose columns stand where they do for a reason.
_DRAWN = re.compile(r"\S {2,}\S")
#: A line that is pasted into a shell.
_COMMAND = re.compile(r" *(?:costmodel|torchrun|python) [-a-z]")

#: Stands for a space at which no line ends.
_TIE = "\N{NO-BREAK SPACE}"

Cells = list[list[str]]
#: Cells as what may stand on lines of their own, each with the space that follows it.
Pieces = list[list[list[str]]]


def table(
    rows: Iterable[Sequence[object]],
    head: Sequence[object],
    *,
    right: bool = False,
    width: int | None = None,
) -> str:
    """Return the rows under a head, columns two spaces apart; ``right`` aligns cells right.

    Where the columns do not fit ``width`` (default: :func:`terminal_width`) even when texts wrap,
    the table is cut between columns into parts, which repeat the first columns: as many as it
    takes to tell the rows apart. Where these alone are too wide, names break too.
    """
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    limit = terminal_width() if width is None else width
    if _total(_widest(cells)) <= limit:
        return _lines([[[cell] for cell in row] for row in cells], _widest(cells), right)
    split = [[_SPACE.sub(" \0", cell).split("\0") for cell in row] for row in cells]
    parts = _parts(split, limit)
    if any(_total(_narrowest(part)) > limit for part in parts):
        split = [[[p for w in cell for p in _NAME.split(w)] for cell in row] for row in split]
        parts = _parts(split, limit)
    shown = []
    for part in parts:
        widths = _fitted(part, limit)
        wrapped = [[_wrap(c, w) for c, w in zip(row, widths, strict=True)] for row in part]
        shown.append(_lines(wrapped, widths, right))
    return "\n\n".join(shown)


def terminal_width() -> int:
    """Return the columns that output may take: ``COLUMNS``, else the terminal's, else 100."""
    return _known_width() or WIDTH


def fitted(text: str) -> str:
    """Return text of which no sentence is wider than the terminal; tables and drawings stay.

    Where no terminal is, nobody has to read it: sentences stay on one line.
    """
    width = _known_width()
    if width is None:
        return text
    return "\n".join(
        filled(line, width) if len(line) > width and not _DRAWN.search(line) else line
        for line in text.split("\n")
    )


def filled(words: str, width: int) -> str:
    """Return words on lines of a width, later ones indented; no number is parted from its unit."""
    whole = " ".join(piece.replace(" ", _TIE) for piece in _SPACE.split(words.lstrip()))
    indent = " " * (len(words) - len(words.lstrip()))
    # A command stays one: its lines end as a shell wants it.
    end = " \\" if _COMMAND.match(words) else ""
    lines = textwrap.wrap(
        whole, width - len(end), initial_indent=indent, subsequent_indent=max(indent, _LATER),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return f"{end}\n".join(lines).replace(_TIE, " ")


def _known_width() -> int | None:
    """Return ``COLUMNS`` or the terminal's columns, at least 80; None where neither is known."""
    stated = os.environ.get("COLUMNS", "")
    if stated.isdecimal() and int(stated) > 0:
        return max(int(stated), LEAST)
    try:
        if sys.stdout.isatty():
            return max(os.get_terminal_size(sys.stdout.fileno()).columns, LEAST)
    except (AttributeError, OSError, ValueError):  # no stdout, or one without a file
        pass
    return None


def _lines(wrapped: Pieces, widths: list[int], right: bool) -> str:
    """Return the rows, of which each cell is a list of lines, as text."""
    fill = str.rjust if right else str.ljust
    lines = []
    for k, row in enumerate(wrapped):
        for i in range(max(map(len, row))):
            texts = (cell[i] if i < len(cell) else "" for cell in row)
            lines.append(GAP.join(map(fill, texts, widths)).rstrip())
        if k == 0:
            lines.append(GAP.join("-" * w for w in widths))
    return "\n".join(lines)


def _wrap(pieces: list[str], width: int) -> list[str]:
    """Return a cell's lines of at most ``width``, or as narrow as its pieces are."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _widest(cells: Cells) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def _narrowest(split: Pieces) -> list[int]:
    return [max(len(p.rstrip()) for cell in c for p in cell) for c in zip(*split, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _fitted(split: Pieces, limit: int) -> list[int]:
    """Return widths that fit: the widest column that still can gives way, again and again."""
    widths = _widest([["".join(cell) for cell in row] for row in split])
    least = _narrowest(split)
    while (over := _total(widths) - limit) > 0:
        can = sorted((w, i) for i, w in enumerate(widths) if w > least[i])
        if not can:
            break
        w, i = can[-1]
        second = can[-2][0] if len(can) > 1 else 0
        widths[i] = max(w - over, min(second, w - 1), least[i])
    return widths


def _parts(split: Pieces, limit: int) -> list[Pieces]:
    """Return the table in parts, all columns in one where they fit."""
    least = _narrowest(split)
    if _total(least) <= limit:
        return [split]
    keys = 1
    while keys < len(least) and len({str(row[:keys]) for row in split}) < len(split):
        keys += 1
    parts: list[list[int]] = []
    for i in range(keys, len(least)):
        if parts and _total([least[k] for k in (*parts[-1], i)]) <= limit:
            parts[-1].append(i)
        else:
            parts.append([*range(keys), i])
    return [[[row[i] for i in part] for row in split] for part in parts] or [split]
