"""Kernel geometry over links: what a kernel does for a shape, before any time is assigned to it.

Pure functions from (op, algorithm, kernel version, tokens, hidden_dim, dtype, ranks) to launches,
barriers, workgroups, turns and bytes. Source: AITER ``csrc/include/custom_all_reduce.cuh``
(e404860) and vLLM ``csrc/custom_all_reduce.cuh``; limits come from the fact files
(:mod:`costmodel.data.kernels`).

Notation: S = bytes per rank, N = ranks, pack = 16 bytes.

====================  ==========================  ===========================  ==============
kernel                read over each link         written over each link       local pass
====================  ==========================  ===========================  ==============
all-reduce, 1-stage   S                           0                            -
all-reduce, 2-stage   S/N, then S/N gathered      0 (write mode: S/N, 1st)     -
fused, 1-stage        S                           0                            -
fused, 2-stage        S/N                         S/N                          4 S
separate              as the all-reduce           as the all-reduce            4 S
1-stage that pushes   0                           S x line / payload           as it else has
====================  ==========================  ===========================  ==============

The local pass reads the sum and the residual and writes the new residual and the output. A 1-stage
that pushes sends its bytes with flags among them (LL: 8 bytes of flags with 8 of data; LL128: 8
with 120; a sentinel in the data takes no room), so that no rank waits for another at a barrier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.kernels import Kernel
from ..units import PACK_BYTES
from .shape import FUSED, ONE_STAGE, SEPARATE, Shapes

Array = NDArray[np.float64]

#: The fused 2-stage launches one workgroup per this many elements of a rank's part.
REDUCE_SCATTER_ELEMENTS = 512

#: Bytes or turns of what no call does.
NOTHING = np.float64(0.0)


class LinkGeometry(Struct, frozen=True):
    """What one call does, per rank. Arrays have the shapes' shape; scalars hold for every shape.

    ``world_size`` is one number where flat shapes have it in common.

    ``phase_bytes`` are a rank's in one phase, and ``grid_bytes`` those for which a workgroup is
    launched. ``turns`` is how often a workgroup goes round its loop over a phase's bytes and
    ``fill`` the phase's bytes over those of one full turn of the largest grid.
    ``workgroup_bytes`` is what one workgroup reads from all peers together in the first phase,
    scaled to its family's own number of threads. ``pushes`` marks a 1-stage that writes to its
    peers and starts without a barrier. ``own_exit`` marks 1-stage kernels whose exit barrier, where
    they have one, may cost something else than another barrier.
    ``turns_overlap`` is false for kernels that synchronise their threads between turns, so that a
    turn's latency shows.
    """

    op: str
    algorithm: str
    world_size: Array
    size_bytes: Array
    launches: int
    pushes: bool
    exit_barriers: int
    own_exit: bool
    release_acquire: bool
    max_workgroups: int
    grid_bytes: Array | float
    phase_bytes: Array
    turns: Array
    fill: Array
    workgroup_bytes: Array
    read_bytes: Array | np.float64
    gather_bytes: Array | np.float64
    write_bytes: Array | np.float64
    local_bytes: Array | np.float64
    turns_overlap: bool
    norm_turns: Array | np.float64

    @property
    def workgroups(self) -> Array:
        """Workgroups launched: one for each ``grid_bytes`` of a phase, up to the largest grid."""
        return np.minimum(np.ceil(self.phase_bytes / self.grid_bytes), self.max_workgroups)


def link_geometry(shapes: Shapes, algorithm: str, kernel: Kernel, arch: str) -> LinkGeometry:
    """Return the geometry of ``algorithm`` for every shape. Does not check :mod:`.eligibility`."""
    ranks: Any = shapes.world_size
    if ranks.ndim == 1 and ranks.size and (ranks.strides == (0,) or (ranks == ranks[0]).all()):
        ranks = ranks[0]  # what depends on ranks alone need not be repeated for every shape
    n = ranks.astype(np.float64)
    one_stage = algorithm == ONE_STAGE
    fused = shapes.op == FUSED
    size = shapes.bytes.astype(np.float64)
    per_rank = size if one_stage else size / n

    if fused and one_stage:
        # One token per workgroup and turn; every thread holds one pack from each rank.
        row_bytes = shapes.hidden_dim.astype(np.float64) * shapes.element_bytes
        grid: Array | float = row_bytes
        fill = shapes.tokens / kernel.max_workgroups
        turns = np.ceil(fill)
        workgroup_bytes = turns * (n - 1) * row_bytes
    else:
        lanes = kernel.threads / n if kernel.lanes_split_over_ranks else kernel.threads
        grid_turn = lanes * PACK_BYTES
        grid = REDUCE_SCATTER_ELEMENTS * shapes.element_bytes if fused else grid_turn
        fill = per_rank / (kernel.max_workgroups * grid_turn)
        turns = np.ceil(fill)
        # Little's law: a workgroup of twice the threads has twice the loads in flight.
        workgroup_bytes = turns * ((n - 1) / kernel.thread_ratio)
        workgroup_bytes *= np.minimum(grid_turn, per_rank)

    line = kernel.push_line if one_stage else None
    read: Array | np.float64 = per_rank
    gather: Array | np.float64 = NOTHING
    write: Array | np.float64 = NOTHING
    if line is not None:
        read, write = NOTHING, size * (line[0] / line[1])
    elif fused and not one_stage:
        write = per_rank
    elif not one_stage:
        gather = per_rank
        pushes = _pushes(size, n, kernel, arch)
        if pushes.any():
            read, write = np.where(pushes, 0.0, per_rank), np.where(pushes, per_rank, 0.0)

    separate = shapes.op == SEPARATE
    two_kernels = separate or (fused and not one_stage)
    return LinkGeometry(
        op=shapes.op,
        algorithm=algorithm,
        world_size=n,
        size_bytes=size,
        launches=2 if two_kernels else 1,
        pushes=line is not None,
        exit_barriers=_exit_barriers(kernel, fused, one_stage),
        own_exit=one_stage and kernel.family == "aiter",
        release_acquire=kernel.release_acquire and fused and not one_stage,
        max_workgroups=kernel.max_workgroups,
        grid_bytes=grid,
        phase_bytes=per_rank,
        turns=turns,
        fill=fill,
        workgroup_bytes=workgroup_bytes,
        read_bytes=read,
        gather_bytes=gather,
        write_bytes=write,
        local_bytes=4.0 * size if two_kernels else NOTHING,
        turns_overlap=kernel.plain_double_buffer or not kernel.lanes_split_over_ranks or fused,
        norm_turns=turns if fused and one_stage else NOTHING,
    )


def _exit_barriers(kernel: Kernel, fused: bool, one_stage: bool) -> int:
    """Barriers after the bytes have moved; the plain 2-stage's only other one is in its middle."""
    if fused:
        return int(
            kernel.fused_1stage_exit_barrier if one_stage else kernel.fused_2stage_exit_barrier
        )
    return int(one_stage and kernel.plain_1stage_exit_barrier)


def _pushes(size: Array, n: Array, kernel: Kernel, arch: str) -> NDArray[np.bool_] | np.bool_:
    """The plain 2-stage's first phase writes on gfx942 with 8 ranks above a limit (AITER #1880)."""
    limit = kernel.plain_write_mode_above_bytes
    if limit is None or arch != "gfx942":
        return np.False_
    return (n == 8) & (size > limit)
