"""Which shapes a kernel takes, from its limits in the fact files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data.kernels import Kernel, first_release, kind
from ..errors import InputError
from ..units import PACK_BYTES
from .shape import FUSED, ONE_STAGE, SPOKEN, Shapes


def lacks(kernel: Kernel, op: str, algorithm: str) -> str:
    """Return in words that a family has no kernel for an algorithm of an op, "" where it has."""
    if kernel.runs(op, algorithm):
        return ""
    came = ""
    if kernel.family == "aiter" and op == FUSED and algorithm == ONE_STAGE:
        came = f" (it came with {first_release('fused_1stage')})"
    who = kernel.title if kernel.family == "aiter" else kernel.family
    return f"{who} has no {SPOKEN[algorithm]} {kind(op)} kernel{came}"


def check_hidden(shapes: Shapes, kernel: Kernel) -> str:
    """Return in words what the 1-stage kernel needs of the calls' rows.

    Raises :class:`InputError` naming the first hidden size that it rejects.
    """
    takes, words = eligible(shapes, ONE_STAGE, kernel)
    if not takes.all():
        raise InputError(
            f"hidden size {int(shapes.hidden_dim[~takes][0])} is rejected by the 1-stage kernel of "
            f"{kernel.title}: it needs {words}"
        )
    return words


def eligible(shapes: Shapes, algorithm: str, kernel: Kernel) -> tuple[NDArray[np.bool_], str]:
    """Return which shapes the kernel takes, and the rule in words.

    The words hold for the whole call and name the limit that a refused shape breaks.
    """
    pack = PACK_BYTES // shapes.element_bytes
    packs = shapes.hidden_dim / pack
    missing = lacks(kernel, shapes.op, algorithm)
    if missing:
        return np.zeros(shapes.tokens.shape, np.bool_), f"another kernel: {missing}"
    if shapes.op != FUSED:
        dtypes, multiple = kernel.plain_dtypes, kernel.plain_multiple_bytes
        words = f"input bytes a multiple of {multiple}"
        ok = shapes.bytes % multiple == 0
        if dtypes:
            ok &= shapes.dtype in dtypes
            words = f"{' and '.join(dtypes)}, {words}"
        return ok, words
    whole = shapes.hidden_dim % pack == 0
    if algorithm == ONE_STAGE:
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
    words = f"hidden % {pack} == 0 and hidden / {pack} >= {kernel.fused_2stage_min_packs}"
    most = kernel.fused_2stage_max_packs
    if most is not None and np.any(packs > most):
        ok &= packs <= most
        words += f" and hidden / {pack} <= {most}"
    many = kernel.fused_2stage_pack_multiple
    if many > 1:
        ok &= packs % many == 0
        words += f" and hidden / {pack} a multiple of {many}"
    if kernel.fused_2stage_whole_parts:
        even = shapes.tokens * (shapes.hidden_dim // pack) % shapes.world_size == 0
        if np.any(whole & ~even):
            ok &= even
            words += f" and tokens x hidden / {pack} a multiple of the ranks"
    return ok, words
