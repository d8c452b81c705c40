"""From measured rows to what the model can be compared with, and an account of what it cannot.

Every row is either used or set aside for one named reason; the counts always add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data import hardware
from ..data import kernels as kernel
from ..data.measurement import GRID, Measurements
from ..data.words import Words, combined, members, numbered
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

#: Why rows of other kernels than AITER's are set aside.
NOT_MODELLED = "kernel family not modelled"

#: What a dtype that the source leaves out is taken for.
SILENT_DTYPE = "bf16"


class Group(Struct, frozen=True, dict=True):
    """Rows that ran one kernel on one GPU, so that one geometry call covers them.

    ``geometry`` is an object of ``model``, which alone knows what is in it.
    """

    rows: NDArray[np.int64]
    shapes: Shapes
    algorithm: str
    arch: str
    gpu: str
    kernel: kernel.Kernel
    model: LatencyModel

    @cached_property
    def geometry(self) -> Any:
        """What the kernel does for the shapes."""
        return self.model.geometry(self.shapes, self.algorithm, self.kernel, self.arch)

    @property
    def hbm_gbps(self) -> float:
        """The GPU's memory bandwidth."""
        return hardware.hbm_gbps(self.gpu)

    @property
    def kernel_family(self) -> str:
        """Whose kernel it is."""
        return self.kernel.family

    @property
    def norm_kernel(self) -> str:
        """The kernel that norms separately."""
        return self.kernel.norm_kernel

    @property
    def state(self) -> str:
        """The kernel's state for the op and algorithm of the rows."""
        return self.kernel.state(self.shapes.op, self.algorithm)

    def select(self, members: NDArray[np.int64], rows: NDArray[np.int64]) -> Group:
        """Return some of the group's rows, by their place in it, as ``rows`` of another table."""
        return Group(
            rows, self.shapes.select(members), self.algorithm, self.arch, self.gpu, self.kernel,
            self.model,
        )  # fmt: skip

    def latency(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return modelled latencies without any harness constant; (n,) or (draws, n)."""
        costs = self.model.costs(
            values, self.arch, self.gpu, norm_kernel=self.norm_kernel, hbm_gbps=self.hbm_gbps
        )
        return np.atleast_1d(total(self.model.terms(self.geometry, costs)))


class Observations(Struct, frozen=True, dict=True):
    """Rows that the model covers, in groups; ``set_aside`` counts the others by reason.

    ``aside`` counts those of modelled ops and the families that are meant by arm as well. ``index``
    says which rows of the table that was read are those of ``table``.

    ``harness`` names, per row, the constant that the row's benchmark adds (one per source, kernel
    family and GPU); ``algorithm`` is resolved where the source let the library choose.
    """

    table: Measurements
    groups: tuple[Group, ...]
    algorithm: Words
    harness: Words
    set_aside: dict[str, int]
    read: int
    index: NDArray[np.int64]
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
    def arm(self) -> Words:
        """What each row ran: 1stage, 2stage, or separate ops by either algorithm."""
        return combined(
            (self.table.op, self.algorithm), lambda op, ran: SEPARATE_OPS if op == SEPARATE else ran
        )

    @cached_property
    def place(self) -> tuple[str, ...]:
        """Where each row was measured: its benchmark, world size and shape, as one word."""
        t = self.table
        columns = (self.harness, t.gpu, t.world_size, t.tokens, t.hidden_dim, t.bytes, t.dtype)
        return tuple("|".join(map(str, key)) for key in zip(*columns, strict=True))

    @cached_property
    def group(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which group each row is of, and its place in there."""
        which, place = np.zeros((2, len(self)), np.int64)
        for i, group in enumerate(self.groups):
            which[group.rows] = i
            place[group.rows] = np.arange(group.rows.size)
        return which, place

    def latency_of(self, rows: NDArray[np.int64]) -> Callable[[Mapping[str, Any]], Any]:
        """Return :meth:`latency` of some rows alone, as a function of the values."""
        which, place = (column[rows] for column in self.group)
        groups = []
        for i in np.unique(which).tolist():
            mine = np.flatnonzero(which == i)
            groups.append(self.groups[i].select(place[mine], mine))
        return lambda values: _joined(groups, values, rows.size)

    @property
    def size_bytes(self) -> NDArray[np.float64]:
        """Bytes of the call on one rank, per row."""
        out = np.empty(len(self))
        for group in self.groups:
            out[group.rows] = group.shapes.bytes
        return out

    def latency(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return modelled latencies without any harness constant; (n,) or (draws, n)."""
        return _joined(self.groups, values, len(self))


def _joined(groups: Sequence[Group], values: Mapping[str, Any], count: int) -> NDArray[np.float64]:
    """Return the latencies of groups that hold ``count`` rows together."""
    parts = [g.latency(values) for g in groups]
    draws = np.broadcast_shapes(*(p.shape[:-1] for p in parts)) if parts else ()
    out = np.empty((*draws, count))
    for g, part in zip(groups, parts, strict=True):
        out[..., g.rows] = part
    return out


def observe(
    table: Measurements | pd.DataFrame,
    *,
    include: tuple[str, ...] = ("clean",),
    arch: str | None = None,
    family: str = "aiter",
    times: NDArray[np.int64] | None = None,
) -> Observations:
    """Sort rows (a data frame with schema 1 columns too) into those the model covers and others.

    Rows set aside are counted by reason, each as often as ``times`` says (default: once).
    ``include`` names the qualities to use; ``arch`` keeps one arch only. ``family`` is whose
    kernels are meant: AITER's with those of the same form (:data:`.kernels.AITER_FAMILIES`), or the
    rows that ran another family's kernels alone.
    """
    table = Measurements.of(table)
    reasons = [""]
    # Which of them a row is set aside for, 0 for none.
    reason = np.zeros(len(table), np.int16)

    def code(why: str) -> int:
        if why not in reasons:
            reasons.append(why)
        return reasons.index(why)

    def drop(bad: Mask, why: str) -> None:
        reason[bad & (reason == 0)] = code(why)

    for quality in table.quality.used:
        if quality not in include:
            drop(table.quality == quality, f"quality is {quality}")
    drop(~np.isin(table.op, OPS), "op not modelled")
    meant = _of_family(table, family)
    drop(table.kernel_family == "", "kernel family not stated")
    drop(~meant, NOT_MODELLED if family == "aiter" else "another kernel family")
    drop((table.gpu == "") | (table.arch == ""), "GPU not stated")
    if arch is not None:
        drop(table.arch != arch, "another arch")
    drop(np.isnan(table.world_size), "world size not stated")
    drop(~np.isin(table.world_size, WORLD_SIZES), "world size not 2, 4 or 8")
    has_shape = ~np.isnan(table.tokens) & ~np.isnan(table.hidden_dim)
    drop(np.isnan(table.bytes) & ~has_shape, "size not stated")
    drop((table.op != ALL_REDUCE) & ~has_shape, "tokens or hidden_dim not stated")
    drop((table.dtype != "") & ~np.isin(table.dtype, list(ELEMENT_BYTES)), "dtype not modelled")
    place = ("interconnect", "kernel_family", "arch", "world_size")
    for mine, i in _alike(table, np.flatnonzero(reason == 0), place):
        model = for_interconnect(table.interconnect[i], table.kernel_family[i])
        asked = table.kernel_family[i], table.arch[i], int(table.world_size[i])
        against = "interconnect not modelled" if model is None else model.reason_against(*asked)
        if against:
            reason[mine] = code(against)
    drop(table.kernel_version.each(lambda version: "fp8" in version, np.bool_), "quantised payload")

    kernels, which = _kernels(table, reason == 0)
    drop(which < 0, "kernel not modelled")
    silent = ~np.isin(table.algorithm, (ONE_STAGE, TWO_STAGE))
    with_rule = np.array(
        [bool(ran.plain_1stage_below_bytes) for ran in kernels] + [False], np.bool_
    )
    drop(silent & ((table.op == FUSED) | ~with_rule[which]), "algorithm not stated")
    algorithm = _resolved(table, silent & (reason == 0), kernels, which)
    drop(
        (table.kernel_family == "vllm") & (table.world_size == 8) & (algorithm == TWO_STAGE),
        "vLLM's own 2-stage at 8 ranks not modelled",
    )

    used = reason == 0
    rows = table if used.all() else table.select(used)
    algorithm, which = algorithm[used], which[used]
    groups = _groups(rows, algorithm, kernels, which)
    harness = combined((rows.source, rows.kernel_family), "{}/{}".format)
    on_gpu = combined((harness, rows.gpu), "{}/{}".format)
    gpus = Counter(name.rpartition("/")[0] for name in on_gpu.used)
    if any(count > 1 for count in gpus.values()):
        harness = combined(
            (harness, rows.gpu), lambda name, gpu: f"{name}/{gpu}" if gpus[name] > 1 else name
        )
    set_aside = Words(reasons, reason)
    if times is None:
        times = np.ones(len(table), np.int64)
    counts = counted(set_aside[~used], times[~used])
    known = meant & ~used
    return Observations(
        rows, groups, algorithm, harness, dict(counts.most_common()), int(times.sum()),
        np.flatnonzero(used), _aside(table.select(known), set_aside[known], times[known]),
    )  # fmt: skip


def counted(words: Words, times: NDArray[np.int64]) -> Counter[str]:
    """Return how often rows say each word, in the order in which they come up."""
    counts: Counter[str] = Counter()
    number, first = numbered([words])
    for i, rows in zip(first.tolist(), members(number, first.size), strict=True):
        counts[words[i]] = int(times[rows].sum())
    return counts


def _alike(
    table: Measurements, rows: NDArray[np.int64], names: tuple[str, ...]
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield, for the rows that agree in columns, their indices in the table and the first one."""
    some = table if rows.size == len(table) else table.select(rows)
    number, first = some.numbered(names)
    for mine in members(number, first.size):
        yield rows[mine], int(rows[mine[0]])


def _resolved(
    table: Measurements,
    auto: Mask,
    kernels: list[kernel.Kernel],
    which: NDArray[np.int64],
) -> Words:
    """Return what each row ran, resolved where the library chose (``auto``)."""
    if not auto.any():
        return table.algorithm
    element = table.dtype.each(lambda d: ELEMENT_BYTES.get(d or SILENT_DTYPE, 0), np.int64)
    size = np.where(np.isnan(table.bytes), table.tokens * table.hidden_dim * element, table.bytes)
    text = table.algorithm.astype("U8")
    for i in np.flatnonzero(auto).tolist():
        one_stage = kernels[which[i]].auto_is_1stage(table.world_size[i], size[i])
        text[i] = ONE_STAGE if bool(one_stage) else TWO_STAGE
    return Words.of(text)


def _of_family(table: Measurements, family: str) -> Mask:
    """Return the rows that a family's calibration is made of, clean or not."""
    if family == "aiter":
        return np.isin(table.kernel_family, kernel.AITER_FAMILIES)
    names = ("kernel_family", "source", "kernel_version", "algorithm")
    number, first = table.numbered(names)
    ran = [kernel.ran(*(getattr(table, n)[i] for n in names)) for i in first.tolist()]
    return np.array([name == family for name in ran], np.bool_)[number]


def _aside(table: Measurements, reason: Words, times: NDArray[np.int64]) -> tuple[SetAside, ...]:
    """Count rows set aside by arm, source and reason, where the model knows the op."""
    of_an_arm = np.isin(table.op, OPS) & (table.gpu != "") & ~np.isnan(table.world_size)
    columns = (table.gpu, table.op, table.algorithm, table.kernel_family, table.source, reason)
    number, first = numbered([c[of_an_arm] for c in (table.world_size, *columns)])
    count = [int(times[of_an_arm][rows].sum()) for rows in members(number, first.size)]
    at = np.flatnonzero(of_an_arm)[first].tolist()
    cells = [
        (*(c[i] for c in (table.world_size, *columns)), n) for i, n in zip(at, count, strict=True)
    ]
    return tuple(
        {
            "gpu": gpu, "world_size": int(n), "op": op, "algorithm": algorithm,
            "kernel_family": family, "source": source, "reason": why, "rows": count,
        }
        for n, gpu, op, algorithm, family, source, why, count in sorted(cells)
    )  # fmt: skip


def _kernels(table: Measurements, wanted: Mask) -> tuple[list[kernel.Kernel], NDArray[np.int64]]:
    """Return the kernels of the wanted rows, and which of them each row ran, -1 for none."""
    names = ("kernel_family", "source", "kernel_version", "date", "algorithm")
    which = np.full(len(table), -1, np.int64)
    kernels: dict[kernel.Kernel, int] = {}
    for rows, i in _alike(table, np.flatnonzero(wanted), (*names, *GRID)):
        ran = kernel.of_row(*(getattr(table, name)[i] for name in names))
        if ran is not None:
            grid = (np.nan_to_num(getattr(table, name)[i]) for name in GRID)
            ran = ran.on_grid(*(int(of_row) or None for of_row in grid))
            which[rows] = kernels.setdefault(ran, len(kernels))
    return list(kernels), which


def _groups(
    rows: Measurements,
    algorithm: Words,
    kernels: list[kernel.Kernel],
    which: NDArray[np.int64],
) -> tuple[Group, ...]:
    columns = (rows.op, algorithm, rows.dtype, rows.arch, rows.gpu, rows.interconnect)
    number, first = numbered([*columns, which])
    groups = []
    for i, index in zip(first.tolist(), members(number, first.size), strict=True):
        op, alg, stated, arch, gpu, interconnect = (column[i] for column in columns)
        ran, dtype = kernels[which[i]], stated or SILENT_DTYPE
        tokens, hidden = rows.tokens[index], rows.hidden_dim[index]
        # A plain all-reduce may come as bytes alone; its kernel sees one row of elements.
        flat = np.isnan(tokens) | np.isnan(hidden)
        tokens = np.where(flat, 1, tokens)
        hidden = np.where(flat, rows.bytes[index] / ELEMENT_BYTES[dtype], hidden)
        shapes = Shapes.of(tokens, hidden, rows.world_size[index], op=op, dtype=dtype)
        model = for_interconnect(interconnect, ran.family)
        assert model is not None  # observe sets rows of other interconnects aside
        groups.append(Group(index, shapes, alg, arch, gpu, ran, model))
    return tuple(groups)
