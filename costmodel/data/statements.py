"""What others state of a cutoff or a crossover without its table, from ``facts/statements.csv``.

A statement is no row: it is shown beside a recommendation and never fitted. The rules that engines
ship are in ``facts/rules.json`` instead. An empty cell means that the source does not say.

>>> [s.hi_bytes for s in about("MI355X", "gfx950", 8, "fused_ar_rmsnorm")]
[196608, 131072]
"""

from __future__ import annotations

from functools import cache

from msgspec import Struct

from . import cards, facts, hardware

CUTOFF = "cutoff"
CROSSOVER = "crossover"
CROSSOVER_BELOW = "crossover below"
SMALLEST_CROSSOVER = "smallest crossover over hidden sizes"
WINDOW = "window"

#: What ``hi_bytes`` is: the largest size by the first kernel, the size where both take as long, a
#: bound of that size, the smallest of such sizes, or the upper end of a window from ``lo_bytes``.
KINDS = (CUTOFF, CROSSOVER, CROSSOVER_BELOW, SMALLEST_CROSSOVER, WINDOW)


class Statement(Struct, frozen=True):
    """One statement, in bytes of the input on one rank.

    ``compared`` names the two kernels; ``comparable`` says whether they are the 1-stage and the
    2-stage that a recommendation chooses between. ``date`` is ISO, to the month where no day is
    known. ``lo_bytes`` is None but for a window.
    """

    who: str
    url: str
    date: str
    gpu: str
    gpu_evidence: str
    arch: str
    world_size: int
    op: str
    compared: str
    kernel_family: str
    kernel_version: str
    lo_bytes: int | None
    hi_bytes: int
    kind: str
    comparable: bool
    words: str


@cache
def published() -> tuple[Statement, ...]:
    """Return every statement of the fact file, in its order."""
    return tuple(
        Statement(
            who=row["who"],
            url=row["url"],
            date=row["date"],
            gpu=row["gpu"],
            gpu_evidence=row["gpu_evidence"],
            arch=row["arch"],
            world_size=int(row["world_size"]),
            op=row["op"],
            compared=row["compared"],
            kernel_family=row["kernel_family"],
            kernel_version=row["kernel_version"],
            lo_bytes=int(row["lo_bytes"]) if row["lo_bytes"] else None,
            hi_bytes=int(row["hi_bytes"]),
            kind=row["kind"],
            comparable=row["comparable"] == "1",
            words=row["words"],
        )
        for row in facts.rows("statements.csv")
    )


def about(gpu: str, arch: str, world_size: int, op: str) -> tuple[Statement, ...]:
    """Return what is stated of an op at a world size on GPUs of an arch, those on ``gpu`` first.

    Nothing of GPUs that are joined otherwise (PCIe where ``gpu`` has xGMI), and nothing for a GPU
    that is neither of :data:`.hardware.GPUS` nor a card without xGMI: of its links nobody stated
    anything.
    """
    pcie = cards.without_xgmi()
    if gpu not in hardware.GPUS.get(arch, ()) and (gpu not in pcie or pcie[gpu].arch != arch):
        return ()
    asked = (arch, world_size, op)
    mine = [
        s
        for s in published()
        if (s.arch, s.world_size, s.op) == asked and (s.gpu in pcie) == (gpu in pcie)
    ]
    return tuple(sorted(mine, key=lambda s: (s.gpu != gpu, not s.comparable)))
