"""AITER's limit behind a forced stage, in one conditional expression."""

# ruff: noqa: F401 - a source to read, never to run.

import os

import torch

FORCED = os.environ.get("AITER_AR_1STAGE")
LIMIT = 128 * 7168 * 2


class CudaCommunicator:
    def __init__(self, world_size, ca_comm) -> None:
        self.world_size = world_size
        self.ca_comm = ca_comm

    def fused_allreduce_rmsnorm(self, input_, res_inp_, weight_, eps):
        total_bytes = input_.numel() * input_.element_size()
        use_1stage = total_bytes <= LIMIT // self.world_size if FORCED is None else FORCED == "1"
        return self.ca_comm.custom_fused_ar_rms(
            input_, res_inp_, weight_, eps, use_1stage=use_1stage
        )
