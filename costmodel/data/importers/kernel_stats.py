"""Statistics of kernels, a line each, as CSV or pasted: of rocprof, rocprofv3, rpd and nsys.

rocprof and rocprofv3 (``--stats``) write ``Name, Calls, TotalDurationNs, AverageNs, Percentage``,
rocprofv3 with ``MinNs, MaxNs, StdDev`` behind; rpd's view ``top`` and nsys' ``cuda_gpu_kern_sum``
say the same in other words. rocprofv3's summary (``-S``) has bars, as pasted tables have.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from msgspec import Struct

from . import cells, kernel_rows
from .rows import Imported
from .text_file import TextFile

#: Columns by their names in lower case; a time also has the microseconds of its unit.
_NAMES = ("name", "kernelname", "kernel_name", "kernel name")
_CALLS = ("calls", "totalcalls", "total_calls", "instances", "count")
_TIMES = {
    "mean": {"averagens": 1e-3, "average_ns": 1e-3, "avg (ns)": 1e-3, "average": 1e-3,
             "average (ns)": 1e-3, "ave": 1.0, "average (nsec)": 1e-3, "avgns": 1e-3,
             "average (us)": 1.0, "avg (us)": 1.0, "mean (us)": 1.0},
    "median": {"med (ns)": 1e-3, "medianns": 1e-3, "median (ns)": 1e-3},
}  # fmt: skip
_TOTAL = {
    "totaldurationns": 1e-3, "total_duration_ns": 1e-3, "total time (ns)": 1e-3,
    "totalduration": 1.0, "total duration (nsec)": 1e-3, "duration (nsec)": 1e-3,
}  # fmt: skip
#: A profiler of AMD's wrote the file when its columns are so called.
_OF_ROCPROF = ("averagens", "totaldurationns", "average (nsec)", "ave")


_DELIMITERS = ",|;\t"
_MAY_BE_HEADER = re.compile(r"calls|instances|count", re.IGNORECASE)
_RULE = re.compile(r"[\s|:+=-]*")


class _StatsColumns(Struct):
    """Where a CSV's header has what; times as (column, microseconds of its unit, statistic)."""

    delimiter: str
    width: int
    name: int
    calls: int
    time: tuple[int, float, str]
    total: tuple[int, float] | None
    on_amd: bool


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file of statistics; see :mod:`costmodel.data.importers.formats`."""
    columns: _StatsColumns | None = None
    for number, line in file.program_lines():
        where = f"{file.name}:{number}"
        found = None
        if _MAY_BE_HEADER.search(line):
            found = next(filter(None, (_columns(line, d) for d in _DELIMITERS if d in line)), None)
        if found:
            columns = found
        elif columns and line.strip() and not _RULE.fullmatch(line):
            row = _cells(line, columns.delimiter)
            if columns.delimiter == "|" and "|" not in line:
                columns = None  # behind a pasted table
                continue
            if len(row) != columns.width:
                imported.leave(where, f"not the {columns.width} cells of the header")
                continue
            at, to_us, statistic = columns.time
            mean = cells.number(row[at])
            calls = cells.whole(row[columns.calls])
            time_us = mean * to_us if mean is not None else None
            if not row[at]:
                time_us = _from_total(row, columns, calls)
            kernel_rows.add_statistic(
                imported, row[columns.name], calls, time_us, statistic, where, columns.on_amd
            )


def split(line: str) -> list[str]:
    """Return the cells of one line of a CSV, none where it is no CSV."""
    try:
        return [
            cell.strip()
            for cell in next(csv.reader([line], strict=True, skipinitialspace=True), [])
        ]
    except csv.Error:
        return []


def _cells(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line; of a pasted one without the bars around it and code's marks."""
    if delimiter == ",":
        return split(line)
    cut = line.strip().strip("|") if delimiter == "|" else line
    return [cell.strip().strip('`"').strip() for cell in cut.split(delimiter)]


def _columns(line: str, delimiter: str) -> _StatsColumns | None:
    """Return the columns of a header, None where it is none."""
    header = _cells(line, delimiter)
    names = {name.lower(): at for at, name in reversed(list(enumerate(header)))}
    name = next((names[n] for n in _NAMES if n in names), None)
    calls = next((names[n] for n in _CALLS if n in names), None)
    times = [
        (names[n], to_us, statistic)
        for statistic in ("median", "mean")
        for n, to_us in _TIMES[statistic].items()
        if n in names
    ]
    if name is None or calls is None or not times:
        return None
    total = next(((names[n], to_us) for n, to_us in _TOTAL.items() if n in names), None)
    on_amd = any(n in names for n in _OF_ROCPROF)
    return _StatsColumns(delimiter, len(header), name, calls, times[0], total, on_amd)


def _from_total(row: Sequence[str], columns: _StatsColumns, calls: int | None) -> float | None:
    total = cells.number(row[columns.total[0]]) if columns.total else None
    return total * columns.total[1] / calls if total and calls and columns.total else None
