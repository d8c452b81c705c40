"""Large language models that people serve on Instinct: hidden size, layers, dtype.

``facts/llms.csv`` lists them, each with the Hugging Face ``config.json`` that states the values.
``dtype`` is that of the activations, which the all-reduce moves; quantised weights do not change
it. A model that is not listed can be read from its own ``config.json``.

>>> find("GPT-OSS-120B").hidden_size
2880
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import InputError, nearest
from ..files import read_json
from ..units import dtype_name
from . import facts

#: Fused calls of one decoder layer: after attention and after the MLP.
CALLS_PER_LAYER = 2


@dataclass(frozen=True)
class LLM:
    """One model. ``source`` is where the values stand; ``note`` says what is special."""

    name: str
    hf_id: str
    hidden_size: int
    num_layers: int
    dtype: str
    source: str
    note: str = ""
    fused_calls: int | None = None

    @property
    def calls_per_step(self) -> int:
        """Fused all-reduce + RMSNorm calls in one decode step: those listed, or two a layer.

        0 for models whose all-reduce no residual add and RMSNorm follow.
        """
        return CALLS_PER_LAYER * self.num_layers if self.fused_calls is None else self.fused_calls


@cache
def catalogue() -> tuple[LLM, ...]:
    """Return every model of ``facts/llms.csv``, in the file's order."""
    return tuple(
        LLM(
            row["name"],
            row["hf_id"],
            int(row["hidden_size"]),
            int(row["num_layers"]),
            row["dtype"],
            row["source"],
            row["note"],
            int(row["fused_calls_per_step"]) if row.get("fused_calls_per_step") else None,
        )
        for row in facts.rows("llms.csv")
    )


def find(name: str) -> LLM:
    """Return a model by its name or Hugging Face id, in any case.

    Spaces and underscores count as hyphens, and the organisation of an id may be left out.
    Raises :class:`InputError` with the nearest names for an unknown one.
    """
    known: dict[str, LLM] = {}
    for llm in catalogue():
        for alias in (llm.name, llm.hf_id, llm.hf_id.split("/")[-1]):
            known.setdefault(_key(alias), llm)
    found = known.get(_key(name))
    if found is not None:
        return found
    hint = nearest(_key(name), [llm.name for llm in catalogue()])
    raise InputError(
        f"model '{name}' is not in the catalogue{hint}; for another one give --config config.json"
    )


def hidden_dims() -> list[int]:
    """Return the hidden sizes of listed models that make the fused call, ascending, each once."""
    return sorted({llm.hidden_size for llm in catalogue() if llm.calls_per_step})


def from_config(path: str | Path) -> LLM:
    """Read a local Hugging Face ``config.json``.

    Raises :class:`InputError`, naming file and key, for a missing file, text that is not JSON, and
    a key that is missing or not a whole number of at least 1.
    """
    from .schemas import Config

    config = read_json(path, Config, "a Hugging Face config.json", foreign=True)
    inner = (config.text_config, config.llm_config, config.language_config)
    text = config if config.hidden_size else next(filter(None, inner), config)
    hidden = text.hidden_size or text.d_model or text.n_embd
    layers = text.num_hidden_layers or text.n_layers or text.n_layer or text.num_layers
    if hidden is None or layers is None:
        missing = "num_hidden_layers" if hidden else "hidden_size"
        raise InputError(f"{path}: no '{missing}', neither on top nor in text_config")
    stated = text.torch_dtype or text.dtype or config.torch_dtype or "bfloat16"
    dtype = dtype_name(stated) or "bf16"  # 8-bit weights: their activations stay bf16
    name = config.name or config.model_type or Path(path).stem
    return LLM(name, "", hidden, layers, dtype, str(path))


def _key(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip().lower())
