"""The JSON that decisions read as: one typed record per schema, from which its JSON Schema is made.

``to_dict`` of every result returns one of these. A key that stands in a record keeps its name and
meaning; what would change either gets a new number in ``schema``.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from ..calibration.posterior import HiddenEffectRecord
from ..data.schemas import CallsRecord, DeploymentRecord
from ..rules.schemas import RuleOfArmsRecord, RuleRecord


class CalibrationId(TypedDict):
    """Which calibration answered."""

    id: str
    sha256: str


class Asked(TypedDict):
    """What was asked: the setting.

    ``kernel`` says whose kernels answer; ``aiter_version`` counts where they are AITER's.
    """

    arch: str
    gpu: str
    op: str
    dtype: str
    aiter_version: str
    kernel: str
    calibration: CalibrationId


class EstimateRecord(TypedDict):
    """A value with its 90 % interval."""

    value: float
    lo: float
    hi: float


class MeasureNext(TypedDict):
    """One latency that would narrow a cutoff."""

    op: str
    algorithm: str
    world_size: int
    tokens: int
    hidden_dim: int
    dtype: str


# costmodel/recommend/1


class RowsBehind(TypedDict):
    """Rows of one arm on one GPU at one world size.

    ``states`` are kernel states in words, ``pairs`` the shapes with the arm's counterpart in the
    same benchmark, ``gpu_inferred`` the rows whose source does not name the GPU.
    """

    gpu: str
    world_size: int
    rows: int
    sources: list[str]
    hidden_dims: list[int]
    dtypes: list[str]
    states: list[str]
    pairs: int
    gpu_inferred: int


class ArmEvidenceRecord(TypedDict):
    """What one arm's latency rests on; ``measured``: on this GPU at this world size.

    ``state`` is the kernel state asked about, ``exact`` whether rows here have it and the dtype.
    """

    algorithm: str
    measured: bool
    state: str
    exact: bool
    rows: list[RowsBehind]


class BesideRecord(TypedDict):
    """Where arms beside 1-stage and 2-stage beat both with 90 % probability."""

    share: float
    from_bytes: int
    to_bytes: int
    gain_pct_lo: float
    gain_pct_hi: float
    measured: bool


class WindowRecord(TypedDict):
    """An arm and the sizes that it runs: from the smallest call to the largest."""

    algorithm: str
    from_bytes: int
    to_bytes: int


class PushedArmRecord(TypedDict):
    """Up to which size an arm that pushes is faster than 1-stage, as ``benchmark`` has both.

    ``max_bytes`` is null where the arm wins throughout, or where no cutoff is claimed; null above:
    no limit. ``measure_next`` are captured batches inside the interval.
    """

    algorithm: str
    kernel_family: str
    rows: int
    benchmark: str
    max_bytes: int | None
    max_bytes_lo: int
    max_bytes_hi: int | None
    max_bytes_this_kernel_lo: int
    max_bytes_this_kernel_hi: int | None
    measure_next: list[MeasureNext]


class PushedRecord(TypedDict):
    """The plain op's arms that push, LL and LL128, which AITER's main has since #5272.

    ``verdict`` is measured, or not_identified where an arm lacks a benchmark that has it beside
    1-stage: ``reason`` and ``measure_next`` say of which, and what to measure. ``surely`` is where
    they beat 1-stage and 2-stage.
    """

    verdict: str
    arms: list[PushedArmRecord]
    surely: BesideRecord | None
    not_identified: list[str]
    reason: str
    measure_next: list[MeasureNext]


class HiddenCutoffRecord(TypedDict):
    """The cutoff that a hidden size would have by itself; null: no limit.

    ``contested_gain_pct`` is what it would spare on the calls within a factor of two of the common
    cutoff; ``differs``: in 90 % of the draws they lie more than a captured batch apart.
    """

    hidden_dim: int
    max_bytes: int | None
    max_bytes_lo: int
    max_bytes_hi: int | None
    contested_gain_pct: float
    differs: bool


class OneStageWindowRecord(TypedDict):
    """1-stage from one size to another, the other arm below and above, instead of one cutoff.

    ``gain_pct`` is what that spares on the ``share`` of the calls that it decides otherwise.
    """

    from_bytes: int
    to_bytes: int
    gain_pct: float
    share: float


class Switch(TypedDict):
    """Captured batches around the cutoff at one hidden size."""

    hidden_dim: int
    last_1stage_tokens: int
    first_2stage_tokens: int | None


class StatementRecord(TypedDict):
    """What others state of this op here without a table; bytes and ``kind`` as in ``statements/1``.

    ``held``: whether ``max_bytes_lo`` to ``max_bytes_hi`` hold it, null where the two cannot be
    compared. ``note`` says why not, or what to bear in mind.
    """

    who: str
    url: str
    date: str
    gpu: str
    gpu_evidence: str
    compared: str
    kernel_version: str
    kind: str
    lo_bytes: int | None
    hi_bytes: int
    words: str
    held: bool | None
    note: str


class CutoffRecord(TypedDict):
    """The answer for one world size; bytes are null where none is claimed or 1-stage is always.

    ``max_bytes_lo`` and ``_hi`` are the 90 % interval on a machine that nobody has measured,
    ``max_bytes_this_kernel_lo`` and ``_hi`` that in the laboratories of the calibration's sources.
    ``regret_pct`` is expected over the workload, ``contested_regret_pct`` over its calls within a
    factor of two of the cutoff, ``worst_regret_pct`` of the call that loses most.
    ``three_way`` divides the sizes among 1-stage, 2-stage and the arms beside them: separate ops of
    the fused op, those that push of the plain one. ``two_arms_loss_pct`` is what the recommended
    rule loses against it; empty and null where the op has no such arm, or no rows of it.
    ``smallest_over_hidden_lo`` and ``_hi`` are the 90 % interval of the smallest cutoff among those
    that each hidden size would have by itself (hi null: no limit).
    """

    world_size: int
    max_bytes: int | None
    inclusive: bool
    max_bytes_lo: int | None
    max_bytes_hi: int | None
    max_bytes_this_kernel_lo: int | None
    max_bytes_this_kernel_hi: int | None
    verdict: str
    reason: str
    measure_next: list[MeasureNext]
    cell_bytes: list[int | None] | None
    regret_pct: float
    contested_regret_pct: float | None
    worst_regret_pct: float
    evidence: list[ArmEvidenceRecord]
    separate: BesideRecord | None
    pushed: PushedRecord | None
    three_way: list[WindowRecord]
    three_way_regret_pct: float | None
    two_arms_loss_pct: float | None
    two_arms_enough: bool | None
    adequate: bool
    gain_per_hidden_pct: float
    by_hidden: list[HiddenCutoffRecord]
    smallest_over_hidden_lo: int
    smallest_over_hidden_hi: int | None
    window: OneStageWindowRecord | None
    switch: list[Switch]
    statements: list[StatementRecord]


class HiddenDims(TypedDict):
    """What hidden sizes the kernel takes and whether they matter beyond bytes.

    They do where a hidden size would gain more than ``adequate_pct`` on contested calls from a
    cutoff of its own. ``measured`` holds the hidden sizes of the rows behind each arm.
    """

    rule: str
    set: list[int]
    depends_on_hidden: bool
    adequate_pct: float
    workload: list[int]
    effect: HiddenEffectRecord | None
    measured: dict[str, list[int]]


class RowCounts(TypedDict):
    """The rows behind a calibration."""

    read: int | None
    used: int | None
    sources: list[str]


class AskedOfARule(Asked):
    """What was asked of a rule: ``otherwise`` is the arm that runs where 1-stage does not.

    ``objective`` is the regret that its cutoffs minimise: mean, contested or worst.
    """

    otherwise: str
    objective: str


class ShapeRecord(TypedDict):
    """One call."""

    tokens: int
    hidden_dim: int


class PriceRecord(TypedDict):
    """What one arm for every size costs beside the recommended rule; negative where it is faster.

    ``us_per_step`` is null where no model says how many calls a decode step makes.
    """

    arm: str
    us_per_call: EstimateRecord
    us_per_step: EstimateRecord | None
    pct: EstimateRecord
    most_us_per_call: EstimateRecord
    most_at: ShapeRecord


class OneKernelRecord(TypedDict):
    """The kernel for every size at a world size; ``other`` is the price of the other arm."""

    world_size: int
    arm: str
    reason: str
    price: PriceRecord | None
    other: PriceRecord | None


class OneKernelsRecord(TypedDict):
    """One kernel for every size, and the rule that runs it."""

    kernels: list[OneKernelRecord]
    calls_per_step: int | None
    rule: RuleRecord
    notes: list[str]


class RecommendationOfAny(AskedOfARule):
    """What ``costmodel/recommend/1`` always has.

    ``rule`` is of two arms, ``rule_of_arms`` of all: null where none is claimed.
    """

    schema: Literal["costmodel/recommend/1"]
    hidden_dims: HiddenDims
    cutoffs: list[CutoffRecord]
    engine: str | None
    source: str | None
    rule: RuleRecord | None
    rule_of_arms: RuleOfArmsRecord | None
    rows: RowCounts
    batch_invariant: OneKernelsRecord | None


class Recommendation(RecommendationOfAny, total=False):
    """``costmodel/recommend/1``.

    ``calls`` of the model that was named, ``deployment`` where its options were given.
    """

    calls: CallsRecord
    deployment: DeploymentRecord


# costmodel/predict/1


class PredictedRow(TypedDict):
    """One arm at one shape; ``terms`` in us add up to the latency.

    ``latency_us`` is as the benchmark of ``reference`` shows it; ``_lo`` and ``_hi`` are for a
    machine nobody has measured, ``_this_kernel_lo`` and ``_hi`` for the reference's laboratory.
    """

    op: str
    algorithm: str
    world_size: int
    tokens: int
    hidden_dim: int
    dtype: str
    bytes: int
    latency_us: float
    latency_us_lo: float
    latency_us_hi: float
    latency_us_this_kernel_lo: float
    latency_us_this_kernel_hi: float
    reference: str
    evidence: str
    terms: dict[str, float]


class Predictions(TypedDict):
    """``costmodel/predict/1``; ``kernel`` says whose kernels."""

    schema: Literal["costmodel/predict/1"]
    arch: str
    gpu: str
    kernel: str
    rows: list[PredictedRow]


# costmodel/explain/2


class CutoffHere(TypedDict):
    """The recommended cutoff at the call's world size, as ``recommend`` has it."""

    bytes: int | None
    bytes_lo: int | None
    bytes_hi: int | None
    bytes_this_kernel_lo: int | None
    bytes_this_kernel_hi: int | None
    statements: list[StatementRecord]


class Explained(AskedOfARule):
    """What every explanation says of the question."""

    schema: Literal["costmodel/explain/2"]
    world_size: int
    hidden_dim: int
    verdict: str
    cutoff: CutoffHere


class ExplainedArm(TypedDict):
    """One arm of the call."""

    latency_us: float
    latency_us_lo: float
    latency_us_hi: float
    evidence: str
    terms: dict[str, EstimateRecord]


class SeparateArm(EstimateRecord):
    """Separate ops, and the probability that they beat both arms."""

    probability: float | None


class PushedCallRecord(EstimateRecord):
    """An arm that pushes, as ``benchmark`` measures it, and 1-stage as it does.

    ``probability`` is that with which it beats 1-stage and 2-stage.
    """

    probability: float
    latency_us_1stage: float
    benchmark: str


class RuleOpinion(TypedDict):
    """What one rule runs; null where it makes no claim."""

    rule: str
    engine: str
    status: str
    sizes: str
    choice: str | None
    agrees: bool | None


class TurningPoint(TypedDict, total=False):
    """What is known of a flip: of tokens the choice beyond, of a parameter the rest."""

    choice: str
    now: float
    lo: float
    hi: float
    unit: str
    inside_interval: bool


class FlipRecord(TurningPoint):
    """Where the choice turns over: ``what`` is tokens or the name of a parameter."""

    what: str
    at: float


class ExplainedCall(Explained):
    """``costmodel/explain/2`` of one call."""

    tokens: int
    bytes: int
    choice: str
    alone: str
    probability: float
    decided: bool
    reason: str
    margin_us: EstimateRecord | None
    margin_pct: float | None
    arms: dict[str, ExplainedArm]
    separate: SeparateArm | None
    pushed: dict[str, PushedCallRecord]
    rules: list[RuleOpinion]
    flips: list[FlipRecord]


class ChosenCall(TypedDict):
    """The choice at one captured batch size; null where an arm does not take it."""

    tokens: int
    bytes: int
    choice: str
    probability_1stage: float | None
    latency_us: dict[str, float | None]
    margin_us: float | None
    margin_us_lo: float | None
    margin_us_hi: float | None
    rules: dict[str, str | None]


class ExplainedBatches(Explained):
    """``costmodel/explain/2`` of all captured batch sizes."""

    calls: list[ChosenCall]


# costmodel/worth/1

BatchWorthRecord = TypedDict(
    "BatchWorthRecord",
    {
        "batch": int,
        "tokens": int,
        "bytes": int,
        "from": str,
        "to": str,
        "us_per_step": float,
        "us_per_step_lo": float,
        "us_per_step_hi": float,
    },
)
BatchWorthRecord.__doc__ = (
    "What a change of rule saves at one captured batch size, with its 90 % interval."
)


class RuleNamed(TypedDict):
    """A rule by name and in words."""

    rule: str
    words: str


class MeanWorthUs(TypedDict):
    """The mean over the batch histogram."""

    us_per_step: float
    us_per_step_lo: float
    us_per_step_hi: float


class MeanWorth(MeanWorthUs, total=False):
    """The mean over the batch histogram, and its share of a decode step whose time was given."""

    pct_of_step: float
    pct_of_step_lo: float
    pct_of_step_hi: float


WorthOnGpu = TypedDict(
    "WorthOnGpu",
    {
        "gpu": str,
        "arch": str,
        "calibration": CalibrationId,
        "evidence": str,
        "from": RuleNamed,
        "to": RuleNamed,
        "batches": list[BatchWorthRecord],
        "over_histogram": MeanWorth,
        "decided": bool,
    },
)
WorthOnGpu.__doc__ = "What a change of rule is worth on one GPU."


class WorthModel(TypedDict):
    """Whose decode steps are valued; ``calls_per_step`` are those that the engine fuses.

    ``blocks_per_step`` are the blocks that end in an all-reduce, ``op`` what those run: fused, mhc
    or plain.
    """

    name: str
    hidden_size: int
    num_layers: int
    calls_per_step: int
    source: str
    blocks_per_step: int
    op: str
    calls: CallsRecord


class WorthsOfAny(TypedDict):
    """What ``costmodel/worth/1`` always has."""

    schema: Literal["costmodel/worth/1"]
    model: WorthModel
    world_size: int
    dtype: str
    aiter_version: str
    histogram: str | None
    gpus: list[WorthOnGpu]


class Worths(WorthsOfAny, total=False):
    """``costmodel/worth/1``; ``deployment`` where its options were given."""

    deployment: DeploymentRecord
