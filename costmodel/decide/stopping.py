"""When enough is known, from what each shape left: expected regret, and the interval's width.

A rule that looks at what was found so far and stops at a good moment can lean to its own results:
it stops rather when chance made the interval narrow. The posterior does not depend on when one
stops (the likelihood principle), and ``benchmarks/tuning.py`` measures what is left of the effect:
coverage and regret of stopped runs against fixed grids at hidden truths.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

#: Pairs below which nothing is concluded, however sure the posterior is: one noisy pair must not
#: decide a rule.
FEWEST = 3

#: Pairs that are measured around the estimate, whatever the planner hopes of them, before a machine
#: whose rows allow no claim is given up.
UNCLAIMED = 8

#: Steps over which an interval has to shrink by at least this share of its width, in doublings.
PATIENCE = 4
SHRINKS = 0.05

ENOUGH, NO_LONGER, NOTHING, BUDGET, SHAPES = "enough", "no longer", "nothing", "budget", "shapes"

#: Why a run stopped, as its journal keeps it -> in words.
REASONS = {
    ENOUGH: "the expected regret on contested calls is below the limit",
    NO_LONGER: f"the last {PATIENCE} shapes no longer narrowed the interval",
    NOTHING: "no other shape would change the rule",
    BUDGET: "the budget of time is spent",
    SHAPES: "the budget of shapes is spent",
}


class Standing(Struct, frozen=True):
    """What is known after ``shapes`` shapes: regret in percent, the interval in doublings.

    ``contested_pct`` is None where no cutoff is claimed.
    """

    shapes: int
    contested_pct: float | None
    doublings: float
    always: bool


class StoppingLimits(Struct, frozen=True):
    """What ends a run: the regret on contested calls that is small enough, the most shapes."""

    contested_pct: float = 0.2
    shapes: int = 24


def verdict(history: Sequence[Standing], limits: StoppingLimits) -> str | None:
    """Return why to stop after the last of ``history``, or None."""
    now = history[-1]
    if now.shapes < FEWEST:
        return None
    if now.always or (now.contested_pct is not None and now.contested_pct < limits.contested_pct):
        return ENOUGH
    if now.shapes >= limits.shapes:
        return SHAPES
    before = next((s for s in history if s.shapes == now.shapes - PATIENCE), None)
    if before is not None and before.shapes >= FEWEST:
        finite = before.doublings < float("inf")
        if finite and now.doublings > (1 - SHRINKS) * before.doublings:
            return NO_LONGER
    return None
