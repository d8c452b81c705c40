"""Conditions joined: all of, any of, one for each world size; simplified, and read from JSON.

===================  ==================================================================
class                JSON
===================  ==================================================================
:class:`All`         ``{"all": [...]}``
:class:`AnyOf`       ``{"any": [...]}``
:class:`Bytes`       ``{"bytes": ["<=", {"2": null, "4": 458752}]}``
:class:`ByWorldSize` ``{"by_world_size": {"2": ..., "4": ...}}``
===================  ==================================================================

``Bytes`` holds one cutoff per world size: ``null`` means every size, and a world size that is not
listed is one for which no claim is made. Build with :func:`all_of`, :func:`any_of` and
:func:`by_world_size`, which simplify.
"""

# ruff: noqa: D102 - the methods of every kind are documented once, in Condition.

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from msgspec import UNSET

from ..data.kernels import parse_version
from ..errors import InputError
from ..model.shape import WORLD_SIZES
from .condition import (
    MULTIPLE,
    NO_MULTIPLE,
    OPERATORS,
    Always,
    Calls,
    Compare,
    Condition,
    KernelVersion,
    Member,
    MultipleOf,
    OnFullMesh,
    Truth,
    WholePacks,
    WholeParts,
    check_number,
    exact_size,
)
from .schemas import ConditionRecord


class All(Condition, frozen=True):
    """Every part holds."""

    parts: tuple[Condition, ...]

    def holds(self, calls: Calls) -> Truth:
        return np.logical_and.reduce([p.holds(calls) for p in self.parts])

    def negated(self) -> Condition:
        return any_of(*(p.negated() for p in self.parts))

    def at(self, world_size: int) -> Condition:
        return all_of(*(p.at(world_size) for p in self.parts))

    def to_json(self) -> dict[str, Any]:
        return {"all": [p.to_json() for p in self.parts]}

    def words(self) -> str:
        return "; ".join(p.words() for p in _bytes_first(self.parts))

    @property
    def world_sizes(self) -> tuple[int, ...]:
        return _common(self.parts)


class AnyOf(Condition, frozen=True):
    """At least one part holds."""

    parts: tuple[Condition, ...]

    def holds(self, calls: Calls) -> Truth:
        return np.logical_or.reduce([p.holds(calls) for p in self.parts])

    def negated(self) -> Condition:
        return all_of(*(p.negated() for p in self.parts))

    def at(self, world_size: int) -> Condition:
        return any_of(*(p.at(world_size) for p in self.parts))

    def to_json(self) -> dict[str, Any]:
        return {"any": [p.to_json() for p in self.parts]}

    def words(self) -> str:
        first = self.parts[0]
        exempt = first.quantity == "world_size" if isinstance(first, Member) else False
        if exempt:
            names = ", ".join(f"TP{n}" for n in WORLD_SIZES if first.at(n) == Always(False))
            if len(self.parts) == 2:
                return f"{names} {self.parts[1].words()}"
            if not any(isinstance(p, All | AnyOf) for p in self.parts):
                refused = " and ".join(p.negated().words() for p in self.parts[1:])
                return f"{names} not where {refused}"
        return " or ".join(
            f"({' and '.join(map(_bracketed, p.parts))})" if isinstance(p, All) else p.words()
            for p in self.parts
        )

    @property
    def world_sizes(self) -> tuple[int, ...]:
        return _common(self.parts)


class ByWorldSize(Condition, frozen=True):
    """A condition of its own for each world size; an absent one has no claim."""

    cases: tuple[tuple[int, Condition], ...]

    @property
    def world_sizes(self) -> tuple[int, ...]:
        return tuple(n for n, _ in self.cases)

    def holds(self, calls: Calls) -> Truth:
        known = np.isin(calls.world_size, self.world_sizes)
        if not known.all():
            raise no_claim(int(calls.world_size[~known].flat[0]), self.world_sizes)
        out = np.zeros(calls.tokens.shape, np.bool_)
        for n, condition in self.cases:
            out |= (calls.world_size == n) & condition.holds(calls)
        return out

    def negated(self) -> Condition:
        return by_world_size({n: c.negated() for n, c in self.cases})

    def at(self, world_size: int) -> Condition:
        for n, condition in self.cases:
            if n == world_size:
                return condition.at(n)
        raise no_claim(world_size, self.world_sizes)

    def to_json(self) -> dict[str, Any]:
        return {"by_world_size": {str(n): c.to_json() for n, c in self.cases}}

    def words(self) -> str:
        between = ", " if all(len(factors(c)) < 2 for _, c in self.cases) else "; "
        return between.join(
            f"TP{n} {' and '.join(_bracketed(p) for p in factors(c)) or 'always'}"
            for n, c in self.cases
        )


class Bytes(Condition, frozen=True):
    """Input bytes on one rank compared with a cutoff per world size.

    ``op`` is ``<`` or ``<=``; a cutoff of None takes every size. A world size that is absent has
    no claim: evaluating the condition there raises :class:`InputError`.
    """

    op: str
    cutoffs: tuple[tuple[int, int | None], ...]

    def __post_init__(self) -> None:
        if self.op not in ("<", "<="):
            raise InputError(f"a byte cutoff compares with < or <=, not '{self.op}'")
        if not self.cutoffs:
            raise InputError("byte cutoffs without a world size; give those of 2, 4 or 8 ranks")
        for world_size, cutoff in self.cutoffs:
            if check_number(world_size, "world_size") not in WORLD_SIZES:
                raise InputError(f"a byte cutoff for world size {world_size}: know 2, 4 and 8")
            if cutoff is not None and check_number(cutoff, "bytes") < 0:
                raise InputError(f"the byte cutoff of TP{world_size} is {cutoff}; 0 or more")

    @classmethod
    def of(cls, cutoffs: Mapping[int, int | None], op: str = "<=") -> Bytes:
        """Build from a mapping of world size to cutoff in bytes."""
        return cls(op, tuple(sorted(cutoffs.items())))

    @property
    def world_sizes(self) -> tuple[int, ...]:
        return tuple(n for n, _ in self.cutoffs)

    def holds(self, calls: Calls) -> Truth:
        limit = np.full(calls.world_size.shape, -1, np.int64)
        every = np.zeros(calls.world_size.shape, np.bool_)
        for world_size, cutoff in self.cutoffs:
            here = calls.world_size == world_size
            if cutoff is None:
                every |= here
            else:
                limit = np.where(here, cutoff, limit)
        unclaimed = (limit < 0) & ~every
        if unclaimed.any():
            raise no_claim(int(calls.world_size[unclaimed].flat[0]), self.world_sizes)
        return np.asarray(every | OPERATORS[self.op](calls.quantity("bytes"), limit))

    def negated(self) -> Condition:
        return by_world_size({n: self.at(n).negated() for n in self.world_sizes})

    def at(self, world_size: int) -> Condition:
        for n, cutoff in self.cutoffs:
            if n == world_size:
                return Always() if cutoff is None else Compare("bytes", self.op, cutoff)
        raise no_claim(world_size, self.world_sizes)

    def to_json(self) -> dict[str, Any]:
        return {"bytes": [self.op, {str(n): cutoff for n, cutoff in self.cutoffs}]}

    def words(self) -> str:
        values = {cutoff for _, cutoff in self.cutoffs}
        if len(values) == 1 and self.world_sizes == WORLD_SIZES:
            (value,) = values
            return "always" if value is None else f"bytes {self.op} {exact_size(value)}"
        parts = [
            f"TP{n} always" if cutoff is None else f"TP{n} bytes {self.op} {exact_size(cutoff)}"
            for n, cutoff in self.cutoffs
        ]
        return ", ".join(parts)


def all_of(*parts: Condition) -> Condition:
    """Return the conjunction, flattened, without repetitions and constants."""
    flat: dict[Condition, None] = {}
    for part in parts:
        for factor in factors(part):
            if factor == Always(False):
                return factor
            flat.setdefault(factor)
    if any(f.negated() in flat for f in flat if not isinstance(f, AnyOf)):
        return Always(False)
    flat = {f: None for f in flat if not any(_implies(g, f) for g in flat if g != f)}
    kept = [g for g in (_given(f, flat) for f in flat) if g != Always()]
    if not kept:
        return Always()
    if Always(False) in kept:
        return Always(False)
    return kept[0] if len(kept) == 1 else All(tuple(kept))


def any_of(*parts: Condition) -> Condition:
    """Return the disjunction, flattened, without repetitions and constants."""
    flat: dict[Condition, None] = {}
    for part in parts:
        for term in part.parts if isinstance(part, AnyOf) else (part,):
            if term == Always():
                return term
            if term != Always(False):
                flat.setdefault(term)
    if not flat:
        return Always(False)
    return next(iter(flat)) if len(flat) == 1 else AnyOf(tuple(flat))


def factors(condition: Condition) -> tuple[Condition, ...]:
    """Return the parts of a conjunction (the condition itself when it is not one)."""
    if condition == Always():
        return ()
    return condition.parts if isinstance(condition, All) else (condition,)


def is_byte_limit(condition: Condition) -> bool:
    """Tell whether a condition is ``bytes < cutoff`` or ``bytes <= cutoff``."""
    return (
        isinstance(condition, Compare)
        and condition.quantity == "bytes"
        and condition.op in ("<", "<=")
    )


def byte_limit(condition: Condition) -> Compare | None:
    """Return the byte limit among a condition's factors at one world size, or None."""
    for factor in factors(condition):
        if isinstance(factor, Compare) and is_byte_limit(factor):
            return factor
    return None


def by_world_size(cases: Mapping[int, Condition]) -> Condition:
    """Join conditions that hold at one world size each into the plainest single one.

    Factors common to all come first; byte comparisons with one operator become :class:`Bytes`;
    a factor of some world sizes only is guarded by them. Falls back to :class:`ByWorldSize`.
    """
    here = {n: c.at(n) for n, c in sorted(cases.items())}
    sizes = tuple(here)
    limits = {n: [f for f in factors(c) if is_byte_limit(f)] for n, c in here.items()}
    others = {n: [f for f in factors(c) if not is_byte_limit(f)] for n, c in here.items()}
    never = any(Always(False) in rest for rest in others.values())
    if never or any(len(several) > 1 for several in limits.values()):
        different = len(set(here.values())) > 1 or sizes != WORLD_SIZES
        return ByWorldSize(tuple(here.items())) if different else next(iter(here.values()))
    one = {n: byte_limit(c) for n, c in here.items()}
    operators = {f.op for f in one.values() if f is not None}
    parts: list[Condition] = []
    if len(operators) > 1:
        parts.append(ByWorldSize(tuple((n, f or Always()) for n, f in one.items())))
    elif operators or sizes != WORLD_SIZES:
        cutoffs = {n: None if f is None else f.value for n, f in one.items()}
        parts.append(Bytes.of(cutoffs, next(iter(operators), "<=")))
    for factor in dict.fromkeys(f for rest in others.values() for f in rest):
        where = tuple(n for n in sizes if factor in others[n])
        if where == sizes:
            parts.append(factor)
        else:
            parts.append(any_of(Member("world_size", where, inside=False), factor))
    return all_of(*parts)


def with_version(condition: Condition, version: str) -> Condition:
    """Return the condition with what it asks of the AITER version decided."""
    if isinstance(condition, KernelVersion):
        known = OPERATORS[condition.op](parse_version(version), parse_version(condition.version))
        return Always(bool(known))
    if isinstance(condition, All):
        return all_of(*(with_version(p, version) for p in condition.parts))
    if isinstance(condition, AnyOf):
        return any_of(*(with_version(p, version) for p in condition.parts))
    if isinstance(condition, ByWorldSize):
        return ByWorldSize(tuple((n, with_version(c, version)) for n, c in condition.cases))
    return condition


def asks_for_mesh(condition: Condition) -> bool:
    """Tell whether any part of the condition looks at how the ranks are connected."""
    return any(isinstance(part, OnFullMesh) for part in parts_of(condition))


def on_full_mesh(condition: Condition) -> Condition:
    """Return the condition with a full mesh taken as given."""
    return by_world_size({n: _given_mesh(condition.at(n)) for n in WORLD_SIZES})


def _given_mesh(condition: Condition) -> Condition:
    if isinstance(condition, OnFullMesh):
        return Always(condition.inside)
    if isinstance(condition, All | AnyOf):
        join = all_of if isinstance(condition, All) else any_of
        return join(*(_given_mesh(part) for part in condition.parts))
    return condition


def parts_of(condition: Condition) -> Iterator[Condition]:
    """Yield the condition and every part of it, at any depth."""
    yield condition
    inner = condition.parts if isinstance(condition, All | AnyOf) else ()
    if isinstance(condition, ByWorldSize):
        inner = tuple(c for _, c in condition.cases)
    for part in inner:
        yield from parts_of(part)


def from_json(record: ConditionRecord) -> Condition:
    """Return the condition that a record states; raise :class:`InputError` where it states none."""
    given = [(k, v) for k in record.__struct_fields__ if (v := getattr(record, k)) is not UNSET]
    if len(given) != 1:
        keys = ", ".join(key for key, _ in given) or "none"
        raise InputError(f"a condition has exactly one key, this one has {keys}")
    ((key, value),) = given
    if isinstance(value, bool):
        kinds = {"whole_packs": WholePacks, "whole_parts": WholeParts, "full_mesh": OnFullMesh}
        return kinds.get(key, Always)(value)
    if key in ("all", "any"):
        return (all_of if key == "all" else any_of)(*map(from_json, value))
    if key == "by_world_size":
        return ByWorldSize(tuple((n, from_json(c)) for n, c in sorted(value.items())))
    op, operand = value
    if key == "kernel_version":
        return KernelVersion(op, operand)
    if isinstance(operand, dict):
        return Bytes.of(operand, op)
    if op in (MULTIPLE, NO_MULTIPLE) and isinstance(operand, int):
        return MultipleOf(key, operand, op == MULTIPLE)
    if (op in ("in", "not in")) != isinstance(operand, list):
        raise InputError(f"{key}: 'in' and 'not in' go with a list, other comparisons do not")
    if isinstance(operand, list):
        return Member(key, tuple(operand), op == "in")
    return Compare(key, op, operand)


def _implies(one: Condition, other: Condition) -> bool:
    """Tell whether one comparison is a tighter one of the same kind."""
    if not isinstance(one, Compare) or not isinstance(other, Compare):
        return False
    if (one.quantity, one.op) != (other.quantity, other.op):
        return False
    tighter = {"<": one.value < other.value, "<=": one.value < other.value}
    return tighter.get(one.op, one.op in (">", ">=") and one.value > other.value)


def _given(factor: Condition, others: Container[Condition]) -> Condition:
    """Return what a disjunction still asks once the other factors of a conjunction hold."""
    if not isinstance(factor, AnyOf):
        return factor
    if any(all(part in others for part in factors(term)) for term in factor.parts):
        return Always()
    return any_of(*(t for t in factor.parts if t.negated() not in others))


def _bracketed(condition: Condition) -> str:
    words = condition.words()
    return f"({words})" if isinstance(condition, AnyOf) else words


def _bytes_first(parts: tuple[Condition, ...]) -> list[Condition]:
    return sorted(parts, key=lambda p: not (isinstance(p, Bytes | ByWorldSize) or is_byte_limit(p)))


def _common(parts: Iterable[Condition]) -> tuple[int, ...]:
    claimed = [set(p.world_sizes) for p in parts]
    return tuple(n for n in WORLD_SIZES if all(n in c for c in claimed))


def no_claim(world_size: int, claimed: tuple[int, ...]) -> InputError:
    """Return the error of a world size for which a rule makes no claim."""
    known = ", ".join(f"TP{n}" for n in claimed) or "none"
    return InputError(f"the rule makes no claim for TP{world_size} (it has: {known})")
