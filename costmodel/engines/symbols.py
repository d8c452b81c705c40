"""What an expression of an engine's source can be: the symbols that :mod:`.evaluation` uses.

A size is a monomial in tokens M, hidden_dim H and element size E: ``numel()`` is M H,
``numel() * element_size()`` is M H E, ``16 // element_size()`` is 16 / E. So a comparison is known
to be one of bytes, elements, tokens or packs by its powers, whatever the variable is called.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from fractions import Fraction
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..rules.condition import OPERATORS, Always, Compare, Condition, Member, WholePacks
from ..units import ELEMENT_BYTES, PACK_BYTES

#: Powers of (M, H, E) that a rule knows by a name.
_NAMES = {
    (1, 0, 0): "tokens",
    (0, 1, 0): "hidden_dim",
    (1, 1, 0): "elements",
    (1, 1, 1): "bytes",
    (0, 1, 1): "row_bytes",
}
_TORCH_DTYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
}


class Unknown(Struct, frozen=True):
    """A value that shape and ranks do not determine; ``env`` names the setting it comes from."""

    text: str
    env: str = ""


class Nothing(Struct, frozen=True):
    """None; ``env`` names the unset variable it came from."""

    env: str = ""


class Text(Struct, frozen=True):
    """A string; ``env`` names the variable that it was read from."""

    value: str
    env: str = ""


class Tensor(Struct, frozen=True):
    """The input tensor."""


class TensorShape(Struct, frozen=True):
    """The input's shape, (M, H)."""


class TensorDtype(Struct, frozen=True):
    """The input's dtype."""


class DtypeName(Struct, frozen=True):
    """A dtype of torch, by the name that rules use."""

    name: str


class Items(Struct, frozen=True):
    """A tuple, list or set."""

    values: tuple[Symbol, ...]


class Mapping(Struct, frozen=True):
    """A dictionary with constant keys."""

    items: tuple[tuple[Symbol, Symbol], ...]


class Routine(Struct, frozen=True):
    """A function or lambda; ``local`` tells that it stands inside the function that is followed."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    local: bool


class Number(Struct, frozen=True):
    """A constant. ``names`` are those it went by; ``kilo`` is 1 for a name in KB, 2 in MB.

    ``env`` names the variable that it was read from.
    """

    value: Fraction | float
    names: frozenset[str] = frozenset()
    kilo: int = 0
    env: str = ""


class Size(Struct, frozen=True):
    """``factor`` x M^a H^b E^c with ``powers`` (a, b, c), rounded down if ``floored``."""

    powers: tuple[int, int, int]
    factor: Fraction = Fraction(1)
    floored: bool = False
    names: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Quantity of :mod:`costmodel.rules.condition`, or "" when it is none of them."""
        return _NAMES.get(self.powers, "")


class Remainder(Struct, frozen=True):
    """A size modulo a constant."""

    powers: tuple[int, int, int]
    modulus: Fraction


Symbol = (
    Unknown
    | Nothing
    | Text
    | Tensor
    | TensorShape
    | TensorDtype
    | DtypeName
    | Items
    | Mapping
    | Routine
    | Number
    | Size
    | Remainder
    | Condition
)

TOKENS = Size((1, 0, 0))
HIDDEN = Size((0, 1, 0))
ELEMENTS = Size((1, 1, 0))
ELEMENT_SIZE = Size((0, 0, 1))
BYTES = Size((1, 1, 1))

#: Numbers beyond this are not worked out; no limit of an engine comes near.
_HUGE = 2**512

#: A limit from here on is none: no tensor has as many bytes.
UNLIMITED = 2**60

#: Tables inside tables are read up to this many levels.
MAX_DEPTH = 4

_ARITHMETIC = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


def number(value: float, *names: str) -> Number:
    """Return a constant; a whole number that nothing reaches is infinite."""
    if isinstance(value, int) and abs(value) > _HUGE:
        value = math.copysign(math.inf, value > 0 or -1)
    exact = value if isinstance(value, float) and not math.isfinite(value) else Fraction(value)
    return Number(exact, frozenset(names))


def torch_dtype(name: str) -> DtypeName | None:
    """Return torch's dtype of that attribute name, or None when it is not one."""
    if name in _TORCH_DTYPES:
        return DtypeName(_TORCH_DTYPES[name])
    return DtypeName(name) if re.fullmatch(r"(float|u?int|bfloat)\d\w*", name) else None


def called(value: Symbol, name: str) -> Symbol:
    """Return the value as held by a variable called ``name``."""
    if isinstance(value, Number):
        kilo = max(value.kilo, kilo_of(name))
        return replace(value, names=value.names | {name}, kilo=kilo)
    if isinstance(value, Size):
        return replace(value, names=value.names | {name})
    return value


def kilo_of(name: str) -> int:
    """Return how often a unit in a name takes 1024 bytes: 1 for ``_KB``, 2 for ``_MB``."""
    unit = re.search(r"(?:^|_)([km])i?b(?:ytes)?(?:_|$)", name, re.IGNORECASE)
    return 0 if not unit else {"k": 1, "m": 2}[unit[1].lower()]


def arithmetic(op: str, left: Symbol, right: Symbol) -> Symbol | None:
    """Return ``left op right``, or None when it is not a value this module knows."""
    if isinstance(left, Number) and isinstance(right, Number):
        return _of_numbers(op, left, right)
    if isinstance(left, Number) and isinstance(right, Size) and math.isfinite(left.value):
        left = Size((0, 0, 0), Fraction(left.value), names=left.names)
    if isinstance(right, Number) and isinstance(left, Size) and math.isfinite(right.value):
        right = Size((0, 0, 0), Fraction(right.value), names=right.names)
    if op in ("<<", ">>") and isinstance(right, Size) and right.powers == (0, 0, 0):
        op, right = _as_product(op, right)
    if not isinstance(left, Size) or not isinstance(right, Size) or not left.factor * right.factor:
        return None
    if op == "*" and not left.floored and not right.floored:
        return Size(_add(left.powers, right.powers), left.factor * right.factor)
    if op in ("/", "//") and not right.floored:
        powers = _add(left.powers, right.powers, -1)
        factor = left.factor / right.factor
        # M H // H and M H E // E are exact, and so is 16 // E; other divisions may round.
        exact = (factor == 1 and min(powers) >= 0) or (powers == (0, 0, -1) and factor % 4 == 0)
        rounds = op == "//" and not exact
        return Size(powers, factor, left.floored or rounds)
    if op == "%" and not left.floored and not right.floored:
        # H % (16 / E) == 0 exactly when H E % 16 == 0.
        powers = _add(left.powers, right.powers, -1)
        if min(powers) >= 0:
            return Remainder(powers, right.factor / left.factor)
    return None


def _as_product(op: str, by: Size) -> tuple[str, Size]:
    """Return a shift of a size as a multiplication or a division, as it is where it is neither."""
    if by.factor.denominator != 1 or not 0 <= by.factor <= 64:
        return op, by
    return "*" if op == "<<" else "//", Size((0, 0, 0), Fraction(2) ** int(by.factor))


def _of_numbers(op: str, left: Number, right: Number) -> Number | None:
    a: Any = left.value
    b: Any = right.value
    if op in ("<<", ">>", "**") and not _small(a, b):
        return None
    if op in ("<<", ">>"):
        b = Fraction(2) ** int(b)
        op = "*" if op == "<<" else "//"
    try:
        result = Fraction(a) ** int(b) if op == "**" else _ARITHMETIC[op](a, b)
        exact = result if isinstance(result, float) else Fraction(result)
    except (ArithmeticError, ValueError, KeyError):
        return None
    if isinstance(exact, Fraction) and max(abs(exact.numerator), exact.denominator) > _HUGE:
        return None
    kilo = max(left.kilo, right.kilo)
    if op == "*":
        plain = b if left.kilo else a
        kilo -= {1000: 1, 1024: 1, 10**6: 2, 2**20: 2}.get(plain, 0) if kilo else 0
    return Number(exact, left.names | right.names, max(kilo, 0), left.env or right.env)


def _small(base: Any, exponent: Any) -> bool:
    """Tell whether a power or a shift can be worked out: whole, and of few digits."""
    whole = math.isfinite(exponent) and exponent == int(exponent) and abs(exponent) <= 256
    return bool(whole and math.isfinite(base) and abs(base) < 2**64)


def comparison(op: str, left: Symbol, right: Symbol) -> Condition | None:
    """Return ``left op right`` as a condition, or None when it is not one this module knows."""
    if isinstance(left, Number) and isinstance(right, Number):
        return Always(bool(_TRUTH[op](left.value, right.value))) if op in _TRUTH else None
    if isinstance(left, Number) and isinstance(right, Size | Remainder):
        left, right, op = right, left, _MIRROR.get(op, op)
    if isinstance(left, Size) and isinstance(right, Number):
        return _size_against(op, left, right.value)
    if isinstance(left, Remainder) and isinstance(right, Number) and right.value == 0:
        whole = left.powers == (0, 1, 1) and left.modulus == PACK_BYTES
        return WholePacks(op == "==") if whole and op in ("==", "!=") else None
    if isinstance(left, TensorDtype) or isinstance(right, TensorDtype):
        other = right if isinstance(left, TensorDtype) else left
        if isinstance(other, DtypeName) and op in ("==", "!=", "is", "is not"):
            return Member("dtype", (other.name,), op in ("==", "is"))
        if isinstance(other, Items) and op in ("in", "not in"):
            names = tuple(v.name for v in other.values if isinstance(v, DtypeName))
            return Member("dtype", names, op == "in") if len(names) == len(other.values) else None
        return None
    if op in ("in", "not in") and isinstance(right, Items | Mapping):
        return _member(op, left, right)
    if op in ("is", "is not", "==", "!="):
        known = _same(left, right)
        if known is not None:
            return Always(known == (op in ("is", "==")))
    if isinstance(left, Text) and isinstance(right, Text) and op in ("==", "!=", "in", "not in"):
        same = left.value in right.value if "in" in op else left.value == right.value
        return Always(same == (op in ("==", "in")))
    return None


def truth(value: Symbol) -> Condition | None:
    """Return when a value counts as true, or None when that is not known."""
    if isinstance(value, Condition):
        return value
    if isinstance(value, Unknown):
        # Settings are read as an unset environment leaves them.
        return Always(False) if value.env else None
    if isinstance(value, Number):
        return Always(value.value != 0)
    if isinstance(value, Remainder):
        return comparison("!=", value, number(0))
    if isinstance(value, Nothing | Text):
        return Always(bool(getattr(value, "value", "")))
    return None


_MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_TRUTH = {**OPERATORS, "is": operator.eq, "is not": operator.ne}


def _same(left: Symbol, right: Symbol) -> bool | None:
    """Tell whether None, True or False is the other value; None where that is not known."""
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return None
    if isinstance(left, Nothing) or isinstance(right, Nothing):
        return isinstance(left, Nothing) and isinstance(right, Nothing)
    if isinstance(left, Always) and isinstance(right, Always):
        return left.value == right.value
    return None


def same_constant(left: Symbol, right: Symbol) -> bool:
    """Tell whether two constants are equal, wherever they came from."""
    for kind in (Number, Text, Always):
        if isinstance(left, kind) and isinstance(right, kind):
            return bool(left.value == right.value)
    return isinstance(left, Nothing) and isinstance(right, Nothing)


def _add(a: tuple[int, int, int], b: tuple[int, int, int], sign: int = 1) -> tuple[int, int, int]:
    return a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2]


def _member(op: str, left: Symbol, right: Items | Mapping) -> Condition | None:
    values = right.values if isinstance(right, Items) else tuple(k for k, _ in right.items)
    if isinstance(left, Number | Text | Nothing):
        known = all(isinstance(v, Number | Text | Nothing | Always) for v in values)
        inside = any(same_constant(v, left) for v in values)
        return Always(inside == (op == "in")) if inside or known else None
    whole = [v.value for v in values if isinstance(v, Number) and math.isfinite(v.value)]
    numbers = [int(value) for value in whole if value == int(value)]
    plain = (
        isinstance(left, Size)
        and left.name == "hidden_dim"
        and left == Size(left.powers, names=left.names)
    )
    if plain and len(numbers) == len(values):
        return Member("hidden_dim", tuple(sorted(set(numbers))), op == "in")
    return None


def _size_against(op: str, size: Size, limit: Fraction | float) -> Condition | None:
    if op not in _TRUTH or size.factor <= 0:
        return None
    holds = _TRUTH[op]
    if math.isnan(limit):
        return None
    if not 0 <= limit < UNLIMITED * size.factor:
        # Below every size, or above every size.
        return Always(bool(holds(0, limit)))
    limit = Fraction(limit)
    if size.powers == (0, 0, 1):
        names = tuple(d for d, e in ELEMENT_BYTES.items() if holds(size.factor * e, limit))
        return Member("dtype", names)
    if size.powers == (0, 1, 1) and size.floored and size.factor == Fraction(1, PACK_BYTES):
        return Compare("packs", op, int(limit)) if limit.denominator == 1 else None
    if not size.name:
        return None
    if op in ("==", "!=", "is", "is not"):
        exact = limit / size.factor
        if size.floored or exact.denominator != 1:
            return None
        return Compare(size.name, {"is": "==", "is not": "!="}.get(op, op), int(exact))
    if size.floored:
        # floor(y) <= c is y < c + 1; floor(y) > c is y >= c + 1 (c whole).
        if op in ("<=", ">"):
            limit, op = Fraction(math.floor(limit) + 1), "<" if op == "<=" else ">="
        else:
            limit = Fraction(math.ceil(limit))
    exact = limit / size.factor
    if exact.denominator != 1:
        near = round(exact)
        if abs(exact - near) * 10**9 < near:
            # Floats: whether the whole number that is meant is inside, they say themselves.
            inside = holds(float(near * size.factor), float(limit))
            upper = op in ("<", "<=")
            return Compare(
                size.name, ("<=" if inside else "<") if upper else (">=" if inside else ">"), near
            )
        below = math.floor(exact)
        return Compare(size.name, "<=" if op in ("<", "<=") else ">", below)
    return Compare(size.name, op, int(exact))


def is_deep(value: Symbol, levels: int = MAX_DEPTH) -> bool:
    """Tell whether a value holds others in more levels than are read."""
    inner: tuple[Symbol, ...] = value.values if isinstance(value, Items) else ()
    if isinstance(value, Mapping):
        inner = tuple(part for pair in value.items for part in pair)
    return bool(inner) and (levels == 0 or any(is_deep(one, levels - 1) for one in inner))


def look_up(mapping: Mapping, key: Symbol, default: Symbol | None = None) -> Symbol | None:
    """Return what a table holds for a key, or the default; None where that is not known."""
    for known, value in mapping.items:
        if same_constant(known, key) or known == key:
            return value
    # A setting is read as an unset environment leaves it; any other key may be one of them.
    unset = isinstance(key, Number | Text | Nothing | Always) or bool(getattr(key, "env", ""))
    return default if unset or not mapping.items else None
