"""Conditions as Python source, in the names that the engine's function already has."""

from __future__ import annotations

from msgspec import Struct

from ..errors import InputError
from ..model.shape import WORLD_SIZES
from ..rules.algebra import All, AnyOf, Bytes, ByWorldSize
from ..rules.condition import Always, Compare, Condition, Member, OnFullMesh, WholePacks
from ..units import ELEMENT_BYTES, KIB, PACK_BYTES
from .symbols import UNLIMITED

#: Width that the engines' formatters keep.
WIDTH = 88

_TORCH = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp32": "torch.float32"}


class SourceNames(Struct, frozen=True):
    """Source text for each quantity where the rule stands; ``pack`` is "" when not at hand.

    ``torch`` tells that the file imports torch, by whose names dtypes go.
    """

    bytes: str
    tokens: str
    hidden_dim: str
    elements: str
    element_size: str
    dtype: str
    world_size: str
    full_mesh: str = ""
    pack: str = ""
    torch: bool = True


def size(size_bytes: int) -> str:
    """Return a byte count as source: ``448 * 1024``, the plain number where it is not whole.

    :data:`UNLIMITED` is ``2**60``.
    """
    if size_bytes >= UNLIMITED:
        return "2**60"
    whole = size_bytes % KIB == 0 and size_bytes > KIB
    return f"{size_bytes // KIB} * 1024" if whole else str(size_bytes)


def expression(condition: Condition, names: SourceNames) -> str:
    """Return a condition as an expression on one line."""
    if isinstance(condition, Always):
        return str(condition.value)
    if isinstance(condition, All):
        return " and ".join(_bracketed(p, names) for p in condition.parts)
    if isinstance(condition, AnyOf):
        return " or ".join(
            f"({expression(p, names)})" if isinstance(p, All) else expression(p, names)
            for p in condition.parts
        )
    if isinstance(condition, Compare):
        value = size(condition.value) if condition.quantity == "bytes" else str(condition.value)
        return f"{_quantity(condition.quantity, names)} {condition.op} {value}"
    if isinstance(condition, WholePacks):
        row = _remainder(names)
        return f"{row} {'==' if condition.inside else '!='} 0"
    if isinstance(condition, Member):
        return _member(condition, names)
    if isinstance(condition, OnFullMesh):
        return names.full_mesh if condition.inside else f"not {names.full_mesh}"
    if isinstance(condition, Bytes | ByWorldSize):
        return " or ".join(
            f"({expression(Member('world_size', (n,)), names)}"
            f" and {_bracketed(condition.at(n), names)})"
            for n in condition.world_sizes
        )
    raise InputError(f"no engine's function can ask for {condition.words()}; leave it out")


def is_simple(condition: Condition) -> bool:
    """Tell whether the condition needs no brackets beside ``and``."""
    return not isinstance(condition, AnyOf | Bytes | ByWorldSize)


def dictionary(cutoffs: dict[int, int]) -> str:
    """Return cutoffs by world size as a dictionary: ``{4: 448 * 1024, 8: 224 * 1024}``."""
    return "{" + ", ".join(f"{n}: {size(c)}" for n, c in sorted(cutoffs.items())) + "}"


def _bracketed(condition: Condition, names: SourceNames) -> str:
    text = expression(condition, names)
    return text if is_simple(condition) else f"({text})"


def _member(condition: Member, names: SourceNames) -> str:
    relation = "in" if condition.inside else "not in"
    if condition.quantity == "dtype" and not names.torch:
        return _by_element_size(condition, names)
    if condition.quantity == "dtype":
        unknown = [d for d in condition.values if d not in _TORCH]
        if unknown:
            raise InputError(f"the rule asks for dtype {unknown[0]}; known: {', '.join(_TORCH)}")
        dtypes = [_TORCH[str(d)] for d in condition.values]
        return f"{names.dtype} {relation} ({', '.join(dtypes)}{',' if len(dtypes) == 1 else ''})"
    if condition.quantity == "hidden_dim":
        return f"{names.hidden_dim} {relation} {{{', '.join(map(str, condition.values))}}}"
    values = [n for n in condition.values if n in WORLD_SIZES]
    if len(values) == 1:
        return f"{names.world_size} {'==' if condition.inside else '!='} {values[0]}"
    return f"{names.world_size} {relation} ({', '.join(map(str, values))})"


def _by_element_size(condition: Member, names: SourceNames) -> str:
    """Return a set of dtypes as sizes of elements, which tell the dtypes that rules know apart."""
    wanted = {ELEMENT_BYTES[str(d)] for d in condition.values}
    if {d for d, e in ELEMENT_BYTES.items() if e in wanted} != set(condition.values):
        raise InputError(f"the rule asks for {condition.words()}, and its file imports no torch")
    if len(wanted) == 1:
        return f"{names.element_size} {'==' if condition.inside else '!='} {wanted.pop()}"
    relation = "in" if condition.inside else "not in"
    return f"{names.element_size} {relation} ({', '.join(map(str, sorted(wanted)))})"


def _quantity(quantity: str, names: SourceNames) -> str:
    if quantity == "packs":
        if names.pack:
            return f"{names.hidden_dim} // {names.pack}"
        return f"{names.hidden_dim} * {names.element_size} // {PACK_BYTES}"
    if quantity == "row_bytes":
        return f"{names.hidden_dim} * {names.element_size}"
    text: str = getattr(names, quantity)
    return text


def _remainder(names: SourceNames) -> str:
    if names.pack:
        return f"{names.hidden_dim} % {names.pack}"
    return f"{names.hidden_dim} * {names.element_size} % {PACK_BYTES}"
