"""Which rows a calibration uses and which it sets aside, arm by arm of every GPU.

An arm is an op's algorithm on one GPU at one world size. What was set aside of it is kept apart
from what nobody measured: :func:`said_of` puts the records of :func:`.observe` into words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ..data import kernels
from ..data.timing import beside
from .posterior import SetAside

if TYPE_CHECKING:
    from ..data.measurement import Measurements

#: Columns that tell one account from another, in the order in which accounts are sorted.
COLUMNS = (
    "gpu", "world_size", "op", "algorithm", "source", "url", "gpu_evidence", "arch", "interconnect",
    "kernel_family", "quality", "statistic", "rank_reduction", "timing",
)  # fmt: skip

#: What ``algorithm`` is where a row does not say which arm it measured.
NOT_STATED = ("", "auto")


class AccountRecord(TypedDict):
    """Rows of one arm that one source measured in one way.

    Texts are "" where the source does not say; ``gpu_evidence`` is ``stated`` or ``inferred``.
    ``kernel_versions`` counts rows by kernel version, ``set_aside`` by reason. ``timing_beside`` is
    what the source states of its timing beside the columns.
    """

    source: str
    url: str
    gpu: str
    gpu_evidence: str
    arch: str
    interconnect: str
    world_size: int | None
    op: str
    algorithm: str
    kernel_family: str
    kernel_versions: dict[str, int]
    quality: str
    statistic: str
    rank_reduction: str
    timing: str
    timing_beside: list[str]
    date: str
    rows: int
    used: int
    set_aside: dict[str, int]


def accounts(
    table: Measurements, *, include: tuple[str, ...] = ("clean",)
) -> tuple[AccountRecord, ...]:
    """Return one record for each arm, source and way of measuring, by GPU; unnamed GPUs are last.

    ``rows`` = ``used`` + the counts of ``set_aside``, which maps :func:`observe`'s reasons to rows.
    ``date`` is that of the newest row; ``world_size`` is None where the source does not say.
    ``include`` names the qualities that are used. Rows of kernels that calibrate beside AITER's
    are set aside as such.
    """
    from .families import families_beside  # whoever only needs words starts faster
    from .observations import NOT_MODELLED, observe

    members: dict[tuple[Any, ...], list[int]] = {}
    columns = (np.nan_to_num(getattr(table, name)) if name == "world_size" else getattr(table, name)
               for name in COLUMNS)  # fmt: skip
    for i, key in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        members.setdefault(key, []).append(i)
    records: list[AccountRecord] = []
    for key in sorted(members, key=lambda key: (not key[0], key)):
        rows = table.select(np.array(members[key]))
        seen = observe(rows, include=include)
        cells = dict(zip(COLUMNS, key, strict=True))
        set_aside = dict(seen.set_aside)
        for family in families_beside("aiter") if NOT_MODELLED in set_aside else ():
            if count := len(observe(rows, include=include, family=family)):
                set_aside[f"calibrated beside, as {family}"] = count
                set_aside[NOT_MODELLED] -= count
        versions, counts = np.unique(rows.kernel_version, return_counts=True)
        records.append(
            {
                "source": cells["source"],
                "url": cells["url"],
                "gpu": cells["gpu"],
                "gpu_evidence": cells["gpu_evidence"],
                "arch": cells["arch"],
                "interconnect": cells["interconnect"],
                "world_size": int(cells["world_size"]) or None,
                "op": cells["op"],
                "algorithm": cells["algorithm"],
                "kernel_family": cells["kernel_family"],
                "kernel_versions": dict(zip(versions.tolist(), counts.tolist(), strict=True)),
                "quality": cells["quality"],
                "statistic": cells["statistic"],
                "rank_reduction": cells["rank_reduction"],
                "timing": cells["timing"],
                "timing_beside": list(beside(cells["source"])),
                "date": max(rows.date.tolist()),
                "rows": len(rows),
                "used": len(seen),
                "set_aside": {why: n for why, n in set_aside.items() if n},
            }
        )
    return tuple(records)


def said_of(
    records: Iterable[SetAside],
    *,
    gpu: str,
    world_size: int,
    op: str,
    algorithm: str | None = None,
    families: Iterable[str] | None = None,
) -> str:
    """Return in words what was set aside of one arm, or of all arms of an op; "" for nothing.

    ``10 rows of aiter-3458-mi355x set aside: quality is noisy``; several sources stand between
    semicolons, the one with most rows first. Rows whose algorithm or family is not stated may be of
    the arm and count. ``families`` names the kernels that are meant (default: AITER's and the
    like), since another library's rows say nothing of an AITER kernel.
    """
    wanted = ("", *(kernels.AITER_FAMILIES if families is None else families))
    mine = [
        record
        for record in records
        if (record["gpu"], record["world_size"], record["op"]) == (gpu, world_size, op)
        and (algorithm is None or record["algorithm"] in (algorithm, *NOT_STATED))
        and record["kernel_family"] in wanted
    ]
    rows: dict[tuple[str, str], int] = {}
    for record in mine:
        key = record["source"], record["reason"]
        rows[key] = rows.get(key, 0) + record["rows"]
    return "; ".join(
        f"{count} row{'' if count == 1 else 's'} of {source} set aside: {reason}"
        for (source, reason), count in sorted(rows.items(), key=lambda item: (-item[1], item[0]))
    )
