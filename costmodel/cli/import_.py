"""``costmodel import``: other harnesses' output as schema 1 measurements."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ..data.importers import Said, read
from ..data.measurement import VOCABULARY
from ..errors import InputError
from ..files import check_free
from ..model.shape import ONE_STAGE, TWO_STAGE, op_key, read_algorithm
from . import options

#: Options that say what the file may not: one a cell of schema 1.
CELLS = tuple(field.name for field in fields(Said) if field.name != "columns")

HELP = {
    "source": "Short id of the table.  [default: the file's name]",
    "url": "Address of the source.",
    "date": "Date of the measurement, ISO.",
    "gpu": "E.g. MI300X.",
    "arch": "E.g. gfx942.",
    "interconnect": "E.g. xgmi, nvlink.",
    "world_size": "Ranks.",
    "op": "all_reduce, fused_ar_rmsnorm, ar_then_rmsnorm, ...",
    "algorithm": "1stage, 2stage, auto.",
    "kernel_family": "Whose kernel.",
    "kernel_version": "At what state.",
    "tokens": "Where all rows share it.",
    "hidden_dim": "Where all rows share it.",
    "dtype": "bf16, fp16, fp32.",
    "timing": "graph, eager, profiler.",
    "statistic": "median, mean, min.",
    "rank_reduction": "max over ranks, mean, ...",
    "quality": "clean, noisy, suspect, ...  [default: clean]",
}


def _algorithm_or_auto(name: str) -> str:
    """Return the algorithm of a name; ``auto`` is the library's own choice, "" says nothing."""
    key = name.strip().lower()
    return key if key in ("", "auto") else read_algorithm(key)


#: Cells of which several spellings are taken.
TYPES = {
    "op": options.Name("TEXT", op_key, VOCABULARY["op"]),
    "algorithm": options.Name("TEXT", _algorithm_or_auto, (ONE_STAGE, TWO_STAGE, "auto")),
}


def _cell_options(function: Any) -> Any:
    for name in reversed(CELLS):
        option = f"--{name.replace('_', '-')}"
        function = click.option(
            option, name, type=TYPES.get(name), default="", metavar="TEXT", help=HELP[name]
        )(function)
    return function


@click.command()
@click.argument("kind", metavar="FORMAT")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The schema 1 file.")
@click.option("--force", is_flag=True, help="Replace --out if it exists.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=OP:ALGORITHM",
    help="What a column or label of the file is; NAME=- leaves it out.",
)
@_cell_options
def command(
    kind: str, file: Path, out: Path, force: bool, columns: tuple[str, ...], **said: str
) -> None:
    """Read FILE, written by another harness, and write its measurements as schema 1.

    FORMAT is rccl-tests, nccl-tests, aiter (op_tests' markdown tables), sglang or vllm. What the
    file does not say stays empty unless an option says it; an option that contradicts it is an
    error.

    \b
    costmodel import rccl-tests all_reduce.log --op all_reduce --arch gfx942 --out rccl.csv
    costmodel import aiter op_test.log --op fused_ar_rmsnorm --algorithm 1stage --out one.csv
    costmodel import sglang sweep.csv --column "split (us)=ar_then_rmsnorm" --out sweep-schema1.csv
    """
    check_free(out, force)
    meanings = {}
    for column in columns:
        name, equals, meaning = column.rpartition("=")
        if not equals or not name or not meaning:
            raise InputError(f"--column '{column}': give NAME=OP:ALGORITHM, or NAME=-")
        meanings[name] = meaning
    said["source"] = said["source"] or file.stem
    table, notes = read(kind, file, Said(**said, columns=meanings))
    table.write(out)
    empty = [
        name
        for name in ("gpu", "arch", "interconnect", "world_size", "dtype", "timing")
        if all(row[name] == "" for row in table.to_rows())
    ]
    click.echo(f"{len(table)} rows of {kind} written to {out}")
    for note in notes:
        click.echo(f"note: {note}")
    if empty:
        click.echo(f"note: the file does not say {', '.join(empty)}; options can")
    if not said["quality"]:
        click.echo("note: quality is taken as clean where the file says nothing against it")
