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
@click.option("--gpu", help="Only this GPU, any case.")
@click.option("--tp", type=options.INTEGERS, help="Only these world sizes, such as 4,8.")
@click.option("--op", help="Only this op: fused, plain, separate, or a name of the tables.")
@click.option("--source", help="Only this source.")
@options.listing_format
def command(
    files: tuple[str, ...],
    gpu: str | None,
    tp: tuple[int, ...] | None,
    op: str | None,
    source: str | None,
    style: str,
) -> None:
    """List the published measurements, or those in FILEs: rows used, and set aside and why.

    By GPU, world size, op and algorithm: the sources with their links, whether the GPU is stated or
    inferred, how latency was measured, the rows' quality. What is used here is what calibrate uses
    without --include.

    \b
    costmodel data
    costmodel data --gpu MI355X --tp 4
    costmodel data --gpu MI300X --op plain --format csv
    costmodel data mine.csv --format json
    """
    from ..calibration.libraries import of_a_library
    from ..data import measurement
    from ..show.row_accounts import text

    table = measurement.read_all(files) if files else measurement.published()
    if source is not None:
        table = table.having("source", (source,))
    if gpu is not None:
        table = table.having("gpu", (gpu.strip().upper(),))
    if tp is not None:
        table = table.having("world_size", tp)
    if op is not None:
        table = table.having("op", (_op(op),))
    records = accounts(table)
    if style == "table":
        options.say(text(records))
        if files and (said := of_a_library(table)):
            options.say(f"note: {said}")
    else:
        click.echo(Listing("costmodel/data/1", records, {}, link="url").render(style))


def _op(name: str) -> str:
    """Return an op of the tables by its name there, or by one that the command line takes."""
    from ..data.ops import vocabulary
    from ..model.shape import read_op

    return name if name in vocabulary() else read_op(name)
