"""One patch of an engine's tree with a rule for each of several kinds of GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..data.hosts import Host, Kind
from ..data.kernels import Kernel
from ..model.shape import WORLD_SIZES
from ..rules.adapt import Adapted
from ..rules.by_arch import ByArch
from ..rules.evidence import Provenance
from ..rules.outside import writable
from . import applied, by_arch, comment, description, diff, host_gate, leftover, remarks
from .by_arch import Gated
from .consumers import consumers
from .diff import Edit
from .kernel_version import RunningKernel, asked_for
from .module import Module
from .naming import check_spaces
from .overrides import lost
from .patch import Emitted, check_holder, check_kept, copies_of, difference, unpatched
from .reader import DispatchFunction, NotRecognisedError, find_dispatch, holder_of, read_dispatch
from .source import Tree


def patch(
    tree: Tree,
    rules: ByArch,
    provenances: Mapping[Kind, Provenance],
    kernel: Kernel,
    *,
    running: RunningKernel | None = None,
    losses: Callable[[Gated], list[str]] = lambda gated: [],
) -> Emitted:
    """Return the unified diff that puts ``rules`` into an engine's tree, gated by its host's GPUs.

    ``losses`` says what a rule loses on other GPUs of its kind. The changed source is read back
    for a host of every kind, and for hosts of none, where it must decide as before but for the
    limits that joined. Raises :class:`NotRecognisedError` when the tree's function is of a shape
    that cannot be changed safely.
    """
    running = running or asked_for(kernel.version)
    module, dispatch = find_dispatch(unpatched(tree, rules.op), rules.op)
    applied.check_patchable(module.text, module.name)
    writable(module.name, "a file of the tree")
    writable(tree.version, "the tree's version")
    installed = tree.read(module.name) or module.text
    concerned = consumers(tree, module, dispatch)
    copies = copies_of(tree, rules.op, module, dispatch, concerned)
    gated = by_arch.gated(rules, dispatch.condition, kernel)
    there = Module.parse(module.name, installed)
    if all(_difference(there, one, gated) is None for one in (dispatch, *copies)):
        said = ("the rules are already in force; the diff is empty",)
        return Emitted(
            "", gated.elsewhere, module.name, dispatch.name, installed, said, gated=gated
        )
    paragraphs = _comment(gated, provenances, tree.engine.title)
    changed = _changed(module, dispatch, copies, gated, paragraphs)
    patched = applied.marked(module.text, changed, rules.op, f"# {paragraphs[-1]}")
    found = description.notes_by_host(
        gated,
        provenances,
        tree.engine.title,
        running=running,
        overrides=dispatch.overrides,
        concerned=concerned,
        copies={one.name for one in copies},
        losses=losses,
    )
    found += description.not_patched(tree.elsewhere())
    head = [
        f"{tree.engine.title} {tree.version}: 1-stage or 2-stage by GPU".replace(" :", ":"),
        "",
        *(f"{kind.name}: {adapted.rule.words()}" for kind, adapted in gated.kinds.items()),
        f"elsewhere: {gated.elsewhere.rule.words()}",
        "",
        *paragraphs,
        "",
        *description.lines(found),
    ]
    return Emitted(
        text="\n".join(head) + "\n\n" + diff.unified(installed, patched, module.name),
        adapted=gated.elsewhere,
        file=module.name,
        function=dispatch.name,
        patched=patched,
        notes=(gated.words(), *(note.short for note in found if note.short)),
        copies=tuple(one.name for one in copies),
        gated=gated,
        described=tuple(found),
    )


def _comment(gated: Gated, provenances: Mapping[Kind, Provenance], engine: str) -> list[str]:
    """Return the paragraphs of the comment, the command last."""
    said = []
    rest: list[str] = []
    for kind, adapted in gated.kinds.items():
        paragraphs = comment.lines(adapted, provenances[kind], engine)
        cutoffs, rest = paragraphs[: 1 + len(WORLD_SIZES)], paragraphs[1 + len(WORLD_SIZES) :]
        said.append(f"{kind.name}: {' '.join(cutoffs)}")
    return [*said, "Hosts of other GPUs keep the cutoffs that stood here.", *rest]


def _changed(
    module: Module,
    dispatch: DispatchFunction,
    copies: list[DispatchFunction],
    gated: Gated,
    paragraphs: list[str],
) -> str:
    """Return the changed source, after reading the rules back out of it."""
    check_spaces(module, dispatch)
    holder = holder_of(module, dispatch)
    names = [dispatch.name, *(one.name for one in copies)]
    changes = by_arch.edits(module, holder, gated, paragraphs)
    untrue = _untrue(module, holder, gated, changes, names[1:])
    for one in copies:
        alike = by_arch.edits_of_copy(module, one, gated, dispatch.name)
        untrue |= _untrue(module, one, gated, alike, names)
        changes += alike
    text = diff.apply(module.text, [*untrue.values(), *changes])
    for one in (holder, *copies):
        changed = Module.parse(module.name, text)
        text = diff.apply(text, leftover.edits(one.node, changed, one.name))
    after = Module.parse(module.name, text)
    for one in (dispatch, *copies):
        _check(module, one, after, gated)
    check_holder(module, holder, after)
    return text


def _untrue(
    module: Module,
    dispatch: DispatchFunction,
    gated: Gated,
    changes: list[Edit],
    alike: list[str],
) -> dict[tuple[tuple[int, int], tuple[int, int]], Edit]:
    """Return the edits of remarks that any of the rules makes untrue, by their place."""
    said = f"{host_gate.NAME}() has the cutoffs of this host's GPUs. {gated.words()}."
    untrue: dict[tuple[tuple[int, int], tuple[int, int]], Edit] = {}
    for adapted in gated.kinds.values():
        for edit in remarks.edits(module, dispatch, adapted, changes, alike, said):
            untrue.setdefault((edit.start, edit.end), edit)
    return untrue


def _check(module: Module, dispatch: DispatchFunction, after: Module, gated: Gated) -> None:
    """Raise :class:`NotRecognisedError` where a changed function is not what was meant."""
    where = _difference(after, dispatch, gated)
    looked = f"{module.name}:{dispatch.node.lineno}: {dispatch.name}: not recognised: "
    if where is not None:
        raise NotRecognisedError(f"{looked}the changed source would decide otherwise at {where}")
    for name, host, _ in _distinct(after, gated):
        there = read_dispatch(after, dispatch.name, constant=True, host=host)
        check_kept(module, dispatch, there)
        gone = lost(dispatch.overrides, there.overrides, there.condition)
        if gone:
            raise NotRecognisedError(
                f"{looked}{', '.join(gone)} would no longer override the rule on {name} in the "
                "changed source"
            )


def _difference(module: Module, dispatch: DispatchFunction, gated: Gated) -> str | None:
    """Return where a source decides otherwise than the rules on some host, in words, or None."""
    for name, host, adapted in _distinct(module, gated):
        there = read_dispatch(module, dispatch.name, constant=True, host=host)
        where = difference(adapted, dispatch.condition, there.condition)
        if where is not None:
            return f"{name}: {where}"
    return None


def _distinct(module: Module, gated: Gated) -> list[tuple[str, Host, Adapted]]:
    """Return one host of each pair of what the file answers there and the rule that is meant."""
    found: dict[tuple[str, int], tuple[str, Host, Adapted]] = {}
    for name, host in gated.hosts.items():
        adapted = gated.at(host)
        found.setdefault((host_gate.answer(module, host), id(adapted)), (name, host, adapted))
    return list(found.values())
