"""One collective, simulated: latency, every rank's own work and waiting, and the closed form."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ..data.arrivals import without_wait
from ..data.ranges import sizes
from ..errors import InputError
from ..model.eligibility import eligible
from ..model.geometry import link_geometry
from ..model.latency import total
from ..model.shape import (
    FUSED,
    ONE_STAGE,
    SEPARATE,
    SEPARATE_OPS,
    SPOKEN,
    TWO_STAGE,
    Shapes,
    modelled_op,
    read_algorithm,
)
from ..units import element_bytes, read_dtype
from .conditions import Conditions
from .engine import Engine, Run
from .machine import Machine
from .program import Program, program
from .schemas import SimulatedCall
from .unmodelled import departures

Floats = NDArray[np.float64]


class Outcome(Struct, frozen=True):
    """The simulation of one call. ``closed_form_us`` is None where the closed form has no fabric.

    ``departures`` name each assumption of the closed form that does not hold here.
    """

    algorithm: str
    tokens: int
    hidden_dim: int
    bytes: int
    machine: Machine
    conditions: Conditions
    run: Run
    program: Program
    closed_form_us: float | None
    departures: tuple[str, ...]

    def __repr__(self) -> str:
        m = self.machine
        return (
            f"Outcome({self.algorithm}, {self.tokens} tokens x {self.hidden_dim} on {m.ranks} x "
            f"{m.gpu}, {m.fabric}: {self.latency_us:.2f} us)"
        )

    @property
    def latency_us(self) -> float:
        """From the last arrival to the last finish: the collective without waiting for ranks."""
        return float(without_wait(self.run.arrival_us, self.run.finish_us).max())

    @property
    def duration_us(self) -> Floats:
        """Each rank's time in the op, which is what a profiler shows: finish - arrival."""
        return self.run.finish_us - self.run.arrival_us

    def to_dict(self) -> SimulatedCall:
        """Return one algorithm's part of a ``costmodel/simulate/1`` record."""
        run = self.run
        return {
            "schema": "costmodel/simulate/1",
            "algorithm": self.algorithm,
            "tokens": self.tokens,
            "hidden_dim": self.hidden_dim,
            "bytes": self.bytes,
            "fabric": self.machine.fabric,
            "ranks": [
                {
                    "rank": rank,
                    "arrival_us": float(run.arrival_us[rank]),
                    "finish_us": float(run.finish_us[rank]),
                    "duration_us": float(self.duration_us[rank]),
                    "waiting_us": float(run.waiting_us[rank]),
                    "terms": self.terms(rank),
                }
                for rank in range(self.machine.ranks)
            ],
            "latency_us": self.latency_us,
            "closed_form_us": self.closed_form_us,
            "departures": list(self.departures),
        }

    def terms(self, rank: int) -> dict[str, float]:
        """Return a rank's own work in us by name, in the order in which it is done."""
        own = zip(self.run.terms, self.run.own_us[rank].tolist(), strict=True)
        return {
            name: us for name, us in own if name not in ("end_of_kernel", "workgroup_queue") or us
        }


def _shapes(op: str, dtype: str, tokens: int, hidden_dim: int, ranks: int) -> Shapes:
    named = {"tokens": tokens, "hidden_dim": hidden_dim, "ranks": ranks}
    return Shapes(op, dtype, *(sizes([value], name) for name, value in named.items()))


def _eligible(machine: Machine, algorithm: str, shapes: Shapes) -> tuple[bool, str]:
    # A rest that is not reduced spoils the result, not the time, and is no question on other ranks.
    kernel = replace(machine.kernel, fused_2stage_whole_parts=False)
    ok, rule = eligible(shapes, algorithm, kernel)
    return bool(ok.all()), rule


def of_arm(
    machine: Machine, arm: str, tokens: int, hidden_dim: int, *, op: str, dtype: str
) -> tuple[str, str]:
    """Return the (op, algorithm) that an arm runs; separate ops follow the plain op's dispatch."""
    if arm != SEPARATE_OPS:
        return op, arm
    bytes = tokens * hidden_dim * element_bytes(dtype)
    one_stage = bool(machine.kernel.auto_is_1stage(machine.ranks, bytes))
    return SEPARATE, ONE_STAGE if one_stage else TWO_STAGE


def takes(machine: Machine, arm: str, tokens: int, hidden_dim: int, *, op: str, dtype: str) -> bool:
    """Return whether the machine's kernels take a call in an arm."""
    op, algorithm = of_arm(machine, arm, tokens, hidden_dim, op=op, dtype=dtype)
    shapes = _shapes(op, dtype, tokens, hidden_dim, machine.ranks)
    return _eligible(machine, algorithm, shapes)[0]


def simulate(
    machine: Machine, algorithm: str, tokens: int, hidden_dim: int, *,
    op: str = FUSED, dtype: str = "bf16", conditions: Conditions | None = None,
    record: bool = False, split: bool = False,
) -> Outcome:  # fmt: skip
    """Simulate one call on a machine.

    ``record`` keeps every step and link load, for a timeline. ``split`` runs every workgroup by
    itself instead of equal ones as one: slower, with the same result.

    Raises :class:`InputError` for a shape that the kernel rejects and for conditions that do not
    fit the machine, and :class:`~costmodel.simulation.engine.Blocked` when the ranks cannot finish.
    """
    algorithm = read_algorithm(algorithm)
    for name, value in (("tokens", tokens), ("hidden_dim", hidden_dim)):
        if value < 1:
            raise InputError(f"{name} must be 1 or more, got {value}")
    op, dtype = modelled_op(op), read_dtype(dtype)
    shapes = _shapes(op, dtype, tokens, hidden_dim, machine.ranks)
    ok, rule = _eligible(machine, algorithm, shapes)
    if not ok:
        raise InputError(
            f"the {SPOKEN[algorithm]} kernel of {machine.kernel.family} {machine.kernel.version} "
            f"rejects {tokens} tokens x hidden {hidden_dim} ({dtype}); its rule: {rule}"
        )
    stated = (conditions or Conditions()).checked(machine.ranks)
    shape = link_geometry(shapes, algorithm, machine.kernel, machine.arch)
    if shape.pushes:
        raise InputError(
            f"the {SPOKEN[algorithm]} of {machine.kernel.title} pushes without a barrier, which is "
            "not simulated; predict and explain answer for it"
        )
    steps = program(shape, machine, stated, split=split)
    form = machine.closed_form
    closed = None if form is None else total(form.terms(shape, machine.costs))
    return Outcome(
        algorithm=algorithm,
        tokens=tokens,
        hidden_dim=hidden_dim,
        bytes=int(shapes.bytes[0]),
        machine=machine,
        conditions=stated,
        run=Engine(steps, machine, stated, record=record).run(),
        program=steps,
        closed_form_us=None if closed is None else float(np.squeeze(closed)),
        departures=departures(shape, steps, machine, stated),
    )
