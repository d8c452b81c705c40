"""Latency of ranks with links of their own: geometry and costs give us, as a sum of named terms.

With S bytes per rank, N ranks, w the rate of one link in one direction and r = w x read efficiency
the rate of kernel reads while several links are busy (r = w for N = 2; a further factor at 8)::

    1-stage        = launch + entry + read(S) + norm + exit
    2-stage, fused = launch + entry + read(S/N) + write(S/N) + exit + second launch + local(4 S)
    2-stage, plain = launch + entry + read(S/N) + middle + read(S/N)
    separate       = an all-reduce + second launch + norm kernel

    read(b)  = (R^4 + (b/r)^4 + (c/g)^4)^(1/4)     write(b) = (R^4 + (b/w)^4)^(1/4)

R is one remote round trip, under which a short transfer hides; c are the bytes that one workgroup
reads from all its peers and g the rate at which one workgroup can read (Little's law: its
outstanding loads over the round trip). The fourth power is a smooth maximum: whichever limit binds
sets the time, and near a tie the two add a fifth.

A barrier costs a flag's flight plus the wait for the last of N ranks, whose expected value for
normal arrival jitter s is c_N s with c = 0.56, 1.03, 1.42 for N = 2, 4, 8 (order statistics of the
normal distribution). How bytes share links is the wiring's (:mod:`.fabric`). Sources of the forms:
docs/physics.md.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.kernels import OWN_FAMILY, Kernel
from ..errors import InputError
from .fabric import Wiring
from .geometry import LinkGeometry, link_geometry
from .shape import FUSED, ONE_STAGE, SEPARATE, Shapes

Array = NDArray[np.float64]

#: Expected maximum of N standard normals.
EXPECTED_MAXIMUM = {2: 0.5642, 4: 1.0294, 8: 1.4236}

#: Turns over which the plain 1-stage's workgroups drift apart until turns overlap; fitted to the
#: step between 1 and 4 turns in https://github.com/ROCm/aiter/pull/801 (2 ranks).
TURNS_TO_OVERLAP = 1.5

#: gfx950 is where both arms of the fused op are measured, so its kernels set the scale.
REFERENCE_ARCH = "gfx950"

#: Parameters that one value serves for all GPUs.
FOR_ALL_GPUS = (
    "eight_rank_efficiency",
    "round_trip_us",
    "workgroup_gbps",
    "turn_exposure_us",
    "launch_us",
    "second_launch_us",
    "barrier_us",
    "arrival_jitter_us",
    "release_acquire_us",
    "release_acquire_us_per_doubling",
    "norm_us",
    "local_us",
    "local_efficiency",
    "harness_us",
)

#: What an arm takes on one machine beyond what the model says: no kernel's own, a setting adds it.
MACHINE_CONTRAST = "machine_contrast"

#: Order in which terms are shown.
TERMS = (
    "harness",
    "launch",
    "entry_barrier",
    "link_read",
    "link_write",
    "middle_barrier",
    "link_gather",
    "turn_exposure",
    "norm_epilogue",
    "exit_barrier",
    "second_launch",
    "local_pass",
    "norm_kernel",
    MACHINE_CONTRAST,
)


@dataclass(frozen=True)
class LinkCosts:
    """What each action costs on one GPU. Scalars, or arrays that broadcast against the shapes.

    ``*_us`` in microseconds, ``*_gbps`` in GB/s.
    """

    link_gbps: Any
    read_efficiency: Any
    eight_rank_efficiency: Any
    round_trip_us: Any
    workgroup_gbps: Any
    turn_exposure_us: Any
    launch_us: Any
    second_launch_us: Any
    barrier_us: Any
    arrival_jitter_us: Any
    stage_gap_us: Any
    release_acquire_us: Any
    release_acquire_us_per_doubling: Any
    norm_us: Any
    local_us: Any
    local_gbps: Any
    separate_norm_us: Any
    separate_norm_gbps: Any
    harness_us: Any = 0.0


@dataclass(frozen=True)
class LinkModel:
    """The :class:`~.interface.LatencyModel` of ranks with links of their own, over a wiring."""

    wiring: Wiring

    @property
    def fabric(self) -> str:
        """The wiring's name."""
        return self.wiring.name

    def parameter_names(
        self, gpus: Iterable[tuple[str, str]], norm_kernels: Iterable[str]
    ) -> list[str]:
        """See :meth:`.LatencyModel.parameter_names`."""
        pairs = sorted(set(gpus))
        archs = sorted({arch for arch, _ in pairs})
        names = [f"link_gbps[{gpu}]" for _, gpu in pairs]
        names += [f"read_efficiency[{arch}]" for arch in archs]
        names += [f"read_efficiency_deviation[{gpu}]" for _, gpu in pairs]
        names += [f"kernel_time_scale[{arch}]" for arch in archs if arch != REFERENCE_ARCH]
        names += [f"stage_gap_us[{arch}]" for arch in archs]
        names += FOR_ALL_GPUS
        for kernel in sorted(set(norm_kernels)):
            names += [f"separate_norm_us[{kernel}]", f"separate_norm_efficiency[{kernel}]"]
        return names

    def covers(self, names: Container[str], norm_kernel: str) -> bool:
        """See :meth:`.LatencyModel.covers`; every norm kernel has constants of its own."""
        return f"separate_norm_us[{norm_kernel}]" in names

    def reason_against(self, kernel_family: str, arch: str, world_size: int) -> str | None:
        """See :meth:`.LatencyModel.reason_against`.

        The project's own kernels are not covered: their limits over links are not in the facts.
        """
        if kernel_family == OWN_FAMILY:
            return "kernel on this interconnect"
        return None if self.wiring.takes(world_size) else "ranks do not split evenly over the GPUs"

    def geometry(self, shapes: Shapes, algorithm: str, kernel: Kernel, arch: str) -> LinkGeometry:
        """See :meth:`.LatencyModel.geometry`."""
        takes = self.wiring.takes(shapes.world_size)
        if not takes.all():
            bad = int(shapes.world_size[~takes].flat[0])
            raise InputError(
                f"{bad} ranks do not split evenly over the GPUs of fabric {self.fabric}"
            )
        return link_geometry(shapes, algorithm, kernel, arch)

    def costs(
        self, values: Mapping[str, Any], arch: str, gpu: str, *, norm_kernel: str, hbm_gbps: float,
        harness_us: Any = 0.0,
    ) -> LinkCosts:  # fmt: skip
        """Resolve named parameter values for one GPU and norm kernel.

        Fixed kernel times carry the arch's ``kernel_time_scale``; gfx950 is the reference, scale 1.
        """
        scale = 1.0 if arch == REFERENCE_ARCH else values[f"kernel_time_scale[{arch}]"]
        return LinkCosts(
            link_gbps=values[f"link_gbps[{gpu}]"],
            read_efficiency=values[f"read_efficiency[{arch}]"]
            * values[f"read_efficiency_deviation[{gpu}]"],
            eight_rank_efficiency=values["eight_rank_efficiency"],
            round_trip_us=values["round_trip_us"],
            workgroup_gbps=values["workgroup_gbps"],
            turn_exposure_us=values["turn_exposure_us"],
            launch_us=values["launch_us"],
            second_launch_us=scale * values["second_launch_us"],
            barrier_us=scale * values["barrier_us"],
            arrival_jitter_us=values["arrival_jitter_us"],
            stage_gap_us=values[f"stage_gap_us[{arch}]"],
            release_acquire_us=scale * values["release_acquire_us"],
            release_acquire_us_per_doubling=scale * values["release_acquire_us_per_doubling"],
            norm_us=scale * values["norm_us"],
            local_us=scale * values["local_us"],
            local_gbps=values["local_efficiency"] * hbm_gbps,
            separate_norm_us=scale * values[f"separate_norm_us[{norm_kernel}]"],
            separate_norm_gbps=values[f"separate_norm_efficiency[{norm_kernel}]"] * hbm_gbps,
            harness_us=harness_us,
        )

    def terms(self, geometry: LinkGeometry, costs: LinkCosts) -> dict[str, Any]:
        """See :meth:`.LatencyModel.terms`."""
        n = geometry.world_size
        if n.ndim == 1 and n.size and (n == n[0]).all():
            n = n[:1]  # what depends on ranks alone need not be repeated for every shape
        per_gbps = 1e-3  # bytes / (GB/s) = 1e-3 us
        read_gbps = costs.link_gbps * (
            np.where(n > 2, costs.read_efficiency, 1.0)
            * np.where(n > 4, costs.eight_rank_efficiency, 1.0)
        )

        def wire(link_bytes: Array, gbps: Any) -> Any:
            return self.wiring.bottleneck_bytes(link_bytes, n) * per_gbps / gbps

        workgroup = geometry.workgroup_bytes * (per_gbps / costs.workgroup_gbps)
        one_barrier = barrier(costs, n)
        found: dict[str, Any] = {
            "harness": costs.harness_us,
            "launch": costs.launch_us,
            "entry_barrier": one_barrier,
            "link_read": smooth_maximum(
                costs.round_trip_us,
                wire(geometry.read_bytes, read_gbps),
                workgroup,
            ),
        }
        one_stage = geometry.algorithm == ONE_STAGE
        fused = geometry.op == FUSED
        if not one_stage:
            if fused:
                found["link_write"] = smooth_maximum(
                    costs.round_trip_us, wire(geometry.write_bytes, costs.link_gbps)
                )
            else:
                found["middle_barrier"] = one_barrier + costs.stage_gap_us
                pushes = geometry.write_bytes > 0
                if pushes.any():
                    found["link_read"] = np.where(pushes, 0.0, found["link_read"])
                    found["link_write"] = np.where(
                        pushes,
                        smooth_maximum(
                            costs.round_trip_us, wire(geometry.write_bytes, costs.link_gbps)
                        ),
                        0.0,
                    )
                found["link_gather"] = smooth_maximum(
                    costs.round_trip_us, wire(geometry.gather_bytes, read_gbps), workgroup
                )
        if one_stage and not fused and not geometry.turns_overlap:
            drift = 1.0 - np.exp(-np.maximum(geometry.fill - 1.0, 0.0) / TURNS_TO_OVERLAP)
            found["turn_exposure"] = TURNS_TO_OVERLAP * costs.turn_exposure_us * drift
        if one_stage and fused:
            found["norm_epilogue"] = costs.norm_us * geometry.norm_turns
        if geometry.exit_barriers:
            found["exit_barrier"] = one_barrier
        if geometry.release_acquire:
            found["exit_barrier"] = (
                one_barrier
                + costs.release_acquire_us
                + costs.release_acquire_us_per_doubling * (np.log2(n) - 2.0)
            )
        if geometry.launches == 2:
            found["second_launch"] = costs.second_launch_us
            if geometry.op == SEPARATE:
                found["norm_kernel"] = costs.separate_norm_us + geometry.local_bytes * (
                    per_gbps / costs.separate_norm_gbps
                )
            else:
                found["local_pass"] = costs.local_us + geometry.local_bytes * (
                    per_gbps / costs.local_gbps
                )
        return {name: found[name] for name in TERMS if name in found}


def smooth_maximum(*parts: Any) -> Any:
    """Return the 4-norm of non-negative parts: their maximum, rounded where two are close."""
    total: Any = 0.0
    for part in parts:
        squared = part * part
        total = total + squared * squared
    return np.sqrt(np.sqrt(total))


def barrier(costs: LinkCosts, world_size: Array) -> Any:
    """Return the cost of one cross-GPU barrier in us."""
    return costs.barrier_us + costs.arrival_jitter_us * _expected_maximum(world_size)


def total(parts: Mapping[str, Any]) -> Any:
    """Return the latency in us: the sum of the terms."""
    # Terms that few shapes or draws change are added up before they meet the large ones.
    result: Any = 0.0
    for part in sorted(parts.values(), key=np.size):
        result = result + part
    return result


def _expected_maximum(world_size: Array) -> Any:
    return np.where(
        world_size == 2,
        EXPECTED_MAXIMUM[2],
        np.where(world_size == 4, EXPECTED_MAXIMUM[4], EXPECTED_MAXIMUM[8]),
    )
