"""How the project's Triton kernels divide rows among threads and turns.

One place for both sides: the launches take it (``costmodel/live/backends/triton/launch.py``), and
the model counts by it. All functions take arrays or numbers and return int64 arrays of their shape.
The thread counts are the best of those tried on two H200 (triton 3.6, bf16, hidden 2048 to 7168, 1
to 512 tokens, 2 to 8 ranks); on AMD GPUs they are untried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Whole = NDArray[np.int64]

#: A cache line, and what a link moves at once.
LINE_BYTES = 128

#: Threads of a program that holds one row.
ROW_THREADS = 256

#: Elements of a row's block that a thread loads from every rank in the 1-stage: two packs of 16
#: bits each, so that the loads of 8 ranks are in flight together (128 registers).
RANKS_ELEMENTS = 16
MOST_ROW_THREADS = 512

#: Blocks above this get more threads in proportion; else registers spill.
ROW_THREADS_BLOCK = 8192


def row_block(size: ArrayLike) -> Whole:
    """Return the power of two at or above ``size``: the elements that a program holds."""
    block: Whole = np.exp2(np.ceil(np.log2(size))).astype(np.int64)
    return block


def row_threads(hidden_dim: ArrayLike, ranks: ArrayLike) -> Whole:
    """Return the threads of a program that holds a row and loads it from ``ranks`` ranks."""
    block = row_block(hidden_dim)
    threads = ROW_THREADS * np.maximum(1, block // ROW_THREADS_BLOCK)
    loading = np.maximum(threads, np.minimum(block // RANKS_ELEMENTS, MOST_ROW_THREADS))
    threads = np.where(np.asarray(ranks) > 1, loading, threads)
    return np.minimum(threads, np.maximum(block // 8, 64))


def part_of(hidden_dim: ArrayLike, ranks: ArrayLike, element_bytes: ArrayLike) -> Whole:
    """Return the columns of a rank's part of a row: whole lines of 128 bytes, the last ones fewer.

    A line that two ranks write crosses the link twice: with equal parts a row of 2880 elements of
    16 bits on 8 ranks took 52 lines instead of 45 (revision 2).
    """
    line = LINE_BYTES // np.asarray(element_bytes)
    part: Whole = (-(-np.asarray(hidden_dim) // (ranks * line)) * line).astype(np.int64)
    return part


def two_stage_threads(hidden_dim: ArrayLike, ranks: ArrayLike) -> Whole:
    """Return the threads of a program of revision 3's fused 2-stage.

    16 elements of the row a thread, 32 where rows are long, so that two programs fit and one works
    while the other waits; more only where a rank's part alone has a pack for each.
    """
    block = row_block(hidden_dim)
    part = row_block(part_of(hidden_dim, ranks, 2))
    threads = np.maximum(np.minimum(block // 16, ROW_THREADS), np.maximum(block // 32, part // 8))
    return np.clip(threads, 64, MOST_ROW_THREADS)


def even_programs(work: ArrayLike, most: ArrayLike) -> Whole:
    """Return how many of at most ``most`` programs divide ``work`` so that none idles in a turn.

    As few as make no more turns than ``most`` would.
    """
    turns = -(-np.asarray(work) // np.minimum(work, most))
    programs: Whole = (-(-np.asarray(work) // turns)).astype(np.int64)
    return programs


def rows_a_turn(turns: ArrayLike, share_block: Any, elements: Any) -> Whole:
    """Return how many of a program's ``turns`` rows a turn of revision 2's 2-stage took at once.

    A power of two: as many parts of ``share_block`` as fill ``elements``, 16 bytes a thread.
    """
    return np.maximum(1, np.minimum(row_block(turns), elements // share_block))
