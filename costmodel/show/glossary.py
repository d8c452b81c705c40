"""What words mean wherever they are used; docs/glossary.md has the same, and more of them."""

from __future__ import annotations

from ..decide.evidence import BY_PHYSICS
from .place import THIS_MACHINE, YOUR_MACHINE

MEANING = {
    "1-stage": "every GPU reads the whole input of every peer and sums it by itself; one launch",
    "2-stage": "reduce-scatter, then gather and norm; less data over the links, one more launch",
    "separate ops": "a plain all-reduce, then RMSNorm as an op of its own: the third arm",
    "cutoff": (
        "the bytes up to which a rule runs 1-stage, both ends included. A choice: it is "
        "recommended, shipped or proposed"
    ),
    "contested call": (
        "a call within a factor of two in bytes of the cutoff: there the arms are close and a rule "
        "can be wrong"
    ),
    "worth": "what a change of rule saves in one decode step, in us; negative where it costs",
    "decided": (
        "of a change: the 90 % intervals of what it saves, over the workload and in a decode step, "
        "lie above zero. It says that changing pays as a whole; calls near the new cutoff may "
        "still win nothing. Of a call: one arm is the faster with 90 % probability"
    ),
    "this kernel": (
        "the interval in the laboratories of the sources: what is open about the kernels alone"
    ),
    YOUR_MACHINE: (
        "the interval on a machine that nobody has measured: it adds by how much arms differ from "
        "machine to machine"
    ),
    THIS_MACHINE: (
        "the interval on the machine that is asked about, where rows of its own are in the "
        "calibration: after tuning, with --source, or where all rows are of one machine. Several "
        "times narrower than that of your machine"
    ),
    "measured": (
        "both arms were measured at one shape in one benchmark, on this GPU, at this number of "
        "ranks, with this dtype and these kernels"
    ),
    "measured elsewhere": (
        "on this GPU at this number of ranks, but with another dtype or other kernel states, or "
        "never both at one shape"
    ),
    "transferred": (
        "link rates of this GPU and kernel constants of others carry it: physics, not data"
    ),
    BY_PHYSICS: (
        "at 2 ranks both arms move the same bytes over the one link and 2-stage adds a launch"
    ),
    "no claim": "no cutoff is recommended; the reason and the shapes to measure are given",
}
