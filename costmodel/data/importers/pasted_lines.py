"""Lines of a pasted text: looking ahead, rules, cells of CSV, and what stands between rows."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator

from ...errors import InputError
from .cells import csv_cells
from .columns import looks_like_header
from .context import CLOCK, SHORT, said_by
from .quantities import with_point

Row = tuple[int, list[str]]

#: A pasted table is held as a whole; CSV is not.
PASTED_ROWS = 200_000

_RULE_SIGNS = frozenset("-=_+:| \t")
BARS = re.compile(r"(?<!\\)\|")
GAP = re.compile(r"\s{2,}")


#: What frames are drawn with, as bars, rules and crossings of ASCII.
_BOX = str.maketrans(
    dict.fromkeys("│┃┆┊║", "|") | dict.fromkeys("─━═┄╌", "-")
    | dict.fromkeys("┌┬┐├┼┤└┴┘┏┳┓┣╋┫┗┻┛┡╇┩╞╪╡╔╦╗╠╬╣╚╩╝╒╤╕╘╧╛┢┪┝┿┥╭╮╰╯", "+")
)  # fmt: skip
_FRAME = frozenset(chr(sign) for sign in _BOX)
_TEX_RULE = re.compile(r"\s*\\(?:top|mid|bottom|h|c)(?:rule|line)\b")
_TEX = (
    (re.compile(r"\\(?:textbf|textit|emph|mathbf|text|mathrm)\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\$?\\mu\$?(?:\s|\{\})?"), "µ"), (re.compile(r"\$?\\pm\$?"), "±"),
    (re.compile(r"\\([_%#&])"), r"\1"), (re.compile(r"\$"), ""),
)  # fmt: skip


def with_bars(text: str) -> str:
    """Return a line of a table that is drawn, of Jira's or of TeX's with bars between its cells."""
    if not text.isascii() and not _FRAME.isdisjoint(text):
        return text.translate(_BOX)
    if text.startswith("||"):
        return text.replace("||", "|")
    if "\\" not in text:
        return text
    if _TEX_RULE.match(text):
        return "|---|"
    if re.search(r"(?<!\\)&.*\\\\\s*$", text):
        line = re.sub(r"(?<!\\)&", "|", text.rstrip().rstrip("\\"))
        for pattern, sign in _TEX:
            line = pattern.sub(sign, line)
        return f"| {line.strip()} |"
    return text


class Lines:
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

    def put_back(self, line: tuple[int, str]) -> None:
        """Give a line, or the rest of one, as the next."""
        self._ahead.appendleft(line)


def is_rule(text: str) -> bool:
    """Whether a line parts a header from its rows: ``|--:|:-:|``, ``+---+``, dashes."""
    if not set(text) <= _RULE_SIGNS:
        return False
    if re.search(r"[-=_]{3}", text):
        return True
    cells = text.strip().strip("|").split("|")
    ruled = all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in cells)
    return ruled and (":" in text or text.count("--") >= len(cells) > 1)


def held(rows: Iterator[Row], at: int) -> list[Row]:
    """Return all rows of a table; raise :class:`InputError` above :data:`PASTED_ROWS`."""
    found = []
    for row in rows:
        found.append(row)
        if len(found) > PASTED_ROWS:
            raise InputError(f"line {at}: a table of more than {PASTED_ROWS} rows; give it as CSV")
    return found


def is_number(text: str) -> bool:
    """Whether a text begins as a figure does."""
    return bool(re.match(r"\W*\d", text))


#: Lines of others in a table, such as a log's, behind which it may go on.
_BETWEEN = 3


def between(lines: Lines, fits: Callable[[str], bool], header: list[str]) -> list[Row] | None:
    """Pass over lines that are not a table's, where it goes on behind them; None where it ends.

    Those that say something of the lines below are given, in the first cell of an empty row.
    """
    for ahead in range(_BETWEEN + 1):
        text = lines.peek(ahead)
        cells = next(
            (c for d in "|,;\t" if len(c := delimited(text, d)) > 1), GAP.split(text.strip())
        )
        if looks_like_header(cells) or (set(text) & set("|+-=") and is_rule(text)):
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


def delimited(text: str, delimiter: str) -> list[str]:
    """Return the cells of a line that has the delimiter, [] where it is no CSV."""
    return csv_cells(text, delimiter) if delimiter in text else []


def pasted_cells(text: str) -> list[str]:
    """Return the cells of a line of CSV, or of one that was pasted in another form."""
    if text.lstrip().startswith("|"):
        return [cell.strip() for cell in text.strip().strip("|").split("|")]
    if ";" in text or "\t" in text:
        return [with_point(cell.strip()) for cell in re.split("[;\t]", text)]
    return csv_cells(text)
