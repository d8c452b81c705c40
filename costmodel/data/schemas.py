"""What is read of other projects' JSON. A module of its own, since msgspec takes time to import."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

Size = Annotated[int, Meta(ge=1)]


class TextConfig(Struct):
    """The keys of a Hugging Face configuration that are read, each under all its names."""

    hidden_size: Size | None = None
    d_model: Size | None = None
    n_embd: Size | None = None
    num_hidden_layers: Size | None = None
    n_layers: Size | None = None
    n_layer: Size | None = None
    num_layers: Size | None = None
    torch_dtype: str | None = None
    dtype: str | None = None


class Config(TextConfig):
    """A ``config.json``; multimodal ones keep the language model one level down."""

    text_config: TextConfig | None = None
    llm_config: TextConfig | None = None
    language_config: TextConfig | None = None
    model_type: str | None = None
    name: str | None = field(default=None, name="_name_or_path")
