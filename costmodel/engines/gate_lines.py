"""The lines of a source file that declare, read or hang on a setting.

A name is followed as far as a reader would follow it inside one file: the constant that holds an
environment variable's name, the attribute that holds its value, the function that returns it. A
line decides where it tests one of them; a test that only chooses a log message decides nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from msgspec import Struct, field

from ..rules.condition import exact_size
from ..units import MIB
from .diff import split_lines
from .evaluation import MAX_NESTING
from .module import Module, source_of
from .schemas import PlaceRecord

Names = re.Pattern[str]

#: Longest source text that is shown of a line.
MAX_TEXT = 160
#: How many steps a name is followed inside a file.
STEPS = 4
#: Calls that read the environment, by their last name.
_READS = re.compile(r"get|getenv|is_set|\w*env\w*", re.IGNORECASE)
_LOGS = re.compile(r"(logger|logging|log|warnings)\b|print$")


class GateLine(Struct, frozen=True):
    """A line of a file, the function that it stands in ("" at module level), and what it says."""

    file: str
    line: int
    function: str
    text: str

    def to_dict(self) -> PlaceRecord:
        """Return the place as JSON data."""
        return {
            "file": self.file, "line": self.line, "function": self.function, "text": self.text
        }  # fmt: skip


class Found(Struct):
    """What a file, or several, say of a gate."""

    default: str = ""
    reads: list[GateLine] = field(default_factory=list)
    decides: list[GateLine] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Join what another file says; the first default that is stated counts."""
        self.default = self.default or other.default
        self.reads += other.reads
        self.decides += other.decides


def in_native_text(file: str, text: str, names: Names) -> Found:
    """Return the lines of a C++ file that name a gate, comments left out; the first ten of them."""
    found = Found()
    word = re.compile(rf"\b(?:{names.pattern})\b")
    lines = split_lines(text)
    for number, line in enumerate(lines, 1):
        code = line.split("//")[0]
        if word.search(code) and len(found.decides) < 10:
            found.decides.append(GateLine(file, number, "", _short(code)))
            size = _native_figure(code)
            if size is not None and not found.default:
                found.default = exact_size(size)
    return found


def _native_figure(code: str) -> int | None:
    """Return the whole number that a C++ constant is set to, None where it is not plain."""
    value = re.search(r"=\s*([\d\s*<]{1,60});", code)
    try:
        (statement,) = ast.parse(value[1].strip() if value else "").body
    except (SyntaxError, ValueError):
        return None
    return fold(statement.value, {}) if isinstance(statement, ast.Expr) else None


def in_python(module: Module, names: Names, functions: Names, *, limit: bool) -> Found:
    """Return the lines of a module that declare, read or hang on ``names``.

    Lines that decide count in functions whose qualified name matches ``functions``. ``limit`` looks
    for sizes of a MiB and more instead: constants of those names, and comparisons with a figure.
    """
    scopes = list(_scopes(module.tree.body, "", module.tree))
    if limit:
        return _limits(module.name, scopes, names, functions)
    seen = _Following(names, scopes)
    found = Found()
    for scope in scopes:
        for node in scope.nodes:
            told = _told(node, scope, names, seen)
            if told is not None:
                found.default = found.default or told
                found.reads.append(_place(module.name, scope, node))
            for part, text in _deciding(node, scope, seen, functions):
                found.decides.append(_place(module.name, scope, part, text))
    found.decides = _by_line(found.decides)
    at = {(p.file, p.line) for p in found.decides}
    found.reads = [p for p in _by_line(found.reads) if (p.file, p.line) not in at]
    return found


class _Scope(Struct, frozen=True):
    """A function, a class body or the module: its own nodes, those of inner ones left out."""

    name: str
    node: ast.AST
    nodes: tuple[ast.AST, ...]

    @property
    def is_function(self) -> bool:
        return isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef)


#: What a function that only asks returns.
_ANSWERS = (ast.Compare, ast.UnaryOp, ast.Name, ast.Attribute)
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _scopes(body: list[ast.stmt], name: str, node: ast.AST) -> Iterator[_Scope]:
    own: list[ast.AST] = []
    inner: list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef] = []
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        here = waiting.pop()
        if isinstance(here, _INNER):
            inner.append(here)
            continue
        own.append(here)
        waiting += reversed(list(ast.iter_child_nodes(here)))
    yield _Scope(name, node, tuple(own))
    for one in inner:
        yield from _scopes(one.body, f"{name}.{one.name}" if name else one.name, one)


class _Following:
    """Which names of a file stand for a setting, besides its own."""

    def __init__(self, names: Names, scopes: list[_Scope]) -> None:
        self.names = names
        self.constants = _constants(scopes)
        self.everywhere: set[str] = set()
        self.functions: set[str] = set()
        self.local: dict[str, set[str]] = {}
        for _ in range(STEPS):
            before = len(self.everywhere) + len(self.functions) + sum(map(len, self.local.values()))
            for scope in scopes:
                self._follow(scope)
            after = len(self.everywhere) + len(self.functions) + sum(map(len, self.local.values()))
            if after == before:
                break

    def _follow(self, scope: _Scope) -> None:
        for node in scope.nodes:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            if not self._is_of(node.value, scope):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute):
                    self.everywhere.add(target.attr)
                elif isinstance(target, ast.Name):
                    kept = self.local.setdefault(scope.name, set())
                    (kept if scope.is_function else self.everywhere).add(target.id)
        if not scope.is_function or not any(isinstance(n, ast.Return) for n in scope.nodes):
            return
        if any(isinstance(n, ast.Call) and self.reads(n, scope) for n in scope.nodes):
            self.functions.add(scope.name.rpartition(".")[2])

    def _is_of(self, value: ast.expr, scope: _Scope) -> bool:
        """Tell whether a value is the setting or made of it.

        What a kernel returns is not, nor a choice on several things: the line that makes it counts.
        """
        if isinstance(value, ast.Dict) or (isinstance(value, ast.BoolOp) and scope.is_function):
            return False
        if isinstance(value, ast.Call):
            return any(
                isinstance(part, ast.Call) and self._asks(part, scope) for part in ast.walk(value)
            )
        return self.in_(value, None)

    def _asks(self, call: ast.Call, scope: _Scope) -> bool:
        return _last(call.func) in self.functions or self.reads(call, scope)

    def reads(self, call: ast.Call, scope: _Scope) -> bool:
        """Tell whether a call reads the setting from the environment."""
        if not _READS.fullmatch(_last(call.func)):
            return False
        named = [a for a in call.args[:1] if isinstance(a, ast.Constant | ast.Name)]
        return any(self.in_(part, scope) for part in (call.func, *named))

    def in_(self, node: ast.AST, scope: _Scope | None) -> bool:
        """Tell whether an expression looks at the setting, or at a local of ``scope`` that does."""
        local = self.local.get(scope.name, set()) if scope and scope.is_function else set()
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and _last(part.func) in self.functions:
                return True
            word = _word(part)
            if word and (word in self.everywhere or self.names.fullmatch(word)):
                return True
            if isinstance(part, ast.Name) and part.id in local:
                return True
        return False


def _told(node: ast.AST, scope: _Scope, names: Names, seen: _Following) -> str | None:
    """Return the default that a node states for a setting, "" for none; None for other nodes."""
    if isinstance(node, ast.Call) and seen.reads(node, scope):
        given = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "default")]
        if any(names.fullmatch(_word(part)) for part in ast.walk(node)) or scope.is_function:
            return _plain(given[0]) if given and _plain(given[0]) else _returned(scope, seen)
        return None
    if isinstance(node, ast.Subscript) and names.fullmatch(_word(node.slice)):
        return ""
    if isinstance(node, ast.Assign | ast.AnnAssign) and not scope.is_function:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(t, ast.Name) and names.fullmatch(t.id) for t in targets):
            value = node.value
            if isinstance(value, ast.Call):
                value = value.args[0] if value.args else None
            return "" if value is None else _plain(value)
    return None


def _returned(scope: _Scope, seen: _Following) -> str:
    """Return the size that a function falls back to where the setting is unset, "" for none."""
    if not scope.is_function:
        return ""
    for node in scope.nodes:
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Name | ast.Constant):
            size = fold(node.value, seen.constants)
            if size is not None:
                return exact_size(size) if size >= MIB else str(size)
    return ""


def _deciding(
    node: ast.AST, scope: _Scope, seen: _Following, functions: Names
) -> Iterator[tuple[ast.AST, str]]:
    """Yield the expressions at a node that hang on the setting or set it, as they are to be read.

    What an option's own table of defaults says counts wherever it stands.
    """
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None or not seen.names.fullmatch(_word(key)):
                continue
            if isinstance(value, ast.Constant | ast.Name | ast.Attribute):
                yield key, f"{source_of(key)}: {source_of(value)}"
    if not functions.search(scope.name) or (functions.pattern and not scope.name):
        return
    parts: list[ast.expr] = []
    if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
        logs = isinstance(node, ast.If) and _only_logs(node)
        parts = [] if logs else [node.test]
    elif isinstance(node, ast.BoolOp):
        parts = node.values
    elif isinstance(node, ast.Return) and isinstance(node.value, _ANSWERS):
        parts = [node.value]
    for part in parts:
        if not isinstance(part, ast.BoolOp) and seen.in_(part, scope):
            yield part, source_of(part)
    if isinstance(node, ast.Call):
        for word in node.keywords:
            if word.arg and seen.names.fullmatch(word.arg):
                yield word.value, f"{word.arg}={source_of(word.value)}"
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Attribute) and seen.names.fullmatch(target.attr):
                yield node, source_of(node)


def _limits(file: str, scopes: list[_Scope], names: Names, functions: Names) -> Found:
    """Return the sizes that bound an op: constants by name, and comparisons with a figure."""
    found = Found()
    constants = _constants(scopes)
    said: list[str] = []
    for scope in scopes:
        asked = functions.search(scope.name)
        for node in scope.nodes:
            for name, value in _named_values(node, scope):
                size = fold(value, constants)
                if size is not None and size >= MIB and names.pattern and names.fullmatch(name):
                    found.reads.append(_place(file, scope, node))
                    said.append(f"{name} {exact_size(size)}")
            if not asked or not isinstance(node, ast.Compare):
                continue
            sides = (node.left, *node.comparators)
            size = next((s for e in sides if (s := fold(e, constants)) is not None), None)
            named = names.pattern and any(names.fullmatch(_word(p)) for p in ast.walk(node))
            if named or (not names.pattern and size is not None and size >= MIB):
                found.decides.append(_place(file, scope, node))
                if size is not None:
                    said.append(exact_size(size))
    found.default = ", ".join(dict.fromkeys(said))
    found.decides = _by_line(found.decides)
    return found


def _named_values(node: ast.AST, scope: _Scope) -> Iterator[tuple[str, ast.expr]]:
    """Yield what a node gives a name: a constant's, or what a function of that name returns."""
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and not scope.is_function:
                yield target.id, node.value
    elif isinstance(node, ast.Return) and node.value is not None and scope.is_function:
        yield scope.name.rpartition(".")[2], node.value


def _constants(scopes: list[_Scope]) -> dict[str, int]:
    out: dict[str, int] = {}
    for scope in scopes:
        if scope.is_function:
            continue
        for node in scope.nodes:
            for name, value in _named_values(node, scope):
                size = fold(value, out)
                if size is not None:
                    out.setdefault(name, size)
    return out


def fold(node: ast.expr, constants: dict[str, int], nesting: int = 0) -> int | None:
    """Return the whole number that an expression of constants is, None for any other.

    None too for one that is nested more deeply than :data:`MAX_NESTING`.
    """
    if nesting > MAX_NESTING:
        return None
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        return value if abs(value) < 1 << 62 else None
    if isinstance(node, ast.Name | ast.Attribute):
        return constants.get(_word(node))
    if isinstance(node, ast.Call) and _last(node.func) == "int" and len(node.args) == 1:
        return fold(node.args[0], constants, nesting + 1)
    if not isinstance(node, ast.BinOp):
        return None
    left, right = (fold(part, constants, nesting + 1) for part in (node.left, node.right))
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.LShift):
        value = left << right if 0 <= right < 62 else None
    elif isinstance(node.op, ast.Div | ast.FloorDiv):
        value = left // right if right else None
    elif isinstance(node.op, ast.Mult):
        value = left * right
    elif isinstance(node.op, ast.Add):
        value = left + right
    else:
        value = left - right if isinstance(node.op, ast.Sub) else None
    return value if value is not None and abs(value) < 1 << 62 else None


def _only_logs(node: ast.If) -> bool:
    """Tell whether a branch does nothing but choose a message."""
    # The body first: mostly it says no at once, and the rest of a chain may be long.
    waiting: list[ast.stmt] = [*node.orelse, *node.body]
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ast.If):
            waiting += [*statement.orelse, *statement.body]
        elif not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and _LOGS.match(source_of(statement.value.func))
        ) and not isinstance(statement, ast.Pass):
            return False
    return True


def _word(node: ast.AST) -> str:
    """Return the word that a node is: an identifier, an attribute's last name, or a string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""


def _last(function: ast.expr) -> str:
    return _word(function) if isinstance(function, ast.Name | ast.Attribute) else ""


def _plain(node: ast.expr) -> str:
    """Return a default as people write it; an empty string or None is none."""
    if isinstance(node, ast.Constant):
        return "" if node.value in ("", None) else str(node.value)
    return _short(source_of(node))


def _place(file: str, scope: _Scope, node: ast.AST, text: str = "") -> GateLine:
    line: int = getattr(node, "lineno", 1)
    return GateLine(file, line, scope.name, _short(text or source_of(node)))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _by_line(places: list[GateLine]) -> list[GateLine]:
    """Return one place a line, in order."""
    first: dict[tuple[str, int], GateLine] = {}
    for place in places:
        first.setdefault((place.file, place.line), place)
    return sorted(first.values(), key=lambda p: (p.file, p.line))
