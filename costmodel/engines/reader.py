"""Find the function of an engine that chooses the kernel, and read its dispatch rule.

The function is followed once per world size (see :mod:`.execution`), without importing or running
it. What reaches the kernel call's ``use_1stage`` argument, or the value returned by a predicate, is
the rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import InputError
from ..model.shape import FUSED, WORLD_SIZES
from ..rules.algebra import by_world_size, parts_of
from ..rules.condition import Compare, Condition
from .call_sites import CallSite
from .evaluation import Comparison, Membership
from .execution import NoChoiceError, Step, SymbolicRun
from .module import Function, Module, input_name
from .source import Tree


class NotRecognisedError(InputError):
    """The source is not of a shape that can be read or changed safely; says what was sought."""


@dataclass
class DispatchFunction:
    """A function that chooses the kernel: its rule, and how it was read.

    ``decisions`` are the expressions whose value chooses the kernel, ``returns`` tells that they
    are returned; ``followed`` names predicates that the function asks; ``overrides`` the settings
    that would replace the rule; ``assumed`` what had to be taken as true; ``live`` the branch of
    each conditional expression on a setting that counts.
    """

    name: str
    node: Function
    condition: Condition
    decisions: list[ast.expr]
    returns: bool
    overrides: tuple[str, ...]
    assumed: tuple[str, ...]
    comparisons: list[Comparison]
    memberships: list[Membership]
    steps: list[Step]
    live: dict[ast.expr, ast.expr]
    followed: tuple[str, ...]
    tensor: str
    world: str
    owner: str

    @property
    def decisive(self) -> list[Comparison]:
        """The comparisons that the rule consists of; others say when the op runs at all."""
        known = {p for n in WORLD_SIZES for p in parts_of(self.condition.at(n))}
        return [
            c for c in self.comparisons if c.condition in known or c.condition.negated() in known
        ]

    @property
    def line(self) -> int:
        """Line of the comparison of bytes, or of the function when there is none."""
        sized = [c.node.lineno for c in self.decisive if c.size.name in ("bytes", "elements")]
        return min(sized, default=self.node.lineno)


def find_dispatch(tree: Tree, op: str) -> tuple[Module, DispatchFunction]:
    """Return the function of a tree that chooses for an op, read.

    Looks at the known call sites first, then at every function of the package whose name or call
    says 1-stage. Raises :class:`NotRecognisedError` naming the call sites.
    """
    looked: list[str] = []
    reasons: list[str] = []
    sites = [s for s in tree.engine.call_sites if s.op == op]
    if not sites:
        known = ", ".join(dict.fromkeys(s.op for s in tree.engine.call_sites))
        raise InputError(f"{tree.engine.title} has no rule for op '{op}'; known: {known}")
    for site in sites:
        name = tree.name(site.file)
        looked.append(f"{site.function} in {name}")
        text = tree.read(name)
        if text is None:
            continue
        try:
            module = Module.parse(name, text)
            return module, read_dispatch(module, site.function)
        except NoChoiceError as error:
            reasons.append(str(error))
    moved = _moved(tree, sites[0]) if op == FUSED else None
    if moved is not None:
        return moved
    version = f" {tree.version}" if tree.version else ""
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise NotRecognisedError(
        f"{tree.path}: no rule recognised in {tree.engine.title}{version}: looked for "
        f"{' and '.join(looked)}{why}"
    )


def _moved(tree: Tree, site: CallSite) -> tuple[Module, DispatchFunction] | None:
    """Look through the package for one function that chooses 1-stage for the fused op."""
    candidates: list[tuple[Module, DispatchFunction]] = []
    for name, text in tree.search("(?i)(1|one)_?stage"):
        try:
            module = Module.parse(name, text)
        except InputError:
            continue
        for function in module.functions():
            last = function.rsplit(".", 1)[-1]
            known = last == site.function.rsplit(".", 1)[-1]
            if not known and not re.search("(1|one)_?stage", last, re.IGNORECASE):
                continue
            try:
                candidates.append((module, read_dispatch(module, function)))
            except NoChoiceError:
                continue
    return candidates[0] if len(candidates) == 1 else None


def read_dispatch(
    module: Module, qualified: str, *, predicate: bool = False, constant: bool = False
) -> DispatchFunction:
    """Read the rule of one function; ``predicate`` takes what it returns for the decision.

    ``constant`` takes a function that always decides alike: that is what some rules become.

    Raises :class:`NoChoiceError` when the function does not exist or makes no choice of its own,
    with what was looked for.
    """
    target = module.function(qualified)
    if target is None:
        raise NoChoiceError(f"{module.name}: no function {qualified}")
    node, owner = target
    looked = f"{module.name}:{node.lineno}: {qualified}"
    per_size: dict[int, Condition] = {}
    runs = []
    for n in WORLD_SIZES:
        run = SymbolicRun(module, owner, n, predicate=predicate)
        run.function(node)
        per_size[n] = run.rule(node, looked)
        runs.append(run)
    condition = by_world_size(per_size)
    sized = any(_sized(c) for c in per_size.values()) or len(set(per_size.values())) > 1
    if not sized and not constant:
        raise NoChoiceError(
            f"{looked} chooses by no size: {condition.words()} with the environment unset"
        )
    return DispatchFunction(
        name=qualified,
        node=node,
        condition=condition,
        decisions=_unique(d for run in runs for d in run.decisive(node)),
        returns=not any(run.calls for run in runs),
        overrides=tuple(dict.fromkeys(o for run in runs for o in run.overrides)),
        assumed=tuple(dict.fromkeys(a for run in runs for a in run.assumed)),
        comparisons=[c for run in runs for c in run.comparisons],
        memberships=[m for run in runs for m in run.memberships],
        steps=[s for run in runs for s in run.steps],
        live={k: b for run in runs for k, b in run.live.items()},
        followed=tuple(dict.fromkeys(f for run in runs for f in run.followed)),
        tensor=input_name(node),
        world=next((w for run in runs for w in run.world_names), ""),
        owner=owner.name if owner else "",
    )


def _sized(condition: Condition) -> bool:
    """Tell whether a condition looks at bytes, elements or tokens."""
    if isinstance(condition, Compare):
        return condition.quantity in ("bytes", "elements", "tokens")
    return any(_sized(part) for part in getattr(condition, "parts", ()))


def _unique(nodes: Iterable[ast.expr]) -> list[ast.expr]:
    return list(dict.fromkeys(nodes))
