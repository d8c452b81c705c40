"""What every profile's rows share: the cells that a kernel's name fills, and those of a profile.

Profiles time kernels inside a running engine, with the wait for the slowest rank: their rows are
``serving_trace``, and never clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .. import gpu_names
from ..kernel_calls import CollectiveCall
from ..kernel_names import NORM, UNKNOWN, KernelName, read
from .labels import Label, read_label
from .rows import Imported, Said
from .text_file import shortened

NO_KERNEL = "no all-reduce kernel that is known by its name"
CUT = "its name is cut short, so that it is no all-reduce kernel that is known"
ALONE = "a local kernel by itself, no all-reduce"
NO_OP = "the name does not say which op it is: --column NAME=OP"

#: Of a call's name in ``kernel_version``, so much is kept.
_NAME_CHARACTERS = 200


class CallLatency(NamedTuple):
    """One latency of a call, and what is to be said of it: statistic, ranks, the launches in it."""

    latency_us: float
    statistic: str
    rank_reduction: str = ""
    detail: str = ""
    gpu: str = ""


def reason_against(name: KernelName, said: Said) -> str:
    """Return why a kernel is no part of an all-reduce that could be a row, or ""."""
    if not name.known:
        return CUT if name.cut else NO_KERNEL
    if name.part == NORM:
        return ALONE
    return "" if _label(name, said).used else "left out by --column"


def add(
    imported: Imported, call: CollectiveCall, names: Sequence[KernelName], timed: CallLatency,
    where: str, on_amd: bool,
) -> str:  # fmt: skip
    """Give one latency to the account; return "" for a row, else why it is none.

    ``names`` are those of the call's kernels. NCCL's kernels are RCCL's ``on_amd``, that is where
    the tool or the user names AMD, for they are named alike.
    """
    label = _label(names[0], imported.said)
    op, algorithm = label.op or call.op, label.algorithm or call.algorithm
    if not (op or imported.said.op):
        imported.leave(where, NO_OP)
        return NO_OP
    family = "" if call.family == UNKNOWN else call.family
    on_amd = on_amd or imported.said.arch.startswith("gfx") or imported.said.gpu in _amd_gpus()
    title = " + ".join(shortened(name.text, _NAME_CHARACTERS) for name in names)
    before = imported.n_rows
    imported.add(
        {
            "source": imported.said.source,
            "gpu": timed.gpu,
            "world_size": next((n.world_size for n in names if n.world_size), ""),
            "op": op,
            "algorithm": algorithm,
            "kernel_family": "rccl" if family == "nccl" and on_amd else family,
            "detail": f"{title}, {timed.detail}" if timed.detail else title,
            "dtype": next((n.dtype for n in names if n.dtype), ""),
            "latency_us": round(timed.latency_us, 6),
            "statistic": timed.statistic,
            "rank_reduction": timed.rank_reduction,
            "timing": "profiler",
            "quality": "serving_trace",
        },
        where,
    )
    return "" if imported.n_rows > before else "as the call before it"


def add_statistic(
    imported: Imported, name: str, calls: int | None, time_us: float | None, statistic: str,
    where: str, on_amd: bool,
) -> None:  # fmt: skip
    """Give the statistic of one kernel over its calls in a profile to the account."""
    kernel = read(name)
    reason = reason_against(kernel, imported.said)
    if not reason and not kernel.collective:
        reason = ALONE
    if not reason and not (calls and time_us and time_us > 0):
        reason = "no call, or no time of one"
    if reason:
        imported.leave(where, reason)
        return
    assert time_us is not None
    call = CollectiveCall(kernel.row_op, kernel.algorithm, kernel.family, (0,))
    timed = CallLatency(time_us, statistic, detail=f"{calls} calls")
    add(imported, call, (kernel,), timed, where, on_amd)
    imported.note("statistics over all calls of a kernel, of whatever sizes, with waits for ranks")
    if kernel.cut:
        imported.note(
            f"names are cut short by the tool, so that dtype and ranks are lost: "
            f"{shortened(kernel.text, 60)}"
        )


def _amd_gpus() -> set[str]:
    return {gpu for gpu, arch in gpu_names.known().items() if arch.startswith("gfx")}


def _label(name: KernelName, said: Said) -> Label:
    """Return what the user says of a kernel by --column, by its one form or its bare name."""
    for text in (name.text, name.text.partition("<")[0].rpartition("::")[2]):
        if text in said.columns:
            return read_label(text, said)
    return Label("", "")
