"""Conditions on a call, the parts that dispatch rules are made of.

A condition is a pure function of what every rank knows alike: the input's shape and dtype, the
number of ranks, whether they are fully connected, and the kernel version. So ranks that evaluate
the same condition can never disagree.

=======================  ==========================================================  ==========
class                    JSON                                                        example
=======================  ==========================================================  ==========
:class:`Bytes`           ``{"bytes": ["<=", {"2": null, "4": 458752}]}``             SGLang
:class:`Compare`         ``{"tokens": ["<=", 80]}``                                  vLLM
:class:`Member`          ``{"hidden_dim": ["in", [2880, 4096]]}``                    SGLang
:class:`WholePacks`      ``{"whole_packs": true}``                                   vLLM
:class:`FullMesh`        ``{"full_mesh": true}``                                     vLLM
:class:`KernelVersion`   ``{"kernel_version": [">=", "0.1.12"]}``                    AITER
:class:`Always`          ``{"always": true}`` (``false``: never)                     baselines
:class:`All`, `AnyOf`    ``{"all": [...]}``, ``{"any": [...]}``                      MXFP4
:class:`ByWorldSize`     ``{"by_world_size": {"2": ..., "4": ...}}``                 mixtures
=======================  ==========================================================  ==========

``Bytes`` holds one cutoff per world size: ``null`` means every size, and a world size that is not
listed is one for which no claim is made. Build with :func:`all_of`, :func:`any_of` and
:func:`by_world_size`, which simplify.
"""

# ruff: noqa: D102 - the methods of every kind are documented once, in Condition.

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.kernels import parse_version
from ..errors import InputError, nearest
from ..model.shape import WORLD_SIZES, Shapes
from ..units import KIB, MIB, PACK_BYTES, element_bytes

Truth = NDArray[np.bool_]

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}

#: Whole numbers that a :class:`Compare` may look at. ``elements`` is tokens x hidden_dim,
#: ``row_bytes`` the bytes of one token, ``packs`` the whole 16-byte packs in them.
QUANTITIES = ("bytes", "tokens", "hidden_dim", "elements", "row_bytes", "packs", "world_size")


@dataclass(frozen=True)
class Calls:
    """What a rule may look at, for arrays of calls of one dtype.

    ``elements`` is kept apart from tokens x hidden_dim only so that a cutoff can be probed to one
    element; for every real call the two agree.
    """

    dtype: str
    tokens: NDArray[np.int64]
    hidden_dim: NDArray[np.int64]
    elements: NDArray[np.int64]
    world_size: NDArray[np.int64]
    kernel_version: str | None = None
    fully_connected: bool = True

    @classmethod
    def of(
        cls, shapes: Shapes, *, kernel_version: str | None = None, fully_connected: bool = True
    ) -> Calls:
        """Return the calls of ``shapes``; Instinct boxes of up to 8 GPUs are fully connected."""
        return cls(
            shapes.dtype,
            shapes.tokens,
            shapes.hidden_dim,
            shapes.tokens * shapes.hidden_dim,
            shapes.world_size,
            kernel_version,
            fully_connected,
        )

    def quantity(self, name: str) -> NDArray[np.int64]:
        """Return one of :data:`QUANTITIES`."""
        size = element_bytes(self.dtype)
        if name == "bytes":
            return self.elements * size
        if name == "row_bytes":
            return self.hidden_dim * size
        if name == "packs":
            return self.hidden_dim * size // PACK_BYTES
        values: NDArray[np.int64] = getattr(self, name)
        return values


class Condition:
    """A condition on a call; see the module's table for the kinds."""

    def holds(self, calls: Calls) -> Truth:
        """Return for which calls the condition holds, a bool array of their shape."""
        raise NotImplementedError

    def negated(self) -> Condition:
        """Return the opposite condition."""
        raise NotImplementedError

    def at(self, world_size: int) -> Condition:
        """Return what is left of the condition once the world size is known."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the condition as JSON data; :func:`from_json` reads it back."""
        raise NotImplementedError

    def words(self) -> str:
        """Return the condition as a person says it, with units."""
        raise NotImplementedError

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """World sizes for which the condition makes a claim."""
        return WORLD_SIZES


@dataclass(frozen=True)
class Always(Condition):
    """Holds for every call, or (``value`` false) for none."""

    value: bool = True

    def holds(self, calls: Calls) -> Truth:
        return np.full(calls.tokens.shape, self.value)

    def negated(self) -> Condition:
        return Always(not self.value)

    def to_json(self) -> dict[str, Any]:
        return {"always": self.value}

    def words(self) -> str:
        return "always" if self.value else "never"


@dataclass(frozen=True)
class Compare(Condition):
    """A whole number of the call compared with a constant."""

    quantity: str
    op: str
    value: int

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise InputError(
                f"unknown quantity '{self.quantity}' in a rule"
                f"{nearest(self.quantity, QUANTITIES)}; one of {', '.join(QUANTITIES)}"
            )
        if self.op not in OPERATORS:
            raise InputError(f"unknown comparison '{self.op}' in a rule; {' '.join(OPERATORS)}")

    def holds(self, calls: Calls) -> Truth:
        return np.asarray(OPERATORS[self.op](calls.quantity(self.quantity), self.value))

    def negated(self) -> Condition:
        return Compare(self.quantity, OPPOSITE[self.op], self.value)

    def at(self, world_size: int) -> Condition:
        if self.quantity != "world_size":
            return self
        return Always(bool(OPERATORS[self.op](world_size, self.value)))

    def to_json(self) -> dict[str, Any]:
        return {self.quantity: [self.op, self.value]}

    def words(self) -> str:
        if self.quantity == "world_size":
            return f"TP {self.op} {self.value}"
        names = {"hidden_dim": "hidden", "packs": "hidden / pack", "row_bytes": "bytes of a token"}
        sized = self.quantity in ("bytes", "row_bytes")
        value = exact_size(self.value) if sized else str(self.value)
        return f"{names.get(self.quantity, self.quantity)} {self.op} {value}"


@dataclass(frozen=True)
class Member(Condition):
    """``hidden_dim``, ``world_size`` or ``dtype`` is (or, ``inside`` false, is not) of a set."""

    quantity: str
    values: tuple[int | str, ...]
    inside: bool = True

    def __post_init__(self) -> None:
        if self.quantity not in ("hidden_dim", "world_size", "dtype"):
            raise InputError(f"a rule cannot ask for a set of '{self.quantity}'")

    def holds(self, calls: Calls) -> Truth:
        if self.quantity == "dtype":
            return np.full(calls.tokens.shape, (calls.dtype in self.values) == self.inside)
        return np.asarray(
            np.isin(calls.quantity(self.quantity), self.values, invert=not self.inside)
        )

    def negated(self) -> Condition:
        return Member(self.quantity, self.values, not self.inside)

    def at(self, world_size: int) -> Condition:
        if self.quantity != "world_size":
            return self
        return Always((world_size in self.values) == self.inside)

    def to_json(self) -> dict[str, Any]:
        return {self.quantity: ["in" if self.inside else "not in", list(self.values)]}

    def words(self) -> str:
        relation = "in" if self.inside else "not in"
        if self.quantity == "world_size":
            return f"TP {relation} {{{', '.join(map(str, self.values))}}}"
        if self.quantity == "dtype" and self.inside and set(self.values) == {"bf16", "fp16"}:
            return "16-bit dtype"
        name = "hidden" if self.quantity == "hidden_dim" else "dtype"
        return f"{name} {relation} {{{', '.join(map(str, self.values))}}}"


@dataclass(frozen=True)
class Bytes(Condition):
    """Input bytes on one rank compared with a cutoff per world size.

    ``op`` is ``<`` or ``<=``; a cutoff of None takes every size. A world size that is absent has
    no claim: evaluating the condition there raises :class:`InputError`.
    """

    op: str
    cutoffs: tuple[tuple[int, int | None], ...]

    def __post_init__(self) -> None:
        if self.op not in ("<", "<="):
            raise InputError(f"a byte cutoff compares with < or <=, not '{self.op}'")
        for world_size, cutoff in self.cutoffs:
            if world_size not in WORLD_SIZES:
                raise InputError(f"a byte cutoff for world size {world_size}: know 2, 4 and 8")
            if cutoff is not None and cutoff < 0:
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
            raise _no_claim(int(calls.world_size[unclaimed].flat[0]), self.world_sizes)
        return np.asarray(every | OPERATORS[self.op](calls.quantity("bytes"), limit))

    def negated(self) -> Condition:
        return by_world_size({n: self.at(n).negated() for n in self.world_sizes})

    def at(self, world_size: int) -> Condition:
        for n, cutoff in self.cutoffs:
            if n == world_size:
                return Always() if cutoff is None else Compare("bytes", self.op, cutoff)
        raise _no_claim(world_size, self.world_sizes)

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


@dataclass(frozen=True)
class WholePacks(Condition):
    """A row is a whole number of 16-byte packs."""

    inside: bool = True

    def holds(self, calls: Calls) -> Truth:
        return np.asarray((calls.quantity("row_bytes") % PACK_BYTES == 0) == self.inside)

    def negated(self) -> Condition:
        return WholePacks(not self.inside)

    def to_json(self) -> dict[str, Any]:
        return {"whole_packs": self.inside}

    def words(self) -> str:
        return f"hidden % pack {'==' if self.inside else '!='} 0"


@dataclass(frozen=True)
class FullMesh(Condition):
    """Every pair of ranks has a link of its own."""

    inside: bool = True

    def holds(self, calls: Calls) -> Truth:
        return np.full(calls.tokens.shape, calls.fully_connected == self.inside)

    def negated(self) -> Condition:
        return FullMesh(not self.inside)

    def to_json(self) -> dict[str, Any]:
        return {"full_mesh": self.inside}

    def words(self) -> str:
        return "full mesh" if self.inside else "no full mesh"


@dataclass(frozen=True)
class KernelVersion(Condition):
    """The AITER release compared with another."""

    op: str
    version: str

    def __post_init__(self) -> None:
        parse_version(self.version)
        if self.op not in OPERATORS:
            raise InputError(f"unknown comparison '{self.op}' in a rule; {' '.join(OPERATORS)}")

    def holds(self, calls: Calls) -> Truth:
        if calls.kernel_version is None:
            raise InputError(
                f"this rule depends on the AITER version ({self.words()}); say which one"
            )
        true = OPERATORS[self.op](parse_version(calls.kernel_version), parse_version(self.version))
        return np.full(calls.tokens.shape, true)

    def negated(self) -> Condition:
        return KernelVersion(OPPOSITE[self.op], self.version)

    def to_json(self) -> dict[str, Any]:
        return {"kernel_version": [self.op, self.version]}

    def words(self) -> str:
        return f"AITER {self.op} {self.version}"


@dataclass(frozen=True)
class All(Condition):
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


@dataclass(frozen=True)
class AnyOf(Condition):
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
            f"({' and '.join(q.words() for q in p.parts)})" if isinstance(p, All) else p.words()
            for p in self.parts
        )

    @property
    def world_sizes(self) -> tuple[int, ...]:
        return _common(self.parts)


@dataclass(frozen=True)
class ByWorldSize(Condition):
    """A condition of its own for each world size; an absent one has no claim."""

    cases: tuple[tuple[int, Condition], ...]

    @property
    def world_sizes(self) -> tuple[int, ...]:
        return tuple(n for n, _ in self.cases)

    def holds(self, calls: Calls) -> Truth:
        known = np.isin(calls.world_size, self.world_sizes)
        if not known.all():
            raise _no_claim(int(calls.world_size[~known].flat[0]), self.world_sizes)
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
        raise _no_claim(world_size, self.world_sizes)

    def to_json(self) -> dict[str, Any]:
        return {"by_world_size": {str(n): c.to_json() for n, c in self.cases}}

    def words(self) -> str:
        between = ", " if all(len(factors(c)) < 2 for _, c in self.cases) else "; "
        return between.join(
            f"TP{n} {' and '.join(_bracketed(p) for p in factors(c)) or 'always'}"
            for n, c in self.cases
        )


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


def by_world_size(cases: Mapping[int, Condition]) -> Condition:
    """Join conditions that hold at one world size each into the plainest single one.

    Factors common to all come first; byte comparisons with one operator become :class:`Bytes`;
    a factor of some world sizes only is guarded by them. Falls back to :class:`ByWorldSize`.
    """
    here = {n: c.at(n) for n, c in sorted(cases.items())}
    sizes = tuple(here)
    split = {n: [f for f in factors(c) if not _is_bytes(f)] for n, c in here.items()}
    sized = {n: [f for f in factors(c) if _is_bytes(f)] for n, c in here.items()}
    operators = {f.op for found in sized.values() for f in found if isinstance(f, Compare)}
    plain = not any(Always(False) in found for found in split.values())
    if not plain or any(len(found) > 1 for found in sized.values()):
        different = len(set(here.values())) > 1 or sizes != WORLD_SIZES
        return ByWorldSize(tuple(here.items())) if different else next(iter(here.values()))
    parts: list[Condition] = []
    if len(operators) > 1:
        parts.append(ByWorldSize(tuple((n, all_of(*found)) for n, found in sized.items())))
    elif operators or sizes != WORLD_SIZES:
        cutoffs = {n: found[0] if found else None for n, found in sized.items()}
        limits = {n: f.value if isinstance(f, Compare) else None for n, f in cutoffs.items()}
        parts.append(Bytes.of(limits, next(iter(operators), "<=")))
    for factor in dict.fromkeys(f for found in split.values() for f in found):
        where = tuple(n for n in sizes if factor in split[n])
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


def parts_of(condition: Condition) -> Iterator[Condition]:
    """Yield the condition and every part of it, at any depth."""
    yield condition
    inner = condition.parts if isinstance(condition, All | AnyOf) else ()
    if isinstance(condition, ByWorldSize):
        inner = tuple(c for _, c in condition.cases)
    for part in inner:
        yield from parts_of(part)


def from_json(data: Any, where: str = "rule") -> Condition:
    """Read a condition from JSON data; raise :class:`InputError` that names ``where``."""
    try:
        return _from_json(data)
    except (InputError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{where}: not a rule's condition: {error}") from None


def _from_json(data: Any) -> Condition:
    if not isinstance(data, dict) or len(data) != 1:
        raise InputError(f"expected an object with one key, got {str(data)[:60]}")
    ((key, value),) = data.items()
    if key in ("always", "whole_packs", "full_mesh"):
        if not isinstance(value, bool):
            raise InputError(f"'{key}' is {value!r}; true or false")
        return {"always": Always, "whole_packs": WholePacks, "full_mesh": FullMesh}[key](value)
    if key in ("all", "any"):
        parts = [_from_json(part) for part in value]
        return all_of(*parts) if key == "all" else any_of(*parts)
    if key == "by_world_size":
        return ByWorldSize(tuple((int(n), _from_json(c)) for n, c in sorted(value.items())))
    if key == "kernel_version":
        return KernelVersion(str(value[0]), str(value[1]))
    if key in (*QUANTITIES, "dtype"):
        op, operand = value
        if key == "bytes" and isinstance(operand, dict):
            cutoffs = {int(n): None if c is None else int(c) for n, c in operand.items()}
            return Bytes.of(cutoffs, op)
        if op in ("in", "not in"):
            return Member(key, tuple(operand), op == "in")
        return Compare(key, op, int(operand))
    raise InputError(f"unknown condition '{key}'")


def exact_size(size_bytes: int) -> str:
    """Return a size without rounding: ``448 KiB``, ``2.625 MiB``, ``458751 B``."""
    if size_bytes % 512:
        return f"{size_bytes} B"
    mib = size_bytes / MIB
    return f"{mib:g} MiB" if mib >= 1 and round(mib, 3) == mib else f"{size_bytes / KIB:g} KiB"


def _implies(one: Condition, other: Condition) -> bool:
    """Tell whether one comparison is a tighter one of the same kind."""
    if not isinstance(one, Compare) or not isinstance(other, Compare):
        return False
    if (one.quantity, one.op) != (other.quantity, other.op):
        return False
    tighter = {"<": one.value < other.value, "<=": one.value < other.value}
    return tighter.get(one.op, one.op in (">", ">=") and one.value > other.value)


def _given(factor: Condition, others: Iterable[Condition]) -> Condition:
    """Return what a disjunction still asks once the other factors of a conjunction hold."""
    if not isinstance(factor, AnyOf):
        return factor
    if any(term in others for term in factor.parts):
        return Always()
    return any_of(*(t for t in factor.parts if t.negated() not in others))


def _is_bytes(condition: Condition) -> bool:
    return (
        isinstance(condition, Compare)
        and condition.quantity == "bytes"
        and condition.op in ("<", "<=")
    )


def _bracketed(condition: Condition) -> str:
    words = condition.words()
    return f"({words})" if isinstance(condition, AnyOf) else words


def _bytes_first(parts: tuple[Condition, ...]) -> list[Condition]:
    return sorted(parts, key=lambda p: not (isinstance(p, Bytes | ByWorldSize) or _is_bytes(p)))


def _common(parts: Iterable[Condition]) -> tuple[int, ...]:
    claimed = [set(p.world_sizes) for p in parts]
    return tuple(n for n in WORLD_SIZES if all(n in c for c in claimed))


def _no_claim(world_size: int, claimed: tuple[int, ...]) -> InputError:
    known = ", ".join(f"TP{n}" for n in claimed) or "none"
    return InputError(f"the rule makes no claim for TP{world_size} (it has: {known})")
