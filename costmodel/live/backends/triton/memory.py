"""Memory that every rank reaches: N virtual ranks on one GPU, or torch's symmetric memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ....data.cards import XGMI
from ....errors import InputError, first_line
from ... import kfd

#: A rank's memory, and each buffer in it, starts at a multiple of this.
ALIGNMENT_BYTES = 512

#: With this at 1, torch's symmetric memory takes several processes on one GPU: for trying it out.
OVERLAPPING = "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES"


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
    """Torch's symmetric memory: a process and a GPU for every rank, or for several, under torchrun.

    The first processes hold the ranks, each the same number of them; where ``world_size`` is above
    the number of processes, several ranks share a GPU and its port, and ``interconnect`` says on
    how many GPUs (``nvlink/2``). Seen to work on two H200 with 1, 2 and 4 ranks a GPU. Raises
    :class:`InputError` where the ranks do not divide over the processes, and where there are fewer
    GPUs than processes, unless ``overlap`` lets them share and torch's own variable allows it
    (:data:`OVERLAPPING`); then ``interconnect`` is a loopback's.
    """

    def __init__(self, world_size: int, *, overlap: bool = False) -> None:
        import torch
        import torch.distributed as dist

        started = int(os.environ["WORLD_SIZE"])
        self._processes = min(started, world_size)
        self._each, rest = divmod(world_size, self._processes)
        if rest:
            raise InputError(
                f"{world_size} ranks do not divide over the {started} processes that torchrun "
                "started; give a --tp that is a multiple or a part of them"
            )
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        seen = torch.cuda.device_count()
        self.overlapping = overlap and started > seen > 0 and os.environ.get(OVERLAPPING) == "1"
        if local_rank >= seen and not self.overlapping:
            raise InputError(
                f"{started} processes need {started} GPUs, torch sees {seen}; give torchrun as "
                "many, or run without it: back end triton then has all ranks on one GPU"
            )
        torch.cuda.set_device(local_rank % seen)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl")
        self.group: Any = dist.new_group(list(range(self._processes)))
        wire = (kfd.interconnect() or XGMI) if torch.version.hip else "nvlink"
        self.interconnect = wire if self._each == 1 else f"{wire}/{self._processes}"
        if self.overlapping:
            self.interconnect = "loopback"
        first = dist.get_rank() * self._each
        holds = dist.get_rank() < self._processes
        self.local_ranks = tuple(range(first, first + self._each)) if holds else ()

    def allocate(self, size_bytes: int) -> Region:
        """See :meth:`Memory.allocate`; the ranks of a GPU have parts of one buffer."""
        import torch.distributed._symmetric_memory as symmetric

        stride = -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        mine = symmetric_bytes(stride * self._each)
        try:
            handle = symmetric.rendezvous(mine, self.group.group_name)
        except RuntimeError as error:
            raise InputError(
                f"torch's symmetric memory does not join these GPUs: {first_line(error)}"
            ) from None
        starts = [stride * place for place in range(self._each)]
        return Region(
            [base + start for base in handle.buffer_ptrs for start in starts],
            [mine[start : start + size_bytes] for start in starts],
        )

    def exchange(self, value: Any) -> list[Any]:
        """See :meth:`Memory.exchange`."""
        import torch.distributed as dist

        everybody: list[Any] = [None] * self._processes
        dist.all_gather_object(everybody, value, group=self.group)
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

        if self.local_ranks:
            dist.destroy_process_group(self.group)


def symmetric_bytes(size_bytes: int) -> Any:
    """Return uninitialized memory on this GPU that can be shared, uint8, an allocation of its own.

    ``torch.distributed._symmetric_memory.empty`` takes it from a pool since torch 2.11. There the
    start of a tensor is not the start of what is shared, from which torch's ops and the addresses
    of its handles count, and ranks may come to share different generations of an address
    (pytorch #190977).
    """
    import torch
    from torch._C._distributed_c10d import _SymmetricMemory

    device = torch.device("cuda", torch.cuda.current_device())
    return _SymmetricMemory.empty_strided_p2p((size_bytes,), (1,), torch.uint8, device)
