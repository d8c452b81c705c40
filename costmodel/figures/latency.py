"""Latency against bytes: both arms, measured points as published, cutoffs with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import TAIL
from ..decide.decision import Decision
from ..decide.evidence import TRANSFERRED
from ..decide.prediction import evidence, scatter
from ..decide.setting import Setting
from ..model.shape import Shapes
from ..show.place import machine
from ..show.words import arm
from .cutoff_marks import lanes, mark
from .measured_points import draw_measured
from .template import (
    ARM_COLOUR,
    ARM_DASH,
    NEUTRAL,
    band,
    byte_ticks,
    evidence_line,
    finish,
    log_ticks,
    plain,
    provenance,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..data.measurement import Measurements
    from ..rules.rule import Rule

#: Widths of an arm's curve, pixels: where its bytes were measured here, and where it is carried.
MEASURED_WIDTH, CARRIED_WIDTH = 3.5, 1.5


def latency_against_bytes(
    decision: Decision,
    world_size: int,
    hidden_dim: int,
    table: Measurements | None = None,
    *,
    rules: Sequence[Rule] | None = None,
    max_tokens: int = 512,
) -> go.Figure:
    """Return where rules switch, both arms over bytes, and by how many percent the other is slower.

    A curve is the model with the constant of the setting's reference benchmark, its band where a
    new measurement on that benchmark falls 90 % of the time; it is thick where its bytes were
    measured here and thin where it is carried. ``table`` (default: the published rows) gives the
    measured points of the setting's GPU, ranks and op, which stand as published: what a source's
    benchmark adds moves that source's curve, not its points. Pairs of measured points give the
    measured percentages. The recommended cutoff stands in a lane with both intervals, and
    ``rules`` (default: the engines' current ones) in lanes of their own where they switch.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from ..data import measurement

    setting = decision.setting
    calls = setting.shapes(token_grid(max_tokens, per_doubling=16), hidden_dim, world_size)
    size = calls.bytes.astype(float)
    shown = lanes(decision, calls, rules)
    # A lane is as tall as a line of text.
    strip = 0.05 + 0.035 * len(shown)
    figure = make_subplots(
        rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.04,
        row_heights=[strip, 0.64 * (1 - strip), 0.36 * (1 - strip)],
    )  # fmt: skip
    noise = scatter(setting)
    lowest, highest, thick = [], [], False
    for algorithm in setting.arms:
        run = calls.select(setting.takes(calls, algorithm))
        if not len(run):
            continue
        point = setting.latency_us(run, algorithm)
        drawn = setting.latency_us(run, algorithm, setting.draws) * noise
        lo, hi = _ends(drawn)
        colour, name = ARM_COLOUR[algorithm], arm(algorithm)
        figure.add_trace(
            band(run.bytes, lo, hi, colour, name, legendgroup=name, showlegend=False), 2, 1
        )
        line = {"color": colour, "dash": ARM_DASH[algorithm]}
        figure.add_trace(
            go.Scatter(
                x=run.bytes,
                y=point,
                name=f"{name}, model and 90 % band",
                legendgroup=name,
                line={**line, "width": CARRIED_WIDTH},
                customdata=np.column_stack([lo, hi, run.tokens]),
                hovertemplate="%{customdata[2]} tokens, %{x:,} B<br>%{y:.2f} us "
                f"(%{{customdata[0]:.2f}} to %{{customdata[1]:.2f}})<extra>{name}</extra>",
            ),
            2,
            1,
        )
        measured = evidence(setting, run, algorithm) != TRANSFERRED
        if measured.any():
            figure.add_trace(
                go.Scatter(
                    x=run.bytes[measured], y=point[measured], mode="lines", hoverinfo="skip",
                    name=f"{name}, thick where measured here", legendgroup=name,
                    showlegend=False, line={**line, "width": MEASURED_WIDTH},
                ),
                2,
                1,
            )  # fmt: skip
            thick = True
        lowest.append(float(lo.min()))
        highest.append(float(hi.max()))
    _margin(figure, setting, calls.select(setting.takes_both(calls)))
    rows = measurement.published() if table is None else table
    at_bytes, points = draw_measured(figure, calls, setting, rows)
    # Other hidden sizes have smaller calls than any of this one.
    size_range = (min([size[0], *at_bytes]) * 0.93, size[-1] * 1.07)
    mark(figure, decision.at(world_size), shown, size_range, machine(setting))
    low, high = min([*lowest, *points]) * 0.9, max([*highest, *points]) * 1.1
    values, names = log_ticks(low, high)
    figure.update_yaxes(
        type="log", range=np.log10([low, high]).tolist(), tickvals=values, ticktext=names,
        title="latency, us", row=2, col=1,
    )  # fmt: skip
    figure.update_yaxes(title=f"{arm(setting.alternative)} slower,<br>% of 1-stage", row=3, col=1)
    powers, names = byte_ticks(*size_range)
    figure.update_xaxes(
        type="log", tickvals=powers, ticktext=names, tickangle=0,
        range=np.log10(size_range).tolist(),
    )  # fmt: skip
    figure.update_xaxes(title="input bytes on one rank", row=3, col=1)
    n = world_size
    said = [
        f"{setting.op}, {setting.dtype}, hidden {hidden_dim}, {setting.kernel.title}; "
        f"{provenance(setting.calibration)}.",
        f"{evidence_line(setting, n)}.",
    ]
    if thick:
        said.append("Curves: thick where bytes were measured here, thin where carried.")
    if points:
        said.append(
            "Points: as published, by the kernels of their day (open: another hidden size); a "
            "source's benchmark moves its curve."
        )
    title = f"Latency of both algorithms, {plain(setting.gpu)}, TP{n}"
    finish(figure, title, "<br>".join([said[0], " ".join(said[1:])]), height=660 + 22 * len(shown))
    figure.update_layout(margin={"b": 84})
    return figure


def token_grid(most: int, per_doubling: int) -> NDArray[np.int64]:
    """Return token counts from 1 to ``most``: all at first, then evenly in the logarithm."""
    count = round(np.log2(most) * per_doubling) + 1
    return np.unique(np.rint(np.geomspace(1, most, count))).astype(np.int64)


def _ends(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = np.quantile(drawn, [TAIL, 1 - TAIL], axis=0)
    return lo, hi


def _margin(figure: go.Figure, setting: Setting, calls: Shapes) -> None:
    """Draw by how many percent the other arm is slower than 1-stage, with its band."""
    import plotly.graph_objects as go

    if not len(calls):
        return
    size, tokens = calls.bytes, calls.tokens
    slower = f"{arm(setting.alternative)} slower by"

    def percent(values: dict | None) -> np.ndarray:
        one, other = (setting.latency_us(calls, a, values) for a in setting.arms)
        return np.asarray(100 * (other / one - 1))

    lo, hi = _ends(percent(setting.draws))
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1}, row=3, col=1)
    figure.add_trace(band(size, lo, hi, NEUTRAL, "margin", showlegend=False), 3, 1)
    figure.add_trace(
        go.Scatter(
            x=size,
            y=percent(None),
            line={"color": NEUTRAL, "width": 2},
            name=slower,
            showlegend=False,
            customdata=np.column_stack([lo, hi, tokens]),
            hovertemplate="%{customdata[2]} tokens, %{x:,} B<br>%{y:.1f} % "
            f"(%{{customdata[0]:.1f}} to %{{customdata[1]:.1f}})<extra>{slower}</extra>",
        ),
        3,
        1,
    )
