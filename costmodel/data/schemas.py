"""Records of a deployment and its fused calls, as commands print them."""

from __future__ import annotations

from typing import TypedDict


class CallsRecord(TypedDict):
    """Fused calls of a decode step: whose count, how it follows from the model, why, its source.

    ``at_most`` where the engine's count is not known, so that every block is counted.
    """

    engine: str
    per_step: int
    at_most: bool
    formula: str
    why: str
    evidence: str
    source: str


class DeploymentRecord(TypedDict):
    """How the model is served: what leaves fewer calls, and the batches of a step."""

    engine: str
    release: str
    dp_attention: bool
    expert_parallel: str
    draft_tokens: int
    captured: list[int]
    step_ms: float | None
