"""Kernels as programs: what every workgroup does, step by step, from the geometry and the costs.

Fixed times are read off the closed form's own terms, so there is one source for them; only what
depends on other ranks and on links is left to the simulation: when flags arrive, and how fast bytes
flow. Workgroups of a kernel that do exactly the same form one class, which is exact: workgroups of
a rank start together, share links equally and wait for the same peers.

::

    1-stage        launch, entry, (read, norm) per turn, exit
    2-stage, fused launch, entry, read, write, release, exit | second launch, local pass
    2-stage, plain launch, entry, read (or write), middle, gather
    separate       an all-reduce | second launch, norm kernel

Beyond 8 ranks no such kernel exists: the geometry is continued, with one workgroup for every turn's
bytes up to the kernel's limit.

``|`` is the end of a kernel, where a rank waits for its own workgroups. Without entry barrier the
kernels push: each transfer becomes an exchange that ends when the data of all peers are there, and
no barrier is left.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..model.fabric import FullMesh
from ..model.geometry import LinkGeometry
from ..model.latency import LinkModel, read_floor_us
from ..model.shape import FUSED, ONE_STAGE, SEPARATE
from .conditions import Conditions
from .machine import Machine
from .topology import MESH_RANKS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Where the closed form is read: its fixed times, and those of one link by itself, are the same on
#: every wiring.
MESH = LinkModel(FullMesh())

READ = "read"
WRITE = "write"
EXCHANGE = "exchange"
MEMORY = "memory"


class Work(Struct, frozen=True):
    """Own work of ``us`` (ranks,) for the classes of ``members`` (classes,)."""

    term: str
    us: Floats
    members: NDArray[np.bool_]


class Barrier(Struct, frozen=True):
    """Store a flag to the same-numbered workgroup of every rank, and spin for theirs."""

    term: str


class Transfer(Struct, frozen=True):
    """Bytes between each pair of ranks (or to the own memory), per class.

    ``wire_bytes`` (classes,) is what one workgroup exchanges with one peer, as the link sees it: a
    read at efficiency e occupies the link like 1/e of its bytes. ``limit_us`` (ranks, classes) is
    the time that the workgroup needs for it by itself (Little's law); 0 where nothing limits it.
    ``kind`` says who starts it and who waits: a READ brings data from the peers and a WRITE takes
    data to them, both for the rank that starts them; an EXCHANGE is written by every rank and
    awaited by the target.
    """

    term: str
    kind: str
    wire_bytes: Floats
    limit_us: Floats


class EndOfKernel(Struct, frozen=True):
    """A rank goes on when all its workgroups are done."""

    term: str = "end_of_kernel"


Step = Work | Barrier | Transfer | EndOfKernel


class Program(Struct, frozen=True):
    """The steps of every workgroup and the classes of equal workgroups.

    ``workgroups`` (classes,) counts members; ``first`` (classes,) is the number of the first.
    ``turns`` (classes,) is how often they go round their loop (a part of a turn counts as a part),
    ``memory_gbps`` (ranks,) the rate of the local pass.
    """

    steps: tuple[Step, ...]
    workgroups: Integers
    first: Integers
    turns: Floats
    memory_gbps: Floats


def program(
    geometry: LinkGeometry, machine: Machine, conditions: Conditions, *, split: bool = False
) -> Program:
    """Return the program of one shape (geometry arrays of size 1) on a machine.

    ``split`` makes every workgroup a class of its own.
    """
    costs, ranks = machine.costs, machine.ranks
    slow = np.ones(ranks)
    slow[list(conditions.slowdown)] = list(conditions.slowdown.values())
    part = {name: float(np.squeeze(value)) for name, value in MESH.terms(geometry, costs).items()}
    fused = geometry.op == FUSED
    one_stage = geometry.algorithm == ONE_STAGE
    separate_norm = geometry.op == SEPARATE
    turns = int(geometry.turns.item())
    unit = geometry.workgroup_bytes.item() / (turns * (ranks - 1))
    phase = max(geometry.read_bytes.item(), geometry.write_bytes.item())
    room = 0 if split else min([machine.resident, *conditions.resident.values()])
    launched = int(geometry.workgroups.item())
    if ranks > MESH_RANKS:
        launched = min(int(np.ceil(phase / unit - 1e-9)), machine.kernel.max_workgroups)
    first, count, taken = _classes(launched, phase / unit, room)
    every = np.ones(count.size, np.bool_)
    per_read_byte = _wire_bytes_per_read_byte(geometry, machine)
    flag_us = part["entry_barrier"]
    floor_us = float(np.squeeze(read_floor_us(geometry, costs)))
    limited = (ranks - 1) * floor_us / geometry.workgroup_bytes.item()

    def own(term: str, us: float, members: NDArray[np.bool_] = every) -> Work:
        return Work(term, us * slow, members)

    def move(term: str, kind: str, payload: Floats) -> Transfer:
        """Reads are limited by the workgroup's outstanding loads; posted writes are not."""
        if conditions.entry_barrier:
            wire = payload * per_read_byte if kind == READ else payload
            alone = limited * payload if kind == READ else 0.0 * payload
            return Transfer(term, kind, wire, slow[:, None] * alone)
        pushed = any(isinstance(s, Transfer) and s.term == "link_push" for s in steps)
        again = pushed and not (one_stage and fused)
        name = "link_gather" if again else "link_push"
        return Transfer(name, EXCHANGE, payload, np.zeros((ranks, payload.size)))

    def barrier(term: str) -> list[Step]:
        """Fences and gaps that the closed form adds to a barrier come before its flag."""
        if not conditions.entry_barrier:
            return []
        before = part[term] - flag_us
        return [*([own(term, before)] if before > 0 else []), Barrier(term)]

    steps: list[Step] = [own("launch", part["launch"])]
    steps += barrier("entry_barrier")
    if one_stage and fused:
        for turn in range(turns):
            members = taken > turn
            steps.append(move("link_read", READ, np.where(members, unit, 0.0)))
            steps.append(own("norm_epilogue", part["norm_epilogue"] / turns, members))
    else:
        writes = geometry.write_bytes.item() > 0
        payload = taken * unit
        if not writes or fused:
            steps.append(move("link_read", READ, payload))
        if writes:
            steps.append(move("link_write", WRITE, payload))
        if "turn_exposure" in part:
            steps.append(own("turn_exposure", part["turn_exposure"]))
        if not one_stage and not fused:
            steps += [*barrier("middle_barrier"), move("link_gather", READ, payload)]
    if geometry.exit_barriers:
        steps += barrier("exit_barrier")
    if part.get("eight_ranks", 0.0) > 0:
        steps.append(own("eight_ranks", part["eight_ranks"]))
    steps.append(EndOfKernel())
    memory = np.full(ranks, costs.separate_norm_gbps if separate_norm else costs.local_gbps)
    if geometry.launches == 2:
        term = "norm_kernel" if separate_norm else "local_pass"
        fixed = costs.separate_norm_us if separate_norm else costs.local_us
        local = np.full(count.size, geometry.local_bytes.item())
        steps += [
            own("second_launch", part["second_launch"]),
            own(term, fixed),
            Transfer(term, MEMORY, local, np.zeros((ranks, count.size))),
        ]
    return Program(tuple(steps), count, first, taken, memory / slow)


def _classes(workgroups: int, units: float, room: int) -> tuple[Integers, Integers, Floats]:
    """Return (first number, members, units taken) of each class of equal workgroups.

    A kernel's ``units`` (a row, or a turn's packs) go round its workgroups, the last one possibly
    a part. Workgroups that do not all fit on the GPU are not equal, as some start later: then each
    is a class.
    """
    number = np.arange(workgroups)
    whole = int(np.floor(units + 1e-9))
    taken = whole // workgroups + (number < whole % workgroups).astype(float)
    taken[whole % workgroups] += max(units - whole, 0.0) if units - whole > 1e-9 else 0.0
    if room < workgroups:
        return number, np.ones(workgroups, np.int64), taken
    first = np.concatenate([[0], np.flatnonzero(np.diff(taken)) + 1])
    count = np.diff(np.append(first, workgroups))
    return first, count, taken[first]


def _wire_bytes_per_read_byte(geometry: LinkGeometry, machine: Machine) -> float:
    """Ask the closed form how much longer a read occupies a link than its bytes at the link's rate.

    A probe of 1000 bytes at 1 GB/s takes 1 us at efficiency 1.
    """
    probe = replace(
        geometry,
        read_bytes=np.full_like(geometry.read_bytes, 1e3),
        write_bytes=np.zeros_like(geometry.write_bytes),
        workgroup_bytes=np.zeros_like(geometry.workgroup_bytes),
    )
    free = replace(machine.costs, link_gbps=1.0, round_trip_us=0.0, read_floor_us=0.0)
    return float(np.squeeze(MESH.terms(probe, free)["link_read"]))
