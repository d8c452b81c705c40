"""What back ends of one rank a process share: the GPU, the group of ranks, operands and graphs.

Every process holds one rank and a GPU of its own, under torchrun; :class:`SymmetricMemory` finds
the GPU and joins the ranks. What an arm does is the back end's own part.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, first_line
from ...model.shape import WORLD_SIZES
from ..repetition import GRAPH
from .base import Backend, CannotRun, LiveShape, Outputs, Timed
from .device import Device, TorchGpu, led
from .reference import Operands, completed, fused_reference, operands, out_of_memory

#: Multicast, off in torch's symmetric memory and in NCCL, before either starts.
NO_MULTICAST = {"TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NCCL_NVLS_ENABLE": "0"}


class OneRankBackend(Backend):
    """A library's all-reduces, one rank a process under torchrun."""

    interconnect = "nvlink"
    launch = "torchrun"

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self._memory: Any = None
        self._device: Device = TorchGpu("thread_local")
        self._overlapping = False
        self._given: Any = None
        self._shape: LiveShape | None = None
        self._slots: list[Slot] = []
        self._arms: list[RankArm] = []
        self._last: RankArm | None = None

    # -- ranks ------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Find the GPUs and join the ranks; those of the world size then :meth:`_start`."""
        if self.world_size not in WORLD_SIZES:
            raise InputError(
                f"back end {self.name} runs on 2, 4 or 8 ranks, not on {self.world_size}; "
                "choose --tp 2, 4 or 8"
            )
        self._join()
        self.local_ranks = self._memory.local_ranks
        self.interconnect = self._memory.interconnect
        if self.local_ranks:
            self._start()

    @abstractmethod
    def _join(self) -> None:
        """Find the library, and :meth:`_claim` a GPU and the group."""

    def _claim(self, *, overlap: bool) -> None:
        """Claim a GPU and join the group, with multicast off; see :class:`SymmetricMemory`."""
        import torch

        from .triton.memory import SymmetricMemory

        if not torch.cuda.is_available():
            raise InputError(
                f"back end {self.name} needs CUDA or ROCm GPUs that torch can use; this torch "
                f"({torch.__version__}) sees none"
            )
        os.environ.update(NO_MULTICAST)
        self._memory = SymmetricMemory(self.world_size, overlap=overlap)
        self._overlapping = self._memory.overlapping
        self.genuine = not self._overlapping

    @abstractmethod
    def _start(self) -> None:
        """Do with the other ranks what has to be done once."""

    def exchange(self, value: Any) -> list[Any]:
        """See :meth:`Backend.exchange`."""
        return self._memory.exchange(value) if self._memory else [value]

    def meet(self, value: Any) -> list[Any]:
        """See :meth:`Backend.meet`."""
        return self._memory.meet(value) if self._memory else [value]

    def close(self) -> None:
        """Free everything; leave the group of the ranks."""
        self.release()
        if self._memory:
            self._memory.close()
            self._memory = None

    def leave(self) -> None:
        """See :meth:`Backend.leave`."""
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    # -- one shape --------------------------------------------------------------------------------

    def prepare(self, shape: LiveShape, slots: int, seed: int) -> None:
        """See :meth:`Backend.prepare`; ``_given`` holds this rank's inputs, one a slot."""
        import torch

        self.release()
        self._shape, self._seed = shape, seed
        try:
            given = [self._operands(slot) for slot in range(slots)]
            self._given = torch.stack([each.inputs[self.local_ranks[0]] for each in given])
            self._slots = [Slot(each) for each in given]
        except RuntimeError as error:  # torch's OutOfMemoryError is one
            self.release()
            raise out_of_memory(shape, slots, error) from None

    def attempt(self, action: Callable[[], None], advice: str = "") -> None:
        """Do something on all ranks; raise :class:`CannotRun` on all of them if one cannot."""
        failure = ""
        try:
            action()
            self._device.synchronize()
        except Exception as error:  # compilers raise what they like
            failure = first_line(error)
        failures = [(rank, said) for rank, said in enumerate(self.exchange(failure)) if said]
        if failures:
            rank, said = failures[0]
            where = "" if len(failures) == self.world_size else f" on rank {rank}"
            raise CannotRun(f"{self.name} refuses it{where}: {said}{advice}")

    def ready(self, arm: RankArm, timing: str) -> None:
        """Run an arm once on all ranks, and capture it where graphs are timed."""
        self.attempt(arm.warm_up)
        if timing == GRAPH:
            self.attempt(arm.record)
        self._arms.append(arm)

    def poison(self) -> None:
        """See :meth:`Backend.poison`; what is reduced in place is made anew by the next replay."""
        for slot in self._slots:
            slot.output.fill_(float("nan"))
            slot.residual_out.fill_(float("nan"))
        for arm in self._arms:
            arm.poison()
        self._last = None
        self._device.synchronize()

    def outputs(self, slot: int) -> list[Outputs]:
        """See :meth:`Backend.outputs`; of an all-reduce alone, what the norm would make of it."""
        this = self._slots[slot]
        if self._last is None:
            return [Outputs(None, None)]
        if self._last.normed:
            return [Outputs(this.output, this.residual_out)]
        return [completed(self._last.summed(slot), this.residual, this.weight)]

    def reference(self, slot: int) -> Outputs:
        """See :meth:`Backend.reference`."""
        return fused_reference(self._operands(slot))

    def release(self) -> None:
        """See :meth:`Backend.release`."""
        for arm in [*self._arms]:
            arm.close()
        self._slots, self._given, self._last, self._shape = [], None, None, None

    # -- records ----------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """See :meth:`Backend.environment`."""
        return {
            **self._device.describe(),
            "multicast": {name: os.environ.get(name, "") for name in NO_MULTICAST},
        }

    def memory_bytes(self) -> dict[str, int]:
        """See :meth:`Backend.memory_bytes`."""
        used = self._device.memory_bytes()
        return {} if used is None else {"device": used}

    def _operands(self, slot: int) -> Operands:
        assert self._shape is not None
        return operands(self._shape, self.world_size, slot, self._seed, self._device.kind)


class Slot:
    """What only this rank touches."""

    def __init__(self, given: Operands) -> None:
        import torch

        self.residual, self.weight = given.residual, given.weight
        self.output = torch.empty_like(given.residual)
        self.residual_out = torch.empty_like(given.residual)


class RankArm(Timed):
    """The calls of one arm on this rank, issued one by one or captured into a graph.

    Call ``i`` works on slot ``i % slots``. What :meth:`lead` issues goes untimed before a replay
    and brings the ranks together; it has a graph of its own, so that it costs the CPU no more than
    the timed one. ``normed`` says whether the arm writes outputs, or sums alone.
    """

    normed: bool

    def __init__(self, backend: OneRankBackend, calls: int) -> None:
        self._ranks, self._calls = backend, calls
        self._graph: Any = None
        self._lead_graph: Any = None

    @abstractmethod
    def lead(self) -> None:
        """Issue what goes untimed ahead of a replay."""

    @abstractmethod
    def issue(self) -> None:
        """Issue the timed calls."""

    @abstractmethod
    def summed(self, slot: int) -> Any:
        """Return the sum that the last call on a slot wrote, of an arm that is not ``normed``."""

    @abstractmethod
    def poison(self) -> None:
        """Fill the sums with NaN."""

    def warm_up(self) -> None:
        """Issue everything once, outside of any capture."""
        self.lead()
        self.issue()

    def record(self) -> None:
        """Capture the calls, and what leads them."""
        device = self._ranks._device
        graph, lead = device.graph(), device.graph()
        with device.capture(graph, None):
            self.issue()
        with device.capture(lead, None):
            self.lead()
        self._graph, self._lead_graph = graph, lead

    def replay(self, samples: int) -> NDArray[np.float64]:
        """See :meth:`Timed.replay`; one replay goes untimed ahead, so that the GPU stays busy."""
        run = self._graph.replay if self._graph is not None else self.issue
        lead = self._lead_graph.replay if self._lead_graph is not None else self.lead
        run()
        latency_us = led(self._ranks._device, lead, run, samples) / self._calls
        self._ranks._last = self
        return latency_us

    def kernels(self) -> tuple[str, ...]:
        """See :meth:`Timed.kernels`."""
        device = self._ranks._device
        named = device.captured(self._graph) if self._graph is not None else ()
        return named or device.kernels(self.issue)

    def close(self) -> None:
        """See :meth:`Timed.close`."""
        self._graph = self._lead_graph = None
        if self in self._ranks._arms:
            self._ranks._arms.remove(self)
        if self._ranks._last is self:
            self._ranks._last = None
