"""How well a calibration fits: residuals and pulls, parameters against priors, left-out errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.posterior import NOISE_HALF_WIDTH, NORMAL_HALF_WIDTH, Calibration
from ..model import parameters
from ..show.words import unit
from .measured_points import SYMBOLS
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
    plain,
    provenance,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..calibration.cross_validation import CrossValidation
    from ..data.measurement import Measurements
    from ..decide.row_errors import Rows

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, NEUTRAL)


def rows_of(calibration: Calibration, table: Measurements | None = None) -> Rows:
    """Return the rows that a calibration covers beside its predictions (default: published)."""
    from ..data import measurement
    from ..decide.row_errors import compare, covered

    table = measurement.published() if table is None else table
    return compare(calibration, covered(calibration, table))


def residuals(calibration: Calibration, table: Measurements | None = None) -> go.Figure:
    """Return residuals of every source against bytes, and their pulls.

    A residual is predicted over measured less 1, with the harness constant of the row's source
    where it is calibrated. A pull is the logarithm of that ratio over the row noise of the source;
    a dot per row, a box over the middle half, and the band that nine in ten rows should lie in.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    found = rows_of(calibration, table)
    observations = found.observations
    log_ratio = np.log(found.predicted_us / observations.latency_us)
    percent, pull = 100 * np.expm1(log_ratio), log_ratio / found.noise
    size = observations.size_bytes
    figure = make_subplots(
        rows=1, cols=2, column_widths=[0.62, 0.38], horizontal_spacing=0.1,
        subplot_titles=["residuals", "pulls"],
    )  # fmt: skip
    names = np.unique(observations.harness).tolist()
    for i, name in enumerate(names):
        mine = observations.harness == name
        marker = {
            "color": COLOURS[i % len(COLOURS)],
            "symbol": SYMBOLS[i % len(SYMBOLS)],
            "size": 7,
            "line": {"color": "white", "width": 0.5},
        }
        arms = [
            f"{g} TP{n:.0f} {o} {a}"
            for g, n, o, a in zip(
                observations.table.gpu[mine], observations.table.world_size[mine],
                observations.table.op[mine], observations.algorithm[mine], strict=True,
            )
        ]  # fmt: skip
        label = plain(f"{name} ({mine.sum()})")
        figure.add_trace(
            go.Scatter(
                x=size[mine],
                y=percent[mine].round(3),
                mode="markers",
                marker=marker,
                name=label,
                legendgroup=label,
                text=[plain(a) for a in arms],
                customdata=np.column_stack(
                    [observations.latency_us[mine], found.predicted_us[mine].round(3)]
                ),
                hovertemplate="%{text}, %{x:,} B<br>%{y:+.1f} %: measured %{customdata[0]:.2f}, "
                "predicted %{customdata[1]:.2f} us<extra>%{fullData.name}</extra>",
            ),
            1,
            1,
        )
        figure.add_trace(
            go.Box(
                x=pull[mine].round(3),
                y=np.full(mine.sum(), len(names) - 1 - i),
                orientation="h",
                boxpoints="all",
                jitter=0.4,
                pointpos=0,
                marker={**marker, "size": 5},
                line={"color": NEUTRAL, "width": 1},
                fillcolor=faded(NEUTRAL, 0.12),
                width=0.75,
                legendgroup=label,
                showlegend=False,
                name=label,
                hoverinfo="x+name",
            ),
            1,
            2,
        )
    for column, axis in ((1, "add_hline"), (2, "add_vline")):
        getattr(figure, axis)(
            **{"y" if column == 1 else "x": 0}, line={"color": NEUTRAL, "width": 1},
            row=1, col=column,
        )  # fmt: skip
    figure.add_vrect(
        x0=-NOISE_HALF_WIDTH, x1=NOISE_HALF_WIDTH, fillcolor=faded(NEUTRAL, 0.14), line_width=0,
        layer="below", row=1, col=2,
    )  # fmt: skip
    values, ticks = byte_ticks(float(size.min()), float(size.max()))
    step = -(-len(ticks) // 5)
    ticks = [t if i % step == 0 else "" for i, t in enumerate(ticks)]
    figure.update_xaxes(
        type="log", tickvals=values, ticktext=ticks, title="input bytes on one rank", tickangle=0,
        row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(title="predicted over measured, %", row=1, col=1)
    figure.update_xaxes(title="pull (residual / row noise)", row=1, col=2)
    figure.update_yaxes(showticklabels=False, showgrid=False, ticks="", row=1, col=2)
    accuracy = found.accuracy()
    subtitle = (
        f"{accuracy.n} rows, published and clean unless given otherwise; {provenance(calibration)}."
        f" Absolute error, of the measured latency: median {accuracy.median_ape:.1f} %, 90th "
        f"percentile {accuracy.p90_ape:.1f} %, largest {accuracy.max_ape:.1f} %; the model's 90 % "
        f"intervals hold for {100 * accuracy.coverage90:.0f} % of the rows."
    )
    return finish(figure, "Residuals and pulls per source", subtitle, height=520)


def parameter_intervals(calibration: Calibration) -> go.Figure:
    """Return every parameter's 90 % interval on the scale of its prior.

    Grey is the prior's 90 % interval, in its standard deviations; a bar as wide as the grey one was
    not learnt from the data. Estimates stand beside the names, in their own units.
    """
    import plotly.graph_objects as go

    names = list(calibration.names)[::-1]
    x, left, right, hover, labels = [], [], [], [], []
    for name in names:
        p = parameters.prior(name)
        i = calibration.names.index(name)
        centre = math.log(p.centre) if p.form == "log" else p.centre
        sd = math.sqrt(calibration.covariance[i, i]) / p.sd
        x.append((calibration.mean[i] - centre) / p.sd)
        lo, mid, hi = calibration.interval(name)
        # What the interval is cut at (a nominal rate, zero) counts here too.
        ends = [
            (math.log(v) - centre) / p.sd if p.form == "log" else (v - centre) / p.sd
            for v in (lo, hi)
        ]
        left.append(min(x[-1] - ends[0], NORMAL_HALF_WIDTH * sd))
        right.append(min(ends[1] - x[-1], NORMAL_HALF_WIDTH * sd))
        value = f"<b>{mid:.3g}</b> {plain(unit(p.unit))}".rstrip()
        labels.append(f"{plain(name)}  {value}")
        hover.append(
            f"{plain(name)}: {mid:.4g} ({lo:.4g} to {hi:.4g}) {plain(p.unit)}<br>"
            f"prior {p.centre:.4g}, {plain(p.source)}"
        )
    at = list(range(len(names)))
    figure = go.Figure()
    figure.add_trace(
        go.Bar(
            x=[2 * NORMAL_HALF_WIDTH] * len(names),
            base=-NORMAL_HALF_WIDTH,
            y=at,
            orientation="h",
            width=0.72,
            marker={"color": faded(NEUTRAL, 0.25)},
            name="prior, 90 %",
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=at,
            mode="markers",
            marker={"color": BLUE, "size": 8},
            error_x={
                "type": "data", "symmetric": False, "array": np.maximum(right, 0),
                "arrayminus": np.maximum(left, 0), "color": BLUE, "thickness": 3, "width": 0,
            },
            name="posterior, 90 %",
            text=hover,
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.update_yaxes(
        tickvals=at, ticktext=labels, range=[-0.7, len(at) - 0.3], showgrid=False,
        tickfont={"size": 11},
    )  # fmt: skip
    figure.update_xaxes(title="standard deviations of the prior from its centre")
    subtitle = (
        f"{provenance(calibration)}. Grey: the prior's 90 % interval; a blue bar as long as the "
        "grey one was not learnt from the data. Estimates in their own units."
    )
    return finish(figure, "Parameters against their priors", subtitle, height=150 + 20 * len(names))


def left_out_errors(calibration: Calibration, validation: CrossValidation) -> go.Figure:
    """Return leave-one-out and leave-one-source-out errors of the model beside the baselines.

    Each baseline is scored where it can be scored, and the model on the same rows. The bar is the
    median absolute error, the whisker reaches to the 90th percentile.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06,
        subplot_titles=["leaving one row out", "leaving one source out, its offset refitted"],
    )  # fmt: skip
    parts = (
        ("", validation.leave_one_out),
        ("source:", validation.leave_source_out_pooled),
    )
    for column, (prefix, scores) in enumerate(parts, start=1):
        names = [n for n in scores if n != "model" and scores[n].n]
        labels = [f"{n}<br>({scores[n].n} rows)" for n in names]
        ours = [validation.same_rows[f"{prefix}{n}"][0] for n in names]
        theirs = [scores[n] for n in names]
        if scores["model"].n:
            labels = [*labels, f"all rows<br>({scores['model'].n})"]
            ours = [*ours, scores["model"]]
        for who, found, colour in (("model, same rows", ours, BLUE), ("baseline", theirs, ORANGE)):
            figure.add_trace(
                go.Bar(
                    x=labels[: len(found)],
                    y=[s.median for s in found],
                    error_y={
                        "type": "data", "symmetric": False,
                        "array": [s.p90 - s.median for s in found],
                        "arrayminus": [0.0] * len(found),
                        "color": NEUTRAL, "thickness": 1.5, "width": 4,
                    },
                    marker={"color": colour},
                    name=who,
                    legendgroup=who,
                    showlegend=column == 1,
                    text=[f"{s.median:.1f}" for s in found],
                    textposition="inside",
                    insidetextanchor="start",
                    customdata=[[s.p90, s.max] for s in found],
                    hovertemplate="median %{y:.2f} %, 90th percentile %{customdata[0]:.1f} %, "
                    f"largest %{{customdata[1]:.1f}} %<extra>{who}</extra>",
                ),
                1,
                column,
            )  # fmt: skip
    figure.update_yaxes(title="absolute error, % of measured", row=1, col=1)
    figure.update_xaxes(showgrid=False, tickfont={"size": 11})
    figure.update_layout(barmode="group", bargap=0.3)
    subtitle = (
        f"AITER-family rows; {provenance(calibration)}. Bars: median; whiskers: to the 90th "
        f"percentile. 90 % intervals of left-out rows held for {100 * validation.coverage90:.0f} %."
    )
    return finish(figure, "Errors on rows that the fit has not seen", subtitle, height=440)
