"""AITER's tuner of FlyDSL's all-reduce (op_tests/op_benchmarks/flydsl/bench_comm_allreduce.py).

Its CSV has a line a shape (``TP``, ``M`` tokens, ``K`` hidden size, ``_nbytes``) and columns a
candidate: ``<candidate> us`` is the slowest rank's mean, ``<candidate> median us`` the median
rank's of the same calls, ``<candidate> SQNR dB`` the accuracy. Its report has a table a shape, with
a line a candidate. AITER's own kernels are arms here; the others are named and left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .cells import number
from .labels import Label, named, read_label
from .quantities import count, is_no_figure, microseconds, plain, ranks
from .rows import Imported
from .tables import Table, tables_of
from .text_file import TextFile, shortened

#: The candidates that are arms of this model. ``separate_``: the all-reduce, then RMSNorm.
ARMS = {
    "fused_cdr_1stage": Label("fused_ar_rmsnorm", "1stage", "aiter"),
    "fused_cdr_2stage": Label("fused_ar_rmsnorm", "2stage", "aiter"),
    "separate_cdr": Label("ar_then_rmsnorm", "auto", "aiter"),
    "separate_rccl": Label("ar_then_rmsnorm", "", "rccl"),
    "cdr": Label("all_reduce", "auto", "aiter"),
    "rccl": Label("all_reduce", "", "rccl"),
}
#: The harness's own floor for these candidates, which are exact (``Candidate.sqnr_floor``).
SQNR_FLOOR_DB = 40.0

#: What pins a candidate's tuning: without it, candidates of one kernel have one name.
_TUNING = re.compile(r"(?:_(?:b|st|g|a|k|apr|p)\d+|_ss|_fa|_int\d)+$")
_SHAPE = re.compile(r"\bM=(\d+)\b.*?\bK=(\d+)\b")


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    for table, _ in tables_of(file, "flydsl", imported):
        names = [plain(name) for name in table.header]
        if "candidate" in names and "us" in names:
            _cases(table, names, file, imported)
        elif "M" in names and any(name.endswith(" us") for name in names):
            _sweep(table, names, file, imported)
        else:
            imported.note(f"the table of line {table.line} sums others up: not counted")
    imported.note("the slowest rank's mean; a median over the ranks of the same calls is left out")


def _sweep(table: Table, names: list[str], file: TextFile, imported: Imported) -> None:
    """Read a CSV: a line a shape, columns a candidate."""
    at = {name: index for index, name in enumerate(names)}
    suffix = re.compile(r"(?<! median)(?<! spread) us$")
    candidates = [name[:-3] for name in names if suffix.search(name)]
    around = _around(table)
    for line, cells in table.rows:
        where = f"{file.name}:{line}"
        if len(cells) != len(names):
            reason = f"{len(cells)} cells, the header has {len(names)}"
            imported.leave(where, reason, len(candidates))
            continue

        def of(name: str, cells: list[str] = cells) -> str:
            return cells[at[name]] if name in at else ""

        stated = {
            "tokens": count(of("M")), "hidden_dim": count(of("K")), "world_size": ranks(of("TP")),
            "bytes": count(of("_nbytes")), "dtype": of("dtype"),
            "arch": of("gfx").partition(":")[0],
            "timing": of("timing") if of("timing") in ("graph", "eager") else "",
        }  # fmt: skip
        shared = {**around, **{name: cell for name, cell in stated.items() if cell}}
        for name in candidates:
            variant = plain(of(f"{name} variant"))
            _result(
                name, of(f"{name} us"), of(f"{name} SQNR dB"), of("kernel"),
                {**shared, "detail": "" if is_no_figure(variant) else f"variant {variant}"},
                where, imported,
            )  # fmt: skip


def _around(table: Table) -> dict[str, Any]:
    """Return what the lines around a table say; ``K=`` is the hidden size there."""
    said = {k: v for k, v in table.says.items() if k not in ("unit", "statistic", "rank_reduction")}
    sizes = [match[1] for text in table.captions if (match := re.search(r"\bK=(\d+)", text))]
    return {"hidden_dim": int(sizes[0]), **said} if sizes and len(sizes[0]) < 10 else said


def _cases(table: Table, names: list[str], file: TextFile, imported: Imported) -> None:
    """Read a table of the report: one shape, a line a candidate."""
    title = next((text for text in table.captions if _SHAPE.search(text)), "")
    shape = _SHAPE.search(title)
    kernel = re.search(r"\bkernel=(\w+)", title)
    shared = _around(table)
    if shape:
        shared |= {"tokens": int(shape[1]), "hidden_dim": int(shape[2])}
    for line, cells in table.rows:
        where = f"{file.name}:{line}"
        row = dict(zip(names, cells, strict=False))
        if len(cells) != len(names):
            imported.leave(where, f"{len(cells)} cells, the header has {len(names)}")
            continue
        _result(
            plain(row["candidate"]), row["us"], row.get("SQNR dB", ""), kernel[1] if kernel else "",
            shared, where, imported,
        )  # fmt: skip


def _result(
    name: str, time: str, sqnr: str, kernel: str, shared: Mapping[str, Any], where: str,
    imported: Imported,
) -> None:  # fmt: skip
    label = ARMS.get(name)
    if named(name, imported.said.columns) is not None:
        label = read_label(name, imported.said)
    if label is None or not label.used:
        imported.leave(where, f"another kernel: {shortened(_TUNING.sub('', name), 40)}")
        return
    if is_no_figure(time):
        imported.leave(where, "no time: not applicable there")
        return
    decibel = number(re.sub(r"\s*db$", "", plain(sqnr).lower()))
    if decibel is not None and decibel < SQNR_FLOOR_DB:
        imported.leave(
            where, f"wrong result: SQNR below the harness's floor of {SQNR_FLOOR_DB:g} dB"
        )
        return
    stated = plain(sqnr).lower() not in ("", "-", "--", "n/a", "na", "none", "nan", "skipped")
    if stated and decibel is None and not re.fullmatch(r"\+?inf\w*", sqnr.lower()):
        imported.leave(where, f"wrong result: SQNR is {shortened(sqnr, 20)}")
        return
    plainly = label.op == "all_reduce" and label.kernel_family == "aiter"
    row = {
        **shared,
        "op": label.op,
        "algorithm": kernel if plainly and kernel in ("1stage", "2stage") else label.algorithm,
        "kernel_family": label.kernel_family,
        "latency_us": microseconds(time, 1.0),
        "quality": "suspect" if plain(sqnr).lower() == "nan" else "",
        "statistic": "mean",
        "rank_reduction": "max",
    }
    imported.add(row, where)
