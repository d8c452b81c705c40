"""Copies from other GPUs' memory, and an empty kernel that meets them: what a link can do at best.

``patterns`` lists who reads from whom at a time: each ordered pair of ranks alone; all ranks at
once, each from the one k places on, so that every port carries one stream in and one out; and all
ranks from all others, as 1-stage does. ``rates`` measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import triton
from triton_floor import COPY_BLOCK_BYTES, copy

from costmodel.live.backends.base import LiveShape, Timed
from costmodel.live.backends.device import TorchGpu, led
from costmodel.live.backends.triton import kernels
from costmodel.live.backends.triton.adapter import TritonBackend
from costmodel.live.backends.triton.memory import symmetric_bytes
from costmodel.live.repetition import CALLS
from costmodel.model.shape import ONE_STAGE
from costmodel.units import MIB

#: Peer copies by what does them.
COPIERS = ("copy engine", "copy kernel")

#: What one stream of a rate moves: long beside its start. And replays of each.
RATE_BYTES, SAMPLES = 64 * MIB, 5

#: Any shape: the empty kernel takes its grid.
MEETING = LiveShape(1, 2880, "bf16")


class Looped(Timed):
    """Calls of something that is no arm, captured; an untimed call of ``together`` leads them.

    ``kept`` is the memory that the graph uses.
    """

    def __init__(
        self, call: Callable[[int], None], together: Callable[[], None], kept: Any = None
    ) -> None:
        self._device = TorchGpu()
        self._kept = (call, together, kept)
        self._graph, self._lead = self._device.graph(), self._device.graph()

        def issue() -> None:
            for index in range(CALLS):
                call(index)

        issue()
        together()
        self._device.synchronize()
        with self._device.capture(self._graph, None):
            issue()
        with self._device.capture(self._lead, None):
            together()

    def replay(self, samples: int) -> Any:
        self._graph.replay()
        return led(self._device, self._lead.replay, self._graph.replay, samples) / CALLS


def barriers(ours: TritonBackend) -> Callable[[], None]:
    """Return the launch of the empty kernel on the grid of the fused 1-stage."""
    (fused,) = ours._launches(ONE_STAGE)
    kept = ("RANKS", "LOCAL", "SCOPE", "HIP", "num_warps")
    launch = fused._replace(
        kernel=kernels.barriers_alone,
        arguments=(ours.local_ranks[0], ours._spin_limit),
        options={"BARRIERS": 2, **{name: fused.options[name] for name in kept}},
    )
    return lambda: launch(ours._slots[0].table)


class Shared:
    """Memory of every rank that the others read, ``slots`` buffers of ``size_bytes``."""

    def __init__(self, ours: TritonBackend, size_bytes: int, slots: int) -> None:
        import torch.distributed._symmetric_memory as symmetric

        words = max(size_bytes // 4, 4)
        self._slots, self._words = slots, words
        self._shared = symmetric_bytes(slots * words * 4).view(torch.float32).view(slots, words)
        self._handle = symmetric.rendezvous(self._shared, ours._memory.group.group_name)
        self._shared.zero_()
        self._taken: list[Any] = []
        self._streams: list[Any] = []

    def reading(self, peers: Sequence[int]) -> dict[str, Callable[[int], None]]:
        """Return calls that copy one buffer of each peer, all at once, by copier.

        Without peers a call moves a few bytes of this GPU alone.
        """
        slots, words, block = self._slots, self._words, COPY_BLOCK_BYTES // 4
        while len(self._taken) < max(len(peers), 1):
            self._taken.append(torch.empty_like(self._shared))
            self._streams.append(torch.cuda.Stream())
        given = [self._handle.get_buffer(peer, (slots, words), torch.float32) for peer in peers]
        if not peers:
            words, given = 4, [self._shared]

        def by_engine(taken: Any, given: Any, at: int) -> None:
            taken[at][:words].copy_(given[at][:words], non_blocking=True)

        def by_kernel(taken: Any, given: Any, at: int) -> None:
            copy[(triton.cdiv(words, block),)](
                taken[at], given[at], words, BLOCK=block, num_warps=8
            )

        def called(one: Callable[[Any, Any, int], None]) -> Callable[[int], None]:
            def call(index: int) -> None:
                self._at_once(one, given, index % slots)

            return call

        return {
            name: called(one) for name, one in zip(COPIERS, (by_engine, by_kernel), strict=True)
        }

    def _at_once(self, one: Callable[[Any, Any, int], None], given: list[Any], at: int) -> None:
        """Issue a copy from each of ``given``, on streams of their own where there are several."""
        if len(given) == 1:
            one(self._taken[0], given[0], at)
            return
        here = torch.cuda.current_stream()
        for stream, taken, peer in zip(self._streams, self._taken, given, strict=False):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                one(taken, peer, at)
        for stream in self._streams[: len(given)]:
            here.wait_stream(stream)


def patterns(world_size: int) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """Yield (name, peers that each rank reads from): pairs, shifts, all from all."""
    ranks = range(world_size)
    for reader in ranks:
        for peer in ranks:
            if peer != reader:
                yield f"{reader} from {peer}", [(peer,) if r == reader else () for r in ranks]
    for shift in range(1, world_size):
        yield f"all, {shift} on", [((r + shift) % world_size,) for r in ranks]
    if world_size > 2:  # with two it is the shift
        yield "all from all", [tuple(p for p in ranks if p != r) for r in ranks]


def gbps(size_bytes: int, peers: Sequence[Sequence[int]], us: Sequence[float]) -> list[float]:
    """Return what each rank that reads took in, GB/s, from the time of a call on each rank."""
    return [
        round(len(mine) * size_bytes / time / 1e3, 1)
        for mine, time in zip(peers, us, strict=True)
        if mine
    ]


def rates(ours: TritonBackend) -> Iterator[dict[str, Any]]:
    """Yield, for each pattern and copier, the rates into the ranks that read, in GB/s.

    All ranks walk along, and start each replay behind a barrier on the GPUs.
    """
    ours.prepare(MEETING, 1, 0)
    together = barriers(ours)
    shared = Shared(ours, RATE_BYTES, 1)
    for name, peers in patterns(ours.world_size):
        mine = peers[ours.local_ranks[0]]
        for copier, call in shared.reading(mine).items():
            ours.exchange(None)  # nobody waits on the GPU for a rank that still compiles
            timed = Looped(call, together, shared)
            us = ours.exchange(float(np.median(timed.replay(SAMPLES))))
            timed.close()
            yield {
                "pattern": name, "copier": copier, "bytes": RATE_BYTES,
                "gbps": gbps(RATE_BYTES, peers, us),
            }  # fmt: skip
    ours.release()
