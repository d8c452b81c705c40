"""config.json of models as their makers publish them, with the keys that stand beside the sizes."""

import json

import pytest

from costmodel.data import llms

LLAMA_KEYS = {"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "initializer_range": 0.02,
              "max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": None,
              "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
              "attention_dropout": 0.0, "pretraining_tp": 1}  # fmt: skip

#: Keys, then hidden size, layers, fused calls a step, what a block's residual is, words of why none.
FILES = {
    "gpt-oss-120b": (
        {**LLAMA_KEYS, "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
         "hidden_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
         "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 128,
         "num_experts_per_tok": 4, "rms_norm_eps": 1e-5, "sliding_window": 128,
         "swiglu_limit": 7.0, "layer_types": ["sliding_attention", "full_attention"] * 18,
         "quantization_config": {"quant_method": "mxfp4"}},
        2880, 36, 72, "pre", "",
    ),
    "DeepSeek-V3": (
        {**LLAMA_KEYS, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
         "hidden_size": 7168, "num_hidden_layers": 61, "num_nextn_predict_layers": 1,
         "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_routed_experts": 256,
         "n_shared_experts": 1, "num_attention_heads": 128, "q_lora_rank": 1536,
         "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-6,
         "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        7168, 61, 122, "pre", "",
    ),
    "Qwen3-Next": (
        {**LLAMA_KEYS, "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48,
         "num_attention_heads": 16, "full_attention_interval": 4, "linear_num_key_heads": 16,
         "linear_conv_kernel_dim": 4, "num_experts": 512, "mlp_only_layers": [],
         "decoder_sparse_step": 1, "norm_topk_prob": True, "rms_norm_eps": 1e-6},
        2048, 48, 96, "pre", "",
    ),
    "Kimi-Linear": (
        {**LLAMA_KEYS, "model_type": "kimi_linear", "hidden_size": 2304, "num_hidden_layers": 27,
         "num_attention_heads": 32, "num_experts": 256, "rms_norm_eps": 1e-5,
         "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "num_heads": 32,
                                "kda_layers": [1, 2, 3, 5, 6, 7], "short_conv_kernel_size": 4}},
        2304, 27, 54, "pre", "",
    ),
    "Jamba": (
        {**LLAMA_KEYS, "model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32,
         "num_attention_heads": 32, "attn_layer_offset": 4, "attn_layer_period": 8,
         "expert_layer_offset": 1, "expert_layer_period": 2, "num_experts": 16,
         "mamba_d_state": 16, "rms_norm_eps": 1e-6},
        4096, 32, 64, "pre", "",
    ),
    "Nemotron-H": (
        {**LLAMA_KEYS, "model_type": "nemotron_h", "hidden_size": 4096, "num_hidden_layers": 52,
         "num_attention_heads": 32, "rms_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5,
         "residual_in_fp32": False, "hybrid_override_pattern": "M-" * 21 + "M*-M*-M*-M"},
        4096, 52, 52, "pre", "",
    ),
    "ChatGLM3": (
        {"architectures": ["ChatGLMModel"], "model_type": "chatglm", "hidden_size": 4096,
         "num_layers": 28, "num_attention_heads": 32, "ffn_hidden_size": 13696, "rmsnorm": True,
         "layernorm_epsilon": 1e-5, "post_layer_norm": True, "hidden_dropout": 0.0,
         "apply_residual_connection_post_layernorm": False, "torch_dtype": "float16"},
        4096, 28, 56, "pre", "",
    ),
    "EXAONE-3.5": (
        {"architectures": ["ExaoneForCausalLM"], "model_type": "exaone", "hidden_size": 5120,
         "num_layers": 64, "num_attention_heads": 40, "layer_norm_epsilon": 1e-5,
         "activation_function": "silu", "embed_dropout": 0.0, "torch_dtype": "bfloat16"},
        5120, 64, 128, "pre", "",
    ),
    "Mistral-Small-3.1": (
        {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
         "text_config": {"model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40,
                         "num_attention_heads": 32, "rms_norm_eps": 1e-5},
         "vision_config": {"model_type": "pixtral", "hidden_size": 1024, "num_hidden_layers": 24},
         "multimodal_projector_bias": False, "vision_feature_layer": -1},
        5120, 40, 80, "pre", "",
    ),
    "Mistral's params.json": (
        {"dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 32768, "n_heads": 32,
         "n_kv_heads": 8, "norm_eps": 1e-5, "vocab_size": 131072, "rope_theta": 1e9},
        5120, 40, 80, "pre", "",
    ),
    "Qwen3-Omni": (
        {"architectures": ["Qwen3OmniMoeForConditionalGeneration"], "model_type": "qwen3_omni_moe",
         "code2wav_config": {"hidden_size": 1024, "num_hidden_layers": 8},
         "talker_config": {"text_config": {"hidden_size": 1024, "num_hidden_layers": 20}},
         "thinker_config": {
             "audio_config": {"d_model": 1280, "encoder_layers": 32, "num_hidden_layers": 32},
             "text_config": {"hidden_size": 2048, "num_hidden_layers": 48, "num_experts": 128,
                             "num_attention_heads": 32, "rms_norm_eps": 1e-6,
                             "model_type": "qwen3_omni_moe_text"},
             "vision_config": {"hidden_size": 1152, "depth": 27}}},
        2048, 48, 96, "pre", "",
    ),
    "Gemma-3": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
         "text_config": {"model_type": "gemma3_text", "hidden_size": 5376, "num_hidden_layers": 62,
                         "num_attention_heads": 32, "query_pre_attn_scalar": 168},
         "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27}},
        5376, 62, 0, "sandwich", "post-norm",
    ),
    "OLMo-2": (
        {**LLAMA_KEYS, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2",
         "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
         "rms_norm_eps": 1e-6},
        5120, 64, 0, "post", "post-norm",
    ),
    "Granite-4 hybrid": (
        {**LLAMA_KEYS, "model_type": "granitemoehybrid", "hidden_size": 4096,
         "num_hidden_layers": 40, "num_attention_heads": 32, "attention_multiplier": 0.0078,
         "embedding_multiplier": 12, "logits_scaling": 16, "residual_multiplier": 0.22,
         "layer_types": (["mamba"] * 5 + ["attention"] + ["mamba"] * 4) * 4,
         "normalization_function": "rmsnorm", "rms_norm_eps": 1e-5},
        4096, 40, 0, "scaled", "scaled residual",
    ),
    "MiniCPM3": (
        {**LLAMA_KEYS, "model_type": "minicpm3", "hidden_size": 2560, "num_hidden_layers": 62,
         "num_attention_heads": 40, "scale_depth": 1.4, "scale_emb": 12, "dim_model_base": 256,
         "rms_norm_eps": 1e-5},
        2560, 62, 0, "scaled", "scaled residual",
    ),
    "Minitron": (
        {"architectures": ["NemotronForCausalLM"], "model_type": "nemotron", "hidden_size": 4096,
         "num_hidden_layers": 32, "num_attention_heads": 48, "norm_eps": 1e-5,
         "hidden_act": "relu2", "partial_rotary_factor": 0.5},
        4096, 32, 0, "pre", "LayerNorm",
    ),
    "Phi-3.5-MoE": (
        {**LLAMA_KEYS, "architectures": ["PhiMoEForCausalLM"], "model_type": "phimoe",
         "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_local_experts": 16, "rms_norm_eps": 1e-5, "lm_head_bias": True},
        4096, 32, 0, "pre", "LayerNorm",
    ),
    "Phi-2": (
        {"architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_size": 2560,
         "num_hidden_layers": 32, "num_attention_heads": 32, "layer_norm_eps": 1e-5,
         "partial_rotary_factor": 0.4, "resid_pdrop": 0.1, "qk_layernorm": False},
        2560, 32, 0, "parallel", "LayerNorm",
    ),
    "BLOOM": (
        {"architectures": ["BloomForCausalLM"], "model_type": "bloom", "hidden_size": 14336,
         "n_layer": 70, "num_attention_heads": 112, "layer_norm_epsilon": 1e-5,
         "apply_residual_connection_post_layernorm": False, "hidden_dropout": 0.0},
        14336, 70, 0, "pre", "LayerNorm",
    ),
    "StableLM-2": (
        {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "hidden_size": 5120,
         "num_hidden_layers": 40, "num_attention_heads": 32, "layer_norm_eps": 1e-5,
         "use_parallel_residual": False, "qk_layernorm": True},
        5120, 40, 0, "pre", "LayerNorm",
    ),
    "DBRX": (
        {"architectures": ["DbrxForCausalLM"], "model_type": "dbrx", "d_model": 6144,
         "n_layers": 40, "n_heads": 48, "attn_config": {"clip_qkv": 8, "kv_n_heads": 8},
         "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16}, "resid_pdrop": 0.0},
        6144, 40, 0, "pre", "LayerNorm",
    ),
    "OLMo": (
        {**LLAMA_KEYS, "architectures": ["OlmoForCausalLM"], "model_type": "olmo",
         "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "clip_qkv": None},
        4096, 32, 0, "pre", "LayerNorm",
    ),
    "MPT": (
        {"architectures": ["MPTForCausalLM"], "model_type": "mpt", "d_model": 7168, "n_layers": 48,
         "n_heads": 64, "norm_type": "low_precision_layernorm", "no_bias": True,
         "attn_config": {"alibi": True, "attn_impl": "triton"}},
        7168, 48, 0, "pre", "LayerNorm",
    ),
    "Grok-1": (
        {"architectures": ["Grok1ModelForCausalLM"], "model_type": "grok-1", "hidden_size": 6144,
         "num_hidden_layers": 64, "num_attention_heads": 48, "num_experts": 8,
         "attn_output_multiplier": 0.08838, "output_multiplier_scale": 0.57735,
         "rms_norm_eps": 1e-5},
        6144, 64, 0, "sandwich", "post-norm",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "hidden", "layers", "calls", "residual", "why"), FILES.values(), ids=FILES
)
def test_files_of_models(tmp_path, data, hidden, layers, calls, residual, why):
    (tmp_path / "config.json").write_text(json.dumps(data, indent=2))
    model = llms.from_config(tmp_path / "config.json")
    assert (model.hidden_size, model.num_layers, model.calls_per_step) == (hidden, layers, calls)
    assert model.residual == residual
    assert why in model.why_none
    assert bool(model.why_none) == (calls == 0)
