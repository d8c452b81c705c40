"""Latency: kernel geometry and calibrated costs give microseconds, as a sum of named terms.

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
normal distribution). Sources of the forms: docs/physics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import fabric as _fabric
from . import shared_gpu as loopback
from .geometry import Geometry
from .parameters import REFERENCE_ARCH
from .shape import SEPARATE

Array = NDArray[np.float64]

#: Expected maximum of N standard normals.
EXPECTED_MAXIMUM = {2: 0.5642, 4: 1.0294, 8: 1.4236}

#: Turns over which the plain 1-stage's workgroups drift apart until turns overlap; fitted to the
#: step between 1 and 4 turns in https://github.com/ROCm/aiter/pull/801 (2 ranks).
TURNS_TO_OVERLAP = 1.5

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
)


@dataclass(frozen=True)
class Costs:
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


def costs(
    values: Mapping[str, Any],
    arch: str,
    gpu: str,
    hbm_gbps: float,
    norm_kernel: str,
    harness_us: Any = 0.0,
    fabric: str = _fabric.FULL_MESH,
) -> Costs | loopback.Costs:
    """Resolve named parameter values (see parameters.py) for one GPU and norm kernel.

    Fixed kernel times carry the arch's ``kernel_time_scale``; gfx950 is the reference, scale 1.
    """
    if fabric == _fabric.LOOPBACK:
        return loopback.costs(values, arch, gpu, hbm_gbps, harness_us)
    scale = 1.0 if arch == REFERENCE_ARCH else values[f"kernel_time_scale[{arch}]"]
    return Costs(
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


def smooth_maximum(*parts: Any) -> Any:
    """Return the 4-norm of non-negative parts: their maximum, rounded where two are close."""
    total: Any = 0.0
    for part in parts:
        squared = part * part
        total = total + squared * squared
    return np.sqrt(np.sqrt(total))


def barrier(costs: Costs, world_size: Array) -> Any:
    """Return the cost of one cross-GPU barrier in us."""
    return costs.barrier_us + costs.arrival_jitter_us * _expected_maximum(world_size)


def terms(
    geometry: Geometry | loopback.Loopback,
    costs: Costs | loopback.Costs,
    fabric: str = _fabric.FULL_MESH,
) -> dict[str, Any]:
    """Return the named terms in us; their sum is the latency. Only terms that the kernel has.

    Arrays broadcast from the shapes and the costs, so costs of shape (draws, 1) against n shapes
    give (draws, n). A term that does not depend on the shape may be a scalar.
    """
    if isinstance(geometry, loopback.Loopback):
        assert isinstance(costs, loopback.Costs)
        return loopback.terms(geometry, costs)
    assert isinstance(costs, Costs)
    n = geometry.world_size
    if n.ndim == 1 and n.size and (n == n[0]).all():
        n = n[:1]  # what depends on ranks alone need not be repeated for every shape
    per_gbps = 1e-3  # bytes / (GB/s) = 1e-3 us
    read_gbps = costs.link_gbps * (
        np.where(n > 2, costs.read_efficiency, 1.0)
        * np.where(n > 4, costs.eight_rank_efficiency, 1.0)
    )

    def wire(link_bytes: Array, gbps: Any) -> Any:
        return _fabric.bottleneck_bytes(fabric, link_bytes, n) * per_gbps / gbps

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
    one_stage = geometry.algorithm == "1stage"
    fused = geometry.op == "fused_ar_rmsnorm"
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


def total(parts: Mapping[str, Any]) -> Any:
    """Return the latency in us: the sum of the terms."""
    result: Any = 0.0
    for part in parts.values():
        result = result + part
    return result


def _expected_maximum(world_size: Array) -> Any:
    return np.where(
        world_size == 2,
        EXPECTED_MAXIMUM[2],
        np.where(world_size == 4, EXPECTED_MAXIMUM[4], EXPECTED_MAXIMUM[8]),
    )
