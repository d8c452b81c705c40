"""Where the limit that holds with no setting set stands, so that settings go on replacing it.

``limit = self._max if self._max >= 0 else 128 * 1024`` leaves ``128 * 1024``; so do ``if``
statements around another assignment, ``setting or 128 * 1024``, and a default that is handed to
``os.environ.get``.
"""

from __future__ import annotations

import ast
from fractions import Fraction

from msgspec import Struct

from .evaluation import Comparison
from .execution import Step, SymbolicRun
from .module import Module, source_of
from .reader import DispatchFunction
from .symbols import Number


class Default(Struct, frozen=True):
    """An expression of the function that is the limit while no setting is set.

    ``statement`` holds it, the limit in force is ``scale`` times its value, and ``whole`` tells
    that what reads it takes whole numbers only.
    """

    node: ast.expr
    statement: ast.stmt
    scale: Fraction
    whole: bool


def default_of(
    module: Module, dispatch: DispatchFunction, comparison: Comparison
) -> Default | None:
    """Return the default of the limit that a comparison holds, or None when it is not there."""
    node, whole = comparison.limit_node, False
    statement = next((s.node for s in dispatch.steps if node in ast.walk(s.node)), None)
    seen: set[ast.expr] = set()
    while statement is not None and node not in seen:
        seen.add(node)
        if isinstance(node, ast.IfExp | ast.BoolOp) and node in dispatch.live:
            node = dispatch.live[node]
        elif isinstance(node, ast.Name):
            setters = {s.node for s in dispatch.steps if _sets(s, node.id)}
            if len(setters) != 1:
                break
            (statement,) = setters
            node = statement.value  # type: ignore[attr-defined]
        elif isinstance(node, ast.Call) and _is_conversion(node):
            node, whole = node.args[0], True
        elif isinstance(node, ast.Call) and _reads_variable(node) and len(node.args) == 2:
            node = node.args[1]
        elif isinstance(node, ast.BinOp) and _scales_a_setting(node):
            # A unit: the default is what is scaled by it.
            node, whole = node.left, True
        else:
            break
    if statement is None or node is comparison.limit_node:
        return None
    scale = _scale(module, dispatch, comparison, node, statement)
    return None if scale is None else Default(node, statement, scale, whole)


def _scales_a_setting(node: ast.BinOp) -> bool:
    """Tell ``(setting or 128) * 1024`` from ``128 * 1024``."""
    held = ast.IfExp | ast.BoolOp | ast.Name | ast.Call
    return isinstance(node.op, ast.Mult | ast.LShift) and any(
        isinstance(n, held) for n in ast.walk(node.left)
    )


def _sets(step: Step, name: str) -> bool:
    node = step.node
    if isinstance(node, ast.Assign):
        return len(node.targets) == 1 and source_of(node.targets[0]) == name
    return isinstance(node, ast.AnnAssign) and source_of(node.target) == name


def _is_conversion(node: ast.Call) -> bool:
    return source_of(node.func) in ("int", "float", "str") and len(node.args) == 1


def _reads_variable(node: ast.Call) -> bool:
    return source_of(node.func).endswith(("environ.get", "getenv"))


def _scale(
    module: Module,
    dispatch: DispatchFunction,
    comparison: Comparison,
    node: ast.expr,
    statement: ast.stmt,
) -> Fraction | None:
    """Return limit / default where that is one number at every world size, else None."""
    target = module.function(dispatch.name)
    limits = {
        c.world_size: c.limit.value for c in dispatch.comparisons if c.node is comparison.node
    }
    scales = set()
    for step in dispatch.steps:
        if step.node is not statement or target is None:
            continue
        run = SymbolicRun(module, target[1], step.world_size, scope=dict(step.names))
        value = run.value(node)
        limit = limits.get(step.world_size)
        if not isinstance(value, Number) or limit is None or not value.value:
            return None
        scales.add(Fraction(limit) / Fraction(value.value))
    return scales.pop() if len(scales) == 1 else None
