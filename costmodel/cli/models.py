"""``costmodel models``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal, TypedDict

import click

from ..data import llms
from ..show.listing import Listing
from . import options


class ModelRecord(TypedDict):
    """One model of the catalogue; ``dtype`` is that of its activations."""

    name: str
    hf_id: str
    hidden_size: int
    num_layers: int
    dtype: str
    source: str
    note: str
    calls_per_step: int


class ModelsRecord(TypedDict):
    """``costmodel/models/1``."""

    schema: Literal["costmodel/models/1"]
    models: list[ModelRecord]


@click.command()
@options.listing_format
def command(style: str) -> None:
    """List the models of the catalogue, each with the config.json that states its values.

    Any of the names goes with --model; for another model give --config config.json.

    \b
    costmodel models
    costmodel models --format csv
    """
    records = []
    for llm in llms.catalogue():
        record = asdict(llm)
        del record["fused_calls"]  # what a step's calls are counted from, where it is listed
        records.append({**record, "calls_per_step": llm.calls_per_step})
    shown = {
        "name": "model", "hidden_size": "hidden", "num_layers": "layers",
        "calls_per_step": "calls a step", "dtype": "dtype", "note": "note",
    }  # fmt: skip
    click.echo(Listing("costmodel/models/1", tuple(records), shown).render(style))
