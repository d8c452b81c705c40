"""Which shapes to measure next: the set that most reduces the expected regret of the rule.

>>> from costmodel.decide.setting import Setting
>>> from costmodel.planning import Budget, plan
>>> plan(Setting.shipped("MI300X"), Budget(shapes=6)).save("plan.json")

``coordinates`` (white coordinates of the posterior), ``value`` (what a decision can lose, and what
is left after measuring), ``candidates`` (what each measurement would tell), ``budget`` (seconds
and budgets), ``search`` (greedy, exchange, pruning), ``reasons`` (words), ``measurement_plan`` (the
plan and its file), ``rehearsal`` (the whole thing on simulated truths).
"""

from .budget import Budget, MeasuringTime
from .measurement_plan import Entry, Plan, Prospect, plan, pose
from .rehearsal import Rehearsal

__all__ = ["Budget", "Entry", "MeasuringTime", "Plan", "Prospect", "Rehearsal", "plan", "pose"]
