"""What the text of a setting is read as, or the default that stands in for it."""

from __future__ import annotations

import math
from fractions import Fraction

from msgspec.structs import replace

from ..rules.condition import Always
from .symbols import Nothing, Number, Size, Symbol, Text, kilo_of, number, truth


def from_default(default: Symbol, variable: str) -> Symbol | None:
    """Return the value that stands in for an unset variable, with the variable's name."""
    if isinstance(default, Number):
        kilo = max(default.kilo, kilo_of(variable))
        return Number(default.value, default.names | {variable}, kilo, env=variable)
    if isinstance(default, Text):
        return Text(default.value, env=variable)
    if isinstance(default, Nothing):
        return Nothing(env=variable)
    return default if isinstance(default, Always) else None


def said(text: str) -> Symbol:
    """Return the constant that a text says: a truth, a number, or the text itself."""
    if text.lower() in ("true", "false"):
        return Always(text.lower() == "true")
    return number(int(text)) if text.removeprefix("-").isdigit() else Text(text)


def text_method(base: Text, method: str) -> Symbol | None:
    """Return what a method without arguments makes of a text, None where that is not known."""
    if method in ("lower", "upper", "strip"):
        changed: str = getattr(base.value, method)()
        return Text(changed, base.env)
    return Always(base.value.isdigit()) if method == "isdigit" else None


def converted(kind: str, value: Symbol) -> Symbol | None:
    """Return ``int``, ``float``, ``bool`` or ``str`` of a value, None where that is not known."""
    if kind == "bool":
        return truth(value)
    if isinstance(value, Text):
        return value if kind == "str" else _parsed(kind, value)
    if isinstance(value, Size) and kind == "int":
        return value if value.factor.denominator == 1 else replace(value, floored=True)
    if isinstance(value, Number) and kind != "float":
        if not math.isfinite(value.value):
            return None
        whole = int(value.value)
        if kind == "int":
            return replace(value, value=Fraction(whole))
        return Text(str(whole), value.env) if whole == value.value else None
    return None if kind == "str" else value


def _parsed(kind: str, text: Text) -> Symbol | None:
    try:
        found = number(float(text.value) if kind == "float" else int(text.value))
    except (ValueError, OverflowError):
        return None
    names = frozenset({text.env}) if text.env else frozenset()
    return Number(found.value, names, kilo_of(text.env), text.env)
