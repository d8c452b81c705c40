"""rocpd databases (SQLite): of rocprofv3, whose default output they are, and of rocmProfileData.

rocprofv3's tables carry an id behind their names (``rocpd_kernel_dispatch_<id>``) and name kernels
in ``rocpd_info_kernel_symbol_<id>``, GPUs in ``rocpd_info_agent_<id>``; from schema 4 on the times
of a dispatch stand in ``rocpd_timestamp_<id>`` and its process and queue in ``rocpd_track_<id>``.
rocmProfileData has ``rocpd_op`` and ``rocpd_string``. Only tables are read, no views, so that
nothing in a file is carried out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...errors import InputError
from .cells import gpu_of
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
            tables = _tables(database)
            for number, row in enumerate(_dispatches(database, tables, file)):
                name, rank, stream, start, end, grid = row
                stamps = (s if isinstance(s, int) else None for s in (start, end))
                span_us = clock.span_us(*stamps)
                launch = Launch(str(name), str(rank)[:120], str(stream)[:120], *span_us, grid)
                found.add(launch, number)
            gpus = _gpus(database, tables)
            found.gpu = gpus.pop() if len(gpus) == 1 else ""
    except (sqlite3.Error, UnicodeError) as error:  # damaged names break its own messages
        raise InputError(
            f"{file.name}: not a rocpd database, or damaged: {shortened(str(error))}"
        ) from None
    found.origin_us = clock.origin_us
    return found


def _tables(database: sqlite3.Connection) -> set[str]:
    listed = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in listed if isinstance(name, str)}


def _dispatches(
    database: sqlite3.Connection, tables: set[str], file: TextFile
) -> Iterator[tuple[Any, ...]]:
    """Give (name, rank, stream, start ns, end ns, grid) of every dispatch."""
    ids = _ids(tables, "rocpd_kernel_dispatch")
    for suffix in ids:
        yield from _of_rocprofv3(database, tables, suffix, file)
    if not ids and {"rocpd_op", "rocpd_string"} <= tables:
        yield from database.execute(
            "SELECT s.string, o.gpuId, o.queueId, o.start, o.end, '' FROM rocpd_op o "
            "JOIN rocpd_string s ON o.description_id = s.id"
        )
    elif not ids:
        raise _without(file)


def _ids(tables: set[str], table: str) -> list[str]:
    """Return what stands behind the name of a table, of each process."""
    return sorted(t.removeprefix(table) for t in tables if t.startswith(table))


def _without(file: TextFile) -> InputError:
    return InputError(f"{file.name}: a database without rocpd's tables of kernel dispatches")


def _of_rocprofv3(
    database: sqlite3.Connection, tables: set[str], suffix: str, file: TextFile
) -> Iterator[tuple[Any, ...]]:
    dispatch, symbol, track, stamp = (
        f"rocpd_{table}{suffix}"
        for table in ("kernel_dispatch", "info_kernel_symbol", "track", "timestamp")
    )
    of_dispatch = _columns(database, dispatch)
    in_tracks = "start_id" in of_dispatch
    if not {symbol, *((track, stamp) if in_tracks else ())} <= tables:
        raise _without(file)
    of_symbol = _columns(database, symbol)
    names = [f"NULLIF(s.{n}, '')" for n in ("display_name", "kernel_name") if n in of_symbol]
    axes = [f"{what}_size_{axis}" for what in ("grid", "workgroup") for axis in "xyz"]
    place, times = ("t", "b.value, e.value") if in_tracks else ("d", "d.start, d.end")
    query = (
        f"SELECT COALESCE({', '.join([*names, 'NULL', 'NULL'])}), {place}.nid, {place}.pid, "
        f"{place}.agent_id, {place}.queue_id, {times}, "
        f"{', '.join(f'd.{axis}' if axis in of_dispatch else 'NULL' for axis in axes)} "
        f"FROM {_quoted(dispatch)} d LEFT JOIN {_quoted(symbol)} s ON d.kernel_id = s.id"
    )
    if in_tracks:
        query += (
            f" LEFT JOIN {_quoted(track)} t ON d.track_id = t.id"
            f" LEFT JOIN {_quoted(stamp)} b ON d.start_id = b.id"
            f" LEFT JOIN {_quoted(stamp)} e ON d.end_id = e.id"
        )
    for name, node, process, agent, queue, start, end, *sizes in database.execute(query):
        yield name or "", f"{node} {process} {agent}", queue, start, end, _grid(sizes)


def _gpus(database: sqlite3.Connection, tables: set[str]) -> set[str]:
    """Return the GPUs that the processes saw, by their product names."""
    products: set[Any] = set()
    for suffix in _ids(tables, "rocpd_info_agent"):
        table = f"rocpd_info_agent{suffix}"
        if {"type", "product_name"} <= _columns(database, table):
            query = f"SELECT DISTINCT product_name FROM {_quoted(table)} WHERE type = 'GPU'"
            products.update(database.execute(f"{query} LIMIT 1000"))
    return {gpu_of(p[:120]) for (p,) in products if isinstance(p, str) and p.strip()}


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({_quoted(table)})")}


def _quoted(table: str) -> str:
    return '"' + table.replace('"', '""') + '"'


def _grid(sizes: list[Any]) -> str:
    """Return workgroups x threads of (grid x, y, z, workgroup x, y, z) in work items."""
    if not all(isinstance(size, int) and 0 < size < 1 << 40 for size in sizes):
        return ""
    items, block = sizes[0] * sizes[1] * sizes[2], sizes[3] * sizes[4] * sizes[5]
    return f"{items // block} x {block}" if items % block == 0 else ""
