import torch
import torch.distributed as dist

from .. import graphs
from .device_communicators.custom_all_reduce import FORCED, limit_bytes
from .parallel_state import get_tp_group


def tensor_model_parallel_all_reduce(input_, use_new=True, open_fp8_quant=False):
    out = torch.empty_like(input_)

    def run():
        graphs.launched("cross_device_reduce")
        parts = [torch.empty_like(input_) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, input_)
        out.copy_(sum(part.float() for part in parts))

    graphs.issue(run)
    return out


def tensor_model_parallel_fused_allreduce_rmsnorm(input_, residual_inp_, weight_, eps):
    communicator = get_tp_group().device_communicator.ca_comm
    use_1stage = input_.numel() * input_.element_size() <= limit_bytes(dist.get_world_size())
    if FORCED is not None:
        use_1stage = FORCED == "1"
    return communicator.custom_fused_ar_rms(input_, residual_inp_, weight_, eps, use_1stage)
