"""Rates of links between GPUs: the table ``measurements/link_bandwidth.csv`` and its form.

A link rate is no latency: nothing fits it. It stands beside the nominal rates of
``facts/hardware.csv`` as evidence for the priors of links (``facts/priors.csv``), which cite it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import replacing

#: Columns of the table; ``gbps`` is GB/s (1e9 bytes a second) in the direction ``detail`` says.
COLUMNS = (
    "source", "url", "date", "gpu", "arch", "world_size", "bytes", "gbps", "detail",
)  # fmt: skip


@contextmanager
def writing(path: str | Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Give a function that appends rows to a file, which is there whole or not at all."""
    with replacing(Path(path)) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)

        def write(rows: list[dict[str, Any]]) -> None:
            writer.writerows([row.get(name, "") for name in COLUMNS] for row in rows)

        yield write
