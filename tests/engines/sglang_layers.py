"""Where SGLang's layers take the fused op."""

from sglang.srt.layers.dp_attention import is_dp_attention_enabled


def apply_aiter_all_reduce_fusion(x, args):
    total_bytes = x.numel() * x.element_size()
    return (
        total_bytes <= 8 * 1024 * 8192
        and not is_dp_attention_enabled()
        and args.enable_aiter_allreduce_fusion
    )
