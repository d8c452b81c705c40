"""Engines that leave the choice to AITER: they call its fused op and name no stage.

Such an engine has no rule to audit or to patch. What there is to say is where it calls, which AITER
it runs, and what its own recipes set AITER's variables to.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ..errors import InputError
from ..rules.condition import exact_size
from ..units import KIB
from . import kernel_version
from .call_sites import ServingEngine
from .environment import FIRST, VARIABLE
from .module import Module
from .source import Tree, open_trees
from .stand_in import CHOOSES

#: https://github.com/ROCm/ATOM, read at ffdf3bb: atom/model_ops/layernorm.py calls
#: aiter.dist.communication_op, whose functions take no stage.
ATOM = ServingEngine("atom", "ATOM", "atom", "atom", ("model_ops/layernorm.py",), ())

CALLERS = (ATOM,)

_CALLED = re.compile(r"fused_allreduce_rmsnorm(?:_\w+)?$")
_SETS = re.compile(rf"(?<![A-Z_])({VARIABLE}|AITER_AR_1STAGE)\s*=\s*[\"']?(-?\w+)")
#: Where a checkout keeps what its users run.
_TEXTS = (".md", ".sh", ".json", ".yaml", ".yml", ".env", ".txt")
_MOST_FILES = 3000

#: No call is smaller: one token of the smallest hidden size that a kernel takes, in 16 bits.
SMALLEST_CALL = KIB


class CallerLine(Struct, frozen=True):
    """A line of a file, and what stands there."""

    file: str
    line: int
    text: str

    def words(self) -> str:
        """Return the place as people look it up."""
        return f"{self.file}:{self.line} {self.text}"


class Caller(Struct, frozen=True):
    """An engine without a rule of its own.

    ``calls`` are its calls of the fused op, ``settings`` the lines of its recipes that set a
    variable of AITER's rule.
    """

    tree: Tree
    calls: tuple[CallerLine, ...]
    settings: tuple[CallerLine, ...]

    def answer(self) -> str:
        """Return in one sentence whose rule is in force and what to patch."""
        title = f"{self.tree.engine.title} {self.tree.version}".strip()
        running = kernel_version.of_tree(self.tree).words()
        where = f" ({self.calls[0].words()})" if self.calls else ""
        beside = (self.tree.path / self.tree.inside).resolve().parent
        has = (beside / "aiter" / "dist" / "parallel_state.py").is_file()
        path = str(beside) if has else "PATH"
        return (
            f"{title} takes AITER's own rule: it calls AITER's fused op and names no stage{where}; "
            f"it runs {running}. Read and patch the AITER that it imports: costmodel audit {path}; "
            f"costmodel emit --for aiter --source {path}"
        )

    def lines(self) -> list[str]:
        """Return everything there is to say, a line each."""
        out = [self.answer()]
        out += [f"  calls without a choice: {call.words()}" for call in self.calls]
        out += [f"  {place.words()}{_meaning(place.text)}" for place in self.settings]
        return out


def read(path: str | Path) -> Caller | None:
    """Return the engine without a rule of its own at a path, None where there is none."""
    try:
        tree = open_trees(path, CALLERS)[0]
    except InputError:
        return None
    settings = tuple(_settings(tree)) if tree.kind == "checkout" else ()
    return Caller(tree, tuple(_calls(tree)), settings)


def refusal(name: str, source: str | None) -> str:
    """Return why nothing is emitted for such an engine."""
    found = read(source) if source is not None else None
    if found is not None:
        return found.answer()
    title = next(engine.title for engine in CALLERS if engine.name == name)
    where = f"{source}: no {title} tree; " if source is not None else ""
    return (
        f"{where}{title} takes AITER's own rule: it calls AITER's fused op and names no stage; "
        "costmodel emit --for aiter --source PATH patches the AITER that it imports"
    )


def _calls(tree: Tree) -> Iterator[CallerLine]:
    for name, text in tree.search("fused_allreduce_rmsnorm"):
        try:
            module = Module.parse(name, text)
        except InputError:
            continue
        found = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
        for node in sorted(found, key=lambda n: n.lineno):
            called = node.func
            last = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            given = [k.arg or "" for k in node.keywords]
            if _CALLED.search(last) and not any(CHOOSES.search(one) for one in given):
                yield CallerLine(name, node.lineno, last)


def _settings(tree: Tree) -> Iterator[CallerLine]:
    seen = 0
    for folder, inner, names in os.walk(tree.path):
        inner.sort()
        for file in sorted(Path(folder) / n for n in names if n.endswith(_TEXTS)):
            seen += 1
            if seen > _MOST_FILES:
                return
            name = file.relative_to(tree.path).as_posix()
            try:
                text = tree.read(name) or ""
            except InputError:
                continue
            for found in _SETS.finditer(text):
                line = text.count("\n", 0, found.start()) + 1
                yield CallerLine(name, line, f"{found[1]}={found[2]}")


def _meaning(setting: str) -> str:
    """Return what a value of AITER's limit comes to, in words; "" for other settings."""
    name, _, value = setting.partition("=")
    if name != VARIABLE or not value.isdecimal():
        return ""
    size = int(value)
    said = f": AITER from {FIRST} on compares it with bytes, so the limit is {exact_size(size)}"
    return f"{said}, below any call: 1-stage never runs" if size < SMALLEST_CALL else said
