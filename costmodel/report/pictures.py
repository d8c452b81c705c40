"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..decide.explanation import Explanation, explain
from ..figures.cutoff_drift import (
    cutoff_against_link_rate,
    cutoff_against_skew,
    cutoff_against_version,
)
from ..figures.fit import parameter_intervals, residuals
from ..figures.latency import latency_against_bytes
from ..figures.regret import difference_from_best, regret_on_pairs, regret_over_workload
from ..figures.terms import terms_along_bytes, terms_of_call
from ..figures.token_hidden_map import decision_map
from ..figures.worth import worth_by_batch
from .case import Case

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Picture:
    """A figure of the report: its name, what it shows in words, whether only the page has it."""

    name: str
    words: str
    figure: go.Figure = field(repr=False, compare=False)
    page_only: bool = False


def pictures(case: Case) -> list[Picture]:
    """Return the report's figures in their order; those for the page alone are marked so.

    Figures along bytes stand for the world sizes at which the arms cross, or for the first one.
    """
    ranks = [w.world_size for w in case.by_world_size]
    # With 2 ranks there is nothing to cross.
    crossing = [n for n in ranks if n > 2] or ranks[:1]
    hidden, gpu, decision = case.llm.hidden_size, case.gpu, case.decision
    made: list[Picture] = []

    def add(name: str, words: str, figure: go.Figure, page_only: bool = False) -> None:
        made.append(Picture(name, words, figure, page_only))

    for n in crossing:
        add(
            f"latency-tp{n}",
            f"Latency of both algorithms against bytes at {n} ranks on {gpu}",
            latency_against_bytes(decision, n, hidden, case.table),
        )
    add(
        "decision-map",
        f"Which algorithm is faster by tokens and hidden size on {gpu}, with every engine's rule",
        decision_map(decision),
    )
    add(
        "regret",
        f"Mean and worst regret of every rule on {gpu}",
        regret_over_workload(decision),
    )
    if case.validation is not None:
        add(
            "regret-measured",
            "Regret of every rule on calls that were measured with both algorithms",
            regret_on_pairs(case.validation),
        )
    add(
        "worth",
        f"Microseconds that a decode step of {case.llm.name} saves, by batch size",
        worth_by_batch([w.worth for w in case.by_world_size]),
    )
    add(
        "difference",
        "How far every rule is from the faster algorithm at every captured batch size",
        difference_from_best(decision, hidden),
        page_only=True,
    )
    for n in crossing:
        terms = terms_along_bytes(decision, n, hidden)
        add(f"terms-tp{n}", f"Where the time goes at {n} ranks", terms, True)
        add(
            f"call-tp{n}",
            f"From 1-stage to 2-stage for one call at {n} ranks",
            terms_of_call(_call_of_interest(case, n)),
            True,
        )
    if case.is_xgmi:
        _drift(case, crossing, add)
    add(
        "residuals",
        "Residuals and pulls per source",
        residuals(case.calibration, case.table),
        True,
    )
    add(
        "parameters",
        "Parameters against their priors",
        parameter_intervals(case.calibration),
        True,
    )
    return made


def _drift(case: Case, world_sizes: list[int], add: Callable[..., None]) -> None:
    """Add what moves the cutoff: link rate, skew, kernel version."""
    decision = case.decision
    rate = cutoff_against_link_rate(decision, world_sizes=world_sizes)
    add("link-rate", "How the cutoff moves with the link rate", rate, True)
    skew = cutoff_against_skew(decision, world_sizes=world_sizes)
    add("skew", "How the cutoff moves with rank skew", skew, True)
    if case.calibration.kernel_family == "aiter":
        releases = cutoff_against_version(decision, world_sizes=world_sizes)
        add("version", "How the cutoff moves with the kernel version", releases, True)


def _call_of_interest(case: Case, world_size: int) -> Explanation:
    """Explain the batch at which the change saves most, or that of 32 where nothing changes."""
    (mine,) = (w for w in case.by_world_size if w.world_size == world_size)
    tokens = 32
    if mine.changed:
        tokens = max(mine.changed, key=lambda b: abs(b.saved_us.value)).batch
    call = case.setting.shapes(tokens, case.llm.hidden_size, world_size)
    return explain(case.setting, call, case.decision.workload)
