"""TensorRT-LLM's all-reduce benchmark (tests/microbenchmarks/all_reduce.py).

Its CSV has a line a shape, strategy and fusion; ``--benchmark`` prints a table a fusion with two
columns a strategy, and writes 0 for what could not run. Times are rank 0's median in microseconds.
With NCCL's strategies a fusion is the library's all-reduce and then the norm: the separate ops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .cells import number
from .context import said_by
from .labels import Label, named, read_label, spoken
from .quantities import count, is_no_figure, size
from .rows import Imported
from .tables import Table, tables_of
from .text_file import TextFile, shortened

#: Strategy -> (algorithm, family).
STRATEGIES = {
    "NCCL": ("", "nccl"),
    "NCCL_SYMMETRIC": ("", "nccl"),
    "UB": ("", "trtllm"),
    "MIN_LATENCY": ("auto", "trtllm"),
    "ONESHOT": ("1stage", "trtllm"),
    "TWOSHOT": ("2stage", "trtllm"),
    "LOWPRECISION": ("", "trtllm"),
    "AUTO": ("auto", "trtllm"),
    "MNNVL": ("", "trtllm"),
}
FUSIONS = {
    "NONE": "all_reduce",
    "RESIDUAL_RMS_NORM": "fused_ar_rmsnorm",
    "RESIDUAL_RMS_NORM_QUANT_FP8": "fused_ar_rmsnorm_quant_fp8",
}
_CELLS = {"statistic": "median", "rank_reduction": "rank0"}


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    before = imported.n_rows + imported.n_left
    for table, _ in tables_of(file, "trtllm", imported):
        names = [spoken(name) for name in table.header]
        if {"strategy", "fusion", "num_tokens"} <= set(names) and {"time_us", "time"} & set(names):
            _lines_of(table, names, file, imported)
    if imported.n_rows + imported.n_left == before:
        for line, names, cells in _frame(file):  # the lines above it say the same, without ranks
            table = Table(names, line, iter([(line, cells)]), {})
            _lines_of(table, names, file, imported)
    if imported.n_rows + imported.n_left == before:
        _console(file, imported)


def _lines_of(table: Table, names: list[str], file: TextFile, imported: Imported) -> None:
    """Read a CSV, or the data frame that is printed: one latency a line."""
    for line, cells in table.rows:
        where = f"{file.name}:{line}"
        if len(cells) != len(names):
            imported.leave(where, f"{len(cells)} cells, the header has {len(names)}")
            continue
        row = dict(zip(names, cells, strict=True))
        shared = {
            **{k: v for k, v in table.says.items() if k in ("timing", "gpu", "arch")},
            "world_size": count(row.get("world_size", "")),
            "dtype": row.get("dtype", ""),
            "tokens": count(row.get("num_tokens", "")),
            "hidden_dim": count(row.get("hidden_size", "")),
            "bytes": count(row.get("size_bytes") or row.get("size") or ""),
        }
        if row.get("op", "allreduce") not in ("allreduce", ""):
            imported.leave(where, f"another op: {shortened(row['op'], 40)}")
            continue
        time = row.get("time_us", row.get("time", ""))
        _result(row["strategy"], row["fusion"], time, shared, where, imported)


def _result(
    strategy: str, fusion: str, time: str, shared: Mapping[str, Any], where: str, imported: Imported
) -> None:
    strategy, fusion = (name.strip().rpartition(".")[2] for name in (strategy, fusion))
    latency = number(time)
    if is_no_figure(time) or not latency:
        imported.leave(where, "no time: not run there")
        return
    label = _label(strategy, fusion)
    if named(strategy, imported.said.columns) is not None:
        label = read_label(strategy, imported.said)
    if not label.used:
        imported.leave(where, f"no op of schema 1: {shortened(f'{strategy} {fusion}', 60)}")
        return
    row = {
        **_CELLS, **shared, "op": label.op, "algorithm": label.algorithm,
        "kernel_family": label.kernel_family, "latency_us": latency,
        "kernel_version": "" if label.algorithm else shortened(strategy, 40),
    }  # fmt: skip
    imported.add(row, where)


def _label(strategy: str, fusion: str) -> Label:
    algorithm, family = STRATEGIES.get(strategy.strip().upper(), ("", ""))
    op = FUSIONS.get(fusion.strip().upper(), "")
    if family == "nccl" and op == "fused_ar_rmsnorm":
        op = "ar_then_rmsnorm"
    elif family == "nccl" and op != "all_reduce":
        op = ""
    return Label(op, algorithm, family, used=bool(op and family))


_LINE = re.compile(
    r"num_tokens: (?P<tokens>\d+), hidden_size: (?P<hidden>\d+), strategy: (?P<strategy>[\w.]+), "
    r"fusion: (?P<fusion>[\w.]+)(?:, op: (?P<op>\w+))?, time \(us\): (?P<time>\S+)"
)
_FUSION = re.compile(r"^# Fusion: ([\w.]+)\s+world_size=(\d+)")


_FRAME = re.compile(
    r"^\s+world_size\s+dtype\s+size\s+num_tokens\s+hidden_size\s+strategy\s+fusion"
    r"(?:\s+op)?\s+time \(us\)$"
)


def _frame(file: TextFile) -> Iterator[tuple[int, list[str], list[str]]]:
    """Give the lines of a printed data frame, with the names of its columns."""
    names: list[str] = []
    for line, text in file.program_lines():
        if _FRAME.match(text):
            names = text.replace("time (us)", "time_us").split()
        elif names:
            cells = text.split()[1:]
            names = names if cells else []
            if cells:
                yield line, names, cells


def _console(file: TextFile, imported: Imported) -> None:
    shared: dict[str, Any] = {}
    fusion = ""
    strategies: list[str] = []
    for line, text in file.program_lines():
        where = f"{file.name}:{line}"
        if match := _LINE.search(text):
            if match["op"] not in (None, "allreduce"):
                imported.leave(where, f"another op: {match['op'][:40]}")
                continue
            shape = {"tokens": count(match["tokens"]), "hidden_dim": count(match["hidden"])}
            _result(
                match["strategy"], match["fusion"], match["time"], shared | shape, where, imported
            )
        elif match := _FUSION.match(text):
            fusion, strategies = match[1], []
            shared["world_size"] = count(match[2])
        elif fusion and re.match(r"^#\s+size\s+ntok\s+hdim\s", text):
            strategies = text.split()[4:-1]
        elif strategies and re.match(r"^\s+\d\S*\s+\d+\s+\d+\s", text):
            _table_line(text.split(), strategies, fusion, shared, where, imported)
        elif "world_size=" in text and "dtype=" in text:
            said = said_by(text, bare=False)
            shared |= {k: v for k, v in said.items() if k in ("world_size", "dtype")}
            if graph := re.search(r"cudagraph=(True|False)", text):
                shared["timing"] = "graph" if graph[1] == "True" else "eager"
        elif not text.startswith("#"):
            strategies = strategies if text.strip() else []


def _table_line(
    cells: list[str], strategies: list[str], fusion: str, shared: Mapping[str, Any], where: str,
    imported: Imported,
) -> None:  # fmt: skip
    """Read a line of the printed table: size, tokens, hidden size, then time and algbw each."""
    times = cells[3:-1]
    if len(times) != 2 * len(strategies):
        imported.leave(
            where, f"{len(cells)} cells, the header has {2 * len(strategies) + 4}", len(strategies)
        )
        return
    shape = {"tokens": count(cells[1]), "hidden_dim": count(cells[2])}
    stated = size(cells[0], None)
    if "dtype" not in shared and stated and stated.exact:
        shape["bytes"] = stated.exact
    for strategy, time in zip(strategies, times[::2], strict=True):
        _result(strategy, fusion, time, {**shared, **shape}, where, imported)
