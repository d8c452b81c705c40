"""Architectures of language models: what stands between an all-reduce and the next block.

AITER's fused op is an all-reduce, a residual add and RMSNorm in this order. A decoder block that
ends in anything else runs another op. ``facts/architectures.csv`` says for each ``model_type`` of a
Hugging Face configuration which norm it has, where the norm stands and how many blocks a layer has,
each with the modelling file it was read in.

>>> find("gemma2").op
'plain'
"""

from __future__ import annotations

import re
from functools import cache

from msgspec import Struct

from . import facts

#: Where the norm stands. Only ``pre`` with RMSNorm is the fused op.
PRE, POST, SANDWICH, PARALLEL, SCALED, STREAMS, ATTENTION_RESIDUALS, CONVOLVED = (
    "pre", "post", "sandwich", "parallel", "scaled", "streams", "attention_residuals", "convolved",
)  # fmt: skip

#: What happens between the all-reduce and the next block, where it is not the fused op.
BETWEEN = {
    POST: "post-norm: a norm stands between the all-reduce and the residual add",
    SANDWICH: "norms before and after each block: a post-norm stands between the all-reduce and "
    "the residual add",
    PARALLEL: "attention and MLP run in parallel on one norm",
    SCALED: "scaled residual: a factor, in some with post-norm, stands between the all-reduce and "
    "the norm",
    STREAMS: "hyper-connections (mHC): several residual streams are mixed after the all-reduce",
    ATTENTION_RESIDUALS: "attention residuals take the place of the residual add",
    CONVOLVED: "a short convolution stands between the all-reduce and the residual add",
}

#: Ops that a block can end in: AITER's fused all-reduce + RMSNorm, its fused all-reduce + mHC
#: (``ROCm/aiter@e4048607a535ace3a2b51ded31b1c8c2d45c0879:aiter/ops/custom_all_reduce.py`` has it),
#: or a plain all-reduce.
FUSED, MHC, PLAIN = "fused", "mhc", "plain"


class Architecture(Struct, frozen=True):
    """How the decoder layers of a ``model_type`` are built.

    ``family`` joins the types that engines treat alike. ``experts`` says whether some blocks are
    mixtures of experts.
    """

    model_type: str
    family: str
    norm: str
    residual: str
    blocks_per_layer: int
    experts: bool
    source: str
    note: str = ""

    @property
    def op(self) -> str:
        """What a block ends in: ``fused``, ``mhc`` or ``plain``."""
        return op_of(self.norm, self.residual)


def op_of(norm: str, residual: str) -> str:
    """Return what a block ends in whose norm is of a kind and stands at a place."""
    if residual == STREAMS:
        return MHC
    return FUSED if residual == PRE and norm.startswith("RMSNorm") else PLAIN


def why_not_fused(norm: str, residual: str) -> str:
    """Say why blocks of this kind make no fused call; "" where they do."""
    if op_of(norm, residual) == FUSED:
        return ""
    other = "" if norm.startswith("RMSNorm") else f"{norm}, not RMSNorm"
    return "; ".join(filter(None, [other, BETWEEN.get(residual, "")]))


@cache
def catalogue() -> dict[str, Architecture]:
    """Return every architecture of ``facts/architectures.csv`` by its ``model_type``."""
    return {
        row["model_type"]: Architecture(
            row["model_type"], row["family"], row["norm"], row["residual"],
            int(row["blocks_per_layer"]), row["experts"] == "yes", row["source"], row["note"],
        )
        for row in facts.rows("architectures.csv")
    }  # fmt: skip


def find(*names: str | None) -> Architecture | None:
    """Return the architecture of the first name that is known, a model type or a class name.

    ``LlamaForCausalLM`` and ``Llama`` are the type ``llama``; a type's ``_text`` part is the type.
    """
    for name in filter(None, names):
        key = _key(name)
        found = _by_key().get(key) or _by_key().get(re.sub(r"(text|textmodel|model)$", "", key))
        if found is not None:
            return found
    return None


@cache
def _by_key() -> dict[str, Architecture]:
    return {_key(model_type): found for model_type, found in catalogue().items()}


def _key(name: str) -> str:
    plain = re.sub(r"(For(CausalLM|ConditionalGeneration)\w*|LMHeadModel|MoeLM)$", "", name.strip())
    return re.sub(r"[^a-z0-9]", "", plain.lower())
