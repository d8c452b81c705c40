"""What a function's statements say by their form: parents, branches on the ranks, targets."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator

from .evaluation import WORLD
from .module import Function, source_of

_SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp,
    ast.DictComp, ast.GeneratorExp,
)  # fmt: skip


def parents(function: ast.AST) -> dict[ast.AST, ast.AST]:
    """Return the node above each node of a function."""
    return {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}


def mentions_world(test: ast.expr) -> bool:
    """Tell whether a test names the number of ranks."""
    return any(
        (isinstance(n, ast.Name) and WORLD.fullmatch(n.id))
        or (isinstance(n, ast.Attribute) and WORLD.fullmatch(n.attr))
        for n in ast.walk(test)
    )


def in_loop(node: ast.AST | None, above: dict[ast.AST, ast.AST]) -> bool:
    """Tell whether a node stands in a loop; ``above`` are the :func:`parents` of its function."""
    while node is not None and not isinstance(node, ast.For | ast.While):
        node = above.get(node)
    return node is not None


def value_of(node: ast.stmt) -> ast.expr | None:
    """Return what a statement assigns or returns."""
    return node.value if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return) else None


def target_of(node: ast.stmt) -> str | None:
    """Return the source of the one target that a statement assigns."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        return source_of(node.targets[0])
    return source_of(node.target) if isinstance(node, ast.AnnAssign) else None


def effects(function: Function) -> Counter[str]:
    """Return what a function's statements do beside setting locals, and how often each does.

    A plain text (a docstring) does nothing, nor does a call that stands under a name.
    """
    found: Counter[str] = Counter()
    for node in ast.walk(function):
        alone = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
        if alone or isinstance(node, ast.Raise | ast.Assert | ast.Delete):
            found[source_of(node)] += 1
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found[f"{source_of(node)} = ..."] += 1
    return found


def bound_and_asked(function: Function) -> tuple[set[str], set[str]]:
    """Return the names that a function sets, and those that it asks for, in its own scope."""
    bound: set[str] = {n.arg for n in ast.walk(function.args) if isinstance(n, ast.arg)}
    asked: set[str] = set()
    for node in own_nodes(function.body):
        if isinstance(node, ast.Name):
            (bound if isinstance(node.ctx, ast.Store) else asked).add(node.id)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.split(".")[0])
        elif name := getattr(node, "name", None):
            bound.add(name)
    return bound, asked


def own_nodes(body: Iterable[ast.AST], within: tuple[type[ast.AST], ...] = ()) -> Iterator[ast.AST]:
    """Yield the nodes of statements but for what stands in a scope of its own, or in ``within``."""
    ahead = list(body)
    while ahead:
        node = ahead.pop()
        yield node
        if not isinstance(node, (*_SCOPES, *within)):
            ahead += ast.iter_child_nodes(node)
