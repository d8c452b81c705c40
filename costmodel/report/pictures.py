"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    settings = {n: setting(found, n) for n in ranks}
    # With 2 ranks there is nothing to cross.
    crossing = [n for n in ranks if n > 2] or ranks[:1]
    hidden, gpu = found.llm.hidden_size, found.gpu
    how: dict[str, Any] = {"gpu": gpu, "dtype": found.dtype, "aiter_version": found.aiter_version}
    rule = replace(found.new, name="recommended")
    made: list[Picture] = []

    def add(name: str, words: str, figure: go.Figure, page_only: bool = False) -> None:
        made.append(Picture(name, words, figure, page_only))

    for n in crossing:
        add(
            f"latency-tp{n}",
            f"Latency of both algorithms against bytes at {n} ranks on {gpu}",
            latency_against_bytes(settings[n], found.table),
        )
    add(
        "decision-map",
        f"Which algorithm is faster by tokens and hidden size on {gpu}, with every engine's rule",
        decision_map(found.calibration, world_sizes=ranks, recommended=rule, **how),
    )
    add(
        "regret",
        f"Mean and worst regret of every rule on {gpu}",
        regret_over_workload(found.calibration, world_sizes=ranks, recommended=rule, **how),
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
        difference_from_best(found.calibration, hidden, world_sizes=ranks, recommended=rule, **how),
        page_only=True,
    )
    for n in crossing:
        s = settings[n]
        add(f"terms-tp{n}", f"Where the time goes at {n} ranks", terms_along_bytes(s), True)
        add(
            f"call-tp{n}",
            f"From 1-stage to 2-stage for one call at {n} ranks",
            terms_of_call(s, _call_of_interest(found, n)),
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
    along: dict[str, Any] = {
        "gpu": found.gpu, "hidden_dim": found.llm.hidden_size, "world_sizes": world_sizes,
        "dtype": found.dtype,
    }  # fmt: skip
    calibration, version = found.calibration, found.aiter_version
    rate = cutoff_against_link_rate(calibration, aiter_version=version, **along)
    add("link-rate", "How the crossover moves with the link rate", rate, True)
    skew = cutoff_against_skew(calibration, aiter_version=version, **along)
    add("skew", "How the crossover moves with rank skew", skew, True)
    if calibration.kernel_family == "aiter":
        releases = cutoff_against_version(calibration, **along)
        add("version", "How the crossover moves with the kernel version", releases, True)


def setting(found: Findings, world_size: int) -> Setting:
    """Return the model's calls at one world size, as a setting."""
    return Setting(
        found.calibration, found.gpu, world_size, found.llm.hidden_size, dtype=found.dtype,
        aiter_version=found.aiter_version,
    )  # fmt: skip


def _call_of_interest(found: Findings, world_size: int) -> int:
    """Return the batch at which the change saves most, or 32 where nothing changes."""
    (mine,) = (w for w in found.by_world_size if w.world_size == world_size)
    changed = [b for b in mine.worth.batches if b.old != b.new]
    return max(changed, key=lambda b: abs(b.saved_us.value)).batch if changed else 32
