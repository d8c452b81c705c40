"""Units of the field: KiB and MiB are powers of two, GB/s is 1e9 bytes a second."""

from __future__ import annotations

from .errors import InputError, nearest

KIB = 1024
MIB = 1024 * KIB

#: One GB/s moves this many bytes in one microsecond.
BYTES_PER_US_PER_GBPS = 1e3

#: Bytes of one element, for the dtypes that the kernels support.
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}

#: Every AITER and vLLM all-reduce kernel loads 16-byte packs (``design`` of custom_all_reduce.cuh).
PACK_BYTES = 16


def element_bytes(dtype: str) -> int:
    """Return the size of one element in bytes; raise :class:`InputError` for an unknown dtype."""
    try:
        return ELEMENT_BYTES[dtype]
    except KeyError:
        known = ", ".join(ELEMENT_BYTES)
        near = nearest(dtype, list(ELEMENT_BYTES))
        raise InputError(f"unknown dtype '{dtype}': the kernels take {known}{near}") from None


def kib(size_bytes: float) -> str:
    """Return a size as people read it: ``448 KiB``, ``3.5 MiB``, ``96 B``."""
    if size_bytes >= MIB:
        return f"{size_bytes / MIB:.4g} MiB"
    if size_bytes >= KIB:
        return f"{size_bytes / KIB:.4g} KiB"
    return f"{size_bytes:.0f} B"
