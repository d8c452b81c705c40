"""Statistics of kernels, a line each, as CSV or pasted: of rocprof, rocprofv3, rpd and nsys.

rocprof and rocprofv3 (``--stats``) write ``Name, Calls, TotalDurationNs, AverageNs, Percentage``,
rocprofv3 with ``MinNs, MaxNs, StdDev`` behind; rpd's view ``top`` and nsys' ``cuda_gpu_kern_sum``
say the same in other words, on a console with blanks between. rocprofv3's summary (``-S``) has
bars, as pasted tables have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from . import cells, kernel_rows
from .quantities import TO_US, microseconds
from .rows import Imported
from .text_file import AROUND, TextFile

#: Columns by their names in lower case; a time also has the microseconds of its unit.
_NAMES = ("name", "kernelname", "kernel_name", "kernel name", "kernel")
_CALLS = ("calls", "totalcalls", "total_calls", "instances", "count")
_TIMES = {
    "mean": {"averagens": 1e-3, "average_ns": 1e-3, "avg (ns)": 1e-3, "average": 1e-3,
             "average (ns)": 1e-3, "ave": 1.0, "average (nsec)": 1e-3, "avgns": 1e-3,
             "average (us)": 1.0, "avg (us)": 1.0, "mean (us)": 1.0},
    "median": {"med (ns)": 1e-3, "medianns": 1e-3, "median (ns)": 1e-3},
}  # fmt: skip
#: The same in other words, such as ``Avg Time (ms)`` or ``mean_us``.
_TIME = re.compile(
    r"(?:(?P<mean>avg|average|mean)|(?P<median>med|median))[ _]?(?:time|duration|latency)?[ _]?"
    r"[(\[]?(?P<unit>ns|nsec|us|usec|ms|msec)[)\]]?"
)
_TOTAL = {
    "totaldurationns": 1e-3, "total_duration_ns": 1e-3, "total time (ns)": 1e-3,
    "totalduration": 1.0, "total duration (nsec)": 1e-3, "duration (nsec)": 1e-3,
}  # fmt: skip
#: A profiler of AMD's wrote the file when its columns are so called.
_OF_ROCPROF = ("averagens", "totaldurationns", "average (nsec)", "ave")


#: What parts cells; :data:`_BLANKS` are several, as on a console.
_BLANKS = "  "
_DELIMITERS = (",", "|", ";", "\t", _BLANKS)
_GROUPS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MAY_BE_HEADER = re.compile(r"calls|instances|count", re.IGNORECASE)
_RULE = re.compile(r"[\s|:+=-]*")


class _StatsColumns(Struct):
    """Where a CSV's header has what; times as (column, microseconds of its unit, statistic)."""

    delimiter: str
    width: int
    name: int
    calls: int
    time: tuple[int, float, str] | None
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
            if (
                AROUND.match(line)
                or (columns.delimiter == "|" and "|" not in line)
                or (columns.delimiter == _BLANKS and len(row) < min(columns.width, 3))
            ):
                columns = None  # behind a pasted table
                continue
            if len(row) != columns.width:
                imported.leave(where, f"not the {columns.width} cells of the header")
                continue
            calls = cells.whole(_GROUPS.sub("", row[columns.calls]))
            time_us, statistic = _stated(row, columns)
            if columns.time is None or not row[columns.time[0]]:
                time_us, statistic = _from_total(row, columns, calls), "mean"
            kernel_rows.add_statistic(
                imported, row[columns.name], calls, time_us, statistic, where, columns.on_amd
            )


def _cells(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line; of a pasted one without the bars around it and code's marks."""
    if delimiter == ",":
        return cells.csv_cells(line, strict=True)
    if delimiter == _BLANKS:
        return re.split(r"\s{2,}", line.strip())
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
        for n, to_us in (_TIMES[statistic] | _in_words(names, statistic)).items()
        if n in names
    ]
    total = next(((names[n], to_us) for n, to_us in _TOTAL.items() if n in names), None)
    if name is None or calls is None or not (times or total):
        return None
    on_amd = any(n in names for n in _OF_ROCPROF)
    time = times[0] if times else None
    return _StatsColumns(delimiter, len(header), name, calls, time, total, on_amd)


def _in_words(names: Iterable[str], statistic: str) -> dict[str, float]:
    """Return names of columns that say a statistic and a unit of time, with its microseconds."""
    found = {name: _TIME.fullmatch(name.replace("µ", "u").replace("μ", "u")) for name in names}
    return {
        name: TO_US[match["unit"]] for name, match in found.items() if match and match[statistic]
    }


def _stated(row: Sequence[str], columns: _StatsColumns) -> tuple[float | None, str]:
    """Return the time of a line in microseconds, None where it states none, and its statistic."""
    if columns.time is None:
        return None, "mean"
    at, to_us, statistic = columns.time
    time = cells.number(_GROUPS.sub("", row[at]))
    if time is None:  # with its unit, such as ``12.3us``
        return microseconds(row[at], None), statistic
    return time * to_us, statistic


def _from_total(row: Sequence[str], columns: _StatsColumns, calls: int | None) -> float | None:
    total = cells.number(_GROUPS.sub("", row[columns.total[0]])) if columns.total else None
    return total * columns.total[1] / calls if total and calls and columns.total else None
