"""A rule in an engine's own idiom: as a patch of the source that is there, or as a snippet."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from ..data.kernels import Kernel
from ..errors import InputError
from ..model.shape import FUSED
from ..rules.adapt import Adapted, adapt
from ..rules.algebra import asks_for_mesh, on_full_mesh
from ..rules.boundary import first_difference
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from . import comment, diff, templates
from .call_sites import ServingEngine
from .module import Module
from .overrides import lost
from .reader import DispatchFunction, NotRecognisedError, find_dispatch, read_dispatch
from .rewrite import edits
from .source import Tree


@dataclass(frozen=True)
class Emitted:
    """A rule as emitted: ``text`` is the diff or the snippet.

    ``adapted`` is the rule as it will be in force; ``file`` and ``function`` say where it stands,
    relative to the tree for a diff; ``patched`` is the whole file after the change.
    """

    text: str
    adapted: Adapted
    file: str
    function: str
    patched: str
    notes: tuple[str, ...]


def patch(tree: Tree, rule: Rule, provenance: Provenance, kernel: Kernel) -> Emitted:
    """Return the unified diff that puts ``rule`` into an engine's tree.

    The changed source is read back and must decide as the rule does on every boundary. Raises
    :class:`NotRecognisedError`, naming what was looked for, when the tree's function is of a shape
    that cannot be changed safely.
    """
    module, dispatch = find_dispatch(tree, rule.op)
    adapted = adapt(rule, dispatch.condition, kernel)
    patched = _changed(module, dispatch, adapted, provenance, tree.engine.title)
    hunks = diff.unified(module.text, patched, module.name)
    notes = adapted.notes(tree.engine.title)
    if not hunks:
        notes.append("the rule is already in force; the diff is empty")
    for override in dispatch.overrides:
        notes.append(f"{override.words()}, as before")
    notes += _one_gpu(tree.engine, provenance)
    head = [
        f"{tree.engine.title} {tree.version}: {adapted.rule.words()}".replace("  ", " "),
        *comment.lines(adapted, provenance, tree.engine.title),
        *notes,
    ]
    return Emitted(
        text="\n".join(head) + "\n\n" + hunks if hunks else "",
        adapted=adapted,
        file=module.name,
        function=dispatch.name,
        patched=patched,
        notes=tuple(notes),
    )


def snippet(engine: ServingEngine, rule: Rule, provenance: Provenance, kernel: Kernel) -> Emitted:
    """Return the rule as a snippet in the engine's newest form, with where it belongs.

    Raises :class:`InputError` for a rule of another op than the fused one.
    """
    if rule.op != FUSED:
        raise InputError(
            f"rule '{rule.name}' is for op '{rule.op}'; a snippet for {engine.title} is for {FUSED}"
        )
    template = templates.of(engine)
    module = Module.parse(f"<{engine.title}>", template.text)
    dispatch = read_dispatch(module, template.function)
    adapted = adapt(rule, dispatch.condition, kernel)
    patched = _changed(module, dispatch, adapted, provenance, engine.title)
    site = engine.call_sites[0]
    body = patched.split(templates.BEGIN)[1].split(templates.END)[0]
    notes = [*adapted.notes(engine.title), *_one_gpu(engine, provenance)]
    head = [
        f"# {engine.title}, {engine.checkout}/{site.file}",
        f"# {site.function}: {template.replaces}",
        *comment.as_comment([adapted.rule.words(), *notes], 0),
    ]
    if templates.BEGIN in patched and patched == module.text:
        head += comment.as_comment(comment.lines(adapted, provenance, engine.title), 0)
    text = "\n".join(head) + "\n" + textwrap.dedent(body.split("\n", 1)[1]).rstrip() + "\n"
    return Emitted(text, adapted, site.file, site.function, patched, tuple(notes))


def _changed(
    module: Module,
    dispatch: DispatchFunction,
    adapted: Adapted,
    provenance: Provenance,
    engine: str,
) -> str:
    """Return the changed source, after reading the rule back out of it."""
    lines = comment.lines(adapted, provenance, engine)
    holder = dispatch
    if len(dispatch.followed) == 1:
        # The function asks a predicate beside it: that is where the rule stands.
        holder = read_dispatch(module, dispatch.followed[0], predicate=True)
    text = diff.apply(module.text, edits(module, holder, adapted, lines))
    after = read_dispatch(Module.parse(module.name, text), dispatch.name, constant=True)
    wanted, got = adapted.rule.condition, after.condition
    if not asks_for_mesh(dispatch.condition):
        # A communicator of more than two ranks disables itself without a full mesh.
        wanted, got = on_full_mesh(wanted), on_full_mesh(got)
    different = first_difference(Rule("wanted", wanted), Rule("got", got))
    if different is not None:
        raise NotRecognisedError(
            f"{module.name}:{dispatch.node.lineno}: {dispatch.name}: not recognised: "
            f"the changed source would decide otherwise at {different}"
        )
    gone = lost(dispatch.overrides, after.overrides, after.condition)
    if gone:
        raise NotRecognisedError(
            f"{module.name}:{dispatch.node.lineno}: {dispatch.name}: not recognised: "
            f"{', '.join(gone)} would no longer override the rule in the changed source"
        )
    return text


def _one_gpu(engine: ServingEngine, provenance: Provenance) -> list[str]:
    """Say that the engine serves every GPU while a calibration is for one."""
    if not provenance.gpu:
        return []
    return [f"{engine.title} runs this rule on every GPU; it is calibrated for {provenance.gpu}"]
