"""Read a dispatch rule out of an engine's Python source, without importing or running it.

The function that chooses is followed statement by statement, once per world size, with its input
as a symbol (see :mod:`.values`): assignments are remembered, a branch on shape, dtype or mesh is
taken both ways with its condition, settings of the environment are read as unset, and a guard
that nothing is known about (``ca_comm is None``) is passed. What reaches the kernel call's
``use_1stage`` argument, or the value returned by a predicate, is the rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..errors import InputError
from ..model.shape import WORLD_SIZES
from ..rules.algebra import all_of, any_of, by_world_size, factors, parts_of
from ..rules.condition import Always, Compare, Condition, FullMesh
from . import symbolic as v
from .symbolic import Items, Mapping, Nothing, Number, Size, Tensor, Text, Unknown, Value

#: What the argument or predicate is called that chooses the kernel.
CHOOSES = re.compile(r"(1|one)_?(stage|shot)", re.IGNORECASE)

#: States followed through one function before it is given up as too branched.
MAX_STATES = 400

#: Names of the number of ranks.
WORLD = re.compile(r"(tp_|tensor_parallel_)?world_size_?|tp_size|nranks|n_ranks|ngpus|num_ranks")
_MESH = re.compile(r"(is_)?fully_connected_?|full_nvlink_?|full_mesh")
_OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**", ast.LShift: "<<", ast.RShift: ">>", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">",
    ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in", ast.NotIn: "not in",
    ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip

_STEPS = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Names = dict[str, Value]


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


@dataclass(frozen=True)
class Step:
    """An assignment, return or call that was followed: where, and what was known before it."""

    node: ast.stmt
    world_size: int
    path: Condition
    names: Names


@dataclass
class Reading:
    """What a function says: its rule, and how it was found.

    ``decisions`` are the expressions whose value chooses the kernel, ``returns`` tells that they
    are returned; ``followed`` names predicates that the function asks; ``overrides`` the settings
    that would replace the rule; ``assumed`` what had to be taken as true; ``live`` the branch of
    each conditional expression on a setting that counts.
    """

    function: str
    node: Function
    condition: Condition
    decisions: list[ast.expr]
    returns: bool
    overrides: tuple[str, ...]
    assumed: tuple[str, ...]
    comparisons: list[Comparison]
    memberships: list[Membership]
    steps: list[Step]
    live: dict[ast.expr, ast.expr]
    followed: tuple[str, ...]
    tensor: str
    world: str
    owner: str

    @property
    def decisive(self) -> list[Comparison]:
        """The comparisons that the rule consists of; others say when the op runs at all."""
        known = {p for n in WORLD_SIZES for p in parts_of(self.condition.at(n))}
        return [
            c for c in self.comparisons if c.condition in known or c.condition.negated() in known
        ]

    @property
    def line(self) -> int:
        """Line of the comparison of bytes, or of the function when there is none."""
        sized = [c.node.lineno for c in self.decisive if c.size.name in ("bytes", "elements")]
        return min(sized, default=self.node.lineno)


class NoChoiceError(InputError):
    """The function does not choose between the two kernels by itself."""


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


def read(module: Module, qualified: str, *, predicate: bool = False) -> Reading:
    """Read the rule of one function; ``predicate`` takes what it returns for the decision.

    Raises :class:`NoChoiceError` when the function does not exist or makes no choice of its own,
    with what was looked for.
    """
    found = module.function(qualified)
    if found is None:
        raise NoChoiceError(f"{module.name}: no function {qualified}")
    node, owner = found
    looked = f"{module.name}:{node.lineno}: {qualified}"
    per_size: dict[int, Condition] = {}
    runs = []
    for n in WORLD_SIZES:
        run = _Run(module, owner, n, predicate=predicate)
        run.function(node)
        per_size[n] = run.rule(node, looked)
        runs.append(run)
    condition = by_world_size(per_size)
    if not any(_sized(c) for c in per_size.values()) and len(set(per_size.values())) == 1:
        raise NoChoiceError(
            f"{looked} chooses by no size: {condition.words()} with the environment unset"
        )
    return Reading(
        function=qualified,
        node=node,
        condition=condition,
        decisions=_unique(d for run in runs for d in run.decisive(node)),
        returns=not any(run.calls for run in runs),
        overrides=tuple(dict.fromkeys(o for run in runs for o in run.overrides)),
        assumed=tuple(dict.fromkeys(a for run in runs for a in run.assumed)),
        comparisons=[c for run in runs for c in run.comparisons],
        memberships=[m for run in runs for m in run.memberships],
        steps=[s for run in runs for s in run.steps],
        live={k: b for run in runs for k, b in run.live.items()},
        followed=tuple(dict.fromkeys(f for run in runs for f in run.followed)),
        tensor=_input_name(node),
        world=next((w for run in runs for w in run.world_names), ""),
        owner=owner.name if owner else "",
    )


@dataclass
class _State:
    """One way through the function so far: its condition, names, and guards passed unread."""

    path: Condition
    names: Names
    guards: int = 0


@dataclass(frozen=True)
class _Outcome:
    """A value that was returned or handed to the kernel, and on which way."""

    path: Condition
    value: Value
    node: ast.expr
    guards: int


@dataclass
class _Run:
    """The following of a function at one world size."""

    module: Module
    owner: ast.ClassDef | None
    world_size: int
    depth: int = 0
    predicate: bool = False
    followed: list[str] = field(default_factory=list)
    calls: list[_Outcome] = field(default_factory=list)
    returned: list[_Outcome] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    live: dict[ast.expr, ast.expr] = field(default_factory=dict)
    world_names: list[str] = field(default_factory=list)
    state: _State = field(default_factory=lambda: _State(Always(), {}))

    def function(self, node: Function, given: Names | None = None) -> None:
        """Follow a function's body with its first plain parameter as the input tensor."""
        names: Names = dict(given) if given is not None else {_input_name(node): Tensor()}
        self._block(node.body, [_State(Always(), names)])

    def outcomes(self, node: Function) -> list[_Outcome]:
        """Return the outcomes that make the decision: fewest guards passed."""
        asked = self.predicate or CHOOSES.search(node.name)
        found = self.calls or (self.returned if asked else [])
        known = [o for o in found if v.truth(o.value) is not None]
        fewest = min((o.guards for o in known), default=0)
        return [o for o in known if o.guards == fewest]

    def decisive(self, node: Function) -> list[ast.expr]:
        """Return the expressions of the deciding outcomes."""
        return [o.node for o in self.outcomes(node)]

    def rule(self, node: Function, looked: str) -> Condition:
        """Join the outcomes into one condition."""
        found = self.outcomes(node)
        if not found:
            made = self.calls or self.returned
            raise NoChoiceError(
                f"{looked} makes no choice of its own between 1-stage and 2-stage"
                + ("" if made and self.calls else " (looked for a use_1stage argument)")
            )
        conditions = [v.truth(o.value) or Always(False) for o in found]
        if len(set(conditions)) == 1:
            return conditions[0]
        return _joined([o.path for o in found], conditions)

    # Statements.

    def _block(self, body: list[ast.stmt], states: list[_State]) -> list[_State]:
        for statement in body:
            after: list[_State] = []
            for state in states:
                after += self._statement(statement, state)
            states = after
            if len(states) > MAX_STATES:
                raise NoChoiceError(
                    f"{self.module.name}:{statement.lineno}: too many branches to follow"
                )
        return states

    def _statement(self, node: ast.stmt, state: _State) -> list[_State]:
        self.state = state
        if isinstance(node, _STEPS):
            self.steps.append(Step(node, self.world_size, state.path, dict(state.names)))
        if isinstance(node, ast.Assign):
            value = self._value(node.value)
            for target in node.targets:
                self._assign(target, value, state)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self._value(node.value), state)
        elif isinstance(node, ast.AugAssign):
            old, change = self._value(node.target), self._value(node.value)
            new = v.arithmetic(_OPERATORS.get(type(node.op), ""), old, change)
            self._assign(node.target, new or Unknown(ast.unparse(node)), state)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                outcome = self._value(node.value)
                self.returned.append(_Outcome(state.path, outcome, node.value, state.guards))
            return []
        elif isinstance(node, ast.Raise | ast.Continue | ast.Break):
            return []
        elif isinstance(node, ast.If):
            return self._if(node, state)
        elif isinstance(node, ast.With | ast.AsyncWith):
            return self._block(node.body, [state])
        elif isinstance(node, ast.Try):
            return self._block([*node.body, *node.orelse, *node.finalbody], [state])
        elif isinstance(node, ast.Expr):
            self._value(node.value)
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
            for name in _assigned(node):
                state.names[name] = Unknown(name)
        return [state]

    def _if(self, node: ast.If, state: _State) -> list[_State]:
        test = self._value(node.test)
        condition = v.truth(test)
        if isinstance(test, Unknown) and test.env:
            self.overrides.append(test.env)
        if condition == Always():
            return self._skipping(node.orelse, test, self._block(node.body, [state]))
        if condition == Always(False):
            return self._skipping(node.body, test, self._block(node.orelse, [state]))
        names = dict(state.names)
        if condition is None:
            yes = _State(state.path, dict(names), state.guards + 1)
            no = _State(state.path, dict(names), state.guards)
        else:
            yes = _State(all_of(state.path, condition), dict(names), state.guards)
            no = _State(all_of(state.path, condition.negated()), dict(names), state.guards)
        after = [
            self._block(body, [branch]) if branch.path != Always(False) else []
            for body, branch in ((node.body, yes), (node.orelse, no))
        ]
        if len(after[0]) == len(after[1]) == 1 and after[0][0].names == after[1][0].names:
            return [_State(state.path, after[0][0].names, state.guards)]
        return after[0] + after[1]

    def _skipping(self, body: list[ast.stmt], test: Value, states: list[_State]) -> list[_State]:
        """Mark what a set environment would assign, so that its override is not forgotten."""
        env = getattr(test, "env", "")
        for state in states if env else ():
            for statement in body:
                for name in _assigned(statement):
                    old = state.names.get(name)
                    if isinstance(old, Number):
                        state.names[name] = Number(old.value, old.names, old.kilo, env)
        return states

    def _assign(self, target: ast.expr, value: Value, state: _State) -> None:
        if isinstance(target, ast.Name):
            state.names[target.id] = v.called(value, target.id)
        elif isinstance(target, ast.Tuple | ast.List):
            parts: tuple[Value, ...] = ()
            if isinstance(value, Items):
                parts = value.values
            elif isinstance(value, v.TensorShape):
                parts = (v.TOKENS, v.HIDDEN)
            for i, element in enumerate(target.elts):
                same = len(parts) == len(target.elts)
                part = parts[i] if same else Unknown(ast.unparse(element))
                self._assign(element, part, state)
        elif isinstance(target, ast.Attribute):
            state.names[ast.unparse(target)] = v.called(value, target.attr)

    # Expressions.

    def _value(self, node: ast.expr) -> Value:
        handler = _HANDLERS.get(type(node))
        value = handler(self, node) if handler else None
        return value if value is not None else Unknown(ast.unparse(node))

    def _constant(self, node: ast.Constant) -> Value | None:
        if node.value is None:
            return Nothing()
        if isinstance(node.value, bool):
            return Always(node.value)
        if isinstance(node.value, int | float):
            return v.number(node.value)
        return Text(node.value) if isinstance(node.value, str) else None

    def _name(self, node: ast.Name) -> Value | None:
        if node.id in self.state.names:
            return self.state.names[node.id]
        known = self._symbol(node.id, node)
        if known is not None:
            return known
        constant = _constant_of(self.module.tree.body, node.id)
        return None if constant is None else v.called(self._outside(constant), node.id)

    def _outside(self, node: ast.expr) -> Value:
        """Evaluate a constant of the module or class, where no local name is known."""
        if self.depth > 4:
            return Unknown(ast.unparse(node))
        inner = _Run(self.module, self.owner, self.world_size, self.depth + 2)
        value = inner._value(node)
        self.overrides += inner.overrides
        return value

    def _symbol(self, name: str, node: ast.expr) -> Value | None:
        if WORLD.fullmatch(name):
            self.world_names.append(ast.unparse(node))
            return v.number(self.world_size, name)
        return FullMesh() if _MESH.fullmatch(name) else None

    def _attribute(self, node: ast.Attribute) -> Value | None:
        text = ast.unparse(node)
        if text in self.state.names:
            return self.state.names[text]
        base = self._value(node.value)
        if isinstance(base, Tensor):
            known: dict[str, Value] = {
                "shape": v.TensorShape(),
                "dtype": v.TensorDtype(),
                "nbytes": v.BYTES,
                "itemsize": v.ELEMENT_SIZE,
            }
            return known.get(node.attr)
        if isinstance(base, v.TensorDtype):
            return v.ELEMENT_SIZE if node.attr == "itemsize" else None
        if text.startswith("torch."):
            return v.dtype(node.attr)
        if text in ("math.inf", "np.inf", "numpy.inf"):
            return v.number(float("inf"))
        if text.startswith("envs."):
            return Unknown(text, env=node.attr)
        symbol = self._symbol(node.attr, node)
        if symbol is not None:
            return symbol
        owner = self.owner
        holder = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if owner is not None and (holder or ast.unparse(node.value) == owner.name):
            constant = _constant_of(owner.body, node.attr)
            if constant is not None:
                return v.called(self._outside(constant), node.attr)
        if isinstance(base, Unknown) and base.env:
            return Unknown(text, env=base.env)
        return None

    def _subscript(self, node: ast.Subscript) -> Value | None:
        base, index = self._value(node.value), self._value(node.slice)
        if isinstance(base, v.TensorShape) and isinstance(index, Number):
            return {0: v.TOKENS, -2: v.TOKENS, 1: v.HIDDEN, -1: v.HIDDEN}.get(int(index.value))
        if isinstance(base, v.TensorShape):
            return v.TOKENS if ast.unparse(node.slice) == ":-1" else None
        if isinstance(base, Mapping):
            return _look_up(base, index)
        if isinstance(base, Items) and isinstance(index, Number):
            return base.values[int(index.value)]
        if ast.unparse(node.value).endswith("environ") and isinstance(index, Text):
            return Unknown(ast.unparse(node), env=index.value)
        return None

    def _tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Value:
        return Items(tuple(self._value(e) for e in node.elts))

    def _dict(self, node: ast.Dict) -> Value | None:
        if any(key is None for key in node.keys):
            return None
        pairs = zip(node.keys, node.values, strict=True)
        return Mapping(tuple((self._value(k), self._value(x)) for k, x in pairs if k is not None))

    def _binary(self, node: ast.BinOp) -> Value | None:
        left, right = self._value(node.left), self._value(node.right)
        return v.arithmetic(_OPERATORS.get(type(node.op), ""), left, right)

    def _unary(self, node: ast.UnaryOp) -> Value | None:
        operand = self._value(node.operand)
        if isinstance(node.op, ast.Not):
            known = v.truth(operand)
            if known is not None:
                self._note_override(operand)
                return known.negated()
        if isinstance(node.op, ast.USub) and isinstance(operand, Number):
            return Number(-operand.value, operand.names)
        return None

    def _note_override(self, value: Value) -> None:
        if isinstance(value, Unknown | Nothing) and value.env:
            self.overrides.append(value.env)

    def _boolean(self, node: ast.BoolOp) -> Value | None:
        """``and`` leaves out parts that nothing is known about, and records that it did."""
        parts = [self._value(x) for x in node.values]
        known = []
        unread = []
        for part, source in zip(parts, node.values, strict=True):
            self._note_override(part)
            condition = v.truth(part)
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

    def _compare(self, node: ast.Compare) -> Value | None:
        nodes = [node.left, *node.comparators]
        operands = [self._value(n) for n in nodes]
        out: list[Condition] = []
        for i, op_node in enumerate(node.ops):
            (left, right), (left_node, right_node) = operands[i : i + 2], nodes[i : i + 2]
            op = _OPERATORS[type(op_node)]
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
            condition = v.comparison(op, left, right)
            if condition is None:
                return None
            out.append(condition)
            if op in ("in", "not in"):
                self.memberships.append(Membership(node, condition))
            for size, limit, at in ((left, right, right_node), (right, left, left_node)):
                if isinstance(size, Size) and isinstance(limit, Number):
                    found = Comparison(node, at, op, size, limit, condition)
                    self.comparisons.append(found)
                    self._note_limit(limit)
        return all_of(*out)

    def _note_limit(self, limit: Number) -> None:
        if limit.env:
            self.overrides.append(limit.env)

    def _if_else(self, node: ast.IfExp) -> Value | None:
        test = self._value(node.test)
        self._note_override(test)
        condition = v.truth(test)
        if condition in (Always(), Always(False)):
            self.live[node] = node.body if condition == Always() else node.orelse
            return self._value(self.live[node])
        yes, no = v.truth(self._value(node.body)), v.truth(self._value(node.orelse))
        if condition is None or yes is None or no is None:
            return None
        return any_of(all_of(condition, yes), all_of(condition.negated(), no))

    def _call(self, node: ast.Call) -> Value | None:
        self._note_choice(node)
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        arguments = [self._value(a) for a in node.args]
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
            return v.ELEMENTS if isinstance(arguments[0], v.TensorShape) else None
        if name == "getattr" and len(arguments) >= 2 and isinstance(arguments[1], Text):
            return self._symbol(arguments[1].value, ast.Name(arguments[1].value))
        if name in ("frozenset", "set", "tuple") and len(arguments) == 1:
            return arguments[0] if isinstance(arguments[0], Items) else None
        if "world_size" in name:
            return self._symbol("world_size", node)
        return self._followed(node, function)

    def _method(
        self, node: ast.Call, function: ast.Attribute, arguments: list[Value]
    ) -> Value | None:
        base = self._value(function.value)
        if isinstance(base, Tensor):
            if function.attr in ("numel", "nelement"):
                return v.ELEMENTS
            if function.attr == "element_size":
                return v.ELEMENT_SIZE
            if function.attr == "size":
                index = arguments[0] if arguments else None
                if not isinstance(index, Number):
                    return v.TensorShape()
                return {0: v.TOKENS, 1: v.HIDDEN, -1: v.HIDDEN}.get(int(index.value))
            if function.attr in ("contiguous", "view", "reshape", "flatten"):
                return Tensor()
        if isinstance(base, v.TensorShape) and function.attr == "numel":
            return v.ELEMENTS
        if isinstance(base, Mapping) and function.attr == "get" and arguments:
            return _look_up(base, arguments[0], arguments[1] if len(arguments) > 1 else Nothing())
        if isinstance(base, Unknown) and base.env:
            return Unknown(ast.unparse(node), env=base.env)
        return None

    def _environment(self, node: ast.Call, name: str, arguments: list[Value]) -> Value | None:
        text = ast.unparse(node.func)
        first = arguments[0] if arguments else None
        if not isinstance(first, Text):
            return None
        if text.endswith(("environ.get", "getenv")):
            default = arguments[1] if len(arguments) > 1 else Nothing()
            if isinstance(default, Number):
                kilo = max(default.kilo, v.kilo_of(first.value))
                names = default.names | {first.value}
                return Number(default.value, names, kilo, env=first.value)
            if isinstance(default, Text):
                return Text(default.value, env=first.value)
            return Nothing(env=first.value) if isinstance(default, Nothing) else None
        if "env" in name.lower() and first.value.isupper():
            return Unknown(text, env=first.value)
        return None

    def _note_choice(self, node: ast.Call) -> None:
        chosen = [k.value for k in node.keywords if k.arg and CHOOSES.search(k.arg)]
        if not chosen:
            chosen = [a for a in node.args if isinstance(a, ast.Name) and CHOOSES.search(a.id)]
        for argument in chosen[:1]:
            value, state = self._value(argument), self.state
            self.calls.append(_Outcome(state.path, value, argument, state.guards))

    def _followed(self, node: ast.Call, function: ast.expr) -> Value | None:
        """Follow a call to a predicate of the same module or class that sees the tensor."""
        name = None
        if isinstance(function, ast.Name):
            name = function.id
        elif isinstance(function, ast.Attribute) and ast.unparse(function.value) in ("self", "cls"):
            name = f"{self.owner.name}.{function.attr}" if self.owner else None
        found = self.module.function(name) if name else None
        if found is None or self.depth > 2:
            return None
        callee, owner = found
        parameters = [a.arg for a in (*callee.args.posonlyargs, *callee.args.args)]
        if parameters[:1] in (["self"], ["cls"]):
            parameters = parameters[1:]
        given = dict(zip(parameters, (self._value(a) for a in node.args), strict=False))
        given |= {k.arg: self._value(k.value) for k in node.keywords if k.arg}
        if not any(isinstance(x, Tensor | Size) for x in given.values()):
            return None
        inner = _Run(self.module, owner, self.world_size, self.depth + 1, predicate=True)
        inner.function(callee, given)
        self.followed += [name or "", *inner.followed]
        found_here = inner.outcomes(callee)
        conditions = [c for c in (v.truth(o.value) for o in found_here) if c is not None]
        if not conditions:
            return inner.returned[0].value if len(inner.returned) == 1 else None
        self.overrides += inner.overrides
        self.comparisons += inner.comparisons
        self.assumed += inner.assumed
        return _joined([o.path for o in found_here], conditions)


_HANDLERS: dict[type, Callable[..., Value | None]] = {
    ast.Constant: _Run._constant,
    ast.Name: _Run._name,
    ast.Attribute: _Run._attribute,
    ast.Subscript: _Run._subscript,
    ast.Tuple: _Run._tuple,
    ast.List: _Run._tuple,
    ast.Set: _Run._tuple,
    ast.Dict: _Run._dict,
    ast.BinOp: _Run._binary,
    ast.UnaryOp: _Run._unary,
    ast.BoolOp: _Run._boolean,
    ast.Compare: _Run._compare,
    ast.IfExp: _Run._if_else,
    ast.Call: _Run._call,
}


def _joined(paths: list[Condition], conditions: list[Condition]) -> Condition:
    """Return when one of the conditions holds on its own path.

    What all paths ask alike says when the op runs at all, not which kernel it takes.
    """
    common = set.intersection(*(set(factors(path)) for path in paths))
    own = [all_of(*(f for f in factors(path) if f not in common)) for path in paths]
    return any_of(*(all_of(path, c) for path, c in zip(own, conditions, strict=True)))


def _look_up(mapping: Mapping, key: Value, default: Value | None = None) -> Value | None:
    for known, value in mapping.items:
        same = isinstance(known, Number) and isinstance(key, Number) and known.value == key.value
        if same or known == key:
            return value
    return default


def _converted(value: Value) -> Value:
    if isinstance(value, Text):
        try:
            converted = v.number(float(value.value) if "." in value.value else int(value.value))
        except ValueError:
            return v.number(float("inf")) if value.value in ("inf", "Infinity") else value
        kilo = v.kilo_of(value.env)
        names = frozenset({value.env}) if value.env else frozenset()
        return Number(converted.value, names, kilo, value.env)
    return value


def _constant_of(body: list[ast.stmt], name: str) -> ast.expr | None:
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


def _assigned(node: ast.stmt) -> list[str]:
    return [
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]


def _input_name(node: Function) -> str:
    """Return the parameter that is the input: the first one that is not ``self`` or ``cls``."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    return next((n for n in names if n not in ("self", "cls")), "")


def _sized(condition: Condition) -> bool:
    """Tell whether a condition looks at bytes, elements or tokens."""
    if isinstance(condition, Compare):
        return condition.quantity in ("bytes", "elements", "tokens")
    return any(_sized(part) for part in getattr(condition, "parts", ()))


def _unique(nodes: Iterable[ast.expr]) -> list[ast.expr]:
    return list(dict.fromkeys(nodes))
