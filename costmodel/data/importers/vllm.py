"""Output of vLLM's benchmarks/kernels (https://github.com/vllm-project/vllm).

- ``benchmark_device_communicators.py --output-json``: milliseconds a call of each communicator by
  sequence length; graph replays, rank 0's clock, mean over the trials.
- ``benchmark_fused_collective.py --output-file``: markdown with a section for each configuration.
- any other table, as :mod:`costmodel.data.importers.table` reads it.
"""

from __future__ import annotations

import re
from typing import Any, TypedDict

from ...errors import InputError
from ...files import parse_json
from . import table
from .labels import read_label
from .rows import Imported
from .text_file import TextFile, shortened

#: Communicators of the JSON: (op, algorithm, family). ``pynccl`` is RCCL on ROCm and NCCL on CUDA,
#: which the file does not say.
COMMUNICATORS = {
    "ca_1stage": ("all_reduce", "1stage", "vllm"),
    "ca_2stage": ("all_reduce", "2stage", "vllm"),
    "pynccl": ("all_reduce", "", ""),
    "pynccl-symm": ("all_reduce", "", ""),
    "symm_mem_two_shot": ("all_reduce", "2stage", "torch_symm_mem"),
    "symm_mem_multimem": ("all_reduce", "", "torch_symm_mem"),
    "flashinfer_trtllm": ("all_reduce", "", "flashinfer"),
    "flashinfer_mnnvl": ("all_reduce", "", "flashinfer"),
}


#: What a file should be, for messages.
FILES = "the JSON that vLLM's benchmarks write"


class Sequence(TypedDict):
    """Milliseconds a call of each communicator at one sequence length."""

    timings: dict[str, float]


class MachineAndShape(TypedDict, total=False):
    """What a file of communicators says of all its times."""

    world_size: int
    hidden_size: int
    dtype: str


class Communicators(MachineAndShape):
    """The JSON of ``benchmark_device_communicators.py``, by sequence length."""

    results: dict[int, Sequence]


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    text, path = file.text(), file.name
    if text.lstrip().startswith("{"):
        data = parse_json(text, dict[str, Any], path, FILES, foreign=True)
        if isinstance(data.get("results"), dict):
            read = parse_json(text, Communicators, path, FILES, foreign=True)
            return _communicators(read, path, imported)
    if "**Hidden Dimension:**" in text:
        return _fused_collective(text, path, imported)
    return table.parse(file, imported)


def _communicators(data: Communicators, path: str, imported: Imported) -> None:
    for tokens, found in data["results"].items():
        for name, milliseconds in found["timings"].items():
            if name not in COMMUNICATORS:
                where = f"{path}: results['{tokens}']"
                imported.leave(where, f"not all-reduce: {shortened(name, 40)}")
                continue
            op, algorithm, family = COMMUNICATORS[name]
            row = {
                "op": op,
                "algorithm": algorithm,
                "kernel_family": family,
                "world_size": data.get("world_size", ""),
                "tokens": tokens,
                "hidden_dim": data.get("hidden_size", ""),
                "dtype": data.get("dtype", ""),
                "latency_us": milliseconds * 1e3,
                "statistic": "mean",
                "rank_reduction": "rank0",
                "timing": "graph",
            }
            if name.startswith("pynccl"):
                row["kernel_version"] = name
            imported.add(row, f"{path}: results['{tokens}']['{name}']")
    imported.note("rank 0's mean over graph replays, as that benchmark measures")


def _fused_collective(text: str, path: str, imported: Imported) -> None:
    world_size = re.search(r"\*\*World Size:\*\*\s*(\d+)", text)
    hidden_dim = re.search(r"\*\*Hidden Dimension:\*\*\s*(\d+)", text)
    if not world_size or not hidden_dim:
        raise InputError(f"{path}: World Size or Hidden Dimension missing above the tables")
    sections = re.split(r"^## Configuration: ", text, flags=re.MULTILINE)[1:]
    for section in sections:
        given = re.match(r"num_tokens=(\d+), dtype=(\S+?), (with residual|no residual)", section)
        if not given:
            raise InputError(f"{path}: a configuration without num_tokens and dtype")
        where = f"{path}: num_tokens={given[1]}"
        for record in (record for rows in table.tables(section, path) for record in rows):
            operation, time = record.cells.get("Operation", ""), record.cells.get("Time (ms)", "")
            label = read_label(operation, imported.said)
            if not label.used or not label.op or given[3] == "no residual":
                imported.leave(where, f"not used: {shortened(operation, 60)} ({given[3]})")
                continue
            try:
                latency_us = float(time) * 1e3
            except ValueError:
                imported.leave(where, "operation without a time")
                continue
            row = {
                "op": label.op,
                "algorithm": label.algorithm,
                "kernel_family": label.kernel_family or "vllm",
                "kernel_version": operation,
                "world_size": int(world_size[1]),
                "tokens": int(given[1]),
                "hidden_dim": int(hidden_dim[1]),
                "dtype": given[2],
                "latency_us": latency_us,
                "statistic": "mean",
                "rank_reduction": "rank0",
                "timing": "graph",
            }
            imported.add(row, where)
