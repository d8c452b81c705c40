"""``costmodel import``: other harnesses' output as schema 1 measurements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from msgspec.structs import fields

from ..data.importers import ASKED, FORMATS, Format, Imported, Said, account, convert
from ..data.importers.formats import LINK_RATES
from ..data.measurement import VOCABULARY
from ..errors import InputError, one_line
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
    "unit": "us, ms or ns, of times whose column states none.",
}


def _algorithm_or_auto(name: str) -> str:
    """Return the algorithm of a name; ``auto`` is the library's own choice, "" says nothing."""
    key = name.strip().lower()
    return key if key in ("", "auto") else read_algorithm(key)


def _meaning(text: str) -> str:
    """Return OP:ALGORITHM of ``--column`` in the names of schema 1, as --op and --algorithm do.

    What is unknown stays, for the error that quotes it; ``-`` leaves a column out.
    """
    if text.strip() == "-":
        return "-"
    op, colon, algorithm = text.partition(":")
    with suppress(InputError):
        algorithm = _algorithm_or_auto(algorithm)
    return f"{op_key(op)}{colon}{algorithm}"


#: Cells of which several spellings are taken.
TYPES = {
    "op": options.Name("TEXT", op_key, VOCABULARY["op"]),
    "algorithm": options.Name("TEXT", _algorithm_or_auto, (ONE_STAGE, TWO_STAGE, "auto")),
}
#: Other names of options, those that the other commands have.
ALSO = {"world_size": ("--tp",), "hidden_dim": ("--hidden",)}


def _cell_options(function: Any) -> Any:
    for name in reversed(CELLS):
        option = click.option(
            f"--{name.replace('_', '-')}", *ALSO.get(name, ()), name, type=TYPES.get(name),
            default="", metavar="TEXT", help=HELP[name],
        )  # fmt: skip
        function = option(function)
    return function


@click.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--as", "kind", default="", metavar="FORMAT",
    help="The format, where FILE's content does not decide: "
    f"{', '.join(n for f in FORMATS for n in (f.name, *f.aliases))}.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
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
    files: tuple[Path, ...], kind: str, out: Path, force: bool, columns: tuple[str, ...],
    **said: str,
) -> None:  # fmt: skip
    """Read FILE, written by another harness, and write its measurements as schema 1.

    The format is found by the content. Every figure of FILE becomes a row or is left with a reason,
    and both are counted. What FILE does not say is asked for, with the option that answers; an
    option that contradicts it is an error. Several FILEs, or a directory, are traces of torch's
    profiler or rocprofv3, of one rank of a run each: they are joined, and the wait for the last
    rank is taken off.

    \b
    costmodel import all_reduce.log --out rccl.csv
    costmodel import op_test.log --op fused_ar_rmsnorm --algorithm 1stage --gpu MI355X --out one.csv
    costmodel import rank*.json.gz --gpu MI355X --out run.csv
    costmodel import rocprofv3-output/ --gpu MI355X --out run.csv
    costmodel import sweep.csv --column "split (us)=ar_then_rmsnorm" --out sweep-schema1.csv
    """
    check_free(out, force, read=files)
    meanings = {}
    for column in columns:
        name, equals, meaning = column.rpartition("=")
        if not equals or not name or not meaning:
            raise InputError(f"--column '{column}': give NAME=OP:ALGORITHM, or NAME=-")
        meanings[name] = _meaning(meaning)
    said["source"] = said["source"] or one_line(files[0].resolve().stem)
    form, imported = convert(files, out, Said(**said, columns=meanings), kind)
    name = str(files[0]) if len(files) == 1 else f"{len(files)} files"
    for line in _account(name, form, imported, out):
        options.say(one_line(line))


def _account(name: str, form: Format, imported: Imported, out: Path) -> Iterator[str]:
    """Give the lines about what was read, what was left and why, and what is to be said still."""
    yield f"{imported.n_rows} rows of {imported.kind} ({form.title}) written to {out}"
    total = imported.n_rows + imported.n_left
    left = f" ({'; '.join(account(imported))})" if imported.n_left else ""
    yield f"{total} results in {name}: {imported.n_rows} read, {imported.n_left} left{left}"
    yield from (f"note: {note}" for note in imported.notes)
    asked = [
        f"{name} ({ASKED[name]})" + (f" in {count} rows" if count < imported.n_rows else "")
        for name, count in imported.missing.items()
    ]
    if asked:
        yield f"not said by the file, options can: {', '.join(asked)}"
    if form.makes == LINK_RATES:
        yield "note: rates of links (measurements/link_bandwidth.csv), which nothing is fitted to"
    elif imported.n_taken_clean:
        yield "note: quality is taken as clean where the file says nothing against it"
