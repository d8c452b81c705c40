"""Find the function of an engine that chooses the kernel, and read its dispatch rule.

The function is followed once per world size (see :mod:`.execution`), without importing or running
it. What reaches the kernel call's ``use_1stage`` argument, or the value returned by a predicate, is
the rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from msgspec import Struct

from ..data.hosts import Host
from ..errors import InputError
from ..model.shape import FUSED, WORLD_SIZES
from ..rules.algebra import by_world_size, parts_of
from ..rules.condition import Compare, Condition
from .call_sites import NOT_WRITTEN, CallSite
from .evaluation import Comparison, Membership, NoChoiceError
from .execution import Step, SymbolicRun, is_plain, stage_arguments
from .module import Function, Module, input_name, made_of, source_of
from .overrides import Override, find
from .source import Tree

#: What a file holds that knows AITER's fused op, as a regular expression.
_FUSED = r"fused_all_?reduce_rms_?norm(?:_|\b)|fused_ar_rms"


class NotRecognisedError(InputError):
    """The source is not of a shape that can be read or changed safely; says what was sought."""


class DispatchFunction(Struct):
    """A function that chooses the kernel: its rule, and how it was read.

    ``decisions`` are the expressions whose value chooses the kernel, ``returns`` tells that they
    are returned; ``followed`` names predicates that the decision is made of; ``overrides`` are the
    settings that would replace the rule, ``overriding`` the comparisons that they would take part
    in; ``assumed`` what had to be taken as true, ``unread`` every test of the function that could
    not be read, with its line; ``live`` the part of each expression on a setting that counts, where
    that is the same at every world size.
    """

    name: str
    node: Function
    condition: Condition
    decisions: list[ast.expr]
    returns: bool
    overrides: tuple[Override, ...]
    overriding: list[Comparison]
    assumed: tuple[str, ...]
    unread: tuple[tuple[int, str], ...]
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
        return _decisive(self.comparisons, self.condition)

    @property
    def line(self) -> int:
        """Line of the comparison of bytes, or of the function when there is none."""
        sized = [c.node.lineno for c in self.decisive if c.size.name in ("bytes", "elements")]
        return min(sized, default=self.node.lineno)


def find_dispatch(tree: Tree, op: str, host: Host | None = None) -> tuple[Module, DispatchFunction]:
    """Return the function of a tree that chooses for an op, read as on a host.

    Looks at the known call sites first, then at every function of the package whose name or call
    says 1-stage. Raises :class:`NotRecognisedError` naming the call sites.
    """
    looked: list[str] = []
    reasons: list[str] = []
    asks: set[str] = set()
    sites = [s for s in tree.engine.call_sites if s.op == op]
    if not sites:
        known = ", ".join(dict.fromkeys(s.op for s in tree.engine.call_sites))
        why = f": {NOT_WRITTEN[op]}" if tree.engine.name == "aiter" and op in NOT_WRITTEN else ""
        raise InputError(f"{tree.engine.title} has no rule for op '{op}'{why}; known: {known}")
    for site in sites:
        name = tree.name(site.file)
        looked.append(f"{site.function} in {name}")
        text = tree.read(name)
        if text is None:
            continue
        try:
            module = Module.parse(name, text)
            return module, read_dispatch(module, site.function, host=host)
        except NoChoiceError as error:
            reasons.append(str(error))
            asks |= _asked_by(module, site.function)
    moved = _moved(tree, sites[0], asks) if op == FUSED else None
    if moved is not None:
        return moved
    version = f" {tree.version}" if tree.version else ""
    why = f" ({'; '.join(reasons)})" if reasons else ""
    if op == FUSED and not any(tree.search(_FUSED)):
        why = "; no file of it names AITER's fused op: this release has none"
    raise NotRecognisedError(
        f"{tree.path}: no rule recognised in {tree.engine.title}{version}: looked for "
        f"{' and '.join(looked)}{why}"
    )


def _asked_by(module: Module, qualified: str) -> set[str]:
    """Return the names in a known call site that hands a stage on, none of one that does not."""
    names: set[str] = set()
    for node, _ in module.definitions(qualified):
        inside = list(ast.walk(node))
        if any(stage_arguments(n) for n in inside if isinstance(n, ast.Call)):
            names |= {n.id for n in inside if isinstance(n, ast.Name)}
            names |= {n.attr for n in inside if isinstance(n, ast.Attribute)}
    return names


def _moved(tree: Tree, site: CallSite, asks: set[str]) -> tuple[Module, DispatchFunction] | None:
    """Look through the package for one function that chooses 1-stage for the fused op.

    Where the known call site is there and hands a stage on, it has to name the function (``asks``).
    """
    candidates: list[tuple[Module, DispatchFunction]] = []
    for name, text in tree.search("(?i)(1|one)_?stage", word="stage"):
        try:
            module = Module.parse(name, text)
        except InputError:
            continue
        for function in module.functions():
            last = function.rsplit(".", 1)[-1]
            known = last == site.function.rsplit(".", 1)[-1]
            if asks and last not in asks and not known:
                continue
            if not known and not re.search("(1|one)_?stage", last, re.IGNORECASE):
                continue
            try:
                candidates.append((module, read_dispatch(module, function)))
            except NoChoiceError:
                continue
    asked = {(m.name, name) for m, f in candidates for name in f.followed}
    candidates = [(m, f) for m, f in candidates if (m.name, f.name) not in asked]
    if len(candidates) > 1:
        said = "; ".join(
            f"{f.name} ({m.name}:{f.node.lineno}): 1-stage when {f.condition.words()}"
            for m, f in candidates
        )
        raise NotRecognisedError(
            f"{tree.path}: {len(candidates)} functions choose, none where the known releases keep "
            f"the rule, and which one is in force is not known: {said}"
        )
    return candidates[0] if candidates else None


@lru_cache(maxsize=64)
def read_dispatch(
    module: Module,
    qualified: str,
    *,
    predicate: bool = False,
    constant: bool = False,
    settings: bool = True,
    host: Host | None = None,
) -> DispatchFunction:
    """Read the rule of one function; ``predicate`` takes what it returns for the decision.

    ``constant`` takes a function that always decides alike: that is what some rules become. Without
    ``settings`` no override is looked for, which is most of the work. ``host`` is what the engine
    runs on, where the rule asks for that.

    Raises :class:`NoChoiceError` when the function does not exist or makes no choice of its own,
    with what was looked for, and :class:`NotRecognisedError` where it is defined more than once and
    it is not known which definition is in force.
    """
    node, owner = _in_force(module, qualified, predicate, constant)
    looked = f"{module.name}:{node.lineno}: {qualified}"
    rebound = module.rebound(qualified)
    if rebound is not None:
        raise NoChoiceError(f"{looked} is bound to something else at line {rebound.lineno}")
    try:
        runs = _followed(module, node, owner, predicate, {}, host)
        _check_returns(runs, node, looked)
        condition = _rule(runs, node, looked, constant)
        per_size = {run.world_size: run.rule(node, looked) for run in runs}
        overriding: list[Comparison] = []

        def read(settings: Mapping[str, str]) -> dict[int, Condition] | None:
            again = _followed(module, node, owner, predicate, settings, host)
            try:
                found = {run.world_size: run.rule(node, looked) for run in again}
            except NoChoiceError:
                return None
            overriding.extend(
                _decisive((c for r in again for c in r.comparisons), by_world_size(found))
            )
            return found

        asked = {name: line for run in runs for name, line in run.asked.items()}
        overrides = find(asked, read, per_size) if settings else ()
    except RecursionError:
        raise NoChoiceError(f"{looked}: nested too deeply to be followed") from None
    decisions = _unique(d for run in runs for d in run.decisive(node))
    parts, inside = made_of(node, decisions), set(ast.walk(node))
    return DispatchFunction(
        name=qualified,
        node=node,
        condition=condition,
        decisions=decisions,
        returns=not any(run.calls for run in runs),
        overrides=overrides,
        overriding=overriding,
        assumed=tuple(
            dict.fromkeys(text for run in runs for at, text in run.assumed if at in parts)
        ),
        unread=tuple(
            dict.fromkeys(
                (at.lineno, text) for run in runs for at, text in run.assumed if at in inside
            )
        ),
        comparisons=[c for run in runs for c in run.comparisons],
        memberships=[m for run in runs for m in run.memberships],
        steps=[s for run in runs for s in run.steps],
        live=_live(runs),
        followed=tuple(
            dict.fromkeys(
                name
                for run in runs
                for at, names in run.followed.items()
                if at in parts
                for name in names
            )
        ),
        tensor=input_name(node),
        world=next((w for run in runs for w in run.world_names), ""),
        owner=owner.name if owner else "",
    )


def holder_of(module: Module, dispatch: DispatchFunction) -> DispatchFunction:
    """Return the function in which a rule stands: a predicate beside it that is asked, or itself.

    A predicate that is given sizes and not the tensor is left as it is: the call of it changes.
    """
    if len(dispatch.followed) != 1:
        return dispatch
    try:
        return read_dispatch(module, dispatch.followed[0], predicate=True)
    except NoChoiceError:
        return dispatch


def _in_force(
    module: Module, qualified: str, predicate: bool, constant: bool
) -> tuple[Function, ast.ClassDef | None]:
    """Return the definition of a function that chooses; refuse where more than one may."""
    found = module.definitions(qualified)
    if not found:
        raise NoChoiceError(f"{module.name}: no function {qualified}")
    if len(found) == 1:
        return found[0]
    says = {at: _words(module, qualified, at, predicate, constant) for at in found}
    choosing = [at for at, words in says.items() if words]
    if len(choosing) < 2:
        return (choosing or found)[0]
    said = "; ".join(f"line {at[0].lineno}: {says[at]}" for at in choosing)
    raise NotRecognisedError(
        f"{module.name}: {qualified} is defined {len(choosing)} times with a rule, and which one "
        f"is in force is not known ({said}); leave one, then run this again"
    )


def _check_returns(runs: list[SymbolicRun], node: Function, looked: str) -> None:
    """Raise :class:`NoChoiceError` where a decorator may change what a predicate returns."""
    if not any(run.calls for run in runs) and not is_plain(node):
        said = ", ".join(f"@{source_of(one)}" for one in node.decorator_list)
        raise NoChoiceError(f"{looked}: what {said} makes of its answer is not known")


def _words(
    module: Module,
    qualified: str,
    at: tuple[Function, ast.ClassDef | None],
    predicate: bool,
    constant: bool,
) -> str:
    """Return the rule of one definition in words, "" where it makes no choice."""
    looked = f"{module.name}:{at[0].lineno}: {qualified}"
    try:
        runs = _followed(module, *at, predicate, {}, None)
        return _rule(runs, at[0], looked, constant).words()
    except (NoChoiceError, RecursionError):
        return ""


def _rule(runs: list[SymbolicRun], node: Function, looked: str, constant: bool) -> Condition:
    """Return the rule of a function that was followed once per world size."""
    per_size = {run.world_size: run.rule(node, looked) for run in runs}
    condition = by_world_size(per_size)
    sized = any(_sized(c) for c in per_size.values()) or len(set(per_size.values())) > 1
    if not sized and not constant:
        raise NoChoiceError(
            f"{looked} chooses by no size: {condition.words()} with the environment unset"
        )
    return condition


def _followed(
    module: Module,
    node: Function,
    owner: ast.ClassDef | None,
    predicate: bool,
    settings: Mapping[str, str],
    host: Host | None,
) -> list[SymbolicRun]:
    """Follow a function once per world size with settings set."""
    runs = []
    for n in WORLD_SIZES:
        run = SymbolicRun(module, owner, n, settings=settings, host=host, predicate=predicate)
        run.function(node)
        runs.append(run)
    return runs


def _decisive(comparisons: Iterable[Comparison], rule: Condition) -> list[Comparison]:
    """Return the comparisons that a rule consists of."""
    known = {part for n in WORLD_SIZES for part in parts_of(rule.at(n))}
    return [c for c in comparisons if c.condition in known or c.condition.negated() in known]


def _live(runs: list[SymbolicRun]) -> dict[ast.expr, ast.expr]:
    """Return the parts that count where every run that met the expression says the same."""
    found: dict[ast.expr, set[ast.expr]] = {}
    for run in runs:
        for node, part in run.live.items():
            found.setdefault(node, set()).add(part)
    return {node: next(iter(parts)) for node, parts in found.items() if len(parts) == 1}


def _sized(condition: Condition) -> bool:
    """Tell whether a condition looks at bytes, elements or tokens."""
    if isinstance(condition, Compare):
        return condition.quantity in ("bytes", "elements", "tokens")
    return any(_sized(part) for part in getattr(condition, "parts", ()))


def _unique(nodes: Iterable[ast.expr]) -> list[ast.expr]:
    return list(dict.fromkeys(nodes))
