"""The GPUs of this host and the links between them, as the amdkfd driver describes them.

A folder of ``/sys/class/kfd/kfd/topology/nodes`` is one CPU or GPU; its ``properties`` name the
arch and the PCI device id, each of its ``io_links`` what joins it with another node
(drivers/gpu/drm/amd/amdkfd/kfd_topology.c). So an MI350P, which is gfx950 over PCIe, is told from
an MI350X. What cannot be read, as the GPUs of another container, counts as absent; nothing here
raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..data import cards

#: Where amdkfd describes GPUs and links.
NODES = Path("/sys/class/kfd/kfd/topology/nodes")

#: ``type`` of an xGMI link there (``CRAT_IOLINK_TYPE_XGMI`` in amdkfd/kfd_crat.h); 2 is PCIe.
XGMI = "11"

#: What joins GPUs of which some pairs have an xGMI link and others have none.
MIXED = "mixed"


@dataclass(frozen=True)
class Gpu:
    """A GPU node: its name there, its arch, and its PCI device id (0 where none is stated)."""

    node: str
    arch: str
    device_id: int

    @property
    def card(self) -> cards.Card | None:
        """The card that the device id stands for, None for one that is not listed."""
        return cards.card(self.device_id)


def gpus(nodes: Path = NODES) -> tuple[Gpu, ...]:
    """Return the GPUs in the order of their nodes; CPUs have no SIMDs."""
    found = []
    for node in sorted(nodes.glob("*"), key=lambda p: (len(p.name), p.name)):
        properties = _properties(node / "properties")
        version = properties.get("gfx_target_version", "")
        if properties.get("simd_count", "0") != "0" and version.isdecimal() and int(version):
            # 90402 is gfx942: major, minor and stepping, two decimal digits each but the first.
            major, rest = divmod(int(version), 10000)
            device_id = properties.get("device_id", "")
            found.append(
                Gpu(
                    node.name,
                    f"gfx{major}{rest // 100:x}{rest % 100:x}",
                    int(device_id) if device_id.isdecimal() else 0,
                )
            )
    return tuple(found)


def xgmi_pairs(nodes: Path = NODES) -> set[tuple[int, int]]:
    """Return the pairs of GPUs, numbered in the order of :func:`gpus`, that an xGMI link joins."""
    number = {gpu.node: i for i, gpu in enumerate(gpus(nodes))}
    pairs = set()
    for node, here in number.items():
        for link in nodes.glob(f"{node}/*_links/*/properties"):
            properties = _properties(link)
            there = number.get(properties.get("node_to", ""))
            if properties.get("type") == XGMI and there is not None and there != here:
                pairs.add((min(here, there), max(here, there)))
    return pairs


def interconnect(nodes: Path = NODES) -> str | None:
    """Return what joins the GPUs of this host: ``xgmi`` (each with each), ``pcie`` or ``mixed``.

    A lone GPU is judged by its card. None where no topology says: not an AMD host, or not readable.
    """
    found = gpus(nodes)
    if not found:
        return None
    if len(found) == 1:
        card = found[0].card
        return card.interconnect if card is not None else None
    joined, pairs = len(xgmi_pairs(nodes)), len(found) * (len(found) - 1) // 2
    if joined == pairs:
        return cards.XGMI
    return MIXED if joined else cards.PCIE


def _properties(path: Path) -> dict[str, str]:
    """Return the ``name value`` lines of a KFD properties file, {} where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(line.split(maxsplit=1) for line in lines if len(line.split()) == 2)
