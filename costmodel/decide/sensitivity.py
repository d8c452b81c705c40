"""What a choice hangs on: how the cutoff moves with one quantity, and what turns a call over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.posterior import Values
from ..data import kernels
from ..data.workload import Workload
from ..model import parameters
from ..model.parameters import nominal_gbps
from ..model.shape import Shapes
from .recommendation import known_workload, of_this_kernel, weigh
from .setting import Setting

Array = NDArray[np.float64]


class Sweep(Struct, frozen=True):
    """The best cutoff against one quantity, one per value: bytes with both 90 % intervals.

    ``cutoff_bytes`` is 0 where 2-stage is best throughout, infinite where 1-stage is; an open end
    of an interval is infinite. ``lo`` and ``hi`` are for your machine, ``this_kernel_lo`` and
    ``this_kernel_hi`` for the sources' laboratories.
    """

    values: Array
    cutoff_bytes: Array
    lo: Array
    hi: Array
    this_kernel_lo: Array
    this_kernel_hi: Array


def _sweep(
    at: Array, workload: Workload, world_size: int, cases: Iterable[tuple[Setting, Values]]
) -> Sweep:
    """Return the cutoff for each (setting, drawn values)."""
    rows = []
    for setting, drawn in cases:
        arms, best = weigh(setting, workload, world_size, values=drawn)
        point = np.inf if best.cell.hi is None else best.cell.roundest()
        ends = [
            (found.lo.lo, np.inf if found.hi.hi is None else found.hi.hi)
            for found in (best, of_this_kernel(setting, arms, best))
        ]
        rows.append((point, *ends[0], *ends[1]))
    return Sweep(at, *np.array(rows, float).T)


def against_factor(
    setting: Setting, world_size: int, name: str, factors: Array, workload: Workload | None = None
) -> Sweep:
    """Return the cutoff with one parameter multiplied by each factor, the others as they are."""
    drawn = setting.draws
    cases = ((setting, {**drawn, name: drawn[name] * factor}) for factor in factors)
    load = workload or known_workload(setting)
    return _sweep(np.asarray(factors, float), load, world_size, cases)


def against_jitter(
    setting: Setting, world_size: int, jitter_us: Array, workload: Workload | None = None
) -> Sweep:
    """Return the cutoff when ranks arrive with each spread (standard deviation, us).

    Every barrier waits for the last of the ranks; the closed form adds the expected maximum. The
    draws' own jitter is replaced.
    """
    drawn = setting.draws
    cases = ((setting, {**drawn, "arrival_jitter_us": float(j)}) for j in jitter_us)
    load = workload or known_workload(setting)
    return _sweep(np.asarray(jitter_us, float), load, world_size, cases)


def against_version(
    setting: Setting, world_size: int, versions: Sequence[str], workload: Workload | None = None
) -> Sweep:
    """Return the cutoff with the kernels of each AITER release, numbered from 0."""
    cases = ((setting.but(aiter_version=v), setting.draws) for v in versions)
    load = workload or known_workload(setting)
    return _sweep(np.arange(len(versions), dtype=float), load, world_size, cases)


class Flip(Struct, frozen=True):
    """A value of one parameter at which the faster arm of a call changes, the others held.

    ``now``, ``lo`` and ``hi`` are the parameter's estimate and 90 % interval; ``inside`` says
    whether the turning point lies in that interval.
    """

    name: str
    unit: str
    now: float
    lo: float
    hi: float
    at: float

    @property
    def inside(self) -> bool:
        """Whether what is known of the parameter allows the turning point."""
        return self.lo <= self.at <= self.hi

    @property
    def factor(self) -> float:
        """The turning point over the estimate; infinite for an estimate of zero."""
        return self.at / self.now if self.now else float("inf")


def flips(setting: Setting, call: Shapes, *, names: Sequence[str] | None = None) -> list[Flip]:
    """Return the parameters whose change alone would make the other arm faster, nearest first.

    ``call`` holds one call. Rates and ratios are tried from a quarter to four times their estimate,
    fixed times from zero to 10 us more; a link rate only up to the link's nominal rate.
    """
    calibration = setting.calibration
    point = setting.point
    here = ("", setting.gpu, setting.arch, setting.kernel.norm_kernel, kernels.kind(call.op))
    tries: dict[str, Array] = {}
    for name in names or calibration.names:
        if name.partition("[")[2].rstrip("]") not in here:
            continue
        prior = parameters.prior(name)
        now = point[name]
        if prior.form == "log":
            most = min(4.0, (nominal_gbps(name) or np.inf) / now)
            tries[name] = now * np.geomspace(0.25, max(most, 1.0), 400)
        else:
            low = 0.0 if prior.centre > 0 else now - 10.0
            tries[name] = np.linspace(low, now + 10.0, 801)
    if not tries:
        return []
    # All tries at once, one below the other; they are drawn in no sense.
    ends = np.cumsum([tried.size for tried in tries.values()]).tolist()
    changed = {name: np.broadcast_to(value, (ends[-1], 1)) for name, value in point.items()}
    for (name, tried), end in zip(tries.items(), ends, strict=True):
        changed[name] = np.full((ends[-1], 1), point[name])
        changed[name][end - tried.size : end, 0] = tried
    one, other = (setting.latency_us(call, a, changed)[:, 0] for a in setting.arms)
    out = []
    for (name, tried), end in zip(tries.items(), ends, strict=True):
        margin = (other - one)[end - tried.size : end]
        turns = np.flatnonzero(np.diff(np.sign(margin)) != 0)
        if not turns.size:
            continue
        share = margin[turns] / (margin[turns] - margin[turns + 1])
        at = tried[turns] + share * (tried[turns + 1] - tried[turns])
        now = point[name]
        nearest = float(at[np.argmin(np.abs(at - now))])
        lo, _, hi = calibration.interval(name)
        out.append(Flip(name, parameters.prior(name).unit, now, lo, hi, nearest))
    return sorted(out, key=_distance)


def _distance(flip: Flip) -> float:
    """Return how far the turning point lies, in half widths of the parameter's interval."""
    half = (flip.hi - flip.lo) / 2
    return abs(flip.at - flip.now) / half if half > 0 else float("inf")
