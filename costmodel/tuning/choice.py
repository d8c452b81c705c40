"""Which shape to measure next, and which to judge by.

The next shape is the one that most reduces the expected regret on this machine, by the planner's
own search; both arms are measured there, alternating, since a pair tells of the arms' difference
whatever the benchmark adds. Without a calibration the first shapes are spread over sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..data.workload import Workload, captured_batch_sizes
from ..live.backends.base import LiveShape
from ..live.run.points import Point
from ..planning import Budget, pose
from ..planning.search import search
from ..units import element_bytes
from .knowledge import Known, Question, live_arms

#: Where nothing is known: bytes of the first shapes, between which published crossings lie.
FIRST_BYTES = (128 * 1024, 1024 * 1024, 512 * 1024, 256 * 1024)

#: Where the rule is judged, as multiples of its cutoff: on both sides, near and farther; and in the
#: place of a cutoff where 1-stage runs at every size.
JUDGED_AT = (0.8, 1.25, 0.6, 1.6)
JUDGED_BYTES = 512 * 1024


def first(hidden_dims: Sequence[int], asked: Question, seen: Collection[LiveShape]) -> Point | None:
    """Return the next of the first shapes on a machine of which nothing is known."""
    captured, dtype = captured_batch_sizes(), asked.dtype
    for i, size in enumerate(FIRST_BYTES):
        hidden = hidden_dims[i % len(hidden_dims)]
        tokens = _nearest(captured, size / (hidden * element_bytes(dtype)))
        shape = LiveShape(tokens, hidden, dtype)
        if shape not in seen:
            return Point(shape, live_arms(asked.op, asked.arms))
    return None


def following(
    known: Known, workload: Workload | None, world_size: int, seen: Collection[LiveShape]
) -> Point | None:
    """Return the shape not yet ``seen`` whose measurement helps most; None where none would."""
    problem, _, _ = pose(known.setting, workload, world_sizes=(world_size,))
    candidates = problem.candidates
    calls = zip(candidates.tokens.tolist(), candidates.hidden_dim.tolist(), strict=True)
    new = np.array([LiveShape(t, h, candidates.dtype) not in seen for t, h in calls], np.bool_)
    possible = candidates.possible & np.repeat(new, 2)
    if not possible.any():
        return None
    problem = replace(problem, candidates=replace(candidates, possible=possible))
    design = search(problem, Budget(shapes=1))
    if not design:
        return None
    at = design[0] // 2
    shape = LiveShape(int(candidates.tokens[at]), int(candidates.hidden_dim[at]), candidates.dtype)
    return Point(shape, live_arms(candidates.op, candidates.arms))


def judging(known: Known, world_size: int, seen: Collection[LiveShape]) -> tuple[Point, ...]:
    """Return unseen shapes on both sides of the cutoff, on the hidden sizes that count."""
    around = known.cutoff(world_size).estimate or JUDGED_BYTES
    setting = known.setting
    hidden_dims = known.decision.workload.hidden_dims()
    every = Workload.of(hidden_dims)
    shapes = setting.shapes(every.tokens, every.hidden_dim, world_size)
    taken = set(seen)
    points = []
    for i, share in enumerate(JUDGED_AT):
        hidden = hidden_dims[(i * len(hidden_dims)) // len(JUDGED_AT)]
        both = setting.takes_both(shapes) & (shapes.hidden_dim == hidden)
        tokens = shapes.tokens[both][
            np.argsort(abs(np.log(shapes.bytes[both] / (share * around))), kind="stable")
        ]
        for count in tokens.tolist():
            shape = LiveShape(int(count), int(hidden), setting.dtype)
            if shape not in taken:
                taken.add(shape)
                points.append(Point(shape, live_arms(setting.op, setting.arms)))
                break
    return tuple(points)


def survey(
    known: Known, world_size: int, seen: Collection[LiveShape], most: int
) -> tuple[Point, ...]:
    """Return at most so many unseen calls of the workload that both arms take.

    The first of them, however many, are spread evenly over all sizes of each hidden size.
    """
    setting, load = known.setting, known.decision.workload
    calls = setting.shapes(load.tokens, load.hidden_dim, world_size)
    calls = calls.select(setting.takes_both(calls))
    order = np.lexsort((calls.tokens, calls.hidden_dim))
    shapes = [
        LiveShape(int(calls.tokens[i]), int(calls.hidden_dim[i]), setting.dtype)
        for i in order[_spread(order.size)]
    ]
    arms = live_arms(setting.op, setting.arms)
    return tuple(Point(shape, arms) for shape in shapes if shape not in seen)[:most]


def _spread(count: int) -> NDArray[np.intp]:
    """Return 0 to ``count`` - 1 with their binary digits reversed: van der Corput's sequence."""
    digits = max(count - 1, 1).bit_length()
    number = np.arange(1 << digits)
    turned = np.zeros_like(number)
    for i in range(digits):
        turned |= ((number >> i) & 1) << (digits - 1 - i)
    return turned[turned < count]


def _nearest(captured: np.ndarray, tokens: float) -> int:
    return int(captured[np.argmin(abs(np.log(captured / max(tokens, 1.0))))])
