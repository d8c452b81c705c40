"""The real op on ROCm GPUs, through AITER (https://github.com/ROCm/aiter).

One process a GPU, started by torchrun. The adapter is thin: it builds nothing that AITER does not
offer. :mod:`.installation` finds its functions, :mod:`.self_check` runs every arm once.

Arms: ``1stage`` and ``2stage`` force ``CustomAllreduce.custom_fused_ar_rms``'s ``use_1stage``;
``auto`` calls ``tensor_model_parallel_fused_allreduce_rmsnorm``, AITER's own dispatch; ``separate``
calls ``tensor_model_parallel_all_reduce`` and the norm that the run names. Arms of other ops:
:mod:`.arms`.

A package may stand in for AITER where there is no AMD GPU, by declaring
``__costmodel_standin__ = True`` and offering ``costmodel_device()`` (a
:class:`~.device.Device`). Its rows say interconnect ``standin``, quality ``suspect``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.cards import XGMI
from ....data.kernels import Kernel, of_row, parse_version
from ....errors import InputError, first_line
from ....model.eligibility import eligible
from ....model.shape import ALL_REDUCE, MHC, ONE_STAGE, SPOKEN, TWO_STAGE, Shapes
from ....units import PACK_BYTES, element_bytes
from ... import kfd
from ...machine import Check
from ...repetition import GRAPH, TIMINGS
from ..base import (
    AUTO,
    EPSILON,
    OTHER_ARMS,
    SEPARATE_ARM,
    SEPARATE_STAGES,
    Backend,
    CannotRun,
    LiveShape,
    Outputs,
    Timed,
    op_and_algorithm,
)
from ..device import Device, led
from ..reference import Operands, fused_reference, operands, out_of_memory, torch_dtype
from . import arms, kernel_cache, mhc, variables
from .assumptions import REGROUPS
from .checks import checks
from .installation import AITERS, VLLMS, Aiter, find
from .self_check import check_arms
from .variables import expandable_segments

#: Bytes of AITER's table of registered buffers that one takes: a pointer for each of up to 8 ranks
#: (``rank_data`` of ``CustomAllreduce``, 8 MiB: 131,072 buffers; v0.1.10.post2 to e404860).
SLOT_BYTES = 8 * 8
RANK_DATA_BYTES = 8 << 20


class AiterBackend(Backend):
    """AITER's fused all-reduce + RMSNorm."""

    name = library = "aiter"
    kernel_family = "aiter"
    interconnect = XGMI
    timings = TIMINGS
    launch = "torchrun"
    norms = (AITERS, VLLMS)
    norm = AITERS
    #: AITER compiles its extensions at their first use, which takes minutes each.
    start_up_patience = 6.0

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self._aiter: Aiter | None = None
        self._group: Any = None
        self._everybody: Any = None
        self._grouped = False
        self._slots: list[_AiterSlot] = []
        self._timed: list[_Calls] = []
        self._stale = self._arch = ""
        self._communicator: Any = None
        self._registered = 0

    # -- ranks ------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Find AITER, claim this rank's GPU, join the ranks, and check what can be checked."""
        import torch.distributed as dist

        rank, started = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_ranks = (rank,) if rank < self.world_size else ()
        spoiled = expandable_segments()
        if spoiled:
            raise InputError(
                f"{spoiled}: AITER cannot give such memory to its peers, so captures fail or every "
                "call copies its input first; unset it"
            )
        aiter = find(self.norm)
        self.kernel_version = f"aiter {aiter.version}".rstrip()
        if aiter.standin:
            self.genuine, self.interconnect, self.kernel_family = False, "standin", "aiter-standin"
        else:
            self.interconnect = kfd.interconnect() or XGMI
        self._device: Device = aiter.device
        if self._device.count() < started:
            raise InputError(
                f"--tp {started} needs {started} GPUs, this machine shows "
                f"{self._device.count()}; check --tp and HIP_VISIBLE_DEVICES"
            )
        if self.world_size < started and aiter.release < parse_version(REGROUPS):
            raise InputError(
                f"AITER {aiter.version} cannot group its ranks anew in one process ({REGROUPS} "
                "and later can); start each world size by itself"
            )
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        self._device.claim(local_rank)
        self._arch = self._device.describe()["arch"]
        aiter.set_custom_all_reduce(True)
        aiter.init_distributed_environment(
            world_size=started,
            rank=rank,
            distributed_init_method="env://",
            local_rank=local_rank,
            backend="nccl",
        )
        self._aiter = aiter
        # Every so many neighbouring ranks become a group of AITER's; the first group is the run's.
        aiter.ensure_model_parallel_initialized(self.world_size, 1)
        self._grouped = True
        # Decisions and samples travel over the CPU; the watchdog limits the time, not gloo.
        forever = timedelta(days=1)
        self._everybody = dist.new_group(backend="gloo", timeout=forever)
        ranks = list(range(self.world_size))
        self._group = dist.new_group(ranks, backend="gloo", timeout=forever)
        if not self.local_ranks:
            return
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

    def meet(self, value: Any) -> list[Any]:
        """See :meth:`Backend.meet`."""
        import torch.distributed as dist

        everybody: list[Any] = [None] * dist.get_world_size(self._everybody)
        dist.all_gather_object(everybody, value, group=self._everybody)
        return everybody

    def close(self) -> None:
        """Take AITER's groups down."""
        if self._aiter is not None and self._grouped:
            self.release()
            self._communicator = None  # its memory goes with it
            self._aiter.destroy_model_parallel()
            self._grouped = False

    def leave(self) -> None:
        """See :meth:`Backend.leave`."""
        if self._aiter is not None:
            self._aiter.destroy_distributed_environment()
            self._aiter = None

    # -- one shape --------------------------------------------------------------------------------

    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """See :meth:`Backend.reason_against`; the limits are those of the installed version."""
        assert self._aiter is not None
        if self._stale:
            return self._stale
        if arm in SEPARATE_STAGES:
            return "AITER's all-reduce chooses its stage by itself; separate is what it runs"
        pack = PACK_BYTES // element_bytes(shape.dtype)
        if shape.hidden_dim % pack:
            return f"hidden_dim must be a multiple of {pack} ({shape.dtype} in 16-byte packs)"
        spoiled = variables.reason_against(arm)
        if spoiled:
            return spoiled
        usual = self._kernel.custom_max_bytes
        if not self._custom_takes(shape):
            if arm not in (AUTO, SEPARATE_ARM):
                return f"AITER's custom kernels take {self._custom_sizes()}, not {shape.bytes}"
            if usual is None or shape.bytes <= usual:
                return (
                    f"AITER would go another way here than by default: its custom kernels take "
                    f"{self._custom_sizes()}, not {shape.bytes}"
                )
        if arm in OTHER_ARMS:
            kernel, custom = self._kernel, self._communicator
            reason = arms.reason_against(arm, shape, self.world_size, custom, kernel, self._arch)
            if reason or op_and_algorithm(arm)[0] in (ALL_REDUCE, MHC):
                return reason or None
        algorithm = op_and_algorithm(arm)[1]
        if algorithm in (ONE_STAGE, TWO_STAGE):
            call = Shapes.of(shape.tokens, shape.hidden_dim, self.world_size, dtype=shape.dtype)
            takes, words = eligible(call, algorithm, self._kernel)
            if not takes.all():
                return f"the {SPOKEN[algorithm]} kernel of {self._kernel.title} needs {words}"
        return None

    def _custom_takes(self, shape: LiveShape) -> bool:
        """Return whether the communicator sends inputs of this size to its custom kernels."""
        import torch

        if self._communicator is None:  # before the ranks are up
            most = self._kernel.custom_max_bytes
            return most is None or shape.bytes <= most
        size = (shape.tokens, shape.hidden_dim)
        probe = torch.empty(size, dtype=torch_dtype(shape.dtype), device="meta")
        return bool(self._communicator.should_custom_ar(probe))

    def _custom_sizes(self) -> str:
        """Return in words which sizes the custom kernels take, as the installed AITER has them."""
        least = getattr(self._communicator, "_car_min_size", 0)
        most = getattr(self._communicator, "_car_max_size", self._kernel.custom_max_bytes)
        set_by = [name for name in (variables.MIN_SIZE, variables.MAX_SIZE) if os.environ.get(name)]
        return (
            (f"more than {least} and " if least else "")
            + f"at most {most} bytes a rank"
            + (f" ({', '.join(set_by)} set)" if set_by else "")
        )

    def reason_to_stop(self, calls: int) -> str:
        """See :meth:`Backend.reason_to_stop`: each captured call takes a slot of AITER's table."""
        table = getattr(self._communicator, "rank_data", None)
        slots = (RANK_DATA_BYTES if table is None else table.numel()) // SLOT_BYTES
        if self._registered + calls + 1 > slots:
            return f"AITER's {slots} slots for captured buffers are used up in this process"
        return ""

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
                _AiterSlot(self._operands(slot), self.local_ranks[0]) for slot in range(slots)
            ]
        except torch.OutOfMemoryError as error:
            raise out_of_memory(shape, slots, error) from None

    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """See :meth:`Backend.capture`."""

        def warm_up() -> None:  # outside graph_capture(), within which it returns zeros
            for slot in self._slots:
                slot.last, slot.arm = self._call(arm, slot), arm

        self.attempt(warm_up)
        slots = [self._slots[i % len(self._slots)] for i in range(calls)]
        timed: _Calls
        if timing == GRAPH:
            timed = _Replayed(self, arm, slots)
            self._registered += calls + 1
            self.exchange("capture")
            try:
                self.attempt(timed.record)
            except CannotRun:
                timed.close()
                raise
        else:
            timed = _Issued(self, arm, slots)
        self._timed.append(timed)
        return timed

    def attempt(self, action: Callable[[], None]) -> None:
        """Have AITER do something on all ranks; raise :class:`CannotRun` on all if one cannot.

        AITER's checks raise before anything is launched, on every rank alike; a device that is
        broken raises again when it is waited for, and that ends the run.
        """
        failure = ""
        try:
            action()
        except Exception as error:  # AITER raises what it likes: RuntimeError, assertions, its own
            failure = first_line(error)
        self._device.synchronize()
        failures = {rank: said for rank, said in enumerate(self.exchange(failure)) if said}
        if failures:
            rank, said = next(iter(failures.items()))
            where = "" if len(failures) == self.world_size else f" on rank {rank}"
            raise CannotRun(f"AITER refuses it{where}: {said}")

    def poison(self) -> None:
        """See :meth:`Backend.poison`; AITER's staging buffers are out of reach.

        A residual that a norm in place adds to gets its input back instead: what was not added
        shows as well.
        """
        written = [slot.last for slot in self._slots]
        written += [outputs for timed in self._timed for outputs in timed.outputs]
        for tensors in written:
            for tensor in tensors or ():  # bytes are MXFP4, where 255 is a scale's NaN
                tensor.fill_(float("nan") if tensor.is_floating_point() else 255)
        for timed in self._timed:
            timed.restore()
        for slot in self._slots:
            slot.last = None
            if self.norm != AITERS:
                slot.separate.residual_out.copy_(slot.residual)
        self._device.synchronize()

    def outputs(self, slot: int) -> list[Outputs]:
        """See :meth:`Backend.outputs`."""
        this = self._slots[slot]
        if this.last is None:
            return [Outputs(None, None)]
        op, _ = op_and_algorithm(this.arm)
        if op == MHC:
            return [this.mixing.read(this.last[0], this.residual, this.weight)]
        if this.arm in OTHER_ARMS:
            return [arms.read(this.arm, this.last, this.residual, this.weight)]
        return [Outputs(*this.last[:2])]

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

    def _call(self, arm: str, slot: _AiterSlot, residual_out: Any = None) -> tuple[Any, ...]:
        """Issue one call of ``arm`` on one slot; return the tensors that it writes.

        ``residual_out`` is where a norm in place adds (see :class:`_Calls`).
        """
        aiter = self._aiter
        assert aiter is not None
        x, residual, weight = slot.input, slot.residual, slot.weight
        result: tuple[Any, ...] | None
        op, algorithm = op_and_algorithm(arm)
        if arm == SEPARATE_ARM:
            reduced = aiter.all_reduce(x)
            given = slot.separate
            if aiter.norm_in_place is not None:
                added = given.residual_out if residual_out is None else residual_out
                aiter.norm_in_place(reduced, added, weight, EPSILON)
                return Outputs(reduced, added)
            aiter.add_rmsnorm(
                given.output, reduced, residual, given.residual_out, weight, EPSILON, 0
            )
            return given
        if op == MHC:
            return slot.mixing.call(algorithm, self._communicator, x)
        if arm in OTHER_ARMS:
            result = arms.call(arm, self._communicator, x, residual, weight)
        elif arm == AUTO:
            result = aiter.fused_auto(x, residual, weight, EPSILON)
        else:
            one_stage = arm == ONE_STAGE
            result = self._communicator.custom_fused_ar_rms(x, residual, weight, EPSILON, one_stage)
        if result is None:
            raise CannotRun("its custom op returned nothing")
        return tuple(result)


class _AiterSlot:
    """The buffers of one slot on one rank, and what was last written there."""

    def __init__(self, given: Operands, rank: int) -> None:
        import torch

        self.input = given.inputs[rank].clone()
        self.residual, self.weight = given.residual, given.weight
        self.separate = Outputs(torch.empty_like(self.input), self.residual.clone())
        #: What the last call wrote, and which arm it was.
        self.last: tuple[Any, ...] | None = None
        self.arm = ""

    @cached_property
    def mixing(self) -> mhc.Mixing:
        """The residual streams of the fused all-reduce + mHC."""
        return mhc.Mixing(self.residual)


class _Calls(Timed):
    """Calls of one arm, one for each entry of ``slots``; ``outputs`` holds what each wrote.

    A norm in place adds to its residual, so each call has one of its own (``residuals``): else a
    slot's second call of a replay would add to what its first made. Replay after replay adds up,
    which changes no latency, and :meth:`restore` begins anew.
    """

    def __init__(self, backend: AiterBackend, arm: str, slots: list[_AiterSlot]) -> None:
        self.backend, self.arm, self.slots = backend, arm, slots
        self.outputs: list[tuple[Any, ...]] = []
        assert backend._aiter is not None
        own = arm == SEPARATE_ARM and backend._aiter.norm_in_place is not None
        self.residuals: list[Any] = [slot.residual.clone() if own else None for slot in slots]
        if arm in OTHER_ARMS:
            self.quantum = arms.quantum(arm)

    def restore(self) -> None:
        """Give the residuals of a norm in place their input back."""
        for slot, residual in zip(self.slots, self.residuals, strict=True):
            if residual is not None:
                residual.copy_(slot.residual)

    def lead(self) -> None:
        """Issue an untimed call, after which the ranks' GPUs are together."""
        raise NotImplementedError

    def issue(self) -> None:
        """Issue the timed calls."""
        raise NotImplementedError

    def replay(self, samples: int) -> NDArray[np.float64]:
        """See :meth:`Timed.replay`; the CPU runs ahead of the GPU over all samples."""
        latency_us = led(self.backend._device, self.lead, self.issue, samples) / len(self.slots)
        for slot, outputs in zip(self.slots, self.outputs, strict=True):
            slot.last, slot.arm = outputs, self.arm
        return latency_us

    def kernels(self) -> tuple[str, ...]:
        """See :meth:`Timed.kernels`."""
        return self.backend._device.kernels(self.issue)

    def _issue(self) -> list[tuple[Any, ...]]:
        call = self.backend._call
        pairs = zip(self.slots, self.residuals, strict=True)
        return [call(self.arm, slot, residual) for slot, residual in pairs]

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
        self.outputs = self._issue()


class _Replayed(_Calls):
    """Calls captured into one graph, and one more call in a graph of its own as the lead."""

    def __init__(self, backend: AiterBackend, arm: str, slots: list[_AiterSlot]) -> None:
        super().__init__(backend, arm, slots)
        self._graph, self._lead = backend._device.graph(), backend._device.graph()
        self._lead_outputs: tuple[Any, ...] | None = None

    def record(self) -> None:
        """Capture the calls.

        Leaving ``graph_capture()`` registers the captured buffers with the peers: all must be
        through before anyone replays.
        """
        backend, device = self.backend, self.backend._device
        assert backend._aiter is not None
        with backend._aiter.graph_capture() as context:
            with device.capture(self._graph, context.stream):
                self.outputs = self._issue()
            with device.capture(self._lead, context.stream):
                self._lead_outputs = backend._call(self.arm, self.slots[0])

    def kernels(self) -> tuple[str, ...]:
        """See :meth:`Timed.kernels`; the graph tells them, or else a profiled replay."""
        return self.backend._device.captured(self._graph) or super().kernels()

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
