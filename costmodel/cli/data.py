"""``costmodel data``."""

from __future__ import annotations

import click

from ..show.listing import Listing
from . import options


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
    from ..calibration.row_accounts import accounts
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
