"""The cutoff of a simulated machine, in the currency of ``recommend``.

What late ranks, degraded links and the like add to a simulation of the calibrated machine is added
to both arms of the calibrated model, and the cutoff is recommended as always: with nothing
disturbed it is that of ``costmodel recommend``. Fabrics and world sizes that the calibration does
not cover are judged by the simulated latencies alone, without an interval.

A cost is any function (arm, tokens) -> us. :func:`collective_cost` is one collective's
latency after the last arrival, :func:`layer_cost` what a layer costs when layer follows layer and
ranks are late by chance each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.workload import Workload, snap_tokens
from ..decide.evidence import ALWAYS_ONE_STAGE
from ..decide.recommendation import recommend
from ..decide.regret import Arms
from ..decide.setting import Setting
from ..model.shape import FUSED, Shapes
from . import machine as machines
from .collective import of_arm, simulate, takes
from .conditions import Conditions
from .machine import Machine

Floats = NDArray[np.float64]
Cost = Callable[[str, int], float]

#: Captured batch sizes that are simulated; between them what a disturbance adds is interpolated in
#: bytes.
BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512)


class SimulatedCutoff(Struct, frozen=True):
    """The size up to which 1-stage is best: ``bytes`` with its interval, None for no limit.

    ``tokens`` is the last captured batch on 1-stage. ``interval`` holds the ends of the 90 %
    interval in bytes (None above: no limit), and is None where the calibration has none to give.
    """

    bytes: int | None
    tokens: int | None
    interval: tuple[int, int | None] | None


def simulated_cutoff(
    setting: Setting, hidden_dim: int, machine: Machine, cost: Cost
) -> SimulatedCutoff:
    """Return the best cutoff for calls of one hidden size on a simulated machine."""
    question = {"op": setting.op, "dtype": setting.dtype}
    batches = [
        t
        for t in BATCH_SIZES
        if all(takes(machine, arm, t, hidden_dim, **question) for arm in setting.arms)
    ] or BATCH_SIZES  # of which the first is refused with the kernel's rule
    size = np.array(batches) * hidden_dim * setting.element_bytes
    simulated = {arm: np.array([cost(arm, t) for t in batches]) for arm in setting.arms}
    if not machine.is_calibrated:
        return _by_simulation_alone(setting, hidden_dim, machine, batches, simulated)
    # Not the closed form: calls that run in uneven turns differ from it by tenths of a us, which
    # the calibration has met already.
    calm = machines.machine(
        setting.calibration, setting.gpu, ranks=machine.ranks, kernel=setting.kernel
    )
    still = collective_cost(calm, hidden_dim, op=setting.op, dtype=setting.dtype)
    added = {arm: us - [still(arm, t) for t in batches] for arm, us in simulated.items()}

    def added_us(arm: str, at: NDArray[np.int64]) -> Floats:
        return np.interp(at, size, added[arm])

    workload = Workload.of([hidden_dim])
    decision = recommend(setting, workload, world_sizes=(machine.ranks,), added_us=added_us)
    (found,) = decision.cutoffs
    if found.verdict == ALWAYS_ONE_STAGE:
        return SimulatedCutoff(None, None, None)
    interval = (found.max_bytes_lo or 0, found.max_bytes_hi)
    if found.estimate is None:
        return SimulatedCutoff(None, None, interval)
    tokens = snap_tokens(found.estimate, hidden_dim, setting.element_bytes)[0]
    return SimulatedCutoff(found.estimate, tokens, interval)


def _by_simulation_alone(
    setting: Setting,
    hidden_dim: int,
    machine: Machine,
    batches: Sequence[int],
    simulated: dict[str, Floats],
) -> SimulatedCutoff:
    """Return the best cutoff by simulated latencies, for a machine that was never calibrated."""
    shapes = Shapes(
        setting.op, setting.dtype,
        *np.broadcast_arrays(np.array(batches), np.array(hidden_dim), np.array(machine.ranks)),
    )  # fmt: skip
    weight = np.full(len(shapes), 1 / len(shapes))
    one, other = (simulated[arm][None] for arm in setting.arms)
    cell = Arms(shapes, weight, one, other, setting.aiter_version).best().cell
    if cell.hi is None:
        return SimulatedCutoff(None, None, None)
    point = cell.roundest()
    tokens = snap_tokens(point, hidden_dim, setting.element_bytes)[0]
    return SimulatedCutoff(point, tokens, None)


def collective_cost(
    machine: Machine, hidden_dim: int, *, op: str = FUSED, dtype: str = "bf16",
    conditions: Conditions | None = None, arrivals_us: Floats | None = None,
) -> Cost:  # fmt: skip
    """Return the latency after the last arrival, averaged over draws ``arrivals_us`` (n, ranks)."""
    stated = conditions or Conditions()
    every = [stated] if arrivals_us is None else [stated.late(a) for a in arrivals_us]

    def cost(arm: str, tokens: int) -> float:
        run, algorithm = of_arm(machine, arm, tokens, hidden_dim, op=op, dtype=dtype)
        outcomes = [
            simulate(machine, algorithm, tokens, hidden_dim, op=run, dtype=dtype, conditions=c)
            for c in every
        ]
        return float(np.mean([o.latency_us for o in outcomes]))

    return cost


def layer_cost(
    machine: Machine, hidden_dim: int, late_us: Floats, *, op: str = FUSED, dtype: str = "bf16",
    conditions: Conditions | None = None,
) -> Cost:  # fmt: skip
    """Return the time per layer of a chain of collectives.

    ``late_us`` (layers, ranks) is what each rank takes between one collective and the next, beyond
    what all take. A rank that leaves a collective early starts its next layer early.
    """
    stated = conditions or Conditions()

    def cost(arm: str, tokens: int) -> float:
        run, algorithm = of_arm(machine, arm, tokens, hidden_dim, op=op, dtype=dtype)
        ready = np.zeros(machine.ranks)
        for late in late_us:
            start = ready + late
            first = float(start.min())
            outcome = simulate(
                machine, algorithm, tokens, hidden_dim, op=run, dtype=dtype,
                conditions=stated.late(start - first),
            )  # fmt: skip
            ready = first + outcome.run.finish_us
        return float(ready.max()) / len(late_us)

    return cost
