"""A patch after which an engine asks the run-time table, with its own rule as what holds otherwise.

Every function of the engine that chooses by itself gets a few lines after its own decision: where
the table has a size, 1-stage up to that size, inside the guards that stood there and the limits of
the AITER release below. The engine's own lines stay as they are, so that without a table nothing
changes, and settings that override the rule override the table too. What :mod:`.consultation_code`
writes is put before the first of those functions.

The changed source is read back: without an entry it must decide as before, with one as the rule
that the entry stands for.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from ..data.kernels import Kernel
from ..errors import InputError
from ..model.shape import FUSED, WORLD_SIZES
from ..rules.adapt import Adapted, adapt, validity
from ..rules.algebra import asks_for_mesh, by_world_size, byte_limit, factors, on_full_mesh
from ..rules.boundary import first_difference
from ..rules.condition import Condition
from ..rules.outside import writable
from ..rules.rule import Rule
from . import applied, diff
from .comment import as_comment
from .consultation_code import code
from .consulted import is_call
from .consumers import Consumer, consumers
from .diff import Edit
from .evaluation import CONSULTS, NoChoiceError
from .execution import Step
from .expression import WIDTH, expression, is_simple
from .layout import laid_out, spliced, wrapped
from .module import Module, made_of, source_of
from .naming import check_spaces, names_at, not_found
from .overrides import lost
from .reader import DispatchFunction, find_dispatch, holder_of, read_dispatch
from .source import Tree
from .statements import parents, target_of, value_of

#: A size that stands in for the table's when a changed source is read back; engines have none such.
_PROBE_BYTES = 300_007 * 2

_ABOUT = (
    "1-stage up to the size that configs/ has for this GPU (a table of costmodel, "
    "costmodel/table/2); where it has none, or ranks read different ones, the rules below hold."
)
_FILLED = (
    "At its first call costmodel, where all ranks have it, tunes for up to 3 s and fills that."
)
_HERE = "A tuned size, where there is one, takes the place of the rule above."
_HERE_BEFORE = "A tuned size, where there is one, takes the place of the rule below."


class ChoosingFunction(Struct, frozen=True):
    """A function that chooses: its file, its op, and its own rule.

    ``adapted`` is the rule that holds with an entry of :data:`_PROBE_BYTES` at every world size;
    where the function could not be patched it is None and ``wrong`` says why.
    """

    file: str
    function: str
    line: int
    op: str
    own: Condition
    adapted: Adapted | None
    wrong: str = ""

    def held(self) -> dict[int, list[Condition]]:
        """Return what the code asks at each world size besides the size."""
        if self.adapted is None:
            return {}
        whole = {n: self.adapted.rule.condition.at(n) for n in WORLD_SIZES}
        return {n: [f for f in factors(c) if f != byte_limit(c)] for n, c in whole.items()}

    def with_bytes(self, sizes: dict[int, int]) -> Rule:
        """Return the rule that holds with entries of these sizes, the own one where none is."""
        if self.adapted is None:
            raise ValueError("not patched")
        every = {n: sizes.get(n, 0) for n in WORLD_SIZES}
        whole = _with_entries(self.own, every, self.op, self.adapted.kernel).rule
        cases = {n: (whole.condition if n in sizes else self.own).at(n) for n in WORLD_SIZES}
        return Rule("table", by_world_size(cases), op=self.op)


class Consultation(Struct, frozen=True):
    """The patch: per changed file its text, and the functions that choose, patched or not.

    ``concerned`` are those that ask a patched predicate, or choose in a way that is not known.
    ``fills`` says that the engine tunes and fills the table itself, ``elsewhere`` which packages
    of engines lie below the same path, not patched.
    """

    text: str
    patched: dict[str, str]
    places: tuple[ChoosingFunction, ...]
    concerned: tuple[Consumer, ...] = ()
    fills: bool = False
    elsewhere: tuple[str, ...] = ()

    @property
    def done(self) -> tuple[ChoosingFunction, ...]:
        """The functions that consult the table."""
        return tuple(place for place in self.places if place.adapted is not None)


def consult(tree: Tree, kernel: Kernel, command: str, *, fills: bool = False) -> Consultation:
    """Return the patch of a tree; its ``text`` is "" where the tree is so already.

    With ``fills`` the engine tunes at its first call, and fills the table. Patches of rules that
    are applied give way. ``command`` is what makes the patch again. Raises
    :class:`NotRecognisedError` where no function of the engine can be patched.
    """
    writable(tree.version, "the tree's version")
    bare = _Bare(tree.path, tree.engine, tree.inside, tree.kind, tree.version)
    files: dict[str, str] = {}
    places: list[ChoosingFunction] = []
    concerned: dict[tuple[str, str], Consumer] = {}
    for module, dispatch, op in _that_choose(bare):
        concerned |= {(c.file, c.function): c for c in consumers(bare, module, dispatch)}
        writable(module.name, "a file of the tree")
        applied.check_patchable(module.text, module.name)
        text = files.get(module.name, module.text)
        place, changed = _put(text, module.name, dispatch, op, kernel)
        places.append(place)
        if changed != text:
            files[module.name] = changed
    if not files:
        raise InputError("; ".join(place.wrong for place in places))
    patched = {name: _with_code(text, name, command, fills) for name, text in files.items()}
    hunks = [diff.unified(tree.read(name) or "", text, name) for name, text in patched.items()]
    own = {(place.file, place.function) for place in places}
    others = tuple(one for at, one in concerned.items() if at not in own)
    return Consultation("".join(hunks), patched, tuple(places), others, fills, tree.elsewhere())


def consult_source(
    module: Module, function: str, kernel: Kernel, command: str, *, fills: bool = False
) -> Consultation:
    """Return the consultation of a text's function for the fused op, without marks to undo it.

    Raises :class:`NotRecognisedError` where it cannot be made.
    """
    dispatch = read_dispatch(module, function)
    adapted, text, _ = _consulting(module, dispatch, FUSED, kernel)
    place = ChoosingFunction(
        module.name, function, dispatch.node.lineno, FUSED, dispatch.condition, adapted
    )
    whole, _ = _coded(text, module.name, command, fills)
    return Consultation("", {module.name: whole}, (place,), fills=fills)


class _Bare(Tree, frozen=True):
    """A tree without any patch of costmodel."""

    def read(self, name: str) -> str | None:
        """Return the text of a file, with all patches taken out."""
        text = super().read(name)
        before = applied.original(text, name, None) if text is not None else None
        return text if before is None else before


def _that_choose(tree: Tree) -> list[tuple[Module, DispatchFunction, str]]:
    """Return every function of the known call sites that chooses by itself, with its op."""
    found: dict[tuple[str, str], tuple[Module, DispatchFunction, str]] = {}
    for site in tree.engine.call_sites:
        name = tree.name(site.file)
        text = tree.read(name)
        if text is None or site.function.rsplit(".", 1)[-1] not in text:
            continue
        try:
            module = Module.parse(name, text)
            found[name, site.function] = module, read_dispatch(module, site.function), site.op
        except NoChoiceError:
            continue
    if not found:
        # Moved, or not there: the search of the whole package, or its error.
        op = tree.engine.call_sites[0].op
        module, dispatch = find_dispatch(tree, op)
        return [(module, dispatch, op)]
    return list(found.values())


def _put(
    text: str, name: str, dispatch: DispatchFunction, op: str, kernel: Kernel
) -> tuple[ChoosingFunction, str]:
    """Return a function's place, and the text in which it consults the table, where it can."""
    module = Module.parse(name, text)
    here = read_dispatch(module, dispatch.name)
    line, own = dispatch.node.lineno, dispatch.condition
    try:
        adapted, changed, below = _consulting(module, here, op, kernel)
    except InputError as error:
        return ChoosingFunction(name, dispatch.name, line, op, own, None, str(error)), text
    marked = applied.marked(text, changed, applied.CONSULTATION, below)
    return ChoosingFunction(name, dispatch.name, line, op, own, adapted), marked


def _consulting(
    module: Module, dispatch: DispatchFunction, op: str, kernel: Kernel
) -> tuple[Adapted, str, str]:
    """Return the rule with entries, the changed text, and the comment that it has there."""
    check_spaces(module, dispatch)
    own = dispatch.condition
    if all(byte_limit(own.at(n)) is None for n in WORLD_SIZES):
        raise not_found(module, dispatch, f"a choice by bytes (it chooses by {own.words()})")
    if dispatch.assumed:
        unread = ", ".join(dispatch.assumed)
        raise not_found(
            module,
            dispatch,
            f"conditions that can be read: what {unread} asks is not known, and an entry of the "
            "table would not ask it",
        )
    adapted = _with_entries(own, dict.fromkeys(WORLD_SIZES, _PROBE_BYTES), op, kernel)
    holder = holder_of(module, dispatch)
    wrong = ""
    for unless in _ways(module, dispatch):
        for every in (False, True):
            lines = _FunctionLines(module, holder, adapted, op, unless, every)
            text = diff.apply(module.text, lines.edits())
            wrong = _difference(module.name, text, dispatch, adapted)
            if not wrong:
                return adapted, text, lines.below
    raise not_found(module, dispatch, f"a place to consult the table at ({wrong})")


def _with_entries(own: Condition, sizes: dict[int, int], op: str, kernel: Kernel) -> Adapted:
    """Return the rule that holds with entries: their sizes, the kernel's limits, the guards."""
    entries = Rule.from_cutoffs("table", sizes, op=op, requires=validity(kernel))
    return adapt(entries, own, kernel)


def _ways(module: Module, dispatch: DispatchFunction) -> list[list[str]]:
    """Return what must hold so that no setting replaces the rule, in ways to try.

    The tests of conditional expressions by which settings get hold of the decision; then their
    variables too.
    """
    tests: dict[str, None] = {}
    if dispatch.overrides:
        parts = made_of(dispatch.node, dispatch.decisions)
        for node, part in dispatch.live.items():
            if isinstance(node, ast.IfExp) and node in parts:
                text = module.segment(node.test)
                tests[" ".join(text.split()) if part is node.body else _negated(node.test)] = None
    names = [o.name for o in dispatch.overrides if "." not in o.name]
    unset = [f'"{name}" not in os.environ' for name in names]
    return (
        [list(tests), [*tests, *unset]] if unset and "import os" in module.text else [list(tests)]
    )


def _negated(test: ast.expr) -> str:
    opposite = {ast.Is: "is not", ast.IsNot: "is", ast.GtE: "<", ast.Lt: ">=", ast.Gt: "<="}
    if isinstance(test, ast.Compare) and type(test.ops[0]) in opposite and len(test.ops) == 1:
        op = opposite[type(test.ops[0])]
        return f"{source_of(test.left)} {op} {source_of(test.comparators[0])}"
    return f"not ({source_of(test)})"


def _difference(name: str, text: str, before: DispatchFunction, adapted: Adapted) -> str:
    """Return how a changed source differs from what it should do, in words, "" for not at all."""
    try:
        module = Module.parse(name, text)
        without = read_dispatch(module, before.name, constant=True)
        asked = [n for n in ast.walk(module.tree) if isinstance(n, ast.Call) and is_call(n)]
        size = [Edit.of(n, str(_PROBE_BYTES)) for n in asked]
        filled = Module.parse(name, diff.apply(text, size))
        with_entry = read_dispatch(filled, before.name, constant=True)
    except InputError as error:
        return str(error)
    at = first_difference(Rule("own", before.condition), Rule("after", without.condition))
    if at is not None:
        return f"it would decide otherwise at {at} without a table"
    wanted, got = on_full_mesh(adapted.rule.condition), on_full_mesh(with_entry.condition)
    at = first_difference(Rule("wanted", wanted), Rule("got", got))
    if at is not None:
        return f"it would not decide as the table at {at}"
    for after in (without, with_entry):
        gone = lost(before.overrides, after.overrides, after.condition)
        if gone:
            return f"{', '.join(gone)} would no longer override the rule"
    return ""


class _FunctionLines:
    """The lines of one function.

    ``unless`` are tests that no setting replaces the rule; ``every`` writes all that the rule asks,
    also what the way to the place asks already.
    """

    def __init__(
        self,
        module: Module,
        dispatch: DispatchFunction,
        adapted: Adapted,
        op: str,
        unless: list[str],
        every: bool,
    ) -> None:
        self.module, self.dispatch, self.adapted = module, dispatch, adapted
        self.op, self.unless, self.every = op, unless, every
        self.said = _HERE_BEFORE if dispatch.returns else _HERE
        self.below = ""

    def edits(self) -> list[Edit]:
        """Return the edits: before the first choice of a predicate, else after the decision."""
        if self.dispatch.returns:
            step = self._first_return()
            top = self._top_of(step.node)
            self._alone(top)
            passed = [text for line, text in self.dispatch.unread if line >= top.lineno]
            if passed:
                raise not_found(
                    self.module,
                    self.dispatch,
                    f"conditions that can be read: what {', '.join(passed)} asks is not known, and "
                    "an entry of the table would not ask it",
                )
            lines = self._lines(step, top.col_offset, lambda text: f"return {text}")
            return [Edit((top.lineno, 0), (top.lineno, 0), lines)]
        names = {source_of(d) for d in self.dispatch.decisions if isinstance(d, ast.Name)}
        if not names and len(self.dispatch.decisions) == 1:
            return self._in_place(self.dispatch.decisions[0])
        if len(names) != 1:
            raise not_found(self.module, self.dispatch, "one variable that holds the decision")
        (target,) = names
        steps = [s for s in self.dispatch.steps if target_of(s.node) == target]
        if not steps:
            raise not_found(self.module, self.dispatch, f"the assignment of {target}")
        block = self._block_of(steps[0].node)
        held = [s for s in block if any(step.node in ast.walk(s) for step in steps)]
        if any(all(step.node not in ast.walk(s) for s in held) for step in steps):
            raise not_found(self.module, self.dispatch, f"{target} assigned in one block")
        self._alone(held[-1])
        lines = self._lines(steps[0], held[-1].col_offset, lambda text: f"{target} = {text}")
        after = ((held[-1].end_lineno or held[-1].lineno) + 1, 0)
        return [Edit(after, after, lines)]

    def _in_place(self, decision: ast.expr) -> list[Edit]:
        """Return the edits of a decision inside a call, which gets a name."""
        step = next((s for s in self.dispatch.steps if decision in ast.walk(s.node)), None)
        if step is None:
            raise not_found(self.module, self.dispatch, "a statement with the decision")
        statement, indent = step.node, step.node.col_offset
        self._alone(statement)
        name = self._free("use_1stage", "takes_1stage", "use_1stage_")
        old = " ".join(self.module.segment(decision).split())
        first = f"{'':{indent}}{name} = {wrapped([old], indent, len(name) + 3)}\n"
        lines = self._lines(step, indent, lambda text: f"{name} = {text}")
        start = (statement.lineno, 0)
        changed = spliced(self.module.text, statement, Edit.of(decision, name))
        return [
            Edit(start, start, first + lines),
            Edit.of(statement, laid_out(changed, indent)),
        ]

    def _lines(self, step: Step, indent: int, use: Callable[[str], str]) -> str:
        step = self._on_all_ways(step)
        names = names_at(self.module, self.dispatch, step)
        variable = self._free("tuned", "tuned_bytes", "tuned_")
        terms = [f"{names.bytes} <= {variable}"]
        for asked in self._asked(step):
            text = expression(asked, names)
            terms.append(text if is_simple(asked) else f"({text})")
        pad = f"{'':{indent}}"
        told = [f'"{self.op}"', f"{self.dispatch.tensor}.dtype", names.hidden_dim]
        arguments = ", ".join([self._communicator(step), *told])
        asks = f"{pad}{variable} = {CONSULTS}({arguments})"
        if len(asks) > WIDTH:
            asks = f"{pad}{variable} = {CONSULTS}(\n{pad}    {arguments}\n{pad})"
        test = wrapped([f"{variable} is not None", *self.unless], indent, len("if :"))
        start = use("")
        value = wrapped(terms, indent + 4, len(start))
        comment = as_comment([self.said], indent, WIDTH)
        self.below = comment[-1].strip()
        out = [*comment, asks, f"{pad}if {test}:", f"{pad}    {start}{value}"]
        return "\n".join(out) + "\n"

    def _on_all_ways(self, step: Step) -> Step:
        """Return the step with the names alone that hold on every way to its statement."""
        others = [s.names for s in self.dispatch.steps if s.node is step.node]
        kept = {
            name: value
            for name, value in step.names.items()
            if all(type(names.get(name)) is type(value) for names in others)
        }
        return replace(step, names=kept)

    def _asked(self, step: Step) -> list[Condition]:
        """Return what the rule asks besides bytes that the way to the place does not ask."""
        on_the_way = factors(step.path) if self.dispatch.returns and not self.every else []
        whole = {n: self.adapted.rule.condition.at(n) for n in WORLD_SIZES}
        asked = {
            n: [f for f in factors(c) if f != byte_limit(c) and not asks_for_mesh(f)]
            for n, c in whole.items()
        }
        first = asked[WORLD_SIZES[0]]
        if any(set(others) != set(first) for others in asked.values()):
            raise not_found(self.module, self.dispatch, "guards that are the same at all ranks")
        return [f for f in first if f not in on_the_way]

    def _communicator(self, step: Step) -> str:
        """Return the source of the communicator that holds the group, at a statement."""
        decisions = set(self.dispatch.decisions)
        found = []
        for node in ast.walk(self.dispatch.node):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = {*node.args, *(k.value for k in node.keywords)}
                if given & decisions:
                    found.append(node.func.value)
        texts = [source_of(node) for node in found]
        if self.dispatch.world.endswith(".world_size"):
            texts.append(self.dispatch.world.removesuffix(".world_size"))
        texts += ["self.ca_comm"] if "self.ca_comm" in self.module.text else []
        known = {"self", *step.names} if self.dispatch.owner else set(step.names)
        for text in texts:
            if text != "self" and text.split(".")[0] in known:
                return text
        raise not_found(self.module, self.dispatch, "the communicator at the decision")

    def _first_return(self) -> Step:
        for step in sorted(self.dispatch.steps, key=lambda s: s.node.lineno):
            value = value_of(step.node) if isinstance(step.node, ast.Return) else None
            if value is not None and not (isinstance(value, ast.Constant) and not value.value):
                return step
        raise not_found(self.module, self.dispatch, "a return of the choice")

    def _top_of(self, node: ast.stmt) -> ast.stmt:
        """Return the statement of the function's own block that holds a statement."""
        above, top = parents(self.dispatch.node), node
        while above[top] is not self.dispatch.node:
            top = above[top]  # type: ignore[assignment]
        return top

    def _block_of(self, node: ast.stmt) -> list[ast.stmt]:
        for parent in ast.walk(self.dispatch.node):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(parent, name, None)
                if isinstance(block, list) and node in block:
                    return block
        raise not_found(self.module, self.dispatch, "the block of the decision")

    def _alone(self, statement: ast.stmt) -> None:
        """Refuse a statement that shares a line with another."""
        lines = self.module.text.split("\n")
        before = lines[statement.lineno - 1].encode()[: statement.col_offset].strip()
        last = lines[(statement.end_lineno or statement.lineno) - 1].encode()
        after = last[statement.end_col_offset or len(last) :].strip()
        if before or (after and not after.startswith(b"#")):
            raise not_found(self.module, self.dispatch, "a decision on lines of its own")

    def _free(self, *names: str) -> str:
        used = {n.id for n in ast.walk(self.dispatch.node) if isinstance(n, ast.Name)}
        return next(n for n in names if n not in used)


def _with_code(text: str, name: str, command: str, fills: bool) -> str:
    changed, below = _coded(text, name, command, fills)
    return applied.marked(text, changed, applied.CONSULTATION, below)


def _coded(text: str, name: str, command: str, fills: bool) -> tuple[str, str]:
    """Return the text with the reading function before the first statement that asks it.

    And the comment under which a mark of it belongs.
    """
    module = Module.parse(name, text)
    user = next(n for n in module.tree.body if any(is_call(part) for part in ast.walk(n)))
    decorators = [d.lineno for d in getattr(user, "decorator_list", ())]
    lines = text.split("\n")
    at = min([user.lineno, *decorators])
    while at > 1 and lines[at - 2].lstrip().startswith("#"):
        at -= 1
    reproduce = f"Reproduce: {command}"
    about = [_ABOUT, _FILLED] if fills else [_ABOUT]
    comment = as_comment([*about, reproduce], 0, WIDTH)
    new = "\n".join([*comment, code(module, fills).rstrip(), "", "", ""])
    return diff.apply(text, [Edit((at, 0), (at, 0), new)]), f"# {reproduce}"
