"""Whether a user's rows can be what they say: names of GPUs, and latencies in microseconds.

A table of milliseconds would calibrate without a word, and so would ``MI355`` beside MI355X. The
rows that costmodel ships are not judged: nobody's typing stands between them and their source.

No call is faster than the launch of a kernel, nor than its bytes over the nominal link rate. Units
are judged on the median of a source's rows, in multiples of that bound: from :data:`FASTEST` to
:data:`SLOWEST` times it they pass. The span is three decades, so that a table that passes fails in
milliseconds and in nanoseconds alike.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..data import gpu_names, hardware
from ..data.measurement import Measurements
from ..data.repeated import Repeated
from ..data.words import members
from ..errors import InputError
from ..model.choose import for_interconnect
from ..model.shape import ONE_STAGE, OPS
from ..units import BYTES_PER_US_PER_GBPS, ELEMENT_BYTES, kib
from .observations import SILENT_DTYPE

Array = NDArray[np.float64]

#: A payload of four bits for an element of sixteen puts a quarter of the bytes on a link.
FASTEST = 0.25

#: The slowest median of a published source is 29 times the bound (amd-acceptance-mi300x: RCCL).
SLOWEST = 1000 * FASTEST

#: Units that a table may be in by mistake: what a figure is to be multiplied by to be in us.
UNITS = {"milliseconds": 1e3, "seconds": 1e6, "nanoseconds": 1e-3}


def check(table: Measurements | Repeated) -> None:
    """Raise :class:`InputError`, with file and line, for names or units that look wrong.

    Refused are a GPU's name that looks like a known one, a known GPU under another arch, and a
    source of which more than half of the rows are off by a factor. A new GPU's name passes.
    """
    rows = Repeated.of(table)
    _check_gpus(rows.kinds)
    _check_units(rows)


def _check_gpus(table: Measurements) -> None:
    for i in table.numbered(("gpu", "arch"))[1].tolist():
        gpu, arch, where = table.gpu[i], table.arch[i], table.where(i)
        meant = gpu_names.looks_like(gpu)
        if meant:
            one = " or ".join(meant)
            raise InputError(
                f"{where}: GPU '{gpu}': did you mean {one}? write it so, or give another product "
                "the name that tells it apart, such as MI450"
            )
        if re.fullmatch(r"GFX[0-9A-F]+", gpu):
            raise InputError(f"{where}: GPU '{gpu}' is an arch; name the GPU, such as MI300X")
        known = gpu_names.arch_of(gpu)
        # Tables write NVIDIA's archs as sm90 and as sm_90.
        if known and arch and arch.replace("_", "") != known.replace("_", ""):
            raise InputError(f"{where}: {gpu} is {known}, not {arch}; correct the arch or the GPU")


def _check_units(table: Repeated) -> None:
    kinds = table.kinds
    least, usual, size = _bounds(kinds)
    number, first = kinds.numbered(("path", "source"))
    number = np.where(np.isnan(usual), -1, number)
    for group, i in enumerate(first.tolist()):
        rows = np.flatnonzero((number == group)[table.kind])
        kind, latency_us = table.kind[rows], table.latency_us[rows]
        fast = latency_us < (FASTEST * least)[kind]
        slow = latency_us > (SLOWEST * usual)[kind]
        if 2 * fast.sum() > rows.size:
            off, bound, said = fast, least, "far faster than that"
        elif 2 * slow.sum() > rows.size > 1:  # one slow row may be no more than that
            off, bound, said = slow, usual, f"over {SLOWEST:g} times slower"
        else:
            continue
        times = latency_us[off] / bound[kind[off]]
        at = np.flatnonzero(off)[np.argsort(times)[times.size // 2]]
        here, us = kind[at], float(latency_us[at])
        raise InputError(
            f"{table.where(int(rows[at]))}: latency_us is {us:g} for {kib(size[here])} at "
            f"{kinds.world_size[here]:.0f} ranks, where launch and links take {bound[here]:.4g} us "
            f"at their nominal rates; {times.size} of {rows.size} rows of source "
            f"'{kinds.source[i]}' are {said}: {_unit(us / float(bound[here]))}"
        )


def _unit(times: float) -> str:
    """Return what unit a latency of so many times the bound looks like, and what to do."""
    for unit, factor in UNITS.items():
        if FASTEST <= times * factor <= SLOWEST:
            do = f"multiply by {factor:.0f}" if factor > 1 else f"divide by {1 / factor:.0f}"
            return f"it looks like {unit}; {do}"
    return "no unit of time makes them plausible; latency_us is microseconds a call"


def _bounds(table: Measurements) -> tuple[Array, Array, Array]:
    """Return (least us, usual us, bytes) of each row, NaN where a row cannot be judged.

    Judged are rows of a modelled op and interconnect that state size and world size. Both bounds
    are the larger of a launch and the bytes over the links. They differ where a rate is not known:
    least is the launch alone, usual takes the slowest link of the kind. Ranks that share one GPU
    have no links; usual then moves the bytes of all of them through its memory once.
    """
    element = table.dtype.each(lambda d: ELEMENT_BYTES.get(d or SILENT_DTYPE, np.nan), np.float64)
    size = np.where(np.isnan(table.bytes), table.tokens * table.hidden_dim * element, table.bytes)
    ranks, launch = table.world_size, launch_us()
    stated = np.isin(table.op, OPS) & ~np.isnan(size * ranks)
    least, usual = np.full(len(table), np.nan), np.full(len(table), np.nan)
    number, first = table.numbered(("interconnect", "gpu"))
    for mine in members(number, first.size):
        interconnect, gpu = table.interconnect[int(mine[0])], table.gpu[int(mine[0])]
        model = for_interconnect(interconnect)
        mine = mine[stated[mine]]
        if model is None:
            continue
        if model.wiring is None:
            rate, moved, slowest = None, ranks[mine] * size[mine], hardware.hbm_gbps(gpu)
        else:
            one_stage = table.algorithm[mine] == ONE_STAGE
            pair = np.where(one_stage, size[mine], 2 * size[mine] / ranks[mine])
            moved = model.wiring.bottleneck_bytes(pair, ranks[mine])
            rate = hardware.link_gbps(gpu)
            slowest = slowest_link_gbps(interconnect.partition("/")[0])
        moved = moved / BYTES_PER_US_PER_GBPS
        least[mine] = launch if rate is None else np.maximum(launch, moved / rate)
        usual[mine] = np.maximum(launch, moved / (rate or slowest))
    return least, usual, size


@cache
def launch_us() -> float:
    """Return the shortest period of small kernels in a replayed graph that the facts hold, us."""
    return min(
        float(f.value)
        for f in hardware.figures()
        if (f.quantity, f.unit) == ("back_to_back_small_kernel_graph", "us")
    )


@cache
def slowest_link_gbps(kind: str) -> float:
    """Return the lowest nominal rate of a kind of link (``xgmi``, ``nvlink``) in the facts."""
    quantity = hardware.LINK_RATES[kind]
    return min(float(f.value) for f in hardware.figures() if f.quantity == quantity)
