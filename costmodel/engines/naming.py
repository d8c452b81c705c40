"""How the quantities of a rule are called where a function decides."""

from __future__ import annotations

import re
from fractions import Fraction

from ..rules.condition import OnFullMesh
from .evaluation import WORLD
from .execution import Step
from .expression import SourceNames
from .module import Module
from .reader import DispatchFunction, NotRecognisedError
from .symbols import BYTES, ELEMENT_SIZE, ELEMENTS, HIDDEN, TOKENS, Number, Size


def not_found(module: Module, dispatch: DispatchFunction, sought: str) -> NotRecognisedError:
    """Return the error for a function in which something was not found."""
    return NotRecognisedError(
        f"{module.name}:{dispatch.node.lineno}: {dispatch.name}: "
        f"not recognised: looked for {sought}"
    )


def names_at(module: Module, dispatch: DispatchFunction, step: Step) -> SourceNames:
    """Return the source text of every quantity at a statement.

    Raises :class:`NotRecognisedError` where the number of ranks has no name.
    """

    def held(value: Size, otherwise: str) -> str:
        for name, known in step.names.items():
            same = isinstance(known, Size) and (known.powers, known.factor, known.floored)
            if same == (value.powers, value.factor, value.floored) and name.isidentifier():
                return name
        return otherwise

    tensor = dispatch.tensor
    hidden = held(HIDDEN, f"{tensor}.shape[-1]")
    pack = held(Size((0, 0, -1), Fraction(16)), "")
    meshes = [k for k, x in step.names.items() if isinstance(x, OnFullMesh)]
    return SourceNames(
        bytes=held(BYTES, f"{tensor}.numel() * {tensor}.element_size()"),
        tokens=held(TOKENS, f"{tensor}.numel() // {hidden}"),
        hidden_dim=hidden,
        elements=held(ELEMENTS, f"{tensor}.numel()"),
        element_size=held(ELEMENT_SIZE, f"{tensor}.element_size()"),
        dtype=f"{tensor}.dtype",
        world_size=_world_size(module, dispatch, step),
        full_mesh=meshes[0] if meshes else "",
        pack=pack,
        torch=bool(re.search(r"^[ \t]*(import|from) torch\b", module.text, re.MULTILINE)),
    )


def _world_size(module: Module, dispatch: DispatchFunction, step: Step) -> str:
    for name, value in step.names.items():
        if isinstance(value, Number) and WORLD.fullmatch(name):
            return name
    given = [a.arg for a in (*dispatch.node.args.posonlyargs, *dispatch.node.args.args)]
    if dispatch.world and (given[:1] == ["self"] or not dispatch.world.startswith("self.")):
        return dispatch.world
    if dispatch.owner and given[:1] == ["self"] and "self.world_size" in module.text:
        return "self.world_size"
    raise not_found(module, dispatch, "the number of ranks (self.world_size)")


def check_spaces(module: Module, dispatch: DispatchFunction) -> None:
    """Raise :class:`NotRecognisedError` for a function indented with tabs: spaces are written."""
    lines = module.lines[dispatch.node.lineno - 1 : dispatch.node.end_lineno]
    if any(b"\t" in line[: len(line) - len(line.lstrip())] for line in lines):
        raise not_found(module, dispatch, "lines that are indented with spaces (these have tabs)")
