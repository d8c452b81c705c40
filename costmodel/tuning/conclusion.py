"""What a tuning came to: per world size decided and confirmed, or why not; and the rule.

A rule is handed over for the world sizes whose cutoff is claimed, on a machine that was quiet, and
that the shapes measured afterwards do not contradict. Those shapes were chosen by the rule but not
learnt from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.measurement import Measurements
from ..decide.decision import Cutoff
from ..decide.pairs import Pairs, calls
from ..decide.regret import Score
from ..decide.stopping import BUDGET, FEWEST
from ..live.run.schemas import ArmRecord, SampleLine
from ..live.run.statistics import CLEAN_PERCENT, NOISY_SHARE
from ..rules.catalogue import current
from ..rules.rule import Rule
from .knowledge import Known, TunedMachine, UndecidedError
from .session import Session

CONFIRMED, UNJUDGED = "confirmed", "not judged"
NOT_DECIDED, CONTRADICTED, BUSY = "not decided", "contradicted", "busy machine"

#: Endings with which a cutoff is handed over.
ACCEPTED = (CONFIRMED, UNJUDGED)

#: Mean regret on the judging shapes beyond which they contradict the rule, percent: it loses more
#: there than the wrong choice costs within the tie band of two arms that count as equal.
CONTRADICTED_PCT = 1.0


@dataclass(frozen=True, eq=False)
class Ending:
    """How one world size ended.

    ``judged`` are the pairs that judge the rule and ``choice`` (n,) where it runs 1-stage there.
    """

    world_size: int
    verdict: str
    reason: str
    shapes: int
    cutoff: Cutoff | None
    judged: Pairs | None
    choice: NDArray[np.bool_]

    @property
    def accepted(self) -> bool:
        """Whether its cutoff is handed over."""
        return self.verdict in ACCEPTED

    @property
    def judged_regret_pct(self) -> float | None:
        """Mean regret of the rule on the judging pairs, percent."""
        if self.judged is None or not len(self.judged):
            return None
        return _regret_pct(self.judged, self.choice)


@dataclass(frozen=True, eq=False)
class Conclusion:
    """What a tuning came to. ``known`` is about the accepted world sizes, None without any."""

    session: Session
    machine: TunedMachine
    known: Known | None
    endings: tuple[Ending, ...]

    @property
    def accepted(self) -> tuple[int, ...]:
        """The world sizes for which a cutoff is handed over."""
        return tuple(e.world_size for e in self.endings if e.accepted)

    @property
    def decided(self) -> bool:
        """Whether every world size that was asked for is."""
        return len(self.accepted) == len(self.session.settings["world_sizes"])

    @cached_property
    def rule(self) -> Rule | None:
        """The rule for the accepted world sizes, before an engine's guards join it."""
        return self.known.decision.unguarded_rule if self.known else None

    def scores(self) -> dict[int, Score]:
        """Return the rule beside the one that the engine has now, by world size."""
        asked = self.machine.question
        if self.known is None or not asked.engine:
            return {}
        now = current(asked.engine, asked.op)
        return {
            c.world_size: c.arms.score(self.known.decision.rule, now)
            for c in self.known.decision.cutoffs
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return every measured row, those that judged among them; replayed ones say so."""
        return self.machine.rows(r for n in self.session.started() for r in self.session.shapes(n))


def conclude(session: Session) -> Conclusion | None:
    """Return what a tuning came to by what is on disk; None where nothing was started."""
    labels = session.labels()
    if labels is None:
        return None
    machine = session.machine(labels)
    started = session.started()
    learnt = machine.rows(r for n in started for r in session.learnt(n))
    known, refusal = None, "nothing was measured"
    if learnt:
        try:
            known = machine.after(learnt, started)
        except UndecidedError as error:
            refusal = str(error)
    endings = tuple(
        _ending(session, machine, known, refusal, n) for n in session.settings["world_sizes"]
    )
    accepted = [e.world_size for e in endings if e.accepted]
    if known is not None and accepted != started:
        known = machine.after(learnt, accepted) if accepted else None
    return Conclusion(session, machine, known, endings)


def _ending(
    session: Session, machine: TunedMachine, known: Known | None, refusal: str, world_size: int
) -> Ending:
    nothing = np.zeros(0, np.bool_)
    if world_size not in session.started():
        return Ending(world_size, NOT_DECIDED, "not begun", 0, None, None, nothing)
    shapes = len(session.learnt(world_size))
    if known is None:
        return Ending(world_size, NOT_DECIDED, refusal, shapes, None, None, nothing)
    cutoff = known.cutoff(world_size)
    if disturbed := _disturbed(session.records(world_size)):
        return Ending(world_size, BUSY, disturbed, shapes, cutoff, None, nothing)
    if not cutoff.claimed:
        return Ending(world_size, NOT_DECIDED, cutoff.reason, shapes, cutoff, None, nothing)
    stop = session.journal(world_size).stop
    if stop is None:
        why = "it was interrupted; go on with --resume"
        return Ending(world_size, NOT_DECIDED, why, shapes, cutoff, None, nothing)
    if shapes < FEWEST and stop["why"] == BUDGET:
        why = f"{stop['words']} after {shapes} of at least {FEWEST} shapes"
        return Ending(world_size, NOT_DECIDED, why, shapes, cutoff, None, nothing)
    judged = session.judged(world_size)
    rows = machine.rows(judged)
    pairs = _pairs(rows, known.setting.op, known.setting.alternative) if rows else None
    if pairs is None or not len(pairs):
        why = "no shape was measured afterwards"
        return Ending(world_size, UNJUDGED, why, shapes, cutoff, None, nothing)
    choice = pairs.use_1stage(known.decision.unguarded_rule, known.setting.aiter_version)
    lost = _regret_pct(pairs, choice)
    said = (
        f"on {len(pairs)} shapes measured afterwards the rule takes the faster arm on "
        f"{int((pairs.chosen_us(choice) == pairs.fastest_us).sum())} and loses {lost:.2f} %"
    )
    verdict = CONTRADICTED if lost > CONTRADICTED_PCT else CONFIRMED
    return Ending(world_size, verdict, said, shapes, cutoff, pairs, choice)


def _pairs(rows: Iterable[Mapping[str, Any]], op: str, alternative: str) -> Pairs:
    """Return the calls that were measured with both arms between which the rule chooses."""
    pairs = calls(Measurements.from_rows(map(dict, rows)), op).against(alternative)
    return pairs.select(pairs.both)


def _regret_pct(pairs: Pairs, choice: NDArray[np.bool_]) -> float:
    return float(100 * (pairs.chosen_us(choice) / pairs.fastest_us - 1).mean())


def _disturbed(records: Sequence[SampleLine]) -> str:
    """Return how the machine was disturbed while it was measured, "" if it was not."""
    shapes = [record for record in records if record["kind"] == "shape"]
    arms = [arm for record in shapes for arm in record["arms"].values() if arm["summary"]]
    noisy = sum(arm["clean"] is False for arm in arms)
    if arms and noisy > NOISY_SHARE * len(arms):
        return (
            f"{noisy} of {len(arms)} arms were noisy (A/A, drift or half of the interval beyond "
            f"{CLEAN_PERCENT:g} %): free the machine of other work or fix its clocks"
        )
    for again in (record for record in records if record["kind"] == "again"):
        first = next((r for r in shapes if r["point"] == again["point"]), None)
        if first is None:
            continue
        for name, arm in again["arms"].items():
            change = _change_pct(first["arms"].get(name), arm)
            if abs(change) > CLEAN_PERCENT:
                return (
                    f"{name} at the shape measured first was {change:+.1f} % at the end: clocks "
                    "or load changed in between"
                )
    return ""


def _change_pct(first: ArmRecord | None, again: ArmRecord) -> float:
    if first is None or not first["summary"] or not again["summary"]:
        return 0.0
    return 100.0 * (again["summary"].latency_us / first["summary"].latency_us - 1.0)
