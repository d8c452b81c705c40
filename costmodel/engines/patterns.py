"""``match`` statements as the branches that decide alike."""

from __future__ import annotations

import ast


def as_branches(node: ast.Match) -> list[ast.stmt] | None:
    """Return a ``match`` as ``if`` and ``elif``, None where a pattern is more than values.

    Subject, guards and bodies are the nodes that stand there.
    """
    rest: list[ast.stmt] = []
    for case in reversed(node.cases):
        test = _test(node.subject, case.pattern)
        if test is None:
            return None
        if case.guard is not None:
            test = ast.BoolOp(ast.And(), [test, case.guard])
        branch = ast.If(test, case.body, rest)
        rest = [ast.fix_missing_locations(ast.copy_location(branch, case.body[0]))]
    return rest


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
