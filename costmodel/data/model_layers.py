"""The layers of a configuration: a number, a list or a pattern, and how many blocks they have.

A block is what ends in an all-reduce: attention, Mamba, an MLP or a mixture of experts. Most layers
have two. Where a list says that each layer is one block (Nemotron-H), or that layers lack one
(``block_configs`` with no-op attention), the list counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import Struct

from ..errors import InputError
from .architectures import Architecture

#: Keys that state how many layers there are; some configurations list the layers under them.
NUMBERS = (
    "num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_transformer_layers",
    "num_decoder_layers", "decoder_layers", "num_blocks", "n_blocks", "layers", "blocks",
)  # fmt: skip

#: Keys that list what each layer is. A pattern is text with a letter a layer.
PATTERNS = ("hybrid_override_pattern", "hybrid_layer_pattern", "layers_pattern")
LISTS = (
    "layers_block_type", "block_configs", "layer_types", "layers", "blocks", "layer_configs",
    "layer_block_types", "layers_types", "block_types", "layer_type_list",
)  # fmt: skip

#: Words for a layer that is an MLP or a mixture of experts alone: then every layer is one block.
FEED_FORWARD = ("mlp", "moe", "ffn", "feed_forward", "feedforward", "dense_mlp", "experts")

#: What a pattern holds beside its letters: stages of a pipeline; after a slash, prediction layers.
NO_LAYER = "| "
PREDICTION = "/"

#: Sizes above the one are no sizes of a model, layers above the other no layers.
LARGEST, MOST = 1 << 24, 100_000


class Layers(Struct, frozen=True):
    """``count`` layers with ``blocks`` blocks together; ``note`` says where that is unusual."""

    KEYS: ClassVar[tuple[str, ...]] = (*NUMBERS, *PATTERNS, *LISTS)

    count: int
    blocks: int
    note: str = ""


def layers_of(part: Mapping[str, Any], built: Architecture | None, where: str) -> Layers | None:
    """Return the layers of a configuration, None where it states none."""
    per = built.blocks_per_layer if built else 2
    stated = _number(part, where)
    pattern = next((str(part[k]) for k in PATTERNS if isinstance(part.get(k), str)), "")
    if pattern:
        letters = pattern.partition(PREDICTION)[0]
        count = sum(letter not in NO_LAYER for letter in letters)
        return Layers(count, count, "every layer is one block") if count else None
    listed = _listed(part)
    if built and built.family == "longcat_flash" and stated:
        # transformers derives num_hidden_layers: two for each of num_layers, which wins here.
        half = stated if part.get("num_layers") else max(1, stated // 2)
        return Layers(half, per * half, built.note)
    count = stated or len(listed)
    if not count:
        return None
    kinds = listed[:count]
    if any(isinstance(k, Mapping) for k in kinds):
        blocks = sum(_blocks_of(k, per) for k in kinds) + per * (count - len(kinds))
        note = f"{blocks} blocks in {count} layers by its list" if blocks != per * count else ""
        return Layers(count, blocks, note)
    if any(isinstance(k, str) and k.lower() in FEED_FORWARD for k in kinds):
        return Layers(count, count, "every layer is one block")
    gated = part.get("cross_attention_layers")
    if isinstance(gated, list) and gated and len(gated) < count:
        return Layers(
            count, per * (count - len(gated)), f"{len(gated)} cross-attention layers gate the add"
        )
    return Layers(count, per * count, built.note if built and per != 2 else "")


def _number(part: Mapping[str, Any], where: str) -> int | None:
    """Return the stated number of layers; a list in its place counts as its length."""
    # LongCat's num_layers is its own number, num_hidden_layers a derived one.
    longcat = str(part.get("model_type", "")).startswith("longcat") and part.get("num_layers")
    for key in ("num_layers", *NUMBERS) if longcat else NUMBERS:
        value = part.get(key)
        if value is None:
            continue
        if isinstance(value, list):
            value = len(value)
        number = whole_number(value, f"{where}{key}")
        if number > MOST:
            raise InputError(f"{where}{key}: expected `int` <= {MOST}; give a config.json")
        return number
    return None


def _listed(part: Mapping[str, Any]) -> Sequence[Any]:
    """Return the first list that says what each layer is."""
    for key in (*LISTS, *PATTERNS):
        value = part.get(key)
        if isinstance(value, list) and value:
            return value[:MOST]
    return ()


def _blocks_of(layer: Any, per: int) -> int:
    """Return the blocks of one listed layer: its parts that are not switched off."""
    if not isinstance(layer, Mapping):
        return per
    parts = [
        v for k, v in layer.items()
        if isinstance(v, Mapping) and k.lower() in ("attention", "mamba", "linear_attention",
                                                    *FEED_FORWARD)
    ]  # fmt: skip
    if parts:
        return sum(not (p.get("no_op") or p.get("skip")) for p in parts)
    kind = layer.get("block_type") or layer.get("type") or layer.get("layer_type")
    return 1 if isinstance(kind, str) else per


def whole_number(value: Any, where: str) -> int:
    """Return a size; raise :class:`InputError` for what is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        kind = {str: "str", bool: "bool", list: "array", dict: "object"}.get(type(value), "float")
        raise InputError(f"{where}: expected `int | null`, got `{kind}`; give a config.json")
    if not 1 <= value <= LARGEST:
        bound = ">= 1" if value < 1 else f"<= {LARGEST}"
        raise InputError(f"{where}: expected `int` {bound}; give a Hugging Face config.json")
    return value
