"""Latency of ranks with links of their own: geometry and costs give us, as a sum of named terms.

With S bytes per rank, N ranks, w the rate of one link in one direction and r = w x read efficiency
the rate of kernel reads while several links are busy (r = w for N = 2; further factors at 8)::

    1-stage        = launch + entry + read(S) + norm [+ exit]
    2-stage, fused = launch + entry + read(S/N) + write(S/N) [+ exit] + second launch + local(4 S)
    2-stage, plain = launch + entry + read(S/N) + middle + read(S/N)
    separate       = an all-reduce + second launch + norm kernel
    1-stage, push  = launch + write(S x line / payload) + norm

    read(b)  = (R^2 + (b/r)^2 + F^2)^(1/2)     write(b) = (R^4 + (b/w)^4)^(1/4)
    F        = F0 (c / c0)^k

R is one remote round trip, under which a short transfer hides. F is the floor of a read by a
kernel: c are the bytes that one workgroup reads from all its peers, c0 those of one row of 7168
16-bit elements at 4 ranks. With k = 1 a workgroup reads at a rate of its own (Little's law: its
outstanding loads over the round trip); with k = 0 the floor is a time and no more. Rows do not
tell the two forms apart yet, so k is a parameter and its posterior averages over them. The powers
are smooth maxima: whichever limit binds sets the time, and at a tie two limits add 41 % to a read,
whose loads have to come back before more are asked for, and 19 % to a write, which is posted.

Which kernels have an exit barrier is a fact of their version (:mod:`costmodel.data.kernels`). A
barrier costs a flag's flight plus the wait for the last of N ranks, whose expected value for
normal arrival jitter s is c_N s with c = 0.56, 1.03, 1.42 for N = 2, 4, 8 (order statistics of the
normal distribution). How bytes share links is the wiring's (:mod:`.fabric`). Sources of the forms:
docs/physics.md.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.kernels import OWN_FAMILIES, Kernel
from .fabric import UNEVEN, Wiring, check_even
from .geometry import LinkGeometry, link_geometry
from .shape import FUSED, ONE_STAGE, SEPARATE, Shapes

Array = NDArray[np.float64]

#: Expected maximum of N standard normals.
EXPECTED_MAXIMUM = {2: 0.5642, 4: 1.0294, 8: 1.4236}

#: Turns over which the plain 1-stage's workgroups drift apart until turns overlap; fitted to the
#: step between 1 and 4 turns in https://github.com/ROCm/aiter/pull/801 (2 ranks).
TURNS_TO_OVERLAP = 1.5

#: Powers of the smooth maxima: rows that were left out are best foretold with these
#: (docs/evidence.md, "The knee"). What others would change is in every interval.
READ_KNEE = 2.0
WRITE_KNEE = 4.0

#: gfx950 is where both arms of the fused op are measured, so its kernels set the scale.
REFERENCE_ARCH = "gfx950"

#: What one workgroup of the fused 1-stage reads from 3 peers in a row of 7168 16-bit elements: the
#: floor of reads is stated there, where most rows are.
FLOOR_BYTES = 3 * 7168 * 2.0

#: Spread of the ranks' arrival under graph replay (standard deviation). An assumption that no row
#: tells from the barrier; costs may set another.
ARRIVAL_JITTER_US = 0.10

#: What the fixed time of a second kernel consists of, (mean, standard deviation) in us: a launch
#: (back-to-back kernels in a graph take 2.05 us on MI210, gpu-benches gpu-small-kernels; the floor
#: on MI300X is 1.5 to 2.0), then load latency, block reduction and store. Only the sum is a
#: parameter; the parts explain it.
SECOND_LAUNCH_US = (1.75, 0.6)
LOCAL_US = (1.0, 0.5)
SEPARATE_NORM_US = (2.0, 1.5)

#: Parameters that one value serves for all GPUs.
FOR_ALL_GPUS = (
    "eight_rank_efficiency",
    "one_stage_eight_rank_efficiency",
    "round_trip_us",
    "read_floor_us",
    "read_floor_growth",
    "turn_exposure_us",
    "launch_us",
    "exit_us[fused]",
    "exit_us[plain]",
    "release_acquire_us",
    "norm_us",
    "second_kernel_us",
    "local_efficiency",
    "eight_rank_us[fused]",
    "eight_rank_us[plain]",
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
    "eight_ranks",
    "second_launch",
    "local_pass",
    "norm_kernel",
    MACHINE_CONTRAST,
)


class LinkCosts(Struct, frozen=True):
    """What each action costs on one GPU. Scalars, or arrays that broadcast against the shapes.

    ``*_us`` in microseconds, ``*_gbps`` in GB/s.
    """

    link_gbps: Any
    read_efficiency: Any
    eight_rank_efficiency: Any
    one_stage_eight_rank_efficiency: Any
    round_trip_us: Any
    read_floor_us: Any
    read_floor_growth: Any
    turn_exposure_us: Any
    launch_us: Any
    second_launch_us: Any
    barrier_us: Any
    arrival_jitter_us: Any
    stage_gap_us: Any
    fused_exit_us: Any
    plain_exit_us: Any
    release_acquire_us: Any
    norm_us: Any
    local_us: Any
    local_gbps: Any
    separate_launch_us: Any
    separate_norm_us: Any
    separate_norm_gbps: Any
    eight_rank_fused_us: Any
    eight_rank_plain_us: Any
    harness_us: Any = 0.0


class LinkModel(Struct, frozen=True):
    """The :class:`~.interface.LatencyModel` of ranks with links of their own, over a wiring.

    ``read_knee`` and ``write_knee`` are the powers of the smooth maxima: truths with others than
    :data:`READ_KNEE` and :data:`WRITE_KNEE` show whether that matters.
    """

    wiring: Wiring
    read_knee: float = READ_KNEE
    write_knee: float = WRITE_KNEE

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
        names += [f"kernel_time_scale[{arch}]" for arch in archs if arch != REFERENCE_ARCH]
        names += [f"barrier_us[{arch}]" for arch in archs]
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
        if kernel_family in OWN_FAMILIES:
            return "kernel on this interconnect"
        return None if self.wiring.takes(world_size) else UNEVEN

    def by_bytes(self, op: str, algorithm: str) -> bool:
        """See :meth:`.LatencyModel.by_bytes`; only the fused 1-stage takes rows one by one."""
        return not (op == FUSED and algorithm == ONE_STAGE)

    def geometry(self, shapes: Shapes, algorithm: str, kernel: Kernel, arch: str) -> LinkGeometry:
        """See :meth:`.LatencyModel.geometry`."""
        check_even(self.wiring, shapes.world_size)
        return link_geometry(shapes, algorithm, kernel, arch)

    def costs(
        self, values: Mapping[str, Any], arch: str, gpu: str, *, norm_kernel: str, hbm_gbps: float,
        harness_us: Any = 0.0,
    ) -> LinkCosts:  # fmt: skip
        """Resolve named parameter values for one GPU and norm kernel.

        Fixed kernel times carry the arch's ``kernel_time_scale``; gfx950 is the reference, scale 1.
        """
        scale = 1.0 if arch == REFERENCE_ARCH else values[f"kernel_time_scale[{arch}]"]
        second, separate = (
            scale * values[name]
            for name in ("second_kernel_us", f"separate_norm_us[{norm_kernel}]")
        )
        launch_us, local_us = parts_of_sum(second, scale, SECOND_LAUNCH_US, LOCAL_US)
        separate_launch_us, separate_norm_us = parts_of_sum(
            separate, scale, SECOND_LAUNCH_US, SEPARATE_NORM_US
        )
        return LinkCosts(
            link_gbps=values[f"link_gbps[{gpu}]"],
            read_efficiency=values[f"read_efficiency[{arch}]"],
            eight_rank_efficiency=values["eight_rank_efficiency"],
            one_stage_eight_rank_efficiency=values["one_stage_eight_rank_efficiency"],
            round_trip_us=values["round_trip_us"],
            read_floor_us=values["read_floor_us"],
            read_floor_growth=values["read_floor_growth"],
            turn_exposure_us=values["turn_exposure_us"],
            launch_us=values["launch_us"],
            second_launch_us=launch_us,
            barrier_us=values[f"barrier_us[{arch}]"],
            arrival_jitter_us=values.get("arrival_jitter_us", ARRIVAL_JITTER_US),
            stage_gap_us=values[f"stage_gap_us[{arch}]"],
            fused_exit_us=values["exit_us[fused]"],
            plain_exit_us=values["exit_us[plain]"],
            release_acquire_us=scale * values["release_acquire_us"],
            norm_us=scale * values["norm_us"],
            local_us=local_us,
            local_gbps=values["local_efficiency"] * hbm_gbps,
            separate_launch_us=separate_launch_us,
            separate_norm_us=separate_norm_us,
            separate_norm_gbps=values[f"separate_norm_efficiency[{norm_kernel}]"] * hbm_gbps,
            eight_rank_fused_us=values["eight_rank_us[fused]"],
            eight_rank_plain_us=values["eight_rank_us[plain]"],
            harness_us=harness_us,
        )

    def terms(self, geometry: LinkGeometry, costs: LinkCosts) -> dict[str, Any]:
        """See :meth:`.LatencyModel.terms`."""
        n = geometry.world_size
        per_gbps = 1e-3  # bytes / (GB/s) = 1e-3 us
        one_stage = geometry.algorithm == ONE_STAGE
        fused = geometry.op == FUSED
        at_eight = costs.eight_rank_efficiency * (
            costs.one_stage_eight_rank_efficiency if one_stage else 1.0
        )
        read_gbps = costs.link_gbps * (
            np.where(n > 2, costs.read_efficiency, 1.0) * np.where(n > 4, at_eight, 1.0)
        )

        def slowest(link_bytes: Any, gbps: Any, *others: Any, power: float) -> Any:
            """Return how long bytes take over the links beside a round trip and other limits."""
            wire = self.wiring.bottleneck_bytes(link_bytes, n) * (per_gbps / gbps)
            return smooth_maximum(costs.round_trip_us, *others, power=power, spare=wire)

        def read(link_bytes: Any) -> Any:
            return slowest(link_bytes, read_gbps, floor, power=self.read_knee)

        def write(link_bytes: Any) -> Any:
            return slowest(link_bytes, costs.link_gbps, power=self.write_knee)

        floor = read_floor_us(geometry, costs)
        one_barrier = barrier(costs, n)
        found: dict[str, Any] = {"harness": costs.harness_us, "launch": costs.launch_us}
        if geometry.pushes:
            found["link_write"] = write(geometry.write_bytes)
        else:
            found["entry_barrier"] = one_barrier
            found["link_read"] = read(geometry.read_bytes)
        if not one_stage:
            if fused:
                found["link_write"] = write(geometry.write_bytes)
            else:
                found["middle_barrier"] = one_barrier + costs.stage_gap_us
                pushes = np.greater(geometry.write_bytes, 0)
                if pushes.any():
                    found["link_read"] = np.where(pushes, 0.0, found["link_read"])
                    found["link_write"] = np.where(pushes, write(geometry.write_bytes), 0.0)
                found["link_gather"] = read(geometry.gather_bytes)
        if one_stage and not fused and not geometry.turns_overlap:
            drift = 1.0 - np.exp(-np.maximum(geometry.fill - 1.0, 0.0) / TURNS_TO_OVERLAP)
            found["turn_exposure"] = TURNS_TO_OVERLAP * costs.turn_exposure_us * drift
        if one_stage and fused:
            found["norm_epilogue"] = costs.norm_us * geometry.norm_turns
        if geometry.exit_barriers:
            found["exit_barrier"] = one_barrier
            if geometry.own_exit:
                found["exit_barrier"] = one_barrier + (
                    costs.fused_exit_us if fused else costs.plain_exit_us
                )
        if geometry.release_acquire:
            found["exit_barrier"] = one_barrier + costs.release_acquire_us
        if not one_stage and (n > 4).any():
            more = costs.eight_rank_fused_us if fused else costs.eight_rank_plain_us
            found["eight_ranks"] = np.where(n > 4, more, 0.0)
        if geometry.launches == 2:
            if geometry.op == SEPARATE:
                found["second_launch"] = costs.separate_launch_us
                found["norm_kernel"] = _plus(
                    geometry.local_bytes * (per_gbps / costs.separate_norm_gbps),
                    costs.separate_norm_us,
                )
            else:
                found["second_launch"] = costs.second_launch_us
                found["local_pass"] = _plus(
                    geometry.local_bytes * (per_gbps / costs.local_gbps), costs.local_us
                )
        return {name: found[name] for name in TERMS if name in found}


def parts_of_sum(
    total_us: Any, scale: Any, first: tuple[float, float], second: tuple[float, float]
) -> tuple[Any, Any]:
    """Return the two parts of a fixed time, as expected given their sum.

    ``first`` and ``second`` are (mean, standard deviation) of normal parts at ``scale`` 1. What the
    sum has beyond the means is shared by variance, so a part may come out below zero.
    """
    share = first[1] ** 2 / (first[1] ** 2 + second[1] ** 2)
    beyond = total_us - scale * (first[0] + second[0])
    return scale * first[0] + share * beyond, scale * second[0] + (1.0 - share) * beyond


def read_floor_us(geometry: LinkGeometry, costs: LinkCosts) -> Any:
    """Return F, the least time in which a kernel's workgroups read what they read in a phase."""
    # As an exponential: numpy's power of two arrays of draws takes several times as long.
    relative = np.maximum(geometry.workgroup_bytes, 1.0)
    relative /= FLOOR_BYTES
    grown = _in_place(np.exp, costs.read_floor_growth * _in_place(np.log, relative))
    return costs.read_floor_us * grown


def smooth_maximum(*parts: Any, power: float, spare: Any = None) -> Any:
    """Return the norm of non-negative parts: their maximum, rounded where two are close.

    ``spare`` is one more part, which nobody else holds: where it is an array it is overwritten.
    Powers 2 and 4 are squares and square roots, which cost a tenth of a general power.
    """
    if spare is not None:
        parts = (spare, *parts)
    if power not in (2.0, 4.0):
        return sum(part**power for part in parts) ** (1.0 / power)
    found: Any = 0.0
    for part in sorted(parts, key=np.size):  # as in :func:`total`
        square = _in_place(np.square, part) if part is spare else np.square(part)
        found = _plus(square if power == 2.0 else _in_place(np.square, square), found)
    root = _in_place(np.sqrt, found)
    return root if power == 2.0 else _in_place(np.sqrt, root)


def _in_place(function: np.ufunc, value: Any) -> Any:
    """Return a function of a value that nobody else holds, in the place of an array."""
    return function(value, out=value if isinstance(value, np.ndarray) else None)


def barrier(costs: LinkCosts, world_size: Array) -> Any:
    """Return the cost of one cross-GPU barrier in us."""
    return costs.barrier_us + costs.arrival_jitter_us * _expected_maximum(world_size)


def total(parts: Mapping[str, Any]) -> Any:
    """Return the latency in us: the sum of the terms."""
    # Terms that few shapes or draws change are added up before they meet the large ones.
    result: Any = 0.0
    for part in sorted(parts.values(), key=np.size):
        result = _plus(result, part)
    return result


def _plus(total: Any, part: Any) -> Any:
    """Return the sum, in the place of ``total`` where that is an array as large as the sum."""
    if isinstance(total, np.ndarray) and np.broadcast(total, part).shape == total.shape:
        total += part
        return total
    return total + part


def _expected_maximum(world_size: Array) -> Any:
    return np.where(
        world_size == 2,
        EXPECTED_MAXIMUM[2],
        np.where(world_size == 4, EXPECTED_MAXIMUM[4], EXPECTED_MAXIMUM[8]),
    )
