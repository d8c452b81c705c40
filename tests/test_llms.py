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
        assert m.source.startswith("https://"), m.name
        assert m.evidence, m.name
        assert m.dtype in ("bf16", "fp16")
        assert m.hidden_size % 64 == 0, m.name
        assert 14 <= m.num_layers <= 128, m.name
        assert m.family, m.name
        assert m.blocks >= m.num_layers
        assert (m.op == "fused") == (not m.why_none), m.name
        assert m.heads is None or m.world_sizes, m.name


def test_the_catalogue_holds_the_models_that_people_serve():
    """The 105 with sizes of the list that the catalogue was made from, and those it had before."""
    assert len(llms.catalogue()) >= 130
    for name in ("ling-1t", "olmo-3-7b", "qwen3.8-27b", "kimi-k3", "hy4-preview", "inkling"):
        assert llms.find(name).name == name


def test_a_source_whose_address_is_not_known_is_called_that():
    named = {m.name for m in llms.catalogue() if "address not known" in m.evidence}
    assert named == {
        "mistral-small-24b", "glm-4.6", "minimax-m1", "command-r-plus", "command-a",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "world_sizes"),
    [
        ("glm-4.7-flash", (2, 4)), ("ernie-4.5-21b-a3b", (2, 4)), ("qwen2.5-7b", (2, 4)),
        ("gpt-oss-120b", (2, 4, 8)), ("deepseek-r1", None),
    ],
)  # fmt: skip
def test_world_sizes_divide_the_heads(name, world_sizes):
    assert llms.find(name).world_sizes == world_sizes


@pytest.mark.parametrize(
    ("name", "op", "calls", "blocks"),
    [
        ("nemotron-3-nano-30b-a3b", "fused", 52, 52),
        ("nemotron-h-56b", "fused", 118, 118),
        ("llama-3.3-nemotron-super-49b", "fused", 129, 129),
        ("longcat-flash-chat", "fused", 112, 112),
        ("deepseek-v4-pro", "mhc", 0, 122),
        ("glm-5.3-flash", "mhc", 0, 90),
        ("hy4-preview", "mhc", 0, 156),
        ("kimi-k3", "plain", 0, 278),
        ("olmo-3-7b", "plain", 0, 64),
        ("command-r-plus", "plain", 0, 128),
        ("minimax-m1", "plain", 0, 160),
        ("grok-2", "plain", 0, 128),
        ("inkling", "plain", 0, 132),
    ],
)
def test_what_blocks_really_run(name, op, calls, blocks):
    model = llms.find(name)
    assert (model.op, model.calls_per_step, model.blocks) == (op, calls, blocks)
    assert bool(model.why_none) == (op != "fused")


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
    "name",
    [
        "GPT-OSS-120B",
        "openai/gpt-oss-120b",
        "gpt_oss 120b",
        " gpt-oss-120b ",
        "OpenAI/GPT_OSS.120B",
    ],
)
def test_names_are_forgiving(name):
    assert llms.find(name).name == "gpt-oss-120b"


@pytest.mark.parametrize("name", ["GLM-4.6", "glm4.6", "zai-org/GLM-4.6", "glm_4_6", "GLM 4.6"])
def test_dots_hyphens_and_organisations_do_not_matter(name):
    assert llms.find(name).name == "glm-4.6"


def test_every_name_id_and_alias_finds_its_own_model():
    for m in llms.catalogue():
        for known in (m.name, m.hf_id, m.hf_id.split("/")[1], *m.aliases, m.hf_id.upper()):
            assert llms.find(known) is m, known


@pytest.mark.parametrize(
    ("name", "offered"),
    [("glm-9", "glm-5"), ("qwen4-72b", "qwen2.5-72b"), ("unsloth/gpt-oss-120b", "gpt-oss-120b"),
     ("llama-3.1-80b", "llama-3.1-8b")],
)  # fmt: skip
def test_an_unknown_name_offers_its_family(name, offered):
    with pytest.raises(InputError) as caught:
        llms.find(name)
    assert offered in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["", "/", "---", "\x1b[31m", "x" * 10_000, "gpt-oss-120b/"])
def test_no_name_at_all_is_one_short_line(name):
    with pytest.raises(InputError) as caught:
        llms.find(name)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


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
