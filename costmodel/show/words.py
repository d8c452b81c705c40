"""The words of every answer: arms, evidence, terms, parameters, sizes, intervals.

Commands, reports, figures and notebooks take them from here, so that one thing has one name. What
a parameter is stands in ``data/facts/parameters.csv``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..data import ops
from ..model.parameters import meaning
from ..model.shape import FUSED, SPOKEN
from ..rules.evidence import CutoffEvidence
from ..units import KIB, kib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..decide.regret import Estimate
    from ..decide.three_way import Window

#: The arms; "" is what a rule without a claim runs.
ARM = {**SPOKEN, "": "no claim"}

#: What a regret is in percent of; of three arms the fastest takes the place of the faster.
OF_FASTER, OF_FASTEST = "of the faster arm's latency", "of the fastest arm's latency"

#: What bounds an interval that is open above.
NO_LIMIT = "no limit"


def arm(name: str) -> str:
    """Return an arm as people write it: ``1-stage``, ``2-stage``, ``separate ops``."""
    return ARM[name]


def ranks_and_op(world_size: int, op: str) -> str:
    """Return the ranks, with the op where it is not the fused one: ``TP8``, ``TP8 plain``."""
    return f"TP{world_size}" if op == FUSED else f"TP{world_size} {ops.vocabulary()[op].names[0]}"


def term(name: str) -> str:
    """Return a term of the latency in words: ``entry barrier``."""
    return name.replace("_", " ")


def parameter(name: str) -> str:
    """Return what a parameter is, with its scope: ``rate of a link (MI300X)``."""
    scope = name.partition("[")[2].rstrip("]")
    return f"{meaning(name)} ({scope})" if scope and meaning(name) != name else meaning(name)


def unit(name: str) -> str:
    """Return the unit to print behind a parameter's value: none behind ratios and fractions."""
    return "" if name in ("ratio", "fraction") else name


def evidence(verdict: str) -> str:
    """Return an evidence class in words: ``measured``, ``not identified``, ``always 1-stage``."""
    return CutoffEvidence(verdict).words()


def benchmark(reference: str) -> str:
    """Return whose benchmark latencies are given for, from a setting's ``reference``."""
    name = reference.partition("/")[0]
    return f"as the benchmark of {name} measures" if name else "as a typical benchmark measures"


def answer(verdict: str, max_bytes: float | None) -> str:
    """Return when 1-stage runs at one world size: ``always``, ``no claim``, ``<= 464 KiB``."""
    without_bytes = {"always_1stage": "always", "not_identified": ARM[""]}
    return without_bytes.get(verdict) or f"<= {kib(max_bytes or 0)}"


def up_to(sizes: str) -> str:
    """Return a rule's sizes as part of a sentence: ``up to 464 KiB``, ``at every size``."""
    if sizes.startswith("every size"):
        return "at every size"
    return sizes.partition(",")[0].replace("<= ", "up to ").replace("< ", "below ")


def size(size_bytes: float | None) -> str:
    """Return a size, ``no limit`` for None and infinity, else as :func:`costmodel.units.kib`."""
    return NO_LIMIT if size_bytes is None or math.isinf(size_bytes) else kib(size_bytes)


def about(size_bytes: float | None) -> str:
    """Return a size that is no exact cutoff, such as a crossover, to a whole KiB."""
    if size_bytes is None or math.isinf(size_bytes) or size_bytes < KIB:
        return size(size_bytes)
    return kib(round(size_bytes / KIB) * KIB)


def size_interval(lo: float | None, hi: float | None) -> str:
    """Return an interval of bytes: ``405 KiB to 480 KiB``; ``-`` where there is none (lo None)."""
    return "-" if lo is None else f"{size(lo)} to {size(hi)}"


def window_sizes(windows: Sequence[Window]) -> str:
    """Return windows of sizes: ``384 KiB to 8 MiB``."""
    return ", ".join(f"{size(w.from_bytes)} to {size(w.to_bytes)}" for w in windows)


def chance(share: float, *, short: bool = False) -> str:
    """Return a probability that rests on a few hundred draws: never 0 or 100 %.

    ``short`` is for tables: ``> 99 %`` instead of ``more than 99 %``.
    """
    if share > 0.995:
        return "> 99 %" if short else "more than 99 %"
    if share < 0.005:
        return "< 1 %" if short else "less than 1 %"
    return f"{100 * share:.0f} %"


def estimate(e: Estimate, digits: str = ".2f") -> str:
    """Return a number with its 90 % interval: ``4.37 (3.12 to 5.56)``; ``digits`` is a format."""
    return f"{e.value:{digits}} ({e.lo:{digits}} to {e.hi:{digits}})"


def percent(e: Estimate, digits: str = ".2f") -> str:
    """Return percents with their 90 % interval: ``1.34 % (1.00 to 1.74)``."""
    return f"{e.value:{digits}} % ({e.lo:{digits}} to {e.hi:{digits}})"
