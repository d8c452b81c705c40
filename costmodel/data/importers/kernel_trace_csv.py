"""Traces of kernel dispatches as CSV: rocprof, rocprofv2, rocprofv3 and rocpd2csv.

rocprofv3 (``--kernel-trace``) writes ``Kind, Agent_Id, Queue_Id, ..., Kernel_Name, ...,
Start_Timestamp, End_Timestamp, ..., Workgroup_Size_X, ..., Grid_Size_X, ...``; rocprof
``Index, KernelName, gpu-id, queue-id, ..., grd, wgr, ..., BeginNs, EndNs``. Time stamps are
nanoseconds of one clock for all GPUs of a host; a grid is counted in work items.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from . import cells
from .launches import Clock, Launch, Launches
from .rows import Imported
from .text_file import TextFile

#: Columns by their names in lower case.
_NAME = ("kernel_name", "kernelname")
_START = ("start_timestamp", "beginns")
_END = ("end_timestamp", "endns")
_RANK = ("guid", "process_id", "pid", "agent_id", "gpu-id", "gpu_id")
_STREAM = ("queue_id", "queue-id", "stream_id")
_GRID = (("grid_size_x", "grid_size_y", "grid_size_z"), ("grd",), ("grid_size",))
_BLOCK = (
    ("workgroup_size_x", "workgroup_size_y", "workgroup_size_z"), ("wgr",), ("workgroup_size",),
)  # fmt: skip

#: Of a dispatch that has a line for each counter: what tells it from others.
_DISPATCH = ("dispatch_id", "correlation_id", "process_id", "agent_id")
COUNTERS = "another counter of the same dispatch"
COUNTED = "counters were read, for which kernels may have run one by one"
#: Counters alone have none: of rocprofv3 6.2, and of rocprof without ``--timestamp on``.
NO_TIMES = (
    "no times of the dispatches: take them by rocprofv3 --kernel-trace, or rocprof --timestamp on"
)
#: rocprofv2 names the kernel beside the call that launches it, in ``HIP_API_DOMAIN``.
CALL = "a call of the interface, no dispatch"
#: Columns that a trace without times is known by.
_OF_DISPATCHES = {"dispatch_id", "gpu-id", "gpu_id"}

#: Looked for first, since a header may stand before every process's lines.
_MAY_BE_HEADER = re.compile(r"kernel_?name", re.IGNORECASE)


class _TraceColumns(NamedTuple):
    width: int
    name: int
    #: Of start and end, () where there are none.
    times: tuple[int, ...]
    rank: tuple[int, ...]
    stream: tuple[int, ...]
    grid: tuple[int, ...]
    block: tuple[int, ...]
    dispatch: tuple[int, ...]
    kind: tuple[int, ...]


def parse(file: TextFile, imported: Imported) -> None:
    """Read a trace; see :mod:`costmodel.data.importers.formats`."""
    launches(file, imported).give()


def launches(file: TextFile, imported: Imported) -> Launches:
    """Return the launches of a trace; those of no all-reduce are left in the account at once."""
    found = Launches(imported, lambda n: f"{file.name}:{n}", on_amd=True)
    columns: _TraceColumns | None = None
    clock = Clock()
    counted: set[int] = set()
    for number, line in file.lines():
        row = cells.csv_cells(line, strict=True)
        if _MAY_BE_HEADER.search(line) and (header := _columns(row)):
            columns = header
        elif columns and line.strip():
            if len(row) != columns.width:
                where = f"{file.name}:{number}"
                imported.leave(where, f"not the {columns.width} cells of the header")
                continue
            if any("_API" in row[at].upper() for at in columns.kind):
                imported.leave(f"{file.name}:{number}", CALL)
                continue
            if not columns.times:
                imported.leave(f"{file.name}:{number}", NO_TIMES)
                continue
            if columns.dispatch:
                imported.note(COUNTED)
                known = len(counted)
                counted.add(hash(tuple(row[at] for at in columns.dispatch)))
                if len(counted) == known:
                    imported.leave(f"{file.name}:{number}", COUNTERS)
                    continue
            span_us = clock.span_us(*(_stamp(row[at]) for at in columns.times))
            found.add(_launch(row, columns, *span_us), number)
    found.origin_us = clock.origin_us
    return found


def _columns(header: Sequence[str]) -> _TraceColumns | None:
    """Return the columns of a header, None where it is none."""
    names = {name.lower(): at for at, name in reversed(list(enumerate(header)))}

    def one(wanted: Sequence[str]) -> int | None:
        return next((names[n] for n in wanted if n in names), None)

    def several(wanted: Sequence[str]) -> tuple[int, ...]:
        return tuple(names[n] for n in wanted if n in names)

    name, start, end = one(_NAME), one(_START), one(_END)
    times = () if start is None or end is None else (start, end)
    if name is None or not (times or _OF_DISPATCHES & names.keys()):
        return None
    stream = one(_STREAM)
    dispatch = several(_DISPATCH) if "counter_name" in names else ()
    grid, block = (
        next((several(w) for w in wanted if w[0] in names), ()) for wanted in (_GRID, _BLOCK)
    )
    return _TraceColumns(
        len(header), name, times, several(_RANK), () if stream is None else (stream,),
        grid, block, dispatch, several(("kind", "domain")),
    )  # fmt: skip


def _launch(
    row: Sequence[str], columns: _TraceColumns, start_us: float, duration_us: float
) -> Launch:
    items, block = _extent(row, columns.grid), _extent(row, columns.block)
    known = items and block and items % block == 0
    return Launch(
        name=row[columns.name],
        rank=" ".join(row[at] for at in columns.rank)[:120],
        stream=" ".join(row[at] for at in columns.stream)[:120],
        start_us=start_us,
        duration_us=duration_us,
        grid=f"{items // block} x {block}" if known else "",
    )


def _extent(row: Sequence[str], columns: Sequence[int]) -> int:
    """Return a size over its dimensions, 0 where one is no whole number."""
    return math.prod(cells.whole(row[at]) or 0 for at in columns) if columns else 0


def _stamp(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None
