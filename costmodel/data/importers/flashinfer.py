"""FlashInfer's all-reduce benchmark (https://github.com/flashinfer-ai/flashinfer).

``benchmarks/flashinfer_benchmark.py --routine allreduce_fusion`` writes a CSV of all its routines,
prints a ``[PERF]`` line a case and can append raw times as a JSON object a line. Times are the
median in milliseconds; ranks are reduced as ``rank_aggregation`` says (newer releases).
"""

from __future__ import annotations

import re
from typing import Any

from .cells import number
from .labels import Label, spoken
from .pasted_lines import Row
from .quantities import plain, scaled, truth
from .rows import Imported
from .table import Harness, read_table
from .tables import Table, tables_of
from .text_file import TextFile, shortened

ROUTINE = "allreduce_fusion"
#: The op of each fusion pattern.
PATTERNS = {
    "allreduce": "all_reduce",
    "ar_residual_rmsnorm": "fused_ar_rmsnorm",
    "ar_residual_rmsnorm_dynamic_fp8": "fused_ar_rmsnorm_quant_fp8",
    "ar_residual_rmsnorm_fp8_quant": "fused_ar_rmsnorm_quant_fp8",
}
#: Whose kernels a backend runs: ``trtllm`` are TensorRT-LLM's.
_FAMILIES = {"trtllm": "trtllm", "mnnvl": "flashinfer", "auto": "flashinfer"}
_STRATEGIES = {"oneshot": "1stage", "twoshot": "2stage", "auto": "auto"}
_LABEL = re.compile(
    r"(?P<backend>trtllm|mnnvl|auto)_(?P<pattern>\w+?)(?:_(?P<strategy>oneshot|twoshot|auto))?"
)


def _arm(text: str) -> Label | None:
    """Return what ``trtllm_ar_residual_rmsnorm_oneshot`` or a part of it says."""
    name = spoken(text)
    if name in PATTERNS:
        return Label(PATTERNS[name])
    if name in _STRATEGIES:
        return Label("", _STRATEGIES[name])
    if name in ("trtllm", "mnnvl"):
        return Label(kernel_family=_FAMILIES[name], version=f"FlashInfer {name}")
    match = _LABEL.fullmatch(name)
    if match is None:
        return None
    op = PATTERNS.get(match["pattern"], "")
    algorithm = _STRATEGIES.get(match["strategy"] or "", "")
    backend = match["backend"]
    family, version = _FAMILIES[backend], f"FlashInfer {backend}"
    return Label(op or "other", algorithm, family, used=bool(op), version=version)


HARNESS = Harness(
    kernel_family="flashinfer", cells={"statistic": "median"}, unit="ms", arm=_arm, captions=False
)


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    found = False
    for table, _ in tables_of(file, "flashinfer", imported):
        names = [spoken(name) for name in table.header]
        if "median_time" in names:
            found = True
            table.rows = iter(_of_routine(table, names, file, imported))
            read_table(table, file.name, imported, HARNESS)
    if not found:
        _console(file, imported)


def _of_routine(table: Table, names: list[str], file: TextFile, imported: Imported) -> list[Row]:
    """Return the rows of the all-reduce; those of other routines are left."""
    kept: list[Row] = []
    at = names.index("routine") if "routine" in names else -1
    without = names.index("no_cuda_graph") if "no_cuda_graph" in names else -1
    cupti = names.index("use_cupti") if "use_cupti" in names else -1
    stated = "timing_mode_request" in names
    if without >= 0 and not stated:
        table.header = [*table.header, "timing"]
    for line, cells in table.rows:
        where = f"{file.name}:{line}"
        if len(cells) == len(names) and at >= 0 and cells[at] != ROUTINE:
            imported.leave(where, f"another routine: {shortened(cells[at], 40)}")
            continue
        if without >= 0 and not stated and len(cells) == len(names):
            mode = "eager" if truth(cells[without]) else "graph"
            profiled = cupti >= 0 and truth(cells[cupti])
            cells = [*cells, "profiler" if profiled else mode]
        kept.append((line, cells))
    return kept


_PERF = re.compile(r"^\[PERF\] (\S+)\s*:: median time (\S+) ms")
_WORLD = re.compile(r"world_size=(\d+)")
_SHAPE = re.compile(r"shape=\((\d+), (\d+)\)")
_REDUCED = re.compile(r"rank_aggregation=(\w+)")


def _console(file: TextFile, imported: Imported) -> None:
    """Read the lines that it prints: what a case is stands above its ``[PERF]`` line."""
    shared: dict[str, Any] = {}
    waiting: tuple[dict[str, Any], str] | None = None
    for line, text in file.program_lines():
        if not re.match(r"\[(?:PERF|INFO|ERROR)\]|  algbw", text):
            continue
        where = f"{file.name}:{line}"
        if waiting and (match := _REDUCED.search(text)) and not text.startswith("[PERF]"):
            waiting[0]["rank_reduction"] = match[1]
        if waiting:
            imported.add(*waiting)
            waiting = None
        if text.startswith("[INFO]"):
            if match := _WORLD.search(text):
                shared["world_size"] = int(match[1])
            if match := _SHAPE.search(text):
                shared |= {"tokens": int(match[1]), "hidden_dim": int(match[2])}
        if text.startswith("[ERROR] Kernel failed"):
            imported.leave(where, "no time: the kernel failed")
        match = _PERF.match(text)
        if match is None:
            continue
        label = _arm(match[1]) or Label("other", used=False)
        time = number(match[2])
        if not label.used or not label.op:
            imported.leave(where, f"another routine: {shortened(plain(match[1]), 40)}")
        elif time is None:
            imported.leave(where, "no time")
        else:
            row = {
                **shared, "op": label.op, "algorithm": label.algorithm,
                "kernel_family": label.kernel_family, "kernel_version": label.version,
                "statistic": "median",
                "latency_us": scaled(time, 1e3),
            }  # fmt: skip
            waiting = (row, where)
    if waiting:
        imported.add(*waiting)
