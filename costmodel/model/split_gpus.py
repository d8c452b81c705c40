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

from ..data.kernels import OWN_FAMILY, Kernel
from ..errors import InputError
from .fabric import Ports
from .latency import smooth_maximum
from .shape import FUSED, ONE_STAGE, Shapes
from .shared_gpu import (
    Phase,
    SharedGpuCosts,
    SharedGpuGeometry,
    archs,
    missed,
    shared_costs,
    shared_geometry,
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
    input, ``remote`` the share of what a program loads that is another GPU's.
    """

    on_gpu: SharedGpuGeometry
    crossing_bytes: Array
    remote: Array


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
        names = []
        for _, gpu in pairs:
            names += [f"link_gbps[{gpu}]", f"cache_gbps[{gpu}]"]
            names += [f"memory_efficiency[{gpu}]", f"cache_bytes[{gpu}]"]
        for arch in sorted({arch for arch, _ in pairs}):
            names += [f"read_efficiency[{arch}]", f"barrier_us[{arch}]", f"stage_gap_us[{arch}]"]
            names += [f"workgroup_gbps[{arch}]", f"miss_workgroup_gbps[{arch}]"]
            names += [f"remote_workgroup_gbps[{arch}]"]
        names += FOR_ALL_GPUS
        return names

    def covers(self, names: Container[str], norm_kernel: str) -> bool:
        """The separate norm kernel is always the project's own."""
        return True

    def reason_against(self, kernel_family: str, arch: str, world_size: int) -> str | None:
        """See :meth:`.LatencyModel.reason_against`; as :class:`.SharedGpuModel`'s."""
        if kernel_family != OWN_FAMILY:
            return "kernel of ranks that share GPUs"
        if not self.wiring.takes(world_size):
            return "ranks do not split evenly over the GPUs"
        return None if arch in archs() else "programs that fit on this arch not known"

    def geometry(self, shapes: Shapes, algorithm: str, kernel: Kernel, arch: str) -> SplitGeometry:
        """See :meth:`.LatencyModel.geometry`."""
        takes = self.wiring.takes(shapes.world_size)
        if not takes.all():
            bad = int(shapes.world_size[~takes].flat[0])
            raise InputError(
                f"{bad} ranks do not split evenly over the GPUs of fabric {self.fabric}"
            )
        n = shapes.world_size.astype(np.float64)
        local = self.wiring.ranks_a_gpu(n)
        on_gpu = shared_geometry(shapes, algorithm, kernel, arch, local)
        crossing = self.wiring.bottleneck_bytes(on_gpu.size_bytes, n)
        return SplitGeometry(on_gpu, crossing, (n - local) / n)

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
        on_gpu, own = geometry.on_gpu, costs.on_gpu
        n, one_stage = on_gpu.world_size, on_gpu.algorithm == ONE_STAGE
        miss = missed(on_gpu.working_set_bytes, own.cache_bytes)
        read = geometry.crossing_bytes * (per_gbps / costs.read_gbps)
        written = geometry.crossing_bytes * (per_gbps / costs.write_gbps)
        # A program that holds rows has registers for few loads: it waits for some ranks in turn.
        further = np.maximum(n * geometry.remote - 1.0, 0.0)
        exposed_us = costs.round_trip_us * costs.trip_exposure * further**costs.trip_growth

        def pass_over(phase: Phase, port_us: Any = 0.0) -> Any:
            turn = phase.program_bytes * (per_gbps / own.program_gbps)
            if phase.sharing is not None:
                turn = turn + own.norm_us + exposed_us + miss * own.miss_us / phase.sharing
            elif phase is not on_gpu.local:
                turn = turn + miss * phase.program_bytes * (per_gbps / own.miss_gbps)
            if phase is not on_gpu.local:
                away = phase.program_bytes * geometry.remote
                turn = turn + away * (per_gbps / costs.program_gbps)
            slowest = smooth_maximum(
                phase.turns * turn,
                phase.issued_bytes * (per_gbps / own.cache_gbps),
                miss * phase.distinct_bytes * (per_gbps / own.memory_gbps),
                port_us,
            )
            if phase is on_gpu.local:
                return slowest
            return slowest + costs.round_trip_us

        fused = on_gpu.op == FUSED
        barrier = own.barrier_us + own.straggler_us * np.log2(on_gpu.programs)
        found: dict[str, Any] = {
            "harness": own.harness_us,
            "launch": own.launch_us,
            "entry_barrier": barrier,
        }
        if one_stage:
            found["link_read"] = pass_over(on_gpu.phases[0], read)
            found["exit_barrier"] = barrier
        elif fused:
            found["link_read"] = pass_over(on_gpu.phases[0], (read + written) / n)
            found["exit_barrier"] = (
                barrier + own.release_us + own.release_us_per_doubling * (np.log2(n) - 2.0)
            )
        else:
            found["link_read"] = pass_over(on_gpu.phases[0], read / n)
            found["middle_barrier"] = barrier + own.stage_gap_us
            found["link_gather"] = pass_over(on_gpu.phases[1], read / n)
        if not one_stage and (n > 4).any():
            more = costs.eight_rank_fused_us if fused else costs.eight_rank_plain_us
            found["eight_ranks"] = np.where(n > 4, more, 0.0)
        if on_gpu.local is not None:
            # The fixed part of the second kernel is one sum with its launch.
            found["second_launch"] = own.second_launch_us
            spread = own.straggler_us * np.log2(on_gpu.rows)
            found["local_pass" if fused else "norm_kernel"] = spread + pass_over(on_gpu.local)
        return found
