"""What shapes that a rule did not learn from say of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data.measurement import Measurements
from ..decide.pairs import Pairs, calls
from ..live.run.schemas import SampleLine
from .knowledge import Known, TunedMachine

#: Mean regret on the judging shapes beyond which they contradict a rule, percent: it loses more
#: there than the wrong choice costs within the tie band of two arms that count as equal.
CONTRADICTED_PCT = 1.0


@dataclass(frozen=True, eq=False)
class Judgement:
    """Pairs that judge a rule, and ``choice`` (n,) where it runs 1-stage on them."""

    pairs: Pairs
    choice: NDArray[np.bool_]

    @property
    def lost_pct(self) -> float:
        """What the rule loses above the faster arm, mean over the pairs, percent."""
        return self._lost_pct(self.choice)

    @property
    def least_pct(self) -> float:
        """What the best of all cutoffs in bytes loses on the same pairs, percent."""
        size = self.pairs.bytes
        return min(self._lost_pct(size <= most) for most in {0, *size.tolist()})

    @property
    def contradicts(self) -> bool:
        """Whether the rule loses too much."""
        return self.lost_pct > CONTRADICTED_PCT

    @property
    def contradicts_cutoff(self) -> bool:
        """Whether it loses too much beside the best cutoff: what none can spare is no fault."""
        return self.lost_pct - self.least_pct > CONTRADICTED_PCT

    def words(self) -> str:
        """Return what was found, as the end of a sentence about the rule."""
        right = int((self.pairs.chosen_us(self.choice) == self.pairs.fastest_us).sum())
        return f"takes the faster arm on {right} and loses {self.lost_pct:.2f} %"

    def _lost_pct(self, choice: NDArray[np.bool_]) -> float:
        return float(100 * (self.pairs.chosen_us(choice) / self.pairs.fastest_us - 1).mean())


def judge(machine: TunedMachine, known: Known, records: Iterable[SampleLine]) -> Judgement | None:
    """Judge what is known by measured shapes; None where none of them has both arms."""
    pairs = pairs_of(machine, known, records)
    if pairs is None:
        return None
    return Judgement(
        pairs, pairs.use_1stage(known.decision.unguarded_rule, known.setting.aiter_version)
    )


def pairs_of(machine: TunedMachine, known: Known, records: Iterable[SampleLine]) -> Pairs | None:
    """Return the shapes that were measured with both arms of the question, None for none."""
    rows = machine.rows(records)
    if not rows:
        return None
    every = calls(Measurements.from_rows(map(dict, rows)), known.setting.op)
    pairs = every.against(known.setting.alternative)
    pairs = pairs.select(pairs.both)
    return pairs if len(pairs) else None
