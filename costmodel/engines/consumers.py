"""Who else in an engine is concerned when its rule changes.

Two kinds: *copies*, other functions with a rule of their own (here or in another file, of this op
or another, or a definition that a later one hides), and *users* of the predicate that a patch
changes. A user either hands the decision to a kernel, so that the 2-stage kernel runs elsewhere, or
decides by it whether the fused op runs at all, so that separate ops do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from ..errors import InputError
from ..model.shape import FUSED, SEPARATE_OPS, SPOKEN, TWO_STAGE
from ..rules.condition import Condition
from .execution import NoChoiceError
from .module import Function, Module, assigned, source_of
from .reader import DispatchFunction, NotRecognisedError, read_dispatch
from .source import Tree
from .stand_in import CHOOSES

#: Words in a function's name that tell which op it serves, and how people call that.
_OPS = (
    ("mxfp4", "MXFP4"),
    ("mhc", "mHC"),
    ("per_group", "per-group fp8"),
    ("per_token", "per-token fp8"),
    ("quant", "fp8"),
    ("fp8", "fp8"),
    ("gemma", "Gemma norm"),
)

_COLLECTIVE = re.compile(r"all_?reduce|(?:^|[._])ar_|_ar(?:$|_)|rms_?norm", re.IGNORECASE)


class Consumer(Struct, frozen=True):
    """A function that is concerned, with what it runs where 1-stage does not.

    ``asks`` tells a user of the changed predicate from a copy; ``own`` is the rule of a copy, None
    where it could not be read; ``before`` says what a user tries first where the predicate is
    false. ``hidden`` is a definition that a later one of the same name takes the place of.
    """

    file: str
    line: int
    function: str
    op: str
    otherwise: str
    asks: bool
    own: Condition | None = None
    before: str = ""
    hidden: bool = False

    @property
    def place(self) -> str:
        """Return function and line, as people look them up."""
        return f"{self.function} ({self.file}:{self.line})"


def consumers(tree: Tree, module: Module, dispatch: DispatchFunction) -> list[Consumer]:
    """Return who is concerned by a change of ``dispatch``, the patched function not included."""
    changed = {dispatch.name, *dispatch.followed}
    predicates = [*dispatch.followed, *([dispatch.name] if dispatch.returns else [])]
    names = {name.rsplit(".", 1)[-1] for name in predicates}
    found: dict[tuple[str, str, bool], Consumer] = {}
    for other in _modules(tree, module):
        for qualified in other.functions():
            if other.name != module.name or qualified not in changed:
                for node, _ in other.definitions(qualified):
                    for one in _of_function(other, qualified, node, names):
                        found.setdefault((one.file, one.function, False), one)
            for node, _ in other.hidden(qualified):
                for one in _of_function(other, qualified, node, names):
                    hidden = replace(one, own=None, hidden=True)
                    found.setdefault((one.file, one.function, True), hidden)
    return list(found.values())


def _modules(tree: Tree, module: Module) -> Iterator[Module]:
    yield module
    for name, text in tree.search("(?i)(1|one)_?stage", word="stage"):
        if name == module.name:
            continue
        try:
            yield Module.parse(name, text)
        except InputError:
            # A file that Python cannot read either has no consumer.
            continue


def _of_function(
    module: Module, qualified: str, function: Function, names: set[str]
) -> Iterator[Consumer]:
    op = _op_of(qualified)
    asks = any(_calls(node, names) for node in ast.walk(function))
    if _hands_over(function):
        own = None if asks else _own_rule(module, qualified)
        if asks or own is not None or _chooses(function):
            before = _tried_before(function) if asks else ""
            line = function.lineno
            yield Consumer(module.name, line, qualified, op, TWO_STAGE, asks, own, before)
    elif asks and any(
        isinstance(n, ast.Return) and n.value is not None and _within(n.value, names)
        for n in ast.walk(function)
    ):
        yield from _behind_gate(module, qualified.rsplit(".", 1)[-1])


def _behind_gate(module: Module, gate: str) -> Iterator[Consumer]:
    """Yield the functions that run the fused op only where a gate of the predicate lets them."""
    for qualified in module.functions():
        for node, _ in module.definitions(qualified):
            tests = [n for n in ast.walk(node) if isinstance(n, ast.If)]
            if node.name != gate and any(_within(test.test, {gate}) for test in tests):
                op = _op_of(qualified)
                yield Consumer(module.name, node.lineno, qualified, op, SEPARATE_OPS, True)


def _tried_before(function: Function) -> str:
    """Return what a function returns of its own accord where its stage variable is false."""
    said: dict[str, None] = {}
    for node in ast.walk(function):
        test = node.test if isinstance(node, ast.If) else None
        if not isinstance(test, ast.UnaryOp) or not isinstance(test.op, ast.Not):
            continue
        if not isinstance(test.operand, ast.Name) or not CHOOSES.search(test.operand.id):
            continue
        for call in (c for s in getattr(node, "body", []) for c in ast.walk(s)):
            name = source_of(call.func).lower() if isinstance(call, ast.Call) else ""
            if "qr_" in name or "quick" in name:
                said["QuickReduce"] = None
            elif "unfused" in name:
                said[SPOKEN[SEPARATE_OPS]] = None
    return " or ".join(said)


def _own_rule(module: Module, qualified: str) -> Condition | None:
    try:
        return read_dispatch(module, qualified, settings=False).condition
    except (NoChoiceError, NotRecognisedError):
        return None


def _chooses(function: Function) -> bool:
    """Tell whether a function works a stage out, and does not only pass its argument on."""
    return any(CHOOSES.search(name) for statement in function.body for name in assigned(statement))


def _hands_over(function: Function) -> bool:
    """Tell whether a function hands a stage to a collective that it calls.

    Other kernels have stages too: AITER's fused MoE, for one.
    """
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and (
            _COLLECTIVE.search(function.name) or _COLLECTIVE.search(source_of(node.func))
        ):
            given = [k.arg for k in node.keywords if k.arg]
            given += [a.id for a in node.args if isinstance(a, ast.Name)]
            if any(CHOOSES.search(name) for name in given):
                return True
    return False


def _within(expr: ast.AST, names: set[str]) -> bool:
    return any(_calls(node, names) for node in ast.walk(expr))


def _calls(node: ast.AST, names: set[str]) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in names


def _op_of(qualified: str) -> str:
    return next((title for word, title in _OPS if re.search(word, qualified)), FUSED)
