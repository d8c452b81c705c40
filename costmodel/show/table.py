"""Plain text tables: columns as wide as their widest cell, a rule under the head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[object]], head: Sequence[object], *, right: bool = False) -> str:
    """Return the rows under a head, columns two spaces apart; ``right`` aligns cells right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        fill = str.rjust if right else str.ljust
        return "  ".join(fill(c, w) for c, w in zip(row, widths, strict=True)).rstrip()

    return "\n".join([line(cells[0]), line(["-" * w for w in widths]), *map(line, cells[1:])])
