"""Calibrations of other kernels among the rows of AITER's: arms of the plain op that push.

LL and LL128 are families of kernels whose rows calibrate apart, by the same code as ``calibrate
--family``. They go with the calibration of AITER's own kernels that the same tables give, so that
who has rows of both can compare them (:mod:`costmodel.decide.pushed`).
"""

from __future__ import annotations

from msgspec.structs import replace

from ..data import kernels
from ..data.measurement import Measurements
from ..model.shape import PUSHED
from .estimate import calibrate
from .observations import observe
from .one_fabric import on_fabric
from .posterior import Calibration


def families_beside(family: str) -> tuple[str, ...]:
    """Return the families whose calibrations stand beside that of ``family``'s own kernels."""
    pushed = (kernels.pushing(family, arm) for arm in PUSHED)
    return tuple(name for name in pushed if name in kernels.families())


def with_families(
    calibration: Calibration,
    table: Measurements,
    *,
    arch: str | None = None,
    include: tuple[str, ...] = ("clean",),
) -> Calibration:
    """Return a calibration with those of the kernels beside its own that ``table`` has rows of.

    ``arch`` and ``include`` as in :func:`.observe`; rows are taken on the calibration's fabric.
    """
    found = []
    for family in families_beside(calibration.kernel_family):
        rows = observe(table, include=include, arch=arch, family=family)
        rows = on_fabric(rows, calibration.fabric)
        if len(rows):
            found.append(calibrate(rows, arch=arch)[0])
    return replace(calibration, families=tuple(found))
