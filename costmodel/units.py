"""Units of the field: KiB and MiB are powers of two, GB/s is 1e9 bytes a second."""

from __future__ import annotations

from .errors import InputError, nearest

KIB = 1024
MIB = 1024 * KIB

#: One GB/s moves this many bytes in one microsecond.
BYTES_PER_US_PER_GBPS = 1e3

#: Bytes of one element, for the dtypes that the kernels support.
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}

#: dtype names of torch, numpy, NCCL and the kernels' own tests, without ``torch.``.
DTYPE_NAMES = {
    "bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "half": "fp16",
    "f16": "fp16", "fp32": "fp32", "float32": "fp32", "float": "fp32", "f32": "fp32",
}  # fmt: skip

#: Every AITER and vLLM all-reduce kernel loads 16-byte packs (``design`` of custom_all_reduce.cuh).
PACK_BYTES = 16


def dtype_name(name: object) -> str | None:
    """Return the project's name of a dtype (``torch.bfloat16``, ``half``), None for an unknown one.

    A ``torch.dtype`` does as well as its name.
    """
    return DTYPE_NAMES.get(str(name).strip().lower().rpartition(".")[2])


def read_dtype(name: object) -> str:
    """Return the project's name of a dtype; raise :class:`InputError` for an unknown one."""
    found = dtype_name(name)
    if found is None:
        near = nearest(str(name), list(DTYPE_NAMES))
        raise InputError(
            f"unknown dtype '{name}': the kernels take {', '.join(ELEMENT_BYTES)}{near}"
        )
    return found


def element_bytes(dtype: str) -> int:
    """Return the size of one element in bytes; raise :class:`InputError` for an unknown dtype."""
    try:
        return ELEMENT_BYTES[dtype]
    except KeyError:
        return ELEMENT_BYTES[read_dtype(dtype)]


def kib(size_bytes: float) -> str:
    """Return a size as people read it: ``448 KiB``, ``3.5 MiB``, ``2272 KiB``, ``96 B``.

    From a MiB on to a whole KiB, in MiB where three decimals say it, so that a cutoff in KiB reads
    the same wherever it stands.
    """
    if size_bytes >= MIB:
        whole = round(size_bytes / KIB)
        return f"{whole / 1024:g} MiB" if whole % 128 == 0 else f"{whole} KiB"
    if size_bytes >= KIB:
        return f"{size_bytes / KIB:.4g} KiB"
    return f"{size_bytes:.0f} B"
