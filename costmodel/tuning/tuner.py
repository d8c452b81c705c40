"""The loop at one world size, as one question a time: what was measured, and so what is next.

The tuner holds no device and no clock of its own. It is asked with the records so far, learns from
those it has not seen, writes each step into its journal, and answers with the next shape, or None
when all is done: first the shapes to learn from until :mod:`..decide.stopping` says enough, then
those by which the rule is judged. Where these contradict it, or the model has no answer or one that
it expects to lose much by, calls of the workload follow in full, as far as the time goes. The same
records give the same answers, so a killed tuning goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..decide.evidence import ALWAYS_ONE_STAGE
from ..decide.stopping import (
    BUDGET,
    FEWEST,
    NOTHING,
    REASONS,
    UNCLAIMED,
    Standing,
    StoppingLimits,
    verdict,
)
from ..live.run.points import Point
from ..live.run.schemas import PointRecord, SampleLine
from ..show.words import ranks_and_op, size_interval
from ..units import kib
from . import choice
from .journal import Journal, StepRecord, SurveyRecord
from .judgement import CONTRADICTED_PCT, judge
from .knowledge import Known, TunedMachine, UndecidedError

#: Why a run stopped where the model covers nothing; its words are the refusal's.
UNDECIDED = "undecided"

#: Calls measured in full where the model is left aside, for each of the most shapes to learn from.
SURVEYED = 4


class Tuner:
    """What to measure next at one world size.

    ``earlier`` are rows of the machine at other world sizes, which count too. ``seconds_left``
    returns the time left in seconds, None without a budget. ``say`` takes a line for people;
    ``draw`` takes what is known after a step and the time left in words, where somebody watches.
    """

    def __init__(
        self,
        machine: TunedMachine,
        world_size: int,
        limits: StoppingLimits,
        journal: Journal,
        *,
        earlier: Sequence[Mapping[str, Any]] = (),
        seconds_left: Callable[[], float | None] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
        draw: Callable[[Known, str], None] | None = None,
    ) -> None:
        self.machine = machine
        self.world_size = world_size
        self.limits = limits
        self.journal = journal
        self.earlier = list(earlier)
        self.seconds_left = seconds_left
        self.say = say
        self.draw = draw

    def next(self, records: Sequence[SampleLine]) -> Point | None:
        """Return the next point, or None when nothing is left to measure."""
        shapes = [record for record in records if record["kind"] == "shape"]
        journal = self.journal
        while journal.stop is None and len(journal.steps) <= len(shapes):
            self._step(shapes[: len(journal.steps)])
        if journal.stop is None:
            chosen = journal.steps[len(shapes)]["next"]
            assert chosen is not None  # a step without a next shape stops
            return Point.from_json(chosen)
        after = len(shapes) - journal.stop["shapes"]
        judging = journal.stop["judging"]
        left = judging[after:] or self._survey(shapes)[after - len(judging) :]
        return Point.from_json(left[0]) if left and self._affords(shapes, 1) else None

    def _survey(self, shapes: Sequence[SampleLine]) -> list[PointRecord]:
        """Return what is measured in full, in its order; nothing where the model holds."""
        journal = self.journal
        if journal.survey is None:
            assert journal.stop is not None
            learnt = journal.stop["shapes"]
            if learnt < FEWEST:
                return []
            try:
                known = self.known(shapes[:learnt])
            except UndecidedError:
                return []  # of such links there is no model, and so no workload of its kernels
            words = known and self._against(known, shapes[learnt:])
            if known is None or not words:
                return []
            seen = {Point.from_json(record["point"]).shape for record in shapes}
            most = SURVEYED * self.limits.shapes
            points = choice.survey(known, self.world_size, seen, most)
            record: SurveyRecord = {
                "kind": "survey", "words": words, "points": [p.to_json() for p in points]
            }  # fmt: skip
            journal.add(record)
            self.say(
                f"{self._what}: {words}: the model is left aside, and up to "
                f"{counted(len(points))} of the workload are measured"
            )
        assert journal.survey is not None
        return journal.survey["points"]

    def _against(self, known: Known, judging: Sequence[SampleLine]) -> str:
        """Return what speaks against the model's answer, in words, "" where nothing does."""
        cutoff = known.cutoff(self.world_size)
        if not cutoff.claimed:
            return f"the model has no answer ({cutoff.reason})"
        left = cutoff.regrets.contested_pct
        if left is not None and left > CONTRADICTED_PCT:
            return f"the model still expects to lose {left:.2f} % on contested calls"
        found = judge(self.machine, known, judging)
        if found is None or not found.contradicts:
            return ""
        return f"the model's rule loses {found.lost_pct:.2f} % on {counted(len(found.pairs))}"

    def known(self, shapes: Sequence[SampleLine]) -> Known | None:
        """Return what is known after some shapes; None before anything is.

        Raises :class:`.UndecidedError` where the model does not cover the machine.
        """
        if not shapes and not self.earlier:
            return self.machine.prior((self.world_size,))
        rows = [*self.earlier, *self.machine.rows(shapes)]
        return self.machine.after(rows, (self.world_size,))

    def _step(self, shapes: Sequence[SampleLine]) -> None:
        """Learn from the shapes so far, choose the next, and write both down."""
        seen = {Point.from_json(record["point"]).shape for record in shapes}
        refusal = ""
        try:
            known = self.known(shapes)
        except UndecidedError as error:
            known, refusal = None, str(error)
        asked = self.machine.question
        if known is None:
            hidden = asked.workload.hidden_dims() if asked.workload else [4096, 7168]
            chosen = choice.first(hidden, asked, seen)
        else:
            chosen = choice.following(known, asked.workload, self.world_size, seen)
            claimed = known.cutoff(self.world_size).claimed
            if chosen is None and len(shapes) < (FEWEST if claimed else UNCLAIMED):
                chosen = next(iter(choice.judging(known, self.world_size, seen)), None)
        self.journal.add(self._record(len(shapes), known, chosen))
        self._tell(len(shapes), known)
        if known is not None and self.draw is not None:
            self.draw(known, self._left(shapes))
        why = verdict(self._history(), self.limits) if known is not None else None
        if why is None and chosen is None:
            why = UNDECIDED if refusal else NOTHING
        if why is None and shapes and not self._affords(shapes, 1 + len(choice.JUDGED_AT)):
            why = BUDGET
        if why is not None:
            judging = choice.judging(known, self.world_size, seen) if known else ()
            self.journal.add(
                {
                    "kind": "stop",
                    "shapes": len(shapes),
                    "why": why,
                    "words": refusal or REASONS[why],
                    "judging": [point.to_json() for point in judging],
                }
            )
            self.say(f"{self._what}: stopped after {counted(len(shapes))}: "
                     f"{refusal or REASONS[why]}")  # fmt: skip

    def _record(self, shapes: int, known: Known | None, chosen: Point | None) -> StepRecord:
        cutoff = known.cutoff(self.world_size) if known else None
        claimed = cutoff is not None and cutoff.claimed
        return {
            "kind": "step",
            "shapes": shapes,
            "verdict": cutoff.verdict if cutoff else "",
            "max_bytes": cutoff.max_bytes if cutoff else None,
            "max_bytes_lo": cutoff.max_bytes_lo if cutoff else None,
            "max_bytes_hi": cutoff.max_bytes_hi if cutoff else None,
            "regret_pct": cutoff.regret_pct if cutoff and claimed else None,
            "contested_pct": cutoff.regrets.contested_pct if cutoff and claimed else None,
            "next": chosen.to_json() if chosen else None,
        }

    def _history(self) -> list[Standing]:
        return [standing(step) for step in self.journal.steps]

    def _affords(self, shapes: Sequence[SampleLine], more: int) -> bool:
        """Return whether ``more`` shapes fit into the time left, as the shapes so far took."""
        left = self.seconds_left()
        if left is None or not shapes:
            return True
        return more * sum(record["seconds"] for record in shapes) / len(shapes) <= left

    def _left(self, shapes: Sequence[SampleLine]) -> str:
        """Return the time left in words: of the budget, or what the most shapes would take."""
        left = self.seconds_left()
        if left is not None:
            return f"time left: {max(left, 0.0):.0f} s"
        if not shapes:
            return "time left: no --budget limits it"
        each = sum(record["seconds"] for record in shapes) / len(shapes)
        more = max(self.limits.shapes - len(shapes), 0) + len(choice.JUDGED_AT)
        return f"time left: {more * each:.0f} s at most"

    def _tell(self, shapes: int, known: Known | None) -> None:
        if known is None:
            return
        cutoff = known.cutoff(self.world_size)
        if not cutoff.claimed:
            said = cutoff.reason
        elif cutoff.max_bytes is None:
            said = "1-stage always"
        else:
            within = size_interval(cutoff.max_bytes_lo, cutoff.max_bytes_hi)
            said = f"1-stage <= {kib(cutoff.max_bytes)} ({within})"
            if cutoff.regrets.contested_pct is not None:
                said += f", {cutoff.regrets.contested_pct:.2f} % regret on contested calls"
        self.say(f"{self._what} after {counted(shapes)}: {said}")

    @property
    def _what(self) -> str:
        return ranks_and_op(self.world_size, self.machine.question.op)


def counted(shapes: int) -> str:
    """Return a number of shapes in words."""
    return f"{shapes} shape{'s' * (shapes != 1)}"


def standing(step: StepRecord) -> Standing:
    """Return what a step of the journal left, for stopping's :func:`verdict`."""
    low, high = step["max_bytes_lo"], step["max_bytes_hi"]
    return Standing(
        step["shapes"],
        step["contested_pct"],
        math.log2(high / low) if low and high else math.inf,
        step["verdict"] == ALWAYS_ONE_STAGE,
    )
