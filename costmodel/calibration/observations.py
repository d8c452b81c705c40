"""From measured rows to what the model can be compared with, and an account of what it cannot.

Every row is either used or set aside for one named reason; the counts always add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data import hardware
from ..data import kernels as kernel
from ..data.measurement import Measurements
from ..model.choose import for_interconnect
from ..model.interface import LatencyModel
from ..model.latency import total
from ..model.shape import (
    ALL_REDUCE,
    FUSED,
    ONE_STAGE,
    OPS,
    SEPARATE,
    SEPARATE_OPS,
    TWO_STAGE,
    WORLD_SIZES,
    Shapes,
)
from ..units import ELEMENT_BYTES
from .posterior import SetAside

if TYPE_CHECKING:
    import pandas as pd

Mask = NDArray[np.bool_]

#: What a dtype that the source leaves out is taken for.
SILENT_DTYPE = "bf16"


@dataclass(frozen=True)
class Group:
    """Rows that ran one kernel on one GPU, so that one geometry call covers them.

    ``state`` is the kernel's for the rows' op and algorithm (:meth:`.Kernel.state`), ``geometry``
    an object of ``model``, which alone knows what is in it.
    """

    rows: NDArray[np.int64]
    shapes: Shapes
    algorithm: str
    arch: str
    gpu: str
    hbm_gbps: float
    kernel_family: str
    norm_kernel: str
    state: str
    model: LatencyModel
    geometry: Any

    def latency(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return modelled latencies without any harness constant; (n,) or (draws, n)."""
        costs = self.model.costs(
            values, self.arch, self.gpu, norm_kernel=self.norm_kernel, hbm_gbps=self.hbm_gbps
        )
        return np.atleast_1d(total(self.model.terms(self.geometry, costs)))


@dataclass(frozen=True)
class Observations:
    """Rows that the model covers, in groups; ``set_aside`` counts the others by reason.

    ``aside`` counts those of modelled ops and the families that are meant by arm as well.

    ``harness`` names, per row, the constant that the row's benchmark adds (one per source, kernel
    family and GPU); ``algorithm`` is resolved where the source let the library choose.
    """

    table: Measurements
    groups: tuple[Group, ...]
    algorithm: NDArray[np.str_]
    harness: NDArray[np.str_]
    set_aside: dict[str, int]
    read: int
    aside: tuple[SetAside, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        aside = sum(self.set_aside.values())
        sources = len(set(self.table.source.tolist()))
        return (
            f"Observations({len(self)} of {self.read} rows in {len(self.groups)} groups, "
            f"{sources} sources; {aside} set aside for {len(self.set_aside)} reasons)"
        )

    @property
    def latency_us(self) -> NDArray[np.float64]:
        """Measured latencies."""
        return self.table.latency_us

    @cached_property
    def arm(self) -> NDArray[np.str_]:
        """What each row ran: 1stage, 2stage, or separate ops by either algorithm."""
        return np.where(self.table.op == SEPARATE, SEPARATE_OPS, self.algorithm)

    @cached_property
    def place(self) -> tuple[str, ...]:
        """Where each row was measured: its benchmark, world size and shape, as one word."""
        t = self.table
        columns = (self.harness, t.gpu, t.world_size, t.tokens, t.hidden_dim, t.bytes, t.dtype)
        return tuple("|".join(map(str, key)) for key in zip(*columns, strict=True))

    @property
    def size_bytes(self) -> NDArray[np.float64]:
        """Bytes of the call on one rank, per row."""
        out = np.empty(len(self))
        for group in self.groups:
            out[group.rows] = group.shapes.bytes
        return out

    def latency(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return modelled latencies without any harness constant; (n,) or (draws, n)."""
        parts = [g.latency(values) for g in self.groups]
        draws = np.broadcast_shapes(*(p.shape[:-1] for p in parts)) if parts else ()
        out = np.empty((*draws, len(self)))
        for g, part in zip(self.groups, parts, strict=True):
            out[..., g.rows] = part
        return out


def observe(
    table: Measurements | pd.DataFrame,
    *,
    include: tuple[str, ...] = ("clean",),
    arch: str | None = None,
    family: str = "aiter",
) -> Observations:
    """Sort rows (a data frame with schema 1 columns too) into those the model covers and others.

    Rows set aside are counted by reason.
    ``include`` names the qualities to use; ``arch`` keeps one arch only. ``family`` is whose
    kernels are meant: AITER's with those of the same form (:data:`.kernels.AITER_FAMILIES`), or the
    rows that ran another family's kernels alone.
    """
    table = Measurements.of(table)
    reason = np.full(len(table), "", dtype="U64")

    def drop(bad: Mask, why: str) -> None:
        reason[bad & (reason == "")] = why

    for quality in np.unique(table.quality):
        if quality not in include:
            drop(table.quality == quality, f"quality is {quality}")
    drop(~np.isin(table.op, OPS), "op not modelled")
    meant = _of_family(table, family)
    drop(~meant, "kernel family not modelled" if family == "aiter" else "another kernel family")
    drop((table.gpu == "") | (table.arch == ""), "GPU not stated")
    if arch is not None:
        drop(table.arch != arch, "another arch")
    drop(np.isnan(table.world_size), "world size not stated")
    drop(~np.isin(table.world_size, WORLD_SIZES), "world size not 2, 4 or 8")
    has_shape = ~np.isnan(table.tokens) & ~np.isnan(table.hidden_dim)
    drop(np.isnan(table.bytes) & ~has_shape, "size not stated")
    drop((table.op != ALL_REDUCE) & ~has_shape, "tokens or hidden_dim not stated")
    drop((table.dtype != "") & ~np.isin(table.dtype, list(ELEMENT_BYTES)), "dtype not modelled")
    for row in np.flatnonzero(reason == "").tolist():
        model = for_interconnect(str(table.interconnect[row]))
        asked = str(table.kernel_family[row]), str(table.arch[row]), int(table.world_size[row])
        reason[row] = (
            "interconnect not modelled" if model is None else model.reason_against(*asked) or ""
        )
    quantised = np.char.find(table.kernel_version, "fp8") >= 0
    drop(quantised, "quantised payload")

    algorithm = table.algorithm.astype("U8")
    kernels = _kernels(table, reason == "")
    drop(np.array([ran is None for ran in kernels], np.bool_), "kernel not modelled")
    silent = ~np.isin(algorithm, (ONE_STAGE, TWO_STAGE))
    no_rule = np.array([not (ran and ran.plain_1stage_below_bytes) for ran in kernels], np.bool_)
    drop(silent & ((table.op == FUSED) | no_rule), "algorithm not stated")
    for i in np.flatnonzero(silent & (reason == "")).tolist():
        size = table.bytes[i]
        if np.isnan(size):
            element = ELEMENT_BYTES[str(table.dtype[i]) or SILENT_DTYPE]
            size = table.tokens[i] * table.hidden_dim[i] * element
        ran = kernels[i]
        one_stage = ran is not None and bool(ran.auto_is_1stage(table.world_size[i], size))
        algorithm[i] = ONE_STAGE if one_stage else TWO_STAGE
    drop(
        (table.kernel_family == "vllm") & (table.world_size == 8) & (algorithm == TWO_STAGE),
        "vLLM's own 2-stage at 8 ranks not modelled",
    )

    used = np.flatnonzero(reason == "")
    rows = table.select(used)
    algorithm = algorithm[used]
    ran_kernels = [ran for i in used.tolist() if (ran := kernels[i]) is not None]
    groups = _groups(rows, algorithm, ran_kernels)
    harness = np.char.add(np.char.add(rows.source, "/"), rows.kernel_family)
    gpus = Counter(h for h, _ in set(zip(harness.tolist(), rows.gpu.tolist(), strict=True)))
    several = [h for h, count in gpus.items() if count > 1]
    harness = np.where(
        np.isin(harness, several), np.char.add(np.char.add(harness, "/"), rows.gpu), harness
    )
    counts = Counter(reason[reason != ""].tolist())
    return Observations(
        rows, groups, algorithm, harness.astype(np.str_), dict(counts.most_common()), len(table),
        _aside(table.select(meant), reason[meant]),
    )  # fmt: skip


def _of_family(table: Measurements, family: str) -> Mask:
    """Return the rows that a family's calibration is made of, clean or not."""
    if family == "aiter":
        return np.isin(table.kernel_family, kernel.AITER_FAMILIES)
    columns = (table.kernel_family, table.source, table.kernel_version, table.algorithm)
    rows = zip(*(c.tolist() for c in columns), strict=True)
    return np.array([kernel.ran(*row) == family for row in rows], np.bool_)


def _aside(table: Measurements, reason: NDArray[np.str_]) -> tuple[SetAside, ...]:
    """Count rows set aside by arm, source and reason, where the model knows the op."""
    of_an_arm = (reason != "") & np.isin(table.op, OPS) & (table.gpu != "")
    of_an_arm &= ~np.isnan(table.world_size)
    columns = (table.gpu, table.op, table.algorithm, table.kernel_family, table.source, reason)
    rows = np.flatnonzero(of_an_arm)
    cells = zip(*(c[rows].tolist() for c in (table.world_size, *columns)), strict=True)
    return tuple(
        {
            "gpu": gpu, "world_size": int(n), "op": op, "algorithm": algorithm,
            "kernel_family": family, "source": source, "reason": why, "rows": count,
        }
        for (n, gpu, op, algorithm, family, source, why), count in sorted(Counter(cells).items())
    )  # fmt: skip


def _kernels(table: Measurements, wanted: Mask) -> list[kernel.Kernel | None]:
    """Return the kernel of each wanted row, None where it is not modelled; equal ones are one."""
    columns = (
        table.kernel_family, table.source, table.kernel_version, table.date, table.algorithm,
        *(np.nan_to_num(grid) for grid in (table.workgroups, table.threads)),
    )  # fmt: skip
    state = list(zip(*(c.tolist() for c in columns), strict=True))
    one: dict[kernel.Kernel, kernel.Kernel] = {}
    found: dict[tuple[Any, ...], kernel.Kernel | None] = {}
    for key in {state[i] for i in np.flatnonzero(wanted).tolist()}:
        ran = kernel.of_row(*key[:5])
        if ran is not None:
            ran = ran.on_grid(*(int(of_row) or None for of_row in key[5:]))
            ran = one.setdefault(ran, ran)
        found[key] = ran
    return [found.get(key) for key in state]


def _groups(
    rows: Measurements, algorithm: NDArray[np.str_], kernels: list[kernel.Kernel]
) -> tuple[Group, ...]:
    columns = (rows.op, algorithm, rows.dtype, rows.arch, rows.gpu, rows.interconnect)
    cells = zip(*(c.tolist() for c in columns), strict=True)
    keys: dict[tuple[Any, ...], list[int]] = {}
    for i, (key, ran) in enumerate(zip(cells, kernels, strict=True)):
        keys.setdefault((*key, id(ran)), []).append(i)
    groups = []
    for (op, alg, stated, arch, gpu, interconnect, _), members in keys.items():
        ran, dtype = kernels[members[0]], stated or SILENT_DTYPE
        index = np.array(members, np.int64)
        tokens, hidden = rows.tokens[index], rows.hidden_dim[index]
        # A plain all-reduce may come as bytes alone; its kernel sees one row of elements.
        flat = np.isnan(tokens) | np.isnan(hidden)
        tokens = np.where(flat, 1, tokens)
        hidden = np.where(flat, rows.bytes[index] / ELEMENT_BYTES[dtype], hidden)
        shapes = Shapes.of(tokens, hidden, rows.world_size[index], op=op, dtype=dtype)
        model = for_interconnect(interconnect)
        assert model is not None  # observe sets rows of other interconnects aside
        groups.append(
            Group(
                rows=index,
                shapes=shapes,
                algorithm=alg,
                arch=arch,
                gpu=gpu,
                hbm_gbps=hardware.hbm_gbps(gpu),
                kernel_family=ran.family,
                norm_kernel=ran.norm_kernel,
                state=ran.state(op, alg),
                model=model,
                geometry=model.geometry(shapes, alg, ran, arch),
            )
        )
    return tuple(groups)
