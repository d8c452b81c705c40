"""The rules of the field by name, and rules from files.

``facts/rules.json`` holds every rule that SGLang, vLLM, AITER and their peers ship, shipped or
proposed, each with the pull request or file it stands in. Two constant rules are the baselines.

>>> named("sglang").use_1stage(Shapes.of([8, 16], 7168, 8))
array([ True, False])
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..data import facts
from ..errors import InputError, nearest
from ..files import read_json
from ..model.shape import FUSED, TWO_STAGE
from . import ENGINES
from .condition import Always
from .rule import Rule
from .schemas import Catalogue, RuleRecord

ALWAYS_1STAGE = Rule("always-1stage", Always(), "always 1-stage", status="baseline")
ALWAYS_2STAGE = Rule("always-2stage", Always(False), "always 2-stage", status="baseline")


@cache
def catalogue() -> tuple[Rule, ...]:
    """Return every rule of ``facts/rules.json``, in the file's order."""
    path = facts.path("rules.json")
    known = read_json(path, Catalogue, "the file that the package ships")["rules"]
    return tuple(Rule.from_json(record, f"{path}: {record['name']}") for record in known)


def shipped(
    op: str | None = None, *, fabric: str = "xgmi", otherwise: str = TWO_STAGE
) -> list[Rule]:
    """Return the rules that ship or shipped on a fabric (proposals and peers' left out).

    ``otherwise`` is what runs at their call sites where they do not run 1-stage.
    """
    return [
        rule
        for rule in catalogue()
        if rule.status in ("shipped", "current")
        and (rule.fabric, rule.otherwise) == (fabric, otherwise)
        and op in (None, rule.op)
    ]


def current(engine: str, op: str = FUSED) -> Rule:
    """Return the rule that an engine ships now for an op: that of its main call site.

    It is the first in the file; others, such as vLLM's helper for Gemma norms, go by name.
    """
    for rule in catalogue():
        if rule.engine == engine and rule.op == op and rule.status == "current":
            return rule
    known = sorted({r.op for r in catalogue() if r.engine == engine and r.status == "current"})
    if not known:
        raise InputError(f"no rule of engine '{engine}'{nearest(engine, ENGINES)}")
    raise InputError(f"{engine} has no current rule for op '{op}'; it has {', '.join(known)}")


def named(name: str, *, op: str = FUSED, also: tuple[str, ...] = ()) -> Rule:
    """Return a rule by name, in any case.

    ``sglang``, ``vllm`` and ``aiter`` are those engines' current rules for ``op``;
    ``always-1stage`` and ``always-2stage`` are the constant ones. Raises :class:`InputError`
    with the nearest names for an unknown one; ``also`` are words that its asker takes beside them.
    """
    key = name.strip().lower()
    if key in ENGINES:
        return current(key, op)
    known = {r.name: r for r in (*catalogue(), ALWAYS_1STAGE, ALWAYS_2STAGE)}
    if key in known:
        return known[key]
    names = [*also, *ENGINES, *known]
    raise InputError(f"unknown rule '{name}'{nearest(name, names)}; known: {', '.join(names)}")


def load(path: str | Path) -> Rule:
    """Read a rule from a JSON file as ``costmodel emit --for json`` writes it."""
    record = read_json(
        path, RuleRecord, "a rule, as 'costmodel emit --for json' writes it for one GPU"
    )
    return Rule.from_json(record, str(path))
