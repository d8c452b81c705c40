"""``costmodel models``."""

from __future__ import annotations

from typing import Literal, TypedDict

import click

from ..data import llms
from ..data.deployment import ENGINES, Deployment
from ..data.engine_calls import FusedCalls, fused_calls
from ..show.listing import Listing
from . import options


class ModelRecord(TypedDict):
    """One model of the catalogue; ``dtype`` is that of its activations.

    ``source`` is where the sizes stand and ``evidence`` what kind of place that is. ``op`` is what
    its blocks end in: fused, mhc or plain (:mod:`costmodel.data.architectures`), of which a step
    has ``blocks_per_step``; ``calls_per_step`` are those that could run the fused op, and
    ``why_none`` says why none does. ``vllm_calls``, ``sglang_calls`` and ``atom_calls`` are those
    that each engine fuses, null where that is not known, with ``calls_from`` for the reason and its
    source. ``world_sizes`` divide ``heads``; both null where the source does not say.
    """

    name: str
    hf_id: str
    hidden_size: int
    num_layers: int
    dtype: str
    source: str
    evidence: str
    note: str
    family: str
    norm: str
    op: str
    blocks_per_step: int
    calls_per_step: int
    why_none: str
    vllm_calls: int | None
    sglang_calls: int | None
    atom_calls: int | None
    calls_from: dict[str, str]
    heads: int | None
    world_sizes: list[int] | None
    aliases: list[str]


class ModelsRecord(TypedDict):
    """``costmodel/models/1``."""

    schema: Literal["costmodel/models/1"]
    models: list[ModelRecord]


@click.command()
@options.listing_format
def command(style: str) -> None:
    """List the models of the catalogue: sizes, fused calls a step in each engine, sources.

    Any of the names goes with --model, as do Hugging Face ids; for another model give --config
    config.json.

    \b
    costmodel models
    costmodel models --format csv
    """
    records = tuple(map(_record, llms.catalogue()))
    shown = {
        "name": "model", "hidden_size": "hidden", "num_layers": "layers", "dtype": "dtype",
        "world_sizes": "ranks", "op": "op", "calls_per_step": "calls a step", "vllm_calls": "vLLM",
        "sglang_calls": "SGLang", "atom_calls": "ATOM", "norm": "norm", "evidence": "evidence",
    }  # fmt: skip
    click.echo(Listing("costmodel/models/1", records, shown).render(style))


def _record(llm: llms.LLM) -> ModelRecord:
    by_engine = {name: fused_calls(llm, Deployment(engine=name)) for name in ENGINES}
    return {
        "name": llm.name,
        "hf_id": llm.hf_id,
        "hidden_size": llm.hidden_size,
        "num_layers": llm.num_layers,
        "dtype": llm.dtype,
        "source": llm.source,
        "evidence": llm.evidence,
        "note": llm.note,
        "family": llm.family,
        "norm": llm.norm,
        "op": llm.op,
        "blocks_per_step": llm.blocks,
        "calls_per_step": llm.calls_per_step,
        "why_none": llm.why_none,
        "vllm_calls": _known(by_engine["vllm"]),
        "sglang_calls": _known(by_engine["sglang"]),
        "atom_calls": _known(by_engine["atom"]),
        "calls_from": {e: f"{c.why} ({c.evidence}: {c.source})" for e, c in by_engine.items()},
        "heads": llm.heads,
        "world_sizes": None if llm.world_sizes is None else list(llm.world_sizes),
        "aliases": list(llm.aliases),
    }


def _known(calls: FusedCalls) -> int | None:
    return None if calls.at_most else calls.per_step
