"""What rows of a table need before their cells are read: decimals, units of a column, blanks.

A table may also say by its rows that its figures are no latencies of one call (:func:`doubt`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from .columns import Columns, is_derived, is_timed, meaning, time_unit
from .labels import read_label, spoken
from .pasted_lines import Row
from .quantities import TO_US, decimal_sign, figure, is_no_figure, plain, shape, with_point
from .rows import Said

#: What a column of whole numbers holds.
_COUNTS = ("tokens", "hidden_dim", "batch", "length", "bytes", "world_size")
#: What says one thing of a line: two columns of one name that differ leave it open.
_ONCE = (*_COUNTS, "shape", "dtype")
#: What two numbers of a label are no shape below: the second is a hidden size.
NARROWEST = 128
#: No model has a hidden size below.
_NARROW_MODEL = 1024
_VALUE = re.compile(r"values?|results?|measured|measurement")
_SAID = Said()
_UNITS = frozenset(("unit", "units", "time_unit", "latency_unit", "metric"))
_SHARES = frozenset(("pct", "percent", "percentage", "share", "fraction"))
_OF_TIME = _SHARES | {"", "time", "total", "gpu", "cuda", "of", "the"}


def decimals(header: Sequence[str], sample: Sequence[Row]) -> tuple[str, Callable[[Row], Row]]:
    """Return the sign before decimals in a table, and what reads a row that has it."""
    held = [meaning(name) for name in header]
    times = {at for at, of in enumerate(held) if of in ("", "time", "one_stage")}
    counts = {at for at, of in enumerate(held) if of in _COUNTS}
    cells: list[list[str]] = [
        [row[at] for _, row in sample for at in of if at < len(row)] for of in (times, counts)
    ]
    sign = decimal_sign(*(map(plain, of) for of in cells))
    if sign != ",":
        return sign, lambda row: row
    of_figures = times | counts
    return sign, lambda row: (
        row[0], [with_point(cell) if at in of_figures else cell for at, cell in enumerate(row[1])]
    )  # fmt: skip


def units(header: Sequence[str], sample: Sequence[Row]) -> Callable[[Row], Row] | None:
    """Return what writes the unit that a column states beside a row's figures, None without one."""
    names = [spoken(name) for name in header]
    at = next((i for i, name in enumerate(names) if name in _UNITS), -1)
    stated = [cells[at] for _, cells in sample if len(cells) == len(names)] if at >= 0 else []
    if not any(time_unit(text) is not None for text in stated):
        return None
    figures = [
        i for i, name in enumerate(header)
        if i != at and not meaning(name) and not is_derived(name) and _is_figure(name)
    ]  # fmt: skip

    def read(row: Row) -> Row:
        line, cells = row
        if len(cells) != len(names):
            return row
        known = time_unit(cells[at])
        unit = next((u for u, us in TO_US.items() if us == known), spoken(cells[at]) or "?")
        return line, [
            f"{plain(cell)} {unit}"
            if i in figures and (found := figure(cell)) is not None and not found.unit else cell
            for i, cell in enumerate(cells)
        ]  # fmt: skip

    return read


def _is_figure(name: str) -> bool:
    """Whether a column without a unit holds times by its name: ``value``, an arm, a statistic."""
    label = read_label(name, _SAID)
    of_an_arm = label.op or label.algorithm or label.kernel_family or label.side or label.joined
    return bool(_VALUE.fullmatch(spoken(name)) or of_an_arm or is_timed(name))


def repeated(rows: Iterator[Row], columns: Columns) -> Iterator[Row]:
    """Give rows with what stands once for several lines, in the first columns, in each of them."""
    known = {*columns.labels, *itertools.chain.from_iterable(columns.knowns.values())}
    above: list[str] = []
    for line, cells in rows:
        filled = sum(map(bool, cells))
        if cells and not cells[0] and filled > 1 and len(cells) == len(above):
            blank = next(at for at, cell in enumerate(cells) if cell)
            if known.issuperset(range(blank)):
                cells = [*above[:blank], *cells[blank:]]
        above = cells if filled > 1 else []
        yield line, cells


def doubt(header: Sequence[str], sample: Sequence[Row], columns: Columns) -> str:
    """Return why no figure of a table is a latency of one call at one shape, "" where they are."""
    rows = [cells for _, cells in sample if len(cells) == len(header)]
    for at, name in enumerate(header):
        words = set(spoken(name).split("_"))
        is_share = words <= _OF_TIME and ("%" in name or words & _SHARES)
        if is_share and columns.labels and _sum_to_all([cells[at] for cells in rows]):
            return "times beside their shares of a whole: sums of a profile, no call's"
    for at in columns.knowns.get("shape", ()):
        found = [sizes for cells in rows if (sizes := shape(cells[at]))]
        if _is_turned(found):
            return f"'{plain(header[at])}' leaves open which number is the tokens'"
    return ""


#: Columns whose cells tell runs, hosts and remarks apart, and no op.
_OF_RUNS = re.compile(
    r"(?:.*_)?(?:run|runs|iter\w*|repeat\w*|rep|trial\w*|round|seed|index|idx|id|no|nr|date|timestamp|stamp"
    r"|host\w*|node|pid|user|comments?|notes?|remarks?|commit|sha|log|file|path|url|command|cmd|line"
    r"|cycle|winner|best|fastest|verdict|result|warmup\w*)|"
)


#: Columns that say where in which model a call of the stated size stands.
_OF_PLACES = re.compile(
    r"(?:.*_)?(?:models?|network|layer|phase|workload|scenario|use_?case|site|module|where|location)"
    r"(?:_name|_type)?"
)


class Untold:
    """Columns whose meaning is not known, and what they say of each call so far."""

    #: So many calls are kept.
    MOST = 1 << 13

    def __init__(self, header: Sequence[str], sample: Sequence[Row], columns: Columns) -> None:
        rows = [cells for _, cells in sample if len(cells) == len(header)]
        times = {at for time in columns.times for at in (time.at, *time.ranks)}
        of_calls = {
            *columns.labels, *columns.checks, *columns.errors, *columns.available, *columns.details,
            *columns.remarks, *itertools.chain.from_iterable(columns.knowns.values()),
        }  # fmt: skip
        self._of_calls = sorted(of_calls)
        sized = not {"hidden_dim", "shape", "bytes"}.isdisjoint(columns.knowns)
        self._columns = [
            (at, plain(name)[:40])
            for at, name in enumerate(header)
            if at not in times | of_calls
            and name in columns.spare
            and _may_tell(name, [cells[at] for cells in rows])
            and not (sized and _OF_PLACES.fullmatch(spoken(name)))
        ]
        self._seen: dict[tuple[str, ...], str] = {}

    def of(self, cells: Sequence[str]) -> str:
        """Return why a line that is a call before but for such a column is left, "" for others."""
        for at, column in self._columns:
            key = (column, *(cells[i] for i in self._of_calls))
            if is_no_figure(cells[at]) or (key not in self._seen and len(self._seen) >= self.MOST):
                continue
            if self._seen.setdefault(key, cells[at]) != cells[at]:
                return f"'{column}' tells lines apart and is not understood: --column '{column}=-'"
        return ""


def _may_tell(name: str, cells: Sequence[str]) -> bool:
    """Whether a column may say what ran: a setting, no measurement and no number of a run."""
    measured = [found for cell in cells if (found := figure(cell))]
    if any(found.decimals for found in measured):
        return False
    if measured and (is_derived(name) or is_timed(name) or time_unit(name) is not None):
        return False
    known = any(names.fullmatch(spoken(name)) for names, _ in _ANOTHER)
    return not (known or _OF_RUNS.fullmatch(spoken(name)) or spoken(name) in _UNITS)


_ANOTHER = (
    (re.compile(r"(?:.*_)?quant\w*"), re.compile(r"none|no|false|off|0|-|bf16|fp16|unquant\w*")),
    (re.compile(r"(?:.*_)?residual"), re.compile(r"true|yes|on|1|with\w*|y|added?")),
    (re.compile(r"(?:.*_)?norm(?:_type|_kind)?"), re.compile(r".*rms.*|true|yes|1")),
)


def another(header: Sequence[str], cells: Sequence[str], columns: Columns) -> str:
    """Return the setting by which a line is of another op than its columns say, or ""."""
    if any("quant" in time.label.op for time in columns.times):
        return ""
    for at, name in enumerate(header):
        if name not in columns.spare:
            continue
        word = plain(cells[at]).lower()
        for names, plainly in _ANOTHER:
            said = names.fullmatch(spoken(name)) and not is_no_figure(cells[at])
            if said and not plainly.fullmatch(word) and _is_flag(word):
                return f"another op: {spoken(name)[:30]} {word[:20]}"
    return ""


def _is_flag(word: str) -> bool:
    """Whether a cell is a word, or the 0 and 1 of a flag, and no measurement."""
    return figure(word) is None or word in ("0", "1")


def _sum_to_all(cells: Sequence[str]) -> bool:
    """Whether cells are shares of one whole, with or without a line for the whole."""
    found = [number.value for cell in cells if (number := figure(re.sub(r"%\s*$", "", cell)))]
    parts = [value for value in found if value < 99.9]
    total = sum(parts)
    return len(parts) > 1 and (99.0 <= total <= 101.0 or 0.99 <= total <= 1.01)


def _is_turned(shapes: Sequence[tuple[int, int]]) -> bool:
    """Whether the first number of shapes may be the hidden size, and the second the tokens."""
    if any(second < NARROWEST <= first for first, second in shapes):
        return True
    firsts, seconds = ({one[side] for one in shapes} for side in (0, 1))
    return (
        len(firsts) == 1 and len(seconds) > 2
        and min(firsts) >= _NARROW_MODEL > min(seconds)
    )  # fmt: skip


def twice(header: Sequence[str], cells: Sequence[str], columns: Columns) -> str:
    """Return what a line says twice, in two columns of one name, and not alike; "" for nothing."""
    seen: dict[str, str] = {}
    told = [at for held in _ONCE for at in columns.knowns.get(held, ())]
    for at in (*told, *columns.labels):
        name, cell = spoken(header[at]), plain(cells[at])
        if name and not is_no_figure(cell) and seen.setdefault(name, cell) != cell:
            return f"{name} stands twice: {seen[name][:20]} and {cell[:20]}"
    return ""
