"""The cutoff that a machine's own pairs say, where no model of the machine holds.

Each measured pair stands for the calls of the workload that are nearest to it in size. The cutoff
is the one of least regret over the pairs, with these weights; its interval is that of the best
cutoff of draws in which each latency is scattered as the pairs are. How much that is the pairs say
themselves: the median distance of their log ratio from the line through its neighbours in size, of
one hidden size, which counts a step of a kernel as scatter only where steps are the rule.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..data.workload import Workload
from .adequacy import Adequacy
from .decision import Cutoff
from .evidence import ALWAYS_ONE_STAGE, MEASURED, NOT_IDENTIFIED
from .pairs import Pairs
from .recommendation import ALWAYS_PROBABILITY, every_hidden_cell, unidentified
from .regret import Arms
from .setting import DRAWS, SEED, Setting

Array = NDArray[np.float64]

#: Pairs below which no cutoff is read from them alone.
FEWEST_PAIRS = 12

#: One in so many pairs judges the cutoff of the others.
HELD_BACK = 5

#: Standard deviation of a normal quantity over the median of its size.
PER_MEDIAN = 1.4826


def measured_cutoff(
    modelled: Cutoff, setting: Setting, workload: Workload, pairs: Pairs, why: str
) -> Cutoff:
    """Return the cutoff at one world size by ``pairs`` of the setting's arms alone.

    ``modelled`` is the model's answer there, whose evidence stays; ``why`` says in words why it is
    left aside. Raises :class:`InputError` where no call of the workload suits both arms.
    """
    arms = arms_of(setting, workload, modelled.world_size, pairs)
    best = arms.best()
    point = best.cell.roundest()
    always = best.always >= ALWAYS_PROBABILITY
    said = f"{why}; read from {len(pairs)} pairs of this machine alone"
    verdict = ALWAYS_ONE_STAGE if always else MEASURED
    few = f"fewer than {FEWEST_PAIRS}" if len(pairs) < FEWEST_PAIRS else ""
    if not always and (open_ := few or unidentified(best, setting)):
        verdict, said = NOT_IDENTIFIED, f"{said}: {open_}"
    claimed = verdict == MEASURED
    estimate = None if always or best.cell.hi is None else point
    adequacy = Adequacy.of(arms, estimate)
    lo, hi = (None, None) if always else (best.lo.lo, best.hi.hi)
    return replace(
        modelled,
        max_bytes=point if claimed else None,
        max_bytes_lo=lo,
        max_bytes_hi=hi,
        this_kernel_lo=lo,
        this_kernel_hi=hi,
        estimate=estimate,
        cell=every_hidden_cell(setting, point, workload.token_counts()) if claimed else None,
        verdict=verdict,
        reason=said + adequacy.remark(),
        measure_next=(),
        regrets=arms.regrets(arms.shapes.bytes <= (best.cell.hi or best.cell.lo), estimate),
        beside_three=None,
        pushed=None,
        adequacy=adequacy,
        switch=(),
        statements=(),
        arms=arms,
    )


def arms_of(setting: Setting, workload: Workload, world_size: int, pairs: Pairs) -> Arms:
    """Return the pairs as both arms over a workload, ascending in bytes, with draws of them."""
    order = np.argsort(pairs.bytes, kind="stable")
    shapes = setting.shapes(pairs.tokens[order], pairs.hidden_dim[order], world_size)
    measured = np.stack([pairs.one_us[order], pairs.two_us[order]])
    drawn = np.random.default_rng(SEED).standard_normal((2, DRAWS, order.size))
    # Both arms scatter alike, their ratio by both.
    one_us, other_us = measured[:, None] * np.exp(ratio_scatter(pairs) / np.sqrt(2.0) * drawn)
    weight = _standing_for(setting, workload, world_size, pairs)[order]
    return Arms(shapes, weight, one_us, other_us, setting.aiter_version, setting.objective)


def spared_pct(
    setting: Setting, workload: Workload, world_size: int, pairs: Pairs, choice: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return what the pairs' own cutoff spares beside a choice on them, percent: mean and error.

    Cross-validated, so that scatter is no merit: one pair in :data:`HELD_BACK` at a time is decided
    by the cutoff of the others. The error is what :func:`ratio_scatter` gives the mean where the
    two differ: the pairs are the workload, or spread evenly over it, and no sample of luck. At
    least :data:`FEWEST_PAIRS` pairs.
    """
    own = np.zeros(len(pairs), np.bool_)
    for fold in range(HELD_BACK):
        left = np.arange(len(pairs)) % HELD_BACK == fold
        cell = arms_of(setting, workload, world_size, pairs.select(~left)).best().cell
        own[left] = True if cell.hi is None else pairs.bytes[left] <= cell.lo
    spared = 100 * (pairs.chosen_us(choice) - pairs.chosen_us(own)) / pairs.fastest_us
    error = 100 * ratio_scatter(pairs) * np.sqrt((own != choice).sum()) / len(pairs)
    return float(spared.mean()), float(error)


def ratio_scatter(pairs: Pairs) -> float:
    """Return the standard deviation of the log ratio of the arms around a smooth curve of size.

    0 where no hidden size has three sizes.
    """
    apart: list[float] = []
    for hidden in set(pairs.hidden_dim.tolist()):
        mine = np.flatnonzero(pairs.hidden_dim == hidden)
        mine = mine[np.argsort(pairs.tokens[mine])]
        x, y = np.log(pairs.tokens[mine]), np.log(pairs.one_us[mine] / pairs.two_us[mine])
        share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
        line = y[:-2] + share * (y[2:] - y[:-2])
        apart += (abs(y[1:-1] - line) / np.sqrt(1 + share**2 + (1 - share) ** 2)).tolist()
    return PER_MEDIAN * float(np.median(apart)) if apart else 0.0


def _standing_for(
    setting: Setting, workload: Workload, world_size: int, pairs: Pairs
) -> NDArray[np.float64]:
    """Return the share of the workload that each pair stands for, (n,), sums to 1.

    That of the calls which both arms take and no other pair is nearer to: by the ratio of bytes,
    and by that of hidden sizes, so that a pair of the same hidden size comes first.
    """
    calls = setting.shapes(workload.tokens, workload.hidden_dim, world_size)
    both = setting.takes_both(calls)
    size, hidden = np.log(calls.bytes[both]), np.log(calls.hidden_dim[both])
    apart = abs(size[:, None] - np.log(pairs.bytes))
    apart += abs(hidden[:, None] - np.log(pairs.hidden_dim))
    share = np.bincount(
        np.argmin(apart, axis=1), weights=workload.weight[both], minlength=len(pairs)
    )
    return np.asarray(share / share.sum())
