"""A plan: what its shapes are expected to bring; and what planning is worth, simulated."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibration.posterior import NORMAL_HALF_WIDTH
from ..errors import InputError
from ..show.place import machine
from ..show.words import OF_FASTER
from .template import (
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    byte_ticks,
    faded,
    finish,
    log_ticks,
    plain,
    provenance,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..planning import Plan
    from ..planning.measurement_plan import Prospect

#: Designs by name: colour, marker, dash, words. Others follow in neutral.
DESIGNS = {
    "planned": (BLUE, "circle", "solid", "costmodel plan"),
    "uniform": (VERMILLION, "square", "dash", "uniform grid, random phase"),
    "ends": (ORANGE, "diamond", "dot", "uniform grid with both ends"),
    "doubling": (GREEN, "triangle-up", "dashdot", "doubling token counts"),
    "random": (PURPLE, "x", "longdash", "random shapes"),
    "variance": (SKY, "star", "longdashdot", "least parameter variance"),
}


#: Marks within this factor of each other have no room for a number between them.
CLOSE = 1.25


def cutoffs_after_plan(plan: Plan) -> go.Figure:
    """Return each cutoff now, with both intervals, and the one expected after a plan's shapes.

    A lane for now: thin the 90 % interval on your machine, thick that of this kernel; one for
    afterwards: the interval on your machine that measuring should leave (the median over
    outcomes); one for the shapes, numbered in the plan's order, at their bytes. Raises
    :class:`InputError` where no cutoff is open at any world size.
    """
    import plotly.graph_objects as go

    shown = [p for p in plan.prospects if not p.always and p.before.lo is not None]
    if not shown:
        raise InputError(
            f"nothing to draw: no cutoff of {plan.setting.gpu} is open at "
            f"{', '.join(f'TP{p.world_size}' for p in plan.prospects)}"
        )
    here = {p.world_size for p in shown}
    sizes = [e.bytes for e in plan.entries if e.world_size in here]
    ends = [v for p in shown for i in (p.before, p.after) for v in (i.lo, i.hi) if v]
    low, high = min([*ends, *sizes]) * 0.8, max([*ends, *sizes]) * 1.25
    figure = go.Figure()
    lanes: list[str] = []
    for p in shown:
        _lanes(figure, plan, p, len(lanes), high)
        lanes += [
            f"<b>TP{p.world_size} before</b>, regret {p.regret_pct_before:.2f} %",
            f"after the plan, regret {p.regret_pct_after:.2f} %",
        ]
        if any(e.world_size == p.world_size for e in plan.entries):
            lanes.append("shapes to measure")
    figure.update_yaxes(
        tickvals=[-i for i in range(len(lanes))], ticktext=lanes, ticks="", showgrid=False,
        range=[-len(lanes) + 0.4, 0.6],
    )  # fmt: skip
    powers, names = byte_ticks(low, high)
    figure.update_xaxes(
        type="log", range=np.log10([low, high]).tolist(), tickvals=powers, ticktext=names,
        title="cutoff: 1-stage up to these bytes on one rank",
    )  # fmt: skip
    setting = plan.setting
    left_out = [f"TP{p.world_size}" for p in plan.prospects if p not in shown]
    subtitle = (
        f"{setting.op}, {setting.dtype}, {setting.kernel.title}; "
        f"{provenance(setting.calibration)}. Expected, by the model: medians over what the "
        f"measurements may give. Regret: percent {OF_FASTER}. Numbers: the shapes in the plan's "
        "order."
    )
    if left_out:
        subtitle += f" No cutoff to narrow at {' and '.join(left_out)}."
    count = len(plan.entries)
    title = f"What measuring {count} shape{'s' * (count != 1)} should bring, {plain(setting.gpu)}"
    return finish(figure, title, subtitle, height=190 + 34 * len(lanes))


def _lanes(figure: go.Figure, plan: Plan, p: Prospect, first: int, high: float) -> None:
    """Draw the lanes of a world size, the uppermost at ``-first``; without shapes two of them."""
    import plotly.graph_objects as go

    said = first == 0

    def bar(lo: int | None, hi: int | None, lane: int, colour: str, width: int, name: str) -> None:
        if lo is None:
            return
        figure.add_trace(
            go.Scatter(
                x=[max(lo, 1), high if hi is None else hi], y=[-lane, -lane], mode="lines",
                line={"color": colour, "width": width}, name=name, legendgroup=name,
                showlegend=said, hovertemplate="%{x:,} B<extra>" + name + "</extra>",
            )
        )  # fmt: skip

    bar(*p.this_kernel, first, faded(NEUTRAL, 0.45), 8, "90 %, this kernel")
    bar(p.before.lo, p.before.hi, first, NEUTRAL, 2, f"90 %, {machine(plan.setting)}")
    bar(p.after.lo, p.after.hi, first + 1, BLUE, 2, f"90 %, {machine(plan.setting)}, expected")
    for lane, at, colour in ((first, p.before.bytes, NEUTRAL), (first + 1, p.after.bytes, BLUE)):
        if at:
            figure.add_trace(
                go.Scatter(
                    x=[at], y=[-lane], mode="markers", showlegend=False, name="cutoff",
                    marker={"symbol": "diamond", "size": 11, "color": colour},
                    hovertemplate="%{x:,} B<extra>cutoff</extra>",
                )
            )  # fmt: skip
    mine = [(i, e) for i, e in enumerate(plan.entries, 1) if e.world_size == p.world_size]
    if not mine:
        return
    by_bytes: dict[int, list[str]] = {}
    for i, e in mine:
        by_bytes.setdefault(e.bytes, []).append(str(i))
    figure.add_trace(
        go.Scatter(
            x=list(by_bytes), y=[-first - 2] * len(by_bytes), mode="markers+text",
            marker={"symbol": "line-ns", "size": 10, "line": {"width": 2, "color": VERMILLION}},
            text=[f" {','.join(numbers)}" for numbers in by_bytes.values()],
            textposition=_positions(list(by_bytes)), showlegend=False, name="shape",
            hovertext=[
                "; ".join(f"{e.tokens} x {e.hidden_dim}" for i, e in mine if e.bytes == size)
                for size in by_bytes
            ],
            hovertemplate="%{hovertext}, %{x:,} B<extra>shape</extra>",
        )
    )  # fmt: skip


def _positions(sizes: Sequence[int]) -> list[str]:
    """Return where the numbers of marks stand: beside them, in turn above and below where close."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    found, turn = ["middle right"] * len(sizes), 0
    for before, here in itertools.pairwise(order):
        turn = turn + 1 if sizes[here] <= CLOSE * sizes[before] else 0
        if turn:
            found[here] = ("top center", "bottom center", "middle right")[(turn - 1) % 3]
    return found


def regret_against_measurements(record: Mapping[str, Any]) -> go.Figure:
    """Return expected regret over the number of measured latencies, a line per kind of design.

    ``record`` is what ``benchmarks/plan_value.py`` gives for one case: ``title``, ``before_pct``
    (regret without measuring), ``perfect_pct`` (regret that no measurement removes) and ``series``,
    each with ``name``, ``n``, ``regret_pct`` and ``error_pct`` (standard error over the truths).
    What can be avoided is drawn: regret less the unavoidable part.
    """
    import plotly.graph_objects as go

    floor = float(record["perfect_pct"])
    before = float(record["before_pct"]) - floor
    figure = go.Figure()
    lowest, most = before, 1
    for series in record["series"]:
        colour, symbol, dash, words = DESIGNS.get(
            series["name"], (NEUTRAL, "cross", "solid", plain(series["name"]))
        )
        n = np.array(series["n"])
        left = np.array(series["regret_pct"], float) - floor
        order = np.argsort(n, kind="stable")
        figure.add_trace(
            go.Scatter(
                x=n[order],
                y=left[order],
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2.5},
                marker={"symbol": symbol, "size": 8},
                error_y={
                    "type": "data",
                    "array": NORMAL_HALF_WIDTH * np.array(series["error_pct"])[order],
                    "color": colour, "thickness": 1.2, "width": 3,
                },
                name=words,
                hovertemplate="%{x} latencies: %{y:.4f} % avoidable regret left"
                f"<extra>{words}</extra>",
            )
        )  # fmt: skip
        lowest = min(lowest, float(left[left > 0].min(initial=before)))
        most = max(most, int(n.max()))
    figure.add_hline(y=before, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=1.0, xref="paper", xanchor="right", y=np.log10(before), yanchor="bottom",
        text="before measuring", showarrow=False, font={"size": 11},
    )  # fmt: skip
    figure.update_xaxes(
        type="log", title="measured latencies (one algorithm at one shape each)",
        tickvals=[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96],
        range=np.log10([1.8, most * 1.1]).tolist(),
    )  # fmt: skip
    low, high = lowest * 0.8, before * 1.35
    values, names = log_ticks(low, high)
    figure.update_yaxes(
        type="log", title="avoidable expected regret left, %", tickvals=values, ticktext=names,
        range=np.log10([low, high]).tolist(),
    )  # fmt: skip
    subtitle = (
        "Simulated: truths drawn from the posterior, measured with realistic noise, all designs on "
        f"the same truths. Regret: percent {OF_FASTER}; {floor:.3f} % is unavoidable with one "
        "cutoff. Whiskers: 90 % "
        "interval of the mean."
    )
    return finish(figure, f"What planning is worth, {plain(record['title'])}", subtitle, height=480)
