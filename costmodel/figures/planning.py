"""What planning is worth: expected regret against the number of measured latencies, by design."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibration.posterior import NORMAL_HALF_WIDTH
from .template import (
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    finish,
    log_ticks,
    plain,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Designs by name: colour, marker, dash, words. Others follow in neutral.
DESIGNS = {
    "planned": (BLUE, "circle", "solid", "costmodel plan"),
    "uniform": (VERMILLION, "square", "dash", "uniform grid, random phase"),
    "ends": (ORANGE, "diamond", "dot", "uniform grid with both ends"),
    "doubling": (GREEN, "triangle-up", "dashdot", "doubling token counts"),
    "random": (PURPLE, "x", "longdash", "random shapes"),
    "variance": (SKY, "star", "longdashdot", "least parameter variance"),
}


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
        f"the same truths. {floor:.3f} % of regret is unavoidable with one cutoff. Whiskers: 90 % "
        "interval of the mean."
    )
    return finish(figure, f"What planning is worth, {plain(record['title'])}", subtitle, height=480)
