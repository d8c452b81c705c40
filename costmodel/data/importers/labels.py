"""What a column's or row's label says of the op: ``fused_1stage_us``, ``ca_2stage``, ``split``.

A label such as ``baseline``, ``before`` or ``this PR`` names a side of a comparison and no op: it
is asked for (``--column``), never taken for the separate ops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from ...errors import InputError, nearest
from .. import kernels
from ..measurement import VOCABULARY
from .quantities import plain
from .rows import Said
from .text_file import shortened


class Label(NamedTuple):
    """Op and algorithm of a label, "" where it does not say; ``used`` is False to leave it out.

    ``side`` is set where the label names a side of a comparison; ``joined`` where it lists an
    all-reduce and a norm, which are the separate ops only beside a fused one. ``version`` tells
    kernels apart that are alike in all else.
    """

    op: str = ""
    algorithm: str = ""
    kernel_family: str = ""
    used: bool = True
    side: bool = False
    joined: bool = False
    version: str = ""


_ONE = re.compile(r"(?:^|_|[a-z])(?:1|one|single)_?(?:stage|shot)")
_TWO = re.compile(r"(?:^|_|[a-z])(?:2|two)_?(?:stage|shot)")
_AUTO = re.compile(r"(?:^|_)(?:auto|default|dispatch|dispatched)(?:_|$)")
_NORM = re.compile(r"rms|norm")
_OTHER = re.compile(
    r"all_?gather|reduce_?scatter|broadcast|all_?to_?all|(?:^|_)(?:ag|rs|a2a|p2p|gemm|moe)(?:_|$)"
    r"|qk_?norm|mhc_only|rms_?norm_only|(?:^|_)mhc(?:_mean)?$"
)
_UNFUSED = re.compile(r"un_?fus|non_?fus|not_fus|no_fus")
_SEPARATE = re.compile(
    r"separate|split|un_?fus|non_?fus|not_fus|no_fus|standard_all_?reduce|standard_ar"
    r"|ar_then|all_?reduce_then|then_(?:rms|norm)|explicit"
)
_SIDE = re.compile(
    r"(?:^|_)(?:baseline|base|before|after|old|new|main|master|trunk|upstream|ours|this_pr|pr|"
    r"current|ref|reference|original|orig|proposed|patched|patch|stock|vanilla|prev|previous|"
    r"without|with)(?:_|$)"
)
_QUANT = re.compile(r"fp8|quant|int8|int6|int4|int3|fp4|e4m3")
_ALL_REDUCE = re.compile(
    r"all_?reduce|(?:^|_)ar(?:_|$)|custom_?ar|(?:^|_)ca(?:_|$)|cross_device_reduce"
)

#: AITER's plain all-reduces that push are kernels of families of their own; elsewhere LL is a way
#: in which a library's kernels send. ``plain_ll`` is what ``measure`` calls the arm.
_PUSHED = re.compile(r"(?:^plain|aiter.*)_(ll(?:128)?)(?:_|$)")

#: Families by what a label contains; the first hit counts.
_FAMILIES = (
    ("aiter", re.compile(r"aiter")),
    ("flashinfer", re.compile(r"flashinfer")),
    ("trtllm", re.compile(r"trt_?llm")),
    ("flydsl", re.compile(r"fly_?dsl|(?:^|_)fly(?:_|\d|$)")),
    ("quickreduce", re.compile(r"quick|(?:^|_)qr(?:_|$)")),
    ("torch_symm_mem", re.compile(r"symm_?mem")),
    ("sglang", re.compile(r"sgl|custom_?ar(?:_|$)")),
    ("vllm", re.compile(r"vllm|(?:^|_)ca_[12]")),
    ("mscclpp", re.compile(r"mscclpp|msccl")),
    ("rccl", re.compile(r"rccl")),
    ("nccl", re.compile(r"(?:^|_)nccl")),
    ("iris", re.compile(r"(?:^|_)iris(?:_|$)")),
)


#: A norm by itself, whatever stands above the table.
_LOCAL = re.compile(
    r"(?:local_)?(?:(?:fused_)?add_?)?(?:rms_?|layer_?)?norm(?:_?only|_kernel|_op)?"
    r"(?:_(?:us|ms|ns|p50|median|mean|avg|max|min|latency|time))*"
)


def spoken(text: str) -> str:
    """Return a label in lower case, its words joined by ``_``."""
    return re.sub(r"\W+", "_", plain(text).lower()).strip("_")


#: Words of a label that op, algorithm, family or another cell already say.
_TOLD = re.compile(
    r"[12]|mi\d{3}\w?|[bh]\d{3}|standard|explicit|one|two|single|stage|shot|(?:[12]|one|two)(?:stage|shot)|fus\w*|unfused|non|split|all|ar"
    r"|out|of|in|place|oop|separate\w*|reduce|allreduce|rms|norm|rmsnorm|custom|auto|kernels?|op|gpus?|tp\d+|bf16|fp16"
    r"|fp32|bfloat16|fp8|quant|mxfp4|graph|eager|us|ms|ns|usec|msec|p50|median|mean|avg|max|min|latency|time|aiter"
    r"|flashinfer|trtllm|flydsl|rccl|nccl|vllm|sglang|sgl|iris|mscclpp|quick|symm|mem|cuda|hip|values?"
)


#: A size or ranks in a label, which are cells of their own.
_SETTING = re.compile(
    r"\w+=\S+|\btp[ -]\d{1,3}\b|\b\d{1,3} ?[x×] ?(?:mi|h|b)\d{3}\w?\b"
    r"|\b\d[\d,]* tokens?\b|\bhidden(?:[ _-](?:size|dim))? \d+",
    re.I,
)


def untold(text: str) -> str:
    """Return the words of a label that no other cell of a row says: ``before``, ``v2``."""
    name = spoken(_SETTING.sub(" ", text[:200]))
    return " ".join(w for w in name.split("_") if w and not _TOLD.fullmatch(w))


#: Words that say how a time was taken, and nothing of what ran.
_NEUTRAL = re.compile(
    r"measured|measurements?|results?|observed|actual|device|host|wall|cuda|per|calls?|iter\w*|run"
    r"|runtime|exec\w*|elapsed|duration|lat|med|hidden|size|dim|h|n|m|tokens?|this|our|warm|cold"
    r"|values?|cycles?|\d+|mi\d{3}\w?|[bh]\d{3}\w?"
)


def is_of_another(text: str) -> bool:
    """Whether a column's name has words that may be another op's: ``launch``, ``total``."""
    return any(not _NEUTRAL.fullmatch(word) for word in untold(text).split())


def of_two_arms(text: str) -> bool:
    """Whether a label names two arms or sides, so that it is of ratios: ``1stage/2stage``."""
    name = spoken(text[:200])
    if _ONE.search(name) and _TWO.search(name):
        return True
    sides = re.split(r"[/:÷]", plain(text[:200]))
    if len(sides) != 2 or any(_NORM.search(spoken(side)) for side in sides):
        return False
    first, second = (_read(side) for side in sides)
    if first.side and second.side:
        return True
    said = [tuple(label[:3]) for label in (first, second)]
    return said[0] != said[1] and all(map(any, said))


def read_label(text: str, said: Said) -> Label:
    """Return what a label says. ``said.columns`` decides where it names the label."""
    meaning = named(text, said.columns)
    return _said(text, meaning) if meaning is not None else _read(text[:200])


def named(text: str, columns: Mapping[str, str]) -> str | None:
    """Return what ``--column`` says of a column or label, in any spelling of it, or None."""
    if not columns:
        return None
    if text in columns:
        return columns[text]
    by_word = {spoken(name): meaning for name, meaning in columns.items()}
    return by_word.get(spoken(text)) if spoken(text) else None


@lru_cache(maxsize=4096)
def _read(text: str) -> Label:
    name = spoken(text)
    joined = bool(re.search(r"\+|→|->|&", plain(text)))
    algorithm = "1stage" if _ONE.search(name) else "2stage" if _TWO.search(name) else ""
    if not algorithm and _AUTO.search(name):
        algorithm = "auto"
    family = next((family for family, part in _FAMILIES if part.search(name)), "")
    unfused = bool(_UNFUSED.search(name))
    fused = "fus" in name and not unfused
    if _OTHER.search(name) or _LOCAL.fullmatch(name):
        return Label("other", "", family, used=False)
    if "mhc" in name:
        return Label("fused_ar_mhc", algorithm, family) if fused else Label("other", used=False)
    if "mxfp4" in name and (fused or not _SEPARATE.search(name)):
        return Label("fused_ar_rmsnorm_quant_mxfp4", algorithm, family)
    if _QUANT.search(name):
        of_fp8 = fused and not re.search(r"fp4|int\d", name)
        op = "fused_ar_rmsnorm_quant_fp8" if of_fp8 else "other"
        return Label(op, algorithm if of_fp8 else "", family, used=of_fp8)
    if _SEPARATE.search(name):
        return Label(side=True) if fused else Label("ar_then_rmsnorm", "", family)
    if fused:
        return Label("fused_ar_rmsnorm", algorithm, family)
    if pushed := _PUSHED.search(name):
        return Label("all_reduce", "1stage", kernels.pushing("aiter", pushed[1]))
    if _ALL_REDUCE.search(name) and _NORM.search(name):
        return Label("", algorithm, family, joined=joined)
    if _ALL_REDUCE.search(name):
        return Label("all_reduce", algorithm, family)
    return Label("", algorithm, family, side=not algorithm and bool(_SIDE.search(name)))


def _said(text: str, meaning: str) -> Label:
    if meaning == "-":
        return Label(used=False)
    op, _, algorithm = meaning.partition(":")
    for value, kind in ((op, "op"), (algorithm, "algorithm")):
        if value not in VOCABULARY[kind] and value:
            raise InputError(
                f"--column {shortened(text, 60)}={shortened(meaning, 60)}: unknown {kind} "
                f"'{shortened(value, 60)}'{nearest(value[:60], VOCABULARY[kind])}"
            )
    return Label(op, algorithm)
