"""Output of vLLM's benchmarks/kernels (https://github.com/vllm-project/vllm), and SGLang's copy.

- ``benchmark_device_communicators.py``: milliseconds a call of each communicator by sequence
  length, as JSON and on the console; graph replays, rank 0's clock, mean over the trials.
- ``benchmark_fused_collective.py``: markdown with a section for each configuration, or the same on
  the console; graph replays, rank 0's clock, mean.
- any other table, as :mod:`costmodel.data.importers.table` reads it.
"""

from __future__ import annotations

import re
from typing import Any, TypedDict

from ...files import parse_json
from .json_tables import is_json, json_texts
from .labels import Label, named, read_label, spoken
from .quantities import scaled
from .rows import Imported
from .table import Harness, read_table
from .tables import Table, tables_of
from .text_file import TextFile, shortened

#: Communicators: (op, algorithm, family). ``pynccl`` is RCCL on ROCm and NCCL on CUDA, which the
#: file does not say.
COMMUNICATORS = {
    "ca_1stage": ("all_reduce", "1stage", "vllm"),
    "ca_2stage": ("all_reduce", "2stage", "vllm"),
    "push_ar": ("all_reduce", "", "vllm"),
    "pynccl": ("all_reduce", "", ""),
    "pynccl-symm": ("all_reduce", "", ""),
    "symm_mem_two_shot": ("all_reduce", "2stage", "torch_symm_mem"),
    "symm_mem_multimem": ("all_reduce", "", "torch_symm_mem"),
    "flashinfer_trtllm": ("all_reduce", "", "flashinfer"),
    "flashinfer_mnnvl": ("all_reduce", "", "flashinfer"),
    "quick_reduce": ("all_reduce", "", "quickreduce"),
    "aiter_ca": ("all_reduce", "", "aiter"),
}
_BY_WORD = {
    spoken(name): Label(*found, version="" if found[1] else name)
    for name, found in COMMUNICATORS.items()
}

#: What all of these benchmarks do.
CELLS = {"statistic": "mean", "rank_reduction": "rank0", "timing": "graph"}
#: What a file should be, for messages.
FILES = "the JSON that vLLM's benchmarks write"


class Sequence(TypedDict):
    """Milliseconds a call of each communicator at one sequence length."""

    timings: dict[str, float | None]


class MachineAndShape(TypedDict, total=False):
    """What a file of communicators says of all its times."""

    world_size: int
    hidden_size: int
    dtype: str


class Communicators(MachineAndShape):
    """The JSON of ``benchmark_device_communicators.py``, by sequence length."""

    results: dict[int, Sequence]


def _communicator(text: str) -> Label | None:
    return _BY_WORD.get(spoken(text))


def _operation(text: str) -> Label | None:
    name = spoken(text)
    if name.startswith("standard") and "quant" not in name:
        how = re.search(r"native_compiled|native_rms_norm|custom_rms_norm", name)
        return Label("ar_then_rmsnorm", "", "vllm", version=how[0] if how else "")
    return None


_CONSOLE = Harness(cells=CELLS, arm=_communicator, unit="ms", captions=False)
_COLLECTIVE = Harness(cells=CELLS, arm=_operation, captions=False)


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    if '"timings"' in file.head or (is_json(file) and '"results"' in file.head):
        for text in json_texts(file):
            kind: Any = list[Communicators] if text.lstrip().startswith("[") else Communicators
            found = parse_json(text, kind, file.name, FILES, foreign=True)
            for run in found if isinstance(found, list) else [found]:
                _communicators(run, file, imported)
        if is_json(file):
            return
    for table, _ in tables_of(file, "vllm", imported):
        names = {spoken(name) for name in table.header}
        if "operation" in names:
            _collective(table, file, imported)
        elif names & set(_BY_WORD):
            read_table(table, file.name, imported, _CONSOLE)
        else:
            read_table(table, file.name, imported, Harness())
    imported.note("rank 0's mean over graph replays, as these benchmarks measure")


def _communicators(data: Communicators, file: TextFile, imported: Imported) -> None:
    for tokens, found in data["results"].items():
        for name, milliseconds in found["timings"].items():
            where = f"{file.name}: results['{tokens}']['{shortened(name, 40)}']"
            label = _communicator(name)
            if named(name, imported.said.columns) is not None:
                label = read_label(name, imported.said)
            if label is None or not label.used:
                imported.leave(where, f"not all-reduce: {shortened(name, 40)}")
                continue
            if milliseconds is None:
                imported.leave(where, "no time")
                continue
            row = {
                **CELLS,
                "op": label.op,
                "algorithm": label.algorithm,
                "kernel_family": label.kernel_family,
                "kernel_version": label.version,
                "world_size": data.get("world_size", ""),
                "tokens": tokens,
                "hidden_dim": data.get("hidden_size", ""),
                "dtype": data.get("dtype", ""),
                "latency_us": scaled(milliseconds, 1e3),
            }
            imported.add(row, where)
    imported.note("rank 0's mean over graph replays, as that benchmark measures")


def _collective(table: Table, file: TextFile, imported: Imported) -> None:
    """Read a section of ``benchmark_fused_collective.py``: one shape, a line an operation."""
    captions = " ".join(table.captions).lower()
    if "no residual" in captions or "residual=no" in captions:
        rows = list(table.rows)
        if rows:
            where = f"{file.name}:{rows[0][0]}"
            imported.leave(where, "without residual: another op than the fused one", len(rows))
        return
    read_table(table, file.name, imported, _COLLECTIVE)
