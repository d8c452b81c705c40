"""The fused kernels as a discrete-event simulation over any fabric.

Workgroups run the kernels' programs, flags fly between ranks and bytes flow over links that are
shared max-min fairly. Geometry, costs and the rounding of a transfer are those of the closed form,
so that the two differ only where an assumption of the closed form fails::

    from costmodel.decide.setting import Setting
    from costmodel.simulation import Study

    study = Study(Setting.shipped("MI355X"), ranks=8, links={"0-3": 0.5})
    outcome = study.simulate("2stage", tokens=64)
    outcome.latency_us, outcome.closed_form_us, outcome.departures
"""

from __future__ import annotations

from .collective import Outcome, simulate
from .conditions import Conditions, Stream
from .cutoff import SimulatedCutoff, collective_cost, layer_cost, simulated_cutoff
from .engine import Blocked
from .machine import Machine, machine
from .skew import Skew
from .study import Map, Study, cutoff_map
from .topology import Topology, build

__all__ = [
    "Blocked",
    "Conditions",
    "Machine",
    "Map",
    "Outcome",
    "SimulatedCutoff",
    "Skew",
    "Stream",
    "Study",
    "Topology",
    "build",
    "collective_cost",
    "cutoff_map",
    "layer_cost",
    "machine",
    "simulate",
    "simulated_cutoff",
]
