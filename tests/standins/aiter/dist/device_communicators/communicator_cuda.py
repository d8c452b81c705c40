import os

import torch
import torch.distributed as dist

from ... import graphs
from ...versions import since
from .custom_all_reduce import CustomAllreduce, element_name
from .quick_all_reduce import QuickAllReduce


class CudaCommunicator:
    _ar_1stage_override = (
        {"1": True, "0": False}.get(os.environ.get("AITER_AR_1STAGE", ""))
        if since(0, 1, 12)
        else None
    )
    _ar_1stage_max = (
        int(os.environ.get("AITER_AR_1STAGE_MAX_KB", "-1")) if since(0, 1, 17) else -1
    )

    def __init__(self, cpu_group, use_custom_allreduce):
        self.group = cpu_group
        self.world_size = dist.get_world_size(cpu_group)
        self.ca_comm = None
        if use_custom_allreduce and self.world_size > 1:
            self.ca_comm = CustomAllreduce(cpu_group, "cuda")
        self.qr_comm = QuickAllReduce(cpu_group)

    def all_reduce(self, input_, use_new=True, ca_fp8_quant=False, prefill_support=False):
        assert use_new and not ca_fp8_quant and not prefill_support
        if self.qr_comm.should_quick_allreduce(input_):
            return self.qr_comm.quick_all_reduce(input_)
        custom = self.ca_comm
        if custom is not None and not custom.disabled and custom.should_custom_ar(input_):
            out = custom.custom_all_reduce(input_)
            assert out is not None
            return out
        out = input_.clone()

        def run():
            graphs.launched("ncclDevKernel_Generic_1")
            out.copy_(input_)
            dist.all_reduce(out, group=self.group)

        graphs.issue(run)
        return out

    def fused_allreduce_rmsnorm(self, input_, res_inp_, weight_, eps, prefill_support=False):
        from ... import rmsnorm2d_fwd_with_add

        size = input_.numel() * input_.element_size()
        limit = 128 * 7168 * 2 // self.world_size if since(0, 1, 17) else 128 * 1024
        limit = self._ar_1stage_max if self._ar_1stage_max >= 0 else limit
        use_1stage = size <= limit
        if self._ar_1stage_override is not None:
            use_1stage = self._ar_1stage_override
        custom = self.ca_comm
        fits = input_.shape[-1] <= 16384 and size < 8 * 1024 * 8192 and self.world_size != 6
        if custom is not None and not custom.disabled and fits and custom.should_custom_ar(input_):
            result = custom.custom_fused_ar_rms(input_, res_inp_, weight_, eps, use_1stage)
            assert result is not None
            return result
        reduced = self.all_reduce(input_)
        out, residual_out = torch.empty_like(input_), torch.empty_like(input_)
        rmsnorm2d_fwd_with_add(out, reduced, res_inp_, residual_out, weight_, eps, 0)
        return out, residual_out


__all__ = ["CudaCommunicator", "element_name"]
