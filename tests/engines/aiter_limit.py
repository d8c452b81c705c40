"""AITER's present shape: a limit that shrinks with the ranks."""

# ruff: noqa: F401, F821 - a source to read, never to run.

import torch


class CudaCommunicator:
    def __init__(self, world_size, ca_comm) -> None:
        self.world_size = world_size
        self.ca_comm = ca_comm

    def fused_allreduce_rmsnorm(self, input_, res_inp_, weight_, eps):
        n = input_.shape[-1]
        total_bytes = input_.numel() * input_.element_size()
        can_use_fuse_ar_rms = n <= 16384 and total_bytes < 8 * 1024 * 8192 and self.world_size != 6
        ca_comm = self.ca_comm
        if (
            ca_comm is not None
            and not ca_comm.disabled
            and ca_comm.should_custom_ar(input_)
            and can_use_fuse_ar_rms
        ):
            total_bytes_limit = 128 * 7168 * 2 // self.world_size
            pack_size = 16 // input_.element_size()
            use_1stage = total_bytes <= total_bytes_limit and n // pack_size <= 1024
            return ca_comm.custom_fused_ar_rms(input_, res_inp_, weight_, eps, use_1stage)
        out = self.all_reduce(input_)
        return rmsnorm_with_add(out, res_inp_, weight_, eps)
