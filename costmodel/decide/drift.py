"""Drift: what changed from one calibration, or one table of measurements, to another.

Latencies are compared as each calibration's reference measured them, its benchmark included: what a
benchmark adds and what a kernel takes are known together better than apart. A change is significant
where its 90 % interval holds no zero. The draws of two calibrations are taken
to be independent: rows that both were fitted to make the true interval narrower, never wider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.measurement import ALL_COLUMNS, Measurements
from ..errors import InputError
from .adequacy import contested_gain_pct
from .decision import Cutoff
from .objective import contested
from .recommendation import recommend
from .regret import Estimate
from .setting import SEED, Setting

if TYPE_CHECKING:
    from ..data.workload import Workload
    from .drift_schemas import (
        ArmShiftRecord,
        CutoffClaimRecord,
        CutoffShiftRecord,
        RowsShiftRecord,
    )

#: Columns in which the rows of two tables may differ and still be of the same call.
MAY_DIFFER = (
    "source", "url", "date", "gpu_evidence", "kernel_version", "latency_us", "quality",
)  # fmt: skip

#: Columns that say which call a row measured, and how.
COMPARED = tuple(name for name in ALL_COLUMNS if name not in MAY_DIFFER)

#: Fewest common calls whose median has a 90 % interval by order statistics: 1 - 2 / 2^5 = 94 %.
MIN_CALLS = 5


def significant(change: Estimate) -> bool:
    """Tell whether the interval of a change holds no zero."""
    return change.lo > 0 or change.hi < 0


class ArmShift(Struct, frozen=True):
    """What an arm takes longer now, mean over the calls around the old cutoff."""

    arm: str
    us: Estimate

    def to_dict(self) -> ArmShiftRecord:
        """Return an entry of ``arms``."""
        return {"arm": self.arm, "us": self.us.to_dict(), "significant": significant(self.us)}


class CutoffShift(Struct, frozen=True):
    """What two calibrations say at one world size.

    ``loses_pct`` is what the old cutoff now leaves on the table on the calls within a factor of two
    of it; None where the old calibration claims none.
    """

    world_size: int
    old: Cutoff
    new: Cutoff
    arms: tuple[ArmShift, ...]
    loses_pct: float | None

    def to_dict(self) -> CutoffShiftRecord:
        """Return an entry of ``cutoffs`` in ``costmodel/diff/1``."""
        return {
            "world_size": self.world_size,
            "old": _said(self.old),
            "new": _said(self.new),
            "arms": [a.to_dict() for a in self.arms],
            "loses_pct": self.loses_pct,
        }


def calibrations(
    old: Setting, new: Setting, workload: Workload | None, world_sizes: tuple[int, ...]
) -> tuple[CutoffShift, ...]:
    """Compare what two calibrations say of one question.

    Raises :class:`InputError` where the settings ask different questions.
    """
    if (old.gpu, old.op, old.alternative) != (new.gpu, new.op, new.alternative):
        raise InputError(
            f"the calibrations speak of {old.gpu} and {new.gpu}; compare them on one GPU: --gpu"
        )
    before, after = (recommend(s, workload, world_sizes=world_sizes) for s in (old, new))
    out = []
    for n in world_sizes:
        was, now = before.at(n), after.at(n)
        loses = contested_gain_pct(now.arms, was.max_bytes) if was.claimed else None
        out.append(CutoffShift(n, was, now, _arm_shifts(old, new, was, now), loses))
    return tuple(out)


def _arm_shifts(old: Setting, new: Setting, was: Cutoff, now: Cutoff) -> tuple[ArmShift, ...]:
    """Return how each arm's latency moved on the contested calls of the old cutoff."""
    calls = was.arms.shapes
    if was.estimate is not None:
        near = contested(calls.bytes, was.estimate)
        calls = calls.select(near) if near.any() else calls
    order = np.random.default_rng(SEED).permutation(len(new.draws["launch_us"]))
    shifts = []
    for arm in old.arms:
        mean = [
            setting.latency_us(calls, arm, setting.this_kernel).mean(axis=1)
            for setting in (old, new)
        ]
        shifts.append(ArmShift(arm, Estimate.of(mean[1][order] - mean[0])))
    return tuple(shifts)


class RowsShift(Struct, frozen=True):
    """One arm at one world size in two tables: ``pct`` is the median change over common calls.

    ``us`` is that change in microseconds. ``pct`` has no interval (None) below :data:`MIN_CALLS`
    common calls; ``alone`` counts calls that only one of the tables has.
    """

    gpu: str
    world_size: int
    op: str
    algorithm: str
    calls: int
    alone: int
    pct: Estimate | None
    us: float | None

    @property
    def significant(self) -> bool:
        """Whether the change is more than the calls differ among themselves."""
        return self.pct is not None and significant(self.pct)

    def to_dict(self) -> RowsShiftRecord:
        """Return an entry of ``rows`` in ``costmodel/diff/1``."""
        return {
            "gpu": self.gpu,
            "world_size": self.world_size,
            "op": self.op,
            "algorithm": self.algorithm,
            "calls": self.calls,
            "alone": self.alone,
            "pct": self.pct.to_dict() if self.pct else None,
            "us": self.us,
            "significant": self.significant,
        }


def rows(old: Measurements, new: Measurements) -> tuple[RowsShift, ...]:
    """Compare two tables call by call: clean rows that agree in all but :data:`MAY_DIFFER`.

    A call that a table measured several times counts with its median.
    """
    tables = [_medians(table) for table in (old, new)]
    keys = {key for table in tables for key in table}
    arms: dict[tuple[str, ...], list[tuple[object, ...]]] = {}
    at = [COMPARED.index(name) for name in ("gpu", "world_size", "op", "algorithm")]
    for key in sorted(keys, key=str):
        arms.setdefault(tuple(str(key[i]) for i in at), []).append(key)
    out = []
    for (gpu, n, op, algorithm), mine in arms.items():
        both = [key for key in mine if all(key in table for table in tables)]
        before, after = (np.array([table[key] for key in both]) for table in tables)
        out.append(
            RowsShift(
                gpu, int(float(n)), op, algorithm, len(both), len(mine) - len(both),
                _median_change_pct(before, after),
                float(np.median(after - before)) if both else None,
            )
        )  # fmt: skip
    return tuple(out)


def _medians(table: Measurements) -> dict[tuple[object, ...], float]:
    """Return the median latency of every call that has clean rows and says its ranks."""
    clean = table.select((table.quality == "clean") & ~np.isnan(table.world_size))
    # NaN never equals itself; an empty cell does.
    columns = [getattr(clean, name) for name in COMPARED]
    cells = [np.nan_to_num(c, nan=-1.0) if c.dtype.kind == "f" else c for c in columns]
    found: dict[tuple[object, ...], list[float]] = {}
    for key, us in zip(
        zip(*(c.tolist() for c in cells), strict=True), clean.latency_us.tolist(), strict=True
    ):
        found.setdefault(key, []).append(us)
    return {key: float(np.median(us)) for key, us in found.items()}


def _median_change_pct(before: NDArray[np.float64], after: NDArray[np.float64]) -> Estimate | None:
    """Return the median change in percent with its 90 % interval by order statistics.

    The interval is that of the sign test: distribution-free (Conover, Practical Nonparametric
    Statistics, section 3.2).
    """
    if before.size < MIN_CALLS:
        return None
    from scipy.stats import binom

    change = np.sort(100 * (after / before - 1))
    k = int(binom.ppf(0.05, change.size, 0.5))
    return Estimate(float(np.median(change)), float(change[k - 1]), float(change[-k]))


def _said(cutoff: Cutoff) -> CutoffClaimRecord:
    return {
        "verdict": cutoff.verdict,
        "max_bytes": cutoff.max_bytes,
        "max_bytes_lo": cutoff.max_bytes_lo,
        "max_bytes_hi": cutoff.max_bytes_hi,
    }
