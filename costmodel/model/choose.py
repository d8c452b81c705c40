"""Which latency model speaks for a fabric, or for the interconnect of a measured row.

================  ==============  ===================================================
interconnect      fabric          model
================  ==============  ===================================================
``xgmi``          ``full_mesh``   links of one's own, one for each peer
``nvlink``        ``switch``      links of one's own, pooled in a port
``nvlink/2``      ``split_2``     the same, with the ranks split over 2 (3, ...) GPUs
``loopback``      ``loopback``    ranks that share one GPU
================  ==============  ===================================================
"""

from __future__ import annotations

import re
from functools import cache

from ..errors import InputError, nearest
from .fabric import FULL_MESH, SPLIT, SWITCH, FullMesh, Ports
from .interface import LatencyModel
from .latency import LinkModel
from .shared_gpu import LOOPBACK, SharedGpuModel

_MODELS: dict[str, LatencyModel] = {
    FULL_MESH: LinkModel(FullMesh()),
    SWITCH: LinkModel(Ports()),
    LOOPBACK: SharedGpuModel(),
}
_FABRICS = {"xgmi": FULL_MESH, "nvlink": SWITCH, "loopback": LOOPBACK}


@cache
def for_fabric(fabric: str) -> LatencyModel:
    """Return the model of a fabric; raise :class:`InputError` for one that is not modelled."""
    if fabric in _MODELS:
        return _MODELS[fabric]
    split = re.fullmatch(rf"{SPLIT}(\d+)", fabric)
    if split:
        return LinkModel(Ports(int(split[1])))
    known = [*_MODELS, f"{SPLIT}2"]
    raise InputError(
        f"unknown fabric '{fabric}'{nearest(fabric, known)}; modelled are {', '.join(known)}"
    )


def for_interconnect(interconnect: str) -> LatencyModel | None:
    """Return the model of a row's ``interconnect``, or None when it is not modelled."""
    wire, _, gpus = interconnect.partition("/")
    if wire == "nvlink" and gpus.isdecimal() and int(gpus) > 1:
        return for_fabric(f"{SPLIT}{int(gpus)}")
    return for_fabric(_FABRICS[interconnect]) if interconnect in _FABRICS else None
