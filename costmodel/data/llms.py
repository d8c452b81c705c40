"""Large language models that people serve on Instinct: sizes, architecture, blocks of a step.

``facts/llms.csv`` lists them, each with the place where its sizes stand and the class of evidence
of that place. ``dtype`` is that of the activations, which the all-reduce moves; quantised weights
do not change it. A model that is not listed can be read from its own ``config.json``.

>>> find("GPT-OSS-120B").hidden_size
2880
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from msgspec import Struct

from . import facts, model_names
from .architectures import FUSED, op_of, why_not_fused
from .architectures import catalogue as architectures

#: World sizes that engines shard over, of which those that divide a model's heads are usable.
WORLD_SIZES = (2, 4, 8)


class LLM(Struct, frozen=True):
    """One model. ``source`` is where the sizes stand; ``note`` says what is special.

    ``blocks`` are those of one decode step that end in an all-reduce. ``heads`` is None where the
    source does not say. ``family`` is that of :mod:`.architectures`, "" for one that is not known.
    """

    name: str
    hf_id: str
    hidden_size: int
    num_layers: int
    dtype: str
    source: str
    note: str = ""
    family: str = ""
    norm: str = "RMSNorm"
    residual: str = "pre"
    blocks: int = 0
    heads: int | None = None
    experts: bool = False
    evidence: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def op(self) -> str:
        """What a block ends in: ``fused``, ``mhc`` or ``plain`` (:mod:`.architectures`)."""
        return op_of(self.norm, self.residual)

    @property
    def calls_per_step(self) -> int:
        """Blocks of a decode step that end in the fused op: what AITER could run, in any engine.

        How many of them an engine fuses says :mod:`.engine_calls`.
        """
        return self.blocks if self.op == FUSED else 0

    @property
    def why_none(self) -> str:
        """Why the model makes no fused call; "" where it does."""
        return why_not_fused(self.norm, self.residual)

    @property
    def world_sizes(self) -> tuple[int, ...] | None:
        """The world sizes that divide the attention heads; None where those are not known."""
        return None if not self.heads else tuple(n for n in WORLD_SIZES if self.heads % n == 0)


@cache
def catalogue() -> tuple[LLM, ...]:
    """Return every model of ``facts/llms.csv``, in the file's order."""
    return tuple(map(_of_row, facts.rows("llms.csv")))


def _of_row(row: dict[str, str]) -> LLM:
    built = architectures()[row["family"]]
    layers = int(row["num_layers"])
    return LLM(
        row["name"],
        row["hf_id"],
        int(row["hidden_size"]),
        layers,
        row["dtype"] or "bf16",
        row["source"],
        row["note"] if row["dtype"] else "; ".join(filter(None, [row["note"], "bf16 is taken"])),
        family=built.family,
        norm=built.norm,
        residual=built.residual,
        blocks=int(row["blocks"] or built.blocks_per_layer * layers),
        heads=int(row["heads"]) if row["heads"] else None,
        experts=built.experts,
        evidence=row["evidence"],
        aliases=tuple(row["aliases"].split()),
    )


def find(name: str) -> LLM:
    """Return a model by its name or Hugging Face id, with or without the organisation.

    Case, spaces, dots, underscores and hyphens do not matter (:mod:`.model_names`). Raises
    :class:`InputError` with the names of the same family for an unknown one.
    """
    found = _index().get(model_names.key(name))
    if found is None:
        raise model_names.unknown(name, [llm.name for llm in catalogue()])
    return found


def several(names: str) -> tuple[str, ...]:
    """Return the names of models in a list with commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


@cache
def _index() -> dict[tuple[str, ...], LLM]:
    known: dict[tuple[str, ...], LLM] = {}
    for llm in catalogue():
        for alias in (llm.name, llm.hf_id, *llm.aliases):
            key = model_names.key(alias)
            known.setdefault(key, llm)
            if "/" in alias:
                known.setdefault(key[1:], llm)  # without the organisation
    return known


def hidden_dims() -> list[int]:
    """Return the hidden sizes of listed models that make the fused call, ascending, each once."""
    return sorted({llm.hidden_size for llm in catalogue() if llm.calls_per_step})


def from_config(path: str | Path) -> LLM:
    """Read a local Hugging Face ``config.json``, whatever its kind (:mod:`.model_config`).

    Raises :class:`InputError`, naming file and key, for a missing file, text that is not JSON, and
    a size that is missing or not a whole number of at least 1.
    """
    from . import model_config

    read = model_config.read(path)
    return LLM(
        read.name,
        "",
        read.hidden_size,
        read.num_layers,
        read.dtype,
        str(path),
        read.note,
        family=read.family,
        norm=read.norm,
        residual=read.residual,
        blocks=read.blocks,
        heads=read.heads,
        experts=read.experts,
        evidence="config.json",
    )
