"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable
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
from ..model.fabric import FULL_MESH
from ..show.document import Picture
from .case import Findings

if TYPE_CHECKING:
    import plotly.graph_objects as go


def pictures(found: Findings) -> dict[str, Picture]:
    """Return the report's figures by name; those for the page alone are marked so.

    Figures along bytes stand for the world sizes at which the arms cross, or for the first one.
    """
    ranks = [w.world_size for w in found.by_world_size]
    # With 2 ranks there is nothing to cross.
    crossing = [n for n in ranks if n > 2] or ranks[:1]
    hidden, gpu, decision = found.llm.hidden_size, found.gpu, found.decision
    made: list[Picture] = []

    def add(name: str, words: str, figure: go.Figure, page_only: bool = False) -> None:
        made.append(Picture(name, words, figure, page_only))

    for n in crossing:
        add(
            f"latency-tp{n}",
            f"Latency of both algorithms against bytes at {n} ranks on {gpu}",
            latency_against_bytes(decision, n, hidden, found.table),
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
    if found.validation is not None:
        add(
            "regret-measured",
            "Regret of every rule on calls that were measured with both algorithms",
            regret_on_pairs(found.validation),
        )
    add(
        "worth",
        f"Microseconds that a decode step of {found.llm.name} saves, by batch size",
        worth_by_batch([w.worth for w in found.by_world_size]),
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
            terms_of_call(_call_of_interest(found, n)),
            True,
        )
    if found.calibration.fabric == FULL_MESH:
        _drift(found, crossing, add)
    add(
        "residuals",
        "Residuals and pulls per source",
        residuals(found.calibration, found.table),
        True,
    )
    add(
        "parameters",
        "Parameters against their priors",
        parameter_intervals(found.calibration),
        True,
    )
    return {p.name: p for p in made}


def _drift(found: Findings, world_sizes: list[int], add: Callable[..., None]) -> None:
    """Add what moves the crossover: link rate, skew, kernel version."""
    decision, calibration = found.decision, found.calibration
    rate = cutoff_against_link_rate(decision, world_sizes=world_sizes)
    add("link-rate", "How the cutoff moves with the link rate", rate, True)
    skew = cutoff_against_skew(decision, world_sizes=world_sizes)
    add("skew", "How the cutoff moves with rank skew", skew, True)
    if calibration.kernel_family == "aiter":
        releases = cutoff_against_version(decision, world_sizes=world_sizes)
        add("version", "How the cutoff moves with the kernel version", releases, True)


def _call_of_interest(found: Findings, world_size: int) -> Explanation:
    """Explain the batch at which the change saves most, or that of 32 where nothing changes."""
    (mine,) = (w for w in found.by_world_size if w.world_size == world_size)
    changed = mine.worth.changed
    tokens = max(changed, key=lambda b: abs(b.saved_us.value)).batch if changed else 32
    call = found.setting.shapes(tokens, found.llm.hidden_size, world_size)
    return explain(found.setting, call, found.decision.workload)
