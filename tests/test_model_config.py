"""Hugging Face configurations of every kind: sizes, layers, blocks, and what blocks end in."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from command import costmodel
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.data import architectures, llms, residual_keys
from costmodel.errors import InputError

CASES = Path(__file__).resolve().parent / "cases" / "configs"


def config(tmp_path, data, name="config.json"):
    file = tmp_path / name
    file.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return llms.from_config(file)


def llama(**more):
    return {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, **more}


# The cases that users came with


def test_one_block_a_layer():
    model = llms.from_config(CASES / "one-block-per-layer.json")
    assert (model.hidden_size, model.num_layers, model.blocks, model.calls_per_step) == (
        2688,
        6,
        6,
        6,
    )


def test_hyper_connections_make_no_fused_norm_call_but_mhc():
    model = llms.from_config(CASES / "hyper-connections.json")
    assert (model.calls_per_step, model.op, model.blocks) == (0, "mhc", 122)
    assert "hyper-connections" in model.why_none


def test_a_private_path_is_never_taken_for_a_name():
    model = llms.from_config(CASES / "private-path.json")
    assert "someone" not in repr(model)
    assert (model.name, model.calls_per_step) == ("private-path", 160)


def test_layernorm_and_scaled_residual_make_no_fused_call():
    norm = llms.from_config(CASES / "layernorm.json")
    assert (norm.calls_per_step, norm.norm, norm.dtype) == (0, "LayerNorm", "fp16")
    assert "LayerNorm, not RMSNorm" in norm.why_none
    scaled = llms.from_config(CASES / "scaled-residual.json")
    assert (scaled.calls_per_step, scaled.op) == (0, "plain")
    assert "scaled residual" in scaled.why_none


# Sizes under any part


@pytest.mark.parametrize(
    "keys",
    [
        ("text_config",), ("llm_config",), ("language_config",), ("thinker_config",),
        ("thinker_config", "text_config"), ("language_model",), ("model", "text_config"),
        ("thinker_config", "llm_config", "text_config"), ("somebody_else_s_name",),
    ],
)  # fmt: skip
def test_sizes_may_stand_under_any_part(tmp_path, keys):
    inner = {"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48}
    data = inner
    for key in reversed(keys):
        data = {key: data}
    data["vision_config"] = {"hidden_size": 1280, "num_hidden_layers": 32}
    data["audio_config"] = {"d_model": 1024, "encoder_layers": 24, "num_hidden_layers": 24}
    data["talker_config"] = {"text_config": {"hidden_size": 1024, "num_hidden_layers": 20}}
    data["torch_dtype"] = "float16"
    model = config(tmp_path, data)
    assert (model.hidden_size, model.num_layers, model.family) == (2048, 48, "qwen3_moe")
    assert model.dtype == "fp16"


def test_a_hidden_size_on_top_without_layers_is_that_of_another_part(tmp_path):
    data = {"model_type": "kimi_k25", "hidden_size": 1152,
            "text_config": {"model_type": "kimi_k2", "hidden_size": 7168, "num_hidden_layers": 61}}  # fmt: skip
    assert config(tmp_path, data).hidden_size == 7168


def test_an_encoder_with_a_decoder_is_refused_in_words(tmp_path):
    data = {"model_type": "t5", "d_model": 1024, "num_layers": 24, "is_encoder_decoder": True}
    with pytest.raises(InputError, match="an encoder with a decoder, whose blocks make no fused"):
        config(tmp_path, data)


def test_vision_alone_is_no_language_model(tmp_path):
    with pytest.raises(InputError, match="no 'hidden_size', neither on top nor in text_config"):
        config(tmp_path, {"vision_config": {"hidden_size": 1280, "num_hidden_layers": 32}})


@pytest.mark.parametrize(
    ("data", "sizes"),
    [
        ({"d_model": 4096, "n_layers": 30}, (4096, 30)),
        ({"n_embd": 4096, "n_layer": 30}, (4096, 30)),
        ({"n_embed": 4096, "n_layer": 30}, (4096, 30)),
        ({"dim": 4096, "hidden_dim": 14336, "n_layers": 30, "n_heads": 32}, (4096, 30)),
        ({"model_dim": 2048, "num_transformer_layers": 28}, (2048, 28)),
    ],
)
def test_sizes_have_several_names(tmp_path, data, sizes):
    model = config(tmp_path, data)
    assert (model.hidden_size, model.num_layers) == sizes


# Layers as lists


@pytest.mark.parametrize(
    ("more", "layers", "calls"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"] * 4}, 8, 16),
        ({"layer_types": ["linear_attention"] * 3 + ["full_attention"]}, 4, 8),
        ({"layers": [{"type": "attention"}, {"type": "mlp"}, {"type": "mamba"}]}, 3, 3),
        ({"num_hidden_layers": [1, 2, 3]}, 3, 6),
        ({"layers_block_type": ["mamba", "moe", "attention", "moe"]}, 4, 4),
        ({"layers_block_type": ["mamba", "attention"] * 3}, 6, 12),
        ({"hybrid_override_pattern": "M-M*-"}, 5, 5),
        ({"hybrid_override_pattern": "MEM|*E/MTP"}, 5, 5),
        ({"hybrid_layer_pattern": [0, 1, 1, 0]}, 4, 8),
        ({"num_hidden_layers": 45, "layer_types": ["full_attention"] * 48}, 45, 90),
        ({"num_hidden_layers": 9, "block_types": ["recurrent", "recurrent", "attention"]}, 9, 18),
    ],
)  # fmt: skip
def test_layers_given_as_a_list_are_counted(tmp_path, more, layers, calls):
    model = config(tmp_path, {"hidden_size": 4096, "rms_norm_eps": 1e-5, **more})
    assert (model.num_layers, model.calls_per_step) == (layers, calls)


def test_layers_without_attention_count_their_mlp_alone(tmp_path):
    """As Llama-3.3-Nemotron-Super-49B: 49 of 80 layers have attention."""
    blocks = [
        {"attention": {"no_op": i < 31, "replace_with_linear": False}, "ffn": {"no_op": False}}
        for i in range(80)
    ]
    data = {"model_type": "nemotron-nas", "hidden_size": 8192, "num_hidden_layers": 80,
            "num_attention_heads": 64, "block_configs": blocks}  # fmt: skip
    model = config(tmp_path, data)
    assert (model.calls_per_step, model.family) == (129, "nemotron-nas")
    assert model.calls_per_step == llms.find("llama-3.3-nemotron-super-49b").calls_per_step


@pytest.mark.parametrize(
    ("sizes", "layers"),
    [({"num_layers": 28}, 28), ({"num_layers": 28, "num_hidden_layers": 56}, 28),
     ({"num_hidden_layers": 56}, 28)],
)  # fmt: skip
def test_longcat_has_four_blocks_in_each_of_num_layers(tmp_path, sizes, layers):
    model = config(tmp_path, {"model_type": "longcat_flash", "hidden_size": 6144, **sizes})
    assert (model.num_layers, model.calls_per_step) == (layers, 4 * layers)


def test_nemotron_without_a_number_of_layers(tmp_path):
    """Nemotron-3-Ultra's file has no num_hidden_layers; the list of blocks has 108 entries."""
    kinds = ["mamba"] * 48 + ["attention"] * 12 + ["moe"] * 48
    data = {"model_type": "nemotron_h", "hidden_size": 8192, "layers_block_type": kinds}
    assert config(tmp_path, data).calls_per_step == 108


# What blocks end in


@pytest.mark.parametrize(
    ("data", "residual", "said"),
    [
        ({"model_type": "gemma2"}, "sandwich", "before and after"),
        ({"model_type": "gemma3_text"}, "sandwich", "post-norm"),
        ({"model_type": "glm4"}, "sandwich", "post-norm"),
        ({"model_type": "olmo2"}, "post", "post-norm"),
        ({"model_type": "exaone4"}, "post", "post-norm"),
        ({"model_type": "cohere2"}, "parallel", "LayerNorm"),
        ({"model_type": "falcon"}, "parallel", "LayerNorm"),
        ({"model_type": "gptj"}, "parallel", "in parallel"),
        ({"model_type": "gpt_neox", "use_parallel_residual": True}, "parallel", "in parallel"),
        ({"model_type": "gpt_neox", "use_parallel_residual": False}, "pre", "LayerNorm"),
        ({"model_type": "starcoder2"}, "pre", "LayerNorm"),
        ({"model_type": "granite", "residual_multiplier": 0.22}, "scaled", "scaled residual"),
        ({"model_type": "minicpm", "scale_depth": 1.4}, "scaled", "scaled residual"),
        ({"model_type": "minimax", "mlp_alpha_factor": 3.5}, "scaled", "scaled residual"),
        ({"model_type": "minimax", "mlp_alpha_factor": 1}, "scaled", "scaled residual"),
        ({"model_type": "kimi_k3", "attn_res_block_size": 12}, "attention_residuals", "attention"),
        ({"model_type": "hy_v4", "enable_ihc": True, "hc_mult": 4}, "streams", "hyper"),
        ({"model_type": "inkling"}, "convolved", "convolution"),
        ({"architectures": ["Gemma2ForCausalLM"]}, "sandwich", "post-norm"),
        ({"architectures": ["DeepseekV4ForCausalLM"]}, "streams", "hyper"),
        # Keys say it whatever the architecture.
        ({"model_type": "new", "hc_mult": 4}, "streams", "hyper"),
        ({"model_type": "new", "use_hyper_connections": True}, "streams", "hyper"),
        ({"model_type": "new", "num_residual_streams": 4}, "streams", "hyper"),
        ({"model_type": "new", "attn_res_block_size": 8}, "attention_residuals", "attention"),
        ({"model_type": "new", "sandwich_norm": True}, "sandwich", "post-norm"),
        ({"model_type": "new", "norm_position": "post"}, "post", "post-norm"),
        ({"model_type": "new", "pre_norm": False}, "post", "post-norm"),
        ({"model_type": "new", "parallel_attn": True}, "parallel", "in parallel"),
        ({"model_type": "new", "transformer_block_type": "parallel"}, "parallel", "in parallel"),
        ({"model_type": "new", "residual_scale": 0.5}, "scaled", "scaled residual"),
        ({"model_type": "new", "use_deepnorm": True}, "scaled", "scaled residual"),
        ({"model_type": "new", "layer_norm_epsilon": 1e-5}, "pre", "LayerNorm"),
        ({"model_type": "new", "norm_type": "layer_norm"}, "pre", "LayerNorm"),
        ({"model_type": "new", "use_rms_norm": False}, "pre", "LayerNorm"),
        ({"model_type": "llama", "normalization": "LayerNorm"}, "pre", "LayerNorm"),
    ],
)
def test_where_no_fused_call_is_made_words_say_why(tmp_path, data, residual, said):
    model = config(tmp_path, {"hidden_size": 4096, "num_hidden_layers": 32, **data})
    assert (model.residual, model.calls_per_step) == (residual, 0)
    assert said in model.why_none
    assert model.blocks == 64


@pytest.mark.parametrize(
    "data",
    [
        {"model_type": "llama"}, {"model_type": "mistral"}, {"model_type": "qwen3_5_text"},
        {"model_type": "gemma"}, {"model_type": "glm4_moe"}, {"model_type": "jamba"},
        {"model_type": "granite", "residual_multiplier": 1.0},
        {"model_type": "hyperclovax", "use_post_norm": False},
        {"model_type": "hy_v4", "enable_ihc": False},
        {"model_type": "llama", "attention_dropout": 0.1, "resid_pdrop": 0.1, "hc_eps": 1e-6},
        {"model_type": "llama", "hc_mult": 1, "residual_dropout": 0.2, "residual_in_fp32": True},
        {"model_type": "minimax_m3", "use_gemma_norm": True},
        {"architectures": ["LlamaForCausalLM"]},
        {"model_type": "new", "rms_norm_eps": 1e-5, "layer_norm_eps": 1e-5},
        {"model_type": "new", "norm_type": "rmsnorm"},
    ],
)  # fmt: skip
def test_pre_norm_with_rmsnorm_makes_the_fused_call(tmp_path, data):
    model = config(tmp_path, {"hidden_size": 4096, "num_hidden_layers": 32, **data})
    assert (model.residual, model.op, model.calls_per_step) == ("pre", "fused", 64)


def test_what_a_silent_file_is_taken_for_is_said(tmp_path):
    bare = config(tmp_path, {"hidden_size": 7168, "num_hidden_layers": 10})
    assert (bare.calls_per_step, bare.note) == (
        20, "the architecture is not known: pre-norm RMSNorm is taken",
    )  # fmt: skip
    normed = config(tmp_path, {"hidden_size": 7168, "num_hidden_layers": 10, "rms_norm_eps": 1e-5})
    assert "added plainly" in normed.note
    assert config(tmp_path, llama()).note == ""


@pytest.mark.parametrize(
    ("data", "experts"),
    [
        ({"model_type": "qwen3_moe"}, True), (llama(), False), (llama(num_local_experts=8), True),
        (llama(n_routed_experts=64), True), ({"model_type": "qwen3_moe", "num_experts": 0}, False),
    ],
)  # fmt: skip
def test_experts_are_known(tmp_path, data, experts):
    sized = {"hidden_size": 2048, "num_hidden_layers": 4, **data}
    assert config(tmp_path, sized).experts is experts


# Names, dtypes, and what is refused


@pytest.mark.parametrize(
    ("data", "file", "name"),
    [
        (llama(_name_or_path="/home/a/secret"), "config.json", "llama"),
        (llama(_name_or_path="org/model"), "Qwen3-8B.json", "Qwen3-8B"),
        ({"hidden_size": 8, "num_hidden_layers": 1, "architectures": ["NewForCausalLM"]},
         "config.json", "NewForCausalLM"),
        ({"hidden_size": 8, "num_hidden_layers": 1}, "config.json", "config"),
        (llama(model_type="a\x1b[31m\nb"), "config.json", "a\\x1b[31m b"),
        (llama(model_type="x" * 500), "config.json", "x" * 60),
    ],
)  # fmt: skip
def test_a_name_is_that_of_file_type_or_class(tmp_path, data, file, name):
    assert config(tmp_path, data, file).name == name


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (llama(num_hidden_layers=10**400), "num_hidden_layers: expected `int` <="),
        (llama(hidden_size=-3), "hidden_size: expected `int` >= 1"),
        (llama(hidden_size=4096.5), "hidden_size: expected `int | null`, got `float`"),
        (llama(hidden_size=[1]), "hidden_size: expected `int | null`, got `array`"),
        (llama(num_hidden_layers={}), "num_hidden_layers: expected `int | null`, got `object`"),
        (llama(num_hidden_layers=[]), "num_hidden_layers: expected `int` >= 1"),
        ('{"hidden_size": 1' + "0" * 5000 + "}", "too many digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text_config": ' * 50_000, "nested too deeply"),
        ("null", "expected `object`, got `null`"),
        ("", "not JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(tmp_path, data, said):
    with pytest.raises(InputError) as caught:
        config(tmp_path, data)
    message = str(caught.value)
    assert said in message
    assert len(message) < 500
    assert "\n" not in message


# Whatever the JSON

KEYS = sorted(
    {
        "hidden_size", "num_hidden_layers", "num_layers", "model_type", "architectures", "layers",
        "text_config", "thinker_config", "block_configs", "layer_types", "layers_block_type",
        "hybrid_override_pattern", "torch_dtype", "dtype", "num_attention_heads", "norm_type",
        "hc_mult", "residual_multiplier", "attention", "ffn", "no_op", "cross_attention_layers",
        "num_experts", "_name_or_path", "sandwich_norm", "parallel_attn", "vision_config",
        "postnorm", "scale_depth", "block_type", "norm_position", "attn_res_block_size",
    }
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["llama", "longcat_flash", "nemotron_h", "gemma2", "M-*E", "bfloat16", "post"]),
    st.integers(1, 9000),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda v: st.one_of(
        st.lists(v, max_size=5),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), v, max_size=6),
    ),
    max_leaves=25,
)


def read_or_refused(file):
    """Read a file: a model with sound numbers, or one line that a person can use."""
    try:
        model = llms.from_config(file)
    except InputError as error:
        assert len(str(error)) < 600 + len(str(file))
        return
    assert model.hidden_size >= 1
    assert 0 <= model.calls_per_step <= model.blocks
    assert model.name.isprintable()
    assert len(model.name) <= 60
    assert model.note.isprintable()
    (model.name + model.note + model.why_none).encode()


@pytest.mark.campaign
@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5)), VALUES, max_size=9))
def test_any_json_is_read_or_refused(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(data))
    read_or_refused(file)


@pytest.mark.campaign
def test_mutated_files_are_read_or_refused_in_time(tmp_path):
    """Seeded mutations of real configurations: bytes swapped, cut, doubled, values exchanged."""
    rng = random.Random(12)
    samples = [f.read_text() for f in sorted(CASES.iterdir())]
    samples.append(json.dumps({"thinker_config": {"text_config": llama()}, "a": [1e9, -0.0]}))
    file = tmp_path / "config.json"
    for _ in range(400):
        text = bytearray(rng.choice(samples).encode())
        for _ in range(rng.randint(1, 6)):
            at, kind = rng.randrange(len(text)), rng.randrange(4)
            if kind == 0:
                text[at] = rng.randrange(256)
            elif kind == 1:
                del text[at : at + rng.randint(1, 9)]
            elif kind == 2:
                text[at:at] = text[at : at + rng.randint(1, 40)] * rng.randint(1, 30)
            else:
                text[at:at] = rng.choice([b"[", b"{", b"1e999", b"\\ud800", b"null", b"99" * 300])
            if not text:
                text = bytearray(b"{}")
        file.write_bytes(text)
        read_or_refused(file)


def test_the_command_prints_no_traceback_and_no_control_character(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(llama(model_type="\x1b]0;owned\x07\ud800", _name_or_path="/home/a/b"))
    )
    done = costmodel("worth", "--config", file, "--tp", "8", "--from", "vllm", "--gpu", "MI355X")
    assert done.returncode == 0, done.stderr
    assert not {"\x1b", "\x07"} & set(done.stdout + done.stderr)
    assert "/home/a/b" not in done.stdout + done.stderr


# The tables behind it


def test_every_architecture_has_a_known_place_of_its_norm_and_a_source():
    places = {"pre", *architectures.BETWEEN}
    for found in architectures.catalogue().values():
        assert found.residual in places
        assert found.norm
        assert found.source
        assert found.blocks_per_layer in (1, 2, 4)
        assert found.op == "fused" or architectures.why_not_fused(found.norm, found.residual)


def test_no_two_model_types_are_one_name():
    keys = [architectures._key(t) for t in architectures.catalogue()]
    assert len(set(keys)) == len(keys)


def test_keys_are_read_the_same_in_any_order():
    data = {"hc_mult": 4, "residual_multiplier": 0.2, "sandwich_norm": True}
    backwards = dict(reversed(data.items()))
    assert residual_keys.said(data, None) == residual_keys.said(backwards, None)
