"""What holds for every question: of units, of rules, of files that are read back, of odd sizes."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

import costmodel as cm
from costmodel.data import kernels, measurement
from costmodel.data.workload import Workload
from costmodel.errors import InputError
from costmodel.model.choose import for_fabric
from costmodel.model.latency import LinkCosts
from costmodel.model.shared_gpu import SharedGpuCosts, SharedGpuModel
from costmodel.rules import catalogue
from costmodel.units import PACK_BYTES

ARMS = ("1stage", "2stage")
SIZES = st.sampled_from((512, 1024, 2048, 2880, 4096, 5120, 7168, 8192))


@cache
def setting(gpu="MI355X", **more):
    return cm.Setting.shipped(gpu, **more)


@cache
def decision(gpu="MI355X", **more):
    return cm.recommend(setting(gpu, **more))


# Units -------------------------------------------------------------------------------------------


def scaled(record, factors):
    """Return a record of costs or geometry with each field multiplied by what its unit says."""
    changes = {}
    for field in structs.fields(record):
        held = getattr(record, field.name)
        if isinstance(held, tuple):
            changes[field.name] = tuple(scaled(part, factors) for part in held)
        elif isinstance(held, Struct):
            changes[field.name] = scaled(held, factors)
        else:
            for unit, factor in factors.items():
                if unit in field.name and held is not None:
                    changes[field.name] = np.asarray(held) * factor
    return structs.replace(record, **changes)


def costs_of(kind, draw):
    """Return costs of any size: times, rates, efficiencies below 1."""
    values = {}
    for field in structs.fields(kind):
        low, high = (1.0, 5000.0) if "_gbps" in field.name else (0.05, 20.0)
        low, high = (1e5, 1e8) if "_bytes" in field.name else (low, high)
        low, high = (0.3, 1.0) if "efficiency" in field.name else (low, high)
        values[field.name] = draw(st.floats(low, high))
    return kind(**values)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_times_in_another_unit_give_latencies_in_that_unit(data):
    """Every formula, dimensionally: with times in ns and rates in bytes per ns, terms are in ns.

    And with bytes counted in another unit, in geometry, caches and rates alike, they are the same.
    """
    one_gpu = data.draw(st.booleans())
    model = SharedGpuModel() if one_gpu else for_fabric("full_mesh")
    family = kernels.calibrated("costmodel") if one_gpu else kernels.aiter()
    n = data.draw(st.sampled_from((2, 4, 8)))
    algorithm = data.draw(st.sampled_from(ARMS))
    op = data.draw(st.sampled_from(("fused_ar_rmsnorm", "all_reduce", "ar_then_rmsnorm")))
    if one_gpu and op == "ar_then_rmsnorm":
        op = "fused_ar_rmsnorm"
    tokens = data.draw(st.lists(st.integers(1, 512), min_size=1, max_size=4))
    shapes = cm.Shapes.of(tokens, data.draw(SIZES), n, op=op)
    geometry = model.geometry(shapes, algorithm, family, "sm_90" if one_gpu else "gfx950")
    costs = costs_of(SharedGpuCosts if one_gpu else LinkCosts, data.draw)
    if not one_gpu:  # the floor is stated at a number of bytes of its own
        costs = structs.replace(costs, read_floor_growth=0.0)
    before = model.terms(geometry, costs)
    in_ns = model.terms(geometry, scaled(costs, {"_us": 1e3, "_gbps": 1e-3}))
    assert list(in_ns) == list(before)
    for name, us in before.items():
        np.testing.assert_allclose(in_ns[name], 1e3 * np.asarray(us), rtol=1e-9, err_msg=name)
    in_words = model.terms(
        scaled(geometry, {"_bytes": 0.25}), scaled(costs, {"_gbps": 0.25, "_bytes": 0.25})
    )
    for name, us in before.items():
        np.testing.assert_allclose(in_words[name], us, rtol=1e-9, err_msg=name)


# Rules -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(("MI300X", "MI308X", "MI355X")), SIZES, st.sampled_from((2, 4, 8)),
    st.sampled_from(("", "sglang", "vllm", "aiter")),
)  # fmt: skip
def test_a_recommended_rule_is_monotone_and_exact_at_its_cutoff(gpu, hidden, n, engine):
    rule = decision(gpu, **({"engine": engine} if engine else {})).rule
    if n not in rule.world_sizes:
        return
    tokens = np.arange(1, 1025)
    shapes = cm.Shapes.of(tokens, hidden, n)
    one = rule.use_1stage(shapes, kernel_version=kernels.LATEST)
    assert not (one[1:] & ~one[:-1]).any(), "a larger call is 1-stage and a smaller one is not"
    cutoff = rule.cutoff_bytes(n)
    if cutoff is not None and one.any():
        comparison, limit = cutoff
        inside = shapes.bytes <= limit if comparison == "<=" else shapes.bytes < limit
        assert not (one & ~inside).any(), "1-stage beyond the cutoff"
        if not engine:  # an engine's guards may ask for less
            assert (one == (inside & setting(gpu).takes(shapes, "1stage"))).all()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(("0.1.4", "0.1.9", "0.1.16", "0.1.17", "0.1.20", kernels.LATEST)),
    st.sampled_from(("sglang", "vllm", "aiter")), st.integers(1, 600),
    st.sampled_from((64, 1000, 1024, 2880, 2881, 4096, 6144, 7168, 8192, 8200, 12288)),
    st.sampled_from((2, 4, 8)), st.sampled_from(("bf16", "fp16", "fp32")),
)  # fmt: skip
def test_a_rule_for_an_engine_never_asks_for_a_kernel_that_does_not_take_the_call(
    version, engine, tokens, hidden, n, dtype
):
    try:
        rule = decision("MI355X", engine=engine, aiter_version=version).rule
    except InputError as error:
        assert "\n" not in str(error)  # that version has no 1-stage kernel to choose
        return
    if n not in rule.world_sizes:
        return
    shapes = cm.Shapes.of(tokens, hidden, n, dtype=dtype)
    packs = hidden * shapes.element_bytes / PACK_BYTES
    if packs % 1 or packs > kernels.aiter(version).fused_1stage_max_packs:
        return  # what every engine checks before it asks its rule
    if rule.use_1stage(shapes, kernel_version=version).all():
        asked = cm.Setting.shipped("MI355X", aiter_version=version, dtype=dtype)
        assert asked.takes(shapes, "1stage").all()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([r.name for r in catalogue.catalogue()]), st.sampled_from((2, 4, 8)),
    st.lists(st.tuples(st.integers(1, 600), SIZES), min_size=1, max_size=6),
)  # fmt: skip
def test_every_rank_decides_alike_whatever_calls_stand_beside(name, n, calls):
    """A rule looks at the call alone: no order, no other call and no state changes it."""
    rule = catalogue.named(name)
    if n not in rule.world_sizes:
        return
    tokens, hidden = np.array(calls).T
    together = rule.use_1stage(cm.Shapes.of(tokens, hidden, n), kernel_version="0.1.20")
    for i in reversed(range(len(calls))):
        alone = cm.Shapes.of(tokens[i], hidden[i], n)
        for _ in range(2):
            assert bool(rule.use_1stage(alone, kernel_version="0.1.20")) == together[i]


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_a_calibration_is_written_as_it_was_read_bit_by_bit(arch, tmp_path):
    first = cm.shipped(arch)
    first.save(tmp_path / "a.json")
    again = cm.load(tmp_path / "a.json")
    again.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert again.mean.tobytes() == first.mean.tobytes()


def test_measurements_are_written_as_they_were_read_bit_by_bit(published, tmp_path):
    published.write(tmp_path / "a.csv")
    measurement.read(tmp_path / "a.csv").write(tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


LATENCY = st.floats(0.01, 1e6).filter(lambda us: us > 0)


@settings(max_examples=60, deadline=None)
@given(LATENCY)
def test_a_latency_of_any_value_comes_back_as_it_is(row_us):
    from conftest import ROW

    table = cm.Measurements.from_rows([{**ROW, "latency_us": row_us}])
    again = cm.Measurements.from_rows(table.to_rows())
    assert again.latency_us.tobytes() == table.latency_us.tobytes() == np.float64(row_us).tobytes()


def test_rules_and_plans_are_written_as_they_were_read(tmp_path):
    path = tmp_path / "rule.json"
    for rule in (*catalogue.catalogue(), decision().rule, decision(engine="vllm").rule):
        path.write_text(json.dumps(rule.to_json()))
        again = catalogue.load(path)
        assert again == rule
        assert json.dumps(again.to_json()) == path.read_text()
    for fabric in ("", "nvlink"):  # an empty field is not the usual one
        rule = cm.Rule.from_cutoffs("mine", {8: 131072}, fabric=fabric)
        path.write_text(json.dumps(rule.to_json()))
        assert catalogue.load(path) == rule


# Odd sizes and numbers ---------------------------------------------------------------------------


def test_a_prediction_has_a_row_for_each_shape_whatever_form_they_have():
    for tokens, hidden in ((8, 4096), ([8], 4096), ([[8], [16]], [4096, 7168]), ([], 4096)):
        shapes = setting().shapes(tokens, hidden, 8)
        rows = cm.predict(setting(), shapes, "1stage").to_rows()
        assert [r["tokens"] for r in rows] == shapes.tokens.ravel().tolist()
        assert [r["hidden_dim"] for r in rows] == shapes.hidden_dim.ravel().tolist()


def test_a_call_is_explained_where_no_captured_batch_of_its_hidden_size_has_a_choice():
    found = cm.explain(setting("MI355X", op="plain"), setting().shapes(1, 8, 8))
    assert found.choice in (*ARMS, "separate")


@pytest.mark.parametrize(
    ("cutoffs", "more", "says"),
    [
        ({8: 1.5}, {}, "bytes: '1.5' is not a whole number"),
        ({8: float("nan")}, {}, "not a whole number"),
        ({8: 2**63}, {}, "beyond 2\\^52"),
        ({8: True}, {}, "not a whole number"),
        ({8.5: 1}, {}, "world_size: '8.5' is not a whole number"),
        ({8: 1}, {"hidden_dims": [1.5]}, "hidden_dim must be whole numbers"),
        ({8: 1}, {"hidden_dims": [2**40]}, "hidden_dim goes up to"),
    ],
)
def test_a_rule_holds_whole_numbers(cutoffs, more, says):
    with pytest.raises(InputError, match=says):
        cm.Rule.from_cutoffs("mine", cutoffs, **more)


def test_a_rule_asks_for_dtypes_that_there_are():
    from costmodel.rules.condition import Member

    with pytest.raises(InputError, match="asks for dtype 'fp7', which is none"):
        Member("dtype", ("bf16", "fp7"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (([2**63],), "hidden_dim"),
        (([7168], [0]), "tokens must be 1 or more"),
        (([7168], [1.5]), "tokens must be whole numbers"),
        (([7168], [1, 2], [1.0]), "1 weights for 2 token counts"),
        (([7168], [1, 2], [1.0, 1.0, 1.0]), "3 weights for 2 token counts"),
        (([7168], [1, 2], [1.0, -1.0]), "token weights must be"),
        (([7168], [1, 2], [float("inf"), 1.0]), "token weights must be"),
        (([7168], [1, 2], [0.0, 0.0]), "token weights must be"),
        (([7168], [1, 2], [float("nan"), 1.0]), "token weights must be"),
        (([],), "at least one"),
    ],
)
def test_a_workload_of_calls_that_nobody_makes_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        Workload.of(*given)


@pytest.mark.parametrize(
    ("kind", "scale", "says"),
    [
        ("normal", float("nan"), "SIGMA must be a number of us"),
        ("uniform", -1.0, "WIDTH must be"),
        ("exponential", 1e308, "MEAN must be a number of us, 0 or more, 1e\\+09 at most"),
        ("norml", 1.0, "unknown skew 'norml' .did you mean normal"),
    ],
)
def test_a_skew_that_no_rank_has_is_refused(kind, scale, says):
    with pytest.raises(InputError, match=says):
        cm.Skew(kind, scale)
