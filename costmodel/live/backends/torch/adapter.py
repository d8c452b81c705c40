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

from collections.abc import Callable
from typing import Any

import numpy as np

from ....data.kernels import Kernel, at_date
from ....errors import InputError
from ....model.eligibility import eligible
from ....model.shape import ALL_REDUCE, ONE_STAGE, SEPARATE, SPOKEN, TWO_STAGE, Shapes
from ..base import PLAIN_STAGES, SEPARATE_ARM, SEPARATE_STAGES, LiveShape, Timed, op_and_algorithm
from ..one_rank import OneRankBackend, RankArm
from .norms import COMPILED, NORMS, TRITON, Norm, reason_against, version

#: Elements of the buffer whose all-reduce brings the ranks together.
MEETING = 64


class TorchBackend(OneRankBackend):
    """One-shot, two-shot and NCCL, alone and before a separate norm."""

    name = "torch"
    kernel_family = "torch_symm_mem"
    norms = (COMPILED, TRITON)
    norm = COMPILED
    stages = SEPARATE_STAGES
    forced_ops = (ALL_REDUCE,)

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self._norm: Norm | None = None
        self._meeting: Any = None
        self._met: Any = None

    # -- ranks ------------------------------------------------------------------------------------

    def _join(self) -> None:
        """See :meth:`OneRankBackend._join`; says what library is behind torch.distributed."""
        import torch

        missing = [op for op in _OPS.values() if not hasattr(torch.ops.symm_mem, op)]
        if missing:
            raise InputError(
                f"torch {torch.__version__} has no symm_mem.{missing[0]}; it came with 2.6"
            )
        self._claim(overlap=True)
        self.separate_family = "rccl" if torch.version.hip else "nccl"
        library = ".".join(map(str, torch.cuda.nccl.version()))
        self.kernel_version = (
            f"torch {torch.__version__}, {self.separate_family} {library}, {version(self.norm)}"
        )

    def _start(self) -> None:
        """Meet once over symmetric memory."""
        import torch

        self._meeting = self.symmetric((MEETING,), torch.float32)
        self._met = torch.zeros_like(self._meeting)
        self._meeting.zero_()
        self._device.synchronize()
        self.exchange(None)

    def close(self) -> None:
        """Free everything; leave the group of the ranks."""
        self._meeting = self._met = None
        super().close()

    # -- one shape --------------------------------------------------------------------------------

    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """See :meth:`Backend.reason_against`; the limits of torch's ops are facts."""
        if arm not in (SEPARATE_ARM, *SEPARATE_STAGES, *PLAIN_STAGES):
            return (
                "torch has no fused op and no dispatch rule; it runs "
                f"{', '.join((SEPARATE_ARM, *SEPARATE_STAGES, *PLAIN_STAGES))}"
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

    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """See :meth:`Backend.capture`. Compiles the norm and runs every call once."""
        assert self._shape is not None
        timed = _Arm(self, arm, calls)
        self.attempt(timed.allocate)
        timed.share()
        if timed.normed:
            self.attempt(timed.bind, "; --norm triton is the other norm")
        self.ready(timed, timing)
        return timed

    def release(self) -> None:
        """See :meth:`Backend.release`."""
        super().release()
        self._norm = None

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

    # -- records ----------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """See :meth:`Backend.environment`."""
        where = "several processes on one GPU" if self._overlapping else "one a GPU"
        return {
            **super().environment(),
            "ranks": f"{where}, torch symmetric memory",
            "norm": self.norm,
        }


#: torch's ops over symmetric memory, by stage.
_OPS = {ONE_STAGE: "one_shot_all_reduce_out", TWO_STAGE: "two_shot_all_reduce_"}


class _Arm(RankArm):
    """The calls of one arm.

    ``inputs`` has one entry a slot where the op leaves it alone, else one a call; ``sums`` is where
    it writes the sums. :meth:`lead` makes inputs anew that the op has overwritten.
    """

    def __init__(self, backend: TorchBackend, arm: str, calls: int) -> None:
        super().__init__(backend, calls)
        op, self._stage = op_and_algorithm(arm)
        self.normed = op == SEPARATE
        self._in_place = self._stage != ONE_STAGE
        self._backend = backend
        self._count = calls if self._in_place else len(backend._slots)
        self._norms: list[Callable[[], None]] = []
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

    def poison(self) -> None:
        """See :meth:`RankArm.poison`."""
        self.sums.fill_(float("nan"))

    def close(self) -> None:
        """See :meth:`Timed.close`."""
        super().close()
        self._norms, self.inputs, self.sums = [], None, None
