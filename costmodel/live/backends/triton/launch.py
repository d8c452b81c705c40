"""How the Triton kernels are launched: threads, blocks, and as many programs as fit at once.

Kernels with barriers spin until the same-numbered program of every rank has arrived, so all
programs of a launch must be resident together. :func:`programs_per_rank` sees to that, with the
occupancy that the driver reports; it assumes that nothing else holds the GPU for good. How rows are
divided is :mod:`costmodel.model.row_programs`'s; here it becomes plain ints, which Triton compiles.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from ....errors import InputError
from ....model import row_programs
from .kernels import MAX_PROGRAMS

#: Threads of a program of the kernels without rows; each holds one 16-byte pack.
FLAT_THREADS = 256

#: Registers of an NVIDIA multiprocessor (CUDA C++ Programming Guide, compute capabilities 8 to 10).
REGISTERS = 65536
MOST_REGISTERS = 255

#: Most registers of a thread of the fused 2-stage on NVIDIA: two programs of 256 threads fit (two
#: H200: up to 17 % faster than one with all that it asks for).
TWO_STAGE_REGISTERS = 128

#: The widest row that one program takes; above 12288 registers spill on gfx950.
MAX_HIDDEN = 16384


class TritonLaunch(NamedTuple):
    """One kernel launch, but for the pointer table, which differs from slot to slot."""

    kernel: Any
    programs: int
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self, table: Any) -> None:
        """Launch on the current stream."""
        self.kernel[(self.programs,)](table, *self.arguments, **self.options)


def row_block(hidden_dim: int) -> int:
    """Return the power of two at or above ``hidden_dim``."""
    return int(row_programs.row_block(hidden_dim))


def row_threads(hidden_dim: int, ranks: int) -> int:
    """Return the threads of a program that holds a row and loads it from ``ranks`` ranks."""
    return int(row_programs.row_threads(hidden_dim, ranks))


def two_stage_threads(hidden_dim: int, ranks: int) -> int:
    """Return the threads of a program of the fused 2-stage."""
    return int(row_programs.two_stage_threads(hidden_dim, ranks))


def registers_of(threads: int, most: int = MOST_REGISTERS) -> int:
    """Return the registers that each of ``threads`` threads of an NVIDIA program may have."""
    return min(most, REGISTERS // threads)


def share_of(hidden_dim: int, ranks: int, element_bytes: int) -> dict[str, int]:
    """Return the columns of a rank's part of a row, whole lines, and the power of two above."""
    share = int(row_programs.part_of(hidden_dim, ranks, element_bytes))
    return {"SHARE": share, "SHARE_BLOCK": row_block(share)}


def programs_per_rank(work: int, resident: int, local_ranks: int) -> int:
    """Return how many programs each rank of one launch may have.

    ``work`` programs would be useful, ``resident`` fit on the GPU at the same time, and all
    ``local_ranks`` ranks share it. At most MAX_PROGRAMS, the signal lines of a rank; fewer where
    none then takes a turn more. Raises :class:`InputError` when not even one a rank fits: barriers
    between them would never end.
    """
    share = resident // local_ranks
    if share < 1:
        raise InputError(
            f"only {resident} programs fit on this GPU at once, {local_ranks} ranks need one each; "
            "use a smaller --tp"
        )
    return int(row_programs.even_programs(work, min(share, MAX_PROGRAMS)))


def occupancy(compiled: Any, warp_size: int) -> int:
    """Return how many programs of a compiled kernel fit on one multiprocessor, by the driver.

    1 where the driver cannot be asked: any kernel that launches has that much.
    """
    import torch

    try:
        compiled._init_handles()
        if torch.version.hip:
            library = ctypes.CDLL("libamdhip64.so")
            ask = library.hipModuleOccupancyMaxActiveBlocksPerMultiprocessor
        else:
            library = ctypes.CDLL("libcuda.so.1")
            ask = library.cuOccupancyMaxActiveBlocksPerMultiprocessor
    except (OSError, AttributeError):
        return 1
    blocks = ctypes.c_int()
    failed = ask(
        ctypes.byref(blocks),
        ctypes.c_void_p(compiled.function),
        ctypes.c_int(compiled.metadata.num_warps * warp_size),
        ctypes.c_size_t(compiled.metadata.shared),
    )
    return 1 if failed else max(blocks.value, 1)
