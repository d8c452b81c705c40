"""SGLang's present shape: a byte limit; per-group fp8 with an exception at 8 ranks."""

# ruff: noqa: F821 - a source to read, never to run.

import torch
from sglang.srt.environ import envs
from sglang.srt.utils import is_gfx95_supported, is_hip


class GroupCoordinator:
    def __init__(self, world_size: int, ca_comm) -> None:
        self.world_size = world_size
        self.ca_comm = ca_comm

    def fused_allreduce_rmsnorm(
        self, input_: torch.Tensor, residual_: torch.Tensor, weight_: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        ca_comm = self.ca_comm
        if ca_comm is None or getattr(ca_comm, "disabled", True):
            return None
        if hasattr(ca_comm, "fused_allreduce_rmsnorm"):
            try:
                return ca_comm.fused_allreduce_rmsnorm(input_, residual_, weight_, eps)
            except Exception:
                pass
        if envs.SGLANG_USE_1STAGE_ALLREDUCE.is_set():
            use_1stage_ar = envs.SGLANG_USE_1STAGE_ALLREDUCE.get()
        else:
            total_bytes = input_.numel() * input_.element_size()
            use_1stage_ar = total_bytes <= 128 * 1024

        if getattr(ca_comm, "_IS_CAPTURING", False) and is_piecewise():
            return ca_comm.fused_ar_rms(
                input_, residual_, w=weight_, eps=eps, use_1stage=use_1stage_ar
            )
        return ca_comm.custom_fused_ar_rms(input_, residual_, weight_, eps, use_1stage_ar)

    def fused_allreduce_rmsnorm_quant_per_group(
        self, input_: torch.Tensor, residual_: torch.Tensor, weight_, eps, group_size: int = 128
    ):
        if not (is_hip() and is_gfx95_supported()):
            return None
        ca_comm = self.ca_comm
        K = input_.shape[-1]
        if K % group_size != 0 or K > 16384:
            return None
        total_bytes = input_.numel() * input_.element_size()
        if total_bytes == 0 or total_bytes > 64 * 1024 * 1024:
            return None
        if envs.SGLANG_USE_1STAGE_ALLREDUCE.is_set():
            use_1stage_ar = envs.SGLANG_USE_1STAGE_ALLREDUCE.get()
        else:
            token_num = input_.numel() // K
            use_1stage_ar = total_bytes <= 128 * 1024
            if self.world_size == 8 and 4096 < K <= 7168 and token_num >= 8 and use_1stage_ar:
                use_1stage_ar = False
        try:
            return ca_comm.custom_fused_ar_rms_per_group_quant(
                input_, residual_, weight_, eps, group_size, use_1stage_ar
            )
        except Exception:
            return None
