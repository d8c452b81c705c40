"""How often each captured batch size runs: shares of the decode steps, read from a CSV file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .workload import captured_batch_sizes

#: Shares may miss 1 by this much, for rounding; they are normalised.
ROUNDING = 0.005


@dataclass(frozen=True)
class BatchHistogram:
    """Captured batch sizes (n,) with their shares of the decode steps, which sum to 1.

    ``name`` is the file, or "" for all captured sizes alike, which is nobody's traffic.
    """

    name: str
    batch: NDArray[np.int64]
    share: NDArray[np.float64]

    @classmethod
    def alike(cls) -> BatchHistogram:
        """Return every captured batch size with the same share."""
        batch = captured_batch_sizes()
        return cls("", batch, np.full(batch.size, 1 / batch.size))


def read_histogram(path: str | Path) -> BatchHistogram:
    """Read a CSV file with the columns ``batch,share`` or ``batch,count``.

    Raises :class:`InputError`, naming file and line, for another header, a cell that is not a
    number of at least 0, a batch size that is not captured or stands twice, and shares that do
    not sum to 1.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            lines = [(i, [c.strip() for c in row]) for i, row in enumerate(csv.reader(stream), 1)]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a batch histogram") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from None
    lines = [(i, row) for i, row in lines if any(row)]
    header = lines[0][1] if lines else []
    if header not in (["batch", "share"], ["batch", "count"]):
        raise InputError(
            f"{path}:1: the header is '{','.join(header)}'; a batch histogram has batch,share or "
            "batch,count"
        )
    column = header[1]
    weight: dict[int, float] = {}
    for line, row in lines[1:]:
        batch, value = _row(row, column, f"{path}:{line}")
        if batch in weight:
            raise InputError(f"{path}:{line}: batch {batch} stands twice")
        weight[batch] = value
    total = sum(weight.values())
    if not total > 0:
        raise InputError(f"{path}: no batch has a {column} above 0")
    if column == "share" and abs(total - 1) > ROUNDING:
        raise InputError(f"{path}: the shares sum to {total:.6g}, not to 1; or give batch,count")
    order = np.array(sorted(weight), np.int64)
    return BatchHistogram(str(path), order, np.array([weight[b] for b in order.tolist()]) / total)


def _row(row: list[str], column: str, where: str) -> tuple[int, float]:
    if len(row) != 2:
        raise InputError(f"{where}: {len(row)} cells; a batch histogram has batch,{column}")
    try:
        batch = int(row[0])
    except ValueError:
        raise InputError(f"{where}: batch is '{row[0]}', not a whole number") from None
    try:
        value = float(row[1])
    except ValueError:
        raise InputError(f"{where}: {column} is '{row[1]}', not a number") from None
    if not (np.isfinite(value) and value >= 0):
        raise InputError(f"{where}: {column} is {row[1]}; it must be 0 or more")
    captured = captured_batch_sizes()
    if batch not in captured:
        above = captured[captured > batch]
        pads = f"engines pad it to {above[0]}" if above.size and batch > 0 else "they end at 512"
        raise InputError(
            f"{where}: batch {batch} is not a captured size (1, 2, 4, multiples of 8 to 256, of 16 "
            f"to 512); {pads}"
        )
    return batch, value
