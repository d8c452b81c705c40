"""How the Triton kernels are launched: threads, blocks, and as many programs as fit at once.

Kernels with barriers spin until the same-numbered program of every rank has arrived, so all
programs of a launch must be resident together. :func:`programs_per_rank` sees to that, with the
occupancy that the driver reports; it assumes that nothing else holds the GPU for good.

The thread counts are the best of those tried on two H200 (triton 3.6, bf16, hidden 2880 and 7168, 1
to 256 tokens, 2 to 8 ranks); on AMD GPUs they are untried.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from ....errors import InputError
from .kernels import MAX_PROGRAMS

#: Threads of a program that holds one row.
ROW_THREADS = 256

#: Elements of a row's block that a thread loads from every rank in the 1-stage: two packs of 16
#: bits each, so that the loads of 8 ranks are in flight together (128 registers).
RANKS_ELEMENTS = 16
MOST_ROW_THREADS = 512

#: Blocks above this get more threads in proportion; else registers spill.
ROW_THREADS_BLOCK = 8192

#: Threads of a program of the kernels without rows; each holds one 16-byte pack.
FLAT_THREADS = 256

#: Registers of an NVIDIA multiprocessor (CUDA C++ Programming Guide, compute capabilities 8 to 10).
REGISTERS = 65536

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
    return 1 << (hidden_dim - 1).bit_length()


def row_threads(hidden_dim: int, ranks: int) -> int:
    """Return the threads of a program that holds a row and loads it from ``ranks`` ranks."""
    block = row_block(hidden_dim)
    threads = ROW_THREADS * max(1, block // ROW_THREADS_BLOCK)
    if ranks > 1:
        threads = max(threads, min(block // RANKS_ELEMENTS, MOST_ROW_THREADS))
    return min(threads, max(block // 8, 64))


def registers_of(threads: int) -> int:
    """Return the most registers that each of ``threads`` threads of an NVIDIA program may have."""
    return min(255, REGISTERS // threads)


def share_of(hidden_dim: int, ranks: int, pack: int) -> dict[str, int]:
    """Return the columns of a rank's part of a row, whole packs, and the power of two above."""
    share = -(-(hidden_dim // pack) // ranks) * pack
    return {"SHARE": share, "SHARE_BLOCK": row_block(share)}


def rows_a_turn(turns: int, share_block: int, elements: int) -> int:
    """Return how many of a program's ``turns`` rows a turn of the first stage takes at once.

    A power of two: as many parts of ``share_block`` as fill ``elements``, 16 bytes a thread.
    """
    return max(1, min(row_block(turns), elements // share_block))


def programs_per_rank(work: int, resident: int, local_ranks: int) -> int:
    """Return how many programs each rank of one launch may have.

    ``work`` programs would be useful, ``resident`` fit on the GPU at the same time, and all
    ``local_ranks`` ranks share it. At most MAX_PROGRAMS, the signal lines of a rank. Raises
    :class:`InputError` when not even one a rank fits: barriers between them would never end.
    """
    share = resident // local_ranks
    if share < 1:
        raise InputError(
            f"only {resident} programs fit on this GPU at once, {local_ranks} ranks need one each; "
            "use a smaller --tp"
        )
    return min(work, share, MAX_PROGRAMS)


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
