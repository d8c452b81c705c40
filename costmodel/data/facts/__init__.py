"""The fact files: tables with a source for every figure, read here and nowhere else."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from ...errors import InputError

_HERE = Path(__file__).resolve().parent


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """Return the rows of a fact file such as ``kernels.csv``, cells as text by column name.

    Raises :class:`InputError` for a row that has not a cell for every column.
    """
    with path(name).open(newline="", encoding="utf-8") as stream:
        columns, *found = csv.reader(stream)
    for row in found:
        if len(row) != len(columns):
            raise InputError(
                f"facts/{name}: '{','.join(row)}' has {len(row)} cells, the columns are "
                f"{', '.join(columns)}"
            )
    return tuple(dict(zip(columns, row, strict=True)) for row in found)


def path(name: str) -> Path:
    """Return where a fact file lies in the package."""
    return _HERE / name
