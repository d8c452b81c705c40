"""How ranks are wired: which bytes have to pass one after the other.

The latency model needs one number from a fabric: for ``link_bytes`` exchanged between each pair of
ranks, how many bytes go through the narrowest resource.

- full mesh (xGMI inside a node): each pair has a link of its own, so just ``link_bytes``;
- switch (NVLink, MI450's scale-up): the N-1 peers share one port, ``(N-1) * link_bytes``;
- loopback (N virtual ranks on one GPU): all pairs share one memory, ``N (N-1) * link_bytes``.

Source of the mesh and switch forms: the alpha-beta model of one-shot and two-shot all-reduce
(Hockney; see docs/physics.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FULL_MESH = "full_mesh"
SWITCH = "switch"
LOOPBACK = "loopback"
FABRICS = (FULL_MESH, SWITCH, LOOPBACK)


def bottleneck_bytes(
    fabric: str, link_bytes: NDArray[np.float64], world_size: ArrayLike
) -> NDArray[np.float64]:
    """Return the bytes that pass the fabric's narrowest resource, per direction."""
    n = np.asarray(world_size)
    if fabric == FULL_MESH:
        return link_bytes
    if fabric == SWITCH:
        return (n - 1) * link_bytes
    if fabric == LOOPBACK:
        return n * (n - 1) * link_bytes
    raise ValueError(f"unknown fabric '{fabric}'; known: {', '.join(FABRICS)}")


def of_interconnect(interconnect: str) -> str | None:
    """Return the fabric of a measurement's ``interconnect``, or None when it is not modelled."""
    return {"xgmi": FULL_MESH, "nvlink": SWITCH, "loopback": LOOPBACK}.get(interconnect)
