"""Operations: the vocabulary of schema 1's ``op``, with the names that people use, from
``facts/ops.csv``.

Rows, rules, engines' call sites and ``--op`` all take their ops from here;
:func:`costmodel.model.shape.read_op` reads a name, and :data:`costmodel.model.shape.OPS` says which
of them a latency model covers.
"""

from __future__ import annotations

from functools import cache

from msgspec import Struct

from . import facts


class Op(Struct, frozen=True):
    """One operation. ``names`` are what people call it beside its own name; ``chosen`` tells that
    engines choose a kernel for it, so that ``--op`` may name it: phases of a kernel are only rows.
    """

    name: str
    title: str
    names: tuple[str, ...]
    chosen: bool
    meaning: str


@cache
def vocabulary() -> dict[str, Op]:
    """Return every op that a row may have, by name."""
    return {
        row["op"]: Op(
            row["op"], row["title"], tuple(row["names"].split()), row["chosen"] == "1",
            row["meaning"],
        )
        for row in facts.rows("ops.csv")
    }  # fmt: skip


@cache
def chosen() -> tuple[Op, ...]:
    """Return the ops that engines choose kernels for."""
    return tuple(op for op in vocabulary().values() if op.chosen)
