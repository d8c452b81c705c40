"""Which shapes to measure next: the set that most reduces the expected regret of the rule.

>>> from costmodel.calibration.posterior import shipped
>>> from costmodel.planning import Budget, plan
>>> plan(shipped("gfx942"), gpu="MI300X", budget=Budget(shapes=6)).save("plan.json")

``posterior`` (white coordinates), ``stake`` (what a decision can lose, and what is left after
measuring), ``candidates`` (what each measurement would tell), ``effort`` (seconds and budgets),
``search`` (greedy, exchange, pruning), ``outlook`` (intervals to expect), ``reasons`` (words),
``record`` (the plan and its file), ``rehearsal`` (the whole thing on simulated truths).
"""

from .budget import Budget, Effort
from .measurement_plan import Entry, Plan, Prospect, plan, pose
from .rehearsal import Rehearsal

__all__ = ["Budget", "Effort", "Entry", "Plan", "Prospect", "Rehearsal", "plan", "pose"]
