"""What a tuning came to: per world size decided and confirmed, or why not; and the rule.

A rule is handed over for the world sizes whose cutoff is claimed, on a machine that was quiet, and
that the shapes measured afterwards do not contradict. Those shapes were chosen by the rule but not
learnt from. Where they contradict it, and calls of the workload were then measured in full, the
cutoff is read from these alone, and judged by those of them that were held back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from ..calibration.posterior import NORMAL_HALF_WIDTH
from ..decide.decision import Cutoff
from ..decide.measured_cutoff import FEWEST_PAIRS, HELD_BACK, measured_cutoff, spared_pct
from ..decide.regret import Score
from ..decide.stopping import BUDGET, FEWEST
from ..live.run.schemas import ArmRecord, SampleLine
from ..live.run.statistics import CLEAN_PERCENT, NOISY_SHARE
from ..rules.catalogue import current
from ..rules.rule import Rule
from .judgement import Judgement, judge, pairs_of
from .knowledge import Known, TunedMachine, UndecidedError
from .session import Session

CONFIRMED, UNJUDGED, BY_PAIRS = "confirmed", "not judged", "by its pairs"
NOT_DECIDED, CONTRADICTED, BUSY = "not decided", "contradicted", "busy machine"

#: Endings with which a cutoff is handed over.
ACCEPTED = (CONFIRMED, UNJUDGED, BY_PAIRS)


@dataclass(frozen=True, eq=False)
class Ending:
    """How one world size ended.

    ``shapes`` were learnt from, and ``surveyed`` calls measured in full where the model was left
    aside.
    """

    world_size: int
    verdict: str
    reason: str
    shapes: int = 0
    cutoff: Cutoff | None = None
    judged: Judgement | None = None
    surveyed: int = 0

    @property
    def accepted(self) -> bool:
        """Whether its cutoff is handed over."""
        return self.verdict in ACCEPTED


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
    def modelled(self) -> tuple[int, ...]:
        """Those of them whose cutoff is the calibrated model's."""
        return tuple(e.world_size for e in self.endings if e.accepted and e.verdict != BY_PAIRS)

    @property
    def decided(self) -> bool:
        """Whether every world size that was asked for is."""
        return len(self.accepted) == len(self.session.settings["world_sizes"])

    @cached_property
    def rule(self) -> Rule | None:
        """The rule for the accepted world sizes, before an engine's guards join it."""
        if self.known is None:
            return None
        rule = self.known.decision.unguarded_rule
        if self.modelled:
            return rule
        return replace(rule, source=f"measured pairs of {self.machine.question.name}")

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
    read = {e.world_size: e.cutoff for e in endings if e.verdict == BY_PAIRS and e.cutoff}
    if known is not None and read:
        known = known.but(read)
    return Conclusion(session, machine, known, endings)


def _ending(
    session: Session, machine: TunedMachine, known: Known | None, refusal: str, world_size: int
) -> Ending:
    if world_size not in session.started():
        return Ending(world_size, NOT_DECIDED, "not begun")
    shapes = len(session.learnt(world_size))
    if known is None:
        return Ending(world_size, NOT_DECIDED, refusal, shapes)
    cutoff = known.cutoff(world_size)
    if disturbed := _disturbed(session.records(world_size)):
        return Ending(world_size, BUSY, disturbed, shapes, cutoff)
    journal = session.journal(world_size)
    if journal.survey is not None:
        why = journal.survey["words"]
        stays = _model_stays(session, machine, known, world_size)
        return stays or _by_pairs(session, machine, known, world_size, why)
    if not cutoff.claimed:
        return Ending(world_size, NOT_DECIDED, cutoff.reason, shapes, cutoff)
    stop = journal.stop
    if stop is None:
        why = "it was interrupted; go on with --resume"
        return Ending(world_size, NOT_DECIDED, why, shapes, cutoff)
    if shapes < FEWEST and stop["why"] == BUDGET:
        why = f"{stop['words']} after {shapes} of at least {FEWEST} shapes"
        return Ending(world_size, NOT_DECIDED, why, shapes, cutoff)
    judged = judge(machine, known, session.judged(world_size))
    if judged is None:
        why = "no shape was measured afterwards"
        return Ending(world_size, UNJUDGED, why, shapes, cutoff)
    said = f"on {len(judged.pairs)} shapes measured afterwards the rule {judged.words()}"
    verdict = CONTRADICTED if judged.contradicts else CONFIRMED
    return Ending(world_size, verdict, said, shapes, cutoff, judged)


def _model_stays(
    session: Session, machine: TunedMachine, known: Known, world_size: int
) -> Ending | None:
    """Return the ending by the model's rule, where calls measured in full say no better cutoff.

    The few judging shapes may have erred. None where the pairs decide by themselves.
    """
    cutoff, surveyed = known.cutoff(world_size), session.surveyed(world_size)
    if not cutoff.claimed:
        return None
    after = [*session.judged(world_size), *surveyed]
    judged = judge(machine, known, after)
    if judged is None or _better_alone(known, world_size, judged):
        return None
    said = (
        f"on all {len(judged.pairs)} shapes measured afterwards the rule {judged.words()}, "
        "and no cutoff of their own loses less beyond noise"
    )
    verdict = CONTRADICTED if judged.contradicts_cutoff else CONFIRMED
    shapes = len(session.learnt(world_size))
    return Ending(world_size, verdict, said, shapes, cutoff, judged, len(surveyed))


def _by_pairs(
    session: Session, machine: TunedMachine, known: Known, world_size: int, why: str
) -> Ending:
    """Return the ending by the pairs of calls that were measured in full because of ``why``."""
    learnt, surveyed = session.learnt(world_size), session.surveyed(world_size)
    held_back = surveyed[::HELD_BACK]
    others = [record for i, record in enumerate(surveyed) if i % HELD_BACK]
    pairs = pairs_of(machine, known, [*learnt, *session.judged(world_size), *others])
    modelled, count = known.cutoff(world_size), len(surveyed)
    if pairs is None:
        return Ending(world_size, NOT_DECIDED, why, len(learnt), modelled, None, count)
    cutoff = measured_cutoff(modelled, known.setting, known.decision.workload, pairs, why)
    answer = known.but({world_size: cutoff})
    judged = judge(machine, answer, held_back) if cutoff.claimed else None
    if judged is None:
        return Ending(world_size, NOT_DECIDED, cutoff.reason, len(learnt), cutoff, None, count)
    said = (
        f"{cutoff.reason}; on {len(judged.pairs)} more that were held back it {judged.words()}, "
        f"where the best cutoff loses {judged.least_pct:.2f} %"
    )
    verdict = CONTRADICTED if judged.contradicts_cutoff else BY_PAIRS
    return Ending(world_size, verdict, said, len(learnt), cutoff, judged, count)


def _better_alone(known: Known, world_size: int, judged: Judgement) -> bool:
    """Return whether the pairs' own cutoff beats the model's rule on them (90 %, one side more)."""
    pairs, workload = judged.pairs, known.decision.workload
    if len(pairs) < FEWEST_PAIRS:
        return judged.contradicts
    spares, error = spared_pct(known.setting, workload, world_size, pairs, judged.choice)
    return spares > NORMAL_HALF_WIDTH * error


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
