"""Run a function that was cut out of an engine's source, on stand-ins for tensors and ranks.

Only the standard library: emitted test files carry a copy of this module's code, and of that of
:mod:`.stand_in_values`. The function is
taken by its qualified name from the file's syntax tree, its call of the kernel is replaced by a
report of the chosen stage, and every name that it does not define is a stand-in, also where it is
imported inside the function. The engine is never imported.

What a stand-in says when it is asked for a truth is not known. Each is false at first; where the
function then ends without choosing a stage, they are tried the other way. A call for which no way
ends in a choice, and one returns, is not fused.
"""

# ruff: noqa: D102 - the visitor's methods are ast's.

from __future__ import annotations

import ast
import builtins
import functools
import math
import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from .stand_in_values import (
    TORCH,
    WAYS,
    Anything,
    Communicator,
    Environment,
    FakeTensor,
    Nodes,
    Variables,
    unknown,
)

CHOOSES = re.compile(r"(1|one)_?(stage|shot)", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef

#: Ways through a function that are tried for one that chooses.
MAX_WAYS = 256

#: Functions of the file that a decision may ask; others are stand-ins.
_ASKED = re.compile(r"(1|one)_?(stage|shot)|limit|fit|cutoff|threshold|bytes", re.IGNORECASE)


class Chosen(BaseException):
    """Carries the decision out of the function, past any ``except Exception``."""


class NotFusedError(AssertionError):
    """The function returned without choosing a stage, whatever stand-ins answered."""


class NoRowsError(NotFusedError):
    """Only whole rows exist for a function that goes by the shape and asks for no count."""


class Cut(ast.NodeTransformer):
    """Replace calls that take a 1-stage argument by a report of it, and imports by stand-ins."""

    def __init__(self, reports: bool, function: Function) -> None:
        self.reports = reports
        self.places = {
            _last_name(node): at
            for node in ast.walk(function)
            if isinstance(node, ast.Call)
            for at, a in enumerate(node.args)
            if isinstance(a, ast.Name) and CHOOSES.search(a.id)
        }

    def visit_Call(self, node: ast.Call) -> ast.AST:
        at = self.places.get(_last_name(node), len(node.args))
        self.generic_visit(node)
        chosen = [k.value for k in node.keywords if k.arg and CHOOSES.search(k.arg)]
        chosen += [a for a in node.args if isinstance(a, ast.Name) and CHOOSES.search(a.id)]
        chosen += node.args[at : at + 1]
        if not chosen or not self.reports:
            return node
        stated = ast.Constant(isinstance(chosen[0], ast.Constant))
        return ast.Call(ast.Name("__report__", ast.Load()), [chosen[0], stated], [])

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        target = node.targets[0]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Call):
            count = ast.Constant(len(target.elts))
            node.value = ast.Call(ast.Name("__parts__", ast.Load()), [node.value, count], [])
        return node

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.generic_visit(node).value  # type: ignore[attr-defined,no-any-return]

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        self.generic_visit(node)
        return ast.With(node.items, node.body)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        self.generic_visit(node)
        return ast.For(node.target, node.iter, node.body, node.orelse)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        self.generic_visit(node)
        return _awaited(node)

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        return [_stand_in(a.asname or a.name.split(".")[0], a.name) for a in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.stmt]:
        return [_stand_in(a.asname or a.name, f"{node.module}.{a.name}") for a in node.names]


def _awaited(node: ast.AsyncFunctionDef) -> ast.FunctionDef:
    """Return a coroutine as the function that runs it to its end."""
    fields = {name: getattr(node, name) for name in ast.FunctionDef._fields if hasattr(node, name)}
    return ast.FunctionDef(**fields)


def _last_name(node: ast.Call) -> str:
    """Return the last name of what a call calls."""
    return ast.unparse(node.func).rsplit(".", 1)[-1]


def _stand_in(name: str, imported: str) -> ast.stmt:
    """Return the assignment that takes the place of an import."""
    value = ast.Call(ast.Name("__imported__", ast.Load()), [ast.Constant(imported)], [])
    return ast.Assign([ast.Name(name, ast.Store())], value)


def parts(value: Any, count: int) -> Any:
    """Return what is unpacked into ``count`` names; of a stand-in, as many."""
    if isinstance(value, Anything):
        return [Anything(f"{value._label}[{i}]") for i in range(count)]
    return value


def report(chosen: Any, stated: bool = False) -> None:
    """End the function with its decision; ``stated`` tells that the call names the stage itself."""
    if isinstance(chosen, Anything):
        raise AssertionError("the stage is chosen by something that is not known here")
    raise Chosen(bool(chosen), stated)


def decider(
    text: str,
    qualified: str,
    environ: Mapping[str, str] | None = None,
    attributes: Mapping[str, Any] | None = None,
    host: tuple[str, str, bool] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Callable[..., bool]:
    """Return ``decide(world_size, dtype, hidden_dim, elements, fully_connected=True) -> bool``.

    ``text`` is the source of the file, ``qualified`` the function in it (``Class.method``);
    ``environ`` are the environment variables that are set, ``attributes`` those of the class.
    ``host`` holds ``gfx_target_version``, ``device_id`` and whether there is xGMI; None is a host
    without a topology of amdkfd. ``given`` are functions that take the place of those of the file.
    """
    file = _File.of(text, qualified)
    bare, owner = file.bare, file.owner
    ready: dict[tuple[int, bool], Callable[[FakeTensor], Any]] = {}

    def prepare(world_size: int, fully_connected: bool) -> Callable[[FakeTensor], Any]:
        ranks = Communicator(world_size, fully_connected)
        names = _Names(file, ranks, Environment(environ or {}), host)
        names.update(given or {})
        exec(file.code, names)
        before = [] if owner is None else [_instance(owner, ranks, names, attributes or {})]
        plain = bare.args.posonlyargs + bare.args.args
        needed = [a.arg for a in plain[: len(plain) - len(bare.args.defaults)]][len(before) + 1 :]
        keywords = [
            a.arg
            for a, default in zip(bare.args.kwonlyargs, bare.args.kw_defaults, strict=True)
            if default is None
        ]

        def call(tensor: FakeTensor) -> Any:
            after = [_argument(a, tensor, ranks) for a in needed]
            named = {a: _argument(a, tensor, ranks) for a in keywords}
            return names[bare.name](*before, tensor, *after, **named)

        return call

    def decide(
        world_size: int,
        dtype: str,
        hidden_dim: int,
        elements: int,
        fully_connected: bool = True,
    ) -> bool:
        at = (world_size, fully_connected)
        if at not in ready:
            ready[at] = prepare(*at)
        WAYS.start()
        returned = False
        fallback: bool | None = None
        for _ in range(MAX_WAYS):
            tensor = FakeTensor(elements, hidden_dim, dtype)
            try:
                ended: Any = ready[at](tensor)
            except Chosen as decision:
                ended, stated = decision.args
                if stated:
                    # A fallback names its stage; another way may compare.
                    fallback = ended if fallback is None else fallback
                    ended = fallback
                    if WAYS.next():
                        continue
            except Exception as error:
                ended = error
            if isinstance(ended, bool):
                WAYS.found()
                if elements % hidden_dim and tensor.by_rows:
                    raise NoRowsError(f"{qualified} asks for the shape alone")
                return ended
            returned |= not isinstance(ended, Exception)
            if not WAYS.next():
                break
        if fallback is not None:
            return fallback
        raise (NotFusedError if returned else AssertionError)(
            f"{qualified} ended in {ended!r} without choosing a stage"
        )

    return decide


def _argument(name: str, tensor: FakeTensor, ranks: Communicator) -> Any:
    """Return what stands in for a parameter, by its name."""
    if re.match(r"res", name):
        return tensor
    if re.match(r"w(eight)?s?_?$|gamma|norm_w", name):
        return tensor.weight()
    if "eps" in name:
        return 1e-6
    return ranks.world_size if "world_size" in name else Anything(name)


def _defined(
    tree: ast.Module, outer: list[str], name: str
) -> tuple[ast.ClassDef | None, Function | None]:
    """Return a function, with its class: the last definition, rather one whose body says stage."""
    owners: list[ast.ClassDef | None] = [
        n for n in _inside(tree.body) if isinstance(n, ast.ClassDef) and [n.name] == outer
    ]
    found: list[tuple[ast.ClassDef | None, Function]] = [
        (owner, node)
        for owner in (owners or [None])
        for node in _inside(owner.body if owner else tree.body)
        if isinstance(node, Function) and node.name == name
    ]
    telling = [at for at in found if any(CHOOSES.search(ast.unparse(s)) for s in at[1].body)]
    last = telling or found
    return last[-1] if last else (None, None)


def _inside(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return statements with those in the branches of ``if``, ``try`` and ``with``."""
    found: list[ast.stmt] = []
    for node in body:
        found.append(node)
        for field in ("body", "handlers", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                found += _inside(getattr(node, field, []))
    return found


def _bare(function: Function) -> Function:
    """Return the function without decorators and annotations."""
    copy: Function = ast.parse(ast.unparse(function)).body[0]  # type: ignore[assignment]
    copy.decorator_list, copy.returns = [], None
    for argument in ast.walk(copy.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return copy


def _compiled(function: Function, reports: bool = False) -> Any:
    """Return the code that defines a function on stand-ins."""
    module = ast.parse(ast.unparse(_bare(function)))
    cut = Cut(reports, function).visit(module)
    return compile(ast.fix_missing_locations(cut), function.name, "exec")


def _instance(
    owner: ast.ClassDef, ranks: Communicator, names: dict[str, Any], attributes: Mapping[str, Any]
) -> Any:
    """Return a stand-in for ``self``: constants and methods of the class, and the communicator."""
    methods = {n.name: n for n in owner.body if isinstance(n, Function)}

    class Instance:
        ca_comm = _impl = aiter_ca = ranks
        disabled = False
        world_size = ranks.world_size
        fully_connected = ranks.fully_connected

        def __getattr__(self, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            node = methods.get(attribute)
            if node is None:
                return Anything(f"self.{attribute}")
            exec(_compiled(node), names)
            function = names[attribute]
            how = " ".join(ast.unparse(d) for d in node.decorator_list)
            if "property" in how:
                return function(self)
            setattr(type(self), attribute, staticmethod(function) if "static" in how else function)
            return getattr(self, attribute)

    set_up: list[ast.AST] = list(owner.body)
    if "__init__" in methods:
        held = "environ|getenv|envs"
        set_up += [n for n in ast.walk(methods["__init__"]) if re.search(held, _value_text(n))]
    for statement in set_up:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            _set(Instance, statement, names)
    names[owner.name] = Instance
    for attribute, value in attributes.items():
        setattr(Instance, attribute, value)
    return Instance()


def _value_text(node: ast.AST) -> str:
    """Return the source of what a statement assigns, "" where it assigns nothing."""
    assigns = isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    return ast.unparse(node.value) if assigns else ""  # type: ignore[attr-defined]


def _set(instance: type, node: ast.Assign | ast.AnnAssign, names: dict[str, Any]) -> None:
    """Set what a statement of the class or of ``__init__`` sets, where that is a constant."""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
    value = Anything() if node.value is None else _constant(node.value, names)
    if name and not isinstance(value, Anything):
        setattr(instance, name, value)
        names.setdefault(name, value)


def _constant(node: ast.expr, names: dict[str, Any]) -> Any:
    try:
        return eval(compile(ast.Expression(node), "constant", "eval"), names)
    except Exception:
        return Anything()


class _File:
    """A function to decide by, its class, and what of its file is the same for all ranks."""

    def __init__(self, text: str, qualified: str) -> None:
        tree = ast.parse(text)
        *outer, name = qualified.split(".")
        self.owner, function = _defined(tree, outer, name)
        if function is None:
            raise AssertionError(f"no function {qualified} in the source")
        self.bare, self.code = _bare(function), _compiled(function, reports=True)
        self.body = tree.body
        self.names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        self.asked = [
            _compiled(node)
            for node in tree.body
            if isinstance(node, Function)
            and (_ASKED.search(node.name) or re.search("environ|getenv", ast.unparse(node)))
        ]

    @classmethod
    @functools.lru_cache(maxsize=8)  # one function is asked with many settings
    def of(cls, text: str, qualified: str) -> _File:
        return cls(text, qualified)


class _Names(dict):  # type: ignore[type-arg]
    """The globals of the function: what its module defines plainly, stand-ins for the rest."""

    def __init__(
        self,
        file: _File,
        ranks: Communicator,
        environ: Environment,
        host: tuple[str, str, bool] | None,
    ) -> None:
        wrapper = SimpleNamespace(
            aiter_ca=ranks,
            disabled=False,
            world_size=ranks.world_size,
            fully_connected=ranks.fully_connected,
        )
        known = {
            "torch": TORCH,
            "math": math,
            "os": SimpleNamespace(environ=environ, getenv=environ.get),
            "os.environ": environ,
            "os.getenv": environ.get,
            "envs": Variables(environ),
            "pathlib.Path": lambda path: Nodes(host),
        }
        super().__init__(
            known,
            __builtins__=builtins,
            __report__=report,
            __parts__=parts,
            __imported__=lambda name: known[name] if name in known else unknown(name, environ),
            environ=environ,
            getenv=environ.get,
            _tuned_max_size=lambda *call: None,  # a run-time table without an entry
            rocm_aiter_ops=SimpleNamespace(get_aiter_allreduce=lambda: wrapper),
        )
        for name in file.names:
            if name not in self and not hasattr(builtins, name):
                is_there = re.match(r"(is|on)_(hip|gfx)", name)
                self[name] = (lambda *a, **k: True) if is_there else unknown(name, environ)
        for node in _inside(file.body):
            # Another name of a module or function that is known here: import os as _os.
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
                if alias.asname and above + alias.name in known:
                    self[alias.asname] = known[above + alias.name]
        for code in file.asked:
            exec(code, self)
        for statement in _flat(file.body):
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                target = (
                    statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                )
                value = _constant(statement.value, self)
                if isinstance(target, ast.Name) and not isinstance(value, Anything):
                    self[target.id] = value


def _flat(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return statements of module level with those inside ``try``."""
    return [s for node in body for s in (node.body if isinstance(node, ast.Try) else [node])]
