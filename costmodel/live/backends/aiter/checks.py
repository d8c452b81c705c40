"""What AITER's back end can say of the machine before a first run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....data.hardware import link_gbps
from ....data.kernels import LATEST, Kernel
from ....model.shape import FUSED, ONE_STAGE, TWO_STAGE
from ...machine import NOTE, OK, WRONG, Check
from ..base import Backend
from ..device import Device
from . import kernel_cache

#: A link below this part of the median of all links is degraded: they are alike in one machine.
DEGRADED = 0.8

#: So is one below this part of the nominal rate; healthy ones reach 0.7 and more of it
#: (``facts/priors.csv``, link_gbps).
OF_NOMINAL = 0.5


def checks(backend: Backend, device: Device, kernel: Kernel) -> tuple[Check, ...]:
    """Return the checks of GPUs, links, AITER and its compiled kernels; all ranks call this."""
    gpus = backend.exchange(backend.environment())
    rates: list[tuple[int, int, float]] = []
    for rank in range(backend.world_size):  # one after the other: copies share links
        mine = _copies(backend, device) if rank in backend.local_ranks else []
        rates += [rate for found in backend.exchange(mine) for rate in found]
    return (
        _gpus(gpus),
        _links(rates, str(gpus[0].get("gpu", ""))),
        _aiter(backend, kernel),
        _cache(),
    )


def _copies(backend: Backend, device: Device) -> list[tuple[int, int, float]]:
    """Return (source, target, GB/s) of copies from this rank's GPU to each other rank's."""
    source = backend.local_ranks[0]
    others = [target for target in range(backend.world_size) if target != source]
    found = [(source, target, device.copy_gbps(source, target)) for target in others]
    return [(source, target, rate) for source, target, rate in found if rate]


def _gpus(gpus: list[dict[str, Any]]) -> Check:
    names = [f"{gpu.get('gpu') or 'unknown'} ({gpu.get('arch')})" for gpu in gpus]
    seen = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    if len(set(names)) > 1:
        return Check("GPUs of the ranks", WRONG, seen, "give ranks GPUs of one kind")
    return Check("GPUs of the ranks", OK, seen)


def _links(rates: list[tuple[int, int, float]], gpu: str) -> Check:
    """Return the rates of peer copies beside the nominal one, and which links lag."""
    if not rates:
        return Check("link rates", NOTE, "no copy between two GPUs could be timed")
    values = np.array([rate for _, _, rate in rates])
    median, nominal = float(np.median(values)), link_gbps(gpu)
    seen = f"copies of 64 MiB at {values.min():.3g} to {values.max():.3g} GB/s, "
    seen += f"median {median:.3g}; "
    seen += f"nominal {nominal:.3g} ({median / nominal:.0%})" if nominal else "nominal not known"
    details = {"gbps": [list(rate) for rate in rates], "nominal_gbps": nominal}
    least = max(DEGRADED * median, OF_NOMINAL * (nominal or 0.0))
    slow = [f"{a} to {b} ({rate:.3g})" for a, b, rate in rates if rate < least]
    if slow:
        return Check(
            "link rates", WRONG, f"{seen}; slow: {', '.join(slow)}",
            "free the machine of other work; if it stays, have the links looked at", details,
        )  # fmt: skip
    return Check("link rates", OK, seen, "", details)


def _aiter(backend: Backend, kernel: Kernel) -> Check:
    states = [
        f"{stage}: {kernel.state(FUSED, stage)}"
        for stage in (ONE_STAGE, TWO_STAGE)
        if kernel.runs(FUSED, stage)
    ]
    seen = f"{backend.kernel_version}; taken for {kernel.title}; {'; '.join(states)}"
    note = "" if kernel.known else f"newer than {LATEST}, the newest whose kernels are known"
    return Check("kernels", NOTE if note else OK, seen, note, {"version": kernel.version})


def _cache() -> Check:
    stale = kernel_cache.stale()
    if stale:
        return Check("compiled kernels", WRONG, stale, "set AITER_REBUILD=1 once")
    return Check("compiled kernels", OK, "none that is older than its source")
