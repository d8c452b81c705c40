"""rocm_bandwidth_test (https://github.com/ROCm/rocm_bandwidth_test): rates of links.

Releases before ROCm 7 print a matrix of peak rates, its columns the destinations by number among
all devices, and with ``-s`` and ``-d`` a table by size for each pair. Copies are those of the copy
engines. GB are 1e9 bytes, KB and MB of a size 1024 and 1024 x 1024 bytes (printRecord of its
rocm_bandwidth_test_report.cpp). Only rates one way between two GPUs become link rates.
"""

from __future__ import annotations

import re

from msgspec import Struct, field

from .cells import gpu_of, number, whole
from .rows import Imported
from .text_file import TextFile

_VERSION = re.compile(r"RocmBandwidthTest Version:\s{0,8}([\w.]{1,20})")
_DEVICE = re.compile(r"\s*Device:\s{0,8}(\d{1,3}),\s{0,8}([^,]{1,100}?)\s{0,8}(,\s{0,8}GPU-|,|$)")
#: Releases print ``Bdirectional`` for the peak of both directions.
_TITLE = re.compile(r"(\w{1,3}directional) copy (peak|average) bandwidth GB/s")
_END = re.compile(r"(Src|Dst) Device Id:\s{0,8}(\d{1,3})\s{1,8}\1 Device Type:\s{0,8}(\w{1,8})")
_SIZES = {"bytes": 1, "kb": 1024, "mb": 1024**2}


class Test(Struct):
    """What the lines so far say of the rates to come."""

    version: str = ""
    gpus: dict[int, str] = field(default_factory=dict)
    #: Of the matrix: one way or both, peak or average; "" where the matrix holds no rates.
    both_ways: bool = False
    statistic: str = ""
    columns: list[int] = field(default_factory=list)
    #: Ends of the pair that a table by size is of; None for a CPU.
    ends: dict[str, int | None] = field(default_factory=dict)
    by_size: bool = False


def parse(file: TextFile, imported: Imported) -> None:
    """Read what the program printed; see :mod:`costmodel.data.importers.formats`."""
    test = Test()
    for line_number, line in file.program_lines():
        line = line.replace("|", " ")  # as pasted tables have them
        _line(line, test, imported, f"{file.name}:{line_number}")


def _line(line: str, test: Test, imported: Imported, where: str) -> None:
    words = line.split()
    if not words:
        return
    if match := _VERSION.search(line):
        test.version = match[1]
    elif match := _DEVICE.match(line):
        if "GPU-" in match[3]:
            test.gpus[int(match[1])] = gpu_of(match[2])
    elif match := _TITLE.search(line):
        test.both_ways, test.statistic = match[1] != "Unidirectional", match[2]
        test.columns = []
    elif words[0].startswith("Inter-Device") or words[:3] == ["Data", "Path", "Validation"]:
        test.statistic = ""
    elif words[0] == "D/D":
        test.columns = [n for w in words[1:] if (n := whole(w)) is not None]
    elif "directional Benchmark Result" in line:
        test.both_ways, test.by_size, test.ends = "Unidirectional" not in line, False, {}
    elif match := _END.search(line):
        test.ends[match[1]] = int(match[2]) if match[3].lower() == "gpu" else None
    elif words[:2] == ["Data", "Size"]:
        test.by_size, test.statistic = "BW(GB/s)" in words, ""
    elif test.by_size and len(words) == 6 and words[1].lower() in _SIZES:
        _size(words, test, imported, where)
    elif test.statistic and test.columns and whole(words[0]) is not None:
        _matrix(words, test, imported, where)


def _matrix(words: list[str], test: Test, imported: Imported, where: str) -> None:
    source, values = whole(words[0]) or 0, words[1:]
    if len(values) != len(test.columns):
        imported.leave(where, "a row whose cells are not those of the matrix")
        return
    for destination, value in zip(test.columns, values, strict=True):
        gbps = number(value)
        if gbps is None:
            imported.leave(where, "no rate")
        elif test.both_ways:
            imported.leave(where, "sum of both directions")
        elif not test.gpus:
            imported.leave(where, "no list of devices says which are GPUs")
        elif source not in test.gpus or destination not in test.gpus:
            imported.leave(where, "not from one GPU to another")
        else:
            _add(source, destination, gbps, test, imported, where)


def _size(words: list[str], test: Test, imported: Imported, where: str) -> None:
    """Take a line of a table by size: average time and rate, least time and peak rate."""
    imported.leave(where, "times of copies by the copy engines, no all-reduce", 2)
    imported.leave(where, "peak rate, beside the average")
    source, destination = test.ends.get("Src"), test.ends.get("Dst")
    gbps, size = number(words[3]), whole(words[0])
    if test.both_ways:
        imported.leave(where, "sum of both directions")
    elif source is None or destination is None:
        imported.leave(where, "not from one GPU to another")
    else:
        test.statistic = "average"
        size_bytes = size and size * _SIZES[words[1].lower()]
        _add(source, destination, gbps, test, imported, where, size_bytes)
        test.statistic = ""


def _add(
    source: int, destination: int, gbps: float | None, test: Test, imported: Imported,
    where: str, size: int | None = None,
) -> None:  # fmt: skip
    if source == destination:
        imported.leave(where, "within one GPU")
        return
    gpu = test.gpus.get(source, "")
    words = [f"device {source}->{destination}", "one pair at a time", test.statistic, "copy engine"]
    words.append(f"rocm_bandwidth_test {test.version}".strip())
    imported.add_link(
        {
            "gbps": gbps,
            "bytes": size,
            "gpu": gpu if gpu == test.gpus.get(destination, "") else "",
            "world_size": len(test.gpus) or None,
            "detail": ", ".join(words),
        },
        where,
    )
