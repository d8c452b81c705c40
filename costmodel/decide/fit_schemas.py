"""The JSON that a fit and its judgement read as; decisions have theirs in :mod:`.schemas`."""

from __future__ import annotations

from typing import Literal, TypedDict

from ..calibration.posterior import ParameterRecord
from .schemas import CalibrationId, EstimateRecord, MeasureNext

# costmodel/calibrate/1


class RowAccount(TypedDict):
    """The rows of a fit; ``set_aside`` counts them by reason."""

    read: int
    used: int
    set_aside: dict[str, int]


class FittedParameter(ParameterRecord):
    """A parameter beside its prior; ``prior_only``: the rows taught nothing of it."""

    prior: float
    prior_sd: float
    prior_form: str
    prior_only: bool
    source: str


class HarnessRecord(TypedDict):
    """What a source's harness adds, in us; ``noise`` is the scale of its log residuals.

    The residuals of its ``rows`` are in percent of the measured latency.
    """

    source: str
    excess_us: float
    lo: float
    hi: float
    noise: float
    rows: int
    median_residual_pct: float
    max_residual_pct: float


class ContrastRecord(TypedDict):
    """What an arm takes beyond the model in one laboratory, relative to 1-stage, us, 90 %."""

    source: str
    arm: str
    us: float
    lo: float
    hi: float


class Correlation(TypedDict):
    """A strong correlation between two parameters."""

    a: str
    b: str
    r: float


class Percentiles(TypedDict, total=False):
    """Absolute errors in percent, where there are any."""

    median: float
    p90: float
    max: float


class ScoreRecord(Percentiles):
    """Errors over ``n`` rows."""

    n: int


class SameRows(TypedDict):
    """The model and a baseline on the same rows."""

    model: ScoreRecord
    baseline: ScoreRecord


class ScoresRecord(TypedDict):
    """How well the model fits and predicts; ``coverage90`` is null where no row was left out.

    ``origami_raw`` scores AMD's closed form as it stands, of whose rows ``origami_elsewhere`` are
    of other archs than its constants are for.
    """

    in_sample: ScoreRecord
    per_source: dict[str, ScoreRecord]
    leave_one_out: dict[str, ScoreRecord]
    leave_one_out_coverage90: float | None
    leave_source_out: dict[str, ScoreRecord]
    leave_source_out_pooled: dict[str, ScoreRecord]
    same_rows: dict[str, SameRows]
    origami_raw: ScoreRecord
    origami_elsewhere: int
    leave_hidden_out: ScoreRecord


class SizesRecord(TypedDict):
    """A set of sizes above zero: ``bounded``, ``half-open`` (one end is null), ``complement``
    (outside of the ends), ``everything`` or ``empty`` (both null).
    """

    kind: Literal["bounded", "half-open", "complement", "everything", "empty"]
    lo_bytes: float | None
    hi_bytes: float | None


class CrossingRecord(TypedDict):
    """Where straight lines through a table of pairs cross, with 90 % sets, without the model.

    ``hidden_dim`` is null for several together; ``crossing_bytes`` is null where the lines do not
    cross above zero; ``one_stage_below``: 1-stage is the faster one below it.
    """

    op: str
    source: str
    gpu: str
    world_size: int
    hidden_dim: int | None
    dtype: str
    kernel_family: str
    kernel_version: str
    pairs: int
    crossing_bytes: float | None
    one_stage_below: bool
    fieller: SizesRecord
    bootstrap: SizesRecord


class RefusedRecord(TypedDict):
    """A GPU and world size whose rows give no cutoff, and what to measure again."""

    gpu: str
    world_size: int
    reason: str
    estimate_bytes: list[int | None]
    measure_next: list[MeasureNext]


class FitRecord(TypedDict):
    """``costmodel/calibrate/1``; ``scores`` is null without cross-validation."""

    schema: Literal["costmodel/calibrate/1"]
    calibration: CalibrationId
    rows: RowAccount
    parameters: list[FittedParameter]
    harness: list[HarnessRecord]
    contrasts: list[ContrastRecord]
    contrast_sd_us: float
    correlations: list[Correlation]
    scores: ScoresRecord | None
    crossings: list[CrossingRecord]
    refused: list[RefusedRecord]


# costmodel/validate/1


class RegretRecord(TypedDict):
    """The regret of one rule on the measured pairs, in percent of the faster arm's latency.

    ``behind`` is by how much the recommended rule's mean exceeds this one's, null where the two are
    not compared; ``workload_pct`` and ``workload_us`` are a call's over the workload, by the model.
    """

    rule: str
    kind: str
    pairs: int
    mean_pct: float
    max_pct: float
    mean_us: float
    max_us: float
    behind: EstimateRecord | None
    noise_90_pct: float
    differ: int
    workload_pct: EstimateRecord | None
    workload_us: EstimateRecord | None


class ChoiceRecord(TypedDict):
    """How often the recommended rule takes the faster arm; null: nothing to share."""

    pairs: int
    agree: float | None
    agree_outside_tie: float | None


class WhyNoRows(TypedDict, total=False):
    """Why no row was judged, where that is so."""

    reason: str


class AccuracyRecord(WhyNoRows):
    """Absolute errors in percent; ``coverage90`` is a share. Null where no row is covered."""

    n: int
    median_ape: float | None
    p90_ape: float | None
    max_ape: float | None
    coverage90: float | None
    median_ape_offset: float | None
    p90_ape_offset: float | None
    max_ape_offset: float | None


class LimitsRecord(TypedDict):
    """What has to be met: percent of latency, and ``agree``, a share of the pairs."""

    median_ape: float
    agree: float
    regret: float
    tie: float


class JudgedRecord(TypedDict):
    """What was judged on which rows, and by what limits; sizes in bytes of the measured pairs."""

    rows: RowAccount
    known: int
    pairs_from_bytes: int | None
    pairs_to_bytes: int | None
    outside_tie: int
    recommended: dict[str, str]
    fused_regret: RegretRecord | None
    limits: LimitsRecord


class ValidationFound(TypedDict):
    """What every validation says."""

    schema: Literal["costmodel/validate/1"]
    accuracy: AccuracyRecord
    choice: ChoiceRecord
    regret: list[RegretRecord]
    crossings: list[CrossingRecord]
    passed: bool
    failures: list[str]


class ValidationRecord(ValidationFound, total=False):
    """``costmodel/validate/1``; ``judged`` where the model covers the rows."""

    judged: JudgedRecord
