"""Gates: what decides, beside the rule, whether the fused op runs at all and which kernel.

Server flags, pass configs, environment variables, methods that a communicator may lack, and sizes
above which nothing is fused. Which there are and what each does is a fact with its source
(``facts/gates.csv``); whether this tree has it, its default and the lines that decide are read from
the tree by :mod:`.gate_lines`, so a release that nobody has seen tells its own lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

from ..data import facts
from ..errors import InputError
from .gate_lines import Found, GateLine, in_native_text, in_python
from .module import Module
from .source import Tree

if TYPE_CHECKING:
    from .schemas import GateRecord

#: AITER's kernels that dispatch for themselves, in a checkout and beside an installed package.
NATIVE = tuple(
    f"{root}csrc/{file}"
    for root in ("", "aiter_meta/")
    for file in (
        "include/custom_all_reduce.cuh",
        "include/custom_all_reduce_gfx1250.cuh",
        "kernels/custom_all_reduce.cu",
        "kernels/fused_ar_mhc_post.cu",
    )
)

#: Kinds of gates: what sets them.
ENVIRONMENT, FLAG, METHOD, LIMIT, KERNEL = "environment", "flag", "method", "limit", "kernel"


class GateFact(Struct, frozen=True):
    """What is known of a gate: the names that stand for it in source, and what it does.

    ``names`` are regular expressions of identifiers and strings; ``files`` and ``functions`` say
    where a line about it concerns the fused op.
    """

    engine: str
    name: str
    kind: str
    names: re.Pattern[str]
    files: re.Pattern[str]
    functions: re.Pattern[str]
    does: str
    source: str

    @property
    def word(self) -> re.Pattern[str]:
        """What a file holds that may hold the gate: a limit without a name is known by function.

        A name is looked for where a word starts, or a long one would be tried at each letter.
        """
        names = self.names.pattern
        return re.compile(rf"\b(?:{names})") if names else self.functions


class Gate(Struct, frozen=True):
    """A gate as it stands in a tree.

    ``default`` is what holds where nobody sets it, "" where the tree does not say; ``reads`` are
    the lines that declare or read it, ``decides`` those that it decides.
    """

    name: str
    kind: str
    default: str
    reads: tuple[GateLine, ...]
    decides: tuple[GateLine, ...]
    does: str
    source: str

    def to_dict(self) -> GateRecord:
        """Return an entry of ``gates`` in ``costmodel/audit/1``."""
        return {
            "name": self.name,
            "kind": self.kind,
            "default": self.default,
            "reads": [p.to_dict() for p in self.reads],
            "decides": [p.to_dict() for p in self.decides],
            "does": self.does,
            "source": self.source,
        }


class Gates(Struct, frozen=True):
    """The gates of a tree; ``absent`` names others that the engine is known for."""

    present: tuple[Gate, ...]
    absent: tuple[str, ...]


@cache
def known(engine: str) -> tuple[GateFact, ...]:
    """Return the gates that an engine is known for."""
    return tuple(
        GateFact(
            row["engine"], row["gate"], row["kind"], re.compile(row["names"]),
            re.compile(row["files"]), re.compile(row["functions"]), row["does"], row["source"],
        )
        for row in facts.rows("gates.csv")
        if row["engine"] == engine
    )  # fmt: skip


def read_gates(tree: Tree) -> Gates:
    """Return the gates of a tree; a file that does not parse holds none."""
    wanted = known(tree.engine.name)
    found: dict[str, Found] = {fact.name: Found() for fact in wanted}
    for module, about in _modules(tree, wanted):
        for fact in about:
            found[fact.name].add(
                in_python(module, fact.names, fact.functions, limit=fact.kind == LIMIT)
            )
    for fact in wanted:
        if fact.kind == KERNEL:
            for name, text in _native(tree, fact):
                found[fact.name].add(in_native_text(name, text, fact.names))
    gates = tuple(
        Gate(
            fact.name, fact.kind, found[fact.name].default, tuple(found[fact.name].reads),
            tuple(found[fact.name].decides), fact.does, fact.source,
        )
        for fact in wanted
    )  # fmt: skip
    there = tuple(gate for gate in gates if gate.reads or gate.decides)
    return Gates(there, tuple(gate.name for gate in gates if gate not in there))


def _modules(
    tree: Tree, wanted: Iterable[GateFact]
) -> Iterator[tuple[Module, tuple[GateFact, ...]]]:
    """Yield the parsed files in which gates may stand, each with the gates that it may hold."""
    python = [fact for fact in wanted if fact.kind != KERNEL]
    files = "|".join(f"(?:{fact.files.pattern})" for fact in python)
    for name, text in tree.search("", files):
        about = tuple(f for f in python if f.files.search(name) and f.word.search(text))
        if not about:
            continue
        try:
            yield Module.parse(name, text), about
        except InputError:
            continue


def _native(tree: Tree, fact: GateFact) -> Iterator[tuple[str, str]]:
    """Yield the native sources that may hold a gate."""
    for name in NATIVE:
        if fact.files.search(name):
            try:
                text = tree.read(name)
            except InputError:
                continue
            if text is not None:
                yield name, text
