"""The JSON that rules read as and are read from: one typed record each."""

from __future__ import annotations

from typing import Literal, TypedDict

from msgspec import UNSET, Struct, UnsetType


class ConditionRecord(Struct, forbid_unknown_fields=True):
    """A condition: exactly one key, which names its kind (see :mod:`.condition`, :mod:`.algebra`).

    Comparisons are pairs such as ``["<=", 80]``, ``["in", [2880, 4096]]`` and
    ``["multiple of", 64]``; ``bytes`` takes one
    cutoff or one for each world size, null where every size is 1-stage.
    """

    all: list[ConditionRecord] | UnsetType = UNSET
    any: list[ConditionRecord] | UnsetType = UNSET
    by_world_size: dict[int, ConditionRecord] | UnsetType = UNSET
    always: bool | UnsetType = UNSET
    whole_packs: bool | UnsetType = UNSET
    whole_parts: bool | UnsetType = UNSET
    full_mesh: bool | UnsetType = UNSET
    kernel_version: tuple[str, str] | UnsetType = UNSET
    bytes: tuple[str, int | dict[int, int | None]] | UnsetType = UNSET
    tokens: tuple[str, int] | UnsetType = UNSET
    hidden_dim: tuple[str, int | list[int]] | UnsetType = UNSET
    world_size: tuple[str, int | list[int]] | UnsetType = UNSET
    dtype: tuple[str, list[str]] | UnsetType = UNSET
    elements: tuple[str, int] | UnsetType = UNSET
    row_bytes: tuple[str, int] | UnsetType = UNSET
    packs: tuple[str, int] | UnsetType = UNSET


class About(TypedDict, total=False):
    """What a rule says of itself beside its condition; left out where there is nothing to say."""

    title: str
    engine: str
    op: str
    status: str
    fabric: str
    since: str
    source: str
    note: str
    otherwise: str


class CalibrationName(TypedDict):
    """The calibration that a rule comes from; empty for a rule of the field."""

    id: str
    sha256: str


class EvidenceRecord(TypedDict):
    """What supports the cutoff of one world size."""

    verdict: str
    lo: float | None
    hi: float | None
    reason: str


class ProvenanceRecord(TypedDict):
    """Where a rule comes from; ``evidence`` is by world size."""

    command: str
    calibration: CalibrationName
    arch: str
    gpu: str
    evidence: dict[str, EvidenceRecord]


class CataloguedRule(About):
    """A rule as the catalogue (``facts/rules.json``) holds it."""

    name: str
    condition: ConditionRecord


class WithProvenance(TypedDict, total=False):
    """What an emitted rule has beside."""

    provenance: ProvenanceRecord


class RuleRecord(CataloguedRule, WithProvenance):
    """``costmodel/rule/1``."""

    schema: Literal["costmodel/rule/1"]


class ArmCaseRecord(TypedDict):
    """An arm and the condition under which it runs, where none of the cases before it holds."""

    arm: str
    condition: ConditionRecord


class WeighedRecord(TypedDict):
    """The calls that a rule of arms was weighed over.

    ``regret_pct`` is its expected regret above the fastest arm on them, by world size.
    """

    dtype: str
    hidden_dims: list[int]
    regret_pct: dict[int, float]


class RuleOfArmsRecord(WithProvenance):
    """``costmodel/rule-of-arms/1``; ``cases`` are by world size.

    A world size that is absent is one for which no claim is made.
    """

    schema: Literal["costmodel/rule-of-arms/1"]
    name: str
    op: str
    weighed: WeighedRecord
    cases: dict[int, list[ArmCaseRecord]]


class RuleOfGpu(TypedDict):
    """The rule of one arch, or of one product (``gpu``), over xGMI; ``products`` are the cards."""

    arch: str
    gpu: str
    products: list[str]
    rule: RuleRecord


class RulesByGpu(TypedDict):
    """``costmodel/rules-by-gpu/1``: a rule for each kind of GPU, none for any other."""

    schema: Literal["costmodel/rules-by-gpu/1"]
    rules: list[RuleOfGpu]


class Catalogue(TypedDict):
    """``costmodel/catalogue/1``: ``facts/rules.json``."""

    schema: Literal["costmodel/catalogue/1"]
    rules: list[CataloguedRule]
