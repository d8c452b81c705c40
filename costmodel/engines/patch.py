"""A rule in an engine's own idiom: as a patch of the source that is there, or as a snippet."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from ..data.kernels import Kernel
from ..errors import InputError
from ..model.shape import FUSED, WORLD_SIZES
from ..rules.adapt import Adapted, adapt
from ..rules.condition import Condition, FullMesh, all_of, by_world_size, factors, parts_of
from ..rules.rule import Provenance, Rule
from . import boundary, comment, diff, templates
from .call_sites import Engine, Place
from .reader import Module, NoChoiceError, Reading, read
from .rewrite import NotRecognisedError, edits
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
    module, reading = find(tree, rule.op)
    adapted = adapt(rule, reading.condition, kernel)
    patched = _changed(module, reading, adapted, provenance, tree.engine.title)
    hunks = diff.unified(module.text, patched, module.name)
    notes = adapted.notes(tree.engine.title)
    if not hunks:
        notes.append("the rule is already in force; the diff is empty")
    for note in reading.overrides:
        notes.append(f"the environment variable {note} still overrides the rule")
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
        function=reading.function,
        patched=patched,
        notes=tuple(notes),
    )


def snippet(engine: Engine, rule: Rule, provenance: Provenance, kernel: Kernel) -> Emitted:
    """Return the rule as a snippet in the engine's newest form, with where it belongs.

    Raises :class:`InputError` for a rule of another op than the fused one.
    """
    if rule.op != FUSED:
        raise InputError(
            f"rule '{rule.name}' is for op '{rule.op}'; a snippet for {engine.title} is for {FUSED}"
        )
    template = templates.of(engine)
    module = Module.parse(f"<{engine.title}>", template.text)
    reading = read(module, template.function)
    adapted = adapt(rule, reading.condition, kernel)
    patched = _changed(module, reading, adapted, provenance, engine.title)
    place = engine.places[0]
    body = patched.split(templates.BEGIN)[1].split(templates.END)[0]
    notes = [*adapted.notes(engine.title), *_one_gpu(engine, provenance)]
    head = [
        f"# {engine.title}, {engine.checkout}/{place.file}",
        f"# {place.function}: {template.replaces}",
        *comment.as_comment([adapted.rule.words(), *notes], 0),
    ]
    if templates.BEGIN in patched and patched == module.text:
        head += comment.as_comment(comment.lines(adapted, provenance, engine.title), 0)
    text = "\n".join(head) + "\n" + textwrap.dedent(body.split("\n", 1)[1]).rstrip() + "\n"
    return Emitted(text, adapted, place.file, place.function, patched, tuple(notes))


def find(tree: Tree, op: str) -> tuple[Module, Reading]:
    """Return the function of a tree that chooses for an op, read.

    Looks in the known places first, then in every function of the package whose name or call says
    1-stage. Raises :class:`NotRecognisedError` naming the places.
    """
    looked: list[str] = []
    reasons: list[str] = []
    places = [p for p in tree.engine.places if p.op == op]
    if not places:
        known = ", ".join(dict.fromkeys(p.op for p in tree.engine.places))
        raise InputError(f"{tree.engine.title} has no rule for op '{op}'; known: {known}")
    for place in places:
        name = tree.name(place.file)
        looked.append(f"{place.function} in {name}")
        text = tree.read(name)
        if text is None:
            continue
        try:
            module = Module.parse(name, text)
            return module, read(module, place.function)
        except NoChoiceError as error:
            reasons.append(str(error))
    moved = _moved(tree, places[0]) if op == FUSED else None
    if moved is not None:
        return moved
    version = f" {tree.version}" if tree.version else ""
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise NotRecognisedError(
        f"{tree.path}: no rule recognised in {tree.engine.title}{version}: looked for "
        f"{' and '.join(looked)}{why}"
    )


def _moved(tree: Tree, place: Place) -> tuple[Module, Reading] | None:
    """Look through the package for one function that chooses 1-stage for the fused op."""
    found: list[tuple[Module, Reading]] = []
    for name, text in tree.search("(?i)(1|one)_?stage"):
        try:
            module = Module.parse(name, text)
        except InputError:
            continue
        for function in module.functions():
            last = function.rsplit(".", 1)[-1]
            known = last == place.function.rsplit(".", 1)[-1]
            if not known and not re.search("(1|one)_?stage", last, re.IGNORECASE):
                continue
            try:
                found.append((module, read(module, function)))
            except NoChoiceError:
                continue
    return found[0] if len(found) == 1 else None


def _changed(
    module: Module, reading: Reading, adapted: Adapted, provenance: Provenance, engine: str
) -> str:
    """Return the changed source, after reading the rule back out of it."""
    lines = comment.lines(adapted, provenance, engine)
    place = reading
    if len(reading.followed) == 1:
        # The function asks a predicate beside it: that is where the rule stands.
        place = read(module, reading.followed[0], predicate=True)
    text = diff.apply(module.text, edits(module, place, adapted, lines))
    after = read(Module.parse(module.name, text), reading.function)
    wanted, got = adapted.rule.condition, after.condition
    if not _has_mesh(reading.condition):
        # A communicator of more than two ranks disables itself without a full mesh.
        wanted, got = on_full_mesh(wanted), on_full_mesh(got)
    different = boundary.first_difference(Rule("wanted", wanted), Rule("got", got))
    if different is not None:
        raise NotRecognisedError(
            f"{module.name}:{reading.node.lineno}: {reading.function}: not recognised: "
            f"the changed source would decide otherwise at {different}"
        )
    return text


def _one_gpu(engine: Engine, provenance: Provenance) -> list[str]:
    """Say that the place serves every GPU while a calibration is for one."""
    if not provenance.gpu:
        return []
    return [f"{engine.title} runs this rule on every GPU; it is calibrated for {provenance.gpu}"]


def _has_mesh(condition: Condition) -> bool:
    return any(isinstance(p, FullMesh) for p in parts_of(condition))


def on_full_mesh(condition: Condition) -> Condition:
    """Return the condition with a full mesh taken as given."""
    return by_world_size(
        {n: all_of(*(f for f in factors(condition.at(n)) if not _has_mesh(f))) for n in WORLD_SIZES}
    )


__all__ = ["Emitted", "NotRecognisedError", "find", "patch", "snippet"]
