"""A parsed source file: its functions and classes, its constants, and what a statement assigns."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, lru_cache

from msgspec import Struct

from ..errors import InputError
from .diff import split_lines

#: Python writes no integer of more than 4300 decimal digits back as text, and parses none; one in
#: hexadecimal may have more.
MAX_DIGITS = 3500
_HUGE = re.compile(rf"0[xXoObB][0-9a-fA-F_]{{{MAX_DIGITS},}}")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(Struct, frozen=True, dict=True):
    """A parsed source file."""

    name: str
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, name: str, text: str) -> Module:
        """Parse a file; raise :class:`InputError` with file and line for a syntax error."""
        if _HUGE.search(text):
            raise InputError(f"{name}: a number of more than {MAX_DIGITS} digits")
        try:
            # Python takes a byte order mark at the start of a file, and not of a text.
            return cls(name, text, ast.parse(text.removeprefix("\ufeff")))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            at = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            what = error.msg if isinstance(error, SyntaxError) else error or "nested too deeply"
            raise InputError(f"{name}{at}: not valid Python: {what}") from None

    @cached_property
    def lines(self) -> list[bytes]:
        """The lines of the file, with their ends, in UTF-8."""
        return [line.encode("utf-8", "surrogatepass") for line in split_lines(self.text)]

    def segment(self, node: ast.AST) -> str:
        """Return the text that an expression or a statement of the file spans, "" for any other.

        As ``ast.get_source_segment``, which takes the whole file apart letter by letter.
        """
        if not isinstance(node, ast.expr | ast.stmt) or node.end_lineno is None:
            return ""
        lines = self.lines[node.lineno - 1 : node.end_lineno]
        if not lines:
            return ""
        # The end first: on one line the start is cut from what is left.
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"".join(lines).decode("utf-8", "surrogatepass")

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


@lru_cache(maxsize=1 << 14)
def source_of(node: ast.AST) -> str:
    """Return a syntax node as source, "..." where it is nested too deeply for that."""
    try:
        return ast.unparse(node)
    except RecursionError:
        return "..."


def constant_of(body: list[ast.stmt], name: str) -> ast.expr | None:
    """Return what a name is set to in a module's or a class's body, or None."""
    for node in _flat(body):
        if isinstance(node, ast.Assign):
            if any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return node.value
        elif isinstance(node, ast.AnnAssign) and source_of(node.target) == name:
            return node.value
    return None


@lru_cache(maxsize=64)
def instance_values(owner: ast.ClassDef) -> dict[str, ast.expr]:
    """Return what ``__init__`` sets attributes of ``self`` to, but for those set elsewhere too."""
    stores = Counter(
        n.attr
        for n in ast.walk(owner)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
    )
    values = {}
    for function in owner.body:
        if isinstance(function, Function) and function.name == "__init__":
            for node in _flat(function.body):
                if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                    continue
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Attribute) and stores[target.attr] == 1:
                        values[target.attr] = node.value
    return values


def _flat(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Yield statements, looking into ``if``, ``try`` and ``with`` of module and class level."""
    ahead = list(body)[::-1]
    while ahead:
        node = ahead.pop()
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            # Each elif is an if in the else of the one before: no recursion, a chain may be long.
            ahead += [*node.body, *getattr(node, "orelse", [])][::-1]


def assigned(node: ast.stmt) -> list[str]:
    """Return the plain names that a statement sets, at any depth."""
    return [
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]


def made_of(function: Function, seeds: Iterable[ast.AST]) -> set[ast.AST]:
    """Return the syntax nodes that expressions are made of, through the names that they go by.

    The test of a branch that sets such a name belongs to it; one around all seeds does not.
    """
    parent = {
        child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)
    }  # fmt: skip
    seeds = list(seeds)
    around = set(seeds)
    for node in seeds:
        while (above := parent.get(node)) is not None and above not in around:
            around.add(node := above)

    def branch_of(node: ast.AST) -> ast.If | None:
        """Return the nearest branch that a node is in, None at one that holds a seed."""
        above = parent.get(node)
        while above is not None and not isinstance(above, ast.If):
            above = parent.get(above)
        return None if above in around else above

    made: dict[str, list[tuple[ast.AST, ast.If | None]]] = {}
    for node in ast.walk(function):
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and value is not None:
            for name in assigned(node):
                made.setdefault(name, []).append((value, branch_of(node)))
    seen: set[ast.AST] = set()
    followed: set[ast.If] = set()
    ahead = list(seeds)
    while ahead:
        for node in ast.walk(ahead.pop()):
            if node not in seen:
                seen.add(node)
                for value, branch in made.pop(node.id, ()) if isinstance(node, ast.Name) else ():
                    ahead.append(value)
                    while branch is not None and branch not in followed:
                        followed.add(branch)
                        ahead.append(branch.test)
                        branch = branch_of(branch)
    return seen


def input_name(node: Function) -> str:
    """Return the parameter that is the input: the first one that is not ``self`` or ``cls``."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    return next((n for n in names if n not in ("self", "cls")), "")
