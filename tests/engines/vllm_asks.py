"""The op beside vLLM's predicate: it asks, and chooses nothing itself."""

# ruff: noqa: F821 - a source to read, never to run.

import torch


def _rocm_aiter_fused_allreduce_rmsnorm_impl(
    input_: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    aiter_ar = rocm_aiter_ops.get_aiter_allreduce()
    use_1stage = aiter_ar.use_1stage_fused_ar_rms(input_)
    result = aiter_ar.aiter_ca.custom_fused_ar_rms(
        input_, residual, weight, epsilon, use_1stage=use_1stage
    )
    return result[0], result[1]
