"""The JSON that plans read as: one typed record, of which a run reads the shapes."""

from __future__ import annotations

from typing import Literal, TypedDict

from ..decide.schemas import CalibrationId, PushedRecord
from ..live.run.schemas import PlannedShape


class PlanBudget(TypedDict, total=False):
    """The limit that was set."""

    shapes: int
    seconds: float


class Assumed(TypedDict):
    """What the planner takes measuring to be like."""

    noise: float
    harness_spread_us: float
    seconds_per_launch: float
    seconds_per_shape: float
    seconds_per_arm: float


class ExpectedRegret(TypedDict):
    """Expected regret in percent, mean over world sizes."""

    before: float
    after: float
    perfect: float
    removed_share: float


class IntervalRecord(TypedDict):
    """A cutoff in bytes with its 90 % interval; null is no limit."""

    max_bytes: int | None
    max_bytes_lo: int | None
    max_bytes_hi: int | None
    claimed_probability: float


class IntervalWithRegret(IntervalRecord):
    """The same with the expected regret in percent."""

    regret_pct: float


class ProspectRecord(TypedDict):
    """One world size as it stands and as it is expected to after measuring.

    ``pushed`` is what is known of the plain op's arms that push, which are in no shape: each says
    what to measure.
    """

    world_size: int
    max_bytes_this_kernel_lo: int | None
    max_bytes_this_kernel_hi: int | None
    before: IntervalWithRegret
    after: IntervalWithRegret
    regret_pct_perfect: float
    open_share: float
    open_regret_pct: float
    note: str
    pushed: PushedRecord | None


class ReasonedShape(PlannedShape, total=False):
    """A shape with the planner's reasons; ``expected_us`` is of each arm."""

    bytes: int
    expected_us: list[float]
    seconds: float
    regret_pct_left: float
    reason: str


class Reasons(TypedDict, total=False):
    """What the planner says of a plan as a whole; a plan of one's own needs none of it."""

    arch: str
    gpu: str
    op: str
    dtype: str
    aiter_version: str
    kernel: str
    calibration: CalibrationId
    budget: PlanBudget
    assumed: Assumed
    seconds: float
    expected_regret_pct: ExpectedRegret
    cutoffs: list[ProspectRecord]


class PlanRecord(Reasons):
    """``costmodel/plan/1``."""

    schema: Literal["costmodel/plan/1"]
    shapes: list[ReasonedShape]
