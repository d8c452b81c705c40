"""AITER's limit with an override from the environment that says KB and is compared with bytes."""

# ruff: noqa: F401, F841 - a source to read, never to run.

import os

import torch


class CudaCommunicator:
    def __init__(self, world_size, ca_comm) -> None:
        self.world_size = world_size
        self.ca_comm = ca_comm

    def fused_allreduce_rmsnorm(self, input_, res_inp_, weight_, eps):
        hidden_dim = input_.shape[-1]
        total_bytes = input_.numel() * input_.element_size()
        total_bytes_limit = int(
            os.environ.get("AITER_AR_1STAGE_MAX_KB", 128 * 7168 * 2 // self.world_size)
        )
        use_1stage = total_bytes <= total_bytes_limit
        return self.ca_comm.custom_fused_ar_rms(
            input_, res_inp_, weight_, eps, use_1stage=use_1stage
        )
