"""The limits of AITER's fused kernels as its C++ states them, found by their forms there.

Forms of v0.1.10.post2 to v0.1.20.post1 and e404860, ``csrc/include/custom_all_reduce.cuh`` and,
for the fused mHC, two files of ``csrc/kernels``. A form that is not found is not guessed.
"""

from __future__ import annotations

import re
from typing import Any

#: Where a tree carries the header: beside the package in a checkout, in amd-aiter's wheels.
PLACES = (
    "csrc/include/custom_all_reduce.cuh",
    "aiter_meta/csrc/include/custom_all_reduce.cuh",
)

#: The limits that are read, as :class:`~costmodel.data.kernels.Kernel` names them, in words.
LIMITS = {
    "max_workgroups": "most workgroups",
    "fused_1stage_hidden_dims": "fused 1-stage, hidden sizes",
    "fused_1stage_max_packs": "fused 1-stage, most packs a row",
    "fused_1stage_max_tokens": "fused 1-stage, most tokens",
    "fused_2stage_min_packs": "fused 2-stage, least packs a row",
    "fused_2stage_max_packs": "fused 2-stage, most packs a row",
    "fused_2stage_pack_multiple": "fused 2-stage, packs a row a multiple of",
}

#: The header of gfx1250's kernels, from v0.1.18 on.
GFX1250_PLACES = tuple(place.replace(".cuh", "_gfx1250.cuh") for place in PLACES)

#: The entry of the fused mHC, and the kernel that its 2-stage ends in.
MHC_PLACES, MHC_KERNEL_PLACES = (
    tuple(place.replace("include/custom_all_reduce.cuh", f"kernels/{file}") for place in PLACES)
    for file in ("fused_ar_mhc_post.cu", "mhc_kernels.cu")
)

_GATE = re.compile(r"use_1stage\s*=\s*\(?\s*use_1stage\s*&&([^;]*);")
_LAUNCHER = re.compile(
    r"void\s+allreduce_fusion_kernel_1stage_launcher\s*\(.*?\n\}", re.DOTALL
)  # fmt: skip
_DISPATCH = re.compile(
    r"void\s+dispatchFusedAllReduceRMSNorm\s*\((.*?)(?=\ntemplate\s*<|\n~)", re.DOTALL
)


def read(text: str) -> dict[str, Any]:
    """Return the limits of :data:`LIMITS` that the header states in a known form."""
    text = _without_comments(text)
    limits: dict[str, Any] = {}
    if found := re.search(r"constexpr\s+int\s+kMaxBlocks\s*=\s*(\d+)\s*;", text):
        limits["max_workgroups"] = int(found[1])
    if launcher := _LAUNCHER.search(text):
        throws = re.search(r"token_num\s*>\s*kMaxBlocks\s*\)\s*\{?\s*throw", launcher[0])
        limits["fused_1stage_max_tokens"] = limits.get("max_workgroups") if throws else None
    if dispatch := _DISPATCH.search(text):
        limits |= _one_stage(dispatch[1]) | _two_stage(dispatch[1])
    return limits


def _without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def mhc_max_packs(text: str) -> int | None:
    """Return the most packs a row that the 1-stage all-reduce + mHC takes, None if unread."""
    form = r"n_packs\s*>\s*(\d+)\s*\)\s*\{?\s*throw[^;]*AR\+MHC post epilogue"
    found = re.search(form, _without_comments(text))
    return int(found[1]) if found else None


def mhc_dtypes(text: str) -> tuple[str, ...] | None:
    """Return the types that the fused all-reduce + mHC is compiled for, None if unread."""
    named = {"BFloat16": "bf16", "Half": "fp16"}
    form = r"case\s+(?:at::ScalarType::|AITER_DTYPE_)(\w+)\s*:\s*\{\s*run_ar_mhc_post_split"
    found = re.findall(form, _without_comments(text))
    return tuple(sorted({named.get(name, name) for name in found})) or None


def mhc_blocks(text: str) -> tuple[tuple[tuple[int, str], ...], int] | None:
    """Return the blocks that ``mhc_post`` divides a row into, and the fewest; None if unread.

    A block is its elements and the arch that has none of that size.
    """
    text = re.sub(r"\\\n", " ", _without_comments(text))
    split = re.search(r"define MHC_POST_KERNEL_DISPATCH_RAW\(([^\n]*)", text)
    least = re.search(r"define MHC_POST_KERNEL_IMPL_RAW_\([^\n]*?residual_block \* (\d+)", text)
    if split is None or least is None:
        return None
    form = r'(?:arch_id != "(\w+)" && )?hidden_size % (\d+) == 0'
    return tuple((int(size), arch) for arch, size in re.findall(form, split[1])), int(least[1])


def pushed_bytes(text: str) -> int | None:
    """Return the largest input that gfx1250's all-reduce pushes, None if the header is unread."""
    form = r"constexpr\s+size_t\s+kLLArMaxBytes\s*=\s*(\d+)\s*;"
    found = re.search(form, _without_comments(text))
    return int(found[1]) if found else None


def _one_stage(dispatch: str) -> dict[str, Any]:
    """Return what the gate of the 1-stage takes: listed hidden sizes, or packs of a row."""
    gate = _GATE.search(dispatch)
    if gate is None:
        return {}
    listed = tuple(sorted(map(int, re.findall(r"\bn\s*==\s*(\d+)", gate[1]))))
    limits: dict[str, Any] = {"fused_1stage_hidden_dims": listed}
    if found := re.search(r"\bn\s*/\s*pack_size\s*<=\s*(\d+)", gate[1]):
        limits["fused_1stage_max_packs"] = int(found[1])
    return limits


def _two_stage(dispatch: str) -> dict[str, Any]:
    """Return the rows that the local norm kernel takes.

    Since 0.1.12 by packs: blocks of so many threads, unrolled by the last ``case``. Before that
    by bytes of a row, in whole KiB.
    """
    rows = re.findall(r"n_bytes\s*%\s*(\d+)\s*==\s*0", dispatch)
    if rows:
        least = [int(n) for n in re.findall(r"(\d+)\s*<=\s*n_bytes", dispatch)]
        most = [int(n) for n in re.findall(r"n_bytes\s*<=\s*(\d+)", dispatch)]
        if not least or not most:
            return {}
        return {
            "fused_2stage_min_packs": min(least) // 16,
            "fused_2stage_max_packs": max(most) // 16,
            "fused_2stage_pack_multiple": min(map(int, rows)) // 16,
        }
    least = [int(n) for n in re.findall(r"n_packs\s*>=\s*(\d+)", dispatch)]
    blocks = re.findall(r"local_device_load_rmsnorm\w*\s*<\s*T\s*,\s*(\d+)\s*,\s*(\d+)", dispatch)
    if not least or not blocks:
        return {}
    return {
        "fused_2stage_min_packs": min(least),
        "fused_2stage_max_packs": max(int(threads) * int(loops) for threads, loops in blocks),
        "fused_2stage_pack_multiple": 1,
    }
