"""The fused kernels as a discrete-event simulation over any fabric.

Workgroups run the kernels' programs, flags fly between ranks and bytes flow over links that are
shared max-min fairly. Geometry, costs and the rounding of a transfer are those of the closed form,
so that the two differ only where an assumption of the closed form fails::

    from costmodel.calibration.posterior import shipped
    from costmodel.simulation import Study

    study = Study(shipped("gfx950"), "MI355X", ranks=8, links={"0-3": 0.5})
    outcome = study.simulate("2stage", tokens=64)
    outcome.latency_us, outcome.closed_form_us, outcome.departures
"""

from __future__ import annotations

from .collective import Outcome, simulate
from .conditions import Conditions, Stream
from .cutoff import Crossing, collective_cost, crossing, layer_cost
from .engine import Blocked
from .machine import Machine, machine
from .skew import Skew
from .study import Map, Study, cutoff_map
from .topology import Topology, build

__all__ = [
    "Blocked",
    "Conditions",
    "Crossing",
    "Machine",
    "Map",
    "Outcome",
    "Skew",
    "Stream",
    "Study",
    "Topology",
    "build",
    "collective_cost",
    "crossing",
    "cutoff_map",
    "layer_cost",
    "machine",
    "simulate",
]
