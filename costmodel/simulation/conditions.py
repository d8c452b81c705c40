"""What is not as the closed form assumes: late ranks, slow ranks, other work, no entry barrier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from ..errors import InputError

Floats = NDArray[np.float64]


class Stream(Struct, frozen=True):
    """Background traffic from rank ``source`` to ``target`` (equal: the rank's own memory).

    It takes up to ``gbps`` and competes for every link of its path like ``flows`` workgroups.
    """

    source: int
    target: int
    gbps: float
    flows: int = 80


class Conditions(Struct, frozen=True):
    """The state of the ranks for one collective; the default is what the closed form assumes.

    ``arrivals_us`` are when each rank's kernel is enqueued (None: together; inf: never).
    ``slowdown`` maps a rank to the factor by which its own work takes longer: launches, loads per
    workgroup, norm, fences and local passes. ``resident`` maps a rank to the workgroups that it can
    run at once, where other kernels hold CUs. Without ``entry_barrier`` the kernels push: a rank
    writes its data as soon as it arrives and waits for data instead of for ranks, as one-shot
    kernels with flags inside the data do (FlashInfer and TensorRT-LLM, "Lamport").
    """

    arrivals_us: Floats | None = None
    slowdown: Mapping[int, float] = field(default_factory=dict)
    resident: Mapping[int, int] = field(default_factory=dict)
    background: tuple[Stream, ...] = ()
    entry_barrier: bool = True

    def late(self, arrivals_us: Floats) -> Conditions:
        """Return the same conditions with other arrivals."""
        return replace(self, arrivals_us=arrivals_us)

    def checked(self, ranks: int) -> Conditions:
        """Return the conditions with arrivals filled in.

        Raises :class:`InputError` for ranks that the fabric lacks and values out of range.
        """
        arrivals = np.zeros(ranks) if self.arrivals_us is None else np.asarray(self.arrivals_us)
        if arrivals.shape != (ranks,):
            raise InputError(f"{arrivals.size} arrivals for {ranks} ranks; give one per rank")
        if np.isnan(arrivals).any() or (arrivals < 0).any():
            bad = int(np.flatnonzero(~(arrivals >= 0))[0])
            raise InputError(
                f"rank {bad} arrives at {arrivals[bad]:g} us; an arrival must be 0 or more"
            )
        for rank, factor in self.slowdown.items():
            _check_rank(rank, ranks, f"slow rank {rank}")
            if not (np.isfinite(factor) and factor > 0):
                raise InputError(f"slow rank {rank}={factor:g}: the factor must be more than 0")
        for rank, count in self.resident.items():
            _check_rank(rank, ranks, f"CUs of rank {rank}")
            if count < 0:
                raise InputError(f"CUs of rank {rank}={count}: give 0 or more")
        for stream in self.background:
            for rank in (stream.source, stream.target):
                _check_rank(rank, ranks, f"background {stream.source}-{stream.target}")
            if not (np.isfinite(stream.gbps) and stream.gbps > 0) or stream.flows < 1:
                raise InputError(
                    f"background {stream.source}-{stream.target}={stream.gbps:g}: give more than "
                    "0 GB/s and at least one flow"
                )
        return replace(self, arrivals_us=arrivals.astype(float))


def _check_rank(rank: int, ranks: int, what: str) -> None:
    if not 0 <= rank < ranks:
        raise InputError(f"{what}: the fabric has ranks 0 to {ranks - 1}")
