"""What supports a rule's cutoffs, and where the rule comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

from ..errors import InputError
from ..model.shape import WORLD_SIZES
from ..units import kib
from .outside import writable

if TYPE_CHECKING:
    from .schemas import ProvenanceRecord


class CutoffEvidence(Struct, frozen=True):
    """What supports the cutoff of one world size.

    ``verdict`` is measured, measured_elsewhere, transferred, not_identified or always_1stage;
    ``lo`` and ``hi`` bound the cutoff in bytes on a machine that nobody has measured (90 %), None
    where there is none.
    """

    verdict: str
    lo: float | None = None
    hi: float | None = None
    reason: str = ""

    def words(self) -> str:
        """Return it in a few words: ``measured, 90 % interval over machines 380 to 520 KiB``."""
        text = self.verdict.replace("_", " ").replace("1stage", "1-stage")
        if self.lo is not None and self.hi is not None:
            text += f", 90 % interval over machines {kib(self.lo)} to {kib(self.hi)}"
        return text


class Provenance(Struct, frozen=True):
    """Where a rule comes from: calibration, and the command line that reproduces it."""

    command: str
    calibration_id: str = ""
    calibration_sha256: str = ""
    arch: str = ""
    gpu: str = ""
    evidence: Mapping[int, CutoffEvidence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        writable(self.command, "the command line (a file name in it)")
        writable(self.calibration_id, "the calibration's id")
        writable(self.calibration_sha256, "the calibration's sha256")
        writable(self.gpu, "the GPU's name")

    def to_json(self) -> ProvenanceRecord:
        """Return the provenance as JSON data."""
        return {
            "command": self.command,
            "calibration": {"id": self.calibration_id, "sha256": self.calibration_sha256},
            "arch": self.arch,
            "gpu": self.gpu,
            "evidence": {
                str(n): {"verdict": e.verdict, "lo": e.lo, "hi": e.hi, "reason": e.reason}
                for n, e in sorted(self.evidence.items())
            },
        }

    @classmethod
    def from_json(cls, record: ProvenanceRecord) -> Provenance:
        """Return the provenance of a record.

        Raises :class:`InputError` for words that are refused and for what is no world size.
        """
        calibration = record["calibration"]
        odd = next((n for n in record["evidence"] if n not in map(str, WORLD_SIZES)), None)
        if odd is not None:
            raise InputError(f"provenance: evidence for {odd!a}, which is no world size")
        return cls(
            record["command"],
            calibration["id"],
            calibration["sha256"],
            record["arch"],
            record["gpu"],
            {int(n): CutoffEvidence(**e) for n, e in record["evidence"].items()},
        )
