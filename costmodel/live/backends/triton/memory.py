"""Memory that every rank reaches: N virtual ranks on one GPU, or torch's symmetric memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ....data.cards import XGMI
from ....errors import InputError
from ... import kfd


class Region(NamedTuple):
    """Memory of all ranks: addresses by rank, and the bytes of the local ranks (uint8 tensors)."""

    addresses: Sequence[int]
    local: list[Any]

    def clear(self) -> None:
        """Fill with zeros and wait."""
        import torch

        for part in self.local:
            part.zero_()
        torch.cuda.synchronize()


class Memory(Protocol):
    """Where the ranks' memory comes from."""

    #: Schema 1's word for the links between the ranks.
    interconnect: str
    #: The ranks of this process.
    local_ranks: tuple[int, ...]

    def allocate(self, size_bytes: int) -> Region:
        """Return ``size_bytes`` of uninitialized memory for every rank; all processes call it."""

    def exchange(self, value: Any) -> list[Any]:
        """Return everybody's value, by process."""

    def meet(self, value: Any) -> list[Any]:
        """Return the value of every process that was started."""

    def close(self) -> None:
        """Give back what belongs to this world size."""


class Loopback:
    """N virtual ranks on the current GPU, all in this process."""

    interconnect = "loopback"

    def __init__(self, world_size: int) -> None:
        self.local_ranks = tuple(range(world_size))

    def allocate(self, size_bytes: int) -> Region:
        """See :meth:`Memory.allocate`."""
        import torch

        local = [
            torch.empty(size_bytes, dtype=torch.uint8, device="cuda") for _ in self.local_ranks
        ]
        return Region([part.data_ptr() for part in local], local)

    def exchange(self, value: Any) -> list[Any]:
        """See :meth:`Memory.exchange`."""
        return [value]

    def meet(self, value: Any) -> list[Any]:
        """See :meth:`Memory.meet`."""
        return [value]

    def close(self) -> None:
        """See :meth:`Memory.close`."""


class SymmetricMemory:
    """One GPU and one process a rank, under torchrun. Not verified: no such machine was at hand.

    The first ``world_size`` processes are the ranks. Raises :class:`InputError` when torchrun
    started fewer, or more than there are GPUs.
    """

    def __init__(self, world_size: int) -> None:
        import torch
        import torch.distributed as dist

        started = int(os.environ["WORLD_SIZE"])
        if started < world_size:
            raise InputError(
                f"torchrun started {started} processes, --tp is {world_size}; make them equal"
            )
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        seen = torch.cuda.device_count()
        if local_rank >= seen:
            raise InputError(
                f"{started} ranks need {started} GPUs, torch sees {seen}; "
                "without torchrun, back end triton runs all ranks on one GPU"
            )
        torch.cuda.set_device(local_rank)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl")
        self._all = world_size == started
        self._group: Any = dist.group.WORLD
        if not self._all:
            self._group = dist.new_group(list(range(world_size)))
        hip = torch.version.hip
        self.interconnect = (kfd.interconnect() or XGMI) if hip else "nvlink"
        self.local_ranks = (dist.get_rank(),) if dist.get_rank() < world_size else ()
        self._processes = world_size

    def allocate(self, size_bytes: int) -> Region:
        """See :meth:`Memory.allocate`."""
        import torch
        import torch.distributed._symmetric_memory as symmetric

        device = torch.device("cuda", torch.cuda.current_device())
        mine = symmetric.empty(size_bytes, dtype=torch.uint8, device=device)
        handle = symmetric.rendezvous(mine, self._group.group_name)
        return Region(list(handle.buffer_ptrs), [mine])

    def exchange(self, value: Any) -> list[Any]:
        """See :meth:`Memory.exchange`."""
        import torch.distributed as dist

        everybody: list[Any] = [None] * self._processes
        dist.all_gather_object(everybody, value, group=self._group)
        return everybody

    def meet(self, value: Any) -> list[Any]:
        """See :meth:`Memory.meet`."""
        import torch.distributed as dist

        everybody: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everybody, value)
        return everybody

    def close(self) -> None:
        """See :meth:`Memory.close`."""
        import torch.distributed as dist

        if self.local_ranks and not self._all:
            dist.destroy_process_group(self._group)
