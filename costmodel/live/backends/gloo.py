"""CPU processes over torch.distributed's gloo: the whole chain, anywhere.

One process a rank. It says nothing about a GPU; it exists so that measuring, calibrating and
validating can be tried and tested on any machine.

- ``1stage``: all-gather of the inputs, then every rank sums in rank order, adds and normalizes;
- ``2stage``: reduce-scatter, all-gather of the sums, add and normalize;
- ``separate``: gloo's own all-reduce, then add and normalize;
- ``plain_1stage``, ``plain_2stage``: the sums alone, of which a check makes the outputs.

The reduce-scatter is an all-to-all and a local sum in fp32 in rank order, rounded once, as in the
GPU kernels: gloo's own reduce-scatter rounds to the element type after every rank. So 1stage and
2stage agree bit for bit.
"""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...model.shape import ALL_REDUCE, FUSED, ONE_STAGE, TWO_STAGE
from ..repetition import EAGER
from .base import (
    EPSILON,
    PLAIN_STAGES,
    SEPARATE_ARM,
    Backend,
    LiveShape,
    Outputs,
    Timed,
    op_and_algorithm,
)
from .reference import Operands, completed, fused_reference, operands, out_of_memory


class GlooBackend(Backend):
    """The arms of the fused and of the plain op on CPU processes."""

    name = "gloo"
    kernel_family = "gloo"
    interconnect = "gloo"
    forced_ops = (FUSED, ALL_REDUCE)
    timings = (EAGER,)
    launch = "spawn"

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self._slots: list[_GlooSlot] = []
        self._group: Any = None

    def set_up(self) -> None:
        """Join the process groups; the launcher's environment says who and where."""
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)  # one rank, one core: ranks must not compete for cores
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        self.kernel_version = f"torch {torch.__version__}"
        rank = int(os.environ["RANK"])
        self.local_ranks = (rank,) if rank < self.world_size else ()
        # The watchdog decides what takes too long, and says more than gloo's own limit would.
        forever = timedelta(days=1)
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=forever)
        self._group = dist.new_group(list(range(self.world_size)), timeout=forever)
        if rank == 0 and self.world_size > (os.cpu_count() or 1):
            print(f"note: {self.world_size} ranks share {os.cpu_count()} CPUs; expect noise")

    def exchange(self, value: Any) -> list[Any]:
        """See :meth:`Backend.exchange`."""
        import torch.distributed as dist

        everybody: list[Any] = [None] * self.world_size
        dist.all_gather_object(everybody, value, group=self._group)
        return everybody

    def meet(self, value: Any) -> list[Any]:
        """See :meth:`Backend.meet`."""
        import torch.distributed as dist

        everybody: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everybody, value)
        return everybody

    def close(self) -> None:
        """Leave the group of the ranks."""
        self.release()
        if self._group is not None:
            import torch.distributed as dist

            if self.local_ranks:
                dist.destroy_process_group(self._group)
            self._group = None

    def leave(self) -> None:
        """See :meth:`Backend.leave`."""
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """See :meth:`Backend.reason_against`."""
        if arm not in _RUN:
            return f"gloo has no dispatch rule of its own; it runs {', '.join(_RUN)}"
        elements = shape.tokens * shape.hidden_dim
        if op_and_algorithm(arm)[1] == TWO_STAGE and elements % self.world_size:
            return f"{elements} elements do not divide into {self.world_size} equal parts"
        return None

    def prepare(self, shape: LiveShape, slots: int, seed: int) -> None:
        """See :meth:`Backend.prepare`."""
        self._shape, self._seed = shape, seed
        available = _available_bytes()
        # per slot: gathered, six more buffers and two fp32 references; all ranks' inputs, made once
        needed = shape.bytes * (slots * (self.world_size + 10) + 4 * self.world_size)
        needed *= self.world_size  # every rank of this machine does the same
        if available and needed > available:
            raise out_of_memory(
                shape, slots, MemoryError(f"{needed:.3g} bytes wanted, {available:.3g} available")
            )
        try:
            self._slots = [
                _GlooSlot(self._operands(slot), self.local_ranks[0], self._group)
                for slot in range(slots)
            ]
        except (MemoryError, RuntimeError) as error:
            raise out_of_memory(shape, slots, error) from None

    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """See :meth:`Backend.capture`; gloo has no graphs, so this is a loop of calls."""
        if timing != EAGER:
            raise InputError("gloo has no graphs to replay; --timing eager is its only one")
        return _EagerLoop([self._slots[i % len(self._slots)] for i in range(calls)], _RUN[arm])

    def poison(self) -> None:
        """See :meth:`Backend.poison`."""
        for slot in self._slots:
            for buffer in (slot.output, slot.residual_out, slot.gathered, slot.reduced, slot.part):
                buffer.fill_(float("nan"))

    def outputs(self, slot: int) -> list[Outputs]:
        """See :meth:`Backend.outputs`."""
        last = self._slots[slot]
        if last.summed_only:
            return [completed(last.reduced.view_as(last.residual), last.residual, last.weight)]
        return [Outputs(last.output, last.residual_out)]

    def reference(self, slot: int) -> Outputs:
        """See :meth:`Backend.reference`."""
        return fused_reference(self._operands(slot))

    def release(self) -> None:
        """See :meth:`Backend.release`."""
        self._slots = []

    def environment(self) -> dict[str, Any]:
        """See :meth:`Backend.environment`."""
        return {"gpu": "CPU", "arch": platform.machine()}

    def _operands(self, slot: int) -> Operands:
        return operands(self._shape, self.world_size, slot, self._seed)


class _GlooSlot:
    """The buffers of one slot on one rank, all flat but the two outputs and the residual.

    ``group`` is torch's group of the ranks; ``summed_only`` says whether its last call was of the
    plain op.
    """

    def __init__(self, given: Operands, rank: int, group: Any) -> None:
        import torch

        ranks = given.inputs.shape[0]
        self.ranks, self.group = ranks, group
        self.input = given.inputs[rank].clone().reshape(-1)
        self.residual, self.weight = given.residual, given.weight
        self.output = torch.empty_like(given.residual)
        self.residual_out = torch.empty_like(given.residual)
        self.gathered = self.input.new_empty(ranks * self.input.numel())
        self.reduced = torch.empty_like(self.input)
        self.part = self.input.new_empty(-(-self.input.numel() // ranks))
        self.summed_only = False


def _add_and_norm(slot: _GlooSlot) -> None:
    """Residual add and RMSNorm of ``slot.reduced``, rounding where the GPU kernels do."""
    import torch

    summed = slot.reduced.view_as(slot.residual).float() + slot.residual.float()
    slot.residual_out.copy_(summed)
    scale = torch.rsqrt(summed.pow(2).mean(-1, keepdim=True) + EPSILON)
    slot.output.copy_(summed * scale * slot.weight.float())
    slot.summed_only = False


def _sum_in_rank_order(parts: Any, out: Any) -> None:
    """Sum (ranks, elements) in fp32, rank by rank, and round once into ``out``."""
    total = parts[0].float()
    for part in parts[1:]:
        total += part.float()
    out.copy_(total)


def _all_gather(out: Any, part: Any, group: Any) -> None:
    import torch.distributed as dist

    # torch 2.13 renamed all_gather_into_tensor
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(out, part, group=group)


def _sum_one_stage(slot: _GlooSlot) -> None:
    _all_gather(slot.gathered, slot.input, slot.group)
    _sum_in_rank_order(slot.gathered.view(slot.ranks, -1), slot.reduced)
    slot.summed_only = True


def _sum_two_stage(slot: _GlooSlot) -> None:
    import torch.distributed as dist

    received = slot.gathered[: slot.input.numel()]
    dist.all_to_all_single(received, slot.input, group=slot.group)
    _sum_in_rank_order(received.view(slot.ranks, -1), slot.part)
    _all_gather(slot.reduced, slot.part, slot.group)
    slot.summed_only = True


def _one_stage(slot: _GlooSlot) -> None:
    _sum_one_stage(slot)
    _add_and_norm(slot)


def _two_stage(slot: _GlooSlot) -> None:
    _sum_two_stage(slot)
    _add_and_norm(slot)


def _separate(slot: _GlooSlot) -> None:
    import torch.distributed as dist

    slot.reduced.copy_(slot.input)
    dist.all_reduce(slot.reduced, group=slot.group)
    _add_and_norm(slot)


_RUN: dict[str, Callable[[_GlooSlot], None]] = {
    ONE_STAGE: _one_stage,
    TWO_STAGE: _two_stage,
    SEPARATE_ARM: _separate,
    **dict(zip(PLAIN_STAGES, (_sum_one_stage, _sum_two_stage), strict=True)),
}


class _EagerLoop(Timed):
    """Calls one by one, timed by this process's clock from a barrier on."""

    def __init__(self, slots: list[_GlooSlot], run: Callable[[_GlooSlot], None]) -> None:
        self._slots, self._run = slots, run
        self.replay(1)

    def replay(self, samples: int) -> NDArray[np.float64]:
        """See :meth:`Timed.replay`."""
        import torch.distributed as dist

        latency_us = np.empty((samples, 1))
        for sample in range(samples):
            dist.barrier(self._slots[0].group)
            began = time.perf_counter_ns()
            for slot in self._slots:
                self._run(slot)
            latency_us[sample] = (time.perf_counter_ns() - began) / 1e3 / len(self._slots)
        return latency_us


def _available_bytes() -> int:
    """Return the memory that processes can still take, 0 where that is unreadable."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
