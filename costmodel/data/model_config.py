"""A Hugging Face ``config.json`` of any kind: sizes, layers, and what its blocks end in.

Sizes may stand on top or in the part that describes the language model (``text_config``,
``thinker_config.text_config``). Layers are a number or a list of what each one is. What a block
ends in follows from the architecture (:mod:`.architectures`) and from keys that say it outright,
which win. Key names are those of transformers 5.24.0 and of the configurations that the catalogue
names as sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..errors import InputError, one_line
from ..files import read_json
from ..units import dtype_name
from . import architectures, residual_keys
from .model_layers import LARGEST, Layers, layers_of, whole_number

#: Every name under which configurations state a size.
HIDDEN = ("hidden_size", "d_model", "n_embd", "n_embed", "dim", "model_dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")

#: The parts that describe the language model, the likeliest first; others are looked at after them.
PARTS = (
    "text_config", "llm_config", "language_config", "language_model_config", "thinker_config",
    "lm_config", "text_model_config", "language_model", "text_model", "decoder_config", "decoder",
    "model_config", "transformer_config", "backbone_config",
)  # fmt: skip

#: Parts that hold sizes of something else than the language model.
OTHER_PARTS = (
    "vision", "visual", "vit", "image", "video", "audio", "speech", "acoustic", "talker",
    "code2wav", "token2wav", "vocoder", "encoder", "projector", "adapter", "connector", "resampler",
    "quantization", "compression", "draft", "eagle", "mtp", "speculative", "assistant", "sam",
    "rope", "linear_attn", "generation",
)  # fmt: skip

#: How deep parts may stand in one another.
DEPTH = 4

#: Files whose name says nothing about the model.
PLAIN_NAMES = ("config", "params", "configuration", "hf_config", "model_config")


class ModelConfig(Struct, frozen=True):
    """What a ``config.json`` says, with what was taken where it is silent (``note``)."""

    name: str
    hidden_size: int
    num_layers: int
    blocks: int
    dtype: str
    heads: int | None
    family: str
    norm: str
    residual: str
    experts: bool
    note: str


def read(path: str | Path) -> ModelConfig:
    """Read a configuration; raise :class:`InputError` with file and key where that cannot be."""
    top = read_json(path, dict[str, Any], "a Hugging Face config.json", foreign=True)
    if top.get("is_encoder_decoder") is True:
        raise InputError(
            f"{path}: an encoder with a decoder, whose blocks make no fused call in any engine "
            "that is known here; give the config.json of a decoder-only language model"
        )
    part, where = _language_model(top, str(path))
    hidden = _size(part, HIDDEN, where)
    built = architectures.find(
        _text(part, "model_type"), _text(top, "model_type"), *_classes(part), *_classes(top)
    )
    layers = layers_of(part, built, where)
    if hidden is None or layers is None:
        missing = "num_hidden_layers" if hidden else "hidden_size"
        raise InputError(f"{path}: no '{missing}', neither on top nor in text_config")
    said = residual_keys.said(part, built)
    notes = [layers.note, said.note]
    return ModelConfig(
        name=_name(path, part, top),
        hidden_size=hidden,
        num_layers=layers.count,
        blocks=layers.blocks,
        dtype=_dtype(part, top),
        heads=_heads(part),
        family=built.family if built else "",
        norm=said.norm,
        residual=said.residual,
        experts=_experts(part, built),
        note="; ".join(filter(None, notes)),
    )


def _language_model(top: Mapping[str, Any], path: str) -> tuple[Mapping[str, Any], str]:
    """Return the part that describes the language model, and what errors put before its keys.

    The likeliest that has a hidden size and layers, right or wrong; else that with a hidden size.
    """
    parts = [((), top), *_parts(top)]
    for wanted in ((HIDDEN, Layers.KEYS), (HIDDEN,)):
        for keys, part in parts:
            if all(any(part.get(k) is not None for k in names) for names in wanted):
                return part, f"{path}: {''.join(f'{key}.' for key in keys)}"
    return top, f"{path}: "


def _parts(
    config: Mapping[str, Any], keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Give the parts of a configuration that may be the language model, the likeliest first."""
    if len(keys) == DEPTH:
        return
    likely = [k for k in PARTS if k in config]
    others = [
        k for k in config if k not in PARTS and not any(word in k.lower() for word in OTHER_PARTS)
    ]
    for key in (*likely, *others):
        part = config[key]
        if isinstance(part, Mapping):
            yield (*keys, key), part
            yield from _parts(part, (*keys, key))


def _size(part: Mapping[str, Any], names: tuple[str, ...], where: str) -> int | None:
    """Return the size under one of its names; None where there is none."""
    for key in names:
        value = part.get(key)
        if value is None:
            continue
        return whole_number(value, f"{where}{key}")
    return None


def _heads(part: Mapping[str, Any]) -> int | None:
    """Return the attention heads; None where they are not one number for all layers."""
    for key in HEADS:
        value = part.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST:
            return value
    return None


def _dtype(part: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    """Return the dtype of the activations: that stated, or bf16, as of 8-bit weights."""
    for config in (part, top):
        for key in ("torch_dtype", "dtype"):
            stated = config.get(key)
            if isinstance(stated, str) and len(stated) < 40:
                return dtype_name(stated) or "bf16"
    return "bf16"


def _experts(part: Mapping[str, Any], built: architectures.Architecture | None) -> bool:
    """Whether blocks are mixtures of experts: by the number of experts, else the architecture."""
    for key, value in part.items():
        counts = key.startswith(("num_", "n_", "moe_num_")) and key.endswith(
            ("experts", "num_experts")
        )
        if counts and isinstance(value, int) and "shared" not in key and "group" not in key:
            return value > 1
    return bool(built and built.experts)


def _classes(config: Mapping[str, Any]) -> list[str]:
    listed = config.get("architectures")
    return [c for c in listed if isinstance(c, str)][:4] if isinstance(listed, list) else []


def _text(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key)
    return value[:100] if isinstance(value, str) else ""


def _name(path: str | Path, part: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    """Return a name for the model: the file's own, its type, its class.

    Never ``_name_or_path``, which may be somebody's private path.
    """
    stem = Path(path).stem
    own = "" if stem.lower() in PLAIN_NAMES or not stem else stem
    named = (own, _text(top, "model_type"), _text(part, "model_type"), *_classes(top), stem)
    return one_line(next(filter(None, named), "config"))[:60]
