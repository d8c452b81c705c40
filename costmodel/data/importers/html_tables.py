"""Tables of HTML, as issues, pull requests and pandas have them, as rows of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser

from msgspec import Struct, field

#: Whether a line begins a table, and whether it ends one.
BEGINS = re.compile(r"<table\b", re.IGNORECASE).search
END = re.compile(r"</table\s*>", re.IGNORECASE).search
#: No cell spans more columns or rows.
_SPANNED = 1000
_CELLS = 5000
#: What strikes a cell out, in the sign of markdown that the cells of other tables have.
_STRUCK = ("del", "s", "strike")


class HtmlTable(Struct):
    """Lines of a header, lines of cells with the number of the file's line, and the caption."""

    levels: list[list[str]] = field(default_factory=list)
    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    caption: str = ""


def html_rows(texts: Sequence[str], at: int) -> HtmlTable:
    """Return the table of some lines of HTML, of which the first has the number ``at``.

    A cell that spans columns or rows stands in each of them. The header is what ``thead`` holds,
    else the first line and those below it of ``th`` alone.
    """
    parser = _Parser(at)
    for text in texts:
        parser.feed(text + "\n")
    parser.close()
    parser.end_row()
    found = HtmlTable(caption=" ".join(parser.caption.split()))
    for row in parser.rows:
        is_header = row.in_head or (not found.rows and row.of_names) or not found.levels
        if is_header and not found.rows and len(found.levels) < 4:
            found.levels.append(row.cells)
        else:
            found.rows.append((row.line, row.cells))
    width = max(map(len, found.levels), default=0)
    for level in found.levels:
        level += [""] * (width - len(level))
    return found


class _HtmlLine(Struct):
    line: int
    in_head: bool
    of_names: bool = True
    cells: list[str] = field(default_factory=list)


class _Parser(HTMLParser):
    def __init__(self, at: int) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[_HtmlLine] = []
        self.caption = ""
        self._first = at
        self._row: _HtmlLine | None = None
        self._text: list[str] | None = None
        self._span = 1, 1
        self._in: set[str] = set()
        #: Cells that reach down from lines above: column -> (text, lines still).
        self._reaching: dict[int, tuple[str, int]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("thead", "caption", "sup"):
            self._in.add(tag)
        elif tag == "tr":
            self.end_row()
            self._row = _HtmlLine(self._first + self.getpos()[0] - 1, "thead" in self._in)
        elif tag in ("td", "th"):
            self._end_cell()
            if self._row is None:
                self._row = _HtmlLine(self._first + self.getpos()[0] - 1, "thead" in self._in)
            said = dict(attrs)
            self._span = _whole(said.get("colspan")), _whole(said.get("rowspan"))
            self._row.of_names = self._row.of_names and tag == "th"
            self._reached()
            self._text = []
        elif tag in ("br", "p", "div", "li"):
            self.handle_data(" ")
        elif tag in _STRUCK:
            self.handle_data("~~")

    def handle_endtag(self, tag: str) -> None:
        self._in.discard(tag)
        if tag in ("td", "th"):
            self._end_cell()
        elif tag in ("tr", "table", "thead", "tbody"):
            self.end_row()
        elif tag in _STRUCK:
            self.handle_data("~~")

    def handle_data(self, data: str) -> None:
        if "caption" in self._in:
            self.caption += data
        elif self._text is not None and not ("sup" in self._in and len(data.strip()) < 3):
            self._text.append(data)

    def _reached(self) -> None:
        """Take what reaches into the next columns from lines above."""
        assert self._row is not None
        cells = self._row.cells
        while (found := self._reaching.pop(len(cells), None)) and len(cells) < _CELLS:
            text, still = found
            if still > 1:
                self._reaching[len(cells)] = text, still - 1
            cells.append(text)

    def _end_cell(self) -> None:
        if self._text is None or self._row is None:
            return
        text = " ".join("".join(self._text).split())
        columns, lines = self._span
        for _ in range(min(columns, _CELLS - len(self._row.cells))):
            if lines > 1:
                self._reaching[len(self._row.cells)] = text, lines - 1
            self._row.cells.append(text)
        self._text = None

    def end_row(self) -> None:
        """Take a line as ended, where one has begun."""
        self._end_cell()
        if self._row is not None and self._row.cells:
            self._reached()
            self.rows.append(self._row)
        self._row = None


def _whole(text: str | None) -> int:
    return min(int(text), _SPANNED) if text and text.isdecimal() and 0 < len(text) < 9 else 1
