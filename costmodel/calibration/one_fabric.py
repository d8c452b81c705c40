"""The rows of one fabric: what is wired differently cannot share a calibration."""

from __future__ import annotations

from collections import Counter

import numpy as np
from msgspec.structs import replace

from ..model.fabric import FULL_MESH
from .observations import Observations


def fabric_of(observations: Observations, arch: str | None = None) -> str:
    """Return the one fabric that the rows, or those of ``arch``, are on; xGMI's among several."""
    fabrics = {g.model.fabric for g in observations.groups if arch in (None, g.arch)}
    return fabrics.pop() if len(fabrics) == 1 else FULL_MESH


def on_fabric(observations: Observations, fabric: str) -> Observations:
    """Return the rows on one fabric (:mod:`costmodel.model.fabric`); the others are set aside.

    They are counted as "another fabric", so that the counts still add up to the rows read.
    """
    groups = [g for g in observations.groups if g.model.fabric == fabric]
    if len(groups) == len(observations.groups):
        return observations
    keep = np.zeros(len(observations), np.bool_)
    for group in groups:
        keep[group.rows] = True
    place = np.cumsum(keep) - 1
    dropped = {"another fabric": int((~keep).sum())}
    return Observations(
        table=observations.table.select(keep),
        groups=tuple(replace(g, rows=place[g.rows]) for g in groups),
        algorithm=observations.algorithm[keep],
        harness=observations.harness[keep],
        set_aside=dict((Counter(observations.set_aside) + Counter(dropped)).most_common()),
        read=observations.read,
        index=observations.index[keep],
        aside=observations.aside,
    )
