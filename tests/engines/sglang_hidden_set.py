"""SGLang's first shape: a byte limit and a set of hidden sizes in one assignment."""

import torch
from sglang.srt.environ import envs


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
        if not hasattr(ca_comm, "custom_fused_ar_rms"):
            return None
        if envs.SGLANG_USE_1STAGE_ALLREDUCE.is_set():
            use_1stage_ar = envs.SGLANG_USE_1STAGE_ALLREDUCE.get()
        elif envs.SGLANG_ENABLE_DETERMINISTIC_INFERENCE.get():
            use_1stage_ar = True
        else:
            total_bytes = input_.numel() * input_.element_size()
            hidden_dim = input_.shape[-1]
            use_1stage_ar = total_bytes <= 128 * 1024 and hidden_dim in {
                512,
                1024,
                2048,
                4096,
            }
        return ca_comm.custom_fused_ar_rms(input_, residual_, weight_, eps, use_1stage_ar)
