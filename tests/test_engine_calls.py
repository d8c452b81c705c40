"""Fused calls a step: what engines' own tests state, what follows by rule, what is not known."""

from __future__ import annotations

import pytest

from costmodel.data import architectures, llms
from costmodel.data.deployment import ENGINES, Deployment
from costmodel.data.engine_calls import counts, fused_calls, later, none_left
from costmodel.data.workload import captured_batch_sizes
from costmodel.errors import InputError


def calls(model, engine, **served):
    return fused_calls(llms.find(model), Deployment(engine=engine, **served))


@pytest.mark.parametrize(
    ("model", "vllm", "sglang", "atom", "aiter"),
    [
        ("gpt-oss-120b", 37, 71, 72, 72),
        ("gpt-oss-20b", 25, 47, 48, 48),
        ("llama-3.1-8b", 65, 0, 0, 64),
        ("llama-3.3-70b", 161, 0, 0, 160),
        ("qwen2.5-72b", 161, 0, None, 160),
        ("mistral-7b", 65, 0, 0, 64),
        ("qwen3-30b-a3b", 97, 95, 96, 96),
        ("qwen3-32b", 129, 64, 0, 128),
        ("llama-4-scout", 96, 48, None, 96),
        ("deepseek-v3", 123, 121, 122, 122),
        ("kimi-k2.5", 122, 121, 122, 122),
        ("glm-4.6", 185, 183, 184, 184),
        ("glm-5", 157, 155, 156, 156),
        ("minimax-m3", 120, 63, 120, 120),
        ("mimo-v2-flash", 97, 95, 0, 96),
        ("hunyuan-a13b", 65, 0, None, 64),
        ("kimi-linear-48b-a3b", 55, 0, None, 54),
        ("nemotron-3-nano-30b-a3b", 53, 0, None, 52),
        ("gemma-3-27b", 0, 0, 0, 0),
        ("command-a", 0, 0, 0, 0),
        ("deepseek-v4-pro", 0, 0, 0, 0),
        ("kimi-k3", 0, 0, 0, 0),
        ("olmo-3-7b", 0, 0, 0, 0),
    ],
)
def test_counts_by_engine(model, vllm, sglang, atom, aiter):
    wanted = dict(zip(ENGINES, (vllm, sglang, atom, aiter), strict=True))
    for engine, count in wanted.items():
        found = calls(model, engine)
        if count is None:
            assert found.at_most
            assert found.per_step == llms.find(model).blocks
            assert "is not known" in found.why
        else:
            assert (found.per_step, found.at_most) == (count, False), engine
            assert found.why
            assert found.source


def test_what_an_engines_own_test_states_is_called_so():
    assert calls("gpt-oss-120b", "vllm").evidence == "stated by the engine's own test"
    assert calls("llama-3.1-8b", "vllm").evidence == "stated by the engine's own test"
    assert calls("deepseek-v3", "vllm").evidence == "by the same rule, stated for others"
    assert calls("llama-4-scout", "vllm").evidence == "believed"


def test_without_an_engine_every_block_counts():
    assert fused_calls(llms.find("gpt-oss-120b")).per_step == 72
    assert not fused_calls(llms.find("gpt-oss-120b")).at_most


def test_every_catalogued_model_has_a_count_and_a_reason_in_every_engine():
    for model in llms.catalogue():
        for engine in ENGINES:
            found = fused_calls(model, Deployment(engine=engine))
            assert 0 <= found.per_step <= model.blocks + 1
            assert found.why
            assert found.source
            if model.why_none:
                assert (found.per_step, found.why) == (0, model.why_none)


def test_every_row_is_of_families_that_are_known():
    families = {a.family for a in architectures.catalogue().values()}
    seen = set()
    for row in counts():
        assert row.engine in ("*", *ENGINES)
        assert set(row.families) <= families | {"*"}
        for family in row.families:
            key = (row.engine, row.condition, family, row.since)
            assert key not in seen
            seen.add(key)


# Releases


def test_sglang_fuses_dense_models_since_its_layers_declare_their_stages():
    llama = llms.find("llama-3.3-70b")
    assert fused_calls(llama, Deployment("sglang", release="0.5.20")).per_step == 0
    assert fused_calls(llama, Deployment("sglang", release="0.5.23")).per_step == 159
    newer = later(llama, Deployment("sglang"))
    assert (newer.per_step, newer.release) == (159, "0.5.22")
    assert later(llama, Deployment("sglang", release="0.5.23")) is None
    assert later(llms.find("gpt-oss-120b"), Deployment("sglang")) is None


# Deployments


@pytest.mark.parametrize("engine", ["", *ENGINES])
def test_data_parallel_attention_leaves_no_call(engine):
    found = fused_calls(llms.find("deepseek-v3"), Deployment(engine=engine, dp_attention=True))
    assert found.per_step == 0
    assert found.why
    assert none_left(Deployment(engine=engine, dp_attention=True)).per_step == 0
    assert none_left(Deployment(engine=engine)) is None


@pytest.mark.parametrize(
    ("model", "engine", "how", "count"),
    [
        ("deepseek-v3", "sglang", "all-to-all", 0),
        ("deepseek-v3", "sglang", "all-reduce", 121),
        ("minimax-m3", "sglang", "all-reduce", 0),
        ("qwen3-32b", "sglang", "all-to-all", 64),  # it has no experts
        ("deepseek-v3", "vllm", "all-to-all", 123),
        ("deepseek-v3", "atom", "all-to-all", 61),
        ("gpt-oss-120b", "vllm", "all-to-all", 37),
    ],
)
def test_expert_parallelism_may_leave_fewer(model, engine, how, count):
    assert calls(model, engine, expert_parallel=how).per_step == count


def test_batches_without_options_are_the_common_ones():
    assert Deployment().batches.tolist() == captured_batch_sizes().tolist()
    assert Deployment().tokens.tolist() == captured_batch_sizes().tolist()
    assert Deployment(engine="sglang").is_common


def test_engines_take_captured_sizes_as_their_own():
    """SGLang's are sequences; vLLM's are tokens, rounded up to whole sequences."""
    sglang = Deployment("sglang", draft_tokens=3, captured=(1, 2, 8))
    assert (sglang.batches.tolist(), sglang.tokens.tolist()) == ([1, 2, 8], [4, 8, 32])
    vllm = Deployment("vllm", draft_tokens=2, captured=(1, 2, 4, 8, 16))
    assert (vllm.batches.tolist(), vllm.tokens.tolist()) == ([1, 2, 3], [3, 6, 9])


def test_counts_are_said_as_a_formula():
    said = {(c.per_layer, c.per_block, c.constant): c.formula() for c in counts()}
    assert said[0, 1, 1] == "blocks + 1"
    assert said[0, 1, -1] == "blocks - 1"
    assert said[1, 0, 3] == "layers + 3"
    assert said[2, 0, 0] == "2 layers"
    assert said[0, 0, 0] == "0"


def test_sglangs_own_list_is_denser_with_speculation():
    plain = Deployment("sglang", own_captured=True).batches.tolist()
    assert plain[:8] == [1, 2, 4, 8, 12, 16, 24, 32]
    drafted = Deployment("sglang", own_captured=True, draft_tokens=3)
    assert drafted.batches.tolist()[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]
    assert drafted.tokens.tolist()[:3] == [4, 8, 12]


def test_batches_are_padded_up():
    served = Deployment(captured=(1, 8, 32))
    assert [served.padded(n) for n in (1, 2, 8, 9, 32, 33, 0)] == [1, 8, 8, 32, 32, None, None]


@pytest.mark.parametrize(
    "wrong",
    [{"engine": "trt"}, {"draft_tokens": -1}, {"draft_tokens": 10**9}, {"captured": (0,)},
     {"captured": (1 << 40,)}, {"step_ms": 0.0}, {"step_ms": float("inf")},
     {"expert_parallel": "x"}],
)  # fmt: skip
def test_what_no_deployment_can_be_is_refused(wrong):
    with pytest.raises(InputError):
        Deployment(**wrong)
