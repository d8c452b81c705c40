"""Conditions on a call, one thing each: the parts that dispatch rules are made of.

A condition is a pure function of what every rank knows alike: the input's shape and dtype, the
number of ranks, whether they are fully connected, and the kernel version. So ranks that evaluate
the same condition can never disagree.

=======================  ==========================================================  ==========
class                    JSON                                                        example
=======================  ==========================================================  ==========
:class:`Compare`         ``{"tokens": ["<=", 80]}``                                  vLLM
:class:`Member`          ``{"hidden_dim": ["in", [2880, 4096]]}``                    SGLang
:class:`MultipleOf`      ``{"packs": ["multiple of", 64]}``                          AITER
:class:`WholePacks`      ``{"whole_packs": true}``                                   vLLM
:class:`WholeParts`      ``{"whole_parts": true}``                                   AITER
:class:`OnFullMesh`        ``{"full_mesh": true}``                                     vLLM
:class:`KernelVersion`   ``{"kernel_version": [">=", "0.1.12"]}``                    AITER
:class:`Always`          ``{"always": true}`` (``false``: never)                     baselines
=======================  ==========================================================  ==========

:mod:`.algebra` joins them: all of, any of, one for each world size.
"""

# ruff: noqa: D102 - the methods of every kind are documented once, in Condition.

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..data.kernels import parse_version
from ..errors import InputError, nearest
from ..model.shape import WORLD_SIZES, Shapes
from ..units import ELEMENT_BYTES, KIB, MIB, PACK_BYTES, element_bytes

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

#: How JSON says the two kinds of :class:`MultipleOf`.
MULTIPLE, NO_MULTIPLE = "multiple of", "no multiple of"

#: No number of a rule is larger: far above any size, and a whole number of 64 bits.
LARGEST = 1 << 52

#: Whole numbers that a :class:`Compare` may look at. ``elements`` is tokens x hidden_dim,
#: ``row_bytes`` the bytes of one token, ``packs`` the whole 16-byte packs in them.
QUANTITIES = ("bytes", "tokens", "hidden_dim", "elements", "row_bytes", "packs", "world_size")


class Calls(Struct, frozen=True):
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


class Condition(Struct, frozen=True):
    """A condition on a call; the tables of this module and of :mod:`.algebra` list the kinds."""

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
        """Return the condition as JSON data; :func:`.algebra.from_json` reads it back."""
        raise NotImplementedError

    def words(self) -> str:
        """Return the condition as a person says it, with units."""
        raise NotImplementedError

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """World sizes for which the condition makes a claim."""
        return WORLD_SIZES


class Always(Condition, frozen=True):
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


def check_number(value: object, quantity: str) -> int:
    """Return a rule's number; raise :class:`InputError` for what is not whole or beyond 2^52."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{quantity}: {str(value)[:40]!a} is not a whole number")
    if abs(int(value)) > LARGEST:
        raise InputError(f"{quantity}: a number beyond 2^52, which no call can have")
    return int(value)


class Compare(Condition, frozen=True):
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
        check_number(self.value, self.quantity)

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


class Member(Condition, frozen=True):
    """``hidden_dim``, ``world_size`` or ``dtype`` is (or, ``inside`` false, is not) of a set."""

    quantity: str
    values: tuple[int | str, ...]
    inside: bool = True

    def __post_init__(self) -> None:
        if self.quantity not in ("hidden_dim", "world_size", "dtype"):
            raise InputError(f"a rule cannot ask for a set of '{self.quantity}'")
        for value in self.values:
            if self.quantity != "dtype":
                check_number(value, self.quantity)
            elif not isinstance(value, str) or value not in ELEMENT_BYTES:
                raise InputError(f"a rule asks for dtype {str(value)[:40]!a}, which is none")

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


class MultipleOf(Condition, frozen=True):
    """A whole number of the call is (or, ``inside`` false, is not) a multiple of a constant."""

    quantity: str
    value: int
    inside: bool = True

    def __post_init__(self) -> None:
        if self.quantity not in ("bytes", "packs"):
            raise InputError(f"a rule cannot ask for multiples of '{self.quantity}'")
        if check_number(self.value, self.quantity) < 1:
            raise InputError(f"{self.quantity}: a multiple of {self.value}; give 1 or more")

    def holds(self, calls: Calls) -> Truth:
        return np.asarray((calls.quantity(self.quantity) % self.value == 0) == self.inside)

    def negated(self) -> Condition:
        return MultipleOf(self.quantity, self.value, not self.inside)

    def to_json(self) -> dict[str, Any]:
        return {self.quantity: [MULTIPLE if self.inside else NO_MULTIPLE, self.value]}

    def words(self) -> str:
        name = "hidden / pack" if self.quantity == "packs" else self.quantity
        return f"{name} {'a' if self.inside else 'no'} multiple of {self.value}"


class WholePacks(Condition, frozen=True):
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


class WholeParts(Condition, frozen=True):
    """The packs of a call divide among the ranks without a rest."""

    inside: bool = True

    def holds(self, calls: Calls) -> Truth:
        packs = calls.tokens * calls.quantity("packs")
        return np.asarray((packs % calls.world_size == 0) == self.inside)

    def negated(self) -> Condition:
        return WholeParts(not self.inside)

    def to_json(self) -> dict[str, Any]:
        return {"whole_parts": self.inside}

    def words(self) -> str:
        return f"tokens x hidden / pack {'a' if self.inside else 'no'} multiple of the ranks"


class OnFullMesh(Condition, frozen=True):
    """Every pair of ranks has a link of its own."""

    inside: bool = True

    def holds(self, calls: Calls) -> Truth:
        return np.full(calls.tokens.shape, calls.fully_connected == self.inside)

    def negated(self) -> Condition:
        return OnFullMesh(not self.inside)

    def to_json(self) -> dict[str, Any]:
        return {"full_mesh": self.inside}

    def words(self) -> str:
        return "full mesh" if self.inside else "no full mesh"


class KernelVersion(Condition, frozen=True):
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


def exact_size(size_bytes: int) -> str:
    """Return a size without rounding: ``448 KiB``, ``2.625 MiB``, ``458751 B``."""
    if size_bytes % 512:
        return f"{size_bytes} B"
    mib = size_bytes / MIB
    return f"{mib:g} MiB" if mib >= 1 and round(mib, 3) == mib else f"{size_bytes / KIB:g} KiB"
