"""Headers of more than one line of names: two levels, a corner for both sides, names in lines.

Whoever pastes a table may have put the ranks over the arms, the arms in the first column and the
tokens across, or the name of both sides in the corner. What is found here is one header and rows
below it, as any other table has them, or the reason why the meaning stays open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from .columns import meaning, time_unit
from .context import said_by
from .labels import read_label, spoken
from .pasted_lines import Row
from .quantities import TO_US, count, figure, is_no_figure, plain, size, size_unit
from .rows import Said

#: What tells calls apart, and so may stand across a table.
_COORDINATES = ("tokens", "batch", "length", "hidden_dim", "world_size", "bytes", "shape")
#: No table with names down its first column has more lines.
TRANSPOSED_LINES = 200
#: Why the figures below two lines of names are left.
OPEN = "a header of two lines, whose upper names stand over no clear columns"
THREE = "a header of more than two lines"
_CORNER = re.compile(r"(.+?)\s*(?:\\|/|↓|→|\bvs\.?\b|\bby\b|\bx\b)+\s*(.+?)[\s↓→]*")
#: What the name of a column may say of its calls.
_SAYS = frozenset(("world_size", "tokens", "hidden_dim"))
#: The name of a column that says nothing of them.
_VALUE = re.compile(r"values?|results?")
#: The type of a column.
_TYPE = re.compile(r"[iuf]\d{1,2}|str|bool|cat")
_SAID = Said()


def arranged(header: list[str], rows: list[Row]) -> tuple[list[str], list[Row], str]:
    """Return header and rows of a pasted table as one line of names has them, and what is open.

    A table that has them so already is given as it is.
    """
    if not any(map(plain, header)) and rows and is_names(rows[0][1]):
        header, rows = rows[0][1], rows[1:]
    if rows and all(map(_TYPE.fullmatch, map(plain, rows[0][1]))):  # as polars prints them
        rows = rows[1:]
    levels = [header]
    while len(levels) < 4 and len(rows) > 1 and is_names_below(rows[0][1], levels[0]):
        levels.append(rows[0][1])
        rows = rows[1:]
    problem = ""
    if len(levels) > 1:
        header, problem = one_line(levels)
    header = of_corner(header)
    if not problem and is_transposed(header, rows):
        header, rows = transposed(header, rows)
    return header, rows, problem


def is_names(cells: Sequence[str]) -> bool:
    """Whether cells are names and no figures."""
    return any(map(plain, cells)) and not any(map(_is_figure, cells))


def _is_figure(text: str) -> bool:
    """Whether a cell is a figure with or without a unit, and no name such as ``1stage``."""
    found = figure(text)
    return found is not None and (
        not found.unit or found.unit in TO_US or found.unit == "x" or bool(size_unit(found.unit))
    )


def is_names_below(cells: Sequence[str], top: Sequence[str]) -> bool:
    """Whether a line is names below those of ``top``, and neither a row nor a line above rows."""
    filled = [at for at, cell in enumerate(cells) if plain(cell)]
    named = [cells[at] for at in filled if not is_no_figure(cells[at])]
    if len(cells) == len(top) and named and all(map(_is_unit, named)):
        return True  # ``-, -, us, us``
    if len(cells) != len(top) or len(top) < 3 or not filled or not is_names(cells):
        return False
    if any(is_no_figure(cells[at]) for at in filled):  # a row without its figures
        return False
    repeats = [plain(name) for name in top[1:]]
    spans = "" in repeats or len(set(repeats)) < len(repeats)
    if len(filled) == 1:  # the name of the lines, below the others; else a line above rows
        return filled == [0] and _is_coordinate(cells[0]) and (spans or not plain(top[0]))
    units = all(time_unit(cells[at]) or meaning(cells[at]) for at in filled)
    return spans or units


def _is_unit(name: str) -> bool:
    word = plain(name).lower().strip("()[] ")
    return word in TO_US or (bool(word) and size_unit(word) is not None)


def _is_coordinate(name: str) -> bool:
    return meaning(name) in _COORDINATES


def one_line(levels: Sequence[Sequence[str]], *, spanned: bool = False) -> tuple[list[str], str]:
    """Return the names that lines of a header make together, and why they are open, or "".

    ``spanned`` is for headers that repeat a name over all of its columns; of others an empty cell
    has the name to its left. pandas writes the names of the lines into a level of their own.
    """
    top, *below = (
        ["" if is_no_figure(cell) else plain(cell) for cell in level] for level in levels
    )
    names = [""] * len(top)
    of_lines = bool(below) and not any(below[-1][1:]) and bool(below[-1][0])
    if of_lines:
        names[0] = below.pop()[0]
    if not below:
        return [name or of for name, of in zip(names, top, strict=True)], ""
    if len(below) > 1:
        return list(levels[-1]), THREE
    (sub,) = below
    numbers = all(_is_figure(name) for name in top[1:] if name)
    named_levels = bool(of_lines and top[0]) or (bool(top[0] and sub[0]) and numbers)
    if named_levels:
        if not of_lines and _is_coordinate(sub[0]) and not any(map(_is_figure, sub)):
            names[0] = sub[0]
        top, sub = (["", *(_of(row[0], name) for name in row[1:])] for row in (top, sub))
    groups, problem = _groups(top, sub, spanned=spanned)
    if problem:
        return list(levels[-1]), problem
    for at, (group, name) in enumerate(zip(groups, sub, strict=True)):
        if _is_coordinate(group) and not time_unit(name):  # ``tokens`` over ``count``
            name = name if meaning(f"{group} {name}") in _COORDINATES else ""
        names[at] = names[at] or f"{group} {name}".strip()
    return names, ""


def _of(level: str, name: str) -> str:
    """Return a name of a level that has one itself: ``tp`` over ``4`` is ``tp=4``."""
    return f"{level}={name}" if level and _is_figure(name) else name


def _groups(top: list[str], sub: list[str], *, spanned: bool) -> tuple[list[str], str]:
    """Return the upper name of each column, and why it is open."""
    groups: list[str] = []
    carried = False
    for name, below in zip(top, sub, strict=True):
        takes = not name and below and groups and groups[-1] and not spanned
        carried = carried or bool(takes)
        groups.append(groups[-1] if takes else name)
    if not carried:
        return groups, ""
    spans = [(group, [sub[at] for at, _ in of]) for group, of in _runs(groups) if group]
    names_of = [names for _, names in spans if any(names)]
    alone = {sub[at] for at, group in enumerate(groups) if not group} - {""}
    if len({len(of) for of in names_of}) > 1 or alone & {name for of in names_of for name in of}:
        return groups, OPEN
    return groups, ""


def _runs(groups: list[str]) -> list[tuple[str, list[tuple[int, str]]]]:
    return [(name, list(of)) for name, of in groupby(enumerate(groups), key=lambda item: item[1])]


def of_corner(header: list[str]) -> list[str]:
    """Return a header whose first name is of both sides (``tokens \\ TP``) with each on its own."""
    match = _CORNER.fullmatch(plain(header[0])) if header else None
    others = [plain(name) for name in header[1:]]
    if match is None or not others or not all(map(_is_value, others)):
        return header
    lines, across = match[1].strip(), match[2].strip()
    if not _is_coordinate(across):
        return header
    return [lines, *(f"{across}={name}" for name in others)]


def _is_value(name: str) -> bool:
    return count(name) is not None or size(name, None) is not None


def may_be_transposed(header: Sequence[str], row: Sequence[str]) -> bool:
    """Whether a table may be so, by its first two lines: most of a text's show that it is not."""
    if len(row) != len(header) or _is_figure(row[0]):
        return False
    others = [plain(name) for name in header[1:]]
    values = [name.rpartition("=")[2] for name in others]
    return all(others) and (
        all(map(_is_value, values))
        or all(_SAYS & said_by(name, bare=True).keys() for name in others)
        or all(_VALUE.fullmatch(spoken(name)) for name in others)
    )


def is_transposed(header: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether the names of the columns stand down the first column, and the calls across."""
    if not 0 < len(rows) <= TRANSPOSED_LINES or any(len(r) != len(header) for _, r in rows):
        return False
    if not may_be_transposed(header, rows[0][1]):
        return False
    first = [plain(cells[0]) for _, cells in rows]
    others = [plain(name) for name in header[1:]]
    if not all(first) or any(map(_is_figure, first)):
        return False
    if any(time_unit(name) is not None or meaning(name) in (*_COORDINATES, "label", "time")
           for name in others):  # fmt: skip
        return False
    timed = any(time_unit(name) is not None for name in first)
    if _is_coordinate(header[0]) and all(_is_value(name.rpartition("=")[2]) for name in others):
        return timed or any(map(_is_arm, first))
    return timed and (not all(map(_VALUE.fullmatch, others)) or any(map(_is_coordinate, first)))


def _is_arm(name: str) -> bool:
    label = read_label(name, _SAID)
    return bool(label.op or label.algorithm or label.joined or label.side or label.kernel_family)


def transposed(header: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], list[Row]]:
    """Return a table with its columns as lines."""
    head = plain(header[0])
    known = _is_coordinate(head)
    names = [head if known else "", *(cells[0] for _, cells in rows)]
    turned = []
    for at, name in enumerate(header[1:], 1):
        value = plain(name)
        if known and spoken(value.partition("=")[0]) == spoken(head):
            value = value.rpartition("=")[2]
        elif not known and _VALUE.fullmatch(spoken(value)):
            value = ""
        turned.append((rows[0][0], [value, *(cells[at] for _, cells in rows)]))
    return names, turned
