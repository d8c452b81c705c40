"""A parsed source file: its functions and classes, its constants, and what a statement assigns."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import InputError

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A parsed source file."""

    name: str
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, name: str, text: str) -> Module:
        """Parse a file; raise :class:`InputError` with file and line for a syntax error."""
        try:
            return cls(name, text, ast.parse(text))
        except (SyntaxError, ValueError, RecursionError) as error:
            at = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            what = error.msg if isinstance(error, SyntaxError) else error
            raise InputError(f"{name}{at}: not valid Python: {what}") from None

    def function(self, qualified: str) -> tuple[Function, ast.ClassDef | None] | None:
        """Return a function by ``Class.name`` or ``name``, with its class, or None."""
        *outer, last = qualified.split(".")
        body: list[ast.stmt] = self.tree.body
        owner: ast.ClassDef | None = None
        for name in outer:
            classes = [n for n in _flat(body) if isinstance(n, ast.ClassDef)]
            owner = next((c for c in classes if c.name == name), None)
            if owner is None:
                return None
            body = owner.body
        for node in _flat(body):
            if isinstance(node, Function) and node.name == last:
                return node, owner
        return None

    def functions(self) -> Iterable[str]:
        """Yield the qualified names of the functions of the module and of its classes."""
        for node in _flat(self.tree.body):
            if isinstance(node, Function):
                yield node.name
            elif isinstance(node, ast.ClassDef):
                for inner in _flat(node.body):
                    if isinstance(inner, Function):
                        yield f"{node.name}.{inner.name}"


def constant_of(body: list[ast.stmt], name: str) -> ast.expr | None:
    """Return what a name is set to in a module's or a class's body, or None."""
    for node in _flat(body):
        if isinstance(node, ast.Assign):
            if any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return node.value
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return node.value
    return None


def _flat(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Yield statements, looking into ``if``, ``try`` and ``with`` of module and class level."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _flat([*node.body, *getattr(node, "orelse", [])])


def assigned(node: ast.stmt) -> list[str]:
    """Return the plain names that a statement sets, at any depth."""
    return [
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]


def input_name(node: Function) -> str:
    """Return the parameter that is the input: the first one that is not ``self`` or ``cls``."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    return next((n for n in names if n not in ("self", "cls")), "")
