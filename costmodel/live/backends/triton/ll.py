"""A third one-shot form: the fused 1-stage that pushes its rows with flags inside the data.

A word of 8 bytes carries 4 bytes of a row and the epoch of the call, as in NCCL's LL protocol and
AITER's plain all-reduce of PR 5272 (https://github.com/ROCm/aiter). Every rank writes its row into
a place of its own in every peer's buffer; a peer polls its own memory until all words of a row
carry the epoch, sums in rank order as the 1-stage does (``residual_out`` has the same bits, the
output but for the order in which a row's squares are summed), adds the residual and norms. There is
no barrier: a word that has come says so itself. Benchmarks launch it; no arm and no rule has it.

**Whole words.** Data and flag must arrive together. Loads and stores are of one or two whole words,
aligned, and an aligned 8-byte access is never split on either vendor (PTX takes a vector access as
one access an element, here of 8 bytes; AMD's memory model has 64-bit atomics as plain loads and
stores with ``sc0 sc1``). Triton has no relaxed vector store, so that on NVIDIA the push is a weak
store beside volatile loads: a race by the letter of PTX's model, one instruction in practice.

**Why two slots are enough.** The buffer has a slot for even epochs and one for odd ones. Calls of
a rank run one after the other, a call whole before the next (a stream, or a chain of graph nodes).
Say rank ``s`` is about to write in call ``e + 2`` what rank ``d`` was to read in call ``e``. Then
``s`` has ended call ``e + 1``: between them its programs have seen the words of ``e + 1`` of every
row from ``d``, so ``d`` has begun ``e + 1``, so ``d`` has ended ``e`` with all its programs, and
whatever they were to read they have read. How far programs of one rank are apart inside a call does
not matter, nor which of them took a row. (With one slot it fails: ``s`` ends ``e`` when it has
seen the words of ``d``, and ``d`` pushes before it reads.) A place holds the flag ``e - 2`` until
``e`` comes, or the zero it was cleared to, so no old word is taken for a new one, and the epoch may
wrap. It lives in device memory, a word for each program, so that a captured graph can be replayed.

**What a look costs.** A multiprocessor takes 64 bytes a cycle from its L2 cache, and the words of N
rows are twice their bytes: a look at all of them is no small thing, and one that finds a word
missing is lost. So where a look is long a program first polls few words of each row, spread over
it, until those have come. Where it is short, the round trip that this takes may cost more
(``benchmarks/differences.py`` measures both).

So a buffer, its epochs and one shape on one grid belong together: another shape takes another
buffer, cleared before any peer may push.

A wait gives up after ``spin_limit`` polls and sets the error word of the signals; then later calls
look once and go on: wrong numbers and an error, never a hung device.
"""

# mypy: disable-error-code="no-untyped-def, assignment, attr-defined, misc"
from __future__ import annotations

import triton
import triton.language as tl

from ....units import element_bytes
from ..base import CannotRun, LiveShape
from .kernels import (
    ERROR,
    INPUT,
    OUTPUT,
    RESIDUAL,
    RESIDUAL_OUT,
    SIGNAL,
    WEIGHT,
    _norm,
    _own,
    peek_row,
    push,
)

#: Bytes of a row that one 8-byte word carries; the other four are the flag.
CARRIED_BYTES = 4

#: Words of a row that are polled before all are looked at, the last of as many equal parts.
PROBES = tl.constexpr(16)

#: The largest buffer of a rank. LL is for small calls: at 8 ranks this serves calls of 2 MiB, where
#: every one-shot form has long lost to the 2-stage.
MAX_BUFFER_BYTES = 64 * 2**20


#: The longest row: beyond it registers spill.
MAX_ROW_BYTES = 16384


def buffer_bytes(shape: LiveShape, ranks: int) -> int:
    """Return the bytes of one rank's buffer: two slots of every rank's rows, doubled by the flags.

    Raises :class:`CannotRun` above :data:`MAX_BUFFER_BYTES` and :data:`MAX_ROW_BYTES`.
    """
    row = shape.hidden_dim * element_bytes(shape.dtype)
    if row > MAX_ROW_BYTES:
        raise CannotRun(
            f"flags in the data go with rows of up to {MAX_ROW_BYTES} bytes, not with the {row} of "
            f"hidden {shape.hidden_dim} {shape.dtype}"
        )
    size = 8 * 2 * ranks * shape.bytes // CARRIED_BYTES
    if size > MAX_BUFFER_BYTES:
        raise CannotRun(
            f"flags in the data take {size / 2**20:.0f} MiB a rank at {shape} on {ranks} ranks, "
            f"above the limit of {MAX_BUFFER_BYTES // 2**20} MiB; use fewer tokens"
        )
    return size


def sources_at_once(ranks: int, block: int, threads: int, dtype: str) -> int:
    """Return how many ranks' words a thread has in flight together, a power of two.

    A word takes two registers; 16 words a thread leave room for the sum of the row, and are more
    than a multiprocessor needs in flight to take what its L2 cache gives.
    """
    words = max(1, block * element_bytes(dtype) // CARRIED_BYTES // threads)
    return max(1, min(ranks // 2, 16 // words))


def probed_first(ranks: int, hidden_dim: int, dtype: str) -> bool:
    """Return whether a look at all peers' words takes long: 0.6 us of a multiprocessor and more."""
    return 2 * (ranks - 1) * hidden_dim * element_bytes(dtype) > 65536


@triton.jit
def _elements(carried, BLOCK: tl.constexpr, EACH: tl.constexpr, TYPE: tl.constexpr):
    """Return the ``EACH`` elements that every int32 of ``carried`` holds, in order, in fp32."""
    if EACH == 1:
        return carried.to(TYPE, bitcast=True).to(tl.float32)
    else:
        low = (carried & 0xFFFF).to(tl.int16).to(TYPE, bitcast=True)
        high = ((carried >> 16) & 0xFFFF).to(tl.int16).to(TYPE, bitcast=True)
        return tl.reshape(tl.join(low, high), (BLOCK,)).to(tl.float32)


@triton.jit(do_not_specialize=["tokens", "first_rank", "ranks", "spin_limit"])
def fused_one_stage_ll(
    table,
    buffers,
    epochs,
    tokens,
    first_rank,
    ranks,
    epsilon,
    spin_limit,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    SOURCES: tl.constexpr,
    PROBED: tl.constexpr,
    RANKS: tl.constexpr,
    LOCAL: tl.constexpr,
    TYPE: tl.constexpr,
    HIP: tl.constexpr,
):
    """1-stage with flags in the data; a program takes one token a turn, and pushes all its own
    before it waits for any.

    ``buffers`` holds the address of every rank's buffer, int64 of RANKS entries, ``epochs`` an
    int32 for each program of the launch. With ``PROBED``, few words are polled before all are
    looked at. ``SOURCES`` is how many ranks' words are asked for together, ``ranks`` is RANKS
    again, as a number that the compiler does not know: it would unroll the loop over sources, ask
    for all of them at once, and spill. A rank's own row does not go through its buffer.
    """
    EACH: tl.constexpr = 32 // TYPE.primitive_bitwidth
    WORDS: tl.constexpr = HIDDEN // EACH
    PART: tl.constexpr = tl.cdiv(WORDS, PROBES)
    epoch = tl.load(epochs + tl.program_id(0)) + 1
    rank = first_rank + tl.program_id(0) % LOCAL
    program = tl.program_id(0) // LOCAL
    programs = tl.num_programs(0) // LOCAL
    inputs = _own(table, INPUT, rank, RANKS, tl.int32)
    peers = ()
    for turn in tl.static_range(1, RANKS):
        peers = peers + (_own(buffers, 0, (rank + turn) % RANKS, RANKS, tl.int64),)  # noqa: RUF005
    flag = epoch.to(tl.int64) << 32
    slot = (epoch & 1) * (RANKS * tokens * WORDS)
    word = tl.arange(0, BLOCK // EACH)
    carries = word < WORDS
    reader = tl.zeros((BLOCK // EACH,), tl.int32) + rank

    # Rows are summed from the last token to the first: its words are still there.
    last = program
    mine = tl.zeros((BLOCK // EACH,), tl.int64)
    for token in range(program, tokens, programs):
        carried = tl.load(inputs + token * WORDS + word, mask=carries, other=0)
        mine = carried.to(tl.uint32).to(tl.int64) | flag
        last = token
        row = slot + (rank * tokens + token) * WORDS
        for turn in tl.static_range(1, RANKS):
            push(peers[turn - 1] + row + word, mine, carries, HIP)

    # What is local comes while the peers' words travel.
    own = _own(buffers, 0, rank, RANKS, tl.int64)
    signal = _own(table, SIGNAL, rank, RANKS, tl.int32)
    patience = tl.where(tl.load(signal + ERROR) == 0, spin_limit, 1)
    residuals = _own(table, RESIDUAL, rank, RANKS, TYPE)
    outputs = _own(table, OUTPUT, rank, RANKS, TYPE)
    residual_outs = _own(table, RESIDUAL_OUT, rank, RANKS, TYPE)
    columns = tl.arange(0, BLOCK)
    mask = columns < HIDDEN
    weight = tl.load(_own(table, WEIGHT, rank, RANKS, TYPE) + columns, mask=mask, other=0.0)
    probe = tl.arange(0, RANKS * PROBES)
    probed = tl.minimum((probe % PROBES + 1) * PART, WORDS) - 1
    probed += probe // PROBES * (tokens * WORDS)
    of_peers = probe // PROBES != rank

    token = last
    while token >= 0:
        offsets = token * HIDDEN + columns
        residual = tl.load(residuals + offsets, mask=mask, other=0.0)
        waiting = PROBED
        polls = 0
        while waiting & (polls < patience):
            heard = peek_row(own, slot + token * WORDS, probed, of_peers, flag, 8, 1, HIP)
            waiting = tl.max(((heard >> 32).to(tl.int32) != epoch).to(tl.int32)) != 0
            polls += 1
        total = tl.full((BLOCK,), -0.0, tl.float32)
        behind = True
        while behind & (polls <= patience):
            total = tl.full((BLOCK,), -0.0, tl.float32)  # -0.0 + x is x, also where x is 0.0
            apart = tl.zeros((BLOCK // EACH,), tl.int32)
            for first in range(0, ranks, SOURCES):
                seen = ()
                for place in tl.static_range(SOURCES):
                    source = first + place
                    row = slot + (source * tokens + token) * WORDS
                    words = peek_row(own, row, word, carries & (reader != source), mine, 8, 2, HIP)
                    seen = seen + (words,)  # noqa: RUF005
                for place in tl.static_range(SOURCES):
                    apart |= (seen[place] >> 32).to(tl.int32) ^ epoch
                    total += _elements(seen[place].to(tl.int32), BLOCK, EACH, TYPE)
            behind = tl.max((apart != 0).to(tl.int32)) != 0
            polls += 1
        if behind:
            tl.store(signal + ERROR, 1)
        # The next row's own words, for a program that has one.
        at = (token - programs) * WORDS + word
        carried = tl.load(inputs + at, mask=carries & (at >= 0), other=0)
        mine = carried.to(tl.uint32).to(tl.int64) | flag
        residual_out, output = _norm(total.to(TYPE), residual, weight, HIDDEN, epsilon, TYPE)
        tl.store(residual_outs + offsets, residual_out, mask=mask)
        tl.store(outputs + offsets, output, mask=mask)
        token -= programs
    tl.store(epochs + tl.program_id(0), epoch)
