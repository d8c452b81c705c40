"""What to measure: a list of points at one world size, from options or from a plan file.

A plan file is JSON::

    {"schema": "costmodel/plan/1",
     "shapes": [{"op": "fused_ar_rmsnorm", "arms": ["1stage", "2stage"], "world_size": 8,
                 "tokens": 16, "hidden_dim": 7168, "dtype": "bf16"},
                {"op": "fused_ar_rmsnorm", "algorithm": "1stage", ...},
                {"op": "ar_then_rmsnorm", ...}]}

``arms`` lists arms of the fused op; ``algorithm`` names one; with neither, both stages are meant.
``op: ar_then_rmsnorm`` is the arm ``separate``. Entries of one shape are joined. The order counts:
the first shapes are worth most, and a time budget cuts from the end. Other keys, in an entry or at
the top, carry the planner's reasons and are ignored here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError, nearest
from ...model.shape import FUSED, ONE_STAGE, SEPARATE, TWO_STAGE, Shapes
from ..backends.base import ARMS, SEPARATE_ARM, LiveShape

SCHEMA = "costmodel/plan/1"

#: Arms where none are named: the two stages, between which the dispatch rule chooses.
DEFAULT_ARMS = (ONE_STAGE, TWO_STAGE)


@dataclass(frozen=True)
class Point:
    """One shape, and the arms to measure there (they alternate in time)."""

    shape: LiveShape
    arms: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the point as a dictionary of JSON values."""
        return {
            "tokens": self.shape.tokens,
            "hidden_dim": self.shape.hidden_dim,
            "dtype": self.shape.dtype,
            "arms": list(self.arms),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Point:
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
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a plan file") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}; give a plan file ({SCHEMA})") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path}: the schema is {schema!r}, not '{SCHEMA}'")
    entries = data.get("shapes")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: 'shapes' is empty or missing; a plan lists at least one shape")
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


def _entry(entry: Any, where: str) -> tuple[Point, int]:
    """Return one entry of a plan file as a point and its world size."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: not an object with tokens, hidden_dim, world_size, ...")
    numbers = {}
    for key in ("tokens", "hidden_dim", "world_size"):
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{where}: {key} is {value!r}; it must be a whole number, 1 or more")
        numbers[key] = value
    op, dtype = entry.get("op", FUSED), entry.get("dtype", "bf16")
    if op not in (FUSED, SEPARATE):
        raise InputError(f"{where}: op is {op!r}; live back ends run {FUSED} and {SEPARATE}")
    if not isinstance(dtype, str):
        raise InputError(f"{where}: dtype is {dtype!r}; a name such as 'bf16' is wanted")
    if op == SEPARATE:
        arms: Any = [SEPARATE_ARM]
    elif entry.get("algorithm"):
        arms = [entry["algorithm"]]
    else:
        arms = entry.get("arms", list(DEFAULT_ARMS))
    if not isinstance(arms, list) or not all(isinstance(arm, str) for arm in arms):
        raise InputError(f"{where}: arms is {arms!r}; a list of names is wanted")
    try:
        Shapes.of(numbers["tokens"], numbers["hidden_dim"], numbers["world_size"], dtype=dtype)
        shape = LiveShape(numbers["tokens"], numbers["hidden_dim"], dtype)
        return Point(shape, check_arms(arms)), numbers["world_size"]
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
