"""Ops that engines choose kernels for and no model covers: why not, and what to measure.

The quantising and mHC forms of the fused op are kernels of their own. Their latencies are not those
of the fused op, so a question about one of them is answered only by rows that time both of its
stages at the same shapes; until then it is ``not_identified``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from ..data import measurement
from ..data.ops import vocabulary
from ..model.shape import ALGORITHMS, FUSED, SPOKEN
from ..rules.catalogue import shipped
from ..rules.rule import Rule

#: The hidden size at which to measure, where nothing else is asked for.
HIDDEN_DIM = 7168


def refusal(op: str, gpu: str) -> str:
    """Return why nothing is claimed of an op on a GPU, and what would change it, in one line."""
    rows = "; ".join(_published(op)) or "no row of it has been published"
    both = " and ".join(SPOKEN[a] for a in ALGORITHMS)
    return (
        f"not_identified: no model covers {vocabulary()[op].title} ({op}) on {gpu}, and the "
        f"figures of {FUSED} are not its own ({rows}); to identify it, measure {both} of this op "
        f"at the same shapes on this GPU: hidden {HIDDEN_DIM}, {_shapes(op)}"
    )


def _published(op: str) -> list[str]:
    """Say which published rows there are of an op, and what they lack."""
    table = measurement.published()
    mine = table.select(table.op == op)
    ranks = np.nan_to_num(mine.world_size).astype(int).tolist()
    cells = zip(
        mine.source.tolist(), mine.gpu.tolist(), ranks, mine.algorithm.tolist(), strict=True
    )
    return [
        f"{count} rows of {source} ({gpu or 'GPU not stated'}, "
        f"{f'TP{n}' if n else 'ranks not stated'}, {_arm(algorithm)})"
        for (source, gpu, n, algorithm), count in Counter(cells).items()
    ]


def _arm(algorithm: str) -> str:
    return f"{SPOKEN[algorithm]} alone" if algorithm in SPOKEN else "the library's choice of stage"


def _shapes(op: str) -> str:
    """Return tokens on both sides of every cutoff that ships for an op, by world size."""
    rules = shipped(op)
    sizes = {n for rule in rules for n in rule.world_sizes}
    near = {n: _tokens((rule, n) for rule in rules if n in rule.world_sizes) for n in sorted(sizes)}
    said: dict[str, list[int]] = {}
    for n, tokens in near.items():
        said.setdefault(", ".join(map(str, tokens)), []).append(n)
    return "; ".join(
        f"{', '.join(f'TP{n}' for n in ranks)}: tokens {tokens}" for tokens, ranks in said.items()
    )


def _tokens(rules: Iterable[tuple[Rule, int]]) -> list[int]:
    """Return tokens around where rules switch and a factor of two beyond, else a spread."""
    switches = {first for rule, n in rules for first, _ in rule.switches(HIDDEN_DIM, n)[1:]}
    if not switches:
        return [1, 8, 32, 128]
    around = {t for s in switches for t in (s - 1, s)}
    return sorted({*around, max(1, min(switches) // 2), 2 * max(switches)})
