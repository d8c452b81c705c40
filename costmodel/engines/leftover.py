"""Locals that a changed function sets and asks no more: a linter would find them."""

from __future__ import annotations

import ast

from .diff import Edit
from .module import Function, Module


def edits(before: Function, module: Module, name: str) -> list[Edit]:
    """Return the edits that take such statements out of the changed function ``name``.

    ``before`` is the function as it was: what nobody asked there stays. Only a plain name that is
    set once, at the top of the function, on lines of its own, goes; not where a call may have done
    more than read.
    """
    found = module.function(name)
    if found is None:
        return []
    function = found[0]
    gone = _asked(before) - _asked(function)
    stores = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and _is_store(n)]
    out = []
    for statement in function.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        target = statement.targets[0].id
        once = len(statement.targets) == 1 and stores.count(target) == 1
        calls = any(_may_do_more(n) for n in ast.walk(statement.value))
        last = _end(statement)
        shared = [s for s in function.body if s.lineno <= last and statement.lineno <= _end(s)]
        if target in gone and once and not calls and shared == [statement]:
            out.append(Edit((statement.lineno, 0), (last + 1, 0), ""))
    return out


def _may_do_more(node: ast.AST) -> bool:
    """Tell whether a node is a call of anything but what reads a table or a tensor's sizes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr not in ("get", "numel", "element_size")
    return isinstance(node, ast.Call | ast.Await)


def _end(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def _asked(function: Function) -> set[str]:
    return {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not _is_store(n)}


def _is_store(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)
