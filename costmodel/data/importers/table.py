"""Tables of latencies: markdown, CSV or JSON records, with one latency column or one for each arm.

Columns are known by their names, and a latency column by its unit (``latency_us``, ``time (ms)``).
AITER's op_tests print such tables as markdown, with ``min_us`` and ``max_us`` over the ranks;
SGLang's and vLLM's kernel benchmarks write CSV or JSON with a column for each implementation. Their
columns differ from release to release, so no fixed list is expected: what is not recognized is
named and left out, and ``--column NAME=OP:ALGORITHM`` says what a column is.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...errors import InputError
from ...files import parse_json
from .cells import listed
from .labels import Label, read_label
from .rows import Imported, Said
from .text_file import TextFile, shortened

#: What a column holds, by its name in lower case with underscores.
MEANINGS = {
    "tokens": ("tokens", "num_tokens", "token", "token_num", "m", "bs", "batch", "batch_size",
               "seq_len", "sequence_length"),
    "hidden_dim": ("hidden_dim", "hidden_size", "hidden", "n", "h", "dim"),
    "shape": ("shape", "input_shape", "tensor_shape"),
    "dtype": ("dtype", "data_type"),
    "world_size": ("world_size", "tp", "tp_size", "ranks", "num_gpus", "gpus", "nranks", "ngpus"),
    "bytes": ("bytes", "size_bytes", "bytes_per_rank", "input_bytes", "size_b"),
    "label": ("algorithm", "algo", "arm", "kernel", "mode", "impl", "provider", "op", "operation",
              "name", "stage", "method", "backend"),
    "one_stage": ("use_1stage", "use_1stage_ar", "one_stage", "1stage"),
    "graph": ("withgraph", "with_graph", "use_graph", "graph", "cuda_graph", "graph_mode"),
    "gpu": ("gpu", "device", "gpu_name"),
}  # fmt: skip

_BY_NAME = {name: meaning for meaning, names in MEANINGS.items() for name in names}
_UNIT = re.compile(r"(?:^|[_\s(\[])(us|µs|ms|ns|s|usec|msec)[)\]]?$", re.IGNORECASE)
_TO_US = {"us": 1.0, "µs": 1.0, "usec": 1.0, "ms": 1e3, "msec": 1e3, "ns": 1e-3, "s": 1e6}
_TIME = re.compile(r"latency|time|elapsed|duration|mean|median|avg|(^|_)p\d\d($|_)")
_NOT_A_TIME = ("", "-", "n/a", "na", "nan", "none", "inf", "failed", "oom", "err", "error", "skip")


class Column(NamedTuple):
    """A latency column: its name, microseconds of its unit, and what its label says."""

    name: str
    to_us: float
    label: Label


class Record(NamedTuple):
    """One row of a table as texts by column name, and where it stands."""

    where: str
    cells: dict[str, str]


def parse(file: TextFile, imported: Imported) -> None:
    """Read all tables of a file; see :mod:`costmodel.data.importers.formats`."""
    said = imported.said
    family = "aiter" if imported.kind == "aiter" else ""
    unused: list[str] = []
    for table in tables(file.text(), file.name):
        columns, knowns, others = _columns(list(table[0].cells), table[0].where, said)
        unused += others
        for record in table:
            for column in columns:
                latency_us = _latency_us(record, column)
                if latency_us is None:
                    imported.leave(record.where, "cell without a time")
                    continue
                row = _row(record, knowns, column, said)
                if row is None:
                    label = record.cells[knowns["label"]]
                    imported.leave(record.where, f"not used: {shortened(label, 40)}")
                    continue
                row.setdefault("kernel_family", family)
                imported.add({**row, "latency_us": latency_us}, record.where)
    if unused:
        imported.note(f"columns not used: {listed(unused)}")


def tables(text: str, path: str) -> list[list[Record]]:
    """Return the tables of a file, each as its records."""
    stripped = text.lstrip()
    if stripped.startswith(("{", "[{", "[\n", "[ ")):
        return _json_tables(text, path)
    found = list(_markdown_tables(text, path))
    return found or _csv_tables(text, path)


def _json_tables(text: str, path: str) -> list[list[Record]]:
    whole: Any = dict[str, Any] | list[dict[str, Any]]
    wanted = "JSON records, in one list or one a line"
    try:
        data = parse_json(text, whole, path, wanted, foreign=True)
    except InputError as error:
        try:
            lines = [line for line in text.splitlines() if line.strip()]
            data = [parse_json(x, dict[str, Any], path, wanted, foreign=True) for x in lines]
        except InputError:
            raise error from None
    constants: dict[str, Any] = {}
    if isinstance(data, dict):
        constants = {k: v for k, v in data.items() if not isinstance(v, list | dict)}
        lists = [v for v in data.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if len(lists) != 1:
            raise InputError(f"{path}: {len(lists)} lists of records in the object; one is wanted")
        data = lists[0]
    if not data:
        raise InputError(f"{path}: no record in the list")
    return [
        [
            Record(f"{path}: record {i}", {k: str(v) for k, v in {**constants, **record}.items()})
            for i, record in enumerate(data)
        ]
    ]


def _markdown_tables(text: str, path: str) -> Iterator[list[Record]]:
    header: list[str] = []
    table: list[Record] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        bar = line.find("|")
        if bar < 0 or line.count("|") < 2:
            if table:
                yield table
            header, table = [], []
            continue
        cells = [cell.strip().strip("`*") for cell in line[bar:].strip().strip("|").split("|")]
        if not header:
            header = cells
        elif all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            continue
        elif len(cells) == len(header):
            table.append(Record(f"{path}:{number}", dict(zip(header, cells, strict=True))))
        else:
            raise InputError(f"{path}:{number}: {len(cells)} cells, the header has {len(header)}")


def _csv_tables(text: str, path: str) -> list[list[Record]]:
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: neither a markdown table nor JSON nor CSV: {error}") from None
    rows = [row for row in rows if row]
    if len(rows) < 2 or len(rows[0]) < 2:
        raise InputError(f"{path}: no table found in it; markdown, CSV or JSON records are read")
    header = [name.strip() for name in rows[0]]
    table = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise InputError(f"{path}:{number}: {len(row)} cells, the header has {len(header)}")
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        table.append(Record(f"{path}:{number}", cells))
    return [table]


def _columns(
    header: list[str], where: str, said: Said
) -> tuple[list[Column], dict[str, str], list[str]]:
    """Return the latency columns, the names of the columns of each meaning, and the rest."""
    latencies: list[Column] = []
    knowns: dict[str, str] = {}
    others: list[str] = []
    for name in header:
        plain = re.sub(r"\W+", "_", name.strip().lower()).strip("_")
        unit = _UNIT.search(name.strip())
        if plain in _BY_NAME:
            knowns.setdefault(_BY_NAME[plain], name)
        elif unit:
            label = read_label(name, said)
            if label.used:
                latencies.append(Column(name, _TO_US[unit[1].lower()], label))
            else:
                others.append(name)
        elif _TIME.search(plain) and not re.search(r"speed|ratio|percent|date|stamp", plain):
            raise InputError(
                f"{where}: column '{name}' has no unit; rename it with one, e.g. '{name}_us'"
            )
        else:
            others.append(name)
    if not latencies:
        raise InputError(
            f"{where}: no latency column with a unit (…_us, … (ms)) among {', '.join(header)}"
        )
    names = {re.sub(r"\W+", "_", column.name.lower()).strip("_"): column for column in latencies}
    for prefix in ("", "latency_", "time_"):  # over the ranks: the slowest decides
        low, high = names.get(f"{prefix}min_us"), names.get(f"{prefix}max_us")
        if low and high:
            latencies.remove(low)
            others.append(low.name)
    return latencies, knowns, others


def _latency_us(record: Record, column: Column) -> float | None:
    text = record.cells[column.name].lower()
    if text in _NOT_A_TIME:
        return None
    try:
        return float(text) * column.to_us
    except ValueError:
        raise InputError(f"{record.where}: '{text}' in column '{column.name}' is no time") from None


def _row(
    record: Record, knowns: dict[str, str], column: Column, said: Said
) -> dict[str, Any] | None:
    """Return the cells of one latency without it, None where its label is left out."""
    cells = {meaning: record.cells[name] for meaning, name in knowns.items()}
    row: dict[str, Any] = {}
    for key in ("tokens", "hidden_dim", "world_size", "bytes"):
        if cells.get(key):
            row[key] = _whole(cells[key], record.where, knowns[key])
    if shape := cells.get("shape"):
        sizes = [int(size) for size in re.findall(r"\d+", shape)]
        if len(sizes) != 2:
            raise InputError(f"{record.where}: shape '{shape}' is not (tokens, hidden_dim)")
        row["tokens"], row["hidden_dim"] = sizes
    for key in ("dtype", "gpu"):
        row[key] = cells.get(key, "")
    if "graph" in cells:
        row["timing"] = "graph" if _truth(cells["graph"]) else "eager"
    label = column.label
    if cells.get("label"):
        by_row = read_label(cells["label"], said)
        if not by_row.used:
            return None
        label = Label(
            by_row.op or label.op,
            by_row.algorithm or label.algorithm,
            by_row.kernel_family or label.kernel_family,
        )
    row["op"], row["algorithm"] = label.op, label.algorithm
    if label.kernel_family:
        row["kernel_family"] = label.kernel_family
    if "one_stage" in cells:
        row["algorithm"] = "1stage" if _truth(cells["one_stage"]) else "2stage"
    plain = column.name.lower()
    for statistic in ("median", "mean", "min"):
        if statistic in plain or (statistic == "mean" and "avg" in plain):
            row["statistic"] = statistic
    if re.match(r"max[_ (]?us", plain):
        row["rank_reduction"] = "max"
    return row


def _whole(text: str, where: str, name: str) -> int:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {name} is '{text}', not a whole number") from None
    if value != int(value):
        raise InputError(f"{where}: {name} is '{text}', not a whole number")
    return int(value)


def _truth(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes", "on", "1stage")
