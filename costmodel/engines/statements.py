"""What a function's statements say by their form: parents, branches on the ranks, targets."""

from __future__ import annotations

import ast

from .evaluation import WORLD
from .module import source_of


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


def value_of(node: ast.stmt) -> ast.expr | None:
    """Return what a statement assigns or returns."""
    return node.value if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return) else None


def target_of(node: ast.stmt) -> str | None:
    """Return the source of the one target that a statement assigns."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        return source_of(node.targets[0])
    return source_of(node.target) if isinstance(node, ast.AnnAssign) else None
