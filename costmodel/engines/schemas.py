"""The JSON that audits read as: one typed record."""

from __future__ import annotations

from typing import Literal, TypedDict

from ..data.schemas import CallsRecord
from ..decide.schemas import EstimateRecord
from ..rules.schemas import ConditionRecord, RuleRecord
from ..rules.table import TableRecord


class MismatchRecord(TypedDict):
    """One thing that does not fit its unit."""

    check: str
    line: int
    text: str


class SettingRecord(TypedDict):
    """A setting that replaces the stage, or the limit: then in which unit."""

    name: str
    line: int
    replaces: Literal["limit", "stage", "rule"]
    unit: str


class OfGpuRecord(TypedDict):
    """The rule that an engine has for one arch, or for one product (``gpu``), over xGMI."""

    gpu: str
    words: str
    condition: ConditionRecord


class InstalledRecord(TypedDict):
    """A rule as it stands in a source.

    ``by_gpu`` are those for kinds of GPU of their own, [] where there are none; the other fields
    are of the GPU that was asked about, or of a host that is none of them.
    """

    file: str
    line: int
    function: str
    words: str
    known_as: str
    moved: bool
    overrides: list[str]
    settings: list[SettingRecord]
    assumed: list[str]
    findings: list[MismatchRecord]
    op: str
    condition: ConditionRecord
    by_gpu: list[OfGpuRecord]


class PlaceRecord(TypedDict):
    """A line of a file; ``function`` is "" at module level."""

    file: str
    line: int
    function: str
    text: str


class GateRecord(TypedDict):
    """What decides beside the rule; ``default`` is "" where the tree does not say.

    ``reads`` are the lines that declare or read it, ``decides`` those that hang on it.
    """

    name: str
    kind: str
    default: str
    reads: list[PlaceRecord]
    decides: list[PlaceRecord]
    does: str
    source: str


class TableCallRecord(TypedDict):
    """A line that asks the run-time table, and for which op."""

    function: str
    line: int
    op: str


class TableFileRecord(TypedDict):
    """A table beside a source; ``table`` is null where it cannot be read, for the reason given."""

    file: str
    table: TableRecord | None
    wrong: str


class ConsultationRecord(TypedDict):
    """A source that asks the run-time table."""

    file: str
    calls: list[TableCallRecord]
    tables: list[TableFileRecord]


class OtherRecord(TypedDict):
    """A function beside the rules that chooses too, or asks the first of them (``asks``).

    ``hidden`` is one that a later definition of the same name takes the place of; ``words`` are
    those of its own rule, null where it has none that was read.
    """

    file: str
    line: int
    function: str
    op: str
    asks: bool
    hidden: bool
    words: str | None


class CutoffInWords(TypedDict):
    """Which sizes are 1-stage, and as comparison and bytes; null where there is no one cutoff."""

    sizes: str
    compare: str | None
    bytes: int | None


class MaxTokens(TypedDict):
    """Longest 1-stage batch; null where there is no limit, or no other rule."""

    installed: int | None
    against: int | None


class ComparisonRecord(TypedDict):
    """Both rules at one world size; ``max_tokens`` by hidden size."""

    world_size: int
    installed: CutoffInWords
    against: CutoffInWords | None
    max_tokens: dict[str, MaxTokens]


class LossRecord(TypedDict):
    """What the installed rule loses at one world size; null where no model says how often."""

    world_size: int
    installed_pct: EstimateRecord
    against_pct: EstimateRecord
    loses_pct: EstimateRecord
    loses_us_per_call: EstimateRecord
    loses_us_per_step: EstimateRecord | None
    share_decided_otherwise: float


class AuditRecord(TypedDict):
    """``costmodel/audit/1``; ``calls`` are a decode step's of the model, null without one."""

    schema: Literal["costmodel/audit/1"]
    path: str
    engine: str
    version: str
    kind: str
    rules: list[InstalledRecord]
    gates: list[GateRecord]
    gates_absent: list[str]
    consultations: list[ConsultationRecord]
    others: list[OtherRecord]
    elsewhere: list[str]
    against: RuleRecord | None
    comparison: list[ComparisonRecord]
    regret: list[LossRecord]
    calls: CallsRecord | None
    loses_pct: float | None
    passed: bool
