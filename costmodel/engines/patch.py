"""A rule in an engine's own idiom: as a patch of the source that is there, or as a snippet.

A patch over an applied one starts from the original lines, which the applied one carries; so a
second patch replaces the first, and :func:`revert` takes it away.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from ..data.kernels import Kernel
from ..errors import InputError
from ..model.shape import FUSED
from ..rules.adapt import Adapted, adapt, is_guard, left_to_kernel
from ..rules.algebra import all_of, asks_for_mesh, factors, on_full_mesh
from ..rules.boundary import first_difference
from ..rules.condition import Condition
from ..rules.evidence import Provenance
from ..rules.outside import writable
from ..rules.rule import Rule
from . import applied, comment, description, diff, leftover, remarks, templates
from .by_arch import Gated
from .call_sites import NOT_WRITTEN, ServingEngine
from .consumers import Consumer, consumers
from .evaluation import CONSULTS
from .kernel_version import RunningKernel, asked_for
from .module import Function, Module
from .naming import check_spaces, not_found
from .overrides import lost
from .reader import DispatchFunction, NotRecognisedError, find_dispatch, holder_of, read_dispatch
from .rewrite import edits
from .source import Tree
from .statements import bound_and_asked, effects


class Emitted(Struct, frozen=True):
    """A rule as emitted: ``text`` is the diff or the snippet, "" where the rule is in force.

    ``adapted`` is the rule as it will be in force; ``file`` and ``function`` say where it stands,
    relative to the tree for a diff; ``patched`` is the whole file after the change, ``copies`` are
    functions of the file that held the same rule and are changed alike. ``gated`` holds the rules
    by kind of GPU where the patch has several; ``adapted`` is then the one elsewhere. ``described``
    holds the notes whole, as far as there is a patch; ``notes`` are those of a report.
    """

    text: str
    adapted: Adapted
    file: str
    function: str
    patched: str
    notes: tuple[str, ...]
    copies: tuple[str, ...] = ()
    gated: Gated | None = None
    described: tuple[description.Note, ...] = ()

    def told(self, verbose: bool = False) -> tuple[str, ...]:
        """Return what a terminal is told: the rule, then few words of each note, or all."""
        if not self.described:
            return self.notes
        if self.gated is not None:
            rule, brief = self.gated.words(), self.notes[1:]
        else:
            rule = description.cutoffs(self.adapted.rule)
            brief = tuple(note.brief for note in self.described if note.brief)
        return (rule, *(tuple(note.whole() for note in self.described) if verbose else brief))


class _Original(Tree, frozen=True):
    """A tree as it was before costmodel's patch of one op."""

    op: str = FUSED

    def read(self, name: str) -> str | None:
        """Return the text of a file, with the patch of the op taken out."""
        text = super().read(name)
        return None if text is None else self._without(text, name)

    def search(self, pattern: str, files: str = "", word: str = "") -> Iterator[tuple[str, str]]:
        """Yield the files that contain a pattern, with the patch of the op taken out."""
        for name, text in super().search(pattern, files, word):
            yield name, self._without(text, name)

    def _without(self, text: str, name: str) -> str:
        before = applied.original(text, name, self.op)
        return text if before is None else before


def patch(
    tree: Tree,
    rule: Rule,
    provenance: Provenance,
    kernel: Kernel,
    *,
    running: RunningKernel | None = None,
    against_separate: Callable[[], Rule | None] = lambda: None,
    more: Callable[[], list[description.Note]] = list,
) -> Emitted:
    """Return the unified diff that puts ``rule`` into an engine's tree.

    ``running`` says which AITER the tree runs and how that is known, ``against_separate`` what
    would be recommended where separate ops are the alternative, ``more`` what else the description
    has to say of the rule, such as what it loses on other GPUs. The changed source is read back
    and must decide as the rule does on every boundary. Raises :class:`NotRecognisedError`, naming
    what was looked for, when the tree's function is of a shape that cannot be changed safely.
    """
    running = running or asked_for(kernel.version)
    module, dispatch = find_dispatch(unpatched(tree, rule.op), rule.op)
    applied.check_patchable(module.text, module.name)
    writable(module.name, "a file of the tree")
    writable(tree.version, "the tree's version")
    installed = tree.read(module.name) or module.text
    adapted = adapt(rule, dispatch.condition, kernel)
    concerned = consumers(tree, module, dispatch)
    copies = copies_of(tree, rule.op, module, dispatch, concerned)
    there = Module.parse(module.name, installed)
    consults = CONSULTS in installed
    if consults and _in_force(module, dispatch, adapted):
        raise InputError(
            f"{tree.path}: the rule is {tree.engine.title}'s own, under a run-time table; "
            "emit --revert takes that out"
        )
    if not consults and all(_in_force(there, one, adapted) for one in (dispatch, *copies)):
        said = ("the rule is already in force; the diff is empty",)
        return Emitted("", adapted, module.name, dispatch.name, installed, said)
    if rule.op in NOT_WRITTEN:
        raise InputError(f"{module.name}: no rule is written for {rule.op}: {NOT_WRITTEN[rule.op]}")
    changed = _changed(module, dispatch, copies, adapted, provenance, tree.engine.title)
    below = f"# {comment.reproduce(provenance)}"
    patched = applied.marked(module.text, changed, rule.op, below)
    found = description.notes(
        adapted,
        provenance,
        tree.engine.title,
        running=running,
        overrides=dispatch.overrides,
        concerned=concerned,
        copies={one.name for one in copies},
        against_separate=against_separate,
        more=[*description.not_patched(tree.elsewhere()), *more()],
    )
    head = [
        f"{tree.engine.title} {tree.version}: {adapted.rule.words()}".replace(" :", ":"),
        "",
        *comment.lines(adapted, provenance, tree.engine.title),
        "",
        *description.lines(found),
    ]
    hunks = diff.unified(installed, patched, module.name)
    return Emitted(
        text="\n".join(head) + "\n\n" + hunks,
        adapted=adapted,
        file=module.name,
        function=dispatch.name,
        patched=patched,
        notes=tuple(note.short for note in found if note.short),
        copies=tuple(one.name for one in copies),
        described=tuple(found),
    )


def revert(tree: Tree, op: str) -> str:
    """Return the unified diff that takes the patch of an op's rule out of a tree again.

    A consultation of the run-time table is taken out whole, whatever the op.

    Raises :class:`InputError` where no patch is applied, and where its lines were changed since.
    """
    files = dict.fromkeys(tree.name(site.file) for site in tree.engine.call_sites)
    moved = (name for name, _ in tree.search(applied.PATTERN))
    found = []
    for name in dict.fromkeys((*files, *moved)):
        text = tree.read(name)
        before = applied.original(text, name, op) if text is not None else None
        if text is not None and before is not None:
            found.append(diff.unified(text, before, name))
    if found:
        return "".join(found)
    looked = ", ".join(files)
    raise InputError(
        f"{tree.path}: no patch of costmodel for {op} is applied here (looked in {looked}); one of "
        "an older costmodel has no mark: take it out with git checkout or patch -R"
    )


def snippet(
    engine: ServingEngine,
    rule: Rule,
    provenance: Provenance,
    kernel: Kernel,
    *,
    more: Callable[[], list[description.Note]] = list,
) -> Emitted:
    """Return the rule as a snippet in the engine's newest form, with where it belongs.

    ``more`` is what else a terminal is told of the rule; the comment in a source stays short.

    Raises :class:`InputError` for a rule of another op than the fused one.
    """
    if rule.op != FUSED:
        right = NOT_WRITTEN.get(rule.op) or "give --source the tree to change"
        raise InputError(
            f"rule '{rule.name}' is for op '{rule.op}'; a snippet for {engine.title} is for "
            f"{FUSED}: {right}"
        )
    template = templates.of(engine)
    module = Module.parse(f"<{engine.title}>", template.text)
    dispatch = read_dispatch(module, template.function)
    adapted = adapt(rule, dispatch.condition, kernel)
    patched = module.text
    if not _in_force(module, dispatch, adapted):
        patched = _changed(module, dispatch, [], adapted, provenance, engine.title)
    site = engine.call_sites[0]
    body = patched.split(templates.BEGIN)[1].split(templates.END)[0]
    made = f"for {kernel.title}; may run on {adapted.releases()}"
    found = [
        description.Note(made, made, brief=f"made for {kernel.title}"),
        *description.guards(adapted, engine.title),
        *description.one_gpu(engine.title, provenance),
        description.batch_invariance(adapted),
    ]
    notes = [note.short for note in found]
    head = [
        f"# {engine.title}, {engine.checkout}/{site.file}",
        f"# {site.function}: {template.replaces}",
        *comment.as_comment([adapted.rule.words(), *notes], 0),
    ]
    if patched == module.text:
        head += comment.as_comment(comment.lines(adapted, provenance, engine.title), 0)
    text = "\n".join(head) + "\n" + textwrap.dedent(body.split("\n", 1)[1]).rstrip() + "\n"
    return Emitted(
        text,
        adapted,
        site.file,
        site.function,
        patched,
        tuple(notes),
        described=(*found, *more()),
    )


def unpatched(tree: Tree, op: str) -> Tree:
    """Return a tree as it was before costmodel's patch of an op, if one is applied."""
    return _Original(tree.path, tree.engine, tree.inside, tree.kind, tree.version, op=op)


def copies_of(
    tree: Tree, op: str, module: Module, dispatch: DispatchFunction, concerned: list[Consumer]
) -> list[DispatchFunction]:
    """Return the functions of the same file that hold a copy of the rule, guards and all.

    A limit alone is no copy where the function has another name: engines set one per op. The rule
    of the fused op is copied to others, that of another op to its own variants only.
    """
    ops = {site.function: site.op for site in tree.engine.call_sites}
    names = [
        one.function
        for one in concerned
        if one.file == module.name
        and one.own == dispatch.condition
        and (
            _last_name(one.function) == _last_name(dispatch.name)
            or (
                any(is_guard(part) for part in factors(dispatch.condition))
                and (op == FUSED or ops.get(one.function) == op)
            )
        )
    ]
    return [read_dispatch(module, name) for name in names]


def _last_name(qualified: str) -> str:
    return qualified.rsplit(".", 1)[-1]


def _changed(
    module: Module,
    dispatch: DispatchFunction,
    copies: list[DispatchFunction],
    adapted: Adapted,
    provenance: Provenance,
    engine: str,
) -> str:
    """Return the changed source, after reading the rule back out of it."""
    check_spaces(module, dispatch)
    lines = comment.lines(adapted, provenance, engine)
    holder = holder_of(module, dispatch)
    names = [one.name for one in copies]
    changes = edits(module, holder, adapted, lines)
    changes += remarks.edits(module, holder, adapted, changes, names)
    for one in copies:
        alike = edits(module, one, adapted, [f"As in {dispatch.name}, by costmodel."])
        changes += [*alike, *remarks.edits(module, one, adapted, alike, [dispatch.name, *names])]
    text = diff.apply(module.text, changes)
    for one in (holder, *copies):
        there = Module.parse(module.name, text)
        text = diff.apply(text, leftover.edits(one.node, there, one.name))
    after = Module.parse(module.name, text)
    for one in (dispatch, *copies):
        _check(module, one, adapted, read_dispatch(after, one.name, constant=True))
    check_holder(module, holder, after)
    return text


def _check(
    module: Module, dispatch: DispatchFunction, adapted: Adapted, after: DispatchFunction
) -> None:
    """Raise :class:`NotRecognisedError` where a changed function is not what was meant."""
    looked = f"{module.name}:{dispatch.node.lineno}: {dispatch.name}: not recognised: "
    different = difference(adapted, dispatch.condition, after.condition)
    if different is not None:
        raise NotRecognisedError(
            f"{looked}the changed source would decide otherwise at {different}"
        )
    check_kept(module, dispatch, after)
    gone = lost(dispatch.overrides, after.overrides, after.condition)
    if gone:
        raise NotRecognisedError(
            f"{looked}{', '.join(gone)} would no longer override the rule in the changed source"
        )


def check_kept(module: Module, before: DispatchFunction, after: DispatchFunction) -> None:
    """Raise :class:`NotRecognisedError` where a condition that cannot be read would be lost.

    It may be a fork's guard of a kernel that throws.
    """
    check_effects(module, before, after.node)
    gone = [text for text in before.assumed if text not in after.assumed]
    if gone:
        raise not_found(
            module,
            before,
            f"conditions that can be read: what {', '.join(gone)} asks is not known, and the "
            "changed source would not ask it",
        )


def check_holder(module: Module, holder: DispatchFunction, after: Module) -> None:
    """Check what :func:`check_effects` does of the function in which the rule stands."""
    found = after.function(holder.name)
    if found is not None:
        check_effects(module, holder, found[0])


def check_effects(module: Module, before: DispatchFunction, after: Function) -> None:
    """Raise :class:`NotRecognisedError` where a changed function lacks what the old one does.

    That is a call or a raise that stands alone, an attribute that is set, a name that is asked for.
    """
    gone = effects(before.node) - effects(after)
    if gone:
        said = ", ".join(sorted(gone))
        raise not_found(module, before, f"a choice that can be replaced without losing {said}")
    (bound, _), (still, asked) = bound_and_asked(before.node), bound_and_asked(after)
    unset = (asked - still) & bound
    if unset:
        said = ", ".join(sorted(unset))
        raise not_found(module, before, f"a choice beside which {said} is set")


def _in_force(module: Module, dispatch: DispatchFunction, adapted: Adapted) -> bool:
    """Tell whether a source decides as the rule already, with what it leaves to the kernel."""
    there = read_dispatch(module, dispatch.name, constant=True, settings=False)
    left = left_to_kernel(adapted.kernel)
    wanted = replace(adapted.rule, condition=all_of(adapted.rule.condition, left))
    meant = replace(adapted, rule=wanted)
    return difference(meant, dispatch.condition, all_of(there.condition, left)) is None


def difference(adapted: Adapted, asked: Condition, got: Condition) -> str | None:
    """Return where a source decides otherwise than the rule, in words, or None."""
    wanted = adapted.rule.condition
    if not asks_for_mesh(asked):
        # A communicator of more than two ranks disables itself without a full mesh.
        wanted, got = on_full_mesh(wanted), on_full_mesh(got)
    different = first_difference(Rule("wanted", wanted), Rule("got", got))
    return different
