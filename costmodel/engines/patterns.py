"""``match`` statements as the branches that decide alike, for all who follow branches."""

from __future__ import annotations

import ast


def take_for_branches(tree: ast.AST) -> None:
    """Put ``if`` and ``elif`` in the place of each ``match`` of values in a syntax tree.

    They stand where it stands. One whose patterns look at the parts of its subject stays.
    """
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            for at, statement in enumerate(block):
                branch = _branches(statement) if isinstance(statement, ast.Match) else None
                if branch is not None:
                    block[at] = branch


def _branches(node: ast.Match) -> ast.If | None:
    """Return a ``match`` as branches, None where a pattern is more than values."""
    branch: ast.If | None = None
    for case in reversed(node.cases):
        test = _test(node.subject, case.pattern)
        if test is None:
            return None
        if case.guard is not None:
            test = ast.BoolOp(ast.And(), [test, case.guard])
        branch = ast.If(test, case.body, [branch] if branch else [])
        branch.lineno, branch.col_offset = case.pattern.lineno, node.col_offset
        branch.end_lineno, branch.end_col_offset = node.end_lineno, node.end_col_offset
        for made in ast.walk(test):
            if not hasattr(made, "lineno"):
                ast.copy_location(made, case.pattern)
    if branch is not None:
        branch.lineno = node.lineno
    return branch


def _test(subject: ast.expr, pattern: ast.pattern) -> ast.expr | None:
    """Return the test that a pattern makes of a subject, None for one of parts."""
    if isinstance(pattern, ast.MatchValue):
        return ast.Compare(subject, [ast.Eq()], [pattern.value])
    if isinstance(pattern, ast.MatchSingleton):
        return ast.Compare(subject, [ast.Is()], [ast.Constant(pattern.value)])
    if isinstance(pattern, ast.MatchOr):
        tests = [_test(subject, one) for one in pattern.patterns]
        known = [test for test in tests if test is not None]
        return ast.BoolOp(ast.Or(), known) if len(known) == len(tests) else None
    if isinstance(pattern, ast.MatchAs):
        inner = ast.Constant(True) if pattern.pattern is None else _test(subject, pattern.pattern)
        if inner is None or pattern.name is None:
            return inner
        named = ast.NamedExpr(ast.Name(pattern.name, ast.Store()), subject)
        return ast.BoolOp(ast.And(), [ast.Compare(named, [ast.Eq()], [subject]), inner])
    return None
