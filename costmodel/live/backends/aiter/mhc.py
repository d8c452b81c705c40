"""AITER's fused all-reduce + mHC: the sum is mixed into the residual streams of a hyper-connection.

For each token: ``stream_out[j] = post[j] * sum + combined over i of comb[i, j] * stream[i]``, over
four streams, with weights that a model computes. Here they are numbers of no model, the same for
every token: a latency hangs on none of their values. Read in ``aiter/ops/custom_all_reduce.py``,
``csrc/include/custom_all_reduce.cuh``, ``csrc/kernels/fused_ar_mhc_post.cu`` and ``mhc_kernels.cu``
of v0.1.17-rc0 to e404860.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ....model.shape import ONE_STAGE, TWO_STAGE
from ....units import PACK_BYTES, element_bytes
from ..base import EPSILON, LiveShape, Outputs
from .assumptions import MHC_OPS

#: Residual streams: the kernels are compiled for this many alone.
STREAMS = 4

#: Longest row of the 1-stage, in 16-byte packs: one thread a pack, two rows a workgroup.
ONE_STAGE_MAX_PACKS = 512

#: What the 2-stage's second kernel takes of a row at a time, in elements, the longest that divides
#: it; and the arch that has no such kernel. A row has two of them at least.
BLOCKS = ((1024, "gfx942"), (512, ""), (256, ""))
BLOCKS_A_ROW = 2

#: The types that both ops are compiled for.
DTYPES = ("bf16", "fp16")

#: Share of an element and its row by which rounding four streams moves the sum read back.
QUANTUM = 2.0**-6


def function(algorithm: str) -> Callable[..., Any] | None:
    """Return AITER's op of that stage, None where the installed AITER has none."""
    wanted = MHC_OPS[algorithm]
    try:
        found = getattr(importlib.import_module(wanted.module), wanted.name)
    except (ImportError, AttributeError):
        return None
    return found  # type: ignore[no-any-return]


def reason_against(
    shape: LiveShape, algorithm: str, world_size: int, communicator: Any, arch: str
) -> str:
    """Return why the op cannot run, "" where it can.

    Before the ranks are up ``communicator`` is None and ``arch`` "".
    """
    wanted = MHC_OPS[algorithm]
    if communicator is not None and function(algorithm) is None:
        return f"this AITER has no {wanted.name} (it came with {wanted.since})"
    if getattr(communicator, "_is_gfx1250", False):
        return f"{wanted.name} runs on the communicator of other GPUs than gfx1250"
    if shape.dtype not in DTYPES:
        return f"{wanted.name} takes {' and '.join(DTYPES)}"
    packs = shape.hidden_dim * element_bytes(shape.dtype) // PACK_BYTES
    if algorithm == ONE_STAGE and packs > ONE_STAGE_MAX_PACKS:
        return f"{wanted.name} takes hidden / 8 up to {ONE_STAGE_MAX_PACKS}"
    if algorithm == TWO_STAGE and shape.tokens * packs % world_size:
        return f"{wanted.name} leaves packs out unless tokens x hidden / 8 is a multiple of ranks"
    return _against_row(shape.hidden_dim, arch, wanted.name) if algorithm == TWO_STAGE else ""


def _against_row(hidden_dim: int, arch: str, name: str) -> str:
    """Return why the 2-stage's second kernel takes no such row, on an unknown arch if none does."""
    archs = {arch} if arch else {lacking for _, lacking in BLOCKS}  # "" for all others
    blocks = [_block(hidden_dim, one) for one in archs]
    if not any(blocks):
        return f"{name} takes hidden_dim in multiples of {min(size for size, _ in BLOCKS)}"
    if all(hidden_dim < BLOCKS_A_ROW * block for block in blocks):
        return f"{name} takes hidden_dim {hidden_dim} in blocks of {min(blocks)}, and no row of one"
    return ""


def _block(hidden_dim: int, arch: str) -> int:
    there = (size for size, lacking in BLOCKS if not lacking or lacking != arch)
    return next((size for size in there if hidden_dim % size == 0), 0)


class Mixing:
    """A slot's streams (tokens, 4, hidden) and weights, (tokens, 4) and (tokens, 4, 4)."""

    def __init__(self, residual: Any) -> None:
        import torch

        tokens = residual.shape[0]
        self.streams = torch.stack([residual.roll(i, -1) for i in range(STREAMS)], 1).contiguous()
        numbers = torch.arange(STREAMS * STREAMS, device=residual.device, dtype=torch.float32)
        self.post = (1.0 + numbers[:STREAMS] / 4).expand(tokens, STREAMS).contiguous()
        comb = numbers.view(STREAMS, STREAMS) / 64
        self.comb = comb.expand(tokens, STREAMS, STREAMS).contiguous()

    def call(self, algorithm: str, communicator: Any, x: Any) -> tuple[Any, ...]:
        """Issue one call; return what it writes, (tokens, 4, hidden).

        Outside a capture the op copies its input into AITER's registered buffer first, as all ops
        of the communicator do.
        """
        import torch

        run, pool = function(algorithm), communicator._pool["input"]
        assert run is not None
        written = torch.empty_like(self.streams)
        registered = communicator._IS_CAPTURING
        buffer = (0, 0) if registered else (pool.data_ptr, pool.max_size)
        run(communicator._ptr, x, written, self.streams, self.post, self.comb, True, False, *buffer)
        return (written,)

    def read(self, written: Any, residual: Any, weight: Any) -> Outputs:
        """Return what the fused op would have written, from the sum that was mixed in.

        Each stream gives the sum once; that which lies farthest from the others counts.
        """
        import torch

        kept = torch.einsum("tij,tih->tjh", self.comb, self.streams.float())
        sums = (written.float() - kept) / self.post.unsqueeze(-1)
        away = (sums - sums.nanmedian(1, keepdim=True).values).abs()
        reduced = sums.gather(1, away.argmax(1, keepdim=True)).squeeze(1)
        residual_out = reduced + residual.float()
        scale = torch.rsqrt(residual_out.pow(2).mean(-1, keepdim=True) + EPSILON)
        return Outputs(residual_out * scale * weight.float(), residual_out)
