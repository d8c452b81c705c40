"""Where the closed form's assumptions do not hold, in words that can be printed.

The closed form describes ranks that arrive together on a whole full mesh or switch, with every
workgroup doing the same number of turns.
"""

from __future__ import annotations

import numpy as np

from ..model.fabric import FULL_MESH
from ..model.geometry import LinkGeometry
from ..model.latency import EXPECTED_MAXIMUM, READ_KNEE, smooth_maximum
from ..model.shape import FUSED, ONE_STAGE
from .conditions import Conditions
from .machine import Machine
from .program import Program

#: A turn is short when the round trip adds more than this to the time of its loads.
SHORT_TURN_ADDS = 0.005


def departures(
    geometry: LinkGeometry, program: Program, machine: Machine, conditions: Conditions
) -> tuple[str, ...]:
    """Return each assumption that a run leaves; with none, run and closed form agree to 1 %."""
    found: list[str] = []
    name = machine.topology.name
    if machine.closed_form is None:
        found.append(f"bytes share links in a {name}")
    elif name != FULL_MESH and int(machine.topology.hops.max()) > machine.base_hops:
        found.append("a switch adds latency to a link's")
    if machine.ranks not in EXPECTED_MAXIMUM:
        found.append(
            f"kernels exist up to {max(EXPECTED_MAXIMUM)} ranks; {machine.ranks} continue their "
            "geometry"
        )
    found += filter(None, (_uneven(geometry, program), _short_turns(geometry, machine)))
    arrivals = conditions.arrivals_us
    if arrivals is not None and np.ptp(arrivals) > 0:
        found.append(f"ranks arrive {np.ptp(arrivals):.3g} us apart")
    if machine.topology.changes:
        found.append(f"links changed: {', '.join(machine.topology.changes)}")
    if conditions.slowdown:
        slow = ", ".join(f"{r} x {f:g}" for r, f in conditions.slowdown.items())
        found.append(f"slow ranks: {slow}")
    if conditions.background:
        found.append(f"background traffic on {len(conditions.background)} paths")
    room = min([machine.resident, *conditions.resident.values()])
    if room < int(program.workgroups.sum()):
        found.append(f"a rank runs {room} of {int(program.workgroups.sum())} workgroups at once")
    if not conditions.entry_barrier:
        found.append("no barriers: ranks write their data on arrival and wait for data")
    return tuple(found)


def _uneven(geometry: LinkGeometry, program: Program) -> str:
    """Say so when workgroups do not all do the same number of turns.

    The closed form ends a stage for all workgroups together, with the links full until then. In the
    simulation, as in the kernel, those with less to do go on before the others, and the few of a
    last turn read at their own rate while the others are done.
    """
    one_stage = geometry.algorithm == ONE_STAGE
    if one_stage and geometry.op != FUSED:
        return ""  # nothing but links between two barriers: they stay full whoever reads
    turns, members = program.turns, program.workgroups
    most = float(turns.max())
    few = int(members[turns == most].sum())
    busy = turns > 0
    if np.ptp(turns[busy]) == 0:
        return ""
    return (
        f"uneven workgroups: {few} of {int(members[busy].sum())} do {most:g} turns, "
        f"others {float(turns[busy].min()):.3g}"
    )


def _short_turns(geometry: LinkGeometry, machine: Machine) -> str:
    """Say so when a turn's loads are short against the round trip, which each turn then shows."""
    turns = float(geometry.norm_turns.item())
    if turns < 2:
        return ""
    turn_us = geometry.read_bytes.item() / turns / machine.costs.link_gbps * 1e-3
    round_trip_us = machine.costs.round_trip_us
    shown_us = smooth_maximum(turn_us, round_trip_us, power=READ_KNEE) - turn_us
    if shown_us <= SHORT_TURN_ADDS * turn_us:
        return ""
    return (
        f"short turns: {turn_us:.2g} us of loads each, so the round trip "
        f"({round_trip_us:.2g} us) shows in every one of {turns:g}"
    )
