"""The project's Triton kernels as a back end: ranks on one GPU, or split over several.

**Loopback** (one process): all ``world_size`` ranks live on one GPU of either vendor, and one
launch runs the programs of all of them. The links are then the GPU's own memory and caches. What
such a measurement shows is the structure of the two algorithms (barriers, launches, bytes), not a
fabric; rows say ``interconnect = loopback``.

**Symmetric memory** (under torchrun, a process a GPU): the same kernels over the pointers that
``torch.distributed._symmetric_memory`` exchanges; a process holds one rank or, with ``--tp`` above
the number of processes, several, in one launch. Verified on two H200 over NVLink (torch 2.11,
triton 3.6) at 2, 4 and 8 ranks; never on AMD GPUs, nor on more than two.

``1stage`` and ``2stage`` are the fused kernels, one launch each. ``separate`` is the plain
all-reduce, 1-stage or 2-stage by AITER's rule, then the local add + RMSNorm kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....data.kernels import OWN_FAMILY, at_date
from ....errors import InputError
from ....model.shape import ONE_STAGE, TWO_STAGE, WORLD_SIZES
from ....units import PACK_BYTES, element_bytes
from ...graph_kernels import captured, complete, new_graph
from ...profiled import launched
from ...repetition import GRAPH
from ..base import EPSILON, SEPARATE_ARM, Backend, LiveShape, Outputs, Timed
from ..device import architecture, short_name
from ..reference import Operands, fused_reference, operands, out_of_memory, torch_dtype

#: Raised by every change of the kernels that moves latency; stands in each row's kernel_version.
KERNELS_REVISION = 3

#: Offsets are 32-bit and may run one turn past the end.
MAX_ELEMENTS = 2**30

#: Polls of one barrier before a peer counts as lost: about half a second on an H200 in one launch;
#: minutes where a peer may still be compiling.
SPIN_LIMIT_LOOPBACK = 1 << 20
SPIN_LIMIT_PEERS = 1 << 28


class TritonBackend(Backend):
    """1stage, 2stage and separate by :mod:`costmodel.live.backends.triton.kernels`."""

    name = "triton"
    kernel_family = OWN_FAMILY
    launch = "in_process"
    ranks_share_gpus = True

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self.local_ranks = tuple(range(world_size))
        self.interconnect = "loopback"
        self.kernel_version = f"triton kernels {KERNELS_REVISION}"
        #: The most programs a rank of kernels with barriers, fewer than fit: for a sweep.
        self.workgroups: int | None = None
        self._memory: Any = None
        self._signals: Any = None
        self._shape: LiveShape | None = None
        self._slots: list[_TritonSlot] = []
        #: The local ranks' ``PUSHED`` rows, as elements.
        self._marked: list[Any] = []
        #: Buffers of the variant with flags in its data; on the device, their addresses and epochs.
        self._pushed: tuple[Any, Any, Any] | None = None
        self._resources: dict[str, dict[str, int]] = {}

    # -- ranks ------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Find the GPU, and the peers under torchrun; allocate the signal buffers."""
        import torch

        try:
            import triton
        except ImportError:
            raise InputError(
                "back end triton needs triton, which is not installed; pip install triton"
            ) from None
        from . import kernels as triton_kernels
        from .memory import Loopback, SymmetricMemory

        if self.world_size not in WORLD_SIZES:
            raise InputError(
                f"the triton kernels run on 2, 4 or 8 ranks, not on {self.world_size}; "
                "choose --tp 2, 4 or 8"
            )
        if not torch.cuda.is_available():
            raise InputError(
                "back end triton needs a CUDA or ROCm GPU that torch can use; this torch "
                f"({torch.__version__}) sees none"
            )
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self._memory = SymmetricMemory(self.world_size) if several else Loopback(self.world_size)
        self.local_ranks = self._memory.local_ranks
        self.interconnect = self._memory.interconnect
        self.kernel_version = (
            f"triton kernels {KERNELS_REVISION}, triton {triton.__version__}, "
            f"torch {torch.__version__}"
        )
        if not self.local_ranks:
            return
        self._signals = self._memory.allocate(triton_kernels.SIGNAL_WORDS * 4)
        self._signals.clear()
        self.exchange(None)  # nobody arrives at a peer whose counters are not zero yet

    def exchange(self, value: Any) -> list[Any]:
        """See :meth:`Backend.exchange`."""
        return self._memory.exchange(value) if self._memory else [value]

    def meet(self, value: Any) -> list[Any]:
        """See :meth:`Backend.meet`."""
        return self._memory.meet(value) if self._memory else [value]

    def leave(self) -> None:
        """See :meth:`Backend.leave`."""
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    def close(self) -> None:
        """Free everything; leave the group of the ranks."""
        self.release()
        self._signals = None
        if self._memory:
            self._memory.close()
            self._memory = None

    # -- one shape --------------------------------------------------------------------------------

    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """See :meth:`Backend.reason_against`."""
        from .launch import MAX_HIDDEN

        pack = PACK_BYTES // element_bytes(shape.dtype)
        if arm not in (ONE_STAGE, TWO_STAGE, SEPARATE_ARM):
            return "the triton kernels have no dispatch rule; they run 1stage, 2stage and separate"
        if shape.hidden_dim % pack:
            return f"hidden_dim % {pack} is {shape.hidden_dim % pack}; loads are 16 bytes wide"
        if shape.hidden_dim > MAX_HIDDEN:
            return f"hidden_dim is above {MAX_HIDDEN}, the longest row that one program holds"
        if shape.tokens * shape.hidden_dim > MAX_ELEMENTS:
            return f"more than {MAX_ELEMENTS} elements a rank"
        return None

    def prepare(self, shape: LiveShape, slots: int, seed: int) -> None:
        """See :meth:`Backend.prepare`."""
        self.release()
        self._shape, self._seed = shape, seed
        try:
            self._allocate(shape, slots)
        except RuntimeError as error:  # torch's OutOfMemoryError is one
            self.release()
            raise out_of_memory(shape, slots, error) from None

    def _allocate(self, shape: LiveShape, slots: int) -> None:
        """Lay out and fill the buffers and write each slot's pointer table.

        A rank's shared region holds the inputs of all slots, then ``GATHERED``, ``PARTIAL`` and
        ``PUSHED``, which all slots use, as a serving engine has one such buffer.
        """
        import torch

        from .kernels import SHARED_ROWS, TABLE_ROWS
        from .memory import ALIGNMENT_BYTES

        dtype = torch_dtype(shape.dtype)
        size = -(-shape.bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        shared = self._memory.allocate(size * (slots + 3))
        gathered, partial, pushed = (size * (slots + place) for place in range(3))
        self._staging = [part[gathered:pushed].view(dtype) for part in shared.local]
        self._marked = [part[pushed:].view(dtype) for part in shared.local]
        self._mark()
        for index in range(slots):
            given = self._operands(index)
            table = torch.zeros((TABLE_ROWS, self.world_size), dtype=torch.int64)
            for rank in range(self.world_size):
                base = shared.addresses[rank]
                starts = (index * size, gathered, partial, pushed)
                addresses = (*(base + start for start in starts), self._signals.addresses[rank])
                table[:SHARED_ROWS, rank] = torch.tensor(addresses)
            own: list[_Own] = []
            for part, rank in zip(shared.local, self.local_ranks, strict=True):
                start = index * size
                part[start : start + shape.bytes].view(dtype).copy_(given.inputs[rank].view(-1))
                buffers = _Own(
                    given.residual.clone(),
                    given.weight.clone(),
                    torch.empty_like(given.residual),
                    torch.empty_like(given.residual),
                )
                table[SHARED_ROWS:, rank] = torch.tensor([buffer.data_ptr() for buffer in buffers])
                own.append(buffers)
            self._slots.append(_TritonSlot(table.cuda(), own, shared))
        torch.cuda.synchronize()

    def _mark(self) -> None:
        """Fill ``PUSHED`` with marks. No peer pushes before this rank's next call has begun."""
        for part in self._marked:
            part.fill_(-0.0)

    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """See :meth:`Backend.capture`. Compiles, checks co-residency, runs every slot once."""
        return self.capture_launches(self._launches(arm), calls, timing)

    def capture_launches(self, launches: Sequence[Any], calls: int, timing: str) -> Timed:
        """Return calls that each are ``launches``, as :meth:`capture` does those of an arm."""
        import torch

        def issue(count: int) -> None:
            for index in range(count):
                for launch in launches:
                    launch(self._slots[index % len(self._slots)].table)

        issue(len(self._slots))
        self._check()
        if timing != GRAPH:
            return _Replay(lambda: issue(calls), calls, self._check)
        graph = new_graph()
        with torch.cuda.graph(graph):
            issue(calls)
        complete(graph)
        return _Replay(graph.replay, calls, self._check, graph)

    def poison(self) -> None:
        """See :meth:`Backend.poison`."""
        for staging in self._staging:
            staging.fill_(float("nan"))
        self._mark()
        for slot in self._slots:
            for own in slot.own:
                own.output.fill_(float("nan"))
                own.residual_out.fill_(float("nan"))

    def outputs(self, slot: int) -> list[Outputs]:
        """See :meth:`Backend.outputs`."""
        return [Outputs(own.output, own.residual_out) for own in self._slots[slot].own]

    def reference(self, slot: int) -> Outputs:
        """See :meth:`Backend.reference`."""
        return fused_reference(self._operands(slot))

    def release(self) -> None:
        """See :meth:`Backend.release`."""
        self._slots, self._staging, self._marked = [], [], []
        self._shape, self._pushed = None, None

    # -- records ----------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """See :meth:`Backend.environment`; ``kernels`` holds what was compiled so far."""
        import torch

        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        return {
            "gpu": short_name(device.name),
            "arch": architecture(device),
            "multiprocessors": device.multi_processor_count,
            "memory_bytes": device.total_memory,
            "ranks": (
                f"{self.world_size} virtual ranks on one GPU; the links are its own memory"
                if self.interconnect == "loopback"
                else f"{len(self.local_ranks)} a GPU, torch symmetric memory"
            ),
            "kernels": self._resources,
        }

    def kernels_run(self, arm: str) -> tuple[str, ...]:
        """See :meth:`Backend.kernels_run`; profiled at the prepared shape."""
        launches = self._launches(arm)
        return launched(lambda: [launch(self._slots[0].table) for launch in launches])

    # -- launches ---------------------------------------------------------------------------------

    def _launches(self, arm: str) -> list[Any]:
        """Return the launches of one call of ``arm`` at the prepared shape, in order."""
        from . import kernels

        assert self._shape is not None
        if arm == ONE_STAGE:
            return [self._fused_one_stage_launch()]
        if arm == TWO_STAGE:
            return [self._fused_two_stage_launch()]
        if at_date(self.kernel_family, "").auto_is_1stage(self.world_size, self._shape.bytes):
            first, parts = kernels.all_reduce_one_stage, 1
        else:
            first, parts = kernels.all_reduce_two_stage, self.world_size
        return [self._flat_launch(first, parts), self._norm_launch()]

    def _fused_one_stage_launch(self) -> Any:
        from . import kernels
        from .launch import row_threads

        assert self._shape is not None
        tokens = self._shape.tokens
        arguments = (tokens, self.local_ranks[0], EPSILON, self._spin_limit)
        threads = row_threads(self._shape.hidden_dim, self.world_size)
        options = {**_row_options(self._shape, threads), **self._rank_options()}
        return self._resident(kernels.fused_one_stage, tokens, arguments, options)

    def one_stage_ll_launch(self) -> Any:
        """Return the launch of the 1-stage with flags in its data; all processes call this.

        For benchmarks: no arm runs it. Its buffer is taken with the first launch of a shape. Raises
        :class:`CannotRun` where the shape needs too large a one.
        """
        import torch

        from . import ll
        from .launch import row_threads

        assert self._shape is not None
        tokens, n = self._shape.tokens, self.world_size
        if self._pushed is None:
            region = self._memory.allocate(ll.buffer_bytes(self._shape, n))
            region.clear()
            self.exchange(None)  # nobody pushes into a buffer that is not clear yet
            addresses = torch.tensor(region.addresses, dtype=torch.int64).cuda()
            epochs = torch.zeros(len(self.local_ranks) * tokens, dtype=torch.int32).cuda()
            self._pushed = region, addresses, epochs
        first, limit = self.local_ranks[0], self._spin_limit
        arguments = (*self._pushed[1:], tokens, first, n, EPSILON, limit)
        rows = _row_options(self._shape, row_threads(self._shape.hidden_dim, n))
        ranks = self._rank_options()
        del ranks["SCOPE"]
        threads = rows["num_warps"] * _device().warp_size
        sources = ll.sources_at_once(n, rows["BLOCK"], threads, self._shape.dtype)
        probed = ll.probed_first(n, self._shape.hidden_dim, self._shape.dtype)
        options = {**rows, **ranks, "SOURCES": sources, "PROBED": probed}
        return self._resident(ll.fused_one_stage_ll, tokens, arguments, options)

    def _fused_two_stage_launch(self) -> Any:
        from . import kernels
        from .launch import TWO_STAGE_REGISTERS, share_of, two_stage_threads

        assert self._shape is not None
        tokens, hidden, n = self._shape.tokens, self._shape.hidden_dim, self.world_size
        arguments = (tokens, self.local_ranks[0], EPSILON, self._spin_limit)
        rows = _row_options(self._shape, two_stage_threads(hidden, n), TWO_STAGE_REGISTERS)
        parts = share_of(hidden, n, element_bytes(self._shape.dtype))
        options = {**rows, **parts, **self._rank_options()}
        return self._resident(kernels.fused_two_stage, tokens, arguments, options)

    def _flat_launch(self, kernel: Any, parts: int) -> Any:
        """Return the launch of a kernel whose ranks each work through 1/parts of the elements."""
        from .launch import FLAT_THREADS

        assert self._shape is not None
        pack = PACK_BYTES // element_bytes(self._shape.dtype)
        packs = self._shape.tokens * self._shape.hidden_dim // pack
        share = -(-packs // parts)
        options = {
            "PACK": pack,
            "BLOCK": FLAT_THREADS * pack,
            "num_warps": FLAT_THREADS // _device().warp_size,
            **_registers(FLAT_THREADS // _device().warp_size),
            **self._rank_options(),
        }
        arguments = (packs, self.local_ranks[0], self._spin_limit)
        return self._resident(kernel, -(-share // FLAT_THREADS), arguments, options)

    def _norm_launch(self) -> Any:
        assert self._shape is not None
        return norm_launch(self._shape, self.local_ranks, self.world_size)

    def _rank_options(self) -> dict[str, Any]:
        import torch

        assert self._shape is not None
        return {
            "RANKS": self.world_size,
            "LOCAL": len(self.local_ranks),
            "TYPE": triton_type(self._shape.dtype),
            "SCOPE": "gpu" if self.interconnect == "loopback" else "sys",
            "HIP": torch.version.hip is not None,
        }

    @property
    def _spin_limit(self) -> int:
        return SPIN_LIMIT_LOOPBACK if self.interconnect == "loopback" else SPIN_LIMIT_PEERS

    def _resident(
        self, kernel: Any, work: int, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """Return a launch with as many programs as there is work for and as fit at once."""
        from .launch import TritonLaunch, occupancy, programs_per_rank

        compiled = kernel.warmup(self._slots[0].table, *arguments, grid=(1,), **options)
        device = _device()
        fitting = occupancy(compiled, device.warp_size)
        local = len(self.local_ranks)
        resident = device.multi_processor_count * fitting
        programs = programs_per_rank(min(work, self.workgroups or work), resident, local)
        self._resources[compiled.metadata.name] = {
            "threads": compiled.metadata.num_warps * device.warp_size,
            "registers": getattr(compiled, "n_regs", -1),
            "spills": getattr(compiled, "n_spills", -1),
            "shared_bytes": compiled.metadata.shared,
            "programs_per_multiprocessor": fitting,
            "programs_per_rank": programs,
        }
        return TritonLaunch(kernel, programs * local, arguments, options)

    def _operands(self, slot: int) -> Operands:
        assert self._shape is not None
        return operands(self._shape, self.world_size, slot, self._seed, device="cuda")

    def _check(self) -> None:
        """Wait for the GPU; raise when a barrier gave up, after clearing the signals."""
        import torch

        from .kernels import ERROR

        torch.cuda.synchronize()
        if any(int(part.view(torch.int32)[ERROR.value]) for part in self._signals.local):
            self._signals.clear()
            self._mark()
            raise RuntimeError(
                f"a wait of the triton kernels gave up after {self._spin_limit} polls: "
                "not all ranks arrived"
            )


class _Own(NamedTuple):
    """What only the rank itself touches, in the order of the table's last rows."""

    residual: Any
    weight: Any
    output: Any
    residual_out: Any


class _TritonSlot(NamedTuple):
    """The pointer table of one slot, and what keeps its memory alive."""

    table: Any
    own: list[_Own]
    shared: Any


class _Replay(Timed):
    """A captured graph, or a loop of launches, timed by events on the GPU.

    One untimed replay goes ahead of each batch: it brings the ranks together, and keeps the GPU
    busy while the timed ones are queued behind it.
    """

    def __init__(
        self, run: Callable[[], None], calls: int, check: Callable[[], None], graph: Any = None
    ) -> None:
        self._run, self._calls, self._check, self._graph = run, calls, check, graph

    def replay(self, samples: int) -> NDArray[np.float64]:
        """See :meth:`Timed.replay`; a single column."""
        import torch

        marks = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(samples)
        ]
        self._run()
        for start, stop in marks:
            start.record()
            self._run()
            stop.record()
        self._check()
        return np.array([[start.elapsed_time(stop) * 1e3 / self._calls] for start, stop in marks])

    def kernels(self) -> tuple[str, ...]:
        """See :meth:`Timed.kernels`."""
        named = captured(self._graph) if self._graph is not None else ()
        return named or launched(self._run)

    def close(self) -> None:
        """See :meth:`Timed.close`."""
        if self._graph is not None:
            self._graph.reset()
            self._graph = None


def _device() -> Any:
    import torch

    return torch.cuda.get_device_properties(torch.cuda.current_device())


def norm_launch(shape: LiveShape, local_ranks: Sequence[int], world_size: int) -> Any:
    """Return the launch of the local add + RMSNorm, a program a row: no barrier, so no limit.

    ``world_size`` is the width of the pointer table that it is launched with.
    """
    from . import kernels
    from .launch import TritonLaunch, row_threads

    local = len(local_ranks)
    arguments = (shape.tokens, local_ranks[0], world_size, EPSILON)
    rows = _row_options(shape, row_threads(shape.hidden_dim, 1))
    options = {**rows, "LOCAL": local, "TYPE": triton_type(shape.dtype)}
    return TritonLaunch(kernels.add_rms_norm, shape.tokens * local, arguments, options)


def _row_options(shape: LiveShape, threads: int, *most: int) -> dict[str, Any]:
    """Return the options of a kernel whose programs hold a row in so many threads.

    ``most`` are the most registers of a thread, where they are fewer than the GPU allows.
    """
    from .launch import row_block

    warps = threads // _device().warp_size
    return {
        "HIDDEN": shape.hidden_dim, "BLOCK": row_block(shape.hidden_dim), "num_warps": warps,
        **_registers(warps, *most),
    }  # fmt: skip


def _registers(warps: int, *most: int) -> dict[str, int]:
    """Return the launch option that lets the compiler use the registers of its threads.

    Without a limit of its own NVIDIA's ptxas saves registers by waiting for some ranks' loads
    before it issues the others' (seen in SASS for sm_90, Triton 3.6 and 3.9).
    """
    import torch

    from .launch import registers_of

    return {} if torch.version.hip else {"maxnreg": registers_of(32 * warps, *most)}


def triton_type(dtype: str) -> Any:
    """Return Triton's element type for the project's name of it."""
    import triton.language as tl

    return {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}[dtype]
