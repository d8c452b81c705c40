"""How often each captured batch size runs: shares of the decode steps, read from a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..errors import InputError
from ..files import read_text
from .deployment import Deployment

#: Shares may miss 1 by this much, for rounding; they are normalised.
ROUNDING = 0.005


class BatchHistogram(Struct, frozen=True):
    """Captured batch sizes (n,) with their shares of the decode steps, which sum to 1.

    ``name`` is the file, or "" for all captured sizes alike, which is nobody's traffic.
    """

    name: str
    batch: NDArray[np.int64]
    share: NDArray[np.float64]

    @classmethod
    def alike(cls, deployment: Deployment | None = None) -> BatchHistogram:
        """Return every captured batch size with the same share."""
        batch = (deployment or Deployment()).batches
        return cls("", batch, np.full(batch.size, 1 / batch.size))


def read_histogram(path: str | Path, deployment: Deployment | None = None) -> BatchHistogram:
    """Read a CSV file with the columns ``batch,share`` or ``batch,count``.

    With captured sizes or draft tokens of a deployment, batches between captured ones are padded up
    as the engine pads them. Raises :class:`InputError`, naming file and line, for another header, a
    cell that is not a number of at least 0, a batch size that is not captured or stands twice, and
    shares that do not sum to 1.
    """
    text = read_text(path, "a batch histogram")
    try:
        rows = csv.reader(text.split("\n"))
        lines = [(i, [c.strip() for c in row]) for i, row in enumerate(rows, 1)]
    except csv.Error as error:
        raise InputError(f"{path}: not readable as CSV: {error}") from None
    lines = [(i, row) for i, row in lines if any(row)]
    header = lines[0][1] if lines else []
    if header not in (["batch", "share"], ["batch", "count"]):
        raise InputError(
            f"{path}:1: the header is '{','.join(header)}'; a batch histogram has batch,share or "
            "batch,count"
        )
    column = header[1]
    served = deployment or Deployment()
    weight: dict[int, float] = {}
    seen: set[int] = set()
    for line, row in lines[1:]:
        batch, value = _row(row, column, f"{path}:{line}")
        if batch in seen:
            raise InputError(f"{path}:{line}: batch {batch} stands twice")
        seen.add(batch)
        captured = _captured(batch, served, f"{path}:{line}")
        weight[captured] = weight.get(captured, 0.0) + value
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
    return batch, value


def _captured(batch: int, served: Deployment, where: str) -> int:
    """Return the captured size that runs for a batch; refuse one that none runs for."""
    captured = served.batches
    padded = served.padded(batch)
    if padded is None and not served.is_common:
        raise InputError(f"{where}: batch {batch} is not captured; sizes are 1 to {captured[-1]}")
    if padded != batch and served.is_common:
        pads = f"engines pad it to {padded}" if padded else "they end at 512"
        raise InputError(
            f"{where}: batch {batch} is not a captured size (1, 2, 4, multiples of 8 to 256, of 16 "
            f"to 512); {pads}"
        )
    return padded or batch
