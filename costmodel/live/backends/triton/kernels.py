"""Fused all-reduce + residual add + RMSNorm in Triton, 1-stage and 2-stage, over pointer tables.

The semantics are those of AITER's kernels (https://github.com/ROCm/aiter, custom_all_reduce.cuh and
PRs 1290, 1949, 3745): the sum runs in rank order in fp32 and is rounded once to the element type,
the residual is added, residual_out written, and RMSNorm taken in fp32. The code is the project's.

No kernel knows where a rank's memory is. All take one **pointer table**, int64 of shape
(:data:`TABLE_ROWS`, RANKS): row ``INPUT`` holds the address of every rank's input, and so on. The
addresses may lie on one GPU (loopback: all ranks in one launch, ``LOCAL == RANKS``) or on several
(one rank a process, ``LOCAL == 1``; rows of local tensors then need their own rank's entry only).
Program ``p`` of a launch works for rank ``first_rank + p % LOCAL`` and is that rank's program
number ``p // LOCAL``.

**Barrier.** Each rank has a signal buffer: a 128-byte line for each program number, with a counter
for each peer and the program's own epoch. To arrive, a program adds one to its counter in every
rank's buffer; to wait, it polls its own line until every counter has reached the epoch it expects.
The counters only grow, and the epoch stays in device memory, so that a captured graph can be
replayed. Adding, rather than storing the epoch, takes the epoch's load off the way to the peers.
A wait gives up after ``spin_limit`` polls, leaves a nonzero error word and moves its own counters
far ahead, so that its later waits fall through: a lost peer gives wrong numbers and an error, never
a hung device.

A barrier needs all its programs resident at the same time; :mod:`.adapter`
checks that before a launch. So does the fused 2-stage's wait for its peers' parts.

**Marks.** The fused 2-stage has no barrier between its stages. A rank's ``PUSHED`` rows hold the
mark, -0.0, wherever nothing has come yet: a sum is pushed as +0.0 where it is -0.0, so that an
element that is no mark has arrived, however the stores that brought it were cut up. The reader
puts the mark back, and its next call's entry barrier says so to the peers. FlashInfer's and
TensorRT-LLM's one-shot kernels mark their buffers in the same way.

The fused kernels can stamp the time (:mod:`.stamps`); without a ``CLOCK`` that leaves no trace in
the compiled code.
"""

# mypy: disable-error-code="no-untyped-def, assignment, misc"
from __future__ import annotations

import triton
import triton.language as tl

from .stamps import (
    ENTERED,
    GATHERED_ROW,
    LEFT,
    NORMED,
    READ,
    SENT,
    STARTED,
    WRITTEN,
    stamp,
    stamp_behind,
    stamp_ends,
)

# Rows of the pointer table. Peers read or write the first five; the others are local.
INPUT = tl.constexpr(0)  # (tokens, hidden) of each rank
GATHERED = tl.constexpr(1)  # (tokens, hidden): the sum, complete
PARTIAL = tl.constexpr(2)  # a rank's share of the sum; only the plain 2-stage uses it
PUSHED = tl.constexpr(3)  # (tokens, hidden): the sum as its parts come, else marks; fused 2-stage
SIGNAL = tl.constexpr(4)  # int32 (MAX_PROGRAMS + 1, SIGNAL_LINE)
RESIDUAL = tl.constexpr(5)  # (tokens, hidden)
WEIGHT = tl.constexpr(6)  # (hidden,)
OUTPUT = tl.constexpr(7)  # (tokens, hidden)
RESIDUAL_OUT = tl.constexpr(8)  # (tokens, hidden)
SHARED_ROWS, TABLE_ROWS = 5, 9

#: Programs of one rank that may take part in a barrier (one signal line each): four for each of an
#: H200's multiprocessors. AITER has 80. With 160, rows of hidden 2880 took turns that others did
#: not, and a call of 2 ranks 6 to 11 % longer from 256 tokens on.
MAX_PROGRAMS = 528
#: int32 words of a signal line: 128 bytes, a cache line of both vendors' L2.
SIGNAL_LINE = tl.constexpr(32)
#: Word of a line that holds the program's epoch; the peers' counters come first.
EPOCH = tl.constexpr(16)
#: Word of the signal buffer that a failed wait sets: the line after the last program's.
ERROR = tl.constexpr(MAX_PROGRAMS * 32)
#: What a failed wait adds to the counters that it waited for.
FAR_AHEAD = tl.constexpr(1 << 30)
SIGNAL_WORDS = (MAX_PROGRAMS + 1) * 32


@triton.jit
def _own(table, ROW: tl.constexpr, rank, RANKS: tl.constexpr, TYPE: tl.constexpr):
    """Return this rank's entry of a table row as a pointer to 16-byte aligned memory."""
    address = tl.load(table + ROW * RANKS + rank)
    return tl.multiple_of(address.to(tl.pointer_type(TYPE)), 16)


@triton.jit
def _every(table, ROW: tl.constexpr, RANKS: tl.constexpr, TYPE: tl.constexpr):
    """Return all entries of a table row, in rank order, as a tuple of pointers."""
    pointers = ()
    for peer in tl.static_range(RANKS):
        pointers = pointers + (_own(table, ROW, peer, RANKS, TYPE),)  # noqa: RUF005
    return pointers


@triton.jit
def _sum_in_rank_order(pointers, offsets, mask, RANKS: tl.constexpr, TYPE: tl.constexpr):
    """Return the fp32 sum over the ranks, rounded once to the element type.

    All ranks' loads come before the first sum: the compiler keeps the order of loads, and a sum
    between two of them would wait for one rank before it asks the next.
    """
    parts = ()
    for peer in tl.static_range(RANKS):
        parts = parts + (tl.load(pointers[peer] + offsets, mask=mask, other=0.0),)  # noqa: RUF005
    total = parts[0].to(tl.float32)
    for peer in tl.static_range(1, RANKS):
        total += parts[peer].to(tl.float32)
    return total.to(TYPE)


@triton.jit
def _arrive(table, rank, program, RANKS: tl.constexpr, ORDER: tl.constexpr, SCOPE: tl.constexpr):
    """Count this program in at the same-numbered program of every rank."""
    addresses = tl.load(table + SIGNAL * RANKS + tl.arange(0, RANKS))
    lines = addresses.to(tl.pointer_type(tl.int32)) + program * SIGNAL_LINE
    tl.atomic_add(lines + rank, 1, sem=ORDER, scope=SCOPE)


@triton.jit
def _enter(table, first_rank, RANKS: tl.constexpr, LOCAL: tl.constexpr, SCOPE: tl.constexpr):
    """Arrive at the entry barrier; return rank, program, programs, signal buffer and epoch."""
    rank = first_rank + tl.program_id(0) % LOCAL
    program = tl.program_id(0) // LOCAL
    programs = tl.num_programs(0) // LOCAL
    _arrive(table, rank, program, RANKS, "relaxed", SCOPE)
    signal = _own(table, SIGNAL, rank, RANKS, tl.int32)
    epoch = tl.load(signal + program * SIGNAL_LINE + EPOCH)
    return rank, program, programs, signal, epoch


@triton.jit
def _peek(pointers, HIP: tl.constexpr):
    """Load past every cache that another rank's write does not reach; never moved out of a loop.

    Triton says this in two ways and no way says it on both vendors: its AMD back end ignores
    ``volatile`` (as of 3.6), its NVIDIA back end ignores ``.cv`` (3.6) or takes only one (3.9).
    """
    if HIP:
        return tl.load(pointers, cache_modifier=".cv")
    else:
        return tl.load(pointers, volatile=True)


@triton.jit
def peek_row(words, start, offsets, mask, other, BYTES: tl.constexpr, TOGETHER: tl.constexpr,
             HIP: tl.constexpr):  # fmt: skip
    """Load words of ``BYTES`` of a row as :func:`_peek` does, from ``start`` on.

    On AMD the places are computed as integers, so that no buffer loads are made of them, which lose
    the cache modifier; the hint says again how many lie ``TOGETHER``, aligned to as many.
    """
    if HIP:
        places = words.to(tl.int64) + start.to(tl.int64) * BYTES + offsets.to(tl.int64) * BYTES
        row = tl.multiple_of(places.to(words.dtype), BYTES * TOGETHER)
        row = tl.max_contiguous(row, TOGETHER)
        return tl.load(row, mask=mask, other=other, cache_modifier=".cv")
    else:
        return tl.load(words + start + offsets, mask=mask, other=other, volatile=True)


@triton.jit
def push(row, bits, mask, HIP: tl.constexpr):
    """Store what a peer waits for."""
    if HIP:
        tl.store(row, bits, mask=mask, cache_modifier=".wt")
    else:
        tl.store(row, bits, mask=mask)


@triton.jit
def _wait(
    signal,
    program,
    epoch,
    spin_limit,
    RANKS: tl.constexpr,
    ACQUIRE: tl.constexpr,
    SCOPE: tl.constexpr,
    HIP: tl.constexpr,
):
    """Wait until every rank has arrived ``epoch`` times, or set the error word.

    Differences, not values, are compared, so that the counters may wrap. The counters' addresses
    are computed as integers: from pointer + offset, Triton's AMD back end would make buffer loads,
    which lose the cache modifier, and the poll would leave the loop.
    """
    line = signal.to(tl.int64) + (program * SIGNAL_LINE + tl.arange(0, RANKS)) * 4
    counters = line.to(tl.pointer_type(tl.int32))
    polls = 0
    behind = tl.min(_peek(counters, HIP) - epoch)
    while (behind < 0) & (polls < spin_limit):
        behind = tl.min(_peek(counters, HIP) - epoch)
        polls += 1
    if behind < 0:
        tl.store(signal + ERROR, 1)
        tl.store(counters, tl.zeros((RANKS,), tl.int32) + epoch + FAR_AHEAD)
    if ACQUIRE:
        # The polls are relaxed; one more atomic read of the counters with acquire (a swap of 0
        # for 0, which changes nothing) orders what follows.
        zero = tl.zeros((RANKS,), tl.int32)
        tl.atomic_cas(counters, zero, zero, sem="acquire", scope=SCOPE)
        tl.debug_barrier()


@triton.jit
def _norm(summed, residual, weight, HIDDEN: tl.constexpr, epsilon, TYPE: tl.constexpr):
    """Return residual_out and output of one token; columns beyond HIDDEN hold zeros."""
    residual_out = (summed.to(tl.float32) + residual.to(tl.float32)).to(TYPE)
    x = residual_out.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x) / HIDDEN + epsilon)
    return residual_out, (x * scale * weight.to(tl.float32)).to(TYPE)


@triton.jit(do_not_specialize=["tokens", "first_rank", "spin_limit"])
def fused_one_stage(
    table,
    tokens,
    first_rank,
    epsilon,
    spin_limit,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    LOCAL: tl.constexpr,
    TYPE: tl.constexpr,
    SCOPE: tl.constexpr,
    HIP: tl.constexpr,
    EXIT: tl.constexpr = True,
    stamps=None,
    CLOCK: tl.constexpr = 0,
):
    """1-stage: every rank reads all ranks' rows; a program takes one token a turn.

    ``BLOCK`` is the power of two at or above ``HIDDEN``. Barriers at entry and exit, both relaxed:
    inputs come from earlier launches, and the exit only keeps them from being overwritten. Without
    ``EXIT`` nothing does: that is for measuring what the exit barrier costs.
    """
    stamp_ends(stamps, STARTED, CLOCK, HIP)
    rank, program, programs, signal, epoch = _enter(table, first_rank, RANKS, LOCAL, SCOPE)
    inputs = _every(table, INPUT, RANKS, TYPE)
    residuals = _own(table, RESIDUAL, rank, RANKS, TYPE)
    outputs = _own(table, OUTPUT, rank, RANKS, TYPE)
    residual_outs = _own(table, RESIDUAL_OUT, rank, RANKS, TYPE)
    columns = tl.arange(0, BLOCK)
    mask = columns < HIDDEN
    weight = tl.load(_own(table, WEIGHT, rank, RANKS, TYPE) + columns, mask=mask, other=0.0)
    _wait(signal, program, epoch + 1, spin_limit, RANKS, False, SCOPE, HIP)
    stamp(stamps, 0, ENTERED, CLOCK, HIP)

    for token in range(program, tokens, programs):
        turn = token // programs + 1
        offsets = token * HIDDEN + columns
        residual = tl.load(residuals + offsets, mask=mask, other=0.0)
        summed = _sum_in_rank_order(inputs, offsets, mask, RANKS, TYPE)
        stamp_behind(summed, stamps, turn, READ, CLOCK, HIP)
        residual_out, output = _norm(summed, residual, weight, HIDDEN, epsilon, TYPE)
        stamp(stamps, turn, NORMED, CLOCK, HIP)
        if EXIT and token + programs >= tokens:
            # The norm's reduction has used the last loads of all threads: peers may go on while
            # this program still writes.
            _arrive(table, rank, program, RANKS, "relaxed", SCOPE)
        tl.store(residual_outs + offsets, residual_out, mask=mask)
        tl.store(outputs + offsets, output, mask=mask)
        stamp(stamps, turn, WRITTEN, CLOCK, HIP)

    if EXIT:
        _wait(signal, program, epoch + 2, spin_limit, RANKS, False, SCOPE, HIP)
    stamp_ends(stamps, LEFT, CLOCK, HIP)
    tl.store(signal + program * SIGNAL_LINE + EPOCH, epoch + (2 if EXIT else 1))


@triton.jit
def _arrived(row, at, inside, patience, MARK: tl.constexpr, BLOCK: tl.constexpr,
             BYTES: tl.constexpr, HIP: tl.constexpr):  # fmt: skip
    """Wait until a row of ``PUSHED`` has no mark; return its bits and the polls that are left."""
    columns = tl.arange(0, BLOCK)
    bits = peek_row(row, at, columns, inside, 0, BYTES, 16 // BYTES, HIP)
    least = tl.min(bits.to(tl.int32))  # no word is smaller than the mark
    while (least == MARK) & (patience > 0):
        bits = peek_row(row, at, columns, inside, 0, BYTES, 16 // BYTES, HIP)
        least = tl.min(bits.to(tl.int32))
        patience -= 1
    return bits, patience


@triton.jit(do_not_specialize=["tokens", "first_rank", "spin_limit"])
def fused_two_stage(
    table,
    tokens,
    first_rank,
    epsilon,
    spin_limit,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    SHARE: tl.constexpr,
    SHARE_BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    LOCAL: tl.constexpr,
    TYPE: tl.constexpr,
    SCOPE: tl.constexpr,
    HIP: tl.constexpr,
    stamps=None,
    CLOCK: tl.constexpr = 0,
):
    """2-stage in one launch: reduce a part of each row, push it to every rank, norm whole rows.

    A rank's part is ``SHARE`` columns of every row, whole cache lines. The same-numbered
    programs of all ranks take the same tokens in both stages. A turn pushes this rank's part of one
    token, and norms the token of the turn before, whose parts the peers have pushed meanwhile: no
    barrier stands between the stages, the data say that they have come (marks, see above). So
    there is none at the exit: a program that has all parts of its rows knows that every peer has
    read its inputs.
    """
    stamp_ends(stamps, STARTED, CLOCK, HIP)
    rank, program, programs, signal, epoch = _enter(table, first_rank, RANKS, LOCAL, SCOPE)
    WORD: tl.constexpr = tl.int16 if TYPE.primitive_bitwidth == 16 else tl.int32
    MARK: tl.constexpr = -(1 << (WORD.primitive_bitwidth - 1))  # the bits of -0.0
    BYTES: tl.constexpr = WORD.primitive_bitwidth // 8
    inputs = _every(table, INPUT, RANKS, TYPE)
    pushed = _every(table, PUSHED, RANKS, WORD)
    own = _own(table, PUSHED, rank, RANKS, WORD)
    residuals = _own(table, RESIDUAL, rank, RANKS, TYPE)
    outputs = _own(table, OUTPUT, rank, RANKS, TYPE)
    residual_outs = _own(table, RESIDUAL_OUT, rank, RANKS, TYPE)
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    within = tl.arange(0, SHARE_BLOCK)
    part = rank * SHARE + within
    of_part = (within < SHARE) & (part < HIDDEN)
    weights = _own(table, WEIGHT, rank, RANKS, TYPE)
    residual = tl.load(residuals + program * HIDDEN + columns, mask=inside, other=0.0)
    # A peer that was lost once is not waited for again.
    patience = tl.where(tl.load(signal + ERROR) == 0, spin_limit, 1)
    _wait(signal, program, epoch + 1, spin_limit, RANKS, False, SCOPE, HIP)
    stamp(stamps, 0, ENTERED, CLOCK, HIP)

    for token in range(program, tokens + programs, programs):
        turn = token // programs + 1
        if token < tokens:
            offsets = token * HIDDEN + part
            summed = _sum_in_rank_order(inputs, offsets, of_part, RANKS, TYPE)
            stamp_behind(summed, stamps, turn, READ, CLOCK, HIP)
            bits = summed.to(WORD, bitcast=True)
            unmarked = tl.where(bits == MARK, 0, bits)
            for peer in tl.static_range(RANKS):
                push(pushed[peer] + offsets, unmarked, of_part, HIP)
            stamp(stamps, turn, SENT, CLOCK, HIP)
        before = token - programs
        if before >= 0:
            at = before * HIDDEN
            bits, patience = _arrived(own, at, inside, patience, MARK, BLOCK, BYTES, HIP)
            stamp(stamps, turn - 1, GATHERED_ROW, CLOCK, HIP)
            gathered = bits.to(TYPE, bitcast=True)
            # Loaded in every turn: kept, it would take registers that two programs have not.
            weight = tl.load(weights + columns, mask=inside, other=0.0)
            residual_out, output = _norm(gathered, residual, weight, HIDDEN, epsilon, TYPE)
            stamp(stamps, turn - 1, NORMED, CLOCK, HIP)
            ahead = token * HIDDEN + columns
            residual = tl.load(
                residuals + ahead, mask=inside & (ahead < tokens * HIDDEN), other=0.0
            )
            tl.store(residual_outs + at + columns, residual_out, mask=inside)
            tl.store(outputs + at + columns, output, mask=inside)
            tl.store(own + at + columns, tl.full((BLOCK,), MARK, WORD), mask=inside)
            stamp(stamps, turn - 1, WRITTEN, CLOCK, HIP)
    if patience == 0:
        tl.store(signal + ERROR, 1)
    stamp_ends(stamps, LEFT, CLOCK, HIP)
    tl.store(signal + program * SIGNAL_LINE + EPOCH, epoch + 1)


@triton.jit(do_not_specialize=["first_rank", "spin_limit"])
def barriers_alone(
    table,
    first_rank,
    spin_limit,
    BARRIERS: tl.constexpr,
    RANKS: tl.constexpr,
    LOCAL: tl.constexpr,
    SCOPE: tl.constexpr,
    HIP: tl.constexpr,
):
    """Do nothing but meet ``BARRIERS`` times, relaxed: what a call costs that moves no byte."""
    rank = first_rank + tl.program_id(0) % LOCAL
    program = tl.program_id(0) // LOCAL
    signal = _own(table, SIGNAL, rank, RANKS, tl.int32)
    epoch = tl.load(signal + program * SIGNAL_LINE + EPOCH)
    for meeting in tl.static_range(BARRIERS):
        _arrive(table, rank, program, RANKS, "relaxed", SCOPE)
        _wait(signal, program, epoch + meeting + 1, spin_limit, RANKS, False, SCOPE, HIP)
    tl.store(signal + program * SIGNAL_LINE + EPOCH, epoch + BARRIERS)


@triton.jit(do_not_specialize=["packs", "first_rank", "spin_limit"])
def reduce_scatter_to_peers(
    table,
    packs,
    first_rank,
    spin_limit,
    PACK: tl.constexpr,
    BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    LOCAL: tl.constexpr,
    TYPE: tl.constexpr,
    SCOPE: tl.constexpr,
    HIP: tl.constexpr,
):
    """First kernel of a 2-stage in two launches: reduce 1/RANKS of the elements, write it to all.

    ``packs`` is tokens * hidden / PACK; the shares are whole packs of 16 bytes. The entry barrier
    also tells that the peers have read the previous call's ``GATHERED``. The exit barrier is
    release/acquire: behind it, every rank's ``GATHERED`` is complete.
    """
    rank, program, programs, signal, epoch = _enter(table, first_rank, RANKS, LOCAL, SCOPE)
    inputs = _every(table, INPUT, RANKS, TYPE)
    gathered = _every(table, GATHERED, RANKS, TYPE)
    share = tl.cdiv(packs, RANKS)
    stop = tl.minimum((rank + 1) * share, packs) * PACK
    _wait(signal, program, epoch + 1, spin_limit, RANKS, False, SCOPE, HIP)

    for at in range(rank * share * PACK + program * BLOCK, stop, programs * BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        mask = offsets < stop
        summed = _sum_in_rank_order(inputs, offsets, mask, RANKS, TYPE)
        for peer in tl.static_range(RANKS):
            tl.store(gathered[peer] + offsets, summed, mask=mask)

    tl.debug_barrier()  # the stores of all threads come before the release below
    _arrive(table, rank, program, RANKS, "release", SCOPE)
    _wait(signal, program, epoch + 2, spin_limit, RANKS, True, SCOPE, HIP)
    tl.store(signal + program * SIGNAL_LINE + EPOCH, epoch + 2)


@triton.jit(do_not_specialize=["tokens", "first_rank", "ranks"])
def add_rms_norm(
    table,
    tokens,
    first_rank,
    ranks,
    epsilon,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    LOCAL: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Residual add + RMSNorm of the gathered sum: local, no barrier.

    Second kernel of a 2-stage in two launches and of the separate ops. ``ranks`` (the table's
    width) is no constant here, so that one compilation serves all world sizes.
    """
    rank = first_rank + tl.program_id(0) % LOCAL
    program = tl.program_id(0) // LOCAL
    programs = tl.num_programs(0) // LOCAL
    summeds = _own(table, GATHERED, rank, ranks, TYPE)
    residuals = _own(table, RESIDUAL, rank, ranks, TYPE)
    outputs = _own(table, OUTPUT, rank, ranks, TYPE)
    residual_outs = _own(table, RESIDUAL_OUT, rank, ranks, TYPE)
    columns = tl.arange(0, BLOCK)
    mask = columns < HIDDEN
    weight = tl.load(_own(table, WEIGHT, rank, ranks, TYPE) + columns, mask=mask, other=0.0)
    for token in range(program, tokens, programs):
        offsets = token * HIDDEN + columns
        summed = tl.load(summeds + offsets, mask=mask, other=0.0)
        residual = tl.load(residuals + offsets, mask=mask, other=0.0)
        residual_out, output = _norm(summed, residual, weight, HIDDEN, epsilon, TYPE)
        tl.store(residual_outs + offsets, residual_out, mask=mask)
        tl.store(outputs + offsets, output, mask=mask)


@triton.jit(do_not_specialize=["packs", "first_rank", "spin_limit"])
def all_reduce_one_stage(
    table,
    packs,
    first_rank,
    spin_limit,
    PACK: tl.constexpr,
    BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    LOCAL: tl.constexpr,
    TYPE: tl.constexpr,
    SCOPE: tl.constexpr,
    HIP: tl.constexpr,
):
    """Plain all-reduce, 1-stage: every rank reads all inputs and writes its own ``GATHERED``."""
    rank, program, programs, signal, epoch = _enter(table, first_rank, RANKS, LOCAL, SCOPE)
    inputs = _every(table, INPUT, RANKS, TYPE)
    gathered = _own(table, GATHERED, rank, RANKS, TYPE)
    stop = packs * PACK
    _wait(signal, program, epoch + 1, spin_limit, RANKS, False, SCOPE, HIP)

    for at in range(program * BLOCK, stop, programs * BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        mask = offsets < stop
        summed = _sum_in_rank_order(inputs, offsets, mask, RANKS, TYPE)
        tl.store(gathered + offsets, summed, mask=mask)

    tl.debug_barrier()  # all threads have read
    _arrive(table, rank, program, RANKS, "relaxed", SCOPE)
    _wait(signal, program, epoch + 2, spin_limit, RANKS, False, SCOPE, HIP)
    tl.store(signal + program * SIGNAL_LINE + EPOCH, epoch + 2)


@triton.jit(do_not_specialize=["packs", "first_rank", "spin_limit"])
def all_reduce_two_stage(
    table,
    packs,
    first_rank,
    spin_limit,
    PACK: tl.constexpr,
    BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    LOCAL: tl.constexpr,
    TYPE: tl.constexpr,
    SCOPE: tl.constexpr,
    HIP: tl.constexpr,
    ORDERED: tl.constexpr = True,
):
    """Plain all-reduce, 2-stage, one kernel: reduce a share, barrier, read the peers' shares.

    A program reads back what the same-numbered programs of the peers reduced, so that the barrier
    between equal numbers is enough. The next call's entry barrier guards ``PARTIAL``. Without
    ``ORDERED`` the barrier is relaxed, and shares may not be there yet: that is for measuring what
    the order costs.
    """
    rank, program, programs, signal, epoch = _enter(table, first_rank, RANKS, LOCAL, SCOPE)
    inputs = _every(table, INPUT, RANKS, TYPE)
    partials = _every(table, PARTIAL, RANKS, TYPE)
    partial = _own(table, PARTIAL, rank, RANKS, TYPE)
    gathered = _own(table, GATHERED, rank, RANKS, TYPE)
    share = tl.cdiv(packs, RANKS) * PACK
    total = packs * PACK
    _wait(signal, program, epoch + 1, spin_limit, RANKS, False, SCOPE, HIP)

    for at in range(program * BLOCK, share, programs * BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        mask = (offsets < share) & (rank * share + offsets < total)
        summed = _sum_in_rank_order(inputs, rank * share + offsets, mask, RANKS, TYPE)
        tl.store(partial + offsets, summed, mask=mask)

    tl.debug_barrier()  # the stores of all threads come before the release below
    _arrive(table, rank, program, RANKS, "release" if ORDERED else "relaxed", SCOPE)
    _wait(signal, program, epoch + 2, spin_limit, RANKS, ORDERED, SCOPE, HIP)

    for at in range(program * BLOCK, share, programs * BLOCK):
        offsets = at + tl.arange(0, BLOCK)
        for peer in tl.static_range(RANKS):
            mask = (offsets < share) & (peer * share + offsets < total)
            summed = tl.load(partials[peer] + offsets, mask=mask, other=0.0)
            tl.store(gathered + peer * share + offsets, summed, mask=mask)
    tl.store(signal + program * SIGNAL_LINE + EPOCH, epoch + 2)
