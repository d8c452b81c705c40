"""AITER's op_tests/multigpu_tests (https://github.com/ROCm/aiter): fused, plain, group, quantised.

The tests print a markdown table through the logger, with ``min_us`` and ``max_us`` over the ranks
(one call: the slowest rank is its latency) and ``err``, the share of elements that are off. A time
is the mean over the iterations, from the kernel times of a torch profiler trace. Some tests print a
dictionary a call, or a rank, and without the summary only the line of each rank's check is there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from .cells import number, whole
from .checks import SHARE_LIMIT
from .labels import Label, read_label, spoken
from .rows import Imported, Said
from .table import Harness, read_table
from .tables import tables_of
from .text_file import TextFile, shortened

#: What a record or a line says of one call: schema 1 cells and ``where``.
Call = dict[str, Any]

_RECORD = re.compile(r"(\{'(?:shape|tp_size)'.*\})\s*$")
_CHECK = re.compile(
    r"(?P<test>test_\w+)\S*: shape=\((?P<tokens>\d+), (?P<hidden>\d+)\) dtype=(?P<dtype>\S+) "
    r".*?withGraph=(?P<graph>\w+).*?\s(?P<us>\d+\.\d+)\s*\[checkAllclose (?P<close>.*?)"
    r"(?P<verdict>passed|warning|failed|catastrophic)"
)
#: No line of these tests is longer.
_LINE = 5000
_QUANT = "fused_ar_rmsnorm_quant_fp8"


#: What a literal or a number of a record raises that is too deep, too long or no number.
_ODD = (ValueError, OverflowError, MemoryError, RecursionError)


def _arm(text: str) -> Label | None:
    name = spoken(text)
    if re.fullmatch(r"(?:per_group|quant|per_token)(?:_(?:min|max))?(?:_us)?", name):
        return Label(_QUANT)
    if re.fullmatch(r"(?:ar)(?:_(?:min|max|mean))?_us", name):
        return Label("all_reduce")
    if name in ("aiter_us", "rccl_us"):  # test_car_rccl_latency.py
        return Label("all_reduce", kernel_family=name[:-3])
    if re.match(r"custom_group_comm", name):
        return Label()
    return None


HARNESS = Harness(
    kernel_family="aiter",
    cells={"statistic": "mean", "rank_reduction": "max"},
    arm=_arm,
    tells=("group_size", "emit_bf16", "transpose_scale", "use_custom", "stage_override"),
)


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    before = imported.n_rows + imported.n_left
    harness = replace(HARNESS, topic="mhc") if "mhc_post" in file.head else HARNESS
    for table, is_own in tables_of(file, "aiter", imported):
        read_table(table, file.name, imported, harness if is_own or harness.topic else Harness())
    for call in _records(file):
        _add(call, imported)
    if imported.n_rows + imported.n_left == before:
        for call in _checks(file, imported.said):
            _add(call, imported)


def _add(call: Call, imported: Imported) -> None:
    where, reason = call.pop("where"), call.pop("left", "")
    if reason:
        imported.leave(where, reason)
        return
    if doubt := call.pop("doubt", ""):
        call["quality"] = "suspect"
        imported.note(f"suspect: {doubt} ({where.rpartition(':')[2]})")
    imported.add(
        {"kernel_family": "aiter", "statistic": "mean", "rank_reduction": "max", **call}, where
    )


def _records(file: TextFile) -> Iterator[Call]:
    """Give the calls that are printed as dictionaries: one a call, or one a rank."""
    of_ranks: dict[tuple[int, int], list[tuple[str, Mapping[str, Any]]]] = {}
    for line, text in file.program_lines():
        match = _RECORD.search(text) if "{'" in text and len(text) <= _LINE else None
        if match is None:
            continue
        where = f"{file.name}:{line}"
        try:
            record = ast.literal_eval(match[1])
            tokens, hidden_dim = (int(size) for size in record["shape"])
        except (*_ODD, SyntaxError, KeyError, TypeError):
            yield {"where": where, "left": "a record that is not understood"}
            continue
        if "p50_us" in record:
            of_ranks.setdefault((tokens, hidden_dim), []).append((where, record))
        elif "max_us" in record:
            yield _of_record(record, where) | {"tokens": tokens, "hidden_dim": hidden_dim}
    for (tokens, hidden_dim), found in of_ranks.items():
        where = found[0][0]
        call: Call = {
            "where": where, "op": "fused_ar_rmsnorm", "tokens": tokens, "hidden_dim": hidden_dim,
            "dtype": "bf16", "world_size": len(found), "statistic": "median", "timing": "eager",
            "latency_us": max((number(str(r["p50_us"])) or 0.0 for _, r in found), default=0.0),
        }  # fmt: skip
        if any(record.get("first_bad", -1) != -1 for _, record in found):
            call["left"] = "wrong result: first_bad"
        yield call


def _of_record(record: Mapping[str, Any], where: str) -> Call:
    """Return a call of test_fused_ar_rms_mxfp4_quant.py."""
    path = str(record.get("expected_path", ""))
    call: Call = {
        "where": where,
        "op": "fused_ar_rmsnorm_quant_mxfp4",
        "world_size": record.get("tp_size"),
        "dtype": str(record.get("dtype", "")),
        "latency_us": number(str(record["max_us"])),
        "algorithm": "1stage" if "1stage" in path else "2stage" if "2stage" in path else "",
        "kernel_version": f"emit_bf16 {record.get('emit_bf16')}",
    }
    if path == "fallback":
        call["left"] = "no op of schema 1: the fallback, fused op and quantisation apart"
    errors = {k: number(str(v)) for k, v in record.items() if str(k).endswith("err")}
    for name, share in errors.items():
        if share is None or not 0 <= share <= SHARE_LIMIT:
            call["left"] = (
                f"wrong result: {shortened(str(name), 30)} above AITER's limit of {SHARE_LIMIT}"
            )
        elif share:
            call["doubt"] = f"{shortened(str(name), 30)} {share:g}"
    return call


def _checks(file: TextFile, said: Said) -> Iterator[Call]:
    """Give the calls of a log without a summary: the lines of all ranks of one call are one."""
    key: tuple[str, ...] = ()
    call: Call = {}
    for line, text in file.program_lines():
        known = "checkAllclose" in text and len(text) <= _LINE
        match = _CHECK.search(text) if known else None
        if match is None:
            continue
        of_line = match.group("test", "tokens", "hidden", "dtype", "graph", "close")
        if of_line != key and call:
            yield call
        if of_line != key:
            key = of_line
            quantised = re.search(r"atol=0\.05", match["close"]) and "fused" in match["test"]
            label = read_label(match["test"].replace("test_", ""), Said())
            call = {
                "where": f"{file.name}:{line}", "op": _QUANT if quantised else label.op,
                "tokens": whole(match["tokens"]), "hidden_dim": whole(match["hidden"]),
                "dtype": match["dtype"],
                "timing": "graph" if match["graph"] in ("True", "1") else "eager",
                "latency_us": 0.0, "world_size": 0,
            }  # fmt: skip
            test = shortened(match["test"], 60)
            if not label.used:
                call["left"] = f"no op of schema 1: {test}"
            elif not label.op and not said.op:
                call["left"] = f"'{test}' does not say which op: --op"
        call["latency_us"] = max(call["latency_us"], number(match["us"]) or 0.0)
        call["world_size"] += 1
        if match["verdict"] == "warning":
            call["doubt"] = "checkAllclose warned"
        elif match["verdict"] != "passed":
            call["left"] = "wrong result: checkAllclose failed"
    if call:
        yield call
