"""SGLang's benchmark/kernels/all_reduce (https://github.com/sgl-project/sglang).

- ``benchmark_fused_ar_rms_amd.py``: fused (AITER's kernel) against split, CSV and markdown; the
  median over the repeats, averaged over the ranks. ``correctness_ok`` compares the two.
- ``benchmark_fused_ar_rms_quant_amd.py``: the same with quantisation, of which one kernel
  (``fused1``) is one op.
- ``benchmark_rocm.py``: implementations of the plain all-reduce, CSV, report and console; the
  slowest rank's mean.
- ``benchmark_all_reduce.py``, ``benchmark_aiter.py``: console, fp16, eager, mean over the ranks.
- ``benchmark_torch_symm_mem.py``, ``benchmark_mscclpp.py``: markdown, bf16, microseconds.
"""

from __future__ import annotations

import re

from .context import said_by
from .labels import Label, spoken
from .quantities import is_no_figure, microseconds, size
from .rows import Imported
from .table import Harness, read_table
from .tables import Table, tables_of
from .text_file import TextFile, shortened

_LEFT = Label("other", used=False)
_QUANT = "fused_ar_rmsnorm_quant_fp8"


def _fused(text: str) -> Label | None:
    name = spoken(text)
    if name.startswith("split_p50"):
        return Label("ar_then_rmsnorm", "", "aiter")
    return Label("fused_ar_rmsnorm", "", "aiter") if name.startswith("fused_p50") else None


def _quantised(text: str) -> Label | None:
    name = spoken(text)
    if re.match(r"split|fused2", name):
        return _LEFT
    if not name.startswith("fused1"):
        return None
    return Label(_QUANT, "", "aiter", version="fp8 and bf16" if "bf16" in name else "fp8")


#: Implementations of the plain all-reduce: family of each.
IMPLEMENTATIONS = {
    "rccl": "rccl", "pynccl": "rccl", "sgl_v1": "sglang", "sgl_v2": "sglang", "aiter": "aiter",
    "torch_symm_mem": "torch_symm_mem", "qr_fp": "quickreduce", "qr_fp8": "quickreduce",
    "qr_int6": "quickreduce", "qr_int4": "quickreduce", "qr_int3": "quickreduce",
    "customar": "sglang", "torchsymmmem": "torch_symm_mem", "sglang": "sglang",
    "torch_eager_time": "", "symm_mem_eager_time": "torch_symm_mem", "pynccl_graph_time": "",
    "symm_mem_graph_time": "torch_symm_mem", "msccl_eager_time": "mscclpp",
    "msccl_graph_time": "mscclpp", "custom_ar": "sglang",
}  # fmt: skip


def _plain(text: str) -> Label | None:
    name = re.sub(r"_ms$", "", spoken(text))
    if name in IMPLEMENTATIONS:
        plainly = name.replace("_ms", "") in ("aiter", "rccl", "customar", "sglang", "custom_ar")
        version = "" if plainly else re.sub(r"_(?:eager|graph)?_?time$", "", name).replace("_", "-")
        return Label("all_reduce", "", IMPLEMENTATIONS[name], version=version)
    return _LEFT if re.search(r"rs_?ag", name) else None


_AVERAGE = {"statistic": "mean", "rank_reduction": "mean", "timing": "eager"}
FUSED = Harness(cells={"statistic": "median", "rank_reduction": "mean"}, arm=_fused, captions=False)
QUANTISED = Harness(
    cells={"statistic": "median", "rank_reduction": "mean"}, arm=_quantised, captions=False,
    tells=("quant",),
)  # fmt: skip
ROCM = Harness(cells={"statistic": "mean", "rank_reduction": "max"}, arm=_plain, captions=False)
CONSOLE = Harness(cells={**_AVERAGE, "dtype": "fp16"}, arm=_plain, unit="ms", captions=False)
MESSAGES = Harness(
    cells={"statistic": "mean", "rank_reduction": "rank0", "dtype": "bf16"}, arm=_plain, unit="us",
    captions=False,
)  # fmt: skip
SUMS = Harness(
    cells={"statistic": "median", "rank_reduction": "rank0", "dtype": "bf16", "hidden_dim": 16384,
           "timing": "eager"},
    arm=_plain, captions=False,
)  # fmt: skip


def parse(file: TextFile, imported: Imported) -> None:
    """Read a file; see :mod:`costmodel.data.importers.formats`."""
    for table, _ in tables_of(file, "sglang", imported):
        names = {spoken(name) for name in table.header}
        harness = _harness(table, names)
        if harness is None:
            imported.note(f"the table of line {table.line} sums others up: not counted")
        else:
            read_table(table, file.name, imported, harness)
    _rocm_console(file, imported)


def _harness(table: Table, names: set[str]) -> Harness | None:
    """Return which benchmark wrote a table, None for a table that repeats others."""
    if names & {"best_lossless", "most_lossless_wins", "measured_rows", "measured_range"}:
        return None
    if any(name.startswith(("fused1", "fused2")) for name in names):
        return QUANTISED
    if any(name.startswith("fused_p50") for name in names):
        return FUSED
    if "msg_size" in names:
        return MESSAGES
    if any(name.startswith(("customar", "aiter_ms")) for name in names):
        return CONSOLE
    if "custom_ar" in names:
        return SUMS
    return ROCM


_MODE = re.compile(r"^Results \((eager|graph); slowest-rank average (us|ms|s);")
_SIZE = re.compile(r"^\s*(\d+ (?:[KMG]i)?B): (\S+=.*)$")


def _rocm_console(file: TextFile, imported: Imported) -> None:
    """Read what benchmark_rocm.py prints at its end: a line a size, ``name=milliseconds``."""
    timing = unit = ""
    world_size = None
    for line, text in file.program_lines():
        if "world_size=" in text or "nproc_per_node" in text:
            world_size = said_by(text, bare=False).get("world_size", world_size)
        if match := _MODE.match(text):
            timing, unit = match[1], match[2]
        match = _SIZE.match(text) if timing else None
        if match is None:
            continue
        for name, time in re.findall(r"([\w-]+)=([^\s,]+)", match[2]):
            where = f"{file.name}:{line}"
            label = _plain(name)
            found = size(match[1], None)
            latency = microseconds(time, {"us": 1.0, "ms": 1e3, "s": 1e6}[unit])
            if label is None:
                imported.leave(where, f"another implementation: {shortened(name, 40)}")
            elif is_no_figure(time) or latency is None or found is None:
                imported.leave(where, f"no time ({shortened(time, 20)})")
            else:
                imported.add(
                    {"op": label.op, "kernel_family": label.kernel_family,
                     "kernel_version": label.version,
                     "bytes": found.exact, "timing": timing, "latency_us": latency,
                     "statistic": "mean", "rank_reduction": "max", "world_size": world_size},
                    where,
                )  # fmt: skip
