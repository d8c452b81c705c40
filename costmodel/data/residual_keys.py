"""Keys of a configuration that say outright what stands between an all-reduce and the next block.

They win over what the architecture is known for: Granite with ``residual_multiplier`` 1 adds its
residual plainly, a Llama with it does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from .architectures import (
    ATTENTION_RESIDUALS,
    CONVOLVED,
    PARALLEL,
    POST,
    PRE,
    SANDWICH,
    SCALED,
    STREAMS,
    Architecture,
)

Reader = Callable[[Mapping[str, Any]], "bool | None"]

LAYER_NORM, RMS_NORM = "LayerNorm", "RMSNorm"

#: Keys of dropout and initialisation that only look like a scale.
UNRELATED = re.compile(r"dropout|pdrop|prob|init|logit|rope|eps$|lora|router|embed|expert", re.I)


class StatedNorm(Struct, frozen=True):
    """Norm and place of it, and a note where the file does not say and they are taken."""

    norm: str
    residual: str
    note: str = ""


def said(part: Mapping[str, Any], built: Architecture | None) -> StatedNorm:
    """Return what a configuration's blocks are like: its own keys, else its architecture."""
    norm = _norm(part, built)
    residual = _residual(part, built)
    note = ""
    if built is None and not norm:
        note = "the architecture is not known: pre-norm RMSNorm is taken"
    elif built is None:
        note = "the architecture is not known: the residual is taken to be added plainly"
    return StatedNorm(norm or RMS_NORM, residual, note if residual == PRE else "")


def _residual(part: Mapping[str, Any], built: Architecture | None) -> str:
    """Return where the norm stands; the kinds that change most come first."""
    known = built.residual if built else PRE
    for kind, holds in KINDS:
        if (found := holds(part)) is not None:
            if found:
                return kind
            if known == kind != SCALED:  # a factor of 1 leaves MiniMax's post-norm as it is
                known = PRE
    return known


def _norm(part: Mapping[str, Any], built: Architecture | None) -> str:
    """Return the norm; "" where neither keys nor architecture say."""
    for key in ("norm_type", "normalization", "normalization_type", "layer_norm_type",
                "layernorm_type", "norm", "norm_class"):  # fmt: skip
        value = part.get(key)
        if isinstance(value, str):
            plain = re.sub(r"[^a-z]", "", value.lower())
            if "rms" in plain:
                return built.norm if built and built.norm.startswith(RMS_NORM) else RMS_NORM
            if "layernorm" in plain:
                return LAYER_NORM
    for key in ("use_rms_norm", "use_rmsnorm", "rms_norm", "rmsnorm"):
        if isinstance(part.get(key), bool):
            return RMS_NORM if part[key] else LAYER_NORM
    if built:
        return built.norm
    if any("rms" in key.lower() and part[key] for key in part):
        return RMS_NORM
    layer_norm = any(re.match(r"layer_?norm_eps|layer_norm_epsilon", key) for key in part)
    return LAYER_NORM if layer_norm else ""


def _number(value: Any) -> float | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value


def _switch(pattern: str) -> Reader:
    """Return a reader of keys that are on or off: None where no key matches."""
    named = re.compile(pattern, re.IGNORECASE)

    def holds(part: Mapping[str, Any]) -> bool | None:
        found = [bool(v) for k, v in part.items() if named.search(k) and not UNRELATED.search(k)]
        return any(found) if found else None

    return holds


def _factor(pattern: str) -> Reader:
    """Return a reader of factors: whether one of them is not 1, None where no key matches."""
    named = re.compile(pattern, re.IGNORECASE)

    def holds(part: Mapping[str, Any]) -> bool | None:
        found = [
            number != 1 for k, v in part.items()
            if named.search(k) and not UNRELATED.search(k) and (number := _number(v)) is not None
        ]  # fmt: skip
        return any(found) if found else None

    return holds


def _first(*readers: Reader) -> Reader:
    """Return a reader of what the first of several says."""

    def holds(part: Mapping[str, Any]) -> bool | None:
        return next((found for r in readers if (found := r(part)) is not None), None)

    return holds


def _word(keys: str, words: str) -> Reader:
    """Return a reader of keys whose value is a word: None where no key is there."""
    named, meant = re.compile(keys, re.IGNORECASE), re.compile(words, re.IGNORECASE)

    def holds(part: Mapping[str, Any]) -> bool | None:
        found = [v for k, v in part.items() if named.fullmatch(k) and isinstance(v, str)]
        return any(meant.search(v) for v in found) or None if found else None

    return holds


_PLACE = r"(norm|layernorm|layer_norm)_(position|placement|location|order|style|scheme)"

#: Kinds with the keys that say them. A reader gives True, False (said not to be), or None.
KINDS: tuple[tuple[str, Reader], ...] = (
    (STREAMS, _first(
        _switch(r"^(use_|enable_|with_)?(m|i)?hc(_enabled)?$"
                r"|^(use_|enable_)?(\w+_)?hyper_?connections?(_config|_enabled)?$"),
        _factor(r"^(m|i)?hc_(mult|rate|streams|num|expansion)|^(num|n)_(m|i)?hc"
                r"|residual_streams$|hyper_?conn\w*_(rate|mult|streams|num|expansion)"),
    )),
    (ATTENTION_RESIDUALS, _switch(r"attn_res(_|$|idual)|attention_residuals?(_(block|size)|$)")),
    (CONVOLVED, _switch(r"sconv")),
    (SCALED, _factor(r"^resid(ual)?_(multiplier|scale|scaling|alpha|weight|factor)|scale_depth$"
                     r"|depth_scale$|_(alpha|beta)_factor$|^layernorm_\w*_(alpha|beta)$"
                     r"|^deepnorm_(alpha|beta)$|layer_?scale(_value)?$")),
    (SCALED, _switch(r"^(use_)?(deep_?norm|rezero|layer_?scale)$")),
    (SANDWICH, _switch(r"^(use_)?(sandwich|dual|peri|post_attention|post_block|post_mlp|post)"
                       r"_?(layer)?norms?$")),
    (SANDWICH, _word(_PLACE, r"sandwich|peri|dual|both|pre_?post")),
    # ``post_layer_norm`` is ChatGLM's norm behind the last layer, and Megatron's.
    (POST, _switch(r"^(norm_after|reordered_norm|postnorm|post_layernorm"
                   r"|apply_residual_connection_post_layernorm)$")),
    (POST, _word(_PLACE, r"post|after")),
    (POST, lambda part: _off(part, ("pre_norm", "prenorm", "do_layer_norm_before",
                                    "normalize_before", "norm_first"))),
    (PARALLEL, _switch(r"^(use_)?parallel_(attn|residual|block|attention|attn_mlp\w*)$")),
    (PARALLEL, _word(r"(transformer_)?block_type", r"parallel")),
)  # fmt: skip


def _off(part: Mapping[str, Any], keys: tuple[str, ...]) -> bool | None:
    """Whether a key that says "before" is off: None where none is there."""
    found = [part[k] for k in keys if isinstance(part.get(k), bool)]
    return not all(found) if found else None
