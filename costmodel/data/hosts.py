"""What GPUs a host has, as rules of several kinds of GPU ask it: arch, card, link between them.

The amdkfd driver shows each of the three in its topology (see :mod:`costmodel.live.kfd`).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from . import cards
from .hardware import GPUS


class Host(Struct, frozen=True):
    """The GPUs of a host, all of one kind.

    ``version`` and ``device_id`` are the texts of ``gfx_target_version`` and ``device_id`` in the
    topology, ``xgmi`` tells whether each of them has an xGMI link.
    """

    version: str
    device_id: str = "0"
    xgmi: bool = True


class Kind(Struct, frozen=True):
    """GPUs that a rule is for: an arch, or (``gpu``) the cards of one product."""

    arch: str
    gpu: str = ""

    @property
    def name(self) -> str:
        """The arch, or the product."""
        return self.gpu or self.arch

    @property
    def products(self) -> tuple[str, ...]:
        """The product, or those of the arch that a rule is made for."""
        return (self.gpu,) if self.gpu else GPUS.get(self.arch, ())

    @property
    def keys(self) -> tuple[str, ...]:
        """What the topology shows for such GPUs: the target version, or the PCI device ids."""
        if self.gpu:
            return tuple(str(i) for i in cards.device_ids(self.gpu))
        return (target_version(self.arch),)

    @property
    def device_ids(self) -> tuple[str, ...]:
        """The PCI device ids of such GPUs; of an arch those of the products that a rule is made
        for (:data:`GPUS`): an MI300A is gfx942 and none of them, and so is an unlisted card."""
        return tuple(str(i) for gpu in self.products for i in cards.device_ids(gpu))

    def has(self, host: Host) -> bool:
        """Tell whether a host's GPUs are of this kind and joined by xGMI."""
        arch = self.gpu or host.version == target_version(self.arch)
        return bool(arch) and host.xgmi and host.device_id in self.device_ids

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Hosts of such GPUs, joined by xGMI: one of each card and virtual function of a product,
        one of an arch."""
        if self.gpu:
            return tuple(Host(target_version(self.arch), key) for key in self.keys)
        return (Host(self.keys[0], (*self.device_ids, "0")[0]),)


def target_version(arch: str) -> str:
    """Return the ``gfx_target_version`` of an arch: gfx942 is 90402."""
    digits = arch.removeprefix("gfx")
    major, minor, stepping = digits[:-2], digits[-2], digits[-1]
    return str(int(major) * 10000 + int(minor, 16) * 100 + int(stepping, 16))


def host_of(gpu: str, arch: str) -> Host:
    """Return a host of one product's cards, as their links are."""
    ids = cards.device_ids(gpu)
    wired = cards.interconnect(gpu) != cards.PCIE
    return Host(target_version(arch), str(ids[0]) if ids else "0", wired)


def others(kinds: Sequence[Kind]) -> dict[str, Host]:
    """Return hosts on which no rule for ``kinds`` holds, by what they are."""
    found = {"no topology": Host("0"), "an unlisted card": Host(target_version(kinds[0].arch))}
    for kind in kinds:
        found[f"{kind.name} without xGMI"] = Host(
            kind.hosts[0].version, kind.hosts[0].device_id, False
        )
    for card in cards.cards().values():
        host = host_of(card.gpu, card.arch)
        if not any(kind.has(host) for kind in kinds):
            found.setdefault(card.gpu, host)
    return found
