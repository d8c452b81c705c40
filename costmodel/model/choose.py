"""Which latency model speaks for a fabric, or for the interconnect of a measured row.

================  ==============  ===================================================
interconnect      fabric          model
================  ==============  ===================================================
``xgmi``          ``full_mesh``   links of one's own, one for each peer
``nvlink``        ``switch``      links of one's own, pooled in a port
``nvlink/2``      ``split_2``     ranks split over 2 (3, ...) GPUs, which share a port
``loopback``      ``loopback``    ranks that share one GPU
================  ==============  ===================================================
"""

from __future__ import annotations

import re
from functools import cache

from ..data.kernels import OWN_FAMILIES
from ..errors import InputError, nearest
from .fabric import FULL_MESH, LOOPBACK, SPLIT, SWITCH, FullMesh, Ports
from .interface import LatencyModel
from .latency import LinkModel

_INTERCONNECTS = {"xgmi": FULL_MESH, "nvlink": SWITCH, "loopback": LOOPBACK}


@cache
def for_fabric(fabric: str, kernel_family: str = "aiter") -> LatencyModel:
    """Return the model of a fabric; raise :class:`InputError` for one that is not modelled.

    The project's own kernels run several ranks of a GPU in one launch: they have a model of that,
    and one rank a GPU is a case of it.
    """
    if fabric == FULL_MESH:
        return LinkModel(FullMesh())
    split = re.fullmatch(rf"{SPLIT}(\d+)", fabric)
    if split or fabric == SWITCH:
        ports = Ports(int(split[1]) if split else None)
        if kernel_family in OWN_FAMILIES:
            from .split_gpus import SplitModel

            return SplitModel(ports)
        return LinkModel(ports)
    if fabric == LOOPBACK:
        from .shared_gpu import SharedGpuModel  # few need it: the command line starts faster

        return SharedGpuModel()
    known = (FULL_MESH, SWITCH, f"{SPLIT}2", LOOPBACK)
    raise InputError(
        f"unknown fabric '{fabric}'{nearest(fabric, known)}; modelled are {', '.join(known)}"
    )


def split_over(interconnect: str, world_size: int) -> str:
    """Return an interconnect that says over how many GPUs ranks are split, where it is NVLink.

    N ranks with a GPU each are split over N: one model, and one calibration, is of both.
    """
    return f"{interconnect}/{world_size}" if interconnect == "nvlink" else interconnect


def for_interconnect(interconnect: str, kernel_family: str = "aiter") -> LatencyModel | None:
    """Return the model of a row's ``interconnect``, or None when it is not modelled."""
    wire, _, gpus = interconnect.partition("/")
    if wire == "nvlink" and gpus.isdecimal() and int(gpus) > 1:
        return for_fabric(f"{SPLIT}{int(gpus)}", kernel_family)
    if interconnect not in _INTERCONNECTS:
        return None
    return for_fabric(_INTERCONNECTS[interconnect], kernel_family)
