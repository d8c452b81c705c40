"""The figures of a report by name, each drawn when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ..decide.evidence import CLAIMED
from ..decide.explanation import explain
from ..errors import InputError, nearest
from ..figures.cutoff_drift import (
    cutoff_against_link_rate,
    cutoff_against_skew,
    cutoff_against_version,
)
from ..figures.fit import parameter_intervals, residuals
from ..figures.latency import latency_against_bytes
from ..figures.planning import cutoffs_after_plan
from ..figures.regret import difference_from_best, regret_on_pairs, regret_over_workload
from ..figures.terms import terms_along_bytes, terms_of_call
from ..figures.token_hidden_map import decision_map
from ..figures.worth import worth_by_batch
from ..model.shape import SEPARATE_OPS
from ..show.place import machine
from ..show.words import size_interval, up_to
from .case import PLANNED, AtWorldSize, Case

if TYPE_CHECKING:
    import plotly.graph_objects as go


#: Every figure's name; N stands for a number of ranks. In a report on several GPUs each has its GPU
#: before it, as ``mi300x-worth``.
NAMES = (
    "latency-tpN", "worth", "decision-map", "regret", "regret-measured", "difference", "terms-tpN",
    "call-tpN", "plan", "link-rate", "skew", "version", "residuals", "parameters",
)  # fmt: skip


class Picture(Struct, frozen=True, dict=True):
    """A figure of the report: its name, and what it shows to somebody who cannot see it.

    ``first`` marks those that the page's first screen and the files beside the text have.
    """

    name: str
    words: str
    first: bool
    draw: Callable[[], go.Figure]

    @cached_property
    def figure(self) -> go.Figure:
        """The figure, drawn once."""
        return self.draw()


def pictures(case: Case) -> list[Picture]:
    """Return the report's figures: what the change is and is worth first, what it rests on last.

    Figures along bytes stand for the world sizes at which the arms cross, or for the first one.
    """
    hidden, gpu, decision = case.llm.hidden_size, case.gpu, case.decision
    crossing = case.crossing
    front = [f"latency-tp{w.world_size}" for w in (case.headline or crossing)[:1]]
    made: list[Picture] = []

    def add(name: str, words: str, draw: Callable[[], go.Figure]) -> None:
        first = name in ("worth", "decision-map", *front)
        made.append(Picture(name, words, first, draw))

    for w in crossing:
        n = w.world_size
        add(
            f"latency-tp{n}",
            _latency_words(case, w),
            partial(latency_against_bytes, decision, n, hidden, case.table),
        )
    if any(w.changed for w in case.changing) and case.calls.per_step:
        add(
            "worth",
            _worth_words(case),
            lambda: worth_by_batch([w.worth for w in case.changing]),
        )
    add(
        "decision-map",
        f"Map over tokens and hidden size on {gpu}: which algorithm is faster and by how much, "
        "with the line where each engine's rule and the recommended one switch.",
        lambda: decision_map(decision),
    )
    add(
        "regret",
        _regret_words(case),
        lambda: regret_over_workload(decision),
    )
    judged = case.validation
    if judged is not None:
        add(
            "regret-measured",
            f"Mean and worst regret of every rule on the {len(judged.pairs)} calls that were "
            "measured with both algorithms.",
            lambda: regret_on_pairs(judged),
        )
    add(
        "difference",
        f"How far every rule is from the faster algorithm at every captured batch size, hidden "
        f"{hidden}, on {gpu}.",
        lambda: difference_from_best(decision, hidden),
    )
    for w in crossing:
        n = w.world_size
        add(
            f"terms-tp{n}",
            f"What each algorithm's latency is made of, by bytes, at {n} ranks on {gpu}.",
            partial(terms_along_bytes, decision, n, hidden),
        )
        add(
            f"call-tp{n}",
            f"Term by term from 1-stage's latency to the other algorithm's for one call at {n} "
            f"ranks on {gpu}.",
            partial(_call_figure, case, w),
        )
    if case.setting.alternative != SEPARATE_OPS and any(w.cutoff.max_bytes_lo for w in crossing):
        add(
            "plan",
            f"The recommended cutoffs on {gpu} with both 90 % intervals, and the intervals that "
            f"measuring {PLANNED} planned shapes should leave.",
            lambda: cutoffs_after_plan(case.settling),
        )
    if case.is_xgmi and any(w.cutoff.verdict in CLAIMED for w in crossing):
        _drift(case, [w.world_size for w in crossing], add)
    if len(case.rows):
        add(
            "residuals",
            "Predicted over measured latency of every row that the calibration covers, by source.",
            lambda: residuals(case.calibration, case.table),
        )
    add(
        "parameters",
        "Every parameter of the calibration with its 90 % interval, beside its prior.",
        lambda: parameter_intervals(case.calibration),
    )
    return made


def shown_of(cases: Sequence[Case]) -> list[Picture]:
    """Return the pictures of a report, first those of what the first screen is about.

    Of several GPUs each has its GPU in the name.
    """
    if len(cases) == 1:
        return pictures(cases[0])
    headed = sorted(cases, key=lambda case: not case.headline)
    return [
        replace(p, name=f"{case.gpu.lower()}-{p.name}") for case in headed for p in pictures(case)
    ]


def check_name(name: str, beside: Sequence[str] = ()) -> None:
    """Raise :class:`InputError` for a name that no figure has, whatever the report is about.

    ``beside`` are names of figures that no report has.
    """
    bare = re.sub(r"^mi\d+[a-z]*-", "", re.sub(r"-tp\d+$", "-tpN", name))
    names = [*NAMES, *beside]
    if bare not in names:
        near = nearest(name, [n.replace("-tpN", "-tp4") for n in names])
        raise InputError(f"no figure '{name}'{near}; one of {', '.join(names)}")


def picture(cases: Sequence[Case], name: str) -> Picture:
    """Return one figure by its name. Raises :class:`InputError` for an unknown one."""
    known = {p.name: p for p in shown_of(cases)}
    if name not in known:
        raise InputError(
            f"no figure '{name}' here{nearest(name, list(known))}; one of {', '.join(known)}"
        )
    return known[name]


def _latency_words(case: Case, w: AtWorldSize) -> str:
    """Say what the latency figure of a world size shows."""
    cutoff = w.cutoff
    words = (
        f"Latency of both algorithms against bytes at {w.world_size} ranks on {case.gpu} "
        f"({w.evidence}). "
    )
    if cutoff.verdict in CLAIMED:
        words += (
            f"1-stage is recommended {up_to(w.cutoff_words)}, 90 % interval "
            f"{size_interval(cutoff.max_bytes_lo, cutoff.max_bytes_hi)} on "
            f"{machine(case.setting)} and "
            f"{size_interval(cutoff.this_kernel_lo, cutoff.this_kernel_hi)} for this kernel; "
        )
    return words + f"{case.engine.title}'s rule before runs it {up_to(w.old_sizes)}."


def _regret_words(case: Case) -> str:
    """Say what the figure of regret over the workload shows."""
    words = [f"Mean and worst regret of every rule on {case.gpu}, by the model."]
    for w in case.by_world_size:
        before, after = w.score.other_regret_pct.value, w.score.regret_pct.value
        if w.cutoff.claimed:
            which = "the one after" if w in case.changing else "the recommended one"
            after_words = f", {which} {after:.2f} %"
            words.append(f"At {w.tp} the rule before loses {before:.2f} %{after_words} of a call.")
        else:
            words.append(f"At {w.tp} the rule in force loses {before:.2f} % of a call.")
    return " ".join(words)


def _worth_words(case: Case) -> str:
    """Say what the worth figure shows."""
    means = ", ".join(
        f"{w.worth.mean_us.value:.1f} us at {w.tp}" for w in case.changing if w.changed
    )
    return (
        f"Microseconds that a decode step of {case.llm.name} saves on {case.gpu}, by batch size. "
        f"Mean over batches: {means}."
    )


def _drift(case: Case, world_sizes: list[int], add: Callable[..., None]) -> None:
    """Add what moves the cutoff: link rate, skew, kernel version."""
    decision = case.decision
    drawn = {
        "link-rate": ("the rate of one link", cutoff_against_link_rate),
        "skew": ("the spread with which ranks arrive", cutoff_against_skew),
    }
    if case.calibration.kernel_family == "aiter":
        drawn["version"] = ("the AITER release", cutoff_against_version)
    for name, (axis, draw) in drawn.items():
        words = f"How the recommended cutoff moves with {axis} on {case.gpu}."
        add(name, words, partial(draw, decision, world_sizes=world_sizes))


def _call_figure(case: Case, w: AtWorldSize) -> go.Figure:
    """Draw the batch at which the change saves most, or that of 32 where nothing changes."""
    tokens = 32
    if w.changed:
        tokens = max(w.changed, key=lambda b: abs(b.saved_us.value)).tokens
    call = case.setting.shapes(tokens, case.llm.hidden_size, w.world_size)
    return terms_of_call(explain(case.setting, call, case.decision.workload))
