"""The back end of torch's all-reduces on CPU processes: gloo in the place of symmetric memory and NCCL.

Torch's symmetric memory needs GPUs; what can be proved without is the back end's own part: which
input each call has, what is made anew before a replay, what is compared, named and recorded. Run as
``torchrun tests/torch_standin.py measure --backend torch ...``. Graphs record what is issued, and
collectives run at replay alone, as on a GPU. Rows are marked as a stand-in's.

``TORCH_STANDIN_FAULT``: ``left-out`` (rank 1 drops a peer in the one-shot), ``same`` (the two-shot
is the one-shot's kernel), ``no-norm`` (the norm cannot be compiled on rank 1).
"""

import os
import sys
import time
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from costmodel.live.backends.base import BACKENDS
from costmodel.live.backends.device import Device
from costmodel.live.backends.torch.adapter import TorchBackend
from costmodel.live.backends.torch.norms import Norm, add_rms_norm
from costmodel.live.backends.triton.memory import Region

FAULT = os.environ.get("TORCH_STANDIN_FAULT", "")
NAMES = {
    "1stage": "void (anonymous namespace)::one_shot_all_reduce_kernel<c10::BFloat16, 16, {}>(x)",
    "2stage": "void (anonymous namespace)::two_shot_all_reduce_kernel_inplace<c10::BFloat16, 16, {}>(x)",
    "": "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
}
NORM_NAME = "triton_red_fused__to_copy_add_copy_copy__mean_mul_pow_rsqrt_0"


class Graph(TorchDispatchMode):
    """What was issued while it was captured."""

    captured = None

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def replay(self):
        for call in self.calls:
            call()


def issue(run):
    """Run now, or only at replay while a graph is being captured."""
    if Graph.captured is None:
        run()
    else:
        Graph.captured.calls.append(run)


class Cpu(Device):
    kind = "cpu"

    def __init__(self):
        self.launched = []

    def count(self):
        return 8

    def claim(self, local_rank):
        pass

    def describe(self):
        return {"gpu": "STANDIN", "arch": "none"}

    def synchronize(self):
        pass

    def graph(self):
        return Graph()

    @contextmanager
    def capture(self, graph, stream):
        Graph.captured = graph
        try:
            with graph:
                yield
        finally:
            Graph.captured = None

    def stamp(self):
        return time.perf_counter_ns()

    def elapsed_us(self, start, end):
        return (end - start) / 1e3

    def kernels(self, run):
        self.launched.clear()
        run()
        return tuple(self.launched)


class Memory:
    interconnect = "standin"

    def __init__(self, ranks):
        dist.init_process_group("gloo") if not dist.is_initialized() else None
        self.ranks = ranks
        self.group = dist.new_group(list(range(ranks)))
        rank = dist.get_rank()
        self.local_ranks = (rank,) if rank < ranks else ()

    def allocate(self, size_bytes):
        return Region([], [torch.empty(size_bytes, dtype=torch.uint8)])

    def exchange(self, value):
        return self._gather(value, self.ranks, self.group)

    def meet(self, value):
        return self._gather(value, dist.get_world_size(), None)

    def _gather(self, value, ranks, group):
        everybody = [None] * ranks
        dist.all_gather_object(everybody, value, group=group)
        return everybody

    def close(self):
        if self.local_ranks:
            dist.destroy_process_group(self.group)


class EagerNorm(Norm):
    def __init__(self, device, rank):
        if FAULT == "no-norm" and rank == 1:
            raise RuntimeError("no compiler\nand a long trace")
        self.device = device

    def bound(self, summed, slot):
        def run():
            self.device.launched.append(NORM_NAME)
            add_rms_norm(summed, slot.residual, slot.weight, slot.output, slot.residual_out)

        return lambda: issue(run)


class StandIn(TorchBackend):
    genuine = False

    def _join(self):
        torch.set_num_threads(1)
        self._device = Cpu()
        self._memory = Memory(self.world_size)
        self.kernel_version = f"torch {torch.__version__}"
        self.kernel_family, self.separate_family = "torch_symm_mem-standin", "nccl-standin"

    def make_norm(self):
        return EagerNorm(self._device, self.local_ranks[0])

    def all_reduce(self, stage, given, out):
        issue(lambda: self._run(stage, given, given if stage != "1stage" else out))

    def _run(self, stage, given, out):
        named = "1stage" if stage and FAULT == "same" else stage
        self._device.launched.append(NAMES[named].format(self.world_size))
        parts = [torch.empty_like(given) for _ in range(self.world_size)]
        dist.all_gather(parts, given.clone(), group=self._memory.group)
        if FAULT == "left-out" and stage == "1stage" and self.local_ranks == (1,):
            parts[0].zero_()
        out.copy_(torch.stack(parts).float().sum(0))


if __name__ == "__main__":
    from costmodel.cli.main import main

    BACKENDS["torch"] = "torch_standin:StandIn"
    main(sys.argv[1:])
