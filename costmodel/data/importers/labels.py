"""What a column's or row's label says of the op: ``fused_1stage_us``, ``ca_2stage``, ..."""

from __future__ import annotations

import re
from typing import NamedTuple

from ...errors import InputError, nearest
from ..measurement import VOCABULARY
from .rows import Said


class Label(NamedTuple):
    """Op and algorithm of a label, "" where it does not say; ``used`` is False to leave it out."""

    op: str
    algorithm: str
    kernel_family: str = ""
    used: bool = True


_ONE = re.compile(r"(1|one)_?(stage|shot)")
_TWO = re.compile(r"(2|two)_?(stage|shot)")
_NORM = re.compile(r"rms|norm")
_OTHER = re.compile(r"all_?gather|reduce_?scatter|broadcast|all_?to_?all|(^|_)(ag|rs)(_|$)")
_SEPARATE = re.compile(r"separate|split|unfused|non_?fused|standard|baseline|ar_then|explicit")

#: Families by what a label contains; the first hit counts.
_FAMILIES = (
    ("aiter", "aiter"),
    ("flashinfer", "flashinfer"),
    ("quick", "quickreduce"),
    ("symm_mem", "torch_symm_mem"),
    ("rccl", "rccl"),
)


def read_label(text: str, said: Said) -> Label:
    """Return what a label says. ``said.columns`` decides where it names the label."""
    if text in said.columns:
        return _said(text, said.columns[text])
    name = re.sub(r"\W+", "_", text.strip().lower())
    algorithm = "1stage" if _ONE.search(name) else "2stage" if _TWO.search(name) else ""
    if not algorithm and re.search(r"(^|_)(auto|default|dispatch)(_|$)", name):
        algorithm = "auto"
    family = next((family for part, family in _FAMILIES if part in name), "")
    if _OTHER.search(name):
        return Label("other", "", family, used=False)
    op = ""
    if "fp4" in name:
        op = "fused_ar_rmsnorm_quant_mxfp4" if "mxfp4" in name else "other"
    elif "fp8" in name or "quant" in name:
        op = "fused_ar_rmsnorm_quant_fp8" if "fus" in name and "unfus" not in name else "other"
    elif _SEPARATE.search(name):
        op, algorithm = "ar_then_rmsnorm", ""
    elif "fus" in name:
        op = "fused_ar_rmsnorm"
    elif re.search(r"all_?reduce", name) and not _NORM.search(name):
        op = "all_reduce"
    return Label(op, algorithm, family, used=op != "other")


def _said(text: str, meaning: str) -> Label:
    if meaning == "-":
        return Label("", "", used=False)
    op, _, algorithm = meaning.partition(":")
    for value, kind in ((op, "op"), (algorithm, "algorithm")):
        if value not in VOCABULARY[kind] and value:
            raise InputError(
                f"--column {text}={meaning}: unknown {kind} '{value}'"
                f"{nearest(value, VOCABULARY[kind])}"
            )
    return Label(op, algorithm)
