"""Time stamps within a call: a variant of the fused kernels that is looked at, never timed.

``stamps`` is int64 of shape (turns + 1, programs of the launch, :data:`POINTS`), where turns is the
most that a program makes; line 0 holds the points of the call (:data:`STARTED` and on), the others
those of each turn (:data:`READ` and on). ``CLOCK`` says what is read: nothing, the GPU's wall clock
(``globaltimer``, ns, in steps that the driver sets; ``s_memrealtime``, ticks of 10 ns on gfx942) or
a multiprocessor's cycles (``clock64``, ``s_memtime``). Both ends of a call also get the wall clock,
which all programs of a GPU share and those of two GPUs do not.

**What a stamp is behind.** Each comes after a barrier of the program's threads, which loads and
stores do not cross in the compiled code. An instruction may be issued and not done: data that a
phase is to have waited for are therefore reduced over all threads first (:func:`stamp_behind`), and
the norm ends in such a reduction anyway. What remains open: stores are over when they are issued,
not when they have arrived, so a write's true end shows in the barrier behind it; arithmetic that
depends on no memory (the norm's last products) may lie on either side of its stamp; what is local
and loaded early counts where it is waited for; and every stamp costs a barrier of the threads,
those behind data a reduction too, so that a stamped call takes longer than a timed one.
"""

# mypy: disable-error-code="no-untyped-def, assignment, misc"
from __future__ import annotations

import triton
import triton.language as tl

#: Clocks: none, the wall clock, a multiprocessor's cycles.
NO_CLOCK = tl.constexpr(0)
WALL = tl.constexpr(1)
CYCLES = tl.constexpr(2)

#: Points of line 0.
STARTED = tl.constexpr(0)  # before anything else
ENTERED = tl.constexpr(1)  # behind the entry barrier
LEFT = tl.constexpr(2)  # behind the 1-stage's exit barrier, the 2-stage's last row
#: The wall clock at STARTED and at LEFT, this many points further.
WALL_BEYOND = tl.constexpr(4)

#: Points of a turn's line.
READ = tl.constexpr(0)  # all ranks' data are summed
SENT = tl.constexpr(1)  # the sum is on its way to every rank
GATHERED_ROW = tl.constexpr(2)  # the row that the peers wrote is loaded
NORMED = tl.constexpr(3)
WRITTEN = tl.constexpr(4)

#: Words of a program in a line.
POINTS = tl.constexpr(8)

#: No sum of operands is as large.
NEVER = tl.constexpr(3.0e38)


@triton.jit
def now(CLOCK: tl.constexpr, HIP: tl.constexpr):
    """Return what the clock shows, int64; never merged with another reading, nor left out."""
    if CLOCK == WALL:
        if HIP:
            return tl.inline_asm_elementwise(
                "s_memrealtime $0\ns_waitcnt lgkmcnt(0)", "=s", [], dtype=tl.int64, is_pure=False,
                pack=1,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
            )
    else:
        if HIP:
            return tl.inline_asm_elementwise(
                "s_memtime $0\ns_waitcnt lgkmcnt(0)", "=s", [], dtype=tl.int64, is_pure=False,
                pack=1,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                "mov.u64 $0, %clock64;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
            )


@triton.jit
def _put(stamps, line, POINT: tl.constexpr, now):
    at = (line * tl.num_programs(0) + tl.program_id(0)) * POINTS + POINT
    tl.store(stamps + at, now)


@triton.jit
def stamp(stamps, line, POINT: tl.constexpr, CLOCK: tl.constexpr, HIP: tl.constexpr):
    """Write the time at which all threads of the program are here."""
    if CLOCK != NO_CLOCK:
        tl.debug_barrier()
        _put(stamps, line, POINT, now(CLOCK, HIP))


@triton.jit
def stamp_behind(data, stamps, line, POINT: tl.constexpr, CLOCK: tl.constexpr, HIP: tl.constexpr):
    """Do as :func:`stamp`, once all threads have ``data``."""
    if CLOCK != NO_CLOCK:
        never = tl.max(data.to(tl.float32)) > NEVER
        tl.debug_barrier()
        _put(stamps, line, POINT, now(CLOCK, HIP) + never.to(tl.int64))


@triton.jit
def stamp_ends(stamps, POINT: tl.constexpr, CLOCK: tl.constexpr, HIP: tl.constexpr):
    """Do as :func:`stamp` in line 0, and write the wall clock beside it."""
    if CLOCK != NO_CLOCK:
        tl.debug_barrier()
        _put(stamps, 0, POINT, now(CLOCK, HIP))
        _put(stamps, 0, POINT + WALL_BEYOND, now(WALL, HIP))
