"""Which shapes a kernel takes, from its limits in the fact files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data.kernels import Kernel, first_release
from ..units import PACK_BYTES, element_bytes
from .shape import FUSED, ONE_STAGE, Shapes


def eligible(shapes: Shapes, algorithm: str, kernel: Kernel) -> tuple[NDArray[np.bool_], str]:
    """Return which shapes the kernel takes, and the rule in words.

    The words hold for the whole call and name the limit that a refused shape breaks.
    """
    packs = shapes.hidden_dim * element_bytes(shapes.dtype) / PACK_BYTES
    pack = PACK_BYTES // element_bytes(shapes.dtype)
    if shapes.op != FUSED:
        return (
            shapes.bytes % PACK_BYTES == 0,
            "input bytes a multiple of 16",
        )
    whole = shapes.hidden_dim % pack == 0
    if algorithm == ONE_STAGE:
        if not kernel.fused_1stage:
            return np.zeros(shapes.tokens.shape, np.bool_), (
                f"{kernel.title} has no 1-stage fused kernel "
                f"(it came with {first_release('fused_1stage')})"
            )
        ok = whole & (packs <= kernel.fused_1stage_max_packs)
        words = f"hidden % {pack} == 0 and hidden / {pack} <= {kernel.fused_1stage_max_packs}"
        if kernel.fused_1stage_hidden_dims:
            ok &= np.isin(shapes.hidden_dim, kernel.fused_1stage_hidden_dims)
            words = f"hidden in {{{', '.join(map(str, kernel.fused_1stage_hidden_dims))}}}"
        if kernel.fused_1stage_max_tokens is not None:
            ok &= shapes.tokens <= kernel.fused_1stage_max_tokens
            words += f" and tokens <= {kernel.fused_1stage_max_tokens}"
        return ok, words
    ok = whole & (packs >= kernel.fused_2stage_min_packs)
    return ok, f"hidden % {pack} == 0 and hidden / {pack} >= {kernel.fused_2stage_min_packs}"
