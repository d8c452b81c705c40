"""Crossings: what each table of pairs says of its cutoff by itself, by straight lines.

A table is what one source measured in one way: its pairs agree in every column of schema 1 but
sizes and bookkeeping. This is the baseline of the model's cutoff (:mod:`..calibration.crossing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from ..calibration.crossing import MIN_PAIRS, MIN_SIZES, Crossing, SizeSet, crossing
from ..data.measurement import COLUMNS, GRID, Measurements
from .pairs import ARM, Pairs

if TYPE_CHECKING:
    from .fit_schemas import CrossingRecord, SizesRecord

#: Columns in which the pairs of one table may differ, beside those of their arms.
WITHIN_TABLE = ("tokens", "hidden_dim", "bytes", "url", "date", "gpu_evidence")


class MeasuredCrossing(Struct, frozen=True):
    """The crossing of one table of pairs; ``hidden_dim`` is None for several hidden sizes."""

    op: str
    source: str
    gpu: str
    world_size: int
    hidden_dim: int | None
    dtype: str
    kernel_family: str
    kernel_version: str
    crossing: Crossing

    def to_dict(self) -> CrossingRecord:
        """Return an entry of ``crossings`` in ``costmodel/validate/1`` and ``calibrate/1``."""
        at = self.crossing
        return {
            "op": self.op,
            "source": self.source,
            "gpu": self.gpu,
            "world_size": self.world_size,
            "hidden_dim": self.hidden_dim,
            "dtype": self.dtype,
            "kernel_family": self.kernel_family,
            "kernel_version": self.kernel_version,
            "pairs": at.pairs,
            "crossing_bytes": at.size_bytes,
            "one_stage_below": at.one_stage_below,
            "fieller": _sizes(at.fieller),
            "bootstrap": _sizes(at.bootstrap),
        }


def _sizes(found: SizeSet) -> SizesRecord:
    return {"kind": found.kind, "lo_bytes": found.lo, "hi_bytes": found.hi}


def measured_crossings(table: Measurements, pairs: Pairs) -> tuple[MeasuredCrossing, ...]:
    """Return the crossing of every table of pairs, in their order; they are of ``table``.

    Where one has several hidden sizes, all of them together come first, then each that has
    pairs enough. Tables of fewer pairs than an interval takes are left out.
    """
    rows = table.select(pairs.row)
    names = [name for name in COLUMNS if name not in (*ARM, *WITHIN_TABLE)]
    # NaN never equals itself; an empty cell does.
    grid = [np.nan_to_num(getattr(rows, name)).tolist() for name in GRID]
    cells = zip(*(getattr(rows, name).tolist() for name in names), *grid, strict=True)
    members: dict[tuple[object, ...], list[int]] = {}
    for i, cell in enumerate(cells):
        members.setdefault(cell, []).append(i)
    out = []
    for index in members.values():
        hidden = np.unique(pairs.hidden_dim[index]).tolist()
        for only in hidden if len(hidden) == 1 else [None, *hidden]:
            mine = np.array([i for i in index if only is None or pairs.hidden_dim[i] == only])
            size = pairs.bytes[mine]
            if size.size < MIN_PAIRS or np.unique(size).size < MIN_SIZES:
                continue
            i = int(mine[0])
            out.append(
                MeasuredCrossing(
                    op=pairs.op,
                    source=str(pairs.source[i]),
                    gpu=str(pairs.gpu[i]),
                    world_size=int(pairs.world_size[i]),
                    hidden_dim=only,
                    dtype=str(pairs.dtype[i]),
                    kernel_family=str(rows.kernel_family[i]),
                    kernel_version=str(rows.kernel_version[i]),
                    crossing=crossing(size, pairs.one_us[mine], pairs.two_us[mine]),
                )
            )
    return tuple(out)
