"""vLLM's pass config."""

from vllm import envs


def enable_allreduce_rms_fusion(cfg):
    if envs.VLLM_BATCH_INVARIANT:
        return False
    return cfg.tensor_parallel_size > 1


O0 = {"fuse_allreduce_rms": False}
O2 = {"fuse_allreduce_rms": enable_allreduce_rms_fusion}
