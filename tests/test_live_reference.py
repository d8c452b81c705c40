import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.live.backends.base import LiveShape, Outputs
from costmodel.live.backends.reference import fused_reference, operands, torch_dtype, worst_error


def as_a_kernel_does(given, ranks=None):
    """The op with every rounding a kernel makes: sum, residual add, normed product."""
    dtype = given.residual.dtype
    inputs = given.inputs if ranks is None else given.inputs[ranks]
    total = inputs.float().sum(0).to(dtype)
    residual_out = (total + given.residual).to(dtype)
    scale = torch.rsqrt(residual_out.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    normed = (residual_out.float() * scale).to(dtype)
    return Outputs(normed * given.weight, residual_out)


def test_the_reference_is_the_formula():
    given = operands(LiveShape(3, 64, "bf16"), 4, 0, 7)
    x, r, w = (t.double().numpy() for t in given)
    y = x.sum(0) + r
    want = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * w
    found = fused_reference(given)
    np.testing.assert_allclose(found.residual_out.numpy(), y, rtol=0)
    np.testing.assert_allclose(found.output.numpy(), want, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_operands_are_exact_repeatable_and_differ_by_slot_and_rank(dtype):
    shape = LiveShape(4, 256, dtype)
    given, again, other = (operands(shape, 8, slot, 5) for slot in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(given, again, strict=True))
    assert not torch.equal(given.inputs, other.inputs)
    assert not torch.equal(given.inputs[0], given.inputs[1])
    assert torch.equal(given.inputs.float() * 16, (given.inputs.float() * 16).round())
    exact = operands(LiveShape(4, 256, "fp32"), 8, 0, 5)
    assert torch.equal(given.inputs.float(), exact.inputs)  # no rounding on the way to the dtype


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_every_rounding_of_a_kernel_is_allowed(dtype, ranks):
    for seed in range(20):
        given = operands(LiveShape(16, 1024, dtype), ranks, 0, seed)
        assert worst_error(as_a_kernel_does(given), fused_reference(given), dtype) <= 1.0


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_a_rank_left_out_or_counted_twice_is_wrong(dtype):
    given = operands(LiveShape(1, 512, dtype), 8, 0, 3)
    reference = fused_reference(given)
    for ranks in ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7, 7]):
        assert worst_error(as_a_kernel_does(given, ranks), reference, dtype) > 10


def test_one_wrong_element_among_many_is_wrong():
    given = operands(LiveShape(64, 1024, "bf16"), 4, 0, 3)
    found = as_a_kernel_does(given)
    found.output[63, 1023] += 0.25
    assert worst_error(found, fused_reference(given), "bf16") > 1.0


def test_outputs_swapped_missing_poisoned_or_of_another_shape_are_wrong():
    given = operands(LiveShape(2, 512, "bf16"), 2, 0, 3)
    reference, found = fused_reference(given), as_a_kernel_does(given)
    assert worst_error(Outputs(*found[::-1]), reference, "bf16") > 1.0
    assert worst_error(Outputs(None, None), reference, "bf16") == float("inf")
    assert worst_error(Outputs(found.output[:1], found.residual_out), reference, "bf16") == float(
        "inf"
    )
    found.output[1, 7] = float("nan")
    assert worst_error(found, reference, "bf16") == float("inf")
    assert torch_dtype("fp16") is torch.float16


def test_a_quantised_output_is_allowed_its_quantum_and_the_residual_is_not():
    given = operands(LiveShape(8, 512, "bf16"), 4, 0, 3)
    reference, found = fused_reference(given), as_a_kernel_does(given)
    coarse = found.output.to(torch.float8_e4m3fn).float()
    assert worst_error(Outputs(coarse, found.residual_out), reference, "bf16") > 1.0
    assert worst_error(Outputs(coarse, found.residual_out), reference, "bf16", 2.0**-4) <= 1.0
    off = found.residual_out.float() * (1.0 + 2.0**-4)
    assert worst_error(Outputs(coarse, off), reference, "bf16", 2.0**-4) > 1.0
