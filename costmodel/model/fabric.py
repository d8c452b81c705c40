"""How ranks are wired: which bytes have to pass one after the other.

The latency model needs one number from a wiring: for ``link_bytes`` exchanged between each pair of
ranks, how many bytes pass its narrowest resource in one direction.

- full mesh (xGMI inside a node): each pair has a link of its own, so just ``link_bytes``;
- ports into a switch (NVLink, MI450's scale-up): the peers share a GPU's port. With the N ranks on
  G GPUs, N/G on each, a rank of one GPU exchanges with the N - N/G of the others, so that
  ``(N/G)^2 (G-1) link_bytes`` pass a port each way; what ranks of one GPU exchange is not on it.
  With a GPU for every rank, G = N, it is ``(N-1) link_bytes``.

Source of the forms for G = N: the alpha-beta model of one-shot and two-shot all-reduce (Hockney;
see docs/physics.md). For G < N it is a count of pairs.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Names of fabrics, as in calibration files and topologies. ``split_`` is followed by the number of
#: GPUs; ``loopback`` has no wires.
FULL_MESH = "full_mesh"
SWITCH = "switch"
SPLIT = "split_"
LOOPBACK = "loopback"


#: Why a wiring does not take a number of ranks.
UNEVEN = "ranks do not split evenly over the GPUs"


class Wiring(Protocol):
    """A wiring of ranks, each with links or a port."""

    @property
    def name(self) -> str:
        """The name in calibration files."""

    def bottleneck_bytes(self, link_bytes: Array, world_size: ArrayLike) -> Array:
        """Return the bytes through the narrowest resource, per direction."""

    def takes(self, world_size: ArrayLike) -> Mask:
        """Return which world sizes can be wired like this."""


class FullMesh(Struct, frozen=True):
    """A link between each pair of ranks."""

    name: str = FULL_MESH

    def bottleneck_bytes(self, link_bytes: Array, world_size: ArrayLike) -> Array:
        """See :meth:`Wiring.bottleneck_bytes`."""
        return link_bytes

    def takes(self, world_size: ArrayLike) -> Mask:
        """See :meth:`Wiring.takes`; every one."""
        return np.ones(np.shape(world_size), np.bool_)


class Ports(Struct, frozen=True):
    """``gpus`` GPUs with one port each, shared by their ranks; None: a GPU for every rank."""

    gpus: int | None = None

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus < 2:
            raise InputError(
                f"ranks split over {self.gpus} GPU: give 2 or more; ranks that all share one GPU "
                "are the fabric loopback"
            )

    @property
    def name(self) -> str:
        """``switch``, or ``split_2`` for ranks split over two GPUs."""
        return SWITCH if self.gpus is None else f"{SPLIT}{self.gpus}"

    def bottleneck_bytes(self, link_bytes: Array, world_size: ArrayLike) -> Array:
        """See :meth:`Wiring.bottleneck_bytes`."""
        n = np.asarray(world_size)
        gpus = n if self.gpus is None else self.gpus
        return self.ranks_a_gpu(n) ** 2 * (gpus - 1) * link_bytes

    def ranks_a_gpu(self, world_size: ArrayLike) -> Array:
        """Return how many ranks share a GPU."""
        n = np.asarray(world_size, np.float64)
        return n / (n if self.gpus is None else self.gpus)

    def takes(self, world_size: ArrayLike) -> Mask:
        """See :meth:`Wiring.takes`; those that split evenly over the GPUs."""
        n = np.asarray(world_size)
        return np.ones(n.shape, np.bool_) if self.gpus is None else n % self.gpus == 0


def check_even(wiring: Wiring, world_size: NDArray[Any]) -> None:
    """Raise :class:`InputError` for a world size that the wiring does not take."""
    takes = wiring.takes(world_size)
    if not takes.all():
        bad = int(world_size[~takes].flat[0])
        raise InputError(f"{bad} {UNEVEN} of fabric {wiring.name}")
