"""vLLM's second shape: the same branch in two ops, hidden sizes by packs."""

# ruff: noqa: F821 - a source to read, never to run.

import torch


def _rocm_aiter_fused_allreduce_rmsnorm_impl(
    input_: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    ca = rocm_aiter_ops.get_aiter_allreduce().aiter_ca
    total_bytes = input_.numel() * input_.element_size()
    hidden_dim = input_.shape[-1]
    token_num = input_.numel() // hidden_dim
    if input_.dtype in (torch.bfloat16, torch.float16):
        pack_size = 16 // input_.element_size()
        hidden_ok = hidden_dim % pack_size == 0 and hidden_dim // pack_size <= 1024
    else:
        hidden_ok = False
    token_ok = token_num <= 80
    world_size = ca.world_size
    full_nvlink = ca.fully_connected

    if world_size == 2:
        size_ok = True
    elif full_nvlink and world_size <= 4:
        size_ok = total_bytes < 256 * 1024
    elif full_nvlink and world_size <= 8:
        size_ok = total_bytes < 128 * 1024
    else:
        size_ok = False

    use_1stage = hidden_ok and token_ok and size_ok
    result = ca.custom_fused_ar_rms(input_, residual, weight, epsilon, use_1stage=use_1stage)
    return result[0], result[1]


def _rocm_aiter_fused_allreduce_rmsnorm_quant_per_group_impl(
    input_: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    ca = rocm_aiter_ops.get_aiter_allreduce().aiter_ca
    total_bytes = input_.numel() * input_.element_size()
    token_ok = input_.shape[0] <= 80
    world_size = ca.world_size

    if world_size == 2:
        size_ok = True
    elif world_size <= 4:
        size_ok = total_bytes < 256 * 1024
    else:
        size_ok = total_bytes < 128 * 1024

    return ca.fused_ar_rms_per_group_quant(input_, residual, use_1stage=token_ok and size_ok)
