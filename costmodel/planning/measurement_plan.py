"""The plan: which shapes to measure, why, what that should bring; and its file.

The file is JSON, schema ``costmodel/plan/1``, which ``costmodel measure --plan`` runs: ``shapes``
in order of worth, each with ``op``, ``arms``, ``world_size``, ``tokens``, ``hidden_dim``,
``dtype``; what else stands in it is for people and programs that ask why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.posterior import Calibration
from ..data import kernels as _kernel
from ..data.workload import Workload
from ..errors import InputError
from ..files import replacing
from ..live.run.points import SCHEMA
from ..model.eligibility import eligible
from ..model.shape import FUSED, ONE_STAGE, OPS, WORLD_SIZES, Shapes
from . import outlook
from .budget import Budget, Effort
from .candidates import Candidates, harness_spread_us
from .coordinates import Posterior
from .outlook import Interval
from .reasons import reasons
from .search import Problem, search
from .stake import Stake


@dataclass(frozen=True)
class Entry:
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


@dataclass(frozen=True)
class Prospect:
    """One world size: the cutoff and its expected regret (percent) now and after measuring.

    ``regret_pct_perfect`` is what one cutoff in bytes cannot avoid. ``open_share`` of the calls
    lie inside the cutoff's present interval; on those the regret averages ``open_regret_pct``.
    """

    world_size: int
    before: Interval
    after: Interval
    regret_pct_before: float
    regret_pct_after: float
    regret_pct_perfect: float
    open_share: float
    open_regret_pct: float
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What to measure next, best first, with what is expected of it."""

    arch: str
    gpu: str
    op: str
    dtype: str
    aiter_version: str
    calibration: Calibration
    budget: Budget
    effort: Effort
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
        return self.effort.launch_s * launches + sum(e.seconds for e in self.entries)

    @property
    def latencies(self) -> int:
        """Number of latencies: (shape, arm) pairs."""
        return sum(len(e.arms) for e in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``costmodel/plan/1`` record."""
        before, after, perfect = self.regret_pct
        return {
            "schema": SCHEMA,
            "arch": self.arch,
            "gpu": self.gpu,
            "op": self.op,
            "dtype": self.dtype,
            "aiter_version": self.aiter_version,
            "calibration": {"id": self.calibration.id, "sha256": self.calibration.sha256},
            "budget": self.budget.to_dict(),
            "assumed": {
                "noise": round(self.noise, 5),
                "harness_spread_us": round(harness_spread_us(self.calibration), 3),
                "seconds_per_launch": self.effort.launch_s,
                "seconds_per_shape": self.effort.shape_s,
                "seconds_per_arm": self.effort.arm_s,
            },
            "seconds": round(self.seconds, 1),
            "expected_regret_pct": {
                "before": round(before, 5),
                "after": round(after, 5),
                "perfect": round(perfect, 5),
            },
            "cutoffs": [
                {
                    "world_size": p.world_size,
                    "before": {**p.before.to_dict(), "regret_pct": round(p.regret_pct_before, 5)},
                    "after": {**p.after.to_dict(), "regret_pct": round(p.regret_pct_after, 5)},
                    "regret_pct_perfect": round(p.regret_pct_perfect, 5),
                    "open_share": round(p.open_share, 4),
                    "open_regret_pct": round(p.open_regret_pct, 4),
                    "note": p.note,
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

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the plan file, whole or not at all.

        Raises :class:`InputError` as :func:`check_writable` does, and for a plan without shapes.
        """
        check_writable(path, self.op, force=force)
        if not self.entries:
            raise InputError(f"{path}: not written: nothing is worth measuring in this budget")
        with replacing(path) as stream:
            stream.write(json.dumps(self.to_dict(), indent=1) + "\n")


def check_writable(path: str | Path, op: str, *, force: bool = False) -> None:
    """Raise :class:`InputError` when no plan file for ``op`` can be put at ``path``.

    That is an existing file without ``force``, a directory, a place that does not exist, and an op
    that ``costmodel measure`` does not run.
    """
    path = Path(path)
    if op != FUSED:
        raise InputError(
            f"{path}: not written: 'costmodel measure' runs {FUSED}, not {op}; "
            "leave out --out and print the plan with --format json"
        )
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name the plan file")
    if path.exists() and not force:
        raise InputError(f"{path}: exists; give --force to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no directory {path.parent}; make it first")


def plan(
    calibration: Calibration,
    *,
    gpu: str,
    budget: Budget,
    op: str = FUSED,
    dtype: str = "bf16",
    aiter_version: str = _kernel.LATEST,
    hidden_dims: tuple[int, ...] | None = None,
    world_sizes: tuple[int, ...] = WORLD_SIZES,
    noise: float | None = None,
    effort: Effort | None = None,
) -> Plan:
    """Choose the measurements that most reduce the expected regret of the recommended rule.

    The regret is that of ``recommend``: over captured batch sizes x ``hidden_dims`` (default: the
    hidden sizes of known models), every world size weighing the same. ``noise`` is the scatter of
    log latencies around the model (default: the calibration's typical one). Raises
    :class:`InputError` for a budget that allows no measurement and for what ``recommend`` rejects.
    """
    problem, posterior, noise = pose(
        calibration, gpu=gpu, op=op, dtype=dtype, aiter_version=aiter_version,
        hidden_dims=hidden_dims, world_sizes=world_sizes, noise=noise, effort=effort,
    )  # fmt: skip
    _check_affordable(problem, budget)
    found = _kernel.calibrated(calibration.kernel_family, aiter_version)
    design = search(problem, budget)
    shapes: dict[int, list[int]] = {}
    for m in design:
        shapes.setdefault(m // 2, []).append(m)
    why = reasons(
        calibration, posterior, problem.stakes, problem.candidates, list(shapes.values()), gpu=gpu
    )
    return Plan(
        arch=next(a for a, g in calibration.gpus if g == gpu),
        gpu=gpu,
        op=op,
        dtype=dtype,
        aiter_version=aiter_version,
        calibration=calibration,
        budget=budget,
        effort=problem.effort,
        noise=noise,
        entries=_entries(problem, shapes, why),
        prospects=_prospects(calibration, posterior, problem, design, gpu, found),
    )


def pose(
    calibration: Calibration,
    *,
    gpu: str,
    op: str = FUSED,
    dtype: str = "bf16",
    aiter_version: str = _kernel.LATEST,
    hidden_dims: tuple[int, ...] | None = None,
    world_sizes: tuple[int, ...] = WORLD_SIZES,
    noise: float | None = None,
    effort: Effort | None = None,
) -> tuple[Problem, Posterior, float]:
    """Return (the planner's problem, the posterior behind it, the noise); see :func:`plan`."""
    from ..data import llms

    if op not in OPS:
        raise InputError(f"unknown op '{op}'; the model knows {', '.join(OPS)}")
    found = _kernel.calibrated(calibration.kernel_family, aiter_version)
    if op == FUSED and not found.fused_1stage:
        raise InputError(
            f"{found.title} has no 1-stage fused kernel, so there is nothing to choose; "
            "it came with 0.1.10.post3"
        )
    if noise is None:
        noise = calibration.typical_noise
    if not 0 < noise < 1:
        raise InputError(f"--noise is {noise:g}; give the scatter as a fraction, such as 0.02")
    if not world_sizes:
        raise InputError("no world size is asked about; give 2, 4 or 8")
    asked = hidden_dims or tuple(llms.hidden_dims())
    one_token = Shapes.of(1, asked, 2, op=op, dtype=dtype)
    valid, words = eligible(one_token, ONE_STAGE, found)
    if not valid.all() and (hidden_dims or not valid.any()):
        bad = int(one_token.hidden_dim[~valid][0])
        raise InputError(
            f"hidden size {bad} is rejected by the 1-stage kernel of {found.title}: "
            f"it needs {words}"
        )
    asked = tuple(sorted({h for h, ok in zip(asked, valid.tolist(), strict=True) if ok}))
    sizes = tuple(sorted(set(world_sizes)))
    posterior = Posterior.of(calibration)
    white = posterior.sample()
    workload = Workload.of(asked)
    about: dict[str, Any] = {"gpu": gpu, "op": op, "dtype": dtype, "kernel": found}
    stakes = tuple(Stake.of(calibration, posterior, white, workload, n, **about) for n in sizes)
    candidates = Candidates.of(calibration, posterior, asked, sizes, noise=noise, **about)
    problem = Problem(stakes, candidates.near(stakes), effort or Effort())
    return problem, posterior, noise


def _check_affordable(problem: Problem, budget: Budget) -> None:
    if budget.seconds is None:
        return
    possible = problem.candidates.possible.nonzero()[0].tolist()
    cheapest = min((problem.seconds([m]) for m in possible), default=0.0)
    if cheapest > budget.seconds:
        e = problem.effort
        raise InputError(
            f"--seconds {budget.seconds:g} is not enough for one latency: a launch takes "
            f"{e.launch_s:g} s, a shape {e.shape_s:g} s, an arm {e.arm_s:g} s; "
            f"give {np.ceil(cheapest):.0f} or more"
        )


def _entries(problem: Problem, shapes: dict[int, list[int]], why: list[str]) -> tuple[Entry, ...]:
    c, e = problem.candidates, problem.effort
    taken: list[int] = []
    entries = []
    for (i, measurements), reason in zip(shapes.items(), why, strict=True):
        taken += measurements
        shape = Shapes.of(c.tokens[i], c.hidden_dim[i], c.world_size[i], op=c.op, dtype=c.dtype)
        latency = tuple(float(c.latency_us[m]) for m in measurements)
        entries.append(
            Entry(
                op=c.op,
                arms=tuple(c.algorithm(m) for m in measurements),
                world_size=int(c.world_size[i]),
                tokens=int(c.tokens[i]),
                hidden_dim=int(c.hidden_dim[i]),
                dtype=c.dtype,
                bytes=int(shape.bytes),
                latency_us=latency,
                seconds=e.shape_s + sum(e.latency_s(t) for t in latency),
                regret_pct_left=100 * problem.regret(taken),
                reason=reason,
            )
        )
    return tuple(entries)


def _prospects(
    calibration: Calibration,
    posterior: Posterior,
    problem: Problem,
    design: list[int],
    gpu: str,
    found: _kernel.Kernel,
) -> tuple[Prospect, ...]:
    after = problem.regret_by_stake(design)
    learnt = problem.learnt(design)
    out = []
    for stake, left in zip(problem.stakes, after, strict=True):
        refused = [
            r.reason
            for r in calibration.refusals
            if (r.gpu, r.world_size) == (gpu, stake.world_size)
        ]
        before = outlook.now(stake)
        measured = bool(design) and stake.open
        share, regret = stake.open_calls()
        out.append(
            Prospect(
                world_size=stake.world_size,
                before=before,
                after=outlook.expected(calibration, posterior, stake, learnt, gpu=gpu, kernel=found)
                if measured
                else before,
                regret_pct_before=100 * stake.before,
                regret_pct_after=100 * left if design else 100 * stake.before,
                regret_pct_perfect=100 * stake.perfect,
                open_share=share,
                open_regret_pct=100 * regret,
                note=refused[0] if refused else "",
            )
        )
    return tuple(out)
