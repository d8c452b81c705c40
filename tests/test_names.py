"""Spellings that people use for dtypes, ops, algorithms and GPUs."""

from __future__ import annotations

import pytest

from costmodel.data import hardware
from costmodel.decide.prediction import predict
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.shape import (
    ALL_REDUCE,
    FUSED,
    ONE_STAGE,
    SEPARATE,
    TWO_STAGE,
    Shapes,
    read_algorithm,
    read_op,
)
from costmodel.simulation.study import Study
from costmodel.units import dtype_name, read_dtype


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("bf16", "bf16"), ("bfloat16", "bf16"), ("torch.bfloat16", "bf16"), ("BFloat16", "bf16"),
        ("fp16", "fp16"), ("float16", "fp16"), ("half", "fp16"), ("torch.half", "fp16"),
        ("fp32", "fp32"), ("float32", "fp32"), ("torch.float32", "fp32"), ("float", "fp32"),
    ],
)  # fmt: skip
def test_dtypes(name, dtype):
    assert read_dtype(name) == dtype
    assert Shapes.of(8, 4096, 4, dtype=name).dtype == dtype


def test_a_torch_dtype_is_taken_for_its_name():
    torch = pytest.importorskip("torch")
    assert read_dtype(torch.bfloat16) == "bf16"
    assert dtype_name(torch.int8) is None


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("fused", FUSED), ("fused_ar_rmsnorm", FUSED), ("Fused-AR-RMSNorm", FUSED),
        ("plain", ALL_REDUCE), ("allreduce", ALL_REDUCE), ("all-reduce", ALL_REDUCE),
        ("separate", SEPARATE), ("ar_then_rmsnorm", SEPARATE), ("unfused", SEPARATE),
    ],
)  # fmt: skip
def test_ops(name, op):
    assert read_op(name) == op
    assert Shapes.of(8, 4096, 4, op=name).op == op


@pytest.mark.parametrize(
    ("names", "algorithm"),
    [
        (["1stage", "1-stage", "one-stage", "one_stage", "1 Stage", "1"], ONE_STAGE),
        (["2stage", "2-stage", "two-stage", "two_stage", "2-STAGE", "2shot"], TWO_STAGE),
    ],
)
def test_algorithms(names, algorithm):
    assert {read_algorithm(name) for name in names} == {algorithm}


@pytest.mark.parametrize(
    ("read", "name", "says"),
    [
        (read_dtype, "bf61", "did you mean bf16"),
        (read_dtype, "fp8", "unknown dtype 'fp8'"),
        (read_op, "fusd", "did you mean fused"),
        (read_op, "reduce_scatter", "unknown op"),
        (read_algorithm, "3stage", "1stage or 2stage"),
        (read_algorithm, "auto", "unknown algorithm"),
        (read_algorithm, "11stage", "unknown algorithm"),
    ],
)
def test_other_names_are_refused_with_the_right_ones(read, name, says):
    with pytest.raises(InputError, match=says):
        read(name)


@pytest.mark.parametrize(
    ("arch", "gpu", "chosen"),
    [
        ("gfx942", None, ("gfx942", "MI300X")),
        ("GFX950", None, ("gfx950", "MI355X")),
        (None, "mi308x", ("gfx942", "MI308X")),
        ("mi300x", None, ("gfx942", "MI300X")),
        ("MI350X", None, ("gfx950", "MI350X")),
        (None, "gfx950", ("gfx950", "MI355X")),
        ("MI308X", "gfx942", ("gfx942", "MI308X")),
        ("gfx942", "Mi325x", ("gfx942", "MI325X")),
        ("mi325x", "MI325X", ("gfx942", "MI325X")),
        (None, "AMD Instinct MI355X", ("gfx950", "MI355X")),
    ],
)
def test_targets(arch, gpu, chosen):
    assert hardware.choose(arch, gpu) == chosen


@pytest.mark.parametrize(
    ("arch", "gpu", "says"),
    [
        (None, None, "give --arch"),
        ("gfx90a", None, "unknown arch 'gfx90a'"),
        ("mi300", None, "did you mean MI300X"),
        (None, "MI35X", "did you mean MI35"),
        ("gfx942", "mi355x", "MI355X is gfx950, not gfx942"),
        ("mi300x", "mi308x", "contradict"),
        ("gfx950", "mi350p", "MI350P is gfx950 over PCIe, without xGMI"),
        ("MI350P", None, "MI350P is gfx950 over PCIe, without xGMI"),
        ("gfx942", "gfx950", "contradict"),
    ],
)
def test_targets_that_cannot_be(arch, gpu, says):
    with pytest.raises(InputError, match=says):
        hardware.choose(arch, gpu)


def test_a_list_of_ones_own_needs_no_name_and_takes_its_first():
    known = [("sm_90", "H200"), ("gfx942", "MI300X")]
    assert hardware.choose(None, None, known) == ("sm_90", "H200")
    assert hardware.choose("h200", None, known) == ("sm_90", "H200")
    assert hardware.choose("GFX942", None, known) == ("gfx942", "MI300X")
    with pytest.raises(InputError, match="known: H200, MI300X"):
        hardware.choose(None, "MI355X", known)


@pytest.fixture(scope="module")
def setting():
    return Setting.shipped("mi355x", op="fused", dtype="bfloat16")


def test_a_setting_takes_every_name(setting):
    assert (setting.gpu, setting.op, setting.dtype) == ("MI355X", "fused_ar_rmsnorm", "bf16")
    call = setting.shapes(32, 2880, 4)
    for name, other in (("1-stage", "1stage"), ("two_shot", "2stage")):
        assert predict(setting, call, name).latency_us == setting.latency_us(call, other)
    assert setting.latency_us(call, "1-stage") != setting.latency_us(call, "2-stage")


@pytest.mark.parametrize(
    "ask",
    [
        lambda s, call: predict(s, call, "3-stage"),
        lambda s, call: s.latency_us(call, "3-stage"),
        lambda s, call: s.terms(call, "3-stage"),
        lambda s, call: s.takes(call, "3-stage"),
        lambda s, call: Study(s, 2880, ranks=4).simulate("3-stage", 32),
        lambda s, call: s.but(op="fuse"),
        lambda s, call: s.but(gpu="MI400"),
        lambda s, call: s.but(dtype="int3"),
        lambda s, call: s.but(engine="sglan"),
    ],
)
def test_an_unknown_name_raises_at_once(setting, ask):
    with pytest.raises(InputError, match=r"unknown (algorithm|op|dtype|engine)|has no MI400"):
        ask(setting, setting.shapes(32, 2880, 4))
