"""Hardware facts: every figure with its unit, kind and source, read from ``facts/hardware.csv``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..errors import InputError, nearest
from . import facts

#: GPUs the recommendation covers, by arch; the first of an arch is its default.
GPUS = {
    "gfx942": ("MI300X", "MI308X", "MI325X"),
    "gfx950": ("MI355X", "MI350X"),
}


@dataclass(frozen=True)
class Figure:
    """One published figure. ``kind`` is peak, measured, derived or model."""

    gpu: str
    arch: str
    quantity: str
    value: str
    unit: str
    source_url: str
    kind: str
    notes: str


@cache
def figures() -> tuple[Figure, ...]:
    """Return every figure of the fact file."""
    return tuple(Figure(**row) for row in facts.rows("hardware.csv"))


def figure(gpu: str, quantity: str) -> Figure:
    """Return the first figure for a GPU and quantity; raise KeyError when there is none."""
    for found in figures():
        if found.gpu == gpu and found.quantity == quantity:
            return found
    raise KeyError(f"no figure '{quantity}' for {gpu} in facts/hardware.csv")


def number(gpu: str, quantity: str) -> float:
    """Return a figure's value as a number in the figure's own unit."""
    return float(figure(gpu, quantity).value)


def hbm_gbps(gpu: str) -> float:
    """Peak HBM bandwidth in GB/s (the fact file prints TB/s).

    1000 GB/s for a GPU without facts: its fitted efficiency then stands for the rate.
    """
    try:
        found = figure(gpu, "hbm_bandwidth")
    except KeyError:
        return 1000.0
    return float(found.value) * (1e3 if found.unit == "TB/s" else 1.0)


def arch_of(gpu: str) -> str:
    """Return the arch of a GPU that the recommendation covers."""
    for arch, gpus in GPUS.items():
        if gpu.upper() in gpus:
            return arch
    known = [g for gpus in GPUS.values() for g in gpus]
    raise InputError(f"unknown GPU '{gpu}'{nearest(gpu, known)}; known: {', '.join(known)}")


def choose(arch: str | None, gpu: str | None) -> tuple[str, str]:
    """Return (arch, gpu) from what a user gave, in any case; the arch's default GPU if none.

    Raises :class:`InputError` for an unknown arch or GPU, and for a GPU of another arch.
    """
    if arch is not None and arch.lower() not in GPUS:
        raise InputError(
            f"unknown arch '{arch}'{nearest(arch, list(GPUS))}; known: {', '.join(GPUS)}"
        )
    if gpu is None:
        if arch is None:
            raise InputError("give --arch (gfx942 or gfx950) or --gpu")
        return arch.lower(), GPUS[arch.lower()][0]
    found = arch_of(gpu)
    if arch is not None and arch.lower() != found:
        raise InputError(f"{gpu.upper()} is {found}, not {arch.lower()}")
    return found, gpu.upper()
