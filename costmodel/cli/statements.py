"""``costmodel statements``."""

from __future__ import annotations

from typing import Literal, TypedDict

import click
from msgspec.structs import asdict

from ..data import statements
from ..show.listing import Listing
from ..show.statements import says
from . import options


class StatedRecord(TypedDict):
    """One statement, in bytes of the input on one rank.

    ``comparable``: whether it is about the 1-stage and the 2-stage that a recommendation chooses
    between. ``kind`` says what ``hi_bytes`` is; ``lo_bytes`` is null but for a window. ``says`` is
    that in words, ``words`` what the source says beside it.
    """

    who: str
    url: str
    date: str
    gpu: str
    gpu_evidence: str
    arch: str
    world_size: int
    op: str
    compared: str
    kernel_family: str
    kernel_version: str
    lo_bytes: int | None
    hi_bytes: int
    kind: str
    comparable: bool
    words: str
    says: str


class StatementsRecord(TypedDict):
    """``costmodel/statements/1``."""

    schema: Literal["costmodel/statements/1"]
    statements: list[StatedRecord]


@click.command()
@options.listing_format
def command(style: str) -> None:
    """List the cutoffs and crossovers that others state without their tables.

    They stand beside what costmodel recommend says of the same GPU, op and ranks, with a flag where
    its interval does not hold them. None of them is fitted.

    \b
    costmodel statements
    costmodel statements --format json
    """
    records = tuple({**asdict(s), "says": says(s)} for s in statements.published())
    shown = {
        "who": "who", "gpu": "GPU", "world_size": "ranks", "op": "op", "compared": "compared",
        "says": "says",
    }  # fmt: skip
    click.echo(Listing("costmodel/statements/1", records, shown, link="url").render(style))
