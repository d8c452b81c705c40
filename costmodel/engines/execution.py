"""Follow a function of an engine's source with its input as a symbol (symbolic execution).

It is followed statement by statement at one world size: assignments are remembered, a branch on
shape, dtype or mesh is taken both ways with its condition, environment variables are read as unset
but for those that are given, and a guard that nothing is known about (``ca_comm is None``) is
passed. Nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct, field

from ..rules.algebra import all_of, any_of, factors
from ..rules.condition import Always, Condition
from .evaluation import MAX_TERMS, OPERATORS, Evaluator, NoChoiceError, Scope, names_ranks
from .iteration import MAX_TURNS, turns
from .module import Function, assigned, changed, input_name, made_of, source_of
from .stand_in import CHOOSES
from .symbols import (
    HIDDEN,
    TOKENS,
    Items,
    Mapping,
    Routine,
    Size,
    Symbol,
    Tensor,
    TensorShape,
    Unknown,
    arithmetic,
    called,
    truth,
)

#: Decorators that leave what a function returns as it is.
_TRANSPARENT = {
    "staticmethod", "classmethod", "property", "cached_property", "lru_cache", "cache", "override",
    "final", "disable", "ignore", "unused", "no_grad", "inference_mode", "is_compiling",
}  # fmt: skip

#: What the name of a function says that returns a limit.
_LIMITS = re.compile(r"limit|cutoff|threshold|max(?:imum)?_|_max|bytes|_kb|_kib", re.IGNORECASE)

#: States followed through one function before it is given up as too branched.
MAX_STATES = 400

_STEPS = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)


class Step(Struct, frozen=True):
    """An assignment, return or call that was followed: where, and what was known before it."""

    node: ast.stmt
    world_size: int
    path: Condition
    names: Scope


class _State(Struct):
    """One way through the function so far: its condition, names, and guards passed unread.

    ``left`` says that it goes on after the loop ("break") or in its next turn ("continue").
    """

    path: Condition
    names: Scope
    guards: int = 0
    left: str = ""


class _Outcome(Struct, frozen=True):
    """A value that was returned or handed to the kernel, and on which way."""

    path: Condition
    value: Symbol
    node: ast.expr
    guards: int


class SymbolicRun(Evaluator):
    """The following of a function at one world size.

    ``calls`` are the values handed to a kernel, ``returned`` those that the function returns;
    ``predicate`` takes the returned ones for the decision; ``followed`` names the functions that
    calls entered, with those that they entered in turn.
    """

    predicate: bool = False
    followed: dict[ast.expr, tuple[str, ...]] = field(default_factory=dict)
    calls: list[_Outcome] = field(default_factory=list)
    returned: list[_Outcome] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    state: _State = field(default_factory=lambda: _State(Always(), {}))
    counts: set[ast.AST] = field(default_factory=set)
    places: dict[str, int] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    decides: bool = False

    def function(self, node: Function, given: Scope | None = None) -> None:
        """Follow a function's body with its first plain parameter as the input tensor."""
        names: Scope = dict(given) if given is not None else {input_name(node): Tensor()}
        for name in _parameters(node.args):
            # A parameter hides what the module calls by its name; some say by it what they are.
            if name not in names and not names_ranks(name):
                names[name] = Unknown(name)
        self.shared = _shared(node)
        self.decides = self.predicate or bool(CHOOSES.search(node.name))
        self.counts = _that_counts(node, self.predicate)
        self.places = _places(node)
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
                f"{looked} makes no choice of its own between 1-stage and 2-stage that can be read"
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
                after += [state] if state.left else self._statement(statement, state)
            states = after
            longest = max((len(factors(state.path)) for state in states), default=0)
            if len(states) > MAX_STATES or longest > MAX_TERMS:
                raise NoChoiceError(
                    f"{self.module.name}:{statement.lineno}: too many branches to follow"
                )
        return states

    def _statement(self, node: ast.stmt, state: _State) -> list[_State]:
        self.state, self.scope = state, state.names
        if isinstance(node, _STEPS):
            self.steps.append(Step(node, self.world_size, state.path, dict(state.names)))
            self._forget(changed(node), state)
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
            self._assign(node.target, new or Unknown(source_of(node)), state)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                outcome = self.value(node.value)
                self.returned.append(_Outcome(state.path, outcome, node.value, state.guards))
            return []
        elif isinstance(node, ast.Raise):
            return []
        elif isinstance(node, ast.Continue | ast.Break):
            state.left = "break" if isinstance(node, ast.Break) else "continue"
        elif isinstance(node, ast.For | ast.While):
            return self._loop(node, state)
        elif isinstance(node, ast.If):
            return self._if(node, state)
        elif isinstance(node, ast.With | ast.AsyncWith):
            return self._block(node.body, [state])
        elif isinstance(node, ast.Try):
            return self._try(node, state)
        elif isinstance(node, ast.Expr):
            self.value(node.value)
        elif isinstance(node, Function):
            plain = is_plain(node) and node.name not in self.shared
            state.names[node.name] = Routine(node, True) if plain else Unknown(node.name)
        elif isinstance(node, ast.ClassDef):
            state.names[node.name] = Unknown(node.name)
        else:
            self._unread(node, state)
        return [state]

    def _unread(self, node: ast.stmt, state: _State) -> None:
        """Pass a loop, a pattern, an import: nothing is known of what it leaves.

        Raises :class:`NoChoiceError` where the choice is made inside.
        """
        inside = list(ast.walk(node))
        chooses = any(isinstance(n, ast.Call) and self._given_stage(n) for n in inside)
        returned = [n for n in inside if isinstance(n, ast.Return) and n.value is not None]
        decides = self.decides and any(not _says_no(n.value) for n in returned)
        if chooses or decides:
            raise NoChoiceError(
                f"{self.module.name}:{node.lineno}: the choice stands in a statement that is not "
                f"followed: {source_of(node).splitlines()[0]}"
            )
        test = getattr(node, "iter", getattr(node, "test", getattr(node, "subject", None)))
        if returned and isinstance(test, ast.expr):
            self.assumed.append((test, source_of(test)))
        for name in assigned(node):
            if not (isinstance(node, ast.Import | ast.ImportFrom) and names_ranks(name)):
                state.names[name] = Unknown(name)
        self._forget(changed(node), state)

    def _loop(self, node: ast.For | ast.While, state: _State) -> list[_State]:
        """Follow a loop over known values, turn by turn; pass any other."""
        values = turns(self.value(node.iter)) if isinstance(node, ast.For) else None
        if values is None and not (isinstance(node, ast.While) and self._goes_on(node) is not None):
            self._unread(node, state)
            return [state]
        going, ended, done = [state], [], []
        for turn in range(MAX_TURNS + 1):
            ahead: list[_State] = []
            for one in going:
                self.state, self.scope = one, one.names
                goes_on = self._goes_on(node) if isinstance(node, ast.While) else None
                if values is not None:
                    goes_on = turn < len(values)
                if goes_on is None or (goes_on and turn == MAX_TURNS):
                    raise NoChoiceError(
                        f"{self.module.name}:{node.lineno}: a loop that is not followed to its "
                        f"end: {source_of(node).splitlines()[0]}"
                    )
                if not goes_on:
                    done.append(one)
                    continue
                if isinstance(node, ast.For) and values is not None:
                    self._assign(node.target, values[turn], one)
                ahead += self._block(node.body, [one])
            ended += [one for one in ahead if one.left == "break"]
            going = [one for one in ahead if one.left != "break"]
            for one in ahead:
                one.left = ""
            if not going:
                break
        return ended + self._block(node.orelse, done)

    def _goes_on(self, node: ast.While) -> bool | None:
        """Return whether a loop takes another turn, None where that is not known."""
        condition = truth(self.value(node.test))
        return condition.value if isinstance(condition, Always) else None

    def _forget(self, nodes: Iterable[ast.expr], state: _State) -> None:
        """Take tables that are changed in place for unknown."""
        for node in nodes:
            if isinstance(self.value(node), Mapping | Items):
                state.names[source_of(node)] = Unknown(source_of(node))

    def _try(self, node: ast.Try, state: _State) -> list[_State]:
        """Follow the body, or the first handler where the body reads a variable that is not set."""
        before, missing = dict(state.names), self.missing
        after = self._block([*node.body, *node.orelse], [state])
        if self.missing > missing and node.handlers:
            fresh = _State(state.path, before, state.guards)
            after = self._block(node.handlers[0].body, [fresh])
        left = [one.left for one in after]
        for one in after:
            one.left = ""
        if node.finalbody and any(left):
            raise NoChoiceError(
                f"{self.module.name}:{node.lineno}: a loop is left through a finally"
            )
        for one, how in zip(after, left, strict=True):
            one.left = how
        return self._block(node.finalbody, after)

    def _if(self, node: ast.If, state: _State) -> list[_State]:
        condition = truth(self.value(node.test))
        if condition == Always():
            return self._block(node.body, [state])
        if condition == Always(False):
            return self._block(node.orelse, [state])
        names = dict(state.names)
        if condition is None:
            self.assumed.append((node.test, source_of(node.test)))
            sure = self._surely(node.test)
            without = all_of(state.path, sure.negated())
            taken = [
                _State(all_of(state.path, sure), dict(names), state.guards),
                _State(without, dict(names), state.guards + 1),
            ]
            no = _State(without, dict(names), state.guards)
        else:
            taken = [_State(all_of(state.path, condition), dict(names), state.guards)]
            no = _State(all_of(state.path, condition.negated()), dict(names), state.guards)
        after = [
            self._block(body, [one for one in ways if one.path != Always(False)])
            for body, ways in ((node.body, taken), (node.orelse, [no]))
        ]
        if len(after[0]) == len(after[1]) == 1:
            one, other = after[0][0], after[1][0]
            if one.names == other.names and one.left == other.left:
                return [_State(state.path, one.names, state.guards, one.left)]
        return after[0] + after[1]

    def _surely(self, test: ast.expr) -> Condition:
        """Return when a test holds whatever its parts say that cannot be read."""
        if not isinstance(test, ast.BoolOp) or not isinstance(test.op, ast.Or):
            return Always(False)
        known = (truth(self.value(part)) for part in test.values)
        return any_of(*(condition for condition in known if condition is not None))

    def _assign(self, target: ast.expr, value: Symbol, state: _State) -> None:
        if isinstance(target, ast.Name):
            known = target.id not in self.shared
            state.names[target.id] = called(value, target.id) if known else Unknown(target.id)
        elif isinstance(target, ast.Tuple | ast.List):
            parts: tuple[Symbol, ...] = ()
            if isinstance(value, Items):
                parts = value.values
            elif isinstance(value, TensorShape):
                parts = (TOKENS, HIDDEN)
            for i, element in enumerate(target.elts):
                same = len(parts) == len(target.elts)
                part = parts[i] if same else Unknown(source_of(element))
                self._assign(element, part, state)
        elif isinstance(target, ast.Attribute):
            state.names[source_of(target)] = called(value, target.attr)

    def note_call(self, node: ast.Call) -> None:
        """Remember a call that takes a 1-stage argument."""
        for argument in self._given_stage(node)[:1]:
            value, state = self.value(argument), self.state
            self.calls.append(_Outcome(state.path, value, argument, state.guards))

    def _given_stage(self, node: ast.Call) -> list[ast.expr]:
        """Return what a call is given as its 1-stage argument, by name or by place."""
        at = self.places.get(_called(node), len(node.args))
        return stage_arguments(node) or node.args[at : at + 1]

    def follow_property(self, node: ast.Attribute) -> Symbol | None:
        """Follow a short property of the class that has one value on the way that counts."""
        target = self.module.function(f"{self.owner.name}.{node.attr}") if self.owner else None
        if target is None or self.depth > 2 or not _is_short(target[0], "property"):
            return None
        inner = self.beside(1)
        inner.predicate = True
        inner.function(target[0], {})
        self.heard(inner)
        return inner.returned[0].value if len(inner.returned) == 1 else None

    def follow(self, node: ast.Call) -> Symbol | None:
        """Follow a call of the same module or class that sees the tensor or reads a variable, or
        that says by its name that it returns a limit."""
        function, name = node.func, None
        if isinstance(function, ast.Name):
            name = None if function.id in self.scope else function.id
        elif isinstance(function, ast.Attribute) and source_of(function.value) in ("self", "cls"):
            name = f"{self.owner.name}.{function.attr}" if self.owner else None
        target = self.module.function(name) if name else None
        if target is None or self.depth > 2 or (self.counts and node not in self.counts):
            return None
        callee, _ = target
        spread = any(isinstance(a, ast.Starred) for a in node.args)
        spread |= any(k.arg is None for k in node.keywords)
        if spread or self.module.rebound(name or "") or not is_plain(callee):
            return None
        parameters = [a.arg for a in (*callee.args.posonlyargs, *callee.args.args)]
        if parameters[:1] in (["self"], ["cls"]):
            parameters = parameters[1:]
        given = dict(zip(parameters, (self.value(a) for a in node.args), strict=False))
        given |= {k.arg: self.value(k.value) for k in node.keywords if k.arg}
        sees = any(isinstance(x, Tensor | Size) for x in given.values())
        limits = _LIMITS.search(callee.name) and _is_short(callee)
        if not sees and not limits and not _reads_environment(callee):
            return None
        inner = self.beside(1)
        inner.predicate = True
        inner.function(callee, _defaults(callee.args, inner) | given)
        self.heard(inner)
        found_here = inner.outcomes(callee) if sees else []
        conditions = [c for c in (truth(o.value) for o in found_here) if c is not None]
        if not conditions:
            return inner.returned[0].value if len(inner.returned) == 1 else None
        entered = (n for names in inner.followed.values() for n in names)
        self.followed[node] = (name or "", *entered)
        self.comparisons += inner.comparisons
        self.assumed += [(node, text) for _, text in inner.assumed]
        return _joined([o.path for o in found_here], conditions)

    def enter(self, routine: Routine, node: ast.Call) -> Symbol | None:
        """Follow a lambda or a function inside this one, with the names that it sees."""
        callee, arguments = routine.node, routine.node.args
        spread = any(isinstance(a, ast.Starred) for a in node.args)
        spread |= any(k.arg is None for k in node.keywords) or bool(arguments.vararg)
        defaults = [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
        # Defaults are what their names held where the routine was defined.
        named = any(isinstance(n, ast.Name) for d in defaults for n in ast.walk(d))
        if spread or named or self.depth > 2:
            return None
        inner = self.beside(1)
        inner.predicate = True
        inner.scope = dict(self.scope) if routine.local else {}
        plain = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
        own = isinstance(node.func, ast.Attribute) and plain[:1] in (["self"], ["cls"])
        given = _defaults(arguments, inner)
        given |= dict(zip(plain[own:], (self.value(a) for a in node.args), strict=False))
        given |= {k.arg: self.value(k.value) for k in node.keywords if k.arg}
        # A parameter hides what is called by its name outside.
        hidden = {a: Unknown(a) for a in _parameters(arguments) if not names_ranks(a)}
        inner.scope |= hidden | given
        if isinstance(callee, ast.Lambda):
            value: Symbol | None = inner.value(callee.body)
        else:
            inner.function(callee, inner.scope)
            found = inner.outcomes(callee)
            conditions = [c for o in found if (c := truth(o.value)) is not None]
            value = inner.returned[0].value if len(inner.returned) == 1 else None
            if conditions and value is None:
                value = _joined([o.path for o in found], conditions)
        self.heard(inner)
        self.comparisons += inner.comparisons
        self.assumed += [(node, text) for _, text in inner.assumed]
        return value

    def beside(self, deeper: int) -> SymbolicRun:
        """Return a run of the same module in which no local name is known."""
        return SymbolicRun(
            self.module, self.owner, self.world_size, self.depth + deeper, self.settings,
            host=self.host, nesting=self.nesting, steps_taken=self.steps_taken,
        )  # fmt: skip


def stage_arguments(node: ast.Call) -> list[ast.expr]:
    """Return what a call is given as its 1-stage argument."""
    named = [k.value for k in node.keywords if k.arg and CHOOSES.search(k.arg)]
    return named or [a for a in node.args if isinstance(a, ast.Name) and CHOOSES.search(a.id)]


def _called(node: ast.Call) -> str:
    """Return the last name of what a call calls."""
    return source_of(node.func).rsplit(".", 1)[-1]


@lru_cache(maxsize=64)
def _places(function: Function) -> dict[str, int]:
    """Return at which place calls take their 1-stage argument, by what is called."""
    return {
        _called(node): at
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        for at, argument in enumerate(node.args)
        if isinstance(argument, ast.Name) and CHOOSES.search(argument.id)
    }


@lru_cache(maxsize=64)
def _that_counts(function: Function, predicate: bool) -> set[ast.AST]:
    """Return the syntax nodes on which the decision or the way to it may hang.

    What is returned counts where that may be the decision; a fallback that a function returns
    beside its call of the kernel does not.
    """
    nodes = list(ast.walk(function))
    seeds = [a for n in nodes if isinstance(n, ast.Call) for a in stage_arguments(n)]
    if predicate or not seeds:
        seeds += [n.value for n in nodes if isinstance(n, ast.Return) and n.value is not None]
    tests = [n.test for n in nodes if isinstance(n, ast.If | ast.IfExp)]
    return made_of(function, seeds) | made_of(function, tests)


def _parameters(args: ast.arguments) -> list[str]:
    rest = [a for a in (args.vararg, args.kwarg) if a is not None]
    return [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs, *rest)]


@lru_cache(maxsize=64)
def _shared(function: Function) -> frozenset[str]:
    """Return the locals that a function inside sets, by ``nonlocal``."""
    found = (n for n in ast.walk(function) if isinstance(n, ast.Nonlocal | ast.Global))
    return frozenset(name for node in found for name in node.names)


def is_plain(function: Function) -> bool:
    """Tell whether a function's decorators, if any, leave what it returns as it is."""
    decorators = (d.func if isinstance(d, ast.Call) else d for d in function.decorator_list)
    return {source_of(d).rsplit(".", 1)[-1] for d in decorators} <= _TRANSPARENT


def _is_short(function: Function, decorator: str = "") -> bool:
    """Tell whether a function is short, and has the decorator that is asked for."""
    names = {source_of(one).rsplit(".", 1)[-1] for one in function.decorator_list}
    return len(function.body) <= 8 and (not decorator or any(decorator in n for n in names))


def _reads_environment(function: Function) -> bool:
    """Tell whether a short function reads an environment variable."""
    return _is_short(function) and any(
        isinstance(n, ast.Name | ast.Attribute)
        and (n.id if isinstance(n, ast.Name) else n.attr) in ("environ", "getenv")
        for n in ast.walk(function)
    )


def _says_no(value: ast.expr | None) -> bool:
    """Tell whether what is returned refuses: False or None."""
    return isinstance(value, ast.Constant) and not value.value


def _defaults(arguments: ast.arguments, run: SymbolicRun) -> Scope:
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = arguments.defaults
    pairs = list(zip(plain[len(plain) - len(defaults) :], defaults, strict=True))
    pairs += [
        (a, d)
        for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if d is not None
    ]
    return {a.arg: run.value(d) for a, d in pairs}


def _joined(paths: list[Condition], conditions: list[Condition]) -> Condition:
    """Return when one of the conditions holds on its own path.

    What all paths ask alike says when the op runs at all, not which kernel it takes.
    """
    common = set.intersection(*(set(factors(path)) for path in paths))
    own = [all_of(*(f for f in factors(path) if f not in common)) for path in paths]
    return any_of(*(all_of(path, c) for path, c in zip(own, conditions, strict=True)))
