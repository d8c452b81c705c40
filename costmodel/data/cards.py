"""Cards by the PCI device id that they show, from ``facts/pci_ids.csv``.

An arch does not tell cards apart, nor do compute units (304 on MI300X and on MI325X): only the id
does. Virtual functions have ids of their own. An id that is not listed is an unknown card, never
the nearest. The ids are those of libdrm's ``amdgpu.ids``, of AITER's list of MI308X and, where
neither has them, of rocprofiler-compute's table; each row names its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from msgspec import Struct

from . import facts

#: What joins the GPUs of a host, as rows of measurements say it.
XGMI, PCIE = "xgmi", "pcie"


class Card(Struct, frozen=True):
    """One PCI device id. ``interconnect`` is :data:`XGMI` or :data:`PCIE`, between such cards.

    ``gpu`` is the product, ``virtual`` tells a virtual function from the card itself.
    """

    device_id: int
    gpu: str
    arch: str
    interconnect: str
    virtual: bool
    source: str
    notes: str


@cache
def cards() -> Mapping[int, Card]:
    """Return every card that is known, by its device id."""
    found = (
        Card(
            device_id=int(row["device_id"], 16),
            gpu=row["gpu"],
            arch=row["arch"],
            interconnect=row["interconnect"],
            virtual=row["function"] == "virtual",
            source=row["source"],
            notes=row["notes"],
        )
        for row in facts.rows("pci_ids.csv")
    )
    return {card.device_id: card for card in found}


def card(device_id: int) -> Card | None:
    """Return the card of a PCI device id, None for one that is not listed.

    >>> card(0x74B6).gpu, card(0x74BC).gpu, card(0x74B7)
    ('MI308X', 'MI308X', None)
    """
    return cards().get(device_id)


def device_ids(gpu: str) -> tuple[int, ...]:
    """Return the PCI device ids of a product, virtual functions included; () for an unknown one."""
    return tuple(c.device_id for c in cards().values() if c.gpu == gpu)


def without_xgmi() -> Mapping[str, Card]:
    """Return the products whose cards meet over PCIe alone, by name."""
    return {c.gpu: c for c in cards().values() if c.interconnect == PCIE and not c.virtual}


def interconnect(gpu: str) -> str | None:
    """Return what joins GPUs of a product, None for a product that is not listed."""
    return next((c.interconnect for c in cards().values() if c.gpu == gpu), None)
