"""A second user of vLLM's predicate: fused where it is 1-stage, separate ops elsewhere."""

# ruff: noqa: F821 - a source to read, never to run.


def _can_use_fused(hidden_states) -> bool:
    aiter_ar = rocm_aiter_ops.get_aiter_allreduce()
    if aiter_ar is None or aiter_ar.disabled:
        return False
    return aiter_ar.use_1stage_fused_ar_rms(hidden_states)


def fused_allreduce_gemma_rms_norm(hidden_states, residual, norm):
    if _can_use_fused(hidden_states):
        return fused_op(hidden_states, residual, norm.weight, gemma_norm=True)
    return norm(tensor_model_parallel_all_reduce(hidden_states), residual)
