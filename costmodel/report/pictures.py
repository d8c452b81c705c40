"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..decide.sensitivity import Setting
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
    settings = {n: setting(case, n) for n in ranks}
    # With 2 ranks there is nothing to cross.
    crossing = [n for n in ranks if n > 2] or ranks[:1]
    hidden, gpu = case.llm.hidden_size, case.gpu
    how: dict[str, Any] = {"gpu": gpu, "dtype": case.dtype, "aiter_version": case.aiter_version}
    rule = replace(case.new, name="recommended")
    made: list[Picture] = []

    def add(name: str, words: str, figure: go.Figure, page_only: bool = False) -> None:
        made.append(Picture(name, words, figure, page_only))

    for n in crossing:
        add(
            f"latency-tp{n}",
            f"Latency of both algorithms against bytes at {n} ranks on {gpu}",
            latency_against_bytes(settings[n], case.table),
        )
    add(
        "decision-map",
        f"Which algorithm is faster by tokens and hidden size on {gpu}, with every engine's rule",
        decision_map(case.calibration, world_sizes=ranks, recommended=rule, **how),
    )
    add(
        "regret",
        f"Mean and worst regret of every rule on {gpu}",
        regret_over_workload(case.calibration, world_sizes=ranks, recommended=rule, **how),
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
        difference_from_best(case.calibration, hidden, world_sizes=ranks, recommended=rule, **how),
        page_only=True,
    )
    for n in crossing:
        s = settings[n]
        add(f"terms-tp{n}", f"Where the time goes at {n} ranks", terms_along_bytes(s), True)
        add(
            f"call-tp{n}",
            f"From 1-stage to 2-stage for one call at {n} ranks",
            terms_of_call(s, _call_of_interest(case, n)),
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
    """Add what moves the crossover: link rate, skew, kernel version."""
    along: dict[str, Any] = {
        "gpu": case.gpu, "hidden_dim": case.llm.hidden_size, "world_sizes": world_sizes,
        "dtype": case.dtype,
    }  # fmt: skip
    calibration, version = case.calibration, case.aiter_version
    rate = cutoff_against_link_rate(calibration, aiter_version=version, **along)
    add("link-rate", "How the crossover moves with the link rate", rate, True)
    skew = cutoff_against_skew(calibration, aiter_version=version, **along)
    add("skew", "How the crossover moves with rank skew", skew, True)
    if calibration.kernel_family == "aiter":
        releases = cutoff_against_version(calibration, **along)
        add("version", "How the crossover moves with the kernel version", releases, True)


def setting(case: Case, world_size: int) -> Setting:
    """Return the model's calls at one world size, as a setting."""
    return Setting(
        case.calibration, case.gpu, world_size, case.llm.hidden_size, dtype=case.dtype,
        aiter_version=case.aiter_version,
    )  # fmt: skip


def _call_of_interest(case: Case, world_size: int) -> int:
    """Return the batch at which the change saves most, or 32 where nothing changes."""
    (mine,) = (w for w in case.by_world_size if w.world_size == world_size)
    return max(mine.changed, key=lambda b: abs(b.saved_us.value)).batch if mine.changed else 32
