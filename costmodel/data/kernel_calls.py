"""Kernels in the order of a stream, put together into the calls of an engine's op.

AITER's fused 2-stage is two launches: a reduce-scatter, and a local kernel that says which op it
was. Everything else is one launch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .kernel_names import LOCAL, LOCAL_OR_ALONE, REDUCE_SCATTER, WHOLE, KernelName


class CollectiveCall(NamedTuple):
    """One call of a collective: its kernels by their place in the sequence, in order.

    ``op`` is schema 1's, "" where no name says it; that of a launch whose other half is missing is
    ``reduce_scatter_phase`` or ``local_rmsnorm_phase``, and ``whole`` is False.
    """

    op: str
    algorithm: str
    family: str
    kernels: tuple[int, ...]
    whole: bool = True


def calls(names: Sequence[KernelName]) -> Iterator[CollectiveCall]:
    """Give the calls of collectives among the kernels of one rank's stream, in order.

    Kernels that are no part of one are passed over. A reduce-scatter belongs to the next kernel of
    the table if that is a local one.
    """
    waiting: int | None = None
    for at, name in enumerate(names):
        if not name.known:
            continue
        if waiting is not None:
            first, half, waiting = names[waiting], waiting, None
            if name.part in (LOCAL, LOCAL_OR_ALONE):
                yield CollectiveCall(name.op, first.algorithm, first.family, (half, at))
                continue
            yield _half(first, half)
        if name.part == REDUCE_SCATTER:
            waiting = at
        elif name.part == WHOLE:
            yield CollectiveCall(name.op, name.algorithm, name.family, (at,))
        elif name.part == LOCAL:
            yield _half(name, at)
    if waiting is not None:
        yield _half(names[waiting], waiting)


def _half(name: KernelName, at: int) -> CollectiveCall:
    return CollectiveCall(name.row_op, name.algorithm, name.family, (at,), whole=False)
