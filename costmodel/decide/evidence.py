"""What a cutoff and a latency rest on: rows of just this, of much the same, or of other places.

An arm is ``measured`` by rows of this GPU, world size, dtype and kernel state;
``measured_elsewhere`` where the rows of this GPU and world size are of another dtype or kernel
state; else ``transferred``, as are all kernels whose source nobody has read. Two arms are as good
as the lesser one, and ``measured`` only where a benchmark has both at one shape: else nothing shows
their difference without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from ..calibration.posterior import Coverage
from ..model.fabric import LOOPBACK
from ..model.shape import ALGORITHMS, SEPARATE, SEPARATE_OPS, SPOKEN

if TYPE_CHECKING:
    from .schemas import ArmEvidenceRecord
    from .setting import Setting

MEASURED = "measured"
MEASURED_ELSEWHERE = "measured_elsewhere"
TRANSFERRED = "transferred"
NOT_IDENTIFIED = "not_identified"
ALWAYS_ONE_STAGE = "always_1stage"

#: How the reason begins, and what the evidence is called, where physics decides.
BY_PHYSICS = "by physics"

#: The classes with which a cutoff in bytes is claimed.
CLAIMED = (MEASURED, MEASURED_ELSEWHERE, TRANSFERRED)


class ArmEvidence(Struct, frozen=True):
    """What one arm's latency rests on: rows measured here, or rows carried from elsewhere.

    ``exact`` are those of the rows here that have the dtype and the kernel state asked about;
    ``read`` is whether anybody has read the source of those kernels.
    """

    arm: str
    state: str
    dtype: str
    here: tuple[Coverage, ...]
    exact: tuple[Coverage, ...]
    elsewhere: tuple[Coverage, ...]
    read: bool = True

    @classmethod
    def of(cls, setting: Setting, world_size: int, arm: str) -> ArmEvidence:
        """Return what an arm rests on; refused rows carry nothing elsewhere."""
        calibration, kernel = setting.calibration, setting.kernel
        refused = {(r.gpu, r.world_size) for r in calibration.refusals}
        apart = arm == SEPARATE_OPS
        kinds = [(SEPARATE, a) for a in ALGORITHMS] if apart else [(setting.op, arm)]
        state = {kind: kernel.state(*kind) for kind in kinds}
        rows = [c for c in calibration.coverage if (c.op, c.algorithm) in kinds]
        here = [c for c in rows if (c.gpu, c.world_size) == (setting.gpu, world_size)]
        exact = [
            c for c in here if setting.dtype in c.dtypes and state[c.op, c.algorithm] in c.states
        ]
        elsewhere = [c for c in rows if (c.gpu, c.world_size) not in refused]
        said = " or ".join(dict.fromkeys(state.values()))
        return cls(
            arm, said, setting.dtype, tuple(here), tuple(exact), tuple(elsewhere), kernel.known
        )

    @property
    def word(self) -> str:
        """The arm's own class."""
        if not (self.here and self.read):
            return TRANSFERRED
        return MEASURED if self.exact else MEASURED_ELSEWHERE

    @property
    def rows(self) -> tuple[Coverage, ...]:
        """The rows behind the arm."""
        return self.here or self.elsewhere

    @property
    def count(self) -> int:
        """How many rows were measured here."""
        return sum(c.rows for c in self.here)

    @property
    def pairs(self) -> int:
        """At how many shapes here a benchmark has the arm's counterpart too."""
        return sum(c.pairs for c in self.here)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that measured here, by name."""
        return tuple(sorted({s for c in self.here for s in c.sources}))

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """The hidden sizes of the rows behind the arm."""
        return tuple(sorted({h for c in self.rows for h in c.hidden_dims}))

    @property
    def other_dtypes(self) -> tuple[str, ...]:
        """The dtypes of the rows here, where the one that is asked is not among them."""
        dtypes = tuple(sorted({d for c in self.here for d in c.dtypes}))
        return () if self.dtype in dtypes else dtypes

    @property
    def measured_with(self) -> str:
        """What the rows here have in place of what is asked: dtypes, else kernel states, or ""."""
        if self.exact or not self.here:
            return ""
        states = sorted({s for c in self.here for s in c.states}) or ["a kernel state not recorded"]
        return ", ".join(self.other_dtypes) or " or ".join(states)

    @property
    def otherwise(self) -> str:
        """In what the rows here differ from what is asked, in words; "" where they do not."""
        spoken, had = SPOKEN[self.arm], self.measured_with
        if self.other_dtypes and had:
            return f"{spoken} rows are {had}, not {self.dtype}"
        return f"{spoken} rows are of kernels with {had}, asked is {self.state}" if had else ""

    def to_dict(self) -> ArmEvidenceRecord:
        """Return an entry of ``evidence``."""
        return {
            "algorithm": self.arm,
            "measured": bool(self.here),
            "state": self.state,
            "exact": bool(self.exact),
            "rows": [
                {
                    "gpu": c.gpu, "world_size": c.world_size, "rows": c.rows,
                    "sources": list(c.sources), "hidden_dims": list(c.hidden_dims),
                    "dtypes": list(c.dtypes), "states": list(c.states), "pairs": c.pairs,
                    "gpu_inferred": c.gpu_inferred,
                }
                for c in self.rows
            ],
        }  # fmt: skip


def arms_evidence(setting: Setting, world_size: int) -> tuple[ArmEvidence, ArmEvidence]:
    """Return what 1-stage and the alternative rest on."""
    one, other = (ArmEvidence.of(setting, world_size, arm) for arm in setting.arms)
    return one, other


def shortfall(arms: Sequence[ArmEvidence]) -> list[str]:
    """Return in words what keeps arms that were measured here from being ``measured``."""
    lacks = [arm.otherwise for arm in arms if arm.otherwise]
    return lacks if arms[-1].pairs else [*lacks, "no shape has both arms in one benchmark"]


def evidence_class(arms: Sequence[ArmEvidence]) -> str:
    """Return the class of 1-stage and the other arm together."""
    if not all(arm.here and arm.read for arm in arms):
        return TRANSFERRED
    return MEASURED_ELSEWHERE if shortfall(arms) else MEASURED


def physics_decides(setting: Setting, world_size: int) -> bool:
    """Whether the faster arm is known without rows: two ranks with one link between them.

    Both arms move the same bytes over it and 2-stage adds a launch. Ranks on one GPU have no link.
    """
    return world_size == 2 and setting.calibration.fabric != LOOPBACK
