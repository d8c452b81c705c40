"""The plan: which shapes to measure, why, what that should bring; and its file.

The file is JSON, schema ``costmodel/plan/1``, which ``costmodel measure --plan`` runs: ``shapes``
in order of worth, each with ``op``, ``arms``, ``world_size``, ``tokens``, ``hidden_dim``,
``dtype``; what else stands in it is for people and programs that ask why.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from ..data.kernels import OTHER_BACKENDS
from ..data.workload import Workload
from ..decide.evidence import ALWAYS_ONE_STAGE
from ..decide.recommendation import recommend
from ..decide.setting import Setting
from ..errors import InputError
from ..files import check_free, json_text, replacing
from ..model.shape import ALL_REDUCE, FUSED, WORLD_SIZES, Shapes
from .budget import Budget, MeasuringTime
from .candidates import Candidates, captured, harness_spread_us, near
from .coordinates import Posterior
from .reasons import reasons
from .search import Problem, search
from .value import Interval, RegretSurface, at_present

if TYPE_CHECKING:
    from ..decide.decision import Cutoff
    from .schemas import PlanRecord


class Entry(Struct, frozen=True):
    """One shape of a plan. ``regret_pct_left`` is the expected regret after it and those before."""

    op: str
    arms: tuple[str, ...]
    world_size: int
    tokens: int
    hidden_dim: int
    dtype: str
    bytes: int
    latency_us: tuple[float, ...]
    seconds: float
    regret_pct_left: float
    reason: str


class Prospect(Struct, frozen=True):
    """One world size: the cutoff and its expected regret (percent) now and after measuring.

    ``before`` and ``after`` are on your machine; ``this_kernel`` are the ends now for this kernel.
    ``regret_pct_perfect`` is what one cutoff in bytes cannot avoid. ``open_share`` of the calls
    lie inside the cutoff's present interval; on those the regret averages ``open_regret_pct``.
    ``always``: 1-stage at every size, nothing is open. ``cutoff`` is the decision's; what it knows
    of arms that push is in no shape of a plan: their kernels calibrate apart from those whose
    posterior the plan narrows.
    """

    world_size: int
    before: Interval
    after: Interval
    this_kernel: tuple[int | None, int | None]
    regret_pct_before: float
    regret_pct_after: float
    regret_pct_perfect: float
    open_share: float
    open_regret_pct: float
    cutoff: Cutoff
    always: bool = False
    note: str = ""


class Plan(Struct, frozen=True):
    """What to measure next, best first, with what is expected of it."""

    setting: Setting
    budget: Budget
    measuring_time: MeasuringTime
    noise: float
    entries: tuple[Entry, ...]
    prospects: tuple[Prospect, ...]

    @property
    def regret_pct(self) -> tuple[float, float, float]:
        """Expected regret (before, after, with perfect knowledge), mean over world sizes."""
        before, after, perfect = np.mean(
            [
                (p.regret_pct_before, p.regret_pct_after, p.regret_pct_perfect)
                for p in self.prospects
            ],
            axis=0,
        ).tolist()
        return before, after, perfect

    @property
    def seconds(self) -> float:
        """Estimated time of all measurements, launches included."""
        launches = len({e.world_size for e in self.entries})
        return self.measuring_time.launch_s * launches + sum(e.seconds for e in self.entries)

    @property
    def latencies(self) -> int:
        """Number of latencies: (shape, arm) pairs."""
        return sum(len(e.arms) for e in self.entries)

    @property
    def removed_share(self) -> float:
        """How much of what measuring can remove of the regret the plan is expected to remove."""
        before, after, perfect = self.regret_pct
        return (before - after) / max(before - perfect, 1e-12)

    def to_dict(self) -> PlanRecord:
        """Return the ``costmodel/plan/1`` record."""
        before, after, perfect = self.regret_pct
        return {
            "schema": "costmodel/plan/1",
            **self.setting.about(),
            "budget": self.budget.to_dict(),
            "assumed": {
                "noise": round(self.noise, 5),
                "harness_spread_us": round(harness_spread_us(self.setting), 3),
                "seconds_per_launch": self.measuring_time.launch_s,
                "seconds_per_shape": self.measuring_time.shape_s,
                "seconds_per_arm": self.measuring_time.arm_s,
            },
            "seconds": round(self.seconds, 1),
            "expected_regret_pct": {
                "before": round(before, 5),
                "after": round(after, 5),
                "perfect": round(perfect, 5),
                "removed_share": round(self.removed_share, 4),
            },
            "cutoffs": [
                {
                    "world_size": p.world_size,
                    "max_bytes_this_kernel_lo": p.this_kernel[0],
                    "max_bytes_this_kernel_hi": p.this_kernel[1],
                    "before": {**p.before.to_dict(), "regret_pct": round(p.regret_pct_before, 5)},
                    "after": {**p.after.to_dict(), "regret_pct": round(p.regret_pct_after, 5)},
                    "regret_pct_perfect": round(p.regret_pct_perfect, 5),
                    "open_share": round(p.open_share, 4),
                    "open_regret_pct": round(p.open_regret_pct, 4),
                    "note": p.note,
                    "pushed": p.cutoff.pushed_record(),
                }
                for p in self.prospects
            ],
            "shapes": [
                {
                    "op": e.op,
                    "arms": list(e.arms),
                    "world_size": e.world_size,
                    "tokens": e.tokens,
                    "hidden_dim": e.hidden_dim,
                    "dtype": e.dtype,
                    "bytes": e.bytes,
                    "expected_us": [round(t, 2) for t in e.latency_us],
                    "seconds": round(e.seconds, 1),
                    "regret_pct_left": round(e.regret_pct_left, 5),
                    "reason": e.reason,
                }
                for e in self.entries
            ],
        }

    def __repr__(self) -> str:
        shapes = ", ".join(f"TP{e.world_size} {e.tokens} x {e.hidden_dim}" for e in self.entries)
        return f"Plan({self.setting.gpu}: {shapes or 'nothing to measure'})"

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the plan file, whole or not at all.

        Raises :class:`InputError` as :func:`check_writable` does, and for a plan without shapes.
        """
        check_writable(path, self.setting, force=force)
        if not self.entries:
            raise InputError(f"{path}: not written: nothing is worth measuring in this budget")
        with replacing(path) as stream:
            stream.write(json_text(self.to_dict()))


def unmeasured(setting: Setting) -> str:
    """Return why ``costmodel measure`` cannot run both arms at one shape, "" where it can.

    AITER's plain all-reduce takes its stage by size (``csrc/include/custom_all_reduce.cuh``).
    """
    family = setting.calibration.kernel_family
    if setting.op == FUSED or (setting.op == ALL_REDUCE and family in OTHER_BACKENDS):
        return ""
    return f"'costmodel measure' cannot force both stages of {setting.op} of {family}'s kernels"


def check_writable(path: str | Path, setting: Setting, *, force: bool = False) -> None:
    """Raise :class:`InputError` when no plan file for a setting can be put at ``path``.

    That is where :func:`.check_free` says so, and where the plan could not be measured.
    """
    if why := unmeasured(setting):
        raise InputError(
            f"{path}: not written: {why}; leave out --out and print the plan with --format json"
        )
    check_free(path, force)


def plan(
    setting: Setting,
    budget: Budget,
    workload: Workload | None = None,
    *,
    world_sizes: Sequence[int] = WORLD_SIZES,
    noise: float | None = None,
    measuring_time: MeasuringTime | None = None,
) -> Plan:
    """Choose the measurements that most reduce the expected regret of the recommended rule.

    Cutoffs, intervals and regret as things stand are those of :func:`recommend` for the same
    ``workload``; every world size weighs the same. ``noise`` is the scatter of log latencies
    around the model (default: the calibration's typical one). Raises :class:`InputError` for a
    budget that allows no measurement and for what ``recommend`` rejects.
    """
    problem, posterior, noise = pose(
        setting, workload, world_sizes=world_sizes, noise=noise, measuring_time=measuring_time
    )
    _check_affordable(problem, budget)
    design = search(problem, budget)
    shapes: dict[int, list[int]] = {}
    for m in design:
        shapes.setdefault(m // 2, []).append(m)
    why = reasons(setting, posterior, problem.surfaces, problem.candidates, list(shapes.values()))
    return Plan(
        setting=setting,
        budget=budget,
        measuring_time=problem.measuring_time,
        noise=noise,
        entries=_entries(problem, shapes, why),
        prospects=_prospects(setting, posterior, problem, design),
    )


def pose(
    setting: Setting,
    workload: Workload | None = None,
    *,
    world_sizes: Sequence[int] = WORLD_SIZES,
    noise: float | None = None,
    measuring_time: MeasuringTime | None = None,
    everywhere: bool = False,
) -> tuple[Problem, Posterior, float]:
    """Return (the planner's problem, the posterior behind it, the noise); see :func:`plan`.

    ``everywhere``: shapes that no plan chooses are candidates too, for other designs to compare.
    """
    if noise is None:
        noise = setting.calibration.typical_noise
    if not 0 < noise < 1:
        raise InputError(f"--noise is {noise:g}; give the scatter as a fraction, such as 0.02")
    if not world_sizes:
        raise InputError("no world size is asked about; give 2, 4 or 8")
    sizes = tuple(sorted(set(world_sizes)))
    decision = recommend(setting, workload, world_sizes=sizes)
    posterior = Posterior.of(setting)
    white = posterior.sample()
    values = posterior.values(white)
    surfaces = tuple(RegretSurface.of(setting, c, white, values) for c in decision.cutoffs)
    hidden_dims = tuple(decision.workload.hidden_dims())
    shapes = captured(setting, hidden_dims, sizes)
    possible = near(setting, shapes, surfaces)
    if not everywhere:
        shapes, possible = shapes.select(possible), possible[possible]
    candidates = Candidates.of(setting, posterior, shapes, possible, noise=noise)
    problem = Problem(surfaces, candidates, measuring_time or MeasuringTime())
    return problem, posterior, noise


def _check_affordable(problem: Problem, budget: Budget) -> None:
    if budget.seconds is None:
        return
    possible = problem.candidates.possible.nonzero()[0].tolist()
    cheapest = min((problem.seconds([m]) for m in possible), default=0.0)
    if cheapest > budget.seconds:
        e = problem.measuring_time
        raise InputError(
            f"--seconds {budget.seconds:g} is not enough for one latency: a launch takes "
            f"{e.launch_s:g} s, a shape {e.shape_s:g} s, an arm {e.arm_s:g} s; "
            f"give {np.ceil(cheapest):.0f} or more"
        )


def _entries(problem: Problem, shapes: dict[int, list[int]], why: list[str]) -> tuple[Entry, ...]:
    c, e = problem.candidates, problem.measuring_time
    taken: list[int] = []
    entries = []
    for (i, measurements), reason in zip(shapes.items(), why, strict=True):
        taken += measurements
        shape = Shapes.of(c.tokens[i], c.hidden_dim[i], c.world_size[i], op=c.op, dtype=c.dtype)
        latency = tuple(float(c.latency_us[m]) for m in measurements)
        entries.append(
            Entry(
                op=c.op,
                arms=tuple(c.arm(m) for m in measurements),
                world_size=int(c.world_size[i]),
                tokens=int(c.tokens[i]),
                hidden_dim=int(c.hidden_dim[i]),
                dtype=c.dtype,
                bytes=int(shape.bytes),
                latency_us=latency,
                seconds=e.shape_s + sum(e.latency_s(t) for t in latency),
                regret_pct_left=_mean_left_pct(problem, taken),
                reason=reason,
            )
        )
    return tuple(entries)


def _left_pct(surface: RegretSurface, left: float) -> float:
    """Return the regret left in percent, of which the planner's own draws say ``left``.

    What they say is spared is taken off the decision's regret.
    """
    now = surface.cutoff.regret_pct
    return max(0.0, now - 100 * (surface.before - max(left, surface.perfect)))


def _mean_left_pct(problem: Problem, design: list[int]) -> float:
    left = problem.regret_by_world_size(design)
    return float(np.mean([_left_pct(*pair) for pair in zip(problem.surfaces, left, strict=True)]))


def _prospects(
    setting: Setting, posterior: Posterior, problem: Problem, design: list[int]
) -> tuple[Prospect, ...]:
    """Return what each world size stands to gain; as things stand is as the decision says."""
    learnt = problem.learnt(design)
    out = []
    for surface, left in zip(problem.surfaces, problem.regret_by_world_size(design), strict=True):
        cutoff = surface.cutoff
        before = at_present(cutoff)
        measured = bool(design) and surface.open
        share, regret = surface.open_calls()
        now = cutoff.regret_pct
        out.append(
            Prospect(
                world_size=surface.world_size,
                before=before,
                after=surface.expected(setting, posterior, learnt) if measured else before,
                this_kernel=(cutoff.this_kernel_lo, cutoff.this_kernel_hi),
                regret_pct_before=now,
                regret_pct_after=_left_pct(surface, left) if design else now,
                regret_pct_perfect=_left_pct(surface, surface.perfect),
                open_share=share,
                open_regret_pct=100 * regret,
                cutoff=cutoff,
                always=cutoff.verdict == ALWAYS_ONE_STAGE,
                note="" if cutoff.claimed else cutoff.reason,
            )
        )
    return tuple(out)
