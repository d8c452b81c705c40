"""Which rows a calibration uses and which it sets aside, arm by arm of every source."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from ..data.measurement import Measurements
from .observations import observe

#: Columns that tell one account from another.
COLUMNS = ("source", "url", "gpu", "arch", "world_size", "op", "algorithm")


class AccountRecord(TypedDict):
    """The rows of one source, GPU, world size, op and algorithm; ``set_aside`` counts by reason."""

    source: str
    url: str
    gpu: str
    arch: str
    world_size: int | None
    op: str
    algorithm: str
    date: str
    rows: int
    used: int
    set_aside: dict[str, int]


def accounts(table: Measurements) -> tuple[AccountRecord, ...]:
    """Return one record for each source, GPU, world size, op and algorithm as stated.

    ``rows`` = ``used`` + the counts of ``set_aside``, which maps :func:`observe`'s reasons to rows.
    ``date`` is that of the newest row; ``world_size`` is None where the source does not say.
    """
    members: dict[tuple[Any, ...], list[int]] = {}
    columns = (np.nan_to_num(getattr(table, name)) if name == "world_size" else getattr(table, name)
               for name in COLUMNS)  # fmt: skip
    for i, key in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        members.setdefault(key, []).append(i)
    records: list[AccountRecord] = []
    for key in sorted(members):
        rows = table.select(np.array(members[key]))
        seen = observe(rows)
        source, url, gpu, arch, world_size, op, algorithm = key
        records.append(
            {
                "source": source,
                "url": url,
                "gpu": gpu,
                "arch": arch,
                "world_size": int(world_size) or None,
                "op": op,
                "algorithm": algorithm,
                "date": max(rows.date.tolist()),
                "rows": len(rows),
                "used": len(seen),
                "set_aside": seen.set_aside,
            }
        )
    return tuple(records)
