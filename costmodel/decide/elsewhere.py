"""What a rule loses on GPUs that it was not made for, where an engine runs it there too.

Without a gate the rule for one arch is in force on every GPU that the engine serves; with one by
arch it is on every card of that arch. The loss is against the rule that is recommended there, by
that GPU's own calibration, for the same question.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from ..calibration import posterior
from ..data import hardware
from ..errors import InputError
from ..rules.rule import Rule
from .recommendation import recommend
from .regret import Estimate
from .setting import Setting

if TYPE_CHECKING:
    from ..data.workload import Workload


class Elsewhere(Struct, frozen=True):
    """What a rule does on another GPU.

    ``loses_pct`` holds, for each world size where it decides otherwise than the recommended rule,
    what it loses against it, the mean over the calls in percentage points of regret; ``differ`` the
    share of the calls that it decides otherwise.
    """

    gpu: str
    arch: str
    loses_pct: dict[int, Estimate]
    differ: dict[int, float]

    @property
    def worst_pct(self) -> float:
        """The largest of the losses, 0 where there is none."""
        return max((e.value for e in self.loses_pct.values()), default=0.0)

    def words(self) -> str:
        """Return it as a clause: what is lost at which world size."""
        name = f"{self.gpu} ({self.arch})"
        if not self.loses_pct:
            return f"on {name} it decides as the rule recommended there"
        lost = ", ".join(
            f"{e.value:.2f} % of latency at TP{n} (mean over the calls, 90 % interval "
            f"{e.lo:.2f} to {e.hi:.2f}; {100 * self.differ[n]:.0f} % of the calls otherwise)"
            for n, e in self.loses_pct.items()
        )
        return f"on {name} it loses, against the rule recommended there, {lost}"

    def brief(self) -> str:
        """Return the largest loss alone, "" where there is none."""
        if not self.loses_pct:
            return ""
        most = max(self.loses_pct, key=lambda n: self.loses_pct[n].value)
        return (
            f"on {self.gpu} ({self.arch}) it loses up to {self.worst_pct:.2f} % on average "
            f"(TP{most})"
        )


def other_archs(arch: str) -> tuple[str, ...]:
    """Return the default GPU of every other arch."""
    return tuple(gpus[0] for a, gpus in hardware.GPUS.items() if a != arch)


def other_cards(gpu: str, arch: str) -> tuple[str, ...]:
    """Return the other GPUs of an arch."""
    return tuple(g for g in hardware.GPUS.get(arch, ()) if g != gpu)


def elsewhere(
    rule: Rule,
    setting: Setting,
    gpus: Iterable[str],
    workload: Workload | None,
    world_sizes: tuple[int, ...],
) -> tuple[Elsewhere, ...]:
    """Judge the rule of a setting on other GPUs.

    World sizes where nothing is recommended there, or where the rule claims nothing, are left out.
    """
    found = []
    for gpu in gpus:
        arch, gpu = hardware.choose(None, gpu)
        try:
            there = recommend(
                setting.but(calibration=posterior.shipped(arch), gpu=gpu, source=""),
                workload,
                world_sizes=world_sizes,
            )
        except InputError:
            # The question has no answer there: nothing to compare with.
            continue
        best = there.unguarded_rule
        scores = {
            c.world_size: c.arms.score(best, rule)
            for c in there.cutoffs
            if c.world_size in best.world_sizes and c.world_size in rule.world_sizes
        }
        otherwise = {n: s for n, s in scores.items() if s.differ > 0}
        found.append(
            Elsewhere(
                gpu,
                arch,
                {n: s.saved_pct for n, s in otherwise.items()},
                {n: s.differ for n, s in otherwise.items()},
            )
        )
    return tuple(found)
