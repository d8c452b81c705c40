"""What an arm's latency rests on: rows of this GPU and world size, or carried from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..calibration.posterior import Coverage
from ..model.shape import ALGORITHMS, SEPARATE, SEPARATE_OPS

if TYPE_CHECKING:
    from .schemas import ArmEvidenceRecord
    from .setting import Setting

MEASURED = "measured"
TRANSFERRED = "transferred"
NOT_IDENTIFIED = "not_identified"
ALWAYS_ONE_STAGE = "always_1stage"


@dataclass(frozen=True)
class ArmEvidence:
    """What one arm's latency rests on: rows measured here, or rows carried from elsewhere."""

    arm: str
    here: tuple[Coverage, ...]
    elsewhere: tuple[Coverage, ...]

    @classmethod
    def of(cls, setting: Setting, world_size: int, arm: str) -> ArmEvidence:
        """Return what an arm rests on; refused rows carry nothing elsewhere."""
        calibration = setting.calibration
        refused = {(r.gpu, r.world_size) for r in calibration.refusals}
        apart = arm == SEPARATE_OPS
        kinds = [(SEPARATE, a) for a in ALGORITHMS] if apart else [(setting.op, arm)]
        rows = [c for c in calibration.coverage if (c.op, c.algorithm) in kinds]
        return cls(
            arm,
            tuple(c for c in rows if (c.gpu, c.world_size) == (setting.gpu, world_size)),
            tuple(c for c in rows if (c.gpu, c.world_size) not in refused),
        )

    @property
    def rows(self) -> tuple[Coverage, ...]:
        """The rows behind the arm."""
        return self.here or self.elsewhere

    @property
    def count(self) -> int:
        """How many rows were measured here."""
        return sum(c.rows for c in self.here)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that measured here, by name."""
        return tuple(sorted({s for c in self.here for s in c.sources}))

    def to_dict(self) -> ArmEvidenceRecord:
        """Return an entry of ``evidence``."""
        return {
            "algorithm": self.arm,
            "measured": bool(self.here),
            "rows": [
                {
                    "gpu": c.gpu, "world_size": c.world_size, "rows": c.rows,
                    "sources": list(c.sources),
                }
                for c in self.rows
            ],
        }  # fmt: skip
