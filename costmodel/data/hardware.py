"""Hardware facts: every figure with its unit, kind and source, read from ``facts/hardware.csv``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from msgspec import Struct

from ..errors import InputError, nearest
from . import cards, facts

#: GPUs the recommendation covers, by arch; the first of an arch is its default.
GPUS = {
    "gfx942": ("MI300X", "MI308X", "MI325X"),
    "gfx950": ("MI355X", "MI350X"),
}

#: Quantity that holds the nominal rate, one way, of what connects a GPU with its peers: of an xGMI
#: link to one of them, of a GPU's port into an NVLink switch.
LINK_RATES = {"xgmi": "xgmi_link_bw_unidir", "nvlink": "nvlink_per_gpu_unidir"}


class Figure(Struct, frozen=True):
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


@cache
def link_gbps(gpu: str) -> float | None:
    """Return a GPU's nominal link rate (:data:`LINK_RATES`) in GB/s, None where it is not known."""
    for quantity in LINK_RATES.values():
        try:
            return number(gpu, quantity)
        except KeyError:
            continue
    return None


@cache
def wire(gpu: str, ranks: int) -> str | None:
    """Return what connects so many GPUs of one host directly, each with each: ``xgmi``, ``nvlink``.

    ``pcie`` for a card that has no links; None for a GPU whose links are not known, or that has
    fewer of them than peers.
    """
    if gpu in cards.without_xgmi():
        return cards.PCIE
    for name, quantity in LINK_RATES.items():
        peers = _peers(gpu) if name == "xgmi" else _NVLINK_PEERS
        if any(f.gpu == gpu and f.quantity == quantity for f in figures()) and ranks <= peers + 1:
            return name
    return None


#: Peers behind one NVLink switch of an 8-GPU board, the H100, H200 and B200 of the fact file.
_NVLINK_PEERS = 7


def _peers(gpu: str) -> int:
    try:
        return int(number(gpu, "xgmi_links_to_peers"))
    except KeyError:
        return 0


def hbm_gbps(gpu: str) -> float:
    """Peak HBM bandwidth in GB/s (the fact file prints TB/s).

    1000 GB/s for a GPU without facts: its fitted efficiency then stands for the rate.
    """
    try:
        found = figure(gpu, "hbm_bandwidth")
    except KeyError:
        return 1000.0
    return float(found.value) * (1e3 if found.unit == "TB/s" else 1.0)


def choose(
    arch: str | None, gpu: str | None, known: Sequence[tuple[str, str]] = ()
) -> tuple[str, str]:
    """Return (arch, gpu) from what a user gave, in any case; the arch's first GPU if none.

    ``known`` lists (arch, GPU), preferred ones first (default: :data:`GPUS`); with it nothing need
    be given. A GPU given as arch, or an arch as GPU, is taken for what it is. Raises
    :class:`InputError` for an unknown arch or GPU, for a GPU of another arch, and for one whose
    cards meet over PCIe alone: no model is of that.
    """
    pairs = known or [(a, g) for a, gpus in GPUS.items() for g in gpus]
    archs = list(dict.fromkeys(a for a, _ in pairs))
    of = {g: a for a, g in pairs}
    given = [name for name in (arch, gpu) if name is not None]
    for name in given:
        if (card := cards.without_xgmi().get(product(name))) is not None:
            raise InputError(
                f"{card.gpu} is {card.arch} over PCIe, without xGMI: what is modelled here is GPUs "
                "joined by xGMI, so nothing is claimed of it; costmodel statements has what others "
                "say of PCIe"
            )
    wanted_archs = list(dict.fromkeys(n.lower() for n in given if n.lower() in archs))
    wanted_gpus = list(dict.fromkeys(product(n) for n in given if product(n) in of))
    for name in given:
        if name.lower() not in archs and product(name) not in of:
            kind, names = ("arch", archs) if name is arch else ("GPU", list(of))
            near = nearest(product(name), [*of, *archs])
            raise InputError(f"unknown {kind} '{name}'{near}; known: {', '.join(names)}")
    if len(wanted_archs) > 1 or len(wanted_gpus) > 1:
        raise InputError(f"--arch {arch} and --gpu {gpu} contradict each other; give one of them")
    if not given and not known:
        raise InputError(f"give --arch ({' or '.join(archs)}) or --gpu")
    if not wanted_gpus:
        return next(pair for pair in pairs if not wanted_archs or pair[0] == wanted_archs[0])
    found = wanted_gpus[0]
    if wanted_archs and of[found] != wanted_archs[0]:
        raise InputError(f"{found} is {of[found]}, not {wanted_archs[0]}")
    return of[found], found


def product(name: str) -> str:
    """Return a GPU's name as the tables have it: ``AMD Instinct mi300x`` is ``MI300X``."""
    return re.sub(r"\b(AMD|INSTINCT|NVIDIA)\b[\s_-]*", "", name.strip().upper())
