"""GPU kernels of all-reduces by their names: the one reader of what a profiler calls them.

A name may be mangled or demangled, cut by its tool, with or without template arguments. It is
brought into one form (``aiter::cross_device_reduce_1stage<bf16, 8, false>``) and looked up in
``facts/kernel_names.csv``, whose every line has its source. A name that no line matches is unknown:
it is never taken for the nearest.

>>> seen = read("void aiter::allreduce_fusion_kernel_1stage<__bf16, __bf16, 8, false>(aiter::RankD")
>>> seen.family, seen.op, seen.algorithm, seen.dtype, seen.world_size
('aiter', 'fused_ar_rmsnorm', '1stage', 'bf16', 8)
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import NamedTuple

from msgspec import Struct

from ..units import dtype_name
from . import facts, mangled

#: What a kernel is of a call. A ``reduce_scatter`` is completed by a ``local`` one, which says
#: which op the call is; ``local_or_alone`` also runs without; ``norm`` is no collective.
WHOLE, REDUCE_SCATTER, LOCAL, LOCAL_OR_ALONE, NORM = (
    "whole", "reduce_scatter", "local", "local_or_alone", "norm",
)  # fmt: skip
#: Schema 1's op of a part that stands for itself.
PHASES = {REDUCE_SCATTER: "reduce_scatter_phase", LOCAL: "local_rmsnorm_phase"}
UNKNOWN = "unknown"

#: Longer names are not looked up: no kernel of the table comes near.
_LONGEST = 2000
#: Element types by the last part of their C++ names, beside those of :mod:`costmodel.units`.
_TYPES = {
    "__hip_bfloat16": "bf16", "hip_bfloat16": "bf16", "__nv_bfloat16": "bf16",
    "nv_bfloat16": "bf16", "rccl_bfloat16": "bf16", "__bf16": "bf16", "bfloat16_t": "bf16",
    "bf16_t": "bf16", "BFloat16": "bf16", "__half": "fp16", "_Float16": "fp16", "__fp16": "fp16",
    "fp16_t": "fp16", "Half": "fp16", "fp32_t": "fp32", "fp8_t": "fp8", "_BitInt(8)": "fp8",
    "__hip_fp8_e4m3": "fp8", "__hip_fp8_e4m3_fnuz": "fp8", "__nv_fp8_e4m3": "fp8",
    "Float8_e4m3fn": "fp8", "Float8_e4m3fnuz": "fp8", "f8e4m3": "fp8", "f8e5m2": "fp8",
}  # fmt: skip


class KernelName(Struct, frozen=True):
    """What a name says, "" and None where it does not.

    ``text`` is the name in its one form; ``op`` is that of the call, of which the kernel may be
    ``part``; ``barrier`` says that every rank waits at its start for all others; ``transport``
    tells kernels apart that do not read their peers (``push``, ``ll``, ``ring_ll``). ``cut`` names
    have lost a part to the tool that printed them.
    """

    text: str
    family: str = UNKNOWN
    op: str = ""
    algorithm: str = ""
    part: str = ""
    transport: str = ""
    barrier: bool = False
    dtype: str = ""
    world_size: int | None = None
    cut: bool = False
    source: str = ""

    @property
    def known(self) -> bool:
        """Whether the table has the kernel."""
        return bool(self.part)

    @property
    def collective(self) -> bool:
        """Whether ranks meet in it, or it is the second launch of a call in which they do."""
        return self.part in (WHOLE, REDUCE_SCATTER, LOCAL)

    @property
    def row_op(self) -> str:
        """Schema 1's op of a row about this kernel alone, "" where the name does not say it."""
        return PHASES.get(self.part, self.op)


@lru_cache(maxsize=65536)
def read(name: str) -> KernelName:
    """Return what a kernel's name says; never raises."""
    text, cut = _one_form(name)
    for entry in _entries():
        if match := entry.pattern.fullmatch(text):
            said = match.groupdict()
            ranks = int(said.get("ranks") or 0)
            return KernelName(
                text=text,
                family=entry.family or UNKNOWN,
                op=entry.op,
                algorithm=entry.algorithm,
                part=entry.part,
                transport=(said.get("transport") or entry.transport).lower(),
                barrier=entry.barrier,
                dtype=_dtype(said.get("dtype") or ""),
                world_size=ranks if 1 < ranks <= 4096 else None,
                cut=cut,
                source=entry.source,
            )
    return KernelName(text, cut=cut)


class _Entry(NamedTuple):
    pattern: re.Pattern[str]
    family: str
    op: str
    algorithm: str
    part: str
    transport: str
    barrier: bool
    source: str


@cache
def _entries() -> tuple[_Entry, ...]:
    """The lines of the fact file, in its order: the first that matches counts."""
    return tuple(
        _Entry(
            re.compile(row["pattern"], re.ASCII), row["family"], row["op"], row["algorithm"],
            row["part"], row["transport"], row["barrier"] == "1", row["source"],
        )
        for row in facts.rows("kernel_names.csv")
    )  # fmt: skip


def _one_form(name: str) -> tuple[str, bool]:
    """Return a name in one form, and whether a part of it is lost."""
    name = name.strip()
    if len(name) > _LONGEST:
        name = name[:_LONGEST] + "..."
    name = re.sub(r"\s*\[clone [^\]]*\]|\.kd$", "", name)
    cut = name.endswith(("...", "…"))
    name = name.rstrip(".…") if cut else name
    if name.startswith("_Z"):
        try:
            base, arguments = mangled.read(name)
        except mangled.NotRead as error:
            return (error.base, True) if error.base else (name, cut)
        inside: str | None = ", ".join(arguments)
    else:
        base, inside = _split(name, cut)
    if inside is None:  # cut inside the name itself: what follows could make it another kernel
        return f"{base}...", True
    arguments_text = _arguments(inside)
    return (f"{base}<{arguments_text}>" if arguments_text else base), cut


def _split(name: str, cut: bool) -> tuple[str, str | None]:
    """Return a demangled function's qualified name and the text of its template arguments.

    Arguments that are cut are "", since what is lost cannot be known; None stands for a name that
    is cut itself.
    """
    name = name.replace("(anonymous namespace)::", "").replace("`anonymous namespace'::", "")
    end = min((at for at in (name.find("<"), name.find("(")) if at >= 0), default=-1)
    base = (name if end < 0 else name[:end]).split(" ")[-1]
    if end < 0:
        return base, None if cut else ""
    if name[end] == "(":
        return base, ""
    depth = 0
    for at in range(end, len(name)):
        depth += (name[at] == "<") - (name[at] == ">")
        if depth == 0:
            return base, name[end + 1 : at]
    return base, ""


def _arguments(text: str) -> str:
    """Return template arguments with one name a type, one spelling a number, no namespaces."""
    text = re.sub(r"(?:\w+::)+", "", text)
    text = re.sub(r"\((?:int|unsigned int|long|unsigned long)\)(?=-?\d)", "", text)
    text = re.sub(r"\(bool\)([01])", lambda m: "true" if m[1] == "1" else "false", text)
    text = re.sub(r"\b(\d+)[uUlL]+\b", r"\1", text)
    text = re.sub(r"(?:signed )?(_BitInt\(8\)|\b[A-Za-z_]\w*\b)", lambda m: _type(m), text)
    return re.sub(r"\s*,\s*", ", ", text).replace("> >", ">>").strip()


def _type(match: re.Match[str]) -> str:
    dtype = _dtype(match[1])
    return dtype if dtype != match[1] else match[0]


def _dtype(name: str) -> str:
    """Return the project's name of an element type, or the name as it is."""
    return _TYPES.get(name) or dtype_name(name) or name
