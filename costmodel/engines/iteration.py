"""What a comprehension, or a call over one, comes to: each value of a known iterable in turn."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Protocol

from ..rules.algebra import all_of, any_of
from ..rules.condition import Always, Condition
from .symbols import Items, Mapping, Number, Symbol, Unknown, number, truth

#: Turns of a loop that are followed; a rule goes by three world sizes.
MAX_TURNS = 32
#: Ranges that end beyond this are not read.
MOST = 2**31

Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


class Reader(Protocol):
    """What evaluates an expression in a scope (:class:`~.evaluation.Evaluator`)."""

    scope: dict[str, Symbol]

    def value(self, node: ast.expr) -> Symbol:
        """Return what an expression is."""


def turns(value: Symbol) -> tuple[Symbol, ...] | None:
    """Return what iterating over a value gives, None where that is not known or too long."""
    if isinstance(value, Mapping):
        value = Items(tuple(key for key, _ in value.items))
    if isinstance(value, Items) and len(value.values) <= MAX_TURNS:
        return value.values
    return None


def of_range(arguments: list[Symbol]) -> Items | None:
    """Return ``range(...)`` of whole numbers, None where they are not known or too many."""
    whole = [int(a.value) for a in arguments if isinstance(a, Number) and a.value % 1 == 0]
    if any(abs(n) > MOST for n in whole):
        return None
    if len(whole) != len(arguments) or not 1 <= len(whole) <= 3 or 0 in whole[2:]:
        return None
    counted = range(*whole)
    return Items(tuple(number(n) for n in counted)) if len(counted) <= MAX_TURNS else None


def bind(target: ast.expr, value: Symbol, scope: dict[str, Symbol]) -> None:
    """Give the names of a target the parts of a value; unknown where it has none."""
    if isinstance(target, ast.Tuple | ast.List):
        parts = value.values if isinstance(value, Items) else ()
        same = len(parts) == len(target.elts)
        for at, element in enumerate(target.elts):
            bind(element, parts[at] if same else Unknown(ast.unparse(element)), scope)
    elif isinstance(target, ast.Name):
        scope[target.id] = value


def comprehended(reader: Reader, node: Comprehension) -> Symbol | None:
    """Return the items of a comprehension, or the mapping that it makes; None where not known."""
    outer = reader.scope
    reader.scope = dict(outer)
    try:
        found = [_made(reader, node) for known in _turns(reader, node.generators) if known]
        # A turn whose tests are not known leaves the items unknown.
    except LookupError:
        return None
    finally:
        reader.scope = outer
    if isinstance(node, ast.DictComp):
        latest = {pair.values[0]: pair.values[1] for pair in found if isinstance(pair, Items)}
        return Mapping(tuple(latest.items()))
    return Items(tuple(found)) if len(found) <= MAX_TURNS else None


def _made(reader: Reader, node: Comprehension) -> Symbol:
    if isinstance(node, ast.DictComp):
        return Items((reader.value(node.key), reader.value(node.value)))
    return reader.value(node.elt)


def _turns(reader: Reader, generators: list[ast.comprehension]) -> Iterator[bool]:
    """Yield with the names of each turn bound; raise LookupError where one is not known."""
    if not generators:
        yield True
        return
    first, *rest = generators
    values = turns(reader.value(first.iter))
    if values is None or first.is_async:
        raise LookupError
    for value in values:
        bind(first.target, value, reader.scope)
        tests = [truth(reader.value(test)) for test in first.ifs]
        if Always(False) in tests:
            continue
        if any(test != Always() for test in tests):
            raise LookupError
        yield from _turns(reader, rest)


def over(name: str, arguments: list[Symbol]) -> Symbol | None:
    """Return ``any``, ``all``, ``next``, ``min`` or ``max`` of known items, else None."""
    values = turns(arguments[0]) if arguments else None
    if values is None:
        return None
    if name == "next":
        return values[0] if values else (arguments[1] if len(arguments) > 1 else None)
    if name in ("min", "max"):
        numbers = [v for v in values if isinstance(v, Number)]
        if len(numbers) != len(values) or not numbers or len(arguments) > 1:
            return None
        return (min if name == "min" else max)(numbers, key=lambda n: n.value)
    conditions: list[Condition] = []
    for value in values:
        condition = truth(value)
        if condition is None:
            return None
        conditions.append(condition)
    return any_of(*conditions) if name == "any" else all_of(*conditions)
