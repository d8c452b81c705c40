"""Latency of ranks split over GPUs: several ranks a GPU, which share its port, caches and memory.

What a GPU's ranks do among themselves is :mod:`.shared_gpu`'s: turns of programs, bytes through the
L2 cache, misses. What crosses is a port's: with the N ranks on G GPUs, L = N / G on each, and S
bytes a rank, one direction of a port carries, by a count of pairs (:mod:`.fabric`)::

    1-stage            L^2 (G-1) S      read
    2-stage, fused     L^2 (G-1) S / N  read, and as much written
    2-stage, plain     L^2 (G-1) S / N  read, twice

A pass takes the slowest of its limits, the port among them; a program's turn also holds the remote
round trip and its remote bytes at the rate of its outstanding loads over that trip (Little's law).
One rank a GPU is the case L = 1. The kernels are the project's.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.kernels import OWN_FAMILIES, Kernel
from .fabric import UNEVEN, Ports, check_even
from .latency import TERMS
from .shape import FUSED, ONE_STAGE, Shapes
from .shared_gpu import (
    AcrossGpus,
    SharedGpuCosts,
    SharedGpuGeometry,
    archs,
    shared_costs,
    shared_geometry,
    shared_parameters,
    shared_terms,
)

Array = NDArray[np.float64]

#: Parameters that one value serves for all GPUs.
FOR_ALL_GPUS = (
    "launch_us",
    "second_launch_us",
    "round_trip_us",
    "trip_exposure",
    "trip_growth",
    "straggler_us",
    "release_acquire_us",
    "release_acquire_us_per_doubling",
    "norm_us",
    "miss_us",
    "eight_rank_us[fused]",
    "eight_rank_us[plain]",
    "harness_us",
)


class SplitGeometry(Struct, frozen=True):
    """What one call does: on each GPU, and across its port.

    ``crossing_bytes`` is what one direction of a port carries where every rank reads a peer's whole
    input, ``remote`` the share of what a program loads that is another GPU's. ``ends_last`` as in
    :class:`.shared_gpu.Crossing`.
    """

    on_gpu: SharedGpuGeometry
    crossing_bytes: Array
    remote: Array
    ends_last: bool = False


class SplitCosts(Struct, frozen=True):
    """What each action costs on a GPU, and across the link."""

    on_gpu: SharedGpuCosts
    read_gbps: Any
    write_gbps: Any
    program_gbps: Any
    round_trip_us: Any
    trip_exposure: Any
    trip_growth: Any
    eight_rank_fused_us: Any
    eight_rank_plain_us: Any


class SplitModel(Struct, frozen=True):
    """The :class:`~.interface.LatencyModel` of ranks split over GPUs with a port each."""

    wiring: Ports

    @property
    def fabric(self) -> str:
        """The wiring's name."""
        return self.wiring.name

    def parameter_names(
        self, gpus: Iterable[tuple[str, str]], norm_kernels: Iterable[str]
    ) -> list[str]:
        """See :meth:`.LatencyModel.parameter_names`; there is one norm kernel, the project's."""
        pairs = sorted(set(gpus))
        names = [f"link_gbps[{gpu}]" for _, gpu in pairs]
        for arch in sorted({arch for arch, _ in pairs}):
            names += [f"read_efficiency[{arch}]", f"barrier_us[{arch}]"]
            names += [f"remote_workgroup_gbps[{arch}]"]
        return [*names, *shared_parameters(gpus), *FOR_ALL_GPUS]

    def covers(self, names: Container[str], norm_kernel: str) -> bool:
        """The separate norm kernel is always the project's own."""
        return True

    def reason_against(self, kernel_family: str, arch: str, world_size: int) -> str | None:
        """See :meth:`.LatencyModel.reason_against`; as :class:`.SharedGpuModel`'s."""
        if kernel_family not in OWN_FAMILIES:
            return "kernel of ranks that share GPUs"
        if not self.wiring.takes(world_size):
            return UNEVEN
        return None if arch in archs() else "programs that fit on this arch not known"

    def by_bytes(self, op: str, algorithm: str) -> bool:
        """See :meth:`.LatencyModel.by_bytes`; how many programs fit hangs on the hidden size."""
        return False

    def geometry(self, shapes: Shapes, algorithm: str, kernel: Kernel, arch: str) -> SplitGeometry:
        """See :meth:`.LatencyModel.geometry`."""
        check_even(self.wiring, shapes.world_size)
        n = shapes.world_size.astype(np.float64)
        local = self.wiring.ranks_a_gpu(n)
        on_gpu = shared_geometry(shapes, algorithm, kernel, arch, local)
        crossing = self.wiring.bottleneck_bytes(on_gpu.size_bytes, n)
        return SplitGeometry(on_gpu, crossing, (n - local) / n, kernel.ranks_loaded_together)

    def costs(
        self, values: Mapping[str, Any], arch: str, gpu: str, *, norm_kernel: str, hbm_gbps: float,
        harness_us: Any = 0.0,
    ) -> SplitCosts:  # fmt: skip
        """Resolve named parameter values for one GPU; there is one norm kernel, the project's."""
        link = values[f"link_gbps[{gpu}]"]
        return SplitCosts(
            on_gpu=shared_costs(
                values, arch, gpu, values[f"barrier_us[{arch}]"], hbm_gbps, harness_us
            ),
            read_gbps=link * values[f"read_efficiency[{arch}]"],
            write_gbps=link,
            program_gbps=values[f"remote_workgroup_gbps[{arch}]"],
            round_trip_us=values["round_trip_us"],
            trip_exposure=values["trip_exposure"],
            trip_growth=values["trip_growth"],
            eight_rank_fused_us=values["eight_rank_us[fused]"],
            eight_rank_plain_us=values["eight_rank_us[plain]"],
        )

    def terms(self, geometry: SplitGeometry, costs: SplitCosts) -> dict[str, Any]:
        """See :meth:`.LatencyModel.terms`; the names are those of :data:`.latency.TERMS`."""
        per_gbps = 1e-3  # bytes / (GB/s) = 1e-3 us
        on_gpu, n = geometry.on_gpu, geometry.on_gpu.world_size
        one_stage, fused = on_gpu.algorithm == ONE_STAGE, on_gpu.op == FUSED
        read = geometry.crossing_bytes * (per_gbps / costs.read_gbps)
        written = geometry.crossing_bytes * (per_gbps / costs.write_gbps)
        port_us: tuple[Any, ...] = (read / n, read / n)
        if fused or one_stage:
            port_us = (read if one_stage else (read + written) / n,)
        # A program that holds rows has registers for few loads: it waits for some ranks in turn.
        further = np.maximum(n * geometry.remote - 1.0, 0.0)
        waits = (further > 0) * np.maximum(further, 1.0) ** costs.trip_growth
        crossing = AcrossGpus(
            port_us=port_us,
            trip_us=costs.round_trip_us,
            row_us=costs.round_trip_us * costs.trip_exposure * waits,
            us_a_byte=geometry.remote * (per_gbps / costs.program_gbps),
            ends_last=geometry.ends_last,
        )
        found = shared_terms(on_gpu, costs.on_gpu, crossing)
        if not one_stage and (n > 4).any():
            more = costs.eight_rank_fused_us if fused else costs.eight_rank_plain_us
            found["eight_ranks"] = np.where(n > 4, more, 0.0)
        return {name: found[name] for name in TERMS if name in found}
