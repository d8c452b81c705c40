"""What a measurement costs in seconds, and budgets.

seconds = start x world sizes + shape x shapes + arm x (shape, arm) pairs + the timed calls

A world size is one launch of ``costmodel measure``: processes, communicators, memory handles, and
the first shape once more at the end. A shape needs buffers, inputs, an fp32 reference; an arm its
graph capture, two comparisons with the reference and a warm-up. The timed calls (rounds x samples x
calls x latency) take 0.03 s at 10 us.

The defaults are round figures, an assumption for 8 ranks. Ranks sharing one H200 (Triton back end)
took 5 to 7 s a launch and 0.2 s a shape with two arms, 1 to 4 s where kernels were compiled. The
``seconds`` of each shape in a run's ``samples.jsonl`` show what a machine really takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from ..errors import InputError
from ..live.repetition import Repetition

if TYPE_CHECKING:
    from .schemas import PlanBudget


class MeasuringTime(Struct, frozen=True):
    """Seconds that a launch, a shape and an arm take beside the timed calls."""

    launch_s: float = 20.0
    shape_s: float = 2.0
    arm_s: float = 1.0
    timed_calls: int = Repetition().timed_calls

    def __post_init__(self) -> None:
        for seconds in (self.launch_s, self.shape_s, self.arm_s):
            if not 0 <= seconds < float("inf"):
                raise InputError(
                    f"{seconds:g} seconds for a launch, a shape or an arm; give 0 or more"
                )

    def latency_s(self, latency_us: float) -> float:
        """Return the seconds that one arm takes at a shape."""
        return self.arm_s + self.timed_calls * latency_us * 1e-6


class Budget(Struct, frozen=True):
    """How much may be measured: at most so many shapes, or so many seconds."""

    shapes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.shapes is None) == (self.seconds is None):
            raise InputError("give a budget of shapes or of seconds, one of the two")
        if self.shapes is not None and self.shapes < 1:
            raise InputError(f"the budget is {self.shapes} shapes; it must be 1 or more")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise InputError(f"the budget is {self.seconds:g} seconds; give more than 0, finite")

    def to_dict(self) -> PlanBudget:
        """Return the limit that is set."""
        return {"shapes": self.shapes} if self.shapes else {"seconds": self.seconds or 0.0}
