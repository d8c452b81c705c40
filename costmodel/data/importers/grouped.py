"""Tables with a line a rank, or a line a statistic: the lines of one call are one latency.

The slowest rank is the call's latency; of several statistics the median is taken before the mean,
and never a tail or a spread. A table is held for this, within bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...errors import InputError
from .columns import PREFERRED, Columns, cell_statistic
from .pasted_lines import PASTED_ROWS, Row
from .quantities import microseconds
from .rows import Imported

OTHER_STATISTIC = "another statistic of the same call"
TAIL = "a tail or a spread, no latency of a call"
OTHER_RANK = "of another rank, beside the slowest"


def is_grouped(columns: Columns) -> bool:
    """Whether several lines of a table may be one call."""
    return bool({"rank", "statistic"} & columns.knowns.keys())


def one_a_call(
    rows: Iterator[Row], columns: Columns, width: int, name: str, imported: Imported
) -> Iterator[Row]:
    """Give a line for each call; the figures of its other lines are left.

    Raises :class:`InputError` above :data:`PASTED_ROWS` lines.
    """
    of_rank, of_statistic = (columns.knowns.get(held, []) for held in ("rank", "statistic"))
    times = [time.at for time in columns.times]
    beside = {*times, *(of.at for time in columns.times for of in time.others)}
    ignored = {*beside, *of_rank, *of_statistic, *columns.checks, *columns.errors}
    calls: dict[tuple[str, ...], list[Row]] = {}
    for count, row in enumerate(rows):
        if count >= PASTED_ROWS:
            raise InputError(
                f"{name}: a table of more than {PASTED_ROWS} lines of ranks or statistics; split it"
            )
        if len(row[1]) != width:
            yield row
            continue
        key = tuple(cell for at, cell in enumerate(row[1]) if at not in ignored)
        calls.setdefault(key, []).append(row)
    for lines in calls.values():
        if of_statistic:
            lines = _of_one_statistic(lines, of_statistic[0], len(times), name, imported)
        if not lines:
            continue
        if of_rank:
            yield from _slowest(lines, of_rank[0], columns, name, imported)
        else:
            yield from lines


def _of_one_statistic(
    lines: Sequence[Row], at: int, times: int, name: str, imported: Imported
) -> list[Row]:
    """Return the lines of the statistic that is taken; leave the others."""
    kinds = [cell_statistic(cells[at]) for _, cells in lines]
    best = min(kinds, key=PREFERRED.__getitem__)
    kept = []
    for (line, cells), kind in zip(lines, kinds, strict=True):
        if kind == best != "tail":
            kept.append((line, cells))
        else:
            imported.leave(f"{name}:{line}", TAIL if kind == "tail" else OTHER_STATISTIC, times)
    return kept


def _slowest(
    lines: Sequence[Row], at: int, columns: Columns, name: str, imported: Imported
) -> Iterator[Row]:
    """Give one line with the largest time of each column, for each time that all ranks stand."""
    of_rank: dict[str, list[Row]] = {}
    for row in lines:
        of_rank.setdefault(row[1][at], []).append(row)
    runs = {len(found) for found in of_rank.values()}
    if len(of_rank) == 1:  # rank 0 alone, or a column that is no rank of a run
        yield from ((n, _with(cells, {at: f"rank{cells[at]}"})) for n, cells in lines)
        return
    if len(runs) != 1:
        for line, _ in lines:
            imported.leave(
                f"{name}:{line}", "ranks have different numbers of lines", len(columns.times)
            )
        return
    for call in zip(*of_rank.values(), strict=True):
        slowest = {at: "max"}
        for time in columns.times:
            texts = [cells[time.at] for _, cells in call]
            figures = [microseconds(text, time.to_us or 1.0) for text in texts]
            known = [one for one in figures if one is not None]
            whole = len(known) == len(figures)
            slowest[time.at] = texts[figures.index(max(known))] if whole else ""
        for index in (*columns.checks, *columns.errors):
            worst = [cells[index] for _, cells in call]
            slowest[index] = max(worst, key=lambda text: (worst.count(text) < len(worst), text))
        first = call[0]
        for line, _ in call[1:]:
            imported.leave(f"{name}:{line}", OTHER_RANK, len(columns.times))
        yield first[0], _with(first[1], slowest)


def _with(cells: Sequence[str], changed: dict[int, str]) -> list[str]:
    return [changed.get(at, cell) for at, cell in enumerate(cells)]
