"""Follow a function of an engine's source with its input as a symbol (symbolic execution).

It is followed statement by statement at one world size: assignments are remembered, a branch on
shape, dtype or mesh is taken both ways with its condition, settings of the environment are read as
unset, and a guard that nothing is known about (``ca_comm is None``) is passed. Nothing is run.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from ..errors import InputError
from ..rules.algebra import all_of, any_of, factors
from ..rules.condition import Always, Condition
from .evaluation import OPERATORS, Evaluator, Scope
from .module import Function, assigned, input_name
from .stand_in import CHOOSES
from .symbols import (
    HIDDEN,
    TOKENS,
    Items,
    Number,
    Size,
    Symbol,
    Tensor,
    TensorShape,
    Unknown,
    arithmetic,
    called,
    truth,
)

#: States followed through one function before it is given up as too branched.
MAX_STATES = 400

_STEPS = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)


@dataclass(frozen=True)
class Step:
    """An assignment, return or call that was followed: where, and what was known before it."""

    node: ast.stmt
    world_size: int
    path: Condition
    names: Scope


class NoChoiceError(InputError):
    """The function does not choose between the two kernels by itself."""


@dataclass
class _State:
    """One way through the function so far: its condition, names, and guards passed unread."""

    path: Condition
    names: Scope
    guards: int = 0


@dataclass(frozen=True)
class _Outcome:
    """A value that was returned or handed to the kernel, and on which way."""

    path: Condition
    value: Symbol
    node: ast.expr
    guards: int


@dataclass
class SymbolicRun(Evaluator):
    """The following of a function at one world size.

    ``calls`` are the values handed to a kernel, ``returned`` those that the function returns;
    ``predicate`` takes the returned ones for the decision; ``followed`` names functions entered.
    """

    predicate: bool = False
    followed: list[str] = field(default_factory=list)
    calls: list[_Outcome] = field(default_factory=list)
    returned: list[_Outcome] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    state: _State = field(default_factory=lambda: _State(Always(), {}))

    def function(self, node: Function, given: Scope | None = None) -> None:
        """Follow a function's body with its first plain parameter as the input tensor."""
        names: Scope = dict(given) if given is not None else {input_name(node): Tensor()}
        self._block(node.body, [_State(Always(), names)])

    def outcomes(self, node: Function) -> list[_Outcome]:
        """Return the outcomes that make the decision: fewest guards passed."""
        asked = self.predicate or CHOOSES.search(node.name)
        made = self.calls or (self.returned if asked else [])
        known = [o for o in made if truth(o.value) is not None]
        fewest = min((o.guards for o in known), default=0)
        return [o for o in known if o.guards == fewest]

    def decisive(self, node: Function) -> list[ast.expr]:
        """Return the expressions of the deciding outcomes."""
        return [o.node for o in self.outcomes(node)]

    def rule(self, node: Function, looked: str) -> Condition:
        """Join the outcomes into one condition."""
        deciding = self.outcomes(node)
        if not deciding:
            raise NoChoiceError(
                f"{looked} makes no choice of its own between 1-stage and 2-stage"
                + ("" if self.calls else " (looked for a use_1stage argument)")
            )
        conditions = [truth(o.value) or Always(False) for o in deciding]
        if len(set(conditions)) == 1:
            return conditions[0]
        return _joined([o.path for o in deciding], conditions)

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
        self.state, self.scope = state, state.names
        if isinstance(node, _STEPS):
            self.steps.append(Step(node, self.world_size, state.path, dict(state.names)))
        if isinstance(node, ast.Assign):
            value = self.value(node.value)
            for target in node.targets:
                self._assign(target, value, state)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self.value(node.value), state)
        elif isinstance(node, ast.AugAssign):
            old, change = self.value(node.target), self.value(node.value)
            new = arithmetic(OPERATORS.get(type(node.op), ""), old, change)
            self._assign(node.target, new or Unknown(ast.unparse(node)), state)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                outcome = self.value(node.value)
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
            self.value(node.value)
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
            for name in assigned(node):
                state.names[name] = Unknown(name)
        return [state]

    def _if(self, node: ast.If, state: _State) -> list[_State]:
        test = self.value(node.test)
        condition = truth(test)
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

    def _skipping(self, body: list[ast.stmt], test: Symbol, states: list[_State]) -> list[_State]:
        """Mark what a set environment would assign, so that its override is not forgotten."""
        env = getattr(test, "env", "")
        for state in states if env else ():
            for statement in body:
                for name in assigned(statement):
                    old = state.names.get(name)
                    if isinstance(old, Number):
                        state.names[name] = Number(old.value, old.names, old.kilo, env)
        return states

    def _assign(self, target: ast.expr, value: Symbol, state: _State) -> None:
        if isinstance(target, ast.Name):
            state.names[target.id] = called(value, target.id)
        elif isinstance(target, ast.Tuple | ast.List):
            parts: tuple[Symbol, ...] = ()
            if isinstance(value, Items):
                parts = value.values
            elif isinstance(value, TensorShape):
                parts = (TOKENS, HIDDEN)
            for i, element in enumerate(target.elts):
                same = len(parts) == len(target.elts)
                part = parts[i] if same else Unknown(ast.unparse(element))
                self._assign(element, part, state)
        elif isinstance(target, ast.Attribute):
            state.names[ast.unparse(target)] = called(value, target.attr)

    def note_call(self, node: ast.Call) -> None:
        """Remember a call that takes a 1-stage argument."""
        chosen = [k.value for k in node.keywords if k.arg and CHOOSES.search(k.arg)]
        if not chosen:
            chosen = [a for a in node.args if isinstance(a, ast.Name) and CHOOSES.search(a.id)]
        for argument in chosen[:1]:
            value, state = self.value(argument), self.state
            self.calls.append(_Outcome(state.path, value, argument, state.guards))

    def follow(self, node: ast.Call) -> Symbol | None:
        """Follow a call to a predicate of the same module or class that sees the tensor."""
        function, name = node.func, None
        if isinstance(function, ast.Name):
            name = function.id
        elif isinstance(function, ast.Attribute) and ast.unparse(function.value) in ("self", "cls"):
            name = f"{self.owner.name}.{function.attr}" if self.owner else None
        target = self.module.function(name) if name else None
        if target is None or self.depth > 2:
            return None
        callee, owner = target
        parameters = [a.arg for a in (*callee.args.posonlyargs, *callee.args.args)]
        if parameters[:1] in (["self"], ["cls"]):
            parameters = parameters[1:]
        given = dict(zip(parameters, (self.value(a) for a in node.args), strict=False))
        given |= {k.arg: self.value(k.value) for k in node.keywords if k.arg}
        if not any(isinstance(x, Tensor | Size) for x in given.values()):
            return None
        inner = SymbolicRun(self.module, owner, self.world_size, self.depth + 1, predicate=True)
        inner.function(callee, given)
        self.followed += [name or "", *inner.followed]
        found_here = inner.outcomes(callee)
        conditions = [c for c in (truth(o.value) for o in found_here) if c is not None]
        if not conditions:
            return inner.returned[0].value if len(inner.returned) == 1 else None
        self.overrides += inner.overrides
        self.comparisons += inner.comparisons
        self.assumed += inner.assumed
        return _joined([o.path for o in found_here], conditions)


def _joined(paths: list[Condition], conditions: list[Condition]) -> Condition:
    """Return when one of the conditions holds on its own path.

    What all paths ask alike says when the op runs at all, not which kernel it takes.
    """
    common = set.intersection(*(set(factors(path)) for path in paths))
    own = [all_of(*(f for f in factors(path) if f not in common)) for path in paths]
    return any_of(*(all_of(path, c) for path, c in zip(own, conditions, strict=True)))
