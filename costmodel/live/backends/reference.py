"""Operands and the fp32 reference of fused all-reduce + residual add + RMSNorm, in plain torch.

The op, for rank inputs x_r, residual r and weight w of one dtype::

    s            = round(sum over r of x_r, in fp32)
    residual_out = round(s + r)
    output       = round(residual_out / sqrt(mean(residual_out^2) + eps) * w)

where round is the rounding to the element type. The reference skips the roundings, and
:func:`worst_error` allows for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .base import EPSILON, CannotRun, LiveShape, Outputs

if TYPE_CHECKING:
    import torch

#: Half a unit in the last place of each dtype, relative: 2^-(mantissa bits + 1).
UNIT_ROUNDOFF = {"bf16": 2.0**-9, "fp16": 2.0**-12, "fp32": 2.0**-24}

#: Roundings that may add up in one element: sum, residual add, norm, product with the weight, and
#: as many again for kernels that round between the steps (separate ops do).
ROUNDINGS = 8.0


class Operands(NamedTuple):
    """The operands of one slot: inputs (ranks, tokens, hidden), residual, weight (hidden,)."""

    inputs: torch.Tensor
    residual: torch.Tensor
    weight: torch.Tensor


def torch_dtype(dtype: str) -> torch.dtype:
    """Return torch's dtype for the project's name of it."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]


def operands(
    shape: LiveShape, world_size: int, slot: int, seed: int, device: str = "cpu"
) -> Operands:
    """Return the operands of one slot for all ranks; every process makes the same ones.

    Uniform multiples of 1/16 in [-2, 2) for inputs and residual and of 1/128 in [0.5, 1.5) for the
    weight: exact in bf16 and fp16, so that all arms and the reference read identical numbers, and
    a rank left out or counted twice is an error of order one.
    """
    import torch

    generator = torch.Generator(device=device).manual_seed(seed * 1_000_003 + slot)
    dtype = torch_dtype(shape.dtype)

    def uniform(size: tuple[int, ...], low: int, high: int, step: float) -> torch.Tensor:
        whole = torch.randint(
            low, high, size, generator=generator, device=device, dtype=torch.int16
        )
        return whole.to(dtype) * step

    rows = (shape.tokens, shape.hidden_dim)
    return Operands(
        uniform((world_size, *rows), -32, 32, 1 / 16),
        uniform(rows, -32, 32, 1 / 16),
        uniform((shape.hidden_dim,), 64, 192, 1 / 128),
    )


def fused_reference(given: Operands, epsilon: float = EPSILON) -> Outputs:
    """Return output and residual_out in fp32."""
    import torch

    residual_out = given.inputs.float().sum(0) + given.residual.float()
    scale = torch.rsqrt(residual_out.pow(2).mean(-1, keepdim=True) + epsilon)
    return Outputs(residual_out * scale * given.weight.float(), residual_out)


def completed(reduced: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Outputs:
    """Return in fp32 what the fused op would have written, from a plain all-reduce's sum."""
    import torch

    residual_out = reduced.float() + residual.float()
    scale = torch.rsqrt(residual_out.pow(2).mean(-1, keepdim=True) + EPSILON)
    return Outputs(residual_out * scale * weight.float(), residual_out)


def worst_error(outputs: Outputs, reference: Outputs, dtype: str, quantum: float = 0.0) -> float:
    """Return the largest error of ``outputs`` in units of what rounding to ``dtype`` explains.

    At most 1 is right. Each element's allowance is ROUNDINGS x unit roundoff x (its magnitude + the
    row's root mean square, since the sum's own rounding acts before the residual may cancel it).
    ``quantum`` is allowed the output beside that, and not residual_out, which nothing quantises.
    NaN, a missing output or a wrong shape count as infinite.
    """
    import torch

    rounding = ROUNDINGS * UNIT_ROUNDOFF[dtype]
    worst = 0.0
    for have, want, allowed in zip(outputs, reference, (rounding + quantum, rounding), strict=True):
        if have is None or have.shape != want.shape:
            return float("inf")
        error = (have.float().to(want.device) - want).abs()
        scale = want.abs() + want.pow(2).mean(-1, keepdim=True).sqrt()
        ratio = error / (allowed * scale)
        worst = max(worst, float(torch.nan_to_num(ratio, nan=float("inf")).max()))
    return worst


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an exception is an allocator's; torch has no one type for all of them."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def out_of_memory(shape: LiveShape, slots: int, error: Exception) -> CannotRun:
    """Return the error of a shape that does not fit, made from the allocator's exception."""
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else type(error).__name__
    return CannotRun(
        f"out of memory at {shape} with {slots} slots: {said}; use fewer tokens or --slots"
    )
