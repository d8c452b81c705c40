"""Traces in Chrome's format, as torch's profiler exports them (``export_chrome_trace``).

Kernels are events with ``"cat": "kernel"``, whose ``ts`` and ``dur`` are microseconds, ``pid`` the
device and ``tid`` the stream. ``ts`` counts from ``baseTimeNanoseconds`` where that is said (torch
2.4 and later). A file holds one rank, whose number ``distributedInfo`` says, or several that were
merged (SGLang writes ``[TP00] 0`` as their ``pid``). Large files are streamed.

rpd2tracing and rocprof write events without a ``cat`` and numbers as texts: the name says there
which are kernels. RCCL has one kernel for all collectives; newer torch says in its ``args`` which
one it ran, and of what size.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from ..kernel_names import read
from .cells import gpu_of, number
from .json_stream import records
from .launches import Launch, Launches
from .rows import Imported
from .text_file import TextFile, shortened


def parse(file: TextFile, imported: Imported) -> None:
    """Read a trace; see :mod:`costmodel.data.importers.formats`."""
    launches(file, imported).give()


def launches(file: TextFile, imported: Imported) -> Launches:
    """Return the launches of a trace; those of no all-reduce are left in the account at once."""
    found = Launches(imported, lambda n: f"{file.name}: event {n}", on_amd=False)
    clock = _Clock()
    base_us = Decimal(0)

    def member(name: str, value: Any) -> None:
        nonlocal base_us
        if name == "distributedInfo" and isinstance(value, dict):
            rank, ranks = _count(value.get("rank")), _count(value.get("world_size"))
            found.rank = "" if rank is None else f"rank{rank}"
            found.run_ranks = ranks if ranks and ranks < 1 << 20 else 0
        if name == "baseTimeNanoseconds" and (stamp := _number(value)) is not None:
            base_us = Decimal(value) / 1000 if 0 <= stamp < 1e20 else base_us
        if name == "deviceProperties" and isinstance(value, list):
            gpus = {gpu_of(str(d.get("name", ""))[:120]) for d in value if isinstance(d, dict)}
            found.gpu = gpus.pop() if len(gpus) == 1 else ""

    number, kernels = -1, 0
    try:
        for number, event in enumerate(records(file, "traceEvents", member)):
            if _is_kernel(event):
                kernels += 1
                found.add(_launch(event, clock), number)
    except EOFError:
        imported.note(f"the trace ends too early, after event {number}: it was cut off")
    if not kernels:
        imported.note(f"none of its {number + 1} events is a kernel on a GPU")
    found.origin_us = base_us + clock.first
    return found


def _is_kernel(event: Any) -> bool:
    if not isinstance(event, dict):
        return False
    kind = event.get("cat")
    if kind is None and event.get("ph") == "X":
        return read(str(event.get("name", ""))).known
    return isinstance(kind, str) and kind.lower() == "kernel" and event.get("ph", "X") == "X"


def _collective(name: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """Return a kernel's name with the collective that it ran, and its elements in words.

    torch says both of NCCL's kernels: ``"Collective name": "allreduce", "In msg nelems": 8192``.
    """
    of = arguments.get("Collective name")
    if not isinstance(of, str) or not re.fullmatch(r"\w{1,40}", of) or "ccl" not in name:
        return name, ""
    elements, ranks = (_count(arguments.get(key)) for key in ("In msg nelems", "Group size"))
    dtype = str(arguments.get("dtype", ""))[:20]
    if "_Generic" in name:
        said = [of, dtype if re.fullmatch(r"\w+", dtype) else "", str(ranks or "")]
        name = f"{name.partition('(')[0]}<{', '.join(filter(None, said))}>"
    return name, f"{elements} elements" if elements else ""


def _launch(event: dict[str, Any], clock: _Clock) -> Launch:
    arguments = event.get("args")
    arguments = arguments if isinstance(arguments, dict) else {}
    grid, block = _extent(arguments.get("grid")), _extent(arguments.get("block"))
    duration_us = _number(event.get("dur"))
    name, elements = _collective(str(event.get("name", "")), arguments)
    size = f"{grid} x {block}" if grid and block else ""
    return Launch(
        name=name,
        rank=shortened(str(event.get("pid", ""))),
        stream=shortened(str(event.get("tid", ""))),
        start_us=clock.since_first(event.get("ts")),
        duration_us=duration_us if duration_us is not None else math.nan,
        grid=", ".join(filter(None, (size, elements))),
    )


class _Clock:
    """Time stamps counted from the first one: the stamps themselves have too many digits."""

    def __init__(self) -> None:
        self._first: Decimal | None = None

    @property
    def first(self) -> Decimal:
        """The first time stamp in us, 0 before there is one."""
        return self._first or Decimal(0)

    def since_first(self, stamp: Any) -> float:
        if _number(stamp) is None:
            return 0.0
        exact = Decimal(stamp)
        if self._first is None:
            self._first = exact
        return float(exact - self._first)


def _number(value: Any) -> float | None:
    """Return a finite number that JSON held, as a text or not, None for anything else."""
    if isinstance(value, str):
        return number(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    held = float(value)
    return held if math.isfinite(held) else None


def _count(value: Any) -> int | None:
    """Return the number of a rank, or of ranks, None where it is none."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
    return value if is_count else None


def _extent(sizes: Any) -> str:
    """Return the size of a grid in one number, "" where it is none."""
    if not isinstance(sizes, list) or not sizes or len(sizes) > 3:
        return ""
    if not all(isinstance(s, int) and 0 < s < 1 << 40 for s in sizes):
        return ""
    return str(math.prod(sizes))
