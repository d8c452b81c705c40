"""JSON of rocprofv3 (``--output-format json``): ``rocprofiler-sdk-tool``, one record a process.

``buffer_records.kernel_dispatch`` has the dispatches, whose ``kernel_id`` is looked up in
``kernel_symbols``; with ``--pmc`` alone they stand in ``callback_records.counter_collection``.
The file is read as a whole; a larger one is better written as CSV.
"""

from __future__ import annotations

import math
from typing import Any

from ...errors import InputError
from ...files import parse_json
from .cells import gpu_of
from .kernel_trace_csv import COUNTED, COUNTERS
from .launches import Clock, Launch, Launches
from .rows import Imported
from .text_file import TextFile

_NAMES = ("formatted_kernel_name", "demangled_kernel_name", "kernel_name", "truncated_kernel_name")


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    launches(file, imported).give()


def launches(file: TextFile, imported: Imported) -> Launches:
    """Return the launches of a file; those of no all-reduce are left in the account at once."""
    wanted = "what rocprofv3 --kernel-trace --output-format json writes"
    whole = parse_json(file.text(), dict[str, Any], file.name, wanted, foreign=True)
    processes = whole.get("rocprofiler-sdk-tool")
    if not isinstance(processes, list):
        raise InputError(f"{file.name}: no list 'rocprofiler-sdk-tool'; give {wanted}")
    found = Launches(imported, lambda n: f"{file.name}: dispatch {n}", on_amd=True)
    gpus: set[str] = set()
    number = 0
    clock = Clock()
    for process, record in enumerate(p for p in processes if isinstance(p, dict)):
        gpus |= _gpus(record)
        names = _symbols(record)
        dispatches = _list(_dict(record.get("buffer_records")).get("kernel_dispatch"))
        counted = [] if dispatches else _counted(record)
        if counted:
            imported.note(COUNTED)
        known: set[str] = set()
        for dispatch in dispatches or counted:
            entry = _dict(dispatch)
            info = _dict(entry.get("dispatch_info"))
            this = str(info.get("dispatch_id"))
            if counted and this in known:  # once for each pass
                imported.leave(f"{file.name}: dispatch {number}", COUNTERS)
            else:
                span_us = clock.span_us(
                    _stamp(entry, "start_timestamp"), _stamp(entry, "end_timestamp")
                )
                found.add(_launch(info, names, process, *span_us), number)
            if "dispatch_id" in info:
                known.add(this)
            number += 1
    found.origin_us = clock.origin_us
    found.gpu = gpus.pop() if len(gpus) == 1 else ""
    return found


def _launch(
    info: dict[str, Any], names: dict[str, str], process: int, start_us: float, duration_us: float
) -> Launch:
    items, block = _extent(info.get("grid_size")), _extent(info.get("workgroup_size"))
    known = items and block and items % block == 0
    return Launch(
        name=names.get(str(info.get("kernel_id")), ""),
        rank=f"{process} {_handle(info.get('agent_id'))}",
        stream=_handle(info.get("queue_id")),
        start_us=start_us,
        duration_us=duration_us,
        grid=f"{items // block} x {block}" if known else "",
    )


def _counted(record: dict[str, Any]) -> list[Any]:
    """Return the dispatches whose counters a process collected, as those of a trace."""
    collected = _list(_dict(record.get("callback_records")).get("counter_collection"))
    return [_dict(_dict(one).get("dispatch_data")) for one in collected]


def _symbols(record: dict[str, Any]) -> dict[str, str]:
    """Return the name of each kernel by its id; a list without ids is in their order."""
    names = {}
    for at, symbol in enumerate(_list(record.get("kernel_symbols"))):
        entry = _dict(symbol)
        name = next((entry[n] for n in _NAMES if isinstance(entry.get(n), str) and entry[n]), "")
        names[str(entry.get("kernel_id", at))] = name
    return names


def _gpus(record: dict[str, Any]) -> set[str]:
    """Return the GPUs that a process saw, by their product names."""
    agents = (_dict(agent) for agent in _list(record.get("agents")))
    products = (a.get("product_name") for a in agents if a.get("type") == 2)
    return {gpu_of(p[:120]) for p in products if isinstance(p, str) and p.strip()}


def _stamp(entry: dict[str, Any], name: str) -> int | None:
    value = entry.get(name)
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else None


def _extent(sizes: Any) -> int:
    values = [_dict(sizes).get(axis) for axis in "xyz"]
    if not all(isinstance(v, int) and 0 < v < 1 << 40 for v in values):
        return 0
    return math.prod(v for v in values if isinstance(v, int))


def _handle(value: Any) -> str:
    return str(value.get("handle") if isinstance(value, dict) else value)[:60]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
