"""rocpd databases (SQLite): of rocprofv3, whose default output they are, and of rocmProfileData.

rocprofv3's tables carry an id behind their names (``rocpd_kernel_dispatch_<id>``) and name kernels
in ``rocpd_info_kernel_symbol_<id>``; rocmProfileData has ``rocpd_op`` and ``rocpd_string``. Only
tables are read, no views, so that nothing in a file is carried out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import InputError
from .launches import Clock, Launch, Launches
from .rows import Imported
from .text_file import TextFile, shortened


def parse(file: TextFile, imported: Imported) -> None:
    """Read a database; see :mod:`costmodel.data.importers.formats`."""
    launches(file, imported).give()


def launches(file: TextFile, imported: Imported) -> Launches:
    """Return the launches of a database; those of no all-reduce are left at once."""
    found = Launches(imported, lambda n: f"{file.name}: dispatch {n}", on_amd=True)
    clock = Clock()
    file.open().close()  # its own messages for what cannot be opened
    try:
        address = f"file:{quote(str(Path(file.path).resolve()))}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as database:
            database.text_factory = lambda raw: raw[:4096].decode(errors="replace")
            for number, row in enumerate(_dispatches(database, file)):
                name, rank, stream, start, end, grid = row
                stamps = (s if isinstance(s, int) else None for s in (start, end))
                span_us = clock.span_us(*stamps)
                launch = Launch(str(name), str(rank)[:120], str(stream)[:120], *span_us, grid)
                found.add(launch, number)
    except (sqlite3.Error, UnicodeError) as error:  # damaged names break its own messages
        raise InputError(
            f"{file.name}: not a rocpd database, or damaged: {shortened(str(error))}"
        ) from None
    found.origin_us = clock.origin_us
    return found


def _dispatches(database: sqlite3.Connection, file: TextFile) -> Iterator[tuple[Any, ...]]:
    """Give (name, rank, stream, start ns, end ns, grid) of every dispatch."""
    listed = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = [name for (name,) in listed if isinstance(name, str)]
    ids = [t.removeprefix("rocpd_kernel_dispatch") for t in tables
           if t.startswith("rocpd_kernel_dispatch")]  # fmt: skip
    for suffix in ids:
        yield from _of_rocprofv3(database, suffix)
    if not ids and {"rocpd_op", "rocpd_string"} <= set(tables):
        yield from database.execute(
            "SELECT s.string, o.gpuId, o.queueId, o.start, o.end, '' FROM rocpd_op o "
            "JOIN rocpd_string s ON o.description_id = s.id"
        )
    elif not ids:
        raise InputError(f"{file.name}: a database without rocpd's tables of kernel dispatches")


def _of_rocprofv3(database: sqlite3.Connection, suffix: str) -> Iterator[tuple[Any, ...]]:
    dispatch, symbol = (
        '"' + f"{table}{suffix}".replace('"', '""') + '"'
        for table in ("rocpd_kernel_dispatch", "rocpd_info_kernel_symbol")
    )
    axes = [f"d.{what}_size_{axis}" for what in ("grid", "workgroup") for axis in "xyz"]
    query = (
        f"SELECT s.display_name, d.nid, d.pid, d.agent_id, d.queue_id, d.start, d.end, "
        f"{', '.join(axes)} FROM {dispatch} d LEFT JOIN {symbol} s ON d.kernel_id = s.id"
    )
    for name, node, process, agent, queue, start, end, *sizes in database.execute(query):
        yield name, f"{node} {process} {agent}", queue, start, end, _grid(sizes)


def _grid(sizes: list[Any]) -> str:
    """Return workgroups x threads of (grid x, y, z, workgroup x, y, z) in work items."""
    if not all(isinstance(size, int) and 0 < size < 1 << 40 for size in sizes):
        return ""
    items, block = sizes[0] * sizes[1] * sizes[2], sizes[3] * sizes[4] * sizes[5]
    return f"{items // block} x {block}" if items % block == 0 else ""
