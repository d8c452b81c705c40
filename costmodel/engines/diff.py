"""Changes to a source text, and unified diffs that ``patch`` and ``git apply`` take."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable

from msgspec import Struct


class Edit(Struct, frozen=True):
    """Replace the text from (line, column) to (line, column) by ``text``.

    Lines count from 1; columns count UTF-8 bytes from 0, as in :mod:`ast`.
    """

    start: tuple[int, int]
    end: tuple[int, int]
    text: str

    @classmethod
    def of(cls, node: ast.expr | ast.stmt, text: str) -> Edit:
        """Replace what a syntax node spans."""
        if node.end_lineno is None or node.end_col_offset is None:
            raise ValueError("the node has no place in a source")
        return cls((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset), text)


def apply(text: str, edits: Iterable[Edit]) -> str:
    """Return the text with every edit made; line ends in edits become those of the text."""
    lines = [line.encode() for line in split_lines(text)]
    newline = newline_of(text)
    for edit in sorted(edits, key=lambda e: e.start, reverse=True):
        (first, left), (last, right) = edit.start, edit.end
        new = edit.text.replace("\n", newline).encode()
        joined = lines[first - 1][:left] + new + lines[last - 1][right:]
        lines[first - 1 : last] = [joined]
    return b"".join(lines).decode()


def unified(before: str, after: str, name: str) -> str:
    """Return the unified diff of a file called ``name``, "" when nothing changed."""
    out = []
    hunks = difflib.unified_diff(
        split_lines(before), split_lines(after), f"a/{name}", f"b/{name}", n=3
    )
    for line in hunks:
        # A last line without a line end is marked as patch expects it.
        out.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(out)


def newline_of(text: str) -> str:
    """Return the line end that a text uses."""
    return "\r\n" if "\r\n" in text else "\n"


def split_lines(text: str) -> list[str]:
    """Split after every line feed only, as Python and patch count lines."""
    parts = text.split("\n")
    return [f"{p}\n" for p in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
