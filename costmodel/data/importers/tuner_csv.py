"""CSV of NCCL's example tuner (https://github.com/NVIDIA/nccl, plugins/tuner/example).

Its performance data (``sample_performance_data.csv``) has latencies, one for each algorithm and
protocol that was forced: kernels of NCCL or RCCL, so ``algorithm`` stays empty and what was forced
stands in ``kernel_version``. Its configuration (``nccl_tuner.conf``) has choices and no latency.
"""

from __future__ import annotations

from .cells import number, whole
from .collective_run import OPS, library_of
from .pasted_lines import pasted_cells
from .rows import Imported
from .text_file import AROUND, TextFile

#: No line of either file has fewer cells.
_FEWEST = 3
#: How the header of a configuration begins.
_FIRST = ("collective", "collective_type", "colltype")
_CHOICE = "a choice of the tuner for a range of sizes, no latency"
_RATE = "a rate of the tuner's data, no latency"


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    header: list[str] = []
    for line_number, line in file.program_lines():
        where = f"{file.name}:{line_number}"
        cells = pasted_cells(line)
        if AROUND.match(line):
            header = []
        around = not header and len(cells) < _FEWEST
        if not cells or around or cells[0].startswith("#"):
            continue
        if {"collective", "size_bytes"} <= set(cells) or cells[0] in _FIRST:
            header = cells
        elif not any(cell.strip("-: ") for cell in cells):
            continue  # the rule of a pasted table
        elif "latency_us" not in header:
            imported.leave(where, _RATE if "size_bytes" in header else _CHOICE)
        elif len(cells) != len(header):
            imported.leave(where, "a line whose cells are not those of the header")
        else:
            _row(dict(zip(header, cells, strict=True)), imported, where)


def _row(cells: dict[str, str], imported: Imported, where: str) -> None:
    latency_us = number(cells["latency_us"])
    if latency_us is None:
        imported.leave(where, "no time")
        return
    collective = cells.get("collective", "")
    forced = [cells.get("algorithm", ""), cells.get("protocol", "")]
    channels = whole(cells.get("channels", ""))
    version = " ".join(part for part in forced if part)
    if channels:
        version += f", {channels} channels"
    if cells.get("regBuff") == "1":
        version += ", registered"
    op = OPS.get(collective.lower(), "other") if collective else ""
    if op == "other":
        imported.note(f"{collective[:40]}: op 'other', which no model uses")
        version += f", {collective[:40]}"
    imported.add(
        {
            "op": op,
            "bytes": whole(cells.get("size_bytes", "")),
            "world_size": whole(cells.get("ranks", "")),
            "hosts": whole(cells.get("nodes", "")) or 1,
            "kernel_family": library_of(imported.said.gpu) if imported.said.gpu else "",
            "kernel_version": version,
            "latency_us": latency_us,
        },
        where,
    )
