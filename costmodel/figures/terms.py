"""Where the time goes: the model's named terms along bytes, and between the arms for one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..decide.decision import Cutoff, Decision
from ..decide.explanation import Explanation
from ..errors import InputError
from ..model.latency import TERMS
from ..model.shape import ONE_STAGE
from ..show.words import arm, benchmark, chance, term
from ..units import kib
from .latency import token_grid
from .template import (
    ARM_COLOUR,
    NEUTRAL,
    byte_ticks,
    evidence_line,
    finish,
    plain,
    provenance,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Colour of every term: greys for launches, blues for links, ambers for barriers, greens for norms.
TERM_COLOUR = {
    "harness": "#C3C8CE",
    "launch": "#969DA6",
    "entry_barrier": "#F5C64F",
    "link_read": "#0072B2",
    "link_write": "#56B4E9",
    "middle_barrier": "#E69F00",
    "link_gather": "#9ED3F2",
    "turn_exposure": "#CC79A7",
    "norm_epilogue": "#009E73",
    "exit_barrier": "#B97A00",
    "second_launch": "#5E6670",
    "local_pass": "#6CCBAE",
    "norm_kernel": "#00664B",
    "eight_ranks": "#B98ACB",
    "machine_contrast": "#8C564B",
}


def terms_along_bytes(
    decision: Decision, world_size: int, hidden_dim: int, *, max_tokens: int = 256
) -> go.Figure:
    """Return the stacked terms of both arms over bytes, side by side on one scale."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    setting = decision.setting
    calls = setting.shapes(token_grid(max_tokens, per_doubling=12), hidden_dim, world_size)
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05,
        subplot_titles=[arm(a) for a in setting.arms],
    )  # fmt: skip
    seen: set[str] = set()
    for column, algorithm in enumerate(setting.arms, start=1):
        run = calls.select(setting.takes(calls, algorithm))
        if not len(run):
            continue
        size = run.bytes
        for name, us in setting.terms(run, algorithm).items():
            us = np.broadcast_to(us, size.shape)
            if not (us > 0.005).any():
                continue
            figure.add_trace(
                go.Scatter(
                    x=size,
                    y=us.round(4),
                    stackgroup=algorithm,
                    mode="lines",
                    line={"width": 0.6, "color": "white"},
                    fillcolor=TERM_COLOUR[name],
                    name=term(name),
                    legendgroup=name,
                    showlegend=name not in seen,
                    legendrank=TERMS.index(name),
                    customdata=run.tokens,
                    hovertemplate=f"{term(name)} %{{y:.2f}} us<extra></extra>",
                ),
                1,
                column,
            )
            seen.add(name)
        values, names = byte_ticks(float(size[0]), float(size[-1]))
        names = _spaced(np.log(values), names, np.log(size[[0, -1]]))
        figure.update_xaxes(
            type="log", tickvals=values, ticktext=names, tickangle=0,
            range=np.log10([size[0], size[-1]]).tolist(), row=1, col=column,
            title="input bytes on one rank",
        )  # fmt: skip
    _mark_cutoff(figure, decision.at(world_size), int(calls.bytes[-1]))
    figure.update_yaxes(title="latency, us", row=1, col=1)
    figure.update_layout(hovermode="x unified")
    subtitle = (
        f"{setting.op}, {setting.dtype}, hidden {hidden_dim}, "
        f"{setting.kernel.title}, {plain(benchmark(setting.reference))} (harness: what it adds); "
        f"{provenance(setting.calibration)}.<br>"
        f"{evidence_line(setting, world_size)}. Fixed times "
        "are known as sums; their parts lean on priors."
    )
    title = f"Where the time goes, {plain(setting.gpu)}, TP{world_size}"
    return finish(figure, title, subtitle, height=480)


def _spaced(at: np.ndarray, names: list[str], ends: np.ndarray) -> list[str]:
    """Return every second name of a panel's ticks, none at its ends, where another panel begins."""
    place = (at - ends[0]) / (ends[1] - ends[0])
    kept = [0.06 < p < 0.94 and i % 2 == 0 for i, p in enumerate(place)]
    return [n if keep else "" for n, keep in zip(names, kept, strict=True)]


def _mark_cutoff(figure: go.Figure, cutoff: Cutoff, last: int) -> None:
    at = cutoff.max_bytes
    if at is None or not 0 < at <= last:
        return
    line = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
    for column in (1, 2):
        figure.add_vline(x=at, line=line, row=1, col=column)
    figure.add_annotation(
        x=np.log10(at), y=0.98, yref="y domain", text=f"cutoff {kib(at)} ",
        xanchor="right", yanchor="top", showarrow=False, row=1, col=1,
    )  # fmt: skip


def terms_of_call(explanation: Explanation) -> go.Figure:
    """Return the way from 1-stage's latency to the other arm's for one call, term by term.

    Every bar is what the other arm spends more (up) or less (down) on a term. Terms that are alike
    in both arms are left out.
    """
    import plotly.graph_objects as go

    setting, arms = explanation.setting, explanation.arms
    if explanation.margin_us is None:
        raise InputError(f"there is nothing to compare: {explanation.reason}")
    parts = {a: {n: e.value for n, e in arms[a].terms.items()} for a in setting.arms}
    totals = {a: arms[a].latency_us.value for a in setting.arms}
    other = setting.alternative
    steps = []
    for name in TERMS:
        change = parts[other].get(name, 0.0) - parts[ONE_STAGE].get(name, 0.0)
        if abs(change) >= 0.005:
            steps.append((name, change))
    margin = explanation.margin_us.value
    lo, hi = explanation.margin_us.lo, explanation.margin_us.hi
    names = [arm(ONE_STAGE), *(term(n) for n, _ in steps), arm(other)]
    # A word a line: labels of neighbouring bars do not meet.
    ticks = ["<br>".join(name.split(" ")) for name in names]
    values = [totals[ONE_STAGE], *(c for _, c in steps), totals[other]]
    figure = go.Figure(
        go.Waterfall(
            x=names,
            y=np.round(values, 4),
            measure=["absolute", *["relative"] * len(steps), "total"],
            text=[
                f"{totals[ONE_STAGE]:.1f}",
                *(f"{c:+.2f}" for _, c in steps),
                f"{totals[other]:.1f}",
            ],
            textposition="outside",
            increasing={"marker": {"color": ARM_COLOUR[other]}},
            decreasing={"marker": {"color": ARM_COLOUR[ONE_STAGE]}},
            totals={"marker": {"color": NEUTRAL}},
            connector={"line": {"color": NEUTRAL, "width": 1, "dash": "dot"}},
            hovertemplate="%{x}: %{y:.2f} us<extra></extra>",
            cliponaxis=False,
        )
    )
    figure.update_xaxes(tickvals=names, ticktext=ticks, tickangle=0)
    figure.update_yaxes(title="us", rangemode="tozero", range=[0, 1.15 * _peak(values)])
    slower, faster = (other, ONE_STAGE) if margin > 0 else (ONE_STAGE, other)
    share = explanation.probability
    share = share if explanation.choice == faster else 1 - share
    ends = sorted((abs(lo), abs(hi))) if lo * hi > 0 else None
    span = (
        f"90 %: {ends[0]:.1f} to {ends[1]:.1f}"
        if ends
        else f"90 %: {arm(other)} {_signed(lo)} to {_signed(hi)}"
    )
    title = (
        f"{explanation.tokens} tokens x {explanation.hidden_dim} ({kib(explanation.bytes)}), "
        f"{plain(setting.gpu)}, TP{explanation.world_size}: {arm(slower)} takes "
        f"{abs(margin):.1f} us more"
    )
    subtitle = (
        f"{span} us; {arm(faster)} is faster in {chance(share)} of the posterior. "
        f"{setting.op}, {setting.dtype}, {setting.kernel.title}; "
        f"{provenance(setting.calibration)}.<br>"
        + evidence_line(setting, explanation.world_size)
        + "."
    )
    return finish(figure, title, subtitle, height=440, legend="none")


def _signed(us: float) -> str:
    return f"{abs(us):.1f} {'more' if us > 0 else 'less'}"


def _peak(values: list[float]) -> float:
    """Return the highest point of a waterfall."""
    level, peak = values[0], max(values[0], values[-1])
    for change in values[1:-1]:
        level += change
        peak = max(peak, level)
    return peak
