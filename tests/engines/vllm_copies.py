"""vLLM's choice in the function of each op, with the same predicate."""

# ruff: noqa: F821 - a source to read, never to run.

import torch


def _rocm_aiter_fused_allreduce_rmsnorm_impl(
    input_: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
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

    use_1stage = token_ok and size_ok
    result = ca.custom_fused_ar_rms(input_, residual, weight, epsilon, use_1stage=use_1stage)
    return result[0], result[1]


def _rocm_aiter_fused_allreduce_rmsnorm_quant_per_group_impl(
    input_: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fused all-reduce, RMSNorm and fp8.

    Mirrors the logic of ``_rocm_aiter_fused_allreduce_rmsnorm_impl``.
    """
    ca = rocm_aiter_ops.get_aiter_allreduce().aiter_ca
    total_bytes = input_.numel() * input_.element_size()
    token_ok = input_.shape[0] <= 80
    world_size = ca.world_size

    # Larger messages than these are 2-stage.
    if world_size == 2:
        size_ok = True
    elif world_size <= 4:
        size_ok = total_bytes < 256 * 1024
    else:
        size_ok = total_bytes < 128 * 1024

    use_1stage = token_ok and size_ok
    return ca.fused_ar_rms_per_group_quant(input_, residual, use_1stage=use_1stage)


def _rocm_aiter_fused_allreduce_rmsnorm_quant_per_group_with_bf16_norm_impl(
    input_: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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

    use_1stage = token_ok and size_ok
    return ca.fused_ar_rms_per_group_quant(input_, residual, use_1stage=use_1stage, emit_bf16=True)
