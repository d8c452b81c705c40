"""TransferBench (https://github.com/ROCm/TransferBench), releases 1.23 to 1.6x: rates of links.

Rates between two GPUs, one way, become link rates (:mod:`costmodel.data.links`); those to a CPU or
inside one GPU, over a NIC or between ranks (of which each host has one), sums, averages and single
iterations are left. GB are 1e9 bytes there.

- a test: a line ``Transfer 00 | 47.056 GB/s | 1.425 ms | 67108864 bytes | G0 -> GPU00:008 -> G1``;
- ``a2a`` and ``p2p``: a matrix, its columns the destinations. That of ``a2a`` says once more what
  the transfers above it said, in the same digits;
- ``scaling``: a line for each number of compute units;
- ``podp2p``, ``poda2a``, ``nicp2p``, ``nica2a``, ``nicrings``, over several ranks: tables with a
  ``Rank 00`` before their devices, no rate of which is a row;
- with OUTPUT_TO_CSV, of releases before 1.51: ``Test#,Transfer#,NumBytes,Src,Exe,Dst,...``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from msgspec import Struct, field

from .cells import number, whole
from .rows import Imported
from .text_file import TextFile

_VERSION = re.compile(r"TransferBench v(\d[\w.]{0,20})")
_BYTES = re.compile(r"(?:Bytes Per Direction\W|Summary: \[|- Copying )\s{0,20}(\d{1,18})\b")
_COPYING = re.compile(r"bytes from GPU (\d{1,3}) to other devices")
_TRANSFER = re.compile(r"\s*Transfer\s+\d+\s*$")
_RATE = re.compile(r"\s*([\d.]{1,20}) GB/s")
_MATRIX = re.compile(r"\s*(?:SRC(?:\+EXE)?\\(?:EXE\+)?DST|NumCUs)[\s,]")
_COLUMN = re.compile(r"(CPU|GPU)\s?(\d{1,3})|(STotal|Actual|NIC\(\d+ QP\))")
_ROW = re.compile(r"\s*(CPU|GPU)\s+(\d{1,3})\s{0,8}(->|<->|<-|min|max|sd)?[\s,|]")
_HEALTH = re.compile(r"\s*GPU (\d{1,3}) to GPU (\d{1,3}): ([\d. ]{1,20}) GB/s")
_ONE_GPU = re.compile(r"(?:R(\d{1,5}))?[GFUM](\d{1,3})")
#: Executors: ``GPU00:008``, ``R1G0:8``; a NIC is I (by index), N (the nearest) or spelled out.
_NIC = re.compile(r"(?:R\d{1,5})?(?:NIC|[IN])\s?\d")
_OVER_NICS = re.compile(r"\bNIC (?:All-?To-?All|RDMA|Rings?)\b", re.I)
_OVER_RANKS = re.compile(r"IntraPod|\bPod (?:AllToAll|Ring)|(?:SRC|DST)\W.{0,80}\bRank\b", re.I)
_TITLE = re.compile(r"benchmark\b|copy peak bandwidth|^--- |TransferBench v\d")
_CELL = re.compile(r"(?<![\w.])\d{1,9}\.\d\d(?![\w.])")
_CSV = "Test#,Transfer#,"

NIC = "over a NIC, no link between GPUs"
RANKS = "between ranks, or in a table of several, no link of one host"

#: Rates that are not those of one link, by what their line begins with.
_LEFT = {
    "Executor": "sum over the transfers of an executor",
    "Aggregate": "sum over all transfers",
    "Average": "average over links",
    "RTotal": "sum over links",
    "Best": "the best of the lines above once more",
    "Iter": "single iterations, beside their mean",
    "Averages": "average over links",
}


class Bench(Struct):
    """What the lines so far say of the rates to come."""

    version: str = ""
    bytes: int | None = None
    how: str = ""
    columns: list[tuple[str, int]] = field(default_factory=list)
    #: GPU that the scaling test copies from, None for the other matrices.
    scaling: int | None = None
    csv: list[str] = field(default_factory=list)
    #: Transfers since the last matrix: (source, destination, GB/s).
    said: set[tuple[int, int, float]] = field(default_factory=set)
    #: Why no cell of the preset's tables is a link's rate, "" where they may be.
    beyond: str = ""


def parse(file: TextFile, imported: Imported) -> None:
    """Read a log or CSV; see :mod:`costmodel.data.importers.formats`."""
    bench = Bench()
    for line_number, line in file.program_lines():
        _line(line, bench, imported, f"{file.name}:{line_number}")


def _line(line: str, bench: Bench, imported: Imported, where: str) -> None:
    if match := _VERSION.search(line):
        bench.version = match[1]
    if match := _BYTES.search(line):
        bench.bytes = int(match[1])
    if match := _COPYING.search(line):
        bench.scaling = int(match[1])
    if _TITLE.search(line):
        bench.beyond = ""
    if _OVER_NICS.search(line):
        bench.beyond = NIC
    elif _OVER_RANKS.search(line):
        bench.beyond = bench.beyond or RANKS
    if bench.beyond and _beyond(line, bench, imported, where):
        return
    if "directional copy peak bandwidth" in line:
        both = "Bidirectional" in line
        bench.how = "while the other direction runs too" if both else "one pair at a time"
    elif "All-To-All benchmark" in line:
        bench.how = "all pairs concurrently"
    elif line.startswith(_CSV):
        bench.csv = line.split(",")
    elif bench.csv and line[:1].isdigit():
        _csv(line.split(","), bench, imported, where)
    elif _MATRIX.match(line):
        bench.columns = [(m[1] or m[3], int(m[2] or 0)) for m in _COLUMN.finditer(line)]
        if "NumCUs" not in line:
            bench.scaling = None
    elif match := _ROW.match(line):
        _row(match, line[match.end() - 1 :], bench, imported, where)
    elif bench.scaling is not None and re.match(r"\s*\d+[\s,]", line):
        _scaling(line, bench, imported, where)
    elif match := _HEALTH.match(line):
        rate = number(match[3].strip())
        _add(int(match[1]), int(match[2]), rate, "health check failed", bench, imported, where)
    else:
        _fields(line, bench, imported, where)


def _beyond(line: str, bench: Bench, imported: Imported, where: str) -> bool:
    """Leave the rates of a line of a table over NICs or ranks; return whether it is none other."""
    word = re.match(r"[\W_]*([A-Za-z]*)", line)
    if word and (word[1] in ("Transfer", *_LEFT)) and "GB/s" in line:
        return False
    if rates := _CELL.findall(line):
        imported.leave(where, bench.beyond, len(rates))
    return True


def _fields(line: str, bench: Bench, imported: Imported, where: str) -> None:
    """Take a line of a test: fields parted by bars or commas."""
    fields = re.split(r"[|,│]", line.strip("│| "))
    if _TRANSFER.match(fields[0]) and len(fields) >= 5 and (rate := _RATE.match(fields[1])):
        size = whole(fields[3].replace("bytes", ""))
        route = [part.strip() for part in fields[4].split("->")]
        ends = [_gpu(route[0]), _gpu(route[-1])] if len(route) == 3 else [None, None]
        executor = route[1] if len(route) == 3 else ""
        if ends[0] is None or ends[1] is None:
            imported.leave(where, "not from one GPU to another")
            return
        if reason := _no_link(ends[0], ends[1], executor):
            imported.leave(where, reason)
            return
        value = number(rate[1])
        if value is not None and not ends[0].rank:
            bench.said.add((ends[0].number, ends[1].number, value))
        how = f"executor {executor}" + (f", {bench.how}" if bench.how else "")
        if ends[0].rank:
            how += f", on rank {ends[0].rank}"
        _add(ends[0].number, ends[1].number, value, how, bench, imported, where, size)
        return
    word = re.match(r"[#\s]*([A-Za-z]+)", line)
    if word and word[1] in _LEFT and (rates := re.findall(r"\d\.\d", line)):
        imported.leave(where, _LEFT[word[1]], 1 if "GB/s" in line else len(rates))


def _row(match: re.Match[str], rest: str, bench: Bench, imported: Imported, where: str) -> None:
    """Take a row of a matrix: rates from one device to those of the columns."""
    kind, source, direction = match[1], int(match[2]), match[3] or "->"
    values = re.split(r"[\s,|]+", rest.strip(" ,|\t"))
    if not bench.columns or len(values) != len(bench.columns):
        if bench.columns and re.search(r"\d\.\d", rest):
            imported.leave(where, "a row whose cells are not those of the matrix")
        return
    for (other, destination), value in zip(bench.columns, values, strict=True):
        rate = number(value)
        if other in ("STotal", "Actual"):
            imported.leave(where, "sum over links")
        elif rate is None:
            imported.leave(where, "no rate")
        elif direction in ("min", "max", "sd"):
            imported.leave(where, "extremes of single iterations, beside their mean")
        elif direction == "<->":
            imported.leave(where, "sum of both directions")
        elif kind == "CPU" or other != "GPU":
            imported.leave(where, "not from one GPU to another")
        else:
            ends = (source, destination) if direction == "->" else (destination, source)
            if (*ends, rate) in bench.said:
                imported.leave(where, "a transfer above once more")
            else:
                _add(*ends, rate, bench.how, bench, imported, where)


def _scaling(line: str, bench: Bench, imported: Imported, where: str) -> None:
    """Take a line of the scaling test: rates of copies with so many compute units."""
    units, *values = re.split(r"[\s,]+", line.strip(" ,\t"))
    if len(values) != len(bench.columns):
        imported.leave(where, "a row whose cells are not those of the matrix")
        return
    for (other, destination), value in zip(bench.columns, values, strict=True):
        if other != "GPU":
            imported.leave(where, "not from one GPU to another")
        else:
            how = f"{units[:9]} CUs, one pair at a time"
            _add(bench.scaling or 0, destination, number(value), how, bench, imported, where)


def _csv(cells: list[str], bench: Bench, imported: Imported, where: str) -> None:
    if len(cells) < 9:
        imported.leave(where, "a row whose cells are not those of the header")
        return
    named = dict(zip(bench.csv, cells, strict=False))
    source, destination = _gpu(named.get("Src", "")), _gpu(named.get("Dst", ""))
    if source is None or destination is None:
        imported.leave(where, "not from one GPU to another")
        return
    if reason := _no_link(source, destination, named.get("Exe", "")):
        imported.leave(where, reason)
        return
    rate = number(named.get("BW(GB/s)", ""))
    how = f"executor {named.get('Exe', '')[:20]}, {named.get('CUs', '')[:9]} CUs"
    size = whole(named.get("NumBytes", ""))
    _add(source.number, destination.number, rate, how, bench, imported, where, size)


class _Gpu(NamedTuple):
    """A GPU of a rank; ``rank`` is "" where there are not several."""

    rank: str
    number: int


def _gpu(memory: str) -> _Gpu | None:
    """Return the GPU of one memory of a GPU (``G0``, ``R0G3``), None for any other."""
    match = _ONE_GPU.fullmatch(memory.strip(" ()"))
    return _Gpu(match[1] or "", int(match[2])) if match else None


def _no_link(source: _Gpu, destination: _Gpu, executor: str) -> str:
    """Return why a transfer between two GPUs is over no link of one host, or ""."""
    if _NIC.match(executor.strip()):
        return NIC
    return RANKS if source.rank != destination.rank else ""


def _add(
    source: int, destination: int, gbps: float | None, how: str, bench: Bench,
    imported: Imported, where: str, size: int | None = None,
) -> None:  # fmt: skip
    if source == destination:
        imported.leave(where, "within one GPU")
        return
    gpus = sum(kind == "GPU" for kind, _ in bench.columns)
    words = [f"GPU{source}->GPU{destination}", how, f"TransferBench {bench.version}".strip()]
    imported.add_link(
        {
            "gbps": gbps,
            "bytes": bench.bytes if size is None else size,
            "world_size": gpus or None,
            "detail": ", ".join(word for word in words if word),
        },
        where,
    )
