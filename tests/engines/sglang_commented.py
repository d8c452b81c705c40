"""SGLang's shape between 0.5.12 and 0.5.17, with comments on why it chooses as it does."""

import torch
from sglang.srt.environ import envs


class GroupCoordinator:
    def __init__(self, world_size: int, ca_comm) -> None:
        self.world_size = world_size
        self.ca_comm = ca_comm

    def fused_allreduce_rmsnorm(
        self, input_: torch.Tensor, residual_: torch.Tensor, weight_: torch.Tensor, eps: float
    ):
        """Fused op of the custom communicator. Runs 1-stage up to 128 KiB, else 2-stage.

        Returns None where the communicator cannot run it.
        """
        # Not every communicator has the op.
        if self.ca_comm is None:
            return None
        # Which kernel runs:
        # 1) A set variable wins.
        # 2) One workgroup takes one token, at most 80 tokens in all. A byte threshold keeps
        #    prefill away from it.
        # AITER's launcher itself looks at the hidden size.
        if envs.SGLANG_USE_1STAGE_ALLREDUCE.is_set():
            use_1stage_ar = envs.SGLANG_USE_1STAGE_ALLREDUCE.get()
        else:
            total_bytes = input_.numel() * input_.element_size()
            use_1stage_ar = total_bytes <= 128 * 1024  # 9 tokens at hidden 7168
        # 64 MiB is the largest input that the op takes.
        return self.ca_comm.custom_fused_ar_rms(input_, residual_, weight_, eps, use_1stage_ar)
