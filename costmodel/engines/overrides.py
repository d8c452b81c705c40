"""Settings that replace a rule: environment variables, and attributes left at None or -1.

The function is read again with each setting that it asks for set to a few values, and what comes
out is compared with the rule: a setting that ends in the byte limit replaces the limit, and the
factor between the two is its unit, whatever its name says; one that makes every size 1-stage or
2-stage forces the stage. So it does not matter how "not set" is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Literal

from msgspec import Struct

from ..model.shape import WORLD_SIZES
from ..rules.algebra import factors
from ..rules.condition import Always, Compare, Condition

#: What a setting is set to: texts as the environment holds them.
SWITCHES = ("1", "0", "true", "false")
LIMITS = ("1234944", "9879552")

#: Settings of one function that are tried; more are not looked at.
MAX_SETTINGS = 16

_UNITS = {
    1: "bytes",
    1000: "kB (1000 bytes)",
    1024: "KiB",
    10**6: "MB (10^6 bytes)",
    2**20: "MiB",
}

Conditions = Mapping[int, Condition]


class Override(Struct, frozen=True):
    """A setting that replaces the rule or a part of it.

    ``name`` is an environment variable, or an attribute with its class. ``replaces`` is ``limit``,
    ``stage`` or ``rule`` (neither of both), ``unit`` what a limit is counted in ("" where that is
    not known). ``line`` is where it is read. ``effects`` holds the rule at each world size for each
    value that was tried and changed it.
    """

    name: str
    line: int
    replaces: Literal["limit", "stage", "rule"]
    unit: str
    effects: tuple[tuple[str, tuple[Condition, ...]], ...]

    def words(self) -> str:
        """Return what it does, in words: ``AITER_AR_1STAGE forces the stage (1: ..., 0: ...)``."""
        if self.replaces == "limit":
            return f"{self.name} replaces the limit{f', in {self.unit}' if self.unit else ''}"
        if self.replaces == "stage":
            forced = [
                f"{value}: {'1-stage' if conditions[0] == Always() else '2-stage'}"
                for value, conditions in self.effects
                if value in SWITCHES[:2] and _is_constant(conditions)
            ]
            which = f" ({', '.join(forced)})" if forced else ""
            return f"{self.name} forces the stage{which}"
        return f"{self.name} changes the rule"


def find(
    asked: Mapping[str, int],
    read: Callable[[Mapping[str, str]], Conditions | None],
    unset: Conditions,
) -> tuple[Override, ...]:
    """Return the settings among ``asked`` (with their lines) that change what ``read`` returns.

    ``read`` gives the rule per world size with settings set, or None where nothing is chosen then.
    """
    found = []
    for name, line in list(asked.items())[:MAX_SETTINGS]:
        effects = {v: read({name: v}) for v in (*SWITCHES, *LIMITS)}
        changed = {v: c for v, c in effects.items() if c is not None and dict(c) != dict(unset)}
        if changed:
            found.append(_override(name, line, changed))
    return tuple(found)


def lost(before: Iterable[Override], after: Iterable[Override], unset: Condition) -> list[str]:
    """Return the names of overrides of ``before`` that do not do the same among ``after``.

    A stage has to be forced alike, and a limit has to be the same number of bytes at every world
    size; what else the rule asks may differ. ``unset`` is the rule that holds after, with no
    setting: what a setting leaves as it is, is no effect of it.
    """
    alone = tuple(unset.at(n) for n in WORLD_SIZES)
    there = {one.name: dict(one.effects) for one in after}
    return [one.name for one in before if not _acts_as(one, there.get(one.name, {}), alone)]


def _acts_as(
    one: Override, effects: Mapping[str, tuple[Condition, ...]], unset: tuple[Condition, ...]
) -> bool:
    for value, conditions in one.effects:
        for mine, theirs in zip(conditions, effects.get(value, unset), strict=True):
            constant = isinstance(mine, Always)
            if (mine != theirs) if constant else (_limits(mine) != _limits(theirs)):
                return False
    return True


def _override(name: str, line: int, changed: Mapping[str, Conditions]) -> Override:
    effects = tuple((v, tuple(c[n] for n in WORLD_SIZES)) for v, c in changed.items())
    units = {_unit(v, conditions) for v, conditions in effects if v in LIMITS}
    if any(units):
        return Override(name, line, "limit", units.pop() if len(units) == 1 else "", effects)
    forces = any(_is_constant(conditions) for _, conditions in effects)
    return Override(name, line, "stage" if forces else "rule", "", effects)


def _is_constant(conditions: tuple[Condition, ...]) -> bool:
    return all(isinstance(c, Always) for c in conditions)


def _limits(condition: Condition) -> list[Compare]:
    """Return the limits on a size among a condition's factors, as the largest size taken."""
    found = [f for f in factors(condition) if isinstance(f, Compare)]
    return [
        Compare(f.quantity, "<=", f.value - (f.op == "<"))
        for f in found
        if f.quantity in ("bytes", "elements") and f.op in ("<", "<=")
    ]


def _unit(value: str, conditions: tuple[Condition, ...]) -> str:
    """Return the unit in which a value became the limit, "" when it did not."""
    found = []
    for n, condition in zip(WORLD_SIZES, conditions, strict=True):
        ratios = [(f.quantity, Fraction(f.value, int(value))) for f in _limits(condition)]
        named = [_named(quantity, ratio, n) for quantity, ratio in ratios]
        found.append(next((u for u in named if u), ""))
    return found[0] if len(set(found)) == 1 else ""


def _named(quantity: str, ratio: Fraction, world_size: int) -> str:
    for factor, unit in _UNITS.items():
        for share, words in ((1, ""), (world_size, ", divided by the ranks")):
            # A floor division of the size takes up to one unit more.
            if abs(ratio * share / factor - 1) < Fraction(1, 10**5):
                return (unit if quantity == "bytes" else quantity) + words
    return ""
