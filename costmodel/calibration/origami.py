"""The closed form of AMD's origami for an all-reduce over xGMI, as a baseline that is not fitted.

Form and constants are those of ``origami::comm``, proposed in ROCm/rocm-libraries #9162
(``facts/origami.csv``; written anew from the form, checked against outputs that its tests freeze).
It was calibrated on RCCL on MI300X: its constants are for gfx942, and it refuses gfx950, for which
the same figures are an extrapolation of ours. It knows no RMSNorm, no barrier in these two
algorithms and no graph replay; its launch floor is RCCL's.

Notation: S = bytes per rank, N = ranks, W = workgroups asked for. Of a part of P bytes work
w = min(W, P / min_bytes_per_workgroup) workgroups, at least one, and each of them goes I times
round its loop of 512 bytes. A turn takes, with v workgroups on a link of rate B,

- read from a peer: 512 / min(B / v, bytes in flight / round trip),
- written to a peer: 512 v / (B (1 - exp(-v / k))),
- read from local memory: 512 w / (memory rate * min(1, 0.015 w)).

One-shot visits the N - 1 peers one after the other, all workgroups on one link, P = S. Two-shot has
P = S / N: a local read and N - 1 reads from peers, then N - 1 writes, each after a local read of
two parts, with the workgroups spread over the N - 1 links. The other units of the original (vector
memory, caches, arithmetic) never bind in an all-reduce and are left out.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data import facts
from ..units import BYTES_PER_US_PER_GBPS

Array = NDArray[np.float64]

#: The original counts an all-reduce's part in elements of 2 bytes.
ELEMENT = 2


def all_reduce_us(
    size_bytes: ArrayLike, world_size: ArrayLike, one_shot: ArrayLike, workgroups: ArrayLike
) -> Array:
    """Return the latency of an all-reduce in us; the arguments are broadcast.

    ``size_bytes`` is the input on one rank, ``one_shot`` says which algorithm runs, ``workgroups``
    how many are launched.
    """
    size, n, one, asked = np.broadcast_arrays(size_bytes, world_size, one_shot, workgroups)
    peers = n - 1
    elements = np.ceil(size / ELEMENT / np.where(one, 1, n))
    active = np.clip(ELEMENT * elements // _constant("min_bytes_per_workgroup"), 1, asked)
    lines = np.ceil(ELEMENT * np.ceil(elements / active) / _constant("cache_line"))
    turns = np.ceil(lines * _constant("cache_line") / _constant("turn"))
    reading = np.where(one, active, np.maximum(active * peers // n // peers, 1))
    writing = np.maximum(active // peers, 1)
    local = _local_read(active)
    reads = peers * turns * _remote_read(reading)
    two_shot_only = turns * local + peers * (2 * local + turns * _remote_write(writing))
    return _constant("launch") + reads + np.where(one, 0.0, two_shot_only)


def _link() -> float:
    """Payload of a link, bytes per us."""
    gbps = _constant("link_wire_rate") * 2**30 / 1e9 / _constant("link_wire_per_payload")
    return gbps * BYTES_PER_US_PER_GBPS


def _remote_read(on_link: Array) -> Array:
    in_flight = _constant("loads_in_flight") * _constant("cache_line")
    latency_bound = in_flight / (_constant("remote_load") / 1e3)
    return _constant("turn") / np.minimum(_link() / on_link, latency_bound)


def _remote_write(on_link: Array) -> Array:
    used = -np.expm1(-on_link / _constant("write_workgroups"))
    return _constant("turn") * on_link / (_link() * used)


def _local_read(active: Array) -> Array:
    share = np.minimum(1.0, _constant("hbm_share") * active)
    rate = _constant("hbm_read") * BYTES_PER_US_PER_GBPS * share
    return _constant("turn") * active / rate


@cache
def _constant(quantity: str) -> float:
    return next(float(r["value"]) for r in facts.rows("origami.csv") if r["quantity"] == quantity)
