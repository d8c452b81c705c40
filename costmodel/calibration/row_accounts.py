"""Which rows a calibration uses and which it sets aside, arm by arm of every source."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.measurement import Measurements
from .observations import observe

#: Columns that tell one account from another.
COLUMNS = ("source", "url", "gpu", "arch", "world_size", "op", "algorithm")


def accounts(table: Measurements) -> tuple[dict[str, Any], ...]:
    """Return one record for each source, GPU, world size, op and algorithm as stated.

    ``rows`` = ``used`` + the counts of ``set_aside``, which maps :func:`observe`'s reasons to rows.
    ``date`` is that of the newest row; ``world_size`` is None where the source does not say.
    """
    members: dict[tuple[Any, ...], list[int]] = {}
    columns = (np.nan_to_num(getattr(table, name)) if name == "world_size" else getattr(table, name)
               for name in COLUMNS)  # fmt: skip
    for i, key in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        members.setdefault(key, []).append(i)
    records = []
    for key in sorted(members):
        rows = table.select(np.array(members[key]))
        seen = observe(rows)
        about = dict(zip(COLUMNS, key, strict=True))
        records.append(
            {
                **about,
                "world_size": int(about["world_size"]) or None,
                "date": max(rows.date.tolist()),
                "rows": len(rows),
                "used": len(seen),
                "set_aside": seen.set_aside,
            }
        )
    return tuple(records)
