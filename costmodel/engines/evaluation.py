"""What an expression of a function's source is, given the names in scope there.

Settings of the environment are read as unset, and remembered as what would override the rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..rules.algebra import all_of, any_of
from ..rules.condition import Always, Condition, OnFullMesh
from .module import Module, constant_of
from .symbols import (
    BYTES,
    ELEMENT_SIZE,
    ELEMENTS,
    HIDDEN,
    TOKENS,
    Items,
    Mapping,
    Nothing,
    Number,
    Size,
    Symbol,
    Tensor,
    TensorDtype,
    TensorShape,
    Text,
    Unknown,
    arithmetic,
    called,
    comparison,
    kilo_of,
    number,
    torch_dtype,
    truth,
)

#: Names of the number of ranks.
WORLD = re.compile(r"(tp_|tensor_parallel_)?world_size_?|tp_size|nranks|n_ranks|ngpus|num_ranks")
_MESH = re.compile(r"(is_)?fully_connected_?|full_nvlink_?|full_mesh")
OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**", ast.LShift: "<<", ast.RShift: ">>", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">",
    ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in", ast.NotIn: "not in",
    ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip


#: What is known by name at a statement.
Scope = dict[str, Symbol]


@dataclass(frozen=True)
class Comparison:
    """A comparison of a size with a limit, as it stands in the source."""

    node: ast.Compare
    limit_node: ast.expr
    op: str
    size: Size
    limit: Number
    condition: Condition


@dataclass(frozen=True)
class Membership:
    """A test for a set (``hidden_dim in {...}``) as it stands in the source."""

    node: ast.Compare
    condition: Condition


@dataclass
class Evaluator:
    """Evaluates expressions at one world size, and keeps what it saw on the way.

    ``overrides`` are settings that would replace a value, ``assumed`` conditions that could not be
    read and are taken as met, ``live`` the branch of each conditional expression that counts.
    """

    module: Module
    owner: ast.ClassDef | None
    world_size: int
    depth: int = 0
    scope: Scope = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    live: dict[ast.expr, ast.expr] = field(default_factory=dict)
    world_names: list[str] = field(default_factory=list)

    def note_call(self, node: ast.Call) -> None:
        """Hear of a call before its arguments are evaluated."""

    def follow(self, node: ast.Call) -> Symbol | None:
        """Return what a function of the same file returns, or None when it is not followed."""
        return None

    def value(self, node: ast.expr) -> Symbol:
        """Return what an expression is; :class:`~.symbols.Unknown` when that is not known."""
        handler = _HANDLERS.get(type(node))
        value = handler(self, node) if handler else None
        return value if value is not None else Unknown(ast.unparse(node))

    def _constant(self, node: ast.Constant) -> Symbol | None:
        if node.value is None:
            return Nothing()
        if isinstance(node.value, bool):
            return Always(node.value)
        if isinstance(node.value, int | float):
            return number(node.value)
        return Text(node.value) if isinstance(node.value, str) else None

    def _name(self, node: ast.Name) -> Symbol | None:
        if node.id in self.scope:
            return self.scope[node.id]
        known = self._known_name(node.id, node)
        if known is not None:
            return known
        constant = constant_of(self.module.tree.body, node.id)
        return None if constant is None else called(self._outside(constant), node.id)

    def _outside(self, node: ast.expr) -> Symbol:
        """Evaluate a constant of the module or class, where no local name is known."""
        if self.depth > 4:
            return Unknown(ast.unparse(node))
        inner = Evaluator(self.module, self.owner, self.world_size, self.depth + 2)
        value = inner.value(node)
        self.overrides += inner.overrides
        return value

    def _known_name(self, name: str, node: ast.expr) -> Symbol | None:
        if WORLD.fullmatch(name):
            self.world_names.append(ast.unparse(node))
            return number(self.world_size, name)
        return OnFullMesh() if _MESH.fullmatch(name) else None

    def _attribute(self, node: ast.Attribute) -> Symbol | None:
        text = ast.unparse(node)
        if text in self.scope:
            return self.scope[text]
        base = self.value(node.value)
        if isinstance(base, Tensor):
            known: dict[str, Symbol] = {
                "shape": TensorShape(),
                "dtype": TensorDtype(),
                "nbytes": BYTES,
                "itemsize": ELEMENT_SIZE,
            }
            return known.get(node.attr)
        if isinstance(base, TensorDtype):
            return ELEMENT_SIZE if node.attr == "itemsize" else None
        if text.startswith("torch."):
            return torch_dtype(node.attr)
        if text in ("math.inf", "np.inf", "numpy.inf"):
            return number(float("inf"))
        if text.startswith("envs."):
            return Unknown(text, env=node.attr)
        symbol = self._known_name(node.attr, node)
        if symbol is not None:
            return symbol
        owner = self.owner
        holder = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if owner is not None and (holder or ast.unparse(node.value) == owner.name):
            constant = constant_of(owner.body, node.attr)
            if constant is not None:
                return called(self._outside(constant), node.attr)
        if isinstance(base, Unknown) and base.env:
            return Unknown(text, env=base.env)
        return None

    def _subscript(self, node: ast.Subscript) -> Symbol | None:
        base, index = self.value(node.value), self.value(node.slice)
        if isinstance(base, TensorShape) and isinstance(index, Number):
            return {0: TOKENS, -2: TOKENS, 1: HIDDEN, -1: HIDDEN}.get(int(index.value))
        if isinstance(base, TensorShape):
            return TOKENS if ast.unparse(node.slice) == ":-1" else None
        if isinstance(base, Mapping):
            return _look_up(base, index)
        if isinstance(base, Items) and isinstance(index, Number):
            return base.values[int(index.value)]
        if ast.unparse(node.value).endswith("environ") and isinstance(index, Text):
            return Unknown(ast.unparse(node), env=index.value)
        return None

    def _tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Symbol:
        return Items(tuple(self.value(e) for e in node.elts))

    def _dict(self, node: ast.Dict) -> Symbol | None:
        if any(key is None for key in node.keys):
            return None
        pairs = zip(node.keys, node.values, strict=True)
        return Mapping(tuple((self.value(k), self.value(x)) for k, x in pairs if k is not None))

    def _binary(self, node: ast.BinOp) -> Symbol | None:
        left, right = self.value(node.left), self.value(node.right)
        return arithmetic(OPERATORS.get(type(node.op), ""), left, right)

    def _unary(self, node: ast.UnaryOp) -> Symbol | None:
        operand = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            known = truth(operand)
            if known is not None:
                self._note_override(operand)
                return known.negated()
        if isinstance(node.op, ast.USub) and isinstance(operand, Number):
            return Number(-operand.value, operand.names)
        return None

    def _note_override(self, value: Symbol) -> None:
        if isinstance(value, Unknown | Nothing) and value.env:
            self.overrides.append(value.env)

    def _boolean(self, node: ast.BoolOp) -> Symbol | None:
        """``and`` leaves out parts that nothing is known about, and records that it did."""
        parts = [self.value(x) for x in node.values]
        known = []
        unread = []
        for part, source in zip(parts, node.values, strict=True):
            self._note_override(part)
            condition = truth(part)
            if condition is None:
                unread.append(ast.unparse(source))
            else:
                known.append(condition)
        joined = all_of(*known) if isinstance(node.op, ast.And) else any_of(*known)
        if not unread:
            return joined
        if isinstance(node.op, ast.Or):
            return Always() if joined == Always() else None
        if joined in (Always(), Always(False)):
            return None if joined == Always() else joined
        self.assumed += unread
        return joined

    def _compare(self, node: ast.Compare) -> Symbol | None:
        nodes = [node.left, *node.comparators]
        operands = [self.value(n) for n in nodes]
        out: list[Condition] = []
        for i, op_node in enumerate(node.ops):
            (left, right), (left_node, right_node) = operands[i : i + 2], nodes[i : i + 2]
            op = OPERATORS[type(op_node)]
            text = ast.unparse(node)
            if op in ("in", "not in") and isinstance(left, Text) and "environ" in text:
                self.overrides.append(left.value)
                return Always(op == "not in")
            for side, other in ((left, right), (right, left)):
                env = getattr(side, "env", "")
                if isinstance(side, Unknown | Nothing) and env and isinstance(other, Nothing):
                    self.overrides.append(env)
                    return Always(op in ("is", "=="))
                if isinstance(side, Unknown) and env:
                    return Unknown(text, env=env)
            condition = comparison(op, left, right)
            if condition is None:
                return None
            out.append(condition)
            if op in ("in", "not in"):
                self.memberships.append(Membership(node, condition))
            for size, limit, at in ((left, right, right_node), (right, left, left_node)):
                if isinstance(size, Size) and isinstance(limit, Number):
                    self.comparisons.append(Comparison(node, at, op, size, limit, condition))
                    if limit.env:
                        self.overrides.append(limit.env)
        return all_of(*out)

    def _if_else(self, node: ast.IfExp) -> Symbol | None:
        test = self.value(node.test)
        self._note_override(test)
        condition = truth(test)
        if condition in (Always(), Always(False)):
            self.live[node] = node.body if condition == Always() else node.orelse
            return self.value(self.live[node])
        yes, no = truth(self.value(node.body)), truth(self.value(node.orelse))
        if condition is None or yes is None or no is None:
            return None
        return any_of(all_of(condition, yes), all_of(condition.negated(), no))

    def _call(self, node: ast.Call) -> Symbol | None:
        self.note_call(node)
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        arguments = [self.value(a) for a in node.args]
        if isinstance(function, ast.Attribute):
            method = self._method(node, function, arguments)
            if method is not None:
                return method
        environment = self._environment(node, name, arguments)
        if environment is not None:
            return environment
        if name in ("int", "float", "bool", "str") and len(arguments) == 1:
            return _converted(arguments[0])
        if name in ("min", "max") and arguments and all(isinstance(a, Number) for a in arguments):
            chosen = (min if name == "min" else max)(arguments, key=lambda a: a.value)  # type: ignore[union-attr]
            return chosen
        if name == "prod" and isinstance(arguments[:1], list) and arguments:
            return ELEMENTS if isinstance(arguments[0], TensorShape) else None
        if name == "getattr" and len(arguments) >= 2 and isinstance(arguments[1], Text):
            return self._known_name(arguments[1].value, ast.Name(arguments[1].value))
        if name in ("frozenset", "set", "tuple") and len(arguments) == 1:
            return arguments[0] if isinstance(arguments[0], Items) else None
        if "world_size" in name:
            return self._known_name("world_size", node)
        return self.follow(node)

    def _method(
        self, node: ast.Call, function: ast.Attribute, arguments: list[Symbol]
    ) -> Symbol | None:
        base = self.value(function.value)
        if isinstance(base, Tensor):
            if function.attr in ("numel", "nelement"):
                return ELEMENTS
            if function.attr == "element_size":
                return ELEMENT_SIZE
            if function.attr == "size":
                index = arguments[0] if arguments else None
                if not isinstance(index, Number):
                    return TensorShape()
                return {0: TOKENS, 1: HIDDEN, -1: HIDDEN}.get(int(index.value))
            if function.attr in ("contiguous", "view", "reshape", "flatten"):
                return Tensor()
        if isinstance(base, TensorShape) and function.attr == "numel":
            return ELEMENTS
        if isinstance(base, Mapping) and function.attr == "get" and arguments:
            return _look_up(base, arguments[0], arguments[1] if len(arguments) > 1 else Nothing())
        if isinstance(base, Unknown) and base.env:
            return Unknown(ast.unparse(node), env=base.env)
        return None

    def _environment(self, node: ast.Call, name: str, arguments: list[Symbol]) -> Symbol | None:
        text = ast.unparse(node.func)
        first = arguments[0] if arguments else None
        if not isinstance(first, Text):
            return None
        if text.endswith(("environ.get", "getenv")):
            default = arguments[1] if len(arguments) > 1 else Nothing()
            if isinstance(default, Number):
                kilo = max(default.kilo, kilo_of(first.value))
                names = default.names | {first.value}
                return Number(default.value, names, kilo, env=first.value)
            if isinstance(default, Text):
                return Text(default.value, env=first.value)
            return Nothing(env=first.value) if isinstance(default, Nothing) else None
        if "env" in name.lower() and first.value.isupper():
            return Unknown(text, env=first.value)
        return None


_HANDLERS: dict[type, Callable[..., Symbol | None]] = {
    ast.Constant: Evaluator._constant,
    ast.Name: Evaluator._name,
    ast.Attribute: Evaluator._attribute,
    ast.Subscript: Evaluator._subscript,
    ast.Tuple: Evaluator._tuple,
    ast.List: Evaluator._tuple,
    ast.Set: Evaluator._tuple,
    ast.Dict: Evaluator._dict,
    ast.BinOp: Evaluator._binary,
    ast.UnaryOp: Evaluator._unary,
    ast.BoolOp: Evaluator._boolean,
    ast.Compare: Evaluator._compare,
    ast.IfExp: Evaluator._if_else,
    ast.Call: Evaluator._call,
}


def _look_up(mapping: Mapping, key: Symbol, default: Symbol | None = None) -> Symbol | None:
    for known, value in mapping.items:
        same = isinstance(known, Number) and isinstance(key, Number) and known.value == key.value
        if same or known == key:
            return value
    return default


def _converted(value: Symbol) -> Symbol:
    if isinstance(value, Text):
        try:
            converted = number(float(value.value) if "." in value.value else int(value.value))
        except ValueError:
            return number(float("inf")) if value.value in ("inf", "Infinity") else value
        kilo = kilo_of(value.env)
        names = frozenset({value.env}) if value.env else frozenset()
        return Number(converted.value, names, kilo, value.env)
    return value
