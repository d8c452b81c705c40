"""Tables of torch's profiler as text: ``key_averages().table()``.

A kernel has a line with its mean time and its calls. The table cuts names at 55 characters unless
it is told otherwise (``max_name_column_width``), so that dtype and ranks are often lost, and at
times the name itself.
"""

from __future__ import annotations

import re

from . import cells, kernel_rows
from .rows import Imported
from .text_file import TextFile

_TIME = re.compile(r"^(\d{1,15}(?:\.\d{1,9})?)\s*(ns|us|ms|s)$", re.ASCII)
_TO_US = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
_NAME = re.compile(r"[\s|]*Name(?=[\s|])")
_RULE = re.compile(r"^[\s-]*-{6,}[\s-]*$|^[\s|:-]*--[\s|:-]*$")


def parse(file: TextFile, imported: Imported) -> None:
    """Read a table; see :mod:`costmodel.data.importers.formats`."""
    header: list[str] = []
    header_line, rules = "", 0
    for number, line in file.program_lines():
        if _is_header(line):
            header, rules, header_line = _cells(line), 0, line
            header = header if {"Name", "# of Calls"} <= set(header) else []
        elif header and _RULE.match(line):
            rules += 1
            header = header if rules == 1 else []
        elif header and "|" in header_line and "|" not in line:
            header = []
        elif header and rules == 1 and line.strip():
            row = _cells(line)
            where = f"{file.name}:{number}"
            if len(row) == len(header):
                _line(imported, dict(zip(header, row, strict=True)), where)
            elif any(_TIME.match(cell) for cell in row):
                imported.leave(where, f"not the {len(header)} cells of the header")


def _is_header(line: str) -> bool:
    """Tell a header by its first name and a later one, each with two spaces or a bar beside it.

    Without a pattern over the whole line: blanks by the thousand would be tried in every division.
    """
    before, count, _ = line.partition("# of Calls")
    name = _NAME.match(before) if count else None
    between = before[name.end() :] if name else ""
    bare = between.strip()
    if bare.startswith("|") and bare.endswith("|") and len(bare) > 1:
        return True
    return len(between) > 3 and between[:2].isspace() and between[-2:].isspace()


def _cells(line: str) -> list[str]:
    if line.strip().endswith("|"):
        return [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
    return re.split(r"\s{2,}", line.strip())


def _line(imported: Imported, row: dict[str, str], where: str) -> None:
    averages = [text for name, text in row.items() if _is_device_average(name)]
    calls = cells.whole(row["# of Calls"])
    match = _TIME.match(averages[0]) if averages else None
    time_us = float(match[1]) * _TO_US[match[2]] if match else None
    kernel_rows.add_statistic(imported, row["Name"], calls, time_us, "mean", where, on_amd=False)


def _is_device_average(name: str) -> bool:
    """Tell a column such as ``CUDA time avg`` (ROCm's name in torch too) from the CPU's."""
    return name.endswith(" time avg") and not name.startswith("CPU")
