"""The real op on ROCm GPUs, through AITER (https://github.com/ROCm/aiter).

One process a GPU, started by torchrun. The adapter is thin: it builds nothing that AITER does not
offer. :mod:`.installation` finds its functions, :mod:`.self_check` runs every arm once.

Arms: ``1stage`` and ``2stage`` force ``CustomAllreduce.custom_fused_ar_rms``'s ``use_1stage``;
``auto`` calls ``tensor_model_parallel_fused_allreduce_rmsnorm``, AITER's own dispatch; ``separate``
calls ``tensor_model_parallel_all_reduce`` and ``rmsnorm2d_fwd_with_add``.

A package may stand in for AITER where there is no AMD GPU, by declaring
``__costmodel_standin__ = True`` and offering ``costmodel_device()`` (a
:class:`~.device.Device`). Its rows say interconnect ``standin``, quality ``suspect``.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.kernels import Kernel, of_row
from ....errors import InputError
from ....model.shape import ONE_STAGE, TWO_STAGE
from ....units import PACK_BYTES, element_bytes
from ...machine import Check
from ..base import AUTO, EPSILON, GRAPH, SEPARATE_ARM, TIMINGS, Backend, LiveShape, Outputs, Timed
from ..reference import Operands, fused_reference, operands, out_of_memory
from . import kernel_cache
from .checks import checks
from .device import Device
from .installation import Aiter, find
from .self_check import check_arms

#: Environment variable of AITER that sets another :attr:`Kernel.custom_max_bytes`.
MAX_SIZE = "AITER_CUSTOM_AR_MAX_SIZE"


class AiterBackend(Backend):
    """AITER's fused all-reduce + RMSNorm."""

    name = "aiter"
    kernel_family = "aiter"
    interconnect = "xgmi"
    timings = TIMINGS
    launch = "torchrun"

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self._aiter: Aiter | None = None
        self._group: Any = None
        self._slots: list[_Slot] = []
        self._timed: list[_Calls] = []
        self._stale = ""

    # -- ranks ------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Find AITER, claim this rank's GPU, join the ranks, and check what can be checked."""
        import torch.distributed as dist

        rank = int(os.environ["RANK"])
        self.local_ranks = (rank,)
        aiter = find()
        self.kernel_version = f"aiter {aiter.version}".rstrip()
        if aiter.standin:
            self.genuine, self.interconnect, self.kernel_family = False, "standin", "aiter-standin"
        self._device: Device = aiter.device
        if self._device.count() < self.world_size:
            raise InputError(
                f"--tp {self.world_size} needs {self.world_size} GPUs, this machine shows "
                f"{self._device.count()}; check --tp and HIP_VISIBLE_DEVICES"
            )
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        self._device.claim(local_rank)
        aiter.set_custom_all_reduce(True)
        aiter.init_distributed_environment(
            world_size=self.world_size,
            rank=rank,
            distributed_init_method="env://",
            local_rank=local_rank,
            backend="nccl",
        )
        self._aiter = aiter
        aiter.ensure_model_parallel_initialized(self.world_size, 1)
        # Decisions and samples travel over the CPU; the watchdog limits the time, not gloo.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        self._communicator = aiter.communicator(self.world_size)
        self._stale = max(self.exchange(kernel_cache.stale()))
        self._checked = [*aiter.checked]
        self._checked += check_arms(self)
        if rank == 0:
            print("self-check of what is assumed of AITER:")
            for line in self._checked:
                print(f"    {line}", flush=True)

    def exchange(self, value: Any) -> list[Any]:
        """See :meth:`Backend.exchange`."""
        import torch.distributed as dist

        everybody: list[Any] = [None] * self.world_size
        dist.all_gather_object(everybody, value, group=self._group)
        return everybody

    def close(self) -> None:
        """Take AITER's groups down."""
        if self._aiter is not None:
            self.release()
            self._aiter.destroy_model_parallel()
            self._aiter.destroy_distributed_environment()
            self._aiter = None

    # -- one shape --------------------------------------------------------------------------------

    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """See :meth:`Backend.reason_against`; the limits are those of the installed version."""
        assert self._aiter is not None
        if self._stale:
            return self._stale
        kernel = self._kernel
        pack = PACK_BYTES // element_bytes(shape.dtype)
        packs, rest = divmod(shape.hidden_dim, pack)
        if rest:
            return f"hidden_dim must be a multiple of {pack} ({shape.dtype} in 16-byte packs)"
        largest = None if os.environ.get(MAX_SIZE) else kernel.custom_max_bytes
        if arm in (ONE_STAGE, TWO_STAGE) and largest is not None and shape.bytes > largest:
            return f"AITER's custom kernels take at most {largest} bytes a rank; see {MAX_SIZE}"
        if arm == ONE_STAGE:
            if packs > kernel.fused_1stage_max_packs:
                most = kernel.fused_1stage_max_packs * pack
                return f"the 1-stage kernel takes hidden_dim up to {most}"
            sizes = kernel.fused_1stage_hidden_dims
            if sizes and shape.hidden_dim not in sizes:
                return f"the 1-stage kernel of {kernel.title} takes hidden_dim {sizes} only"
            tokens = kernel.fused_1stage_max_tokens
            if tokens is not None and shape.tokens > tokens:
                return f"the 1-stage kernel of {kernel.title} takes at most {tokens} tokens"
        if arm == TWO_STAGE:
            if packs < kernel.fused_2stage_min_packs:
                least = kernel.fused_2stage_min_packs * pack
                return f"the 2-stage kernel takes hidden_dim from {least} on"
            if kernel.fused_2stage_max_packs and packs > kernel.fused_2stage_max_packs:
                most = kernel.fused_2stage_max_packs * pack
                return f"the 2-stage kernel takes hidden_dim up to {most}"
        if arm == AUTO and self._aiter.forced:
            return f"{self._aiter.forced} is set, so AITER does not choose; unset it"
        return None

    @property
    def _kernel(self) -> Kernel:
        """The facts of the installed version, by the reading that its rows will get."""
        assert self._aiter is not None
        kernel = of_row("aiter", "", f"aiter {self._aiter.version}", "")
        assert kernel is not None
        return kernel

    def prepare(self, shape: LiveShape, slots: int, seed: int) -> None:
        """See :meth:`Backend.prepare`."""
        import torch

        self._shape, self._seed = shape, seed
        try:
            self._slots = [
                _Slot(self._operands(slot), self.local_ranks[0]) for slot in range(slots)
            ]
        except torch.OutOfMemoryError as error:
            raise out_of_memory(shape, slots, error) from None

    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """See :meth:`Backend.capture`."""
        for slot in self._slots:  # warm-up: outside graph_capture(), within which it returns zeros
            slot.last = self._call(arm, slot)
        self._device.synchronize()
        slots = [self._slots[i % len(self._slots)] for i in range(calls)]
        timed = _Replayed(self, arm, slots) if timing == GRAPH else _Issued(self, arm, slots)
        self._timed.append(timed)
        return timed

    def poison(self) -> None:
        """See :meth:`Backend.poison`; AITER's staging buffers are out of reach."""
        written = [slot.last for slot in self._slots]
        written += [outputs for timed in self._timed for outputs in timed.outputs]
        for outputs in written:
            for tensor in outputs or ():
                tensor.fill_(float("nan"))
        for slot in self._slots:
            slot.last = None
        self._device.synchronize()

    def outputs(self, slot: int) -> list[Outputs]:
        """See :meth:`Backend.outputs`."""
        return [self._slots[slot].last or Outputs(None, None)]

    def reference(self, slot: int) -> Outputs:
        """See :meth:`Backend.reference`."""
        return fused_reference(self._operands(slot))

    def release(self) -> None:
        """See :meth:`Backend.release`."""
        for timed in [*self._timed]:
            timed.close()
        self._slots = []

    # -- records ----------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """See :meth:`Backend.environment`."""
        return {**self._device.describe(), "self_check": self._checked}

    def checks(self) -> tuple[Check, ...]:
        """See :meth:`Backend.checks`."""
        return checks(self, self._device, self._kernel)

    def memory_bytes(self) -> dict[str, int]:
        """See :meth:`Backend.memory_bytes`."""
        used = self._device.memory_bytes()
        return {} if used is None else {"device": used}

    def kernels_run(self, arm: str) -> tuple[str, ...]:
        """See :meth:`Backend.kernels_run`."""
        return self._device.kernels(lambda: self._call(arm, self._slots[0]))

    def _operands(self, slot: int) -> Operands:
        return operands(self._shape, self.world_size, slot, self._seed, self._device.kind)

    def _call(self, arm: str, slot: _Slot) -> Outputs:
        """Issue one call of ``arm`` on one slot."""
        aiter = self._aiter
        assert aiter is not None
        x, residual, weight = slot.input, slot.residual, slot.weight
        if arm == SEPARATE_ARM:
            reduced = aiter.all_reduce(x)
            given = slot.separate
            aiter.add_rmsnorm(
                given.output, reduced, residual, given.residual_out, weight, EPSILON, 0
            )
            return given
        if arm == AUTO:
            result = aiter.fused_auto(x, residual, weight, EPSILON)
        else:
            one_stage = arm == ONE_STAGE
            result = self._communicator.custom_fused_ar_rms(x, residual, weight, EPSILON, one_stage)
        if result is None:
            raise InputError(
                f"AITER cannot run arm {arm} at {self._shape} on {self.world_size} ranks: its "
                "custom op returned nothing"
            )
        return Outputs(result[0], result[1])


class _Slot:
    """The buffers of one slot on one rank, and what was last written there."""

    def __init__(self, given: Operands, rank: int) -> None:
        import torch

        self.input = given.inputs[rank].clone()
        self.residual, self.weight = given.residual, given.weight
        self.separate = Outputs(torch.empty_like(self.input), torch.empty_like(self.input))
        self.last: Outputs | None = None


class _Calls(Timed):
    """Calls of one arm, one for each entry of ``slots``; ``outputs`` holds what each wrote."""

    def __init__(self, backend: AiterBackend, arm: str, slots: list[_Slot]) -> None:
        self.backend, self.arm, self.slots = backend, arm, slots
        self.outputs: list[Outputs] = []

    def lead(self) -> None:
        """Issue an untimed call, after which the ranks' GPUs are together."""
        raise NotImplementedError

    def issue(self) -> None:
        """Issue the timed calls."""
        raise NotImplementedError

    def replay(self, samples: int) -> NDArray[np.float64]:
        """See :meth:`Timed.replay`; the CPU runs ahead of the GPU over all samples."""
        device = self.backend._device
        stamps: list[tuple[Any, Any]] = []
        for _ in range(samples):
            self.lead()
            start = device.stamp()
            self.issue()
            stamps.append((start, device.stamp()))
        device.synchronize()
        for slot, outputs in zip(self.slots, self.outputs, strict=True):
            slot.last = outputs
        elapsed = [device.elapsed_us(start, end) for start, end in stamps]
        return np.array(elapsed).reshape(samples, 1) / len(self.slots)

    def kernels(self) -> tuple[str, ...]:
        """See :meth:`Timed.kernels`."""
        return self.backend._device.kernels(self.issue)

    def close(self) -> None:
        """Free the outputs."""
        self.outputs = []
        if self in self.backend._timed:
            self.backend._timed.remove(self)


class _Issued(_Calls):
    """Calls issued one by one."""

    def lead(self) -> None:
        """See :meth:`_Calls.lead`."""
        self.backend._call(self.arm, self.slots[0])

    def issue(self) -> None:
        """See :meth:`_Calls.issue`."""
        self.outputs = [self.backend._call(self.arm, slot) for slot in self.slots]


class _Replayed(_Calls):
    """Calls captured into one graph, and one more call in a graph of its own as the lead."""

    def __init__(self, backend: AiterBackend, arm: str, slots: list[_Slot]) -> None:
        super().__init__(backend, arm, slots)
        device = backend._device
        assert backend._aiter is not None
        self._graph, self._lead = device.graph(), device.graph()
        backend.exchange("capture")
        with backend._aiter.graph_capture() as context:
            with device.capture(self._graph, context.stream):
                self.outputs = [backend._call(arm, slot) for slot in slots]
            with device.capture(self._lead, context.stream):
                self._lead_outputs: Outputs | None = backend._call(arm, slots[0])
        # Leaving graph_capture() registered the captured buffers with the peers: all must be
        # through before anyone replays.
        device.synchronize()
        backend.exchange("captured")

    def lead(self) -> None:
        """See :meth:`_Calls.lead`."""
        self._lead.replay()

    def issue(self) -> None:
        """See :meth:`_Calls.issue`."""
        self._graph.replay()

    def close(self) -> None:
        """Free the graphs and the outputs."""
        super().close()
        self._lead_outputs = None
        self._graph = self._lead = None
