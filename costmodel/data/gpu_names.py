"""Names of GPUs in tables: which are known, and which look like a known one and are not.

A name that differs in spelling alone (``MI355``, ``mi355x-oam``, ``MI 300X``) would be calibrated
as a GPU of its own. Only names of AMD's products are looked at: what torch calls an NVIDIA GPU
(``H100 80GB HBM3``) is not a misspelling, and runs on one carry it.
"""

from __future__ import annotations

import re
from functools import cache

from . import cards, hardware

#: What a vendor or a system adds to a product's name.
_ADDED = re.compile(r"AMD|INSTINCT|RADEON|OAM|UBB|VF")
#: A product: three digits, the letter after them, and no further digit.
_PRODUCT = re.compile(r"(?:MI|^)(\d{3})(?!\d)([A-Z]?)")


@cache
def known() -> dict[str, str]:
    """Return the arch of each GPU that the facts describe, by name."""
    return (
        {f.gpu: f.arch for f in hardware.figures() if f.arch and " " not in f.gpu}
        | {card.gpu: card.arch for card in cards.cards().values()}
        | {gpu: arch for arch, gpus in hardware.GPUS.items() for gpu in gpus}
    )


def arch_of(gpu: str) -> str | None:
    """Return the arch of a GPU whose links the facts know, None for any other."""
    return known().get(gpu) if hardware.link_gbps(gpu) is not None else None


def looks_like(name: str) -> tuple[str, ...]:
    """Return the AMD GPUs that a name probably means although it is another; () for a new GPU's.

    The digits and the letter after them tell products apart; a missing letter may be any.

    >>> looks_like("MI355"), looks_like("MI300"), looks_like("MI355X"), looks_like("MI450")
    (('MI355X',), ('MI300A', 'MI300X'), (), ())
    """
    if name in known():
        return ()
    letters = _ADDED.sub("", re.sub(r"[^A-Z0-9]", "", name.upper()))
    letters = re.sub(r"^M[1L](?=\d)", "MI", letters)
    letters = re.sub(r"(?<=\d)O+|O+(?=\d)", lambda zeros: "0" * len(zeros[0]), letters)
    product = _PRODUCT.search(letters)
    if product is None:
        return ()
    digits, letter = product.groups()
    return tuple(
        sorted(
            gpu
            for gpu in known()
            if re.fullmatch(rf"MI{digits}{letter or '[A-Z]?'}", gpu) and arch_of(gpu)
        )
    )
