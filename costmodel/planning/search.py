"""The search for the set of measurements that leaves the least expected regret.

Greedy, by regret removed per second; both algorithms at a shape are one move as well, because one
latency of a new benchmark tells little before there is another. Then exchanges (each measurement
against every other that fits the budget), then measurements that bring next to nothing are dropped,
and what is left is ordered so that the first shapes are worth most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from .budget import Budget, MeasuringTime
from .candidates import Candidates
from .value import POINTS, POINTS_COARSE, POINTS_FINE, RegretSurface

Array = NDArray[np.float64]
Index = NDArray[np.intp]

#: A measurement must remove at least this share of the regret that measuring can remove at all.
WORTHWHILE = 0.005

#: Moves that a coarse ranking hands to the finer one, and rounds of exchanges.
FINALISTS = 32
ROUNDS = 2


class Problem(Struct, frozen=True, dict=True):
    """Decisions of several world sizes, weighing the same, and what could be measured for them."""

    surfaces: tuple[RegretSurface, ...]
    candidates: Candidates
    measuring_time: MeasuringTime

    @property
    def before(self) -> float:
        """Expected regret with nothing measured."""
        return float(np.mean([s.before for s in self.surfaces]))

    @property
    def avoidable(self) -> float:
        """Expected regret that perfect knowledge would remove."""
        return self.before - float(np.mean([s.perfect for s in self.surfaces]))

    def regret_by_world_size(self, design: Sequence[int], points: int = POINTS_FINE) -> list[float]:
        """Return the expected regret that measuring ``design`` leaves, per world size."""
        of = (tuple(design), points)
        if of not in self._left:
            learnt = self.learnt(list(design))
            self._left[of] = [
                float(s.after((s.direction @ learnt @ s.direction.T)[None], points)[0])
                for s in self.surfaces
            ]
        return self._left[of]

    @cached_property
    def _left(self) -> dict[tuple[tuple[int, ...], int], list[float]]:
        """The regrets found so far: exchanging, ordering and telling ask for the same designs."""
        return {}

    def regret(self, design: Sequence[int], points: int = POINTS_FINE) -> float:
        """Return the mean over world sizes of the expected regret that ``design`` leaves."""
        return float(np.mean(self.regret_by_world_size(design, points)))

    def seconds(self, design: Sequence[int]) -> float:
        """Return what measuring a design takes."""
        shapes = {m // 2 for m in design}
        launches = {int(self.candidates.world_size[i]) for i in shapes}
        arms = sum(
            self.measuring_time.latency_s(float(self.candidates.latency_us[m])) for m in design
        )
        return (
            self.measuring_time.launch_s * len(launches)
            + self.measuring_time.shape_s * len(shapes)
            + arms
        )

    def fits(self, design: Sequence[int], budget: Budget) -> bool:
        """Return whether a design keeps to a budget."""
        if budget.shapes is not None:
            return len({m // 2 for m in design}) <= budget.shapes
        return self.seconds(design) <= (budget.seconds or 0.0)

    def scan(self, design: list[int], first: Index, second: Index, points: int) -> Array:
        """Return the regret left after adding measurements ``first`` and ``second`` to a design.

        Arrays of indices; -1 in ``second`` adds none.
        """
        rows, noise = self.candidates.rows, self.candidates.noise_variance
        left = self.candidates.left_unknown(design)
        one, two = rows[first], rows[second]
        one_left, two_left = one @ left, two @ left
        seen = np.einsum("ij,ij->i", one_left, one) + noise
        gain = one_left[:, :-1] / np.sqrt(seen)[:, None]
        shared = np.einsum("ij,ij->i", one_left, two) / seen
        rest = np.einsum("ij,ij->i", two_left, two) + noise - shared**2 * seen
        more = (two_left - shared[:, None] * one_left)[:, :-1] / np.sqrt(rest)[:, None]
        more[second < 0] = 0.0
        learnt = self.learnt(design)
        total = np.zeros(len(first))
        for s in self.surfaces:
            a, b = gain @ s.direction.T, more @ s.direction.T
            known = s.direction @ learnt @ s.direction.T
            known = known + a[:, :, None] * a[:, None, :] + b[:, :, None] * b[:, None, :]
            total += s.after(known, points)
        return total / len(self.surfaces)

    def learnt(self, design: list[int]) -> Array:
        """Return the covariance of E[w | data], (p, p)."""
        left = self.candidates.left_unknown(design)[:-1, :-1]
        return np.eye(len(left)) - left


def search(problem: Problem, budget: Budget) -> list[int]:
    """Return the measurements to take, those of a shape side by side, best shapes first.

    Empty when no measurement is possible (see :func:`.near`), or none fits the budget.
    """
    design = greedy(problem, budget)
    design = exchanged(problem, budget, design)
    design = pruned(problem, design)
    return ordered(problem, design)


def greedy(problem: Problem, budget: Budget) -> list[int]:
    """Add the move that removes most regret per second, as long as one is worthwhile."""
    design: list[int] = []
    least = WORTHWHILE * problem.avoidable
    while True:
        now = problem.regret(design, POINTS)
        move = _best(problem, budget, design, now=now)
        if move is None or now - move.regret < least:
            return design
        design = [*design, *move.added]


def exchanged(problem: Problem, budget: Budget, design: list[int]) -> list[int]:
    """Replace one measurement after the other while that leaves noticeably less regret."""
    least = 0.2 * WORTHWHILE * problem.avoidable
    for _ in range(ROUNDS):
        before = design
        for old in list(design):
            rest = [m for m in design if m != old]
            move = _best(problem, budget, rest)
            if move is not None and move.regret < problem.regret(design, POINTS) - least:
                design = [*rest, *move.added]
        if design == before:
            break
    return design


def pruned(problem: Problem, design: list[int]) -> list[int]:
    """Drop measurements that bring next to nothing."""
    least = WORTHWHILE * problem.avoidable
    while len(design) > 1:
        without = [[m for m in design if m != old] for old in design]
        regret = [problem.regret(rest) for rest in without]
        best = int(np.argmin(regret))
        if regret[best] - problem.regret(design) >= least:
            break
        design = without[best]
    return design


def ordered(problem: Problem, design: list[int]) -> list[int]:
    """Return the measurements shape by shape, each next shape removing most regret per second."""
    shapes: dict[int, list[int]] = {}
    for m in sorted(design):
        shapes.setdefault(m // 2, []).append(m)
    order: list[int] = []

    def change_per_second(shape: int) -> float:
        trial = [*order, *shapes[shape]]
        return (problem.regret(trial) - problem.before) / max(problem.seconds(trial), 1e-9)

    while shapes:
        order += shapes.pop(min(shapes, key=change_per_second))
    return order


class Move(Struct, frozen=True):
    """Measurements added to a design, and the expected regret then left."""

    added: list[int]
    regret: float


def _best(
    problem: Problem, budget: Budget, design: list[int], *, now: float | None = None
) -> Move | None:
    """Return the best move within the budget, or None when none fits.

    With ``now``, the regret that the design leaves: single measurements and both algorithms at a
    shape, by regret removed per second. Without it: single measurements, by regret left.
    """
    first, second = _moves(problem, design, pairs=now is not None)
    fits, seconds = _afforded(problem, budget, design, first, second)
    first, second, seconds = first[fits], second[fits], seconds[fits]
    if not first.size:
        return None
    # Few points rank coarsely; their error is common to all moves, so it is taken out by a shift.
    coarse = problem.scan(design, first, second, POINTS_COARSE)
    if now is not None:
        coarse = (coarse - problem.regret(design, POINTS_COARSE)) / seconds
    best = np.argsort(coarse, kind="stable")[:FINALISTS]
    regret = problem.scan(design, first[best], second[best], POINTS)
    winner = int(np.argmin(regret if now is None else (regret - now) / seconds[best]))
    chosen = best[winner]
    return Move([int(m) for m in (first[chosen], second[chosen]) if m >= 0], float(regret[winner]))


def _moves(problem: Problem, design: list[int], *, pairs: bool) -> tuple[Index, Index]:
    """Return every measurement not yet in a design, and both algorithms at shapes without any."""
    free = problem.candidates.possible.copy()
    free[design] = False
    single = np.flatnonzero(free)
    both = 2 * np.flatnonzero(free[0::2] & free[1::2]) if pairs else single[:0]
    return np.append(single, both), np.append(np.full(single.size, -1), both + 1)


def _afforded(
    problem: Problem, budget: Budget, design: list[int], first: Index, second: Index
) -> tuple[NDArray[np.bool_], Array]:
    """Return which moves fit the budget, and the seconds that each adds."""
    c, measuring_time = problem.candidates, problem.measuring_time
    measured = np.zeros(c.tokens.size, np.bool_)
    measured[[m // 2 for m in design]] = True
    launched = np.isin(c.world_size, c.world_size[measured])
    shape = first // 2
    arm_s = measuring_time.arm_s + measuring_time.timed_calls * 1e-6 * c.latency_us
    seconds = np.maximum(
        measuring_time.launch_s * ~launched[shape]
        + measuring_time.shape_s * ~measured[shape]
        + arm_s[first]
        + np.where(second < 0, 0.0, arm_s[second]),
        1e-9,
    )
    if budget.shapes is not None:
        return measured.sum() + ~measured[shape] <= budget.shapes, seconds
    return problem.seconds(design) + seconds <= (budget.seconds or 0.0), seconds
