"""An SGLang-like function in which nothing fits: elements, a KB name, and the comment beside."""

import torch

MAX_KB = 448


class GroupCoordinator:
    def fused_allreduce_rmsnorm(self, input_: torch.Tensor, residual_, weight_, eps):
        total_bytes = input_.numel()
        # 1-stage up to 128 KiB
        small = total_bytes < 128 * 1024
        size = input_.numel() * input_.element_size()
        if self.world_size == 2:
            small = size <= MAX_KB
        return self.ca_comm.custom_fused_ar_rms(
            input_, residual_, weight_, eps, use_1stage_ar=small
        )
