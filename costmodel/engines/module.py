"""A parsed source file: its functions and classes, its constants, and what a statement assigns."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Any

from msgspec import Struct

from ..errors import InputError
from .diff import split_lines
from .patterns import take_for_branches
from .stand_in import CHOOSES

#: Python writes no integer of more than 4300 decimal digits back as text, and parses none; one in
#: hexadecimal may have more.
MAX_DIGITS = 3500
_HUGE = re.compile(rf"0[xXoObB][0-9a-fA-F_]{{{MAX_DIGITS},}}")

Function = ast.FunctionDef | ast.AsyncFunctionDef

#: Methods that change a dictionary, a list or a set.
_CHANGING = re.compile("update|setdefault|pop|popitem|clear|append|extend|insert|remove|add")


class Module(Struct, frozen=True, dict=True):
    """A parsed source file."""

    name: str
    text: str
    tree: ast.Module

    @classmethod
    @lru_cache(maxsize=32)
    def parse(cls, name: str, text: str) -> Module:
        """Parse a file; raise :class:`InputError` with file and line for a syntax error.

        A text that was parsed lately gives the same module: nobody changes a tree.
        """
        if _HUGE.search(text):
            raise InputError(f"{name}: a number of more than {MAX_DIGITS} digits")
        try:
            # Python takes a byte order mark at the start of a file, and not of a text.
            tree = ast.parse(text.removeprefix("\ufeff"))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            at = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            what = error.msg if isinstance(error, SyntaxError) else error or "nested too deeply"
            raise InputError(f"{name}{at}: not valid Python: {what}") from None
        take_for_branches(tree)
        return cls(name, text, tree)

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
        """Return a function by ``Class.name`` or ``name``, with its class, or None.

        Of several definitions it is the one that may be in force; None where that may be more than
        one (see :meth:`definitions`).
        """
        found = self.definitions(qualified)
        return found[0] if len(found) == 1 else None

    def definitions(self, qualified: str) -> list[tuple[Function, ast.ClassDef | None]]:
        """Return the definitions of a function of which one is in force, with their classes.

        A later definition hides those before it; of branches each may run. Where the bodies of
        some say stage, the others are stubs of other platforms.
        """
        found = self._defined(qualified, hidden=False)
        if len(found) < 2:
            return found
        telling = [at for at in found if any(CHOOSES.search(self.segment(s)) for s in at[0].body)]
        return telling or found[-1:]

    def hidden(self, qualified: str) -> list[tuple[Function, ast.ClassDef | None]]:
        """Return the definitions of a function that a later one hides."""
        live = [node for node, _ in self._defined(qualified, hidden=False)]
        return [one for one in self._defined(qualified, hidden=True) if one[0] not in live]

    def _defined(
        self, qualified: str, *, hidden: bool
    ) -> list[tuple[Function, ast.ClassDef | None]]:
        """Return the definitions of a function: those that may be in force, or all."""
        *outer, last = qualified.split(".")
        bodies: list[tuple[list[ast.stmt], ast.ClassDef | None]] = [(self.tree.body, None)]
        for name in outer:
            classes = [c for body, _ in bodies for c in _named(body, ast.ClassDef, name, hidden)]
            bodies = [(c.body, c) for c in classes]
        return [
            (node, owner) for body, owner in bodies for node in _named(body, Function, last, hidden)
        ]

    def rebound(self, qualified: str) -> ast.stmt | None:
        """Return the statement that binds a function's name to something else after it, or None."""
        *outer, last = qualified.split(".")
        bodies: list[list[ast.stmt]] = [self.tree.body]
        for name in outer:
            bodies = [c.body for body in bodies for c in _named(body, ast.ClassDef, name, False)]

        def binds(node: ast.stmt) -> bool:
            if isinstance(node, Function | ast.ClassDef):
                return node.name == last
            plain = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Delete
            imports = ast.Import | ast.ImportFrom
            return isinstance(node, plain | imports) and last in assigned(node)

        found = [node for body in bodies for node in _last(body, binds)]
        return (
            None if any(isinstance(node, Function) for node in found) else next(iter(found), None)
        )

    @cached_property
    def unsettled(self) -> frozenset[str]:
        """The names of the module that a function sets, by ``global``."""
        walked = (n for n in ast.walk(self.tree) if isinstance(n, ast.Global))
        return frozenset(name for node in walked for name in node.names)

    def functions(self) -> Iterable[str]:
        """Yield the qualified name of each function of the module and of its classes once."""
        return dict.fromkeys(self._functions())

    def _functions(self) -> Iterator[str]:
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


@lru_cache(maxsize=1 << 9)
def constant_of(owner: ast.Module | ast.ClassDef, name: str) -> ast.expr | None:
    """Return what a name is set to in a module's or a class's body, or None.

    It is None too where that is not known: set in branches to more than one thing, or in a loop,
    or changed in place.
    """

    def plainly(node: ast.stmt) -> bool:
        if isinstance(node, ast.Assign):
            return any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
        return isinstance(node, ast.AnnAssign) and source_of(node.target) == name

    def sets(node: ast.stmt) -> bool:
        if isinstance(node, ast.AnnAssign) and node.value is None:
            return False
        if isinstance(node, Function | ast.ClassDef | ast.If | ast.Try | ast.With):
            return False
        return plainly(node) or bool(_touched(node) & {name, "*", "globals()"})

    values = [n.value if plainly(n) else None for n in _last(owner.body, sets)]
    known = {source_of(value): value for value in values if value is not None}
    return next(iter(known.values())) if len(known) == 1 and None not in values else None


@lru_cache(maxsize=64)
def _stored(owner: ast.ClassDef) -> Counter[str]:
    """Return how often which attribute of ``self``, ``cls`` or the class its methods set."""
    own = ("self", "cls", owner.name, "type(self)")
    return Counter(
        n.attr
        for n in ast.walk(owner)
        if isinstance(n, ast.Attribute)
        and not isinstance(n.ctx, ast.Load)
        and source_of(n.value) in own
    )


def class_constant(owner: ast.ClassDef, name: str) -> ast.expr | None:
    """Return what a class sets a name to, None where a method may set it anew."""
    return None if _stored(owner)[name] else constant_of(owner, name)


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


def _named(body: list[ast.stmt], kind: Any, name: str, hidden: bool) -> list[Any]:
    """Return the functions or classes of a name: those that may be in force, or all."""

    def is_it(node: ast.stmt) -> bool:
        return isinstance(node, kind) and bool(node.name == name)

    return [n for n in _flat(body) if is_it(n)] if hidden else _last(body, is_it, handlers=True)


def _last(
    body: list[ast.stmt], sets: Callable[[ast.stmt], bool], handlers: bool = False
) -> list[Any]:
    """Return the statements of which one is the last to set a name when a body has run.

    A ``try`` is taken to end well, unless ``handlers`` are asked for.
    """
    found: list[ast.stmt] = []
    for node in body:
        if sets(node):
            found = [node]
            continue
        ways = _ways(node, handlers)
        inner = [_last(way, sets, handlers) for way in ways]
        if any(inner):
            found = ([] if all(inner) else found) + [n for way in inner for n in way]
    return found


def _ways(node: ast.stmt, handlers: bool) -> list[list[ast.stmt]]:
    """Return the bodies inside a statement of which one runs."""
    if isinstance(node, ast.With):
        return [node.body]
    if isinstance(node, ast.Try):
        excepted = [h.body + node.finalbody for h in node.handlers] if handlers else []
        return [node.body + node.orelse + node.finalbody, *excepted]
    ways = []
    while isinstance(node, ast.If):
        # Each elif is an if in the else of the one before: no recursion, a chain may be long.
        ways.append(node.body)
        if len(node.orelse) != 1 or not isinstance(node.orelse[0], ast.If):
            return [*ways, node.orelse]
        node = node.orelse[0]
    return ways


@lru_cache(maxsize=1 << 12)
def changed(node: ast.stmt) -> tuple[ast.expr, ...]:
    """Return what a statement may change in place, at any depth: an item is set, an update."""
    found = []
    for n in ast.walk(node):
        if isinstance(n, ast.Subscript) and not isinstance(n.ctx, ast.Load):
            found.append(n.value)
        called = n.func if isinstance(n, ast.Call) else None
        if isinstance(called, ast.Attribute) and _CHANGING.fullmatch(called.attr):
            found.append(called.value)
    return tuple(found)


@lru_cache(maxsize=1 << 12)
def _touched(node: ast.stmt) -> frozenset[str]:
    """Return the names that a statement sets or may change, at any depth."""
    return frozenset((*assigned(node), *map(source_of, changed(node))))


@lru_cache(maxsize=1 << 14)
def assigned(node: ast.stmt) -> tuple[str, ...]:
    """Return the plain names that a statement sets, at any depth; ``*`` for whatever it imports."""
    names = []
    for n in ast.walk(node):
        if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load):
            names.append(n.id)
        elif isinstance(n, ast.alias):
            names.append(n.asname or n.name.split(".")[0])
        elif isinstance(n, ast.MatchAs | ast.MatchStar) and n.name:
            names.append(n.name)
    return tuple(names)


@lru_cache(maxsize=64)
def _links(
    function: Function,
) -> tuple[dict[ast.AST, ast.AST], dict[str, list[tuple[ast.AST, ast.expr]]]]:
    """Return what each syntax node stands in, and the assignments, with their values, by name."""
    parent: dict[ast.AST, ast.AST] = {}
    made: dict[str, list[tuple[ast.AST, ast.expr]]] = {}
    for node in ast.walk(function):
        parent.update(dict.fromkeys(ast.iter_child_nodes(node), node))
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            for name in assigned(node):
                made.setdefault(name, []).append((node, node.value))
    return parent, made


def made_of(function: Function, seeds: Iterable[ast.AST]) -> set[ast.AST]:
    """Return the syntax nodes that expressions are made of, through the names that they go by.

    The test of a branch that sets such a name belongs to it; one around all seeds does not.
    """
    parent, made = _links(function)
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

    seen: set[ast.AST] = set()
    named: set[str] = set()
    followed: set[ast.If] = set()
    ahead = list(seeds)
    while ahead:
        for node in ast.walk(ahead.pop()):
            if node in seen:
                continue
            seen.add(node)
            if not isinstance(node, ast.Name) or node.id in named:
                continue
            named.add(node.id)
            for statement, value in made.get(node.id, ()):
                ahead.append(value)
                branch = branch_of(statement)
                while branch is not None and branch not in followed:
                    followed.add(branch)
                    ahead.append(branch.test)
                    branch = branch_of(branch)
    return seen


def input_name(node: Function) -> str:
    """Return the parameter that is the input: the first one that is not ``self`` or ``cls``."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    return next((n for n in names if n not in ("self", "cls")), "")
