"""The machine that a collective runs on: topology, calibrated costs, kernel, and their evidence.

LinkCosts are those of a calibration, without the constant that a benchmark adds. What a fabric says
differently, it says with a figure of ``facts/hardware.csv``:

- ``mi450``: a switch of 72 ranks; port rate and memory, nothing else, from gfx1250's figures;
- ``mi250x``: a hypercube of 8 dies, with rates measured between MI250 dies over 4, 2 and 1 links;
- one hop more than the calibrated fabric's adds half of (remote - local) load latency each way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import fields, replace

from ..calibration.posterior import Calibration
from ..data import hardware
from ..data import kernels as _kernel
from ..errors import InputError, nearest
from ..model.choose import for_fabric
from ..model.fabric import FULL_MESH, SWITCH
from ..model.interface import LatencyModel
from ..model.latency import LinkCosts
from ..model.shape import WORLD_SIZES
from .topology import HYPERCUBE, RING, TOPOLOGIES, Topology, build

MI450 = "mi450"
MI250X = "mi250x"
FABRICS = (*TOPOLOGIES, MI450, MI250X)

#: Ranks that a fabric has when nothing is said; the MI450 rack is announced with 72 GPUs
#: (https://github.com/stas00/ml-engineering network/README.md).
DEFAULT_RANKS = {MI450: 72, "hierarchical": 64}

#: Links of a path on the fabric that a calibration was made on: its round trip covers them.
CALIBRATED_HOPS = {FULL_MESH: 1, SWITCH: 2}

#: LinkCosts that a user may not set one by one: they belong to the benchmark, not to the machine.
NOT_SETTABLE = ("harness_us",)


class Machine(Struct, frozen=True):
    """Topology, costs and kernel of one question. ``fabric`` is the name that a user gave it.

    ``base_hops`` are the links of a path whose latency the costs already hold, ``hop_us`` what one
    more costs in one direction. ``resident`` is how many workgroups a GPU runs at once. ``notes``
    say in words where figures that are not of the calibration come from.
    """

    fabric: str
    calibrated_fabric: str
    topology: Topology
    costs: LinkCosts
    kernel: _kernel.Kernel
    arch: str
    gpu: str
    base_hops: int
    hop_us: float
    resident: int
    notes: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        """How many ranks take part."""
        return self.topology.ranks

    @property
    def closed_form(self) -> LatencyModel | None:
        """The model that describes this machine in closed form, or None when there is none."""
        name = self.topology.name
        return for_fabric(name) if name in (FULL_MESH, SWITCH) else None

    @property
    def is_calibrated(self) -> bool:
        """Whether the calibration speaks for this fabric at this world size, undisturbed."""
        return self.fabric == self.calibrated_fabric and self.ranks in WORLD_SIZES

    def degrade(self, factors: Mapping[str, float]) -> Machine:
        """Return the machine with links degraded or out (see :meth:`Topology.degrade`)."""
        return replace(self, topology=self.topology.degrade(factors))

    def scaled(self, factor: float) -> Machine:
        """Return the machine with every link at ``factor`` times its rate."""
        costs = replace(self.costs, link_gbps=self.costs.link_gbps * factor)
        return replace(self, topology=self.topology.scaled(factor), costs=costs)


def machine(
    calibration: Calibration, gpu: str, *,
    fabric: str | None = None, ranks: int | None = None, link_gbps: float | None = None,
    uplink_gbps: float | None = None, domain: int = 8, kernel: _kernel.Kernel | None = None,
    costs: Mapping[str, float] | None = None,
) -> Machine:  # fmt: skip
    """Return ``gpu`` of a calibration on a fabric.

    ``fabric`` defaults to the calibration's own, ``ranks`` to 8 (72 for ``mi450``), ``link_gbps``
    (per link, or per port of a switch) to the calibrated link, and for a switch to as many links as
    the GPU has for peers. ``costs`` sets single calibrated costs by name.

    Raises :class:`InputError` for an unknown fabric or cost, ranks the fabric lacks and rates that
    are not positive.
    """
    if calibration.model.wiring is None:
        raise InputError(
            f"the calibration is of ranks that share one GPU ({calibration.fabric}), which has no "
            "links to simulate; give one of ranks on GPUs of their own"
        )
    calibrated = calibration.costs(gpu, calibration.values)
    if not isinstance(calibrated, LinkCosts):
        raise InputError(
            f"the calibration is of ranks split over GPUs ({calibration.fabric}), several on each, "
            "which are not simulated; give one of ranks on GPUs of their own"
        )
    found = LinkCosts(**{f.name: float(getattr(calibrated, f.name)) for f in fields(LinkCosts)})
    found = replace(found, harness_us=0.0)
    name = fabric or calibration.fabric
    if name not in FABRICS:
        raise InputError(
            f"unknown fabric '{name}'{nearest(name, FABRICS)}; known: {', '.join(FABRICS)}"
        )
    count = ranks if ranks is not None else DEFAULT_RANKS.get(name, 8)
    notes: list[str] = []
    form, rate, widths = name, link_gbps, None
    if name == MI450:
        form = SWITCH
        found, rate = _mi450(found, gpu, link_gbps, notes)
    elif name == MI250X:
        form = HYPERCUBE
        rate, widths = _mi250x(link_gbps, notes)
    elif rate is None:
        rate = found.link_gbps
        if form == SWITCH and calibration.fabric == FULL_MESH:
            links = hardware.number("MI300X", "xgmi_links_to_peers")
            rate *= links
            notes.append(f"port: the {links:g} links of {gpu} pooled, {rate:.0f} GB/s")
    if form == RING and ranks is None:
        notes.append(f"ring: one link of {rate:.4g} GB/s to each neighbour")
    topology = build(
        form, count, rate, widths=widths, domain=domain, uplink_gbps=uplink_gbps
    )  # fmt: skip
    found = replace(_set(found, costs or {}), link_gbps=rate)
    hop_us = _hop_us()
    base = CALIBRATED_HOPS.get(calibration.fabric, 1)
    if int(topology.hops.max()) > base:
        notes.append(
            f"paths of up to {int(topology.hops.max())} links: {1e3 * hop_us:.0f} ns per link "
            "beyond the calibrated fabric's, each way (remote minus local load on MI300X, halved)"
        )
    return Machine(
        fabric=name,
        calibrated_fabric=calibration.fabric,
        topology=topology,
        costs=found,
        kernel=kernel or _kernel.aiter(),
        arch=next(a for a, g in calibration.gpus if g == gpu),
        gpu=gpu,
        base_hops=base,
        hop_us=hop_us,
        resident=_compute_units(gpu),
        notes=tuple(notes),
    )


def _mi450(
    costs: LinkCosts, gpu: str, link_gbps: float | None, notes: list[str]
) -> tuple[LinkCosts, float]:
    port = hardware.number("MI450", "peer_push_single_pair_ceiling")
    memory = hardware.hbm_gbps("MI450") / hardware.hbm_gbps(gpu)
    notes.append(
        f"mi450: port {port:g} GB/s (measured push between one pair of a 4-GPU node), memory "
        f"x {memory:.3g} of {gpu} (19.6 TB/s); every latency and the floor of reads are "
        f"{gpu}'s, as no MI450 collective is published"
    )
    scaled = replace(
        costs,
        local_gbps=costs.local_gbps * memory,
        separate_norm_gbps=costs.separate_norm_gbps * memory,
    )
    return scaled, port if link_gbps is None else link_gbps


def _mi250x(link_gbps: float | None, notes: list[str]) -> tuple[float, tuple[float, ...] | None]:
    """Return the rate of one link and the widths of the dimensions in such links."""
    if link_gbps is not None:
        return link_gbps, None
    measured = {
        links: float(figure.value)
        for figure in hardware.figures()
        if figure.gpu == "MI250" and figure.quantity == "peer_write_unidir"
        for words, links in (("same-OAM", 4), ("2-link", 2), ("1-link", 1))
        if words in figure.notes
    }
    notes.append(
        "mi250x: " + ", ".join(f"{measured[n]:g}" for n in (4, 2, 1)) + " GB/s over 4, 2 and 1 "
        "links (measured writes between MI250 dies); a cube, not the cabling of a product"
    )
    return measured[1], (measured[4] / measured[1], measured[2] / measured[1], 1.0)


def _hop_us() -> float:
    """Latency of one hop in one direction: (remote - local load) / 2 on MI300X, one source."""
    latency = {
        f.quantity: float(f.value)
        for f in hardware.figures()
        if f.gpu == "MI300X" and "mi300x-architecture" in f.source_url
        and f.quantity in ("load_latency_remote_xgmi", "load_latency_hbm")
    }  # fmt: skip
    return (latency["load_latency_remote_xgmi"] - latency["load_latency_hbm"]) / 2 * 1e-3


def _compute_units(gpu: str) -> int:
    """CUs of the GPU, one workgroup each; as many as a kernel asks for without a figure."""
    try:
        return int(hardware.number(gpu, "compute_units"))
    except KeyError:
        return 1 << 20


def _set(costs: LinkCosts, changes: Mapping[str, float]) -> LinkCosts:
    known = [f.name for f in fields(LinkCosts) if f.name not in NOT_SETTABLE]
    for name, value in changes.items():
        if name not in known:
            raise InputError(f"unknown cost '{name}'{nearest(name, known)}; {', '.join(known)}")
        if name == "link_gbps":
            raise InputError("link_gbps is the fabric's: use --link-gbps")
        rate = not name.endswith(("_us", "_growth"))
        if not (value > 0 if rate else value >= 0) or value == float("inf"):
            raise InputError(
                f"{name}={value:g}: it must be {'more than 0' if rate else '0 or more'}"
            )
    return replace(costs, **dict[str, Any](changes))
