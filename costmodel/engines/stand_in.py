"""Run a function that was cut out of an engine's source, on stand-ins for tensors and ranks.

Only the standard library: emitted test files carry a copy of this module's code. The function is
taken by its qualified name from the file's syntax tree, its call of the kernel is replaced by a
report of the chosen stage, and every name that it does not define is a stand-in. The engine is
never imported.
"""

# ruff: noqa: D102 - the tensor's methods are torch's.

from __future__ import annotations

import ast
import builtins
import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

CHOOSES = re.compile(r"(1|one)_?(stage|shot)", re.IGNORECASE)
ELEMENT_SIZE = {"bf16": 2, "fp16": 2, "fp32": 4}


class Chosen(BaseException):
    """Carries the decision out of the function, past any ``except Exception``."""


class Anything:
    """Takes any call and attribute, and counts as false."""

    def __call__(self, *args: Any, **kwargs: Any) -> Anything:
        return self

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __bool__(self) -> bool:
        return False


TORCH = SimpleNamespace(
    bfloat16="bf16",
    float16="fp16",
    half="fp16",
    float32="fp32",
    float="fp32",
    Tensor=object,
    cuda=SimpleNamespace(is_current_stream_capturing=lambda: False),
)


class FakeTensor:
    """An input of ``elements`` elements in rows of ``hidden_dim``; the count may be off a row."""

    def __init__(self, elements: int, hidden_dim: int, dtype: str) -> None:
        self.elements = elements
        self.shape = (elements // hidden_dim, hidden_dim)
        self.dtype = dtype
        self.itemsize = ELEMENT_SIZE[dtype]
        self.nbytes = elements * self.itemsize

    def numel(self) -> int:
        return self.elements

    nelement = numel

    def element_size(self) -> int:
        return self.itemsize

    def size(self, index: int | None = None) -> Any:
        return self.shape if index is None else self.shape[index]

    def dim(self) -> int:
        return 2

    def is_contiguous(self) -> bool:
        return True


class Communicator:
    """The custom all-reduce object that engines hold under several names."""

    disabled = False
    custom_fused_ar_rms = fused_ar_rms = Anything()
    custom_fused_ar_rms_per_group_quant = fused_ar_rms_per_group_quant = Anything()

    def __init__(self, world_size: int, fully_connected: bool) -> None:
        self.world_size = world_size
        self.fully_connected = fully_connected

    def should_custom_ar(self, tensor: FakeTensor) -> bool:
        return True


class Report(ast.NodeTransformer):
    """Replace every call that takes a 1-stage argument by a report of that argument."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        chosen = [k.value for k in node.keywords if k.arg and CHOOSES.search(k.arg)]
        chosen += [a for a in node.args if isinstance(a, ast.Name) and CHOOSES.search(a.id)]
        if not chosen:
            return node
        return ast.Call(ast.Name("__report__", ast.Load()), [chosen[0]], [])


def report(chosen: Any) -> None:
    """End the function with its decision."""
    raise Chosen(bool(chosen))


def decider(text: str, qualified: str) -> Callable[..., bool]:
    """Return ``decide(world_size, dtype, hidden_dim, elements, fully_connected=True) -> bool``.

    ``text`` is the source of the file, ``qualified`` the function in it (``Class.method``).
    """
    tree = ast.parse(text)
    *outer, name = qualified.split(".")
    owner = next((n for n in tree.body if isinstance(n, ast.ClassDef) and [n.name] == outer), None)
    body = owner.body if owner else tree.body
    found = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == name]
    if not found:
        raise AssertionError(f"no function {qualified} in the source")
    bare = _bare(found[-1])
    function = Report().visit(ast.parse(ast.unparse(bare)))

    code = compile(ast.fix_missing_locations(function), name, "exec")
    ready: dict[tuple[int, bool], Callable[[FakeTensor], Any]] = {}

    def prepare(world_size: int, fully_connected: bool) -> Callable[[FakeTensor], Any]:
        ranks = Communicator(world_size, fully_connected)
        names = _Names(tree, ranks)
        exec(code, names)
        before = [] if owner is None else [_instance(owner, ranks, names)]
        plain = bare.args.posonlyargs + bare.args.args
        needed = len(plain) - len(bare.args.defaults)
        after = [Anything() for _ in plain[len(before) + 1 : needed]]
        keywords = {
            a.arg: Anything()
            for a, default in zip(bare.args.kwonlyargs, bare.args.kw_defaults, strict=True)
            if default is None
        }
        return lambda tensor: names[name](*before, tensor, *after, **keywords)

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
        try:
            returned = ready[at](FakeTensor(elements, hidden_dim, dtype))
        except Chosen as decision:
            return bool(decision.args[0])
        if not isinstance(returned, bool):
            raise AssertionError(f"{qualified} returned {returned!r} without choosing a stage")
        return returned

    return decide


def _bare(function: ast.FunctionDef) -> ast.FunctionDef:
    """Return the function without decorators and annotations."""
    copy: ast.FunctionDef = ast.parse(ast.unparse(function)).body[0]  # type: ignore[assignment]
    copy.decorator_list, copy.returns = [], None
    for argument in ast.walk(copy.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return copy


def _instance(owner: ast.ClassDef, ranks: Communicator, names: dict[str, Any]) -> Any:
    """Return a stand-in for ``self``: constants and methods of the class, and the communicator."""

    class Instance:
        ca_comm = _impl = aiter_ca = ranks
        disabled = False
        world_size = ranks.world_size
        fully_connected = ranks.fully_connected

        def __getattr__(self, attribute: str) -> Any:
            for node in owner.body:
                if isinstance(node, ast.FunctionDef) and node.name == attribute:
                    exec(compile(ast.unparse(_bare(node)), attribute, "exec"), names)
                    setattr(type(self), attribute, names[attribute])
                    return getattr(self, attribute)
            raise AttributeError(attribute)

    for node in owner.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = _constant(node.value, names)
            if isinstance(target, ast.Name) and not isinstance(value, Anything):
                setattr(Instance, target.id, value)
    return Instance()


def _constant(node: ast.expr, names: dict[str, Any]) -> Any:
    try:
        return eval(compile(ast.Expression(node), "constant", "eval"), names)
    except Exception:
        return Anything()


class _Names(dict):  # type: ignore[type-arg]
    """The globals of the function: what its module defines plainly, stand-ins for the rest."""

    def __init__(self, tree: ast.Module, ranks: Communicator) -> None:
        wrapper = SimpleNamespace(
            aiter_ca=ranks,
            disabled=False,
            world_size=ranks.world_size,
            fully_connected=ranks.fully_connected,
        )
        super().__init__(
            __builtins__=builtins,
            __report__=report,
            torch=TORCH,
            math=math,
            os=SimpleNamespace(environ={}, getenv=lambda name, default=None: default),
            rocm_aiter_ops=SimpleNamespace(get_aiter_allreduce=lambda: wrapper),
        )
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Name)
                and node.id not in self
                and not hasattr(builtins, node.id)
            ):
                is_there = re.match(r"(is|on)_(hip|gfx)", node.id)
                self[node.id] = (lambda *a, **k: True) if is_there else Anything()
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = _constant(node.value, self)
                if not isinstance(value, Anything):
                    self[node.targets[0].id] = value
            elif isinstance(node, ast.FunctionDef) and CHOOSES.search(node.name):
                exec(compile(ast.unparse(_bare(node)), node.name, "exec"), self)
