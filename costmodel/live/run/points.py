"""What to measure: a list of points at one world size, from options or from a plan file.

A plan file is JSON::

    {"schema": "costmodel/plan/1",
     "shapes": [{"op": "fused_ar_rmsnorm", "arms": ["1stage", "2stage"], "world_size": 8,
                 "tokens": 16, "hidden_dim": 7168, "dtype": "bf16"},
                {"op": "fused_ar_rmsnorm", "algorithm": "1stage", ...},
                {"op": "ar_then_rmsnorm", ...}]}

``arms`` lists arms of the op; ``algorithm`` names one; with neither, both stages are meant.
``op: all_reduce`` is the plain op, ``op: ar_then_rmsnorm`` the arm ``separate``. Entries of one
shape are joined. The order counts: the first shapes are worth most, and a time budget cuts from the
end. Other keys, in an entry or at the top, carry the planner's reasons and are ignored here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError, nearest
from ...files import read_json
from ...model.shape import ALGORITHMS, ALL_REDUCE, FUSED, ONE_STAGE, SEPARATE, TWO_STAGE, Shapes
from ..backends.base import ARMS, SEPARATE_ARM, LiveShape, arm_of
from .schemas import PlanFile, PlannedShape, PointRecord

SCHEMA = "costmodel/plan/1"

#: Arms where none are named: the two stages, between which the dispatch rule chooses.
DEFAULT_ARMS = (ONE_STAGE, TWO_STAGE)


@dataclass(frozen=True)
class Point:
    """One shape, and the arms to measure there (they alternate in time)."""

    shape: LiveShape
    arms: tuple[str, ...]

    def to_json(self) -> PointRecord:
        """Return the point as a dictionary of JSON values."""
        return {
            "tokens": self.shape.tokens,
            "hidden_dim": self.shape.hidden_dim,
            "dtype": self.shape.dtype,
            "arms": list(self.arms),
        }

    @classmethod
    def from_json(cls, data: PointRecord) -> Point:
        """Return the point that :meth:`to_json` wrote."""
        shape = LiveShape(data["tokens"], data["hidden_dim"], data["dtype"])
        return cls(shape, tuple(data["arms"]))


def check_arms(arms: Sequence[str]) -> tuple[str, ...]:
    """Return the arms in canonical order; raise :class:`InputError` for an unknown one."""
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"unknown arm '{arm}'{nearest(arm, ARMS)}; one of {', '.join(ARMS)}")
    if not arms:
        raise InputError(f"no arm to measure; name some of {', '.join(ARMS)}")
    return tuple(arm for arm in ARMS if arm in arms)


def grid(
    tokens: Iterable[int],
    hidden_dims: Iterable[int],
    dtypes: Iterable[str],
    arms: Sequence[str],
    world_size: int,
) -> list[Point]:
    """Return every combination once.

    Raises :class:`InputError` for sizes below 1 and unknown dtypes, arms and world sizes.
    """
    arms = check_arms(arms)
    points = []
    for dtype in dict.fromkeys(dtypes):
        for hidden_dim in dict.fromkeys(hidden_dims):
            for count in dict.fromkeys(tokens):
                Shapes.of(count, hidden_dim, world_size, dtype=dtype)
                points.append(Point(LiveShape(count, hidden_dim, dtype), arms))
    return points


def shuffled(points: Sequence[Point], seed: int) -> list[Point]:
    """Return the points in an order drawn from ``seed``, so that drift does not look like size.

    For grids; a plan's order carries a meaning.
    """
    order = list(points)
    random.Random(seed).shuffle(order)
    return order


def read_plan(path: str | Path, world_size: int | None) -> tuple[list[Point], int, int]:
    """Read a plan file; return (points in file order, their world size, entries of other sizes).

    A plan for several world sizes needs ``world_size`` to say which part to run: one run directory
    holds one world size. Raises :class:`InputError` naming the file and the entry.
    """
    entries = read_json(path, PlanFile, f"a plan file ({SCHEMA})")["shapes"]
    read = [_entry(entry, f"{path}: shapes[{i}]") for i, entry in enumerate(entries)]
    sizes = sorted({size for _, size in read})
    if world_size is None:
        if len(sizes) > 1:
            raise InputError(
                f"{path}: the plan holds world sizes {', '.join(map(str, sizes))}; one run "
                "measures one of them: name it with --tp"
            )
        world_size = sizes[0]
    elif world_size not in sizes:
        raise InputError(
            f"{path}: no shape of world size {world_size}; the plan holds "
            f"{', '.join(map(str, sizes))}"
        )
    merged: dict[LiveShape, tuple[str, ...]] = {}
    for point, size in read:
        if size == world_size:
            merged[point.shape] = check_arms((*merged.get(point.shape, ()), *point.arms))
    points = [Point(shape, arms) for shape, arms in merged.items()]
    return points, world_size, sum(size != world_size for _, size in read)


def _entry(entry: PlannedShape, where: str) -> tuple[Point, int]:
    """Return one entry of a plan file as a point and its world size."""
    tokens, hidden_dim, world_size = entry["tokens"], entry["hidden_dim"], entry["world_size"]
    op, dtype = entry.get("op", FUSED), entry.get("dtype", "bf16")
    if op not in (FUSED, ALL_REDUCE, SEPARATE):
        raise InputError(
            f"{where}: op is {op!r}; a plan holds {FUSED}, {ALL_REDUCE} and {SEPARATE}"
        )
    arms: Sequence[str] = entry.get("arms", DEFAULT_ARMS)
    if op != SEPARATE and (algorithm := entry.get("algorithm")):
        arms = [algorithm]
    if op == SEPARATE:
        arms = [SEPARATE_ARM]
    elif op == ALL_REDUCE:
        arms = [arm_of(op, a) if a in ALGORITHMS else a for a in arms]
    try:
        Shapes.of(tokens, hidden_dim, world_size, dtype=dtype)
        return Point(LiveShape(tokens, hidden_dim, dtype), check_arms(arms)), world_size
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
