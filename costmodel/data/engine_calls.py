"""Fused all-reduce + RMSNorm calls in one decode step, by engine and family of models.

A model says how many blocks end in the fused op; an engine fuses some of them, or all and one
more. ``facts/engine_calls.csv`` has the counts as coefficients of layers and blocks, each with the
reason, the place where it was read, and whether the engine's own test states it. Rows with a
condition are of deployments that leave fewer.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

from . import facts
from .deployment import Deployment
from .llms import LLM

if TYPE_CHECKING:
    from .schemas import CallsRecord

DP_ATTENTION, ALL_TO_ALL, EXPERT_ALL_REDUCE = "dp_attention", "a2a", "ep"

#: Evidence of a count.
EVERY_BLOCK = "every block, an upper limit"
OF_MODEL = "of the model"


class Count(Struct, frozen=True):
    """A row of ``facts/engine_calls.csv``: calls = per_layer x L + per_block x B + constant."""

    engine: str
    condition: str
    families: tuple[str, ...]
    per_layer: int
    per_block: int
    constant: int
    since: tuple[int, ...]
    evidence: str
    why: str
    source: str

    def of(self, llm: LLM) -> int:
        """Return the calls of a model."""
        counted = self.per_layer * llm.num_layers + self.per_block * llm.blocks + self.constant
        return max(0, counted)

    def formula(self) -> str:
        """Return the count in letters: ``2 L - 1`` where layers have two blocks is ``B - 1``."""
        terms = [
            f"{'' if n == 1 else f'{n} '}{of}"
            for n, of in ((self.per_layer, "layers"), (self.per_block, "blocks"))
            if n
        ]
        text = " + ".join(terms) or "0"
        if not self.constant:
            return text
        return f"{text} {'+' if self.constant > 0 else '-'} {abs(self.constant)}"


class FusedCalls(Struct, frozen=True):
    """Fused calls in one decode step of a model in a deployment, and where the count comes from.

    ``at_most`` says that the engine's count is not known and every block is counted.
    """

    engine: str
    per_step: int
    formula: str
    why: str
    evidence: str
    source: str
    at_most: bool = False
    release: str = ""

    def to_dict(self) -> CallsRecord:
        """Return ``calls`` of ``costmodel/worth/1``."""
        return {
            "engine": self.engine,
            "per_step": self.per_step,
            "at_most": self.at_most,
            "formula": self.formula,
            "why": self.why,
            "evidence": self.evidence,
            "source": self.source,
        }

    def words(self) -> str:
        """Return the count as people say it: ``37 calls a decode step in vLLM``."""
        where = f" in {self.engine}" if self.engine else ""
        calls = "call" if self.per_step == 1 else "calls"
        most = "at most " if self.at_most else ""
        return f"{most}{self.per_step} {calls} a decode step{where}"


@cache
def counts() -> tuple[Count, ...]:
    """Return every row of ``facts/engine_calls.csv``."""
    return tuple(
        Count(
            row["engine"], row["condition"], tuple(row["families"].split()), int(row["per_layer"]),
            int(row["per_block"]), int(row["constant"]), _release(row["since"]), row["evidence"],
            row["why"], row["source"],
        )
        for row in facts.rows("engine_calls.csv")
    )  # fmt: skip


def fused_calls(llm: LLM, deployment: Deployment | None = None) -> FusedCalls:
    """Return the fused calls of one decode step of a model in a deployment (default: any engine).

    0 with the reason where model, engine or deployment leave none.
    """
    served = deployment or Deployment()
    title, engine = served.title, served.engine
    if llm.why_none:
        return FusedCalls(title, 0, "0", llm.why_none, OF_MODEL, llm.source)
    every = FusedCalls(
        title,
        llm.blocks,
        "blocks",
        f"which blocks {title} fuses for {llm.family or 'this architecture'} is not known"
        if engine
        else "every block that ends in an all-reduce, a residual add and RMSNorm",
        EVERY_BLOCK,
        llm.source,
        at_most=bool(engine),
    )
    usual = _row(llm, engine, "", served.release) if engine else None
    found = _of(usual, llm, served) if usual else every
    for condition in _conditions(llm, served):
        row = _row(llm, engine, condition, served.release)
        fewer = _of(row, llm, served) if row else None
        if fewer is not None and fewer.per_step <= found.per_step:
            found = fewer
    return found


def later(llm: LLM, deployment: Deployment) -> FusedCalls | None:
    """Return what a later release of the engine makes of the model, where that is another count."""
    if deployment.release or not deployment.engine or llm.why_none:
        return None
    now = _row(llm, deployment.engine, "", "")
    rows = [
        c
        for c in counts()
        if c.engine == deployment.engine and not c.condition and llm.family in c.families
    ]
    newest = max(rows, key=lambda c: c.since, default=None)
    if now is None or newest is None or newest == now or newest.of(llm) == now.of(llm):
        return None
    return _of(newest, llm, deployment)


def none_left(deployment: Deployment) -> FusedCalls | None:
    """Return why a deployment makes no fused call whatever the model; None where it may."""
    if not deployment.dp_attention:
        return None
    row = _row(None, deployment.engine, DP_ATTENTION, deployment.release)
    if row is None or row.per_layer or row.per_block or row.constant:
        return None
    return _found(row, 0, deployment)


def _conditions(llm: LLM, served: Deployment) -> list[str]:
    """Return the conditions of a deployment that may leave fewer calls."""
    spread = {"all-to-all": ALL_TO_ALL, "all-reduce": EXPERT_ALL_REDUCE}
    found = [DP_ATTENTION] if served.dp_attention else []
    if served.expert_parallel and llm.experts:
        found.append(spread[served.expert_parallel])
    return found


def _of(row: Count, llm: LLM, served: Deployment) -> FusedCalls:
    return _found(row, row.of(llm), served)


def _found(row: Count, per_step: int, served: Deployment) -> FusedCalls:
    since = ".".join(map(str, row.since))
    return FusedCalls(
        served.title, per_step, row.formula(), row.why, row.evidence, row.source, release=since
    )


def _row(llm: LLM | None, engine: str, condition: str, release: str) -> Count | None:
    """Return the row for a model: its family's before every family's, the newest that holds.

    Without a release the first reading of a family holds.
    """
    rows = [c for c in counts() if c.condition == condition]
    family = llm.family if llm else ""
    for of, families in ((engine, family), (engine, "*"), ("*", "*")):
        mine = [c for c in rows if families and c.engine == of and families in c.families]
        if release:
            mine = [c for c in mine if c.since <= _release(release)]
            if mine:
                return max(mine, key=lambda c: c.since)
        elif mine:
            return min(mine, key=lambda c: c.since)
    return None


def _release(text: str) -> tuple[int, ...]:
    """Return the numbers of a release, with or without the ``v`` of its tag."""
    numbers = re.match(r"v?(\d+(?:\.\d+)*)", text.strip(), re.IGNORECASE)
    return tuple(map(int, numbers[1].split("."))) if numbers else ()
