"""What an expression of a function's source is, given the names in scope there.

Environment variables are read as unset but for those of ``settings``; each that is asked for is
remembered, so that :mod:`.overrides` can read the function again with it set.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from collections.abc import Mapping as Settings

from msgspec import Struct, field

from ..data.hosts import Host
from ..errors import InputError
from ..rules.algebra import all_of, any_of
from ..rules.condition import Always, Condition, OnFullMesh
from .host_gate import is_asked, table_for
from .iteration import comprehended, of_range, over
from .module import Module, class_constant, constant_of, instance_values, source_of
from .setting_values import converted, from_default, said, text_method
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
    Routine,
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
    is_deep,
    look_up,
    number,
    torch_dtype,
    truth,
)

#: Names of the number of ranks.
WORLD = re.compile(r"(tp_|tensor_parallel_)?world_size_?|tp_size|nranks|n_ranks|ngpus|num_ranks")
#: Names of functions that return it.
_RANKS = re.compile(
    r"(get_)?((tensor|model|parallel|attention|attn|tp|group|device|dist)_)*world_size"
)
#: The function by which a patched engine asks the run-time table (see :mod:`.consultation`). It is
#: read as a table without an entry leaves it: None, and the engine's own rule holds.
CONSULTS = "_tuned_max_size"
_MESH = re.compile(r"(is_)?fully_connected_?|full_nvlink_?|full_mesh")
OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**", ast.LShift: "<<", ast.RShift: ">>", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">",
    ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in", ast.NotIn: "not in",
    ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip


#: Expressions nested deeper are not read, conditions of more terms are refused, and a function
#: that takes more steps than these is given up. Engines stay far below each.
MAX_NESTING = 60
MAX_TERMS = 64
MAX_STEPS = 20_000
#: Texts that are put together are read up to this.
MAX_TEXT = 1000

#: What is known by name at a statement.
Scope = dict[str, Symbol]


def names_ranks(name: str) -> bool:
    """Tell whether a name says that it holds the number of ranks or their mesh."""
    return bool(WORLD.fullmatch(name) or _MESH.fullmatch(name))


class NoChoiceError(InputError):
    """The function does not choose between the two kernels by itself, or is too long to follow."""


class Comparison(Struct, frozen=True):
    """A comparison of a size with a limit, as it stands in the source."""

    node: ast.Compare
    limit_node: ast.expr
    op: str
    size: Size
    limit: Number
    condition: Condition
    world_size: int


class Membership(Struct, frozen=True):
    """A test for a set (``hidden_dim in {...}``) as it stands in the source."""

    node: ast.Compare
    condition: Condition


class Evaluator(Struct):
    """Evaluates expressions at one world size, and keeps what it saw on the way.

    ``settings`` are variables and attributes that are set, by name; ``asked`` those that were asked
    for, with the line; ``host`` is what the engine runs on. ``assumed`` are conditions that could
    not be read and are taken as met, and where they stand. ``live`` is the part of an expression
    that counts, ``missing`` counts variables whose absence raises.
    """

    module: Module
    owner: ast.ClassDef | None
    world_size: int
    depth: int = 0
    settings: Settings[str, str] = field(default_factory=dict)
    host: Host | None = None
    scope: Scope = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    assumed: list[tuple[ast.expr, str]] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    live: dict[ast.expr, ast.expr] = field(default_factory=dict)
    world_names: list[str] = field(default_factory=list)
    missing: int = 0
    nesting: int = 0
    steps_taken: list[int] = field(default_factory=lambda: [0])

    def note_call(self, node: ast.Call) -> None:
        """Hear of a call before its arguments are evaluated."""

    def follow(self, node: ast.Call) -> Symbol | None:
        """Return what a function of the same file returns, or None when it is not followed."""
        return None

    def enter(self, routine: Routine, node: ast.Call) -> Symbol | None:
        """Return what a lambda or a function inside the function returns, None where not known."""
        return None

    def follow_property(self, node: ast.Attribute) -> Symbol | None:
        """Return what a property of the same class returns, or None where it is none."""
        return None

    def value(self, node: ast.expr) -> Symbol:
        """Return what an expression is; :class:`~.symbols.Unknown` when that is not known."""
        self.steps_taken[0] += 1
        if self.steps_taken[0] > MAX_STEPS:
            raise NoChoiceError(
                f"{self.module.name}:{node.lineno}: more than {MAX_STEPS} steps to follow"
            )
        handler = _HANDLERS.get(type(node)) if self.nesting < MAX_NESTING else None
        self.nesting += 1
        value = handler(self, node) if handler else None
        self.nesting -= 1
        return value if value is not None else Unknown(source_of(node))

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
        constant = constant_of(self.module.tree, node.id)
        if constant is None or node.id in self.module.unsettled:
            return None
        return self._held(constant, node.id, node.id)

    def _held(self, constant: ast.expr, name: str, qualified: str) -> Symbol:
        """Return what a name of the module or class holds; where that is None or -1, it asks to be
        set."""
        if _asks_to_be_set(constant) and qualified:
            self.asked.setdefault(qualified, constant.lineno)
            if qualified in self.settings:
                return called(said(self.settings[qualified]), name)
        return called(self._outside(constant), name)

    def _outside(self, node: ast.expr) -> Symbol:
        """Evaluate a constant of the module or class, where no local name is known."""
        if self.depth > 4:
            return Unknown(source_of(node))
        inner = self.beside(2)
        value = inner.value(node)
        self.heard(inner)
        return value

    def beside(self, deeper: int) -> Evaluator:
        """Return an evaluator of the same module in which no local name is known."""
        return type(self)(
            self.module, self.owner, self.world_size, self.depth + deeper, self.settings,
            host=self.host, nesting=self.nesting, steps_taken=self.steps_taken,
        )  # fmt: skip

    def heard(self, inner: Evaluator) -> None:
        """Take over what another evaluator was asked for."""
        for name, line in inner.asked.items():
            self.asked.setdefault(name, line)
        self.missing += inner.missing

    def _known_name(self, name: str, node: ast.expr) -> Symbol | None:
        if WORLD.fullmatch(name):
            self.world_names.append(source_of(node).replace("'", '"'))
            return number(self.world_size, name)
        return OnFullMesh() if _MESH.fullmatch(name) else None

    def _attribute(self, node: ast.Attribute) -> Symbol | None:
        text = source_of(node)
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
            return self._typed(node.attr, node)
        symbol = self._known_name(node.attr, node)
        if symbol is not None:
            return symbol
        owner = self.owner
        holder = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if owner is not None and (holder or source_of(node.value) == owner.name):
            constant = class_constant(owner, node.attr)
            if constant is not None:
                return self._held(constant, node.attr, f"{owner.name}.{node.attr}")
            constant = instance_values(owner).get(node.attr)
            held = self._held(constant, node.attr, "") if constant is not None else None
            if getattr(held, "env", ""):
                return held
            if constant is None and holder:
                followed = self.follow_property(node)
                if followed is not None:
                    return followed
        if isinstance(base, Unknown) and base.env:
            return Unknown(text, env=base.env)
        return None

    def _subscript(self, node: ast.Subscript) -> Symbol | None:
        base, index = self.value(node.value), self.value(node.slice)
        if isinstance(base, TensorShape) and isinstance(index, Number):
            at = _index(index)
            return {0: TOKENS, -2: TOKENS, 1: HIDDEN, -1: HIDDEN}.get(-3 if at is None else at)
        if isinstance(base, TensorShape):
            return TOKENS if source_of(node.slice) == ":-1" else None
        if isinstance(base, Mapping):
            return look_up(base, index)
        if isinstance(base, Items) and isinstance(index, Number):
            at = _index(index)
            return (
                base.values[at]
                if at is not None and -len(base.values) <= at < len(base.values)
                else None
            )
        if source_of(node.value).endswith("environ") and isinstance(index, Text):
            self.asked.setdefault(index.value, node.lineno)
            if index.value in self.settings:
                return Text(self.settings[index.value], env=index.value)
            self.missing += 1
            return Unknown(source_of(node), env=index.value)
        return None

    def _tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Symbol | None:
        values = tuple(self.value(e) for e in node.elts)
        return None if any(is_deep(v) for v in values) else Items(values)

    def _dict(self, node: ast.Dict) -> Symbol | None:
        if any(key is None for key in node.keys):
            return None
        pairs = zip(node.keys, node.values, strict=True)
        items = tuple((self.value(k), self.value(x)) for k, x in pairs if k is not None)
        return None if any(is_deep(part) for pair in items for part in pair) else Mapping(items)

    def _binary(self, node: ast.BinOp) -> Symbol | None:
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            if not isinstance(left, Condition) or not isinstance(right, Condition):
                return None
            return (all_of if isinstance(node.op, ast.BitAnd) else any_of)(left, right)
        return arithmetic(OPERATORS.get(type(node.op), ""), left, right)

    def _unary(self, node: ast.UnaryOp) -> Symbol | None:
        operand = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            known = truth(operand)
            return None if known is None else known.negated()
        if isinstance(node.op, ast.USub) and isinstance(operand, Number):
            return Number(-operand.value, operand.names)
        return None

    def _boolean(self, node: ast.BoolOp) -> Symbol | None:
        """``and`` leaves out parts that nothing is known about, and records that it did."""
        self._bounded(node, len(node.values))
        ends = isinstance(node.op, ast.Or)
        parts: list[tuple[Symbol, ast.expr]] = []
        value: Symbol = Nothing()
        for source in node.values:
            value = self.value(source)
            condition = truth(value)
            if condition != Always(not ends):
                parts.append((value, source))
            if condition == Always(ends):
                break
        if not parts:
            return value
        if len(parts) == 1:
            self.live[node] = parts[0][1]
            return parts[0][0]
        known: list[Condition] = []
        unread: list[str] = []
        for value, source in parts:
            condition = truth(value)
            if condition is None:
                unread.append(source_of(source))
            else:
                known.append(condition)
        joined = any_of(*known) if ends else all_of(*known)
        if not unread:
            return joined
        if ends:
            return Always() if joined == Always() else None
        if joined in (Always(), Always(False)):
            return None if joined == Always() else joined
        self.assumed += [(node, text) for text in unread]
        return joined

    def _bounded(self, node: ast.expr, terms: int) -> None:
        if terms > MAX_TERMS:
            raise NoChoiceError(
                f"{self.module.name}:{node.lineno}: a condition of {terms} terms; up to "
                f"{MAX_TERMS} are read"
            )

    def _compare(self, node: ast.Compare) -> Symbol | None:
        self._bounded(node, len(node.ops))
        nodes = [node.left, *node.comparators]
        operands = [self.value(n) for n in nodes]
        out: list[Condition] = []
        for i, op_node in enumerate(node.ops):
            (left, right), (left_node, right_node) = operands[i : i + 2], nodes[i : i + 2]
            op = OPERATORS[type(op_node)]
            text = source_of(node)
            if op in ("in", "not in") and isinstance(left, Text) and "environ" in text:
                self.asked.setdefault(left.value, node.lineno)
                return Always((left.value in self.settings) == (op == "in"))
            for side, other in ((left, right), (right, left)):
                if isinstance(side, Unknown) and side.env and isinstance(other, Nothing):
                    return Always(op in ("is", "=="))
                if isinstance(side, Unknown) and side.env:
                    return Unknown(text, env=side.env)
            condition = comparison(op, left, right)
            if condition is None:
                return None
            out.append(condition)
            if op in ("in", "not in"):
                self.memberships.append(Membership(node, condition))
            for size, limit, at in ((left, right, right_node), (right, left, left_node)):
                if isinstance(size, Size) and isinstance(limit, Number):
                    self.comparisons.append(
                        Comparison(node, at, op, size, limit, condition, self.world_size)
                    )
        return all_of(*out)

    def _if_else(self, node: ast.IfExp) -> Symbol | None:
        condition = truth(self.value(node.test))
        if condition in (Always(), Always(False)):
            self.live[node] = node.body if condition == Always() else node.orelse
            return self.value(self.live[node])
        yes, no = truth(self.value(node.body)), truth(self.value(node.orelse))
        if condition is None or yes is None or no is None:
            return None
        return any_of(all_of(condition, yes), all_of(condition.negated(), no))

    def _awaited(self, node: ast.Await) -> Symbol | None:
        return self.value(node.value)

    def _lambda(self, node: ast.Lambda) -> Symbol | None:
        return Routine(node, local=bool(self.scope))

    def _comprehension(self, node: ast.expr) -> Symbol | None:
        return comprehended(self, node)  # type: ignore[arg-type]

    def _argument(self, node: ast.expr) -> Symbol:
        # A generator that is held by a name may be used up.
        made = comprehended(self, node) if isinstance(node, ast.GeneratorExp) else None
        return made or self.value(node)

    def _is_builtin(self, name: str) -> bool:
        return name in _OVER and not self._hidden(name)

    def _hidden(self, name: str) -> bool:
        """Return whether the engine's source gives a name of Python's own to something else."""
        of = self.module
        return name in self.scope or bool(of.rebound(name) or of.definitions(name))

    def _joined_text(self, node: ast.JoinedStr) -> Symbol | None:
        parts = []
        for part in node.values:
            plain = isinstance(part, ast.FormattedValue) and part.format_spec is None
            value = self.value(part.value if isinstance(part, ast.FormattedValue) else part)
            text = converted("str", value) if plain else value
            if not isinstance(text, Text) or text.env:
                return None
            parts.append(text.value)
        whole = "".join(parts)
        return Text(whole) if len(whole) <= MAX_TEXT else None

    def _named_here(self, node: ast.NamedExpr) -> Symbol | None:
        value = self.value(node.value)
        self.scope[node.target.id] = called(value, node.target.id)
        return value

    def _call(self, node: ast.Call) -> Symbol | None:
        self.note_call(node)
        function = node.func
        if isinstance(function, ast.Name) and function.id == CONSULTS:
            return Nothing()
        name = function.attr if isinstance(function, ast.Attribute) else source_of(function)
        arguments = [self._argument(a) for a in node.args]
        if isinstance(function, ast.Attribute):
            method = self._method(node, function, arguments)
            if method is not None:
                return method
        environment = self._environment(node, name, arguments)
        if environment is not None:
            return environment
        if isinstance(function, ast.Name) and self._is_builtin(name) and not node.keywords:
            found = of_range(arguments) if name == "range" else over(name, arguments)
            if found is not None:
                return found
        routine = self._routine(function)
        if routine is not None:
            return self.enter(routine, node)
        if isinstance(function, ast.Name) and name in _BUILT_IN and self._hidden(name):
            return self.follow(node)
        if name in _TYPES and len(arguments) == 1:
            return converted(name, arguments[0])
        if name in ("min", "max") and arguments and all(isinstance(a, Number) for a in arguments):
            return (min if name == "min" else max)(arguments, key=lambda a: a.value)  # type: ignore[union-attr]
        if name == "prod" and isinstance(arguments[:1], list) and arguments:
            return ELEMENTS if isinstance(arguments[0], TensorShape) else None
        if name == "getattr" and len(arguments) >= 2 and isinstance(arguments[1], Text):
            return self._known_name(arguments[1].value, node)
        if name in _GROUPS and len(arguments) == 1:
            return arguments[0] if isinstance(arguments[0], Items) else None
        if _RANKS.fullmatch(name):
            return self._known_name("world_size", node)
        if is_asked(node):
            table = table_for(self.module, self.host)
            return Mapping(()) if table is None else self.value(table)
        return self.follow(node)

    def _routine(self, function: ast.expr) -> Routine | None:
        """Return the lambda, or the function inside this one, that a call calls, or None."""
        if isinstance(function, ast.Attribute):
            own = isinstance(function.value, ast.Name) and function.value.id in ("self", "cls")
            value = self.value(function) if own and self.owner is not None else None
        else:
            value = self.value(function)
        if isinstance(value, Items) and value.values and isinstance(value.values[0], Routine):
            return None
        return value if isinstance(value, Routine) else None

    def _method(
        self, node: ast.Call, function: ast.Attribute, arguments: list[Symbol]
    ) -> Symbol | None:
        if source_of(function.value).startswith("envs.") and function.attr == "is_set":
            variable = source_of(function.value).removeprefix("envs.")
            self.asked.setdefault(variable, node.lineno)
            return Always(variable in self.settings)
        base = self.value(function.value)
        if isinstance(base, Text):
            return text_method(base, function.attr)
        if isinstance(base, Number | Always) and source_of(function.value).startswith("envs."):
            return base
        if isinstance(base, Tensor):
            if function.attr in ("numel", "nelement"):
                return ELEMENTS
            if function.attr == "element_size":
                return ELEMENT_SIZE
            if function.attr == "size":
                index = arguments[0] if arguments else None
                if not isinstance(index, Number):
                    return TensorShape()
                at = _index(index)
                return {0: TOKENS, 1: HIDDEN, -1: HIDDEN}.get(-3 if at is None else at)
            if function.attr in ("contiguous", "view", "reshape", "flatten"):
                return Tensor()
        if isinstance(base, TensorShape) and function.attr == "numel":
            return ELEMENTS
        if isinstance(base, Mapping) and function.attr in ("items", "values", "keys"):
            pairs = {"items": (0, 1), "values": (1,), "keys": (0,)}[function.attr]
            taken = (tuple(pair[at] for at in pairs) for pair in base.items)
            return Items(tuple(Items(one) if len(one) > 1 else one[0] for one in taken))
        if isinstance(base, Mapping) and function.attr == "get" and arguments:
            return look_up(base, arguments[0], arguments[1] if len(arguments) > 1 else Nothing())
        if isinstance(base, Unknown) and base.env:
            return Unknown(source_of(node), env=base.env)
        return None

    def _environment(self, node: ast.Call, name: str, arguments: list[Symbol]) -> Symbol | None:
        text = source_of(node.func)
        first = arguments[0] if arguments else None
        if not isinstance(first, Text):
            return None
        given = [k.value for k in node.keywords if k.arg == "default"]
        default = self.value(given[0]) if given else None
        if default is None and len(arguments) > 1:
            default = arguments[1]
        if text.endswith(("environ.get", "getenv")):
            self.asked.setdefault(first.value, node.lineno)
            if first.value in self.settings:
                return Text(self.settings[first.value], env=first.value)
            return from_default(default or Nothing(), first.value)
        if "env" in name.lower() and first.value.isupper():
            own = self.follow(node)
            if own is not None:
                return own
            typed = self._typed(first.value, node)
            if isinstance(default, Text):
                # Such a function makes of its default what it makes of a text that is set.
                default = said(default.value)
            if isinstance(default, Number) and "bool" in name.lower():
                default = Always(default.value != 0)
            unset = isinstance(typed, Unknown) and default is not None
            return from_default(default or Nothing(), first.value) if unset else typed
        return None

    def _typed(self, variable: str, node: ast.expr) -> Symbol:
        """Return a variable that something else has read: a number or a truth when it is set."""
        self.asked.setdefault(variable, node.lineno)
        if variable not in self.settings:
            return Unknown(source_of(node), env=variable)
        return called(said(self.settings[variable]), variable)


#: Python's own functions that a call is taken for, of a value and over several.
_TYPES, _GROUPS = ("int", "float", "bool", "str"), ("frozenset", "set", "tuple")
_BUILT_IN = (*_TYPES, *_GROUPS, "min", "max", "getattr")
_OVER = ("any", "all", "next", "min", "max", "range")

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
    ast.NamedExpr: Evaluator._named_here,
    ast.Await: Evaluator._awaited,
    ast.Lambda: Evaluator._lambda,
    ast.ListComp: Evaluator._comprehension,
    ast.SetComp: Evaluator._comprehension,
    ast.DictComp: Evaluator._comprehension,
    ast.JoinedStr: Evaluator._joined_text,
    ast.Call: Evaluator._call,
}


def _asks_to_be_set(constant: ast.expr) -> bool:
    """Tell whether a constant says "not set": None, or a number below zero."""
    below = isinstance(constant, ast.UnaryOp) and isinstance(constant.op, ast.USub)
    return below or (isinstance(constant, ast.Constant) and constant.value is None)


def _index(value: Number) -> int | None:
    return int(value.value) if math.isfinite(value.value) else None
