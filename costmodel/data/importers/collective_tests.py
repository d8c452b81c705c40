"""Logs of rccl-tests and nccl-tests (https://github.com/ROCm/rccl-tests, .../NVIDIA/nccl-tests).

A line of results is ``size count type redop root`` and then, out of place and in place,
``time algbw busbw #wrong``. The time is the mean over the iterations, averaged over the ranks
unless the program was run with ``-a``; the out-of-place time is taken. The comment lines above name
ranks and devices, whether a graph was used, versions, and in newer releases the collective.
"""

from __future__ import annotations

import re

from ...errors import InputError
from . import cells
from .cells import gpu_of
from .rows import Imported
from .text_file import TextFile

#: Collectives of the tests that schema 1 has an op for.
OPS = {"all_reduce": "all_reduce"}

_RESULT = re.compile(
    r"^\s*(\d+)\s+(\d+)\s+([a-z]\w*)\s+(\w+)\s+(-?\d+)\s+(\S+)\s+\S+\s+\S+\s+(\S+)"
)
_RANK = re.compile(r"^#\s+Rank\s+(\d+).*?device\s+\d+\s+\[[^\]]*\]\s*(.*)$")
_COLLECTIVE = re.compile(r"Collective test starting:\s*(\w+?)_perf|(?:^|[/\s])(\w+)_perf\b")
_VERSION = re.compile(r"((?:RCCL|NCCL) version\s*:?\s*\S+|[rn]ccl-tests version \S+)")


def parse(file: TextFile, imported: Imported) -> None:
    """Read a log; see :mod:`costmodel.data.importers.formats`."""
    path, said, kind = file.name, imported.said, imported.kind
    ranks: set[int] = set()
    gpus: set[str] = set()
    collective = version = timing = ""
    microseconds = False
    found: list[tuple[int, re.Match[str]]] = []
    for number, line in file.lines():
        if match := _RESULT.match(line):
            found.append((number, match))
        elif match := _RANK.match(line):
            ranks.add(int(match[1]))
            gpus.add(gpu_of(match[2]))
        elif re.match(r"#\s+\(B\)\s+\(elements\).*\(us\)", line):
            microseconds = True
        elif match := re.search(r"\bgraph:\s*(\d+)", line):
            timing = "graph" if int(match[1]) else "eager"
        else:
            if match := _COLLECTIVE.search(line):
                collective = collective or match[1] or match[2]
            if match := _VERSION.search(line):
                version = version or match[1]
    if found and not microseconds:
        raise InputError(f"{path}: no line of units with (B) and (us) above the results; keep it")
    op = OPS.get(collective, "other") if collective else ""
    gpu = gpus.pop() if len(gpus) == 1 else ""
    for number, match in found:
        size, _, dtype, _, _, time, wrong = match.groups()
        where = f"{path}:{number}"
        latency_us = cells.number(time)
        if latency_us is None or latency_us <= 0.0 or int(size) == 0:
            imported.leave(where, "no time, or of 0 bytes")
            continue
        row = {
            "op": op,
            "bytes": int(size),
            "dtype": dtype,
            "world_size": len(ranks) or "",
            "gpu": gpu,
            "kernel_family": kind.partition("-")[0],
            "kernel_version": version,
            "latency_us": latency_us,
            "statistic": "mean",
            "timing": timing,
            "rank_reduction": said.rank_reduction or "mean",
            "quality": "suspect" if wrong.isdigit() and int(wrong) else "",
        }
        imported.add(row, where)
    suspect = sum(row["quality"] == "suspect" for row in imported.rows)
    if suspect:
        imported.note(f"{suspect} rows with wrong results (#wrong > 0) marked suspect")
    if found:
        imported.note("out-of-place times; in-place times are left out")
        if not said.rank_reduction:
            imported.note("rank reduction taken as mean, the tests' default (-a 1)")
    if op == "other":
        imported.note(f"collective {collective}: op 'other', which no model uses")
