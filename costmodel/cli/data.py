"""``costmodel data``."""

from __future__ import annotations

from typing import Literal, TypedDict

import click

from ..calibration.row_accounts import AccountRecord, accounts
from ..show.listing import Listing
from . import options


class DataRecord(TypedDict):
    """``costmodel/data/1``."""

    schema: Literal["costmodel/data/1"]
    data: list[AccountRecord]


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE...]")
@click.option("--source", help="Only this source.")
@options.listing_format
def command(files: tuple[str, ...], source: str | None, style: str) -> None:
    """List the published measurements, or those in FILEs: rows used, and set aside and why.

    One line for each source, GPU, world size, op and algorithm. What is used here is what
    calibrate uses without --include.

    \b
    costmodel data
    costmodel data mine.csv --format json
    """
    from ..data import measurement
    from ..errors import InputError, nearest

    table = measurement.read_all(files) if files else measurement.published()
    if source is not None:
        sources = sorted(set(table.source.tolist()))
        if source not in sources:
            near = nearest(source, sources)
            raise InputError(f"no rows of source '{source}'{near}; there are {', '.join(sources)}")
        table = table.select(table.source == source)
    shown = {
        "source": "source", "gpu": "GPU", "world_size": "ranks", "op": "op",
        "algorithm": "algorithm", "rows": "rows", "used": "used", "set_aside": "set aside",
    }  # fmt: skip
    click.echo(Listing("costmodel/data/1", accounts(table), shown, link="url").render(style))
