"""A rule as a table: cutoffs, evidence, and how many tokens they are."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.shape import WORLD_SIZES
from ..rules.evidence import Provenance
from ..rules.rule import Rule
from .table import table

#: Hidden sizes that the table gives token counts for: GPT-OSS, Llama 8B, Llama 4, DeepSeek V3.
HIDDEN_DIMS = (2880, 4096, 5120, 7168)


def rule_table(
    rule: Rule,
    provenance: Provenance,
    *,
    dtype: str = "bf16",
    aiter_version: str | None = None,
    hidden_dims: Sequence[int] = HIDDEN_DIMS,
) -> str:
    """Return cutoffs with evidence, and the largest 1-stage batch for each hidden size."""
    rows = []
    for n in WORLD_SIZES:
        evidence = provenance.evidence.get(n)
        words = evidence.words() if evidence else ""
        if n not in rule.world_sizes:
            rows.append([f"TP{n}", "no claim", *[""] * len(hidden_dims), words])
            continue
        tokens = [
            _tokens(rule.max_tokens(h, n, dtype=dtype, kernel_version=aiter_version))
            for h in hidden_dims
        ]
        rows.append([f"TP{n}", rule.sizes(n), *tokens, words])
    headers = ["", "1-stage bytes", *(f"tokens, {h}" for h in hidden_dims), "evidence"]
    if not any(row[-1] for row in rows):
        rows, headers = [row[:-1] for row in rows], headers[:-1]
    text = table(rows, headers)
    lines = [rule.words(), "", text, "", f"Tokens: largest 1-stage batch in {dtype}."]
    if provenance.calibration_id:
        lines.append(
            f"Calibration {provenance.calibration_id}, sha256 {provenance.calibration_sha256[:12]}."
        )
    lines.append(f"Reproduce: {provenance.command}")
    return "\n".join(lines) + "\n"


def _tokens(limit: int | None) -> str:
    return "no limit" if limit is None else str(limit)
