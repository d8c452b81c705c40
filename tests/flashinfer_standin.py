"""FlashInfer's back end on CPU processes: gloo in the place of its kernels and of CUDA IPC.

What is played has the parameters of FlashInfer 0.6.4's functions and takes no others. Run as
``torchrun tests/flashinfer_standin.py measure --backend flashinfer ...``; rows are marked as a
stand-in's. Graphs, clock and group are those of ``torch_standin.py``.

``FLASHINFER_STANDIN_FAULT``: ``left-out`` (rank 1 drops a peer in the one-shot), ``same`` (the
two-shot is the one-shot's kernel), ``no-nvcc`` (nothing compiles on rank 1).
"""

import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import torch
import torch.distributed as dist
from torch_standin import Cpu, Memory, issue

from costmodel.live.backends.base import BACKENDS
from costmodel.live.backends.flashinfer.adapter import FlashInferBackend

FAULT = os.environ.get("FLASHINFER_STANDIN_FAULT", "")
PATTERN = "(flashinfer::trtllm_allreduce_fusion::AllReduceFusionPattern)"
NAMES = {
    True: "oneshot_lamport<{pattern}{code}, __nv_bfloat16, {ranks}, true, true>(x)",
    False: "twoshot_sync<{pattern}{code}, __nv_bfloat16, {ranks}, true>(x)",
}
#: What the functions below were given, for the processes of one test.
launched: list[str] = []
made: list[int] = []


class AllReduceFusionPattern:
    kAllReduce = 0
    kARResidualRMSNorm = 1


def get_trtllm_comm_module():
    if FAULT == "no-nvcc" and dist.get_rank() == 1:
        raise RuntimeError("Ninja build failed. Ninja output:\nnvcc: not found")


def trtllm_create_ipc_workspace_for_all_reduce_fusion(
    tp_rank, tp_size, max_token_num, hidden_dim, use_fp32_lamport=False, group=None,
    create_metadata=False, comm_backend=None, use_symm_dev_mem=False,
):  # fmt: skip
    assert (tp_rank, tp_size) == (dist.get_rank(group), dist.get_world_size(group))
    print(f"rank {tp_rank} allocated ipc_handles: ...")
    dist.barrier(group)
    made.append(max_token_num * hidden_dim)
    return [[0] * tp_size] * 3, torch.tensor([made[-1], int(use_fp32_lamport), id(group)])


def trtllm_destroy_ipc_workspace_for_all_reduce_fusion(workspace, group=None):
    dist.barrier(group)
    made.pop()


def trtllm_allreduce_fusion(
    allreduce_in, world_size, world_rank, token_num, hidden_dim, workspace_ptrs, launch_with_pdl,
    trigger_completion_at_end, fp32_acc, pattern_code, use_oneshot, allreduce_out, residual_in,
    residual_out, norm_out, quant_out, scale_out, rms_gamma, rms_eps, scale_factor, layout_code,
    metadata=None,
):  # fmt: skip
    if use_oneshot is None:
        use_oneshot = True
    assert use_oneshot or token_num > world_size, "sequence length should be larger than tp_size"
    assert fp32_acc
    assert not launch_with_pdl
    assert workspace_ptrs[1] == (allreduce_in.dtype == torch.float32)
    assert token_num * hidden_dim <= workspace_ptrs[0], "an illegal memory access"
    if hidden_dim % (16 // allreduce_in.element_size()):
        raise RuntimeError("params.hidden_dim % VEC_SIZE != 0")

    def run():
        shot = use_oneshot or FAULT == "same"
        kernel = NAMES[shot].format(pattern=PATTERN, code=pattern_code, ranks=world_size)
        launched.append(
            f"void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_{kernel}"
        )
        parts = [torch.empty_like(allreduce_in) for _ in range(world_size)]
        dist.all_gather(parts, allreduce_in)
        if FAULT == "left-out" and use_oneshot and world_rank == 1:
            parts[0].zero_()
        total = torch.stack(parts).float().sum(0)
        if pattern_code == AllReduceFusionPattern.kAllReduce:
            allreduce_out.copy_(total)
            return
        added = total + residual_in.float()
        scale = torch.rsqrt(added.pow(2).mean(-1, keepdim=True) + rms_eps)
        residual_out.copy_(added)
        norm_out.copy_(added * scale * rms_gamma.float())

    issue(run)


class Device(Cpu):
    def __init__(self):
        self.launched = launched


class StandIn(FlashInferBackend):
    genuine = False

    def _claim(self, *, overlap):
        assert not overlap
        torch.set_num_threads(1)
        self._device, self._memory = Device(), Memory(self.world_size)
        self.kernel_family = "flashinfer-standin"


def install():
    """Put the package in the place of FlashInfer."""
    package, comm = ModuleType("flashinfer"), ModuleType("flashinfer.comm")
    package.__spec__, package.__version__ = ModuleSpec("flashinfer", None), "0.6.4"
    package.comm, package.__path__ = comm, []
    comm.trtllm_ar = SimpleNamespace(get_trtllm_comm_module=get_trtllm_comm_module)
    for offered in (
        AllReduceFusionPattern,
        trtllm_allreduce_fusion,
        trtllm_create_ipc_workspace_for_all_reduce_fusion,
        trtllm_destroy_ipc_workspace_for_all_reduce_fusion,
    ):
        setattr(comm, offered.__name__, offered)
    sys.modules.update({"flashinfer": package, "flashinfer.comm": comm})


if __name__ == "__main__":
    import flashinfer_standin  # the module that the back end below comes from, not this script

    from costmodel.cli.main import main

    flashinfer_standin.install()
    BACKENDS["flashinfer"] = "flashinfer_standin:StandIn"
    main(sys.argv[1:])
