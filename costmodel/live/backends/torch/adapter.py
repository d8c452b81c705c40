"""Torch's all-reduces as a back end: one-shot and two-shot over symmetric memory, and NCCL's.

One process a GPU, under torchrun. None of them is fused with the norm, so each runs alone
(``plain_1stage``, ``plain_2stage``) or before a separate add + RMSNorm (``separate_1stage``,
``separate_2stage``; ``separate`` is torch.distributed's own all-reduce, NCCL's or RCCL's, and has
that library's family in the rows).

- ``1stage`` is ``torch.ops.symm_mem.one_shot_all_reduce_out``: it reads every peer's symmetric
  buffer and writes a plain one;
- ``2stage`` is ``torch.ops.symm_mem.two_shot_all_reduce_``, which works in place, as does NCCL's
  here. Every call of a replay therefore has an input of its own, and all of them are made anew
  before each replay, outside of what is timed.

No copy into a symmetric buffer is timed: what came before the op is taken to have written there,
as with the project's own kernels. The ops over multicast (``multimem``) are never called, and
multicast is off in torch's symmetric memory and in NCCL.

What the ops take was read in pytorch's ``CUDASymmetricMemoryOps.cu``. Seen to run on two H200 over
NVLink (torch 2.11), one rank each; never on AMD GPUs, nor on more than two.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.kernels import Kernel, at_date
from ....errors import InputError
from ....model.eligibility import eligible
from ....model.shape import ALL_REDUCE, ONE_STAGE, SEPARATE, SPOKEN, TWO_STAGE, WORLD_SIZES, Shapes
from ...repetition import GRAPH
from ..base import (
    SEPARATE_ARM,
    SEPARATE_STAGES,
    Backend,
    CannotRun,
    LiveShape,
    Outputs,
    Timed,
    op_and_algorithm,
)
from ..device import Device, TorchGpu, led
from ..reference import (
    Operands,
    completed,
    fused_reference,
    operands,
    out_of_memory,
)
from .norms import COMPILED, NORMS, TRITON, Norm, reason_against, version

#: The all-reduces alone.
PLAIN = tuple(f"plain_{stage}" for stage in (ONE_STAGE, TWO_STAGE))

#: Multicast, off in torch's symmetric memory and in NCCL, before either starts.
NO_MULTICAST = {"TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NCCL_NVLS_ENABLE": "0"}

#: Elements of the buffer whose all-reduce brings the ranks together.
MEETING = 64


class TorchBackend(Backend):
    """One-shot, two-shot and NCCL, alone and before a separate norm."""

    name = "torch"
    kernel_family = "torch_symm_mem"
    interconnect = "nvlink"
    launch = "torchrun"
    norms = (COMPILED, TRITON)
    norm = COMPILED
    stages = SEPARATE_STAGES

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self._memory: Any = None
        self._device: Device = TorchGpu("thread_local")
        self._overlapping = False
        self._norm: Norm | None = None
        self._given: Any = None
        self._meeting: Any = None
        self._met: Any = None
        self._shape: LiveShape | None = None
        self._slots: list[_Slot] = []
        self._arms: list[_Arm] = []
        self._last: _Arm | None = None

    # -- ranks ------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Find the GPUs, join the ranks, and meet once over symmetric memory."""
        import torch

        if self.world_size not in WORLD_SIZES:
            raise InputError(
                f"back end torch runs on 2, 4 or 8 ranks, not on {self.world_size}; "
                "choose --tp 2, 4 or 8"
            )
        self.kernel_version = f"torch {torch.__version__}"
        self._join()
        self.local_ranks = self._memory.local_ranks
        self.interconnect = self._memory.interconnect
        if not self.local_ranks:
            return
        self._meeting = self.symmetric((MEETING,), torch.float32)
        self._met = torch.zeros_like(self._meeting)
        self._meeting.zero_()
        self._device.synchronize()
        self.exchange(None)

    def _join(self) -> None:
        """Claim a GPU and join the group; say what library is behind it."""
        import torch

        if not torch.cuda.is_available():
            raise InputError(
                "back end torch needs CUDA or ROCm GPUs that torch can use; this torch "
                f"({torch.__version__}) sees none"
            )
        missing = [op for op in _OPS.values() if not hasattr(torch.ops.symm_mem, op)]
        if missing:
            raise InputError(
                f"torch {torch.__version__} has no symm_mem.{missing[0]}; it came with 2.6"
            )
        from ..triton.memory import SymmetricMemory

        os.environ.update(NO_MULTICAST)
        self._memory = SymmetricMemory(self.world_size, overlap=True)
        self._overlapping = self._memory.overlapping
        self.genuine = not self._overlapping
        self.separate_family = "rccl" if torch.version.hip else "nccl"
        library = ".".join(map(str, torch.cuda.nccl.version()))
        self.kernel_version += f", {self.separate_family} {library}, {version(self.norm)}"

    def exchange(self, value: Any) -> list[Any]:
        """See :meth:`Backend.exchange`."""
        return self._memory.exchange(value) if self._memory else [value]

    def meet(self, value: Any) -> list[Any]:
        """See :meth:`Backend.meet`."""
        return self._memory.meet(value) if self._memory else [value]

    def close(self) -> None:
        """Free everything; leave the group of the ranks."""
        self.release()
        self._meeting = self._met = None
        if self._memory:
            self._memory.close()
            self._memory = None

    def leave(self) -> None:
        """See :meth:`Backend.leave`."""
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    # -- one shape --------------------------------------------------------------------------------

    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """See :meth:`Backend.reason_against`; the limits of torch's ops are facts."""
        if arm not in (SEPARATE_ARM, *SEPARATE_STAGES, *PLAIN):
            return (
                "torch has no fused op and no dispatch rule; it runs "
                f"{', '.join((SEPARATE_ARM, *SEPARATE_STAGES, *PLAIN))}"
            )
        op, stage = op_and_algorithm(arm)
        if stage:
            call = Shapes.of(
                shape.tokens, shape.hidden_dim, self.world_size, op=ALL_REDUCE, dtype=shape.dtype
            )
            takes, words = eligible(call, stage, self._kernel)
            if not takes.all():
                return f"torch's {SPOKEN[stage]} all-reduce over symmetric memory takes {words}"
        elif self._overlapping:
            return f"{self.separate_family.upper()} takes one process a GPU"
        return (reason_against(self.norm, shape) if op == SEPARATE else "") or None

    @property
    def _kernel(self) -> Kernel:
        return at_date("torch_symm_mem", "")

    def prepare(self, shape: LiveShape, slots: int, seed: int) -> None:
        """See :meth:`Backend.prepare`."""
        import torch

        self.release()
        self._shape, self._seed = shape, seed
        try:
            given = [self._operands(slot) for slot in range(slots)]
            self._given = torch.stack([each.inputs[self.local_ranks[0]] for each in given])
            self._slots = [_Slot(each) for each in given]
        except RuntimeError as error:  # torch's OutOfMemoryError is one
            self.release()
            raise out_of_memory(shape, slots, error) from None

    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """See :meth:`Backend.capture`. Compiles the norm and runs every call once."""
        assert self._shape is not None
        timed = _Arm(self, arm, calls)
        self._attempt(timed.allocate)
        timed.share()
        if timed.normed:
            self._attempt(timed.bind, "; --norm triton is the other norm")
        self._attempt(timed.warm_up)
        if timing == GRAPH:
            self._attempt(timed.record)
        self._arms.append(timed)
        return timed

    def _attempt(self, action: Callable[[], None], advice: str = "") -> None:
        """Do something on all ranks; raise :class:`CannotRun` on all of them if one cannot."""
        failure = ""
        try:
            action()
            self._device.synchronize()
        except Exception as error:  # compilers raise what they like
            failure = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        failures = [(rank, said) for rank, said in enumerate(self.exchange(failure)) if said]
        if failures:
            rank, said = failures[0]
            where = "" if len(failures) == self.world_size else f" on rank {rank}"
            raise CannotRun(f"torch refuses it{where}: {said}{advice}")

    def symmetric(self, size: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialized tensor in symmetric memory; all ranks call this."""
        region = self._memory.allocate(int(np.prod(size)) * dtype.itemsize)
        return region.local[0].view(dtype).view(size)

    def all_reduce(self, stage: str, given: Any, out: Any) -> None:
        """Issue one all-reduce: ``1stage`` into ``out``, the others in place."""
        import torch
        import torch.distributed as dist

        group = self._memory.group
        if stage == ONE_STAGE:
            torch.ops.symm_mem.one_shot_all_reduce_out(given, "sum", group.group_name, out)
        elif stage == TWO_STAGE:
            torch.ops.symm_mem.two_shot_all_reduce_(given, "sum", group.group_name)
        else:
            dist.all_reduce(given, group=group)

    def make_norm(self) -> Norm:
        """Return the norm of the prepared shape, made once."""
        assert self._shape is not None
        self._norm = self._norm or NORMS[self.norm](self._shape)
        return self._norm

    def poison(self) -> None:
        """See :meth:`Backend.poison`; what is reduced in place is made anew by the next replay."""
        for slot in self._slots:
            slot.output.fill_(float("nan"))
            slot.residual_out.fill_(float("nan"))
        for arm in self._arms:
            arm.sums.fill_(float("nan"))
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
        self._slots, self._given, self._last, self._norm, self._shape = [], None, None, None, None

    # -- records ----------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """See :meth:`Backend.environment`."""
        return {
            **self._device.describe(),
            "ranks": "one a GPU, torch symmetric memory"
            if not self._overlapping
            else "several processes on one GPU, torch symmetric memory",
            "multicast": {name: os.environ.get(name, "") for name in NO_MULTICAST},
            "norm": self.norm,
        }

    def kernels_run(self, arm: str) -> tuple[str, ...]:
        """See :meth:`Backend.kernels_run`; only ``auto`` is asked for here, which torch has not."""
        return ()

    def memory_bytes(self) -> dict[str, int]:
        """See :meth:`Backend.memory_bytes`."""
        used = self._device.memory_bytes()
        return {} if used is None else {"device": used}

    def _operands(self, slot: int) -> Operands:
        assert self._shape is not None
        return operands(self._shape, self.world_size, slot, self._seed, self._device.kind)


#: torch's ops over symmetric memory, by stage.
_OPS = {ONE_STAGE: "one_shot_all_reduce_out", TWO_STAGE: "two_shot_all_reduce_"}


class _Slot:
    """What only this rank touches."""

    def __init__(self, given: Operands) -> None:
        import torch

        self.residual, self.weight = given.residual, given.weight
        self.output = torch.empty_like(given.residual)
        self.residual_out = torch.empty_like(given.residual)


class _Arm(Timed):
    """The calls of one arm, issued one by one or captured into a graph.

    Call ``i`` works on slot ``i % slots``. ``inputs`` has one entry a slot where the op leaves
    it alone, else one a call; ``sums`` is where it writes the sums. :meth:`lead` makes inputs
    anew that the op has overwritten and brings the ranks together; a graph of its own, so that it
    costs the CPU no more than the timed one.
    """

    def __init__(self, backend: TorchBackend, arm: str, calls: int) -> None:
        op, self._stage = op_and_algorithm(arm)
        self.normed = op == SEPARATE
        self._in_place = self._stage != ONE_STAGE
        self._backend, self._calls = backend, calls
        self._count = calls if self._in_place else len(backend._slots)
        self._norms: list[Callable[[], None]] = []
        self._graph: Any = None
        self._lead_graph: Any = None
        self.inputs: Any = None
        self.sums: Any = None

    def allocate(self) -> None:
        """Take this rank's own memory, and see that what it shares would fit as well."""
        import torch

        backend, given = self._backend, self._backend._given
        if not self._in_place:
            self.sums = torch.empty_like(given)
        if not self._stage:
            self.inputs = given.new_empty((self._count, *given.shape[1:]))
            return
        free = backend._device.free_bytes()
        needed = self._count * given[0].numel() * given.element_size()
        if free is not None and needed > free:
            raise MemoryError(f"{needed:.3g} bytes of symmetric memory wanted, {free:.3g} free")

    def share(self) -> None:
        """Take symmetric memory, with all ranks."""
        backend, given = self._backend, self._backend._given
        if self._stage:
            self.inputs = backend.symmetric((self._count, *given.shape[1:]), given.dtype)
        if self._in_place:
            self.sums = self.inputs
        self.refill()

    def bind(self) -> None:
        """Make the norm of every call, and run each once."""
        backend = self._backend
        norm = backend.make_norm()
        slots = backend._slots
        self._norms = [
            norm.bound(self.sums[call % len(self.sums)], slots[call % len(slots)])
            for call in range(self._calls)
        ]
        for run in self._norms:
            run()

    def warm_up(self) -> None:
        """Issue everything once, outside of any capture."""
        self.lead()
        self.issue()

    def record(self) -> None:
        """Capture the calls, and what leads them."""
        device = self._backend._device
        graph, lead = device.graph(), device.graph()
        with device.capture(graph, None):
            self.issue()
        with device.capture(lead, None):
            self.lead()
        self._graph, self._lead_graph = graph, lead

    def refill(self) -> None:
        """Write the inputs of every call, in one copy."""
        given = self._backend._given
        self.inputs.view(-1, *given.shape).copy_(given)

    def lead(self) -> None:
        """Issue what goes untimed ahead of a replay."""
        backend = self._backend
        if self._in_place:
            self.refill()
        if self._stage:
            backend.all_reduce(ONE_STAGE, backend._meeting, backend._met)
        else:
            backend.all_reduce("", backend._met, backend._met)

    def issue(self) -> None:
        """Issue the timed calls."""
        for call in range(self._calls):
            summed = self.sums[call % len(self.sums)]
            self._backend.all_reduce(self._stage, self.inputs[call % self._count], summed)
            if self._norms:
                self._norms[call]()

    def summed(self, slot: int) -> Any:
        """Return the sum that the last call on a slot wrote."""
        return self.sums[(self._calls - len(self._backend._slots) + slot) % len(self.sums)]

    def replay(self, samples: int) -> NDArray[np.float64]:
        """See :meth:`Timed.replay`; one replay goes untimed ahead, so that the GPU stays busy."""
        run = self._graph.replay if self._graph is not None else self.issue
        lead = self._lead_graph.replay if self._lead_graph is not None else self.lead
        run()
        latency_us = led(self._backend._device, lead, run, samples) / self._calls
        self._backend._last = self
        return latency_us

    def kernels(self) -> tuple[str, ...]:
        """See :meth:`Timed.kernels`."""
        device = self._backend._device
        named = device.captured(self._graph) if self._graph is not None else ()
        return named or device.kernels(self.issue)

    def close(self) -> None:
        """See :meth:`Timed.close`."""
        self._graph = self._lead_graph = None
        self._norms, self.inputs, self.sums = [], None, None
        if self in self._backend._arms:
            self._backend._arms.remove(self)
        if self._backend._last is self:
            self._backend._last = None
