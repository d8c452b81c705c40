"""vLLM's first shape: a branch on the ranks inside the op, with a set of hidden sizes."""

# ruff: noqa: F821 - a source to read, never to run.

import torch


def _rocm_aiter_fused_allreduce_rmsnorm_impl(
    input_: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    aiter_ar = rocm_aiter_ops.get_aiter_allreduce()
    assert aiter_ar is not None, "aiter allreduce must be initialized"

    total_bytes = input_.numel() * input_.element_size()
    hidden_dim = input_.shape[-1]
    token_num = input_.shape[0]
    hidden_ok = hidden_dim in (512, 1024, 2048, 4096, 7168)
    token_ok = token_num <= 80
    world_size = aiter_ar.world_size
    full_nvlink = aiter_ar.fully_connected

    if world_size == 2:
        size_ok = True
    elif full_nvlink and world_size <= 4:
        size_ok = total_bytes < 256 * 1024
    elif full_nvlink and world_size <= 8:
        size_ok = total_bytes < 128 * 1024
    else:
        size_ok = False

    use_1stage = hidden_ok and token_ok and size_ok

    result = aiter_ar.fused_ar_rms(
        input_, residual, w=weight, eps=epsilon, registered=False, use_1stage=use_1stage
    )
    assert result is not None
    return result[0], result[1]
