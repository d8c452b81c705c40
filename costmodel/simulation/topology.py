"""Topologies: which directed links there are, what they carry, and which of them a path crosses.

Ranks are nodes 0 to N-1; a switch, where there is one, is the node ``sw``. Every pair of directed
links ``a>b`` and ``b>a`` belongs to one cable ``a-b``. The link ``r-r`` is rank r's own memory.

===============  ==============================================================================
full_mesh        a cable between each pair, up to 8 GPUs (AMD Instinct MI300 and MI350 nodes)
switch           one port per rank into a switch that never blocks
ring             a cable to each neighbour; a path takes the shorter way round
hypercube        2^d ranks; the cable of dimension 0 has 4 links, of dimension 1 two, of the others
                 one, as MI250X joins its two dies by 4 links and other pairs by 2 or 1
hierarchical     full meshes whose ranks each have one more cable, into a switch
===============  ==============================================================================

Paths are fixed by the intact topology: in a ring clockwise on a tie, in a hypercube lowest
dimension first. Where a failed cable breaks a path, GPUs of a ring or a hypercube forward around it
on a shortest path, the widest of these; a full mesh has no forwarding (a load over xGMI goes to a
direct peer), so a failed cable leaves its pair without a path.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..errors import InputError, nearest
from ..model.fabric import FULL_MESH, SWITCH
from ..units import BYTES_PER_US_PER_GBPS

RING = "ring"
HYPERCUBE = "hypercube"
HIERARCHICAL = "hierarchical"
TOPOLOGIES = (FULL_MESH, SWITCH, RING, HYPERCUBE, HIERARCHICAL)

#: Ranks of one full mesh: seven links for peers (AMD Instinct MI300X to MI355X).
MESH_RANKS = 8

#: Links per cable of a hypercube's dimension; the last value holds for all further dimensions.
HYPERCUBE_LINKS = (4, 2, 1)

#: A table of all pairs' paths with more entries than this is refused.
MAX_PATH_ENTRIES = 20_000_000

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Topology(Struct, frozen=True, dict=True):
    """Ranks, directed links and the path of every ordered pair of ranks.

    ``ends`` (links, 2) are the nodes of each link and ``gbps`` (links,) its rate. ``paths``
    (ranks * ranks, hops) holds the links from rank a to rank b in row ``a * ranks + b``, padded
    with the last link, which is a filler of infinite rate; the diagonal is each rank's memory.
    ``hops`` (ranks * ranks,) counts the links of a path. ``forwards`` says whether ranks pass on
    what is not for them.
    """

    name: str
    ranks: int
    ends: Integers
    gbps: Floats
    paths: Integers
    hops: Integers
    forwards: bool
    changes: tuple[str, ...] = ()

    @property
    def switch(self) -> int:
        """The node number of the switch."""
        return self.ranks

    @property
    def capacity(self) -> Floats:
        """What every link carries, in bytes per microsecond."""
        return self.gbps * BYTES_PER_US_PER_GBPS

    def link_name(self, link: int) -> str:
        """Return ``a>b`` of a directed link."""
        a, b = self.ends[link].tolist()
        return f"{self._node(a)}>{self._node(b)}"

    def with_memory(self, gbps: Floats) -> Topology:
        """Return the topology with rank r's memory at ``gbps[r]``, kept in proportion to faults."""
        rates = self.gbps.copy()
        rates[: self.ranks] *= gbps
        return replace(self, gbps=rates)

    def degrade(self, factors: Mapping[str, float]) -> Topology:
        """Return the topology with cables at a fraction of their rate; 0 takes a cable out.

        Keys are ``0-3`` (both directions), ``0>3`` (one), ``5-sw`` (a port), ``2-2`` (a memory).
        Raises :class:`InputError` for a link that does not exist, a bad factor, and when a pair of
        ranks has no path left.
        """
        rates = self.gbps.copy()
        failed: list[int] = []
        for spec, factor in factors.items():
            if not (np.isfinite(factor) and factor >= 0):
                raise InputError(f"link {spec}={factor:g}: give a fraction of its rate, 0 or more")
            links = self._links_of(spec)
            rates[links] *= factor
            if factor == 0:
                failed += links.tolist()
        changed = replace(
            self,
            gbps=rates,
            changes=(*self.changes, *(f"{k}={v:g}" for k, v in factors.items())),
        )
        return changed._without(failed) if failed else changed

    def scaled(self, factor: float) -> Topology:
        """Return the topology with every cable (not the memories) at ``factor`` times its rate."""
        if not (np.isfinite(factor) and factor > 0):
            raise InputError(f"link rates x {factor:g}: the factor must be more than 0")
        rates = self.gbps.copy()
        rates[self.ranks :] *= factor
        return replace(self, gbps=rates)

    @cached_property
    def _index(self) -> dict[tuple[int, int], int]:
        return {(a, b): i for i, (a, b) in enumerate(self.ends.tolist())}

    def _node(self, node: int) -> str:
        return "sw" if node == self.switch else str(node)

    def _links_of(self, spec: str) -> Integers:
        match = re.fullmatch(r"(\d+|sw)\s*([->])\s*(\d+|sw)", spec.strip())
        if not match:
            raise InputError(
                f"link '{spec}' is not understood; write 0-3 (both directions), 0>3 (one), "
                "5-sw (a switch port) or 2-2 (rank 2's memory)"
            )
        a, b = (self.switch if end == "sw" else int(end) for end in match.group(1, 3))
        wanted = {(a, b)} if match[2] == ">" else {(a, b), (b, a)}
        found = [self._index[pair] for pair in wanted if pair in self._index]
        if not found:
            raise InputError(f"no link {spec} in {self.name} of {self.ranks} ranks; {self._have()}")
        return np.array(sorted(found), np.int64)

    def _have(self) -> str:
        if self.name == SWITCH:
            return f"it has the ports 0-sw to {self.ranks - 1}-sw"
        first = [self.link_name(i).replace(">", "-") for i in range(self.ranks, len(self.ends) - 1)]
        cables = [c for c in first if c.split("-")[0] == "0"]
        return f"the links of rank 0 are {', '.join(cables[:8])}"

    def _without(self, failed: list[int]) -> Topology:
        """Return the topology with paths that avoid failed links."""
        memory = [link for link in failed if link < self.ranks]
        if memory:
            raise InputError(f"rank {memory[0]}'s memory cannot be taken out; give more than 0")
        broken = np.flatnonzero(np.isin(self.paths, failed).any(axis=1))
        paths, hops = self.paths.copy(), self.hops.copy()
        detours: dict[int, list[int]] = {}
        if self.forwards:
            alive = [i for i in range(self.ranks, len(self.ends) - 1) if self.gbps[i] > 0]
            alive = [i for i in alive if i not in set(failed)]
            onward: dict[int, list[int]] = {}
            for link in alive:
                onward.setdefault(int(self.ends[link, 0]), []).append(link)
            for source in sorted({int(p) // self.ranks for p in broken}):
                found = self._shortest(source, onward)
                for pair in broken[broken // self.ranks == source].tolist():
                    if pair % self.ranks in found:
                        detours[pair] = found[pair % self.ranks]
        lost = [pair for pair in broken.tolist() if pair not in detours]
        if lost:
            a, b = divmod(lost[0], self.ranks)
            why = "" if self.forwards else f"; ranks of a {self.name} do not forward for others"
            raise InputError(f"the fabric is disconnected: no path from rank {a} to rank {b}{why}")
        width = max(paths.shape[1], max(map(len, detours.values()), default=0))
        filler = len(self.ends) - 1
        padded = np.full((paths.shape[0], width), filler, np.int64)
        padded[:, : paths.shape[1]] = paths
        for pair, links in detours.items():
            padded[pair] = filler
            padded[pair, : len(links)] = links
            hops[pair] = len(links)
        return replace(self, paths=padded, hops=hops)

    def _shortest(self, source: int, onward: dict[int, list[int]]) -> dict[int, list[int]]:
        """Return rank -> links of the path from ``source`` with fewest hops, then widest."""
        best: dict[int, tuple[int, float]] = {source: (0, -np.inf)}
        via: dict[int, list[int]] = {source: []}
        heap: list[tuple[int, float, int]] = [(0, -np.inf, source)]
        while heap:
            hops, narrow, node = heapq.heappop(heap)
            if (hops, narrow) > best[node]:
                continue
            for link in onward.get(node, []):
                far = int(self.ends[link, 1])
                label = (hops + 1, max(narrow, -float(self.gbps[link])))
                if far not in best or label < best[far]:
                    best[far] = label
                    via[far] = [*via[node], link]
                    heapq.heappush(heap, (*label, far))
        return via


def build(
    name: str, ranks: int, link_gbps: float, *,
    widths: tuple[float, ...] | None = None, domain: int = MESH_RANKS,
    uplink_gbps: float | None = None,
) -> Topology:  # fmt: skip
    """Return a topology of ``ranks`` with links (ports, for a switch) of ``link_gbps`` each way.

    ``widths`` are the rates of a hypercube's dimensions in links; ``domain`` and ``uplink_gbps``
    (default: one link) are the mesh size and the port rate of hierarchical domains. Raises
    :class:`InputError` for an unknown name, ranks the fabric lacks and rates that are not positive.
    """
    if name not in TOPOLOGIES:
        raise InputError(
            f"unknown fabric '{name}'{nearest(name, TOPOLOGIES)}; known: {', '.join(TOPOLOGIES)}"
        )
    if ranks < 2:
        raise InputError(f"{ranks} ranks: a collective needs 2 or more")
    uplink = link_gbps if uplink_gbps is None else uplink_gbps
    for rate, what in ((link_gbps, "a link"), (uplink, "an uplink")):
        if not (np.isfinite(rate) and rate > 0):
            raise InputError(f"{what} of {rate:g} GB/s: the rate must be more than 0")
    if name == FULL_MESH:
        return _full_mesh(ranks, link_gbps)
    if name == SWITCH:
        return _switch(ranks, link_gbps)
    if name == RING:
        return _ring(ranks, link_gbps)
    if name == HYPERCUBE:
        return _hypercube(ranks, link_gbps, widths or HYPERCUBE_LINKS)
    return _hierarchical(ranks, link_gbps, domain, uplink)


def _full_mesh(ranks: int, gbps: float) -> Topology:
    if ranks > MESH_RANKS:
        raise InputError(
            f"a full mesh has at most {MESH_RANKS} ranks (7 links per GPU), not {ranks}; "
            "take --fabric switch or hierarchical"
        )
    a, b = _pairs(ranks)
    table = np.full((ranks, ranks), -1, np.int64)
    table[a, b] = ranks + np.arange(a.size)
    return _finish(FULL_MESH, ranks, [(a, b, np.full(a.size, gbps))], table[:, :, None], False)


def _switch(ranks: int, gbps: float) -> Topology:
    _check_entries(SWITCH, ranks, 2)
    r = np.arange(ranks)
    sw = np.full(ranks, ranks)
    rate = np.full(ranks, gbps)
    table = np.empty((ranks, ranks, 2), np.int64)
    table[:, :, 0] = (ranks + r)[:, None]
    table[:, :, 1] = (2 * ranks + r)[None, :]
    return _finish(SWITCH, ranks, [(r, sw, rate), (sw, r, rate)], table, False)


def _ring(ranks: int, gbps: float) -> Topology:
    _check_entries(RING, ranks, ranks // 2)
    r = np.arange(ranks)
    clockwise, back = (r, (r + 1) % ranks), (r, (r - 1) % ranks)
    rate = np.full(ranks, gbps)
    ahead = (r[None, :] - r[:, None]) % ranks
    forward = 2 * ahead <= ranks
    steps = np.where(forward, ahead, ranks - ahead)
    table = np.full((ranks, ranks, max(ranks // 2, 1)), -1, np.int64)
    for hop in range(table.shape[2]):
        at = np.where(forward, r[:, None] + hop, r[:, None] - hop) % ranks
        link = np.where(forward, ranks + at, 2 * ranks + at)
        table[:, :, hop] = np.where(hop < steps, link, -1)
    if ranks == 2:  # both neighbours are the one other rank: one cable
        return _finish(RING, ranks, [(*clockwise, rate)], table, True)
    return _finish(RING, ranks, [(*clockwise, rate), (*back, rate)], table, True)


def _hypercube(ranks: int, gbps: float, widths: tuple[float, ...]) -> Topology:
    dimensions = ranks.bit_length() - 1
    if ranks != 1 << dimensions:
        raise InputError(f"a hypercube has a power of two of ranks (8, 16, ...), not {ranks}")
    _check_entries(HYPERCUBE, ranks, dimensions)
    r = np.arange(ranks)
    cables = [
        (r, r ^ (1 << d), np.full(ranks, gbps * widths[min(d, len(widths) - 1)]))
        for d in range(dimensions)
    ]
    table = np.full((ranks, ranks, dimensions), -1, np.int64)
    at = np.broadcast_to(r[:, None], (ranks, ranks)).copy()
    taken = np.zeros((ranks, ranks), np.int64)
    rows, columns = np.indices((ranks, ranks))
    for d in range(dimensions):
        differs = ((at ^ r[None, :]) >> d) & 1 == 1
        table[rows[differs], columns[differs], taken[differs]] = (d + 1) * ranks + at[differs]
        taken += differs
        at = np.where(differs, at ^ (1 << d), at)
    return _finish(HYPERCUBE, ranks, cables, table, True)


def _hierarchical(ranks: int, gbps: float, domain: int, uplink: float) -> Topology:
    if not 2 <= domain <= MESH_RANKS:
        raise InputError(f"a domain of {domain}: a full mesh has 2 to {MESH_RANKS} ranks")
    if ranks % domain or ranks == domain:
        raise InputError(
            f"hierarchical domains of {domain} need a multiple of {domain} ranks above {domain}, "
            f"not {ranks}"
        )
    _check_entries(HIERARCHICAL, ranks, 2)
    r = np.arange(ranks)
    sw = np.full(ranks, ranks)
    near_a, near_b = _pairs(domain)
    start = domain * np.arange(ranks // domain)[:, None]
    a, b = (start + near_a).ravel(), (start + near_b).ravel()
    port = np.full(ranks, uplink)
    table = np.full((ranks, ranks, 2), -1, np.int64)
    table[:, :, 0] = (ranks + r)[:, None]
    table[:, :, 1] = (2 * ranks + r)[None, :]
    table[a, b, 0] = 3 * ranks + np.arange(a.size)
    table[a, b, 1] = -1
    cables = [(r, sw, port), (sw, r, port), (a, b, np.full(a.size, gbps))]
    return _finish(HIERARCHICAL, ranks, cables, table, False)


def _pairs(ranks: int) -> tuple[Integers, Integers]:
    """Return all ordered pairs of different ranks."""
    a, b = np.divmod(np.arange(ranks * ranks), ranks)
    return a[a != b], b[a != b]


def _check_entries(name: str, ranks: int, hops: int) -> None:
    if ranks * ranks * max(hops, 1) > MAX_PATH_ENTRIES:
        raise InputError(f"{name} of {ranks} ranks: its paths do not fit in memory; take fewer")


def _finish(
    name: str, ranks: int, cables: list[tuple[Integers, Integers, Floats]], table: Integers,
    forwards: bool,
) -> Topology:  # fmt: skip
    """Number the links: memories, then cables as given (numbered from ``ranks``), then filler."""
    r = np.arange(ranks)
    ends = [np.stack([r, r], axis=1), *(np.stack([a, b], axis=1) for a, b, _ in cables)]
    ends.append(np.array([[-1, -1]]))
    gbps = np.concatenate([np.ones(ranks), *(rate for _, _, rate in cables), [np.inf]])
    filler = gbps.size - 1
    table = table.copy()
    table[r, r] = -1
    table[r, r, 0] = r
    hops = (table >= 0).sum(axis=2).ravel()
    paths = np.where(table < 0, filler, table).reshape(ranks * ranks, -1)
    return Topology(name, ranks, np.concatenate(ends), gbps.astype(float), paths, hops, forwards)
