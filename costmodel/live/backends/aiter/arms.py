"""AITER's other ops as arms: plain all-reduce, and the fused op with a quantised output.

Each is a method of ``CustomAllreduce``, read in the trees of v0.1.10.post2 to e404860 (2026-08-22).
The stage of the quantising ops is an argument of theirs. That of the plain op is chosen inside its
C++ dispatcher: an arm of it runs only where that dispatch takes its stage
(:meth:`costmodel.data.kernels.Kernel.auto_is_1stage`). On gfx1250 that dispatcher runs LL, a
one-shot push, up to a size (``custom_all_reduce_gfx1250.cuh``, from v0.1.18 on). LL and LL128 for
other GPUs (#5272) came after the last tree read: there, what ran is judged by the kernels' names
alone. The fused mHC is in :mod:`.mhc`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....data.kernels import Kernel, parse_version
from ....model.shape import ALL_REDUCE, FP8, FP8_PER_TOKEN, MHC, MXFP4, ONE_STAGE, SPOKEN
from ....units import KIB, MIB
from ..base import EPSILON, PUSHED, LiveShape, Outputs, op_and_algorithm
from ..reference import completed
from . import mhc

#: Elements that share a scale: AITER's default group (``group_size=128``), and OCP MX's block.
GROUP, BLOCK = 128, 32

#: The values of fp4 e2m1, by their three lower bits (OCP MX v1.0, section 5.3.3).
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Method:
    """One op: its method, the release that brought it, and how its output is read.

    ``quantum`` is the largest error that quantising an element adds, as a share of the element and
    its row's root mean square (:func:`costmodel.live.backends.reference.worst_error`).
    """

    name: str
    since: str
    quantum: float
    read: Callable[..., Outputs]
    #: Elements of a row must be a multiple of this.
    multiple: int = 1


def _dequantised_fp8(quantised: Any, residual_out: Any, scale: Any, *_: Any) -> Outputs:
    """Return fp8 of (tokens, hidden) times its scales (tokens, groups), in fp32."""
    groups = scale.shape[-1]
    values = quantised.float().reshape(*scale.shape[:-1], groups, -1)
    return Outputs((values * scale.float().unsqueeze(-1)).reshape_as(residual_out), residual_out)


def _dequantised_mxfp4(quantised: Any, residual_out: Any, scale: Any, *_: Any) -> Outputs:
    """Return MXFP4 in fp32: two elements a byte, the lower bits first; scales are powers of two.

    A scale's byte is its exponent + 127, 255 is NaN (OCP MX v1.0, section 5.4.1).
    """
    import torch

    table = torch.tensor(E2M1, device=quantised.device)
    table = torch.cat([table, -table])
    pairs = torch.stack([quantised & 15, quantised >> 4], dim=-1)
    values = table[pairs.long()].reshape(*scale.shape, BLOCK)
    power = torch.exp2(scale.float() - 127.0)
    power[scale == 255] = float("nan")
    return Outputs((values * power.unsqueeze(-1)).reshape_as(residual_out), residual_out)


#: By the op of the rows. fp8 e4m3 has 3 bits of mantissa: half a step is 2^-4 of a value. MXFP4's
#: is a quarter of it, and its scale may cut the largest of a block by as much again.
METHODS = {
    ALL_REDUCE: Method("custom_all_reduce", "0.1.7", 0.0, completed),
    FP8_PER_TOKEN: Method(
        "custom_fused_ar_rms_quant", "0.1.10.post3", 2.0**-4, _dequantised_fp8
    ),
    FP8: Method(
        "custom_fused_ar_rms_per_group_quant", "0.1.14", 2.0**-4, _dequantised_fp8, GROUP
    ),
    MXFP4: Method(
        "custom_fused_ar_rms_mxfp4_quant", "0.1.16", 2.0**-1, _dequantised_mxfp4, BLOCK
    ),
}  # fmt: skip


#: Largest input that gfx1250's dispatch pushes, by the release that brought the limit
#: (``kLLArMaxBytes``).
LL_MAX_BYTES = (((0, 1, 20, 0), 4 * MIB), ((0, 1, 18, 0), 128 * KIB))


def quantum(arm: str) -> float:
    """Return the largest error that an arm adds by what it writes (:class:`Method`)."""
    op, _ = op_and_algorithm(arm)
    return mhc.QUANTUM if op == MHC else METHODS[op].quantum


def reason_against(
    arm: str, shape: LiveShape, world_size: int, communicator: Any, kernel: Kernel, arch: str = ""
) -> str:
    """Return why one of :data:`METHODS` cannot run as this arm on ``arch``, "" where it can."""
    op, algorithm = op_and_algorithm(arm)
    if op == MHC:
        return mhc.reason_against(shape, algorithm, world_size, communicator, arch)
    method = METHODS[op]
    if communicator is not None and not hasattr(communicator, method.name):
        return f"this AITER has no {method.name} (it came with {method.since})"
    if shape.hidden_dim % method.multiple:
        return f"{method.name} takes hidden_dim in multiples of {method.multiple}"
    gfx1250 = bool(getattr(communicator, "_is_gfx1250", False))
    if arm in PUSHED:
        return _against_push(arm, shape, kernel, gfx1250)
    if op == ALL_REDUCE:
        if gfx1250:
            return "AITER's plain all-reduce for gfx1250 has other kernels; plain_ll is one"
        if not kernel.known:
            return f"{kernel.title} is newer than what is known of its dispatch (LL since #5272)"
        takes = bool(kernel.auto_is_1stage(world_size, shape.bytes))
        if takes is not (algorithm == ONE_STAGE):
            return f"AITER's own dispatch does not take {SPOKEN[algorithm]} at {shape.bytes} bytes"
    elif shape.dtype == "fp32":
        return f"{method.name} takes bf16 and fp16"
    return ""


def _against_push(arm: str, shape: LiveShape, kernel: Kernel, gfx1250: bool) -> str:
    """Return why the dispatch would not push, "" where it does, or where only its run can tell."""
    if not kernel.known:
        return ""
    if not gfx1250:
        return f"{kernel.title} pushes on gfx1250 alone; LL for other GPUs came later (#5272)"
    if PUSHED[arm] != "ll":
        return f"{kernel.title} has LL alone"
    most = pushed_bytes(kernel)
    return "" if shape.bytes <= most else f"{kernel.title} pushes up to {most} bytes"


def pushed_bytes(kernel: Kernel) -> int:
    """Return the largest input that gfx1250's plain all-reduce pushes at a release, 0 for none."""
    release = parse_version(kernel.version)
    return next((size for since, size in LL_MAX_BYTES if release >= since), 0)


def call(arm: str, communicator: Any, x: Any, residual: Any, weight: Any) -> tuple[Any, ...] | None:
    """Issue one call; return the tensors that it wrote, None where AITER returned nothing."""
    op, algorithm = op_and_algorithm(arm)
    method = getattr(communicator, METHODS[op].name)
    if op == ALL_REDUCE:
        reduced = method(x)
        return None if reduced is None else (reduced,)
    one_stage = algorithm == ONE_STAGE
    if op == FP8:
        return method(x, residual, weight, EPSILON, GROUP, one_stage)
    return method(x, residual, weight, EPSILON, one_stage)


def read(arm: str, written: tuple[Any, ...], residual: Any, weight: Any) -> Outputs:
    """Return what a call wrote as outputs that compare with those of the fused op, in fp32."""
    op, _ = op_and_algorithm(arm)
    if op == ALL_REDUCE:
        return METHODS[op].read(written[0], residual, weight)
    return METHODS[op].read(*written)
