"""The JSON that comparisons of calibrations, measurements and engine trees read as."""

from __future__ import annotations

from typing import Literal, TypedDict

from .schemas import EstimateRecord


class ArmShiftRecord(TypedDict):
    """What an arm takes longer now, us a call around the old cutoff."""

    arm: str
    us: EstimateRecord
    significant: bool


class CutoffClaimRecord(TypedDict):
    """What one calibration claims; null without a claim, a limit, or an interval."""

    verdict: str
    max_bytes: int | None
    max_bytes_lo: int | None
    max_bytes_hi: int | None


class CutoffShiftRecord(TypedDict):
    """Two calibrations at one world size; ``loses_pct`` of the old cutoff on contested calls."""

    world_size: int
    old: CutoffClaimRecord
    new: CutoffClaimRecord
    arms: list[ArmShiftRecord]
    loses_pct: float | None


class RowsShiftRecord(TypedDict):
    """One arm in two tables: the median change over ``calls`` that both measured."""

    gpu: str
    world_size: int
    op: str
    algorithm: str
    calls: int
    alone: int
    pct: EstimateRecord | None
    us: float | None
    significant: bool


class RuleLossRecord(TypedDict):
    """What the new rule loses against the old one, percent of the workload's latency."""

    world_size: int
    pct: EstimateRecord


class RuleShiftRecord(TypedDict):
    """The rules of one op in two trees; null where a tree has none."""

    op: str
    old: str | None
    new: str | None
    first_difference: str | None
    loses: list[RuleLossRecord]


class DiffRecord(TypedDict):
    """``costmodel/diff/1``; the lists of what was not compared are empty."""

    schema: Literal["costmodel/diff/1"]
    old: str
    new: str
    cutoffs: list[CutoffShiftRecord]
    rows: list[RowsShiftRecord]
    rules: list[RuleShiftRecord]
    passed: bool
