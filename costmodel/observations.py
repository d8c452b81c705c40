"""From measured rows to what the model can be compared with, and an account of what it cannot.

Every row is either used or set aside for one named reason; the counts always add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import fabric, hardware, kernel
from .geometry import Geometry, geometry
from .latency import Costs, costs, terms, total
from .measurement import Measurements
from .shape import ALL_REDUCE, FUSED, ONE_STAGE, OPS, TWO_STAGE, WORLD_SIZES, Shapes
from .units import ELEMENT_BYTES

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Group:
    """Rows that ran one kernel on one GPU, so that one geometry call covers them."""

    rows: NDArray[np.int64]
    geometry: Geometry
    arch: str
    gpu: str
    hbm_gbps: float
    fabric: str
    norm_kernel: str

    def costs(self, values: Mapping[str, Any], harness_us: Any = 0.0) -> Costs:
        """Resolve parameter values for this group's GPU."""
        return costs(values, self.arch, self.gpu, self.hbm_gbps, self.norm_kernel, harness_us)


@dataclass(frozen=True)
class Observations:
    """Rows that the model covers, in groups; ``set_aside`` counts the others by reason.

    ``harness`` names, per row, the constant that the row's benchmark adds (one per source, kernel
    family and GPU); ``algorithm`` is resolved where the source let the library choose.
    """

    table: Measurements
    groups: tuple[Group, ...]
    algorithm: NDArray[np.str_]
    harness: NDArray[np.str_]
    set_aside: dict[str, int]
    read: int

    def __len__(self) -> int:
        return len(self.table)

    @property
    def latency_us(self) -> NDArray[np.float64]:
        """Measured latencies."""
        return self.table.latency_us

    def latency(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return modelled latencies without any harness constant; (n,) or (draws, n)."""
        parts = [
            np.atleast_1d(total(terms(g.geometry, g.costs(values), g.fabric))) for g in self.groups
        ]
        draws = np.broadcast_shapes(*(p.shape[:-1] for p in parts)) if parts else ()
        out = np.empty((*draws, len(self)))
        for g, part in zip(self.groups, parts, strict=True):
            out[..., g.rows] = part
        return out


def observe(
    table: Measurements, *, include: tuple[str, ...] = ("clean",), arch: str | None = None
) -> Observations:
    """Sort rows into those the model covers and those set aside, with the reason.

    ``include`` names the qualities to use; ``arch`` keeps one arch only.
    """
    reason = np.full(len(table), "", dtype="U64")

    def drop(bad: Mask, why: str) -> None:
        reason[bad & (reason == "")] = why

    for quality in np.unique(table.quality):
        if quality not in include:
            drop(table.quality == quality, f"quality is {quality}")
    drop(~np.isin(table.op, OPS), "op not modelled")
    drop(~np.isin(table.kernel_family, kernel.families()), "kernel family not modelled")
    drop((table.gpu == "") | (table.arch == ""), "GPU not stated")
    if arch is not None:
        drop(table.arch != arch, "another arch")
    drop(np.isnan(table.world_size), "world size not stated")
    drop(~np.isin(table.world_size, WORLD_SIZES), "world size not 2, 4 or 8")
    has_shape = ~np.isnan(table.tokens) & ~np.isnan(table.hidden_dim)
    drop(np.isnan(table.bytes) & ~has_shape, "size not stated")
    drop((table.op != ALL_REDUCE) & ~has_shape, "tokens or hidden_dim not stated")
    drop((table.dtype != "") & ~np.isin(table.dtype, list(ELEMENT_BYTES)), "dtype not modelled")
    drop(
        np.array([fabric.of_interconnect(i) is None for i in table.interconnect], np.bool_),
        "interconnect not modelled",
    )
    quantised = np.char.find(table.kernel_version, "fp8") >= 0
    drop(quantised, "quantised payload")

    algorithm = table.algorithm.astype("U8")
    kernels: dict[int, kernel.Kernel] = {}
    cache: dict[tuple[str, ...], kernel.Kernel | None] = {}
    for i in map(int, np.flatnonzero(reason == "")):
        key = (
            str(table.kernel_family[i]), str(table.source[i]),
            str(table.kernel_version[i]), str(table.date[i]),
        )  # fmt: skip
        if key not in cache:
            cache[key] = kernel.of_row(*key)
        ran = cache[key]
        if ran is None:
            reason[i] = "kernel not modelled"
            continue
        kernels[i] = ran
        if algorithm[i] not in (ONE_STAGE, TWO_STAGE):
            if table.op[i] == FUSED:
                reason[i] = "algorithm not stated"
                continue
            size = table.bytes[i]
            if np.isnan(size):
                size = table.tokens[i] * table.hidden_dim[i] * ELEMENT_BYTES[table.dtype[i]]
            chosen = ran.auto_is_1stage(int(table.world_size[i]), size)
            algorithm[i] = ONE_STAGE if chosen else TWO_STAGE
    drop(
        (table.kernel_family == "vllm") & (table.world_size == 8) & (algorithm == TWO_STAGE),
        "vLLM's own 2-stage at 8 ranks not modelled",
    )

    used = np.flatnonzero(reason == "")
    rows = table.select(used)
    algorithm = algorithm[used]
    ran_kernels = [kernels[int(i)] for i in used]
    groups = _groups(rows, algorithm, ran_kernels)
    harness = np.char.add(np.char.add(rows.source, "/"), rows.kernel_family)
    several = {h for h in np.unique(harness) if len(set(rows.gpu[harness == h])) > 1}
    harness = np.where(
        np.isin(harness, list(several)), np.char.add(np.char.add(harness, "/"), rows.gpu), harness
    )
    counts = Counter(reason[reason != ""].tolist())
    return Observations(
        rows, groups, algorithm, harness.astype(np.str_), dict(counts.most_common()), len(table)
    )


def _groups(
    rows: Measurements, algorithm: NDArray[np.str_], kernels: list[kernel.Kernel]
) -> tuple[Group, ...]:
    keys: dict[tuple[Any, ...], list[int]] = {}
    for i in range(len(rows)):
        dtype = rows.dtype[i] or "bf16"
        key = (
            str(rows.op[i]), str(algorithm[i]), str(dtype), kernels[i], str(rows.arch[i]),
            str(rows.gpu[i]), str(rows.interconnect[i]),
        )  # fmt: skip
        keys.setdefault(key, []).append(i)
    groups = []
    for (op, alg, dtype, ran, arch, gpu, interconnect), members in keys.items():
        index = np.array(members, np.int64)
        tokens, hidden = rows.tokens[index], rows.hidden_dim[index]
        # A plain all-reduce may come as bytes alone; its kernel sees one row of elements.
        flat = np.isnan(tokens) | np.isnan(hidden)
        tokens = np.where(flat, 1, tokens)
        hidden = np.where(flat, rows.bytes[index] / ELEMENT_BYTES[dtype], hidden)
        shapes = Shapes.of(tokens, hidden, rows.world_size[index], op=op, dtype=dtype)
        groups.append(
            Group(
                index,
                geometry(shapes, alg, ran, arch=arch),
                arch,
                gpu,
                hardware.hbm_gbps(gpu),
                fabric.of_interconnect(interconnect) or fabric.FULL_MESH,
                ran.norm_kernel,
            )
        )
    return tuple(groups)
