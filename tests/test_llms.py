"""The catalogue of models, and Hugging Face configurations."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from costmodel.data import llms
from costmodel.errors import InputError


def test_the_catalogue_is_well_formed():
    models = llms.catalogue()
    assert len({m.name for m in models}) == len({m.hf_id for m in models}) == len(models)
    for m in models:
        copied = m.source.startswith("https://github.com/") and m.source.endswith(")")
        assert copied or m.source == f"https://huggingface.co/{m.hf_id}/blob/main/config.json"
        assert m.dtype in ("bf16", "fp16")
        assert m.hidden_size % 64 == 0, m.name
        assert 16 <= m.num_layers <= 128, m.name


@pytest.mark.parametrize(
    ("name", "hidden", "layers"),
    [
        ("gpt-oss-20b", 2880, 24),
        ("gpt-oss-120b", 2880, 36),
        ("deepseek-v3", 7168, 61),
        ("deepseek-r1", 7168, 61),
        ("kimi-k2", 7168, 61),
        ("llama-3.1-8b", 4096, 32),
        ("llama-3.3-70b", 8192, 80),
        ("llama-3.1-405b", 16384, 126),
        ("llama-4-maverick", 5120, 48),
        ("qwen3-235b-a22b", 4096, 94),
        ("mixtral-8x7b", 4096, 32),
        ("glm-4.6", 5120, 92),
        ("minimax-m2", 3072, 62),
    ],
)
def test_known_values(name, hidden, layers):
    model = llms.find(name)
    assert (model.hidden_size, model.num_layers) == (hidden, layers)
    assert model.calls_per_step == 2 * layers


@pytest.mark.parametrize(
    "name", ["GPT-OSS-120B", "openai/gpt-oss-120b", "gpt_oss 120b", " gpt-oss-120b "]
)
def test_names_are_forgiving(name):
    assert llms.find(name).name == "gpt-oss-120b"


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(
        InputError, match=r"'gpt-oss-12b' is not in the catalogue \(did you mean gpt-oss-120b"
    ):
        llms.find("gpt-oss-12b")


def test_hidden_dims_are_sorted_and_single():
    dims = llms.hidden_dims()
    assert dims == sorted(set(dims))
    assert {2880, 5120, 7168, 8192} <= set(dims)


def write(tmp_path, data):
    file = tmp_path / "config.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def test_from_config(tmp_path):
    plain = {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "torch_dtype": "float16",
    }
    model = llms.from_config(write(tmp_path, plain))
    assert (model.name, model.hidden_size, model.num_layers, model.dtype) == (
        "llama",
        4096,
        32,
        "fp16",
    )
    python_only = json.dumps(plain)[:-1] + ', "time_step_limit": [0.0, Infinity]}'
    assert llms.from_config(write(tmp_path, python_only)) == model
    nested = {"model_type": "llama4", "text_config": {"hidden_size": 5120, "num_hidden_layers": 48}}
    model = llms.from_config(write(tmp_path, nested))
    assert (model.hidden_size, model.num_layers, model.dtype) == (5120, 48, "bf16")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected `object`, got `array`"),
        ({"num_hidden_layers": 1}, "no 'hidden_size', neither on top nor in text_config"),
        ({"hidden_size": 4096}, "no 'num_hidden_layers'"),
        (
            {"hidden_size": "4096", "num_hidden_layers": 1},
            "hidden_size: expected `int | null`, got `str`",
        ),
        ({"hidden_size": 0, "num_hidden_layers": 1}, "hidden_size: expected `int` >= 1"),
        (
            {"hidden_size": 8, "num_hidden_layers": True},
            "num_hidden_layers: expected `int | null`, got `bool`",
        ),
    ],
)
def test_bad_configs_are_named(tmp_path, data, message):
    file = write(tmp_path, data)
    with pytest.raises(InputError, match=message) as caught:
        llms.from_config(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        llms.from_config(tmp_path / "none.json")


def test_importing_it_needs_the_standard_library_alone():
    code = (
        "import sys, costmodel.data.llms as l; l.find('gpt-oss-20b'); print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_models_without_a_fused_call_enter_no_rule():
    """LayerNorm, or a norm between the all-reduce and the residual add: the op does not apply."""
    without = {m.name for m in llms.catalogue() if not m.calls_per_step}
    assert {"gemma-2-27b", "gemma-3-27b", "command-a", "minimax-m1"} <= without
    sizes = llms.hidden_dims()
    assert {1024, 2304, 2688} <= set(sizes)
    assert not {3840, 4608, 5376} & set(sizes)
    assert llms.find("nemotron-3-nano-30b-a3b").calls_per_step == 52
    assert llms.find("gpt-oss-120b").calls_per_step == 72
