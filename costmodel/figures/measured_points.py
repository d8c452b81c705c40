"""Measured rows in the latency figure: points as published, and the model moved to each source.

A benchmark adds a constant of its own to every latency (the harness constant of
:mod:`.calibration.fit`). The points are never moved by it: each source's curves are, so that a
point and the curve that speaks for it can be compared where the axis says what was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..decide.setting import Setting
from ..model.shape import ALGORITHMS, Shapes
from ..show.words import arm
from .template import ARM_COLOUR, NEUTRAL, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..calibration.observations import Observations
    from ..data.measurement import Measurements

#: Markers of sources, in the order in which sources come.
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross", "star", "pentagon")

#: Rows of the figure that hold latencies, and by how much the other arm is slower.
LATENCY_ROW, MARGIN_ROW = 2, 3

#: A source's curve reaches this factor beyond its smallest and largest row.
REACH = 1.3


def draw_measured(
    figure: go.Figure, calls: Shapes, setting: Setting, table: Measurements
) -> tuple[list[float], list[float]]:
    """Draw the measured rows of the calls' GPU, ranks and op, and the model for their sources.

    ``calls`` are of one hidden size and world size, ascending in bytes. Returns the bytes
    and the latencies drawn, in us.
    """
    import plotly.graph_objects as go

    from ..decide.row_errors import covered

    rows = table.select(
        (table.gpu == setting.gpu)
        & (table.world_size == calls.world_size[0])
        & (table.op == setting.op)
    )
    found = covered(setting.calibration, rows) if len(rows) else None
    if found is None or not len(found):
        return [], []
    keep = found.size_bytes <= float(calls.bytes[-1]) * 1.05
    at_bytes: list[float] = []
    drawn: list[float] = []
    for i, harness in enumerate(np.unique(found.harness).tolist()):
        mine = keep & (found.harness == harness)
        if not mine.any():
            continue
        symbol = SYMBOLS[i % len(SYMBOLS)]
        name = plain(harness.split("/")[0])
        shift_us = _shift_us(setting, harness)
        moved = "" if shift_us is None else f", its curves {shift_us:+.1f} us"
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", legendgroup=harness,
                name=f"{name}: as published{moved}",
                marker={"color": NEUTRAL, "size": 9, "symbol": symbol},
            ),
            LATENCY_ROW,
            1,
        )  # fmt: skip
        if shift_us is not None:
            _curves(figure, calls, setting, found.size_bytes[mine], shift_us, harness)
        _points(figure, found, mine, int(calls.hidden_dim[0]), symbol, harness)
        at_bytes += found.size_bytes[mine].tolist()
        drawn += found.latency_us[mine].tolist()
    _measured_margin(figure, calls, setting, found)
    return at_bytes, drawn


def _shift_us(setting: Setting, harness: str) -> float | None:
    """Return what a source's benchmark adds beyond the reference's; None for an unknown one."""
    values = setting.point
    name = f"harness[{harness}]"
    return float(values[name] - values["harness[]"]) if name in values else None


def _curves(
    figure: go.Figure,
    calls: Shapes,
    setting: Setting,
    size_bytes: np.ndarray,
    shift_us: float,
    harness: str,
) -> None:
    """Draw both arms and their margin as the source would measure them, over its own bytes."""
    import plotly.graph_objects as go

    near = (calls.bytes >= size_bytes.min() / REACH) & (calls.bytes <= size_bytes.max() * REACH)
    some = calls.select(near & setting.takes_both(calls))
    if not len(some):
        return
    name = plain(harness.split("/")[0])
    latency = {a: setting.latency_us(some, a) + shift_us for a in setting.arms}
    for algorithm, us in latency.items():
        figure.add_trace(
            go.Scatter(
                x=some.bytes, y=us, mode="lines", legendgroup=harness, showlegend=False,
                line={"color": ARM_COLOUR[algorithm], "width": 1.2, "dash": "dot"},
                name=f"{arm(algorithm)}, model for {name}",
                hovertemplate="%{x:,} B: %{y:.2f} us<extra>%{fullData.name}</extra>",
            ),
            LATENCY_ROW,
            1,
        )  # fmt: skip
    one, other = (latency[a] for a in setting.arms)
    figure.add_trace(
        go.Scatter(
            x=some.bytes, y=100 * (other / one - 1), mode="lines", legendgroup=harness,
            showlegend=False, line={"color": NEUTRAL, "width": 1.2, "dash": "dot"},
            name=f"model for {name}",
            hovertemplate="%{x:,} B: %{y:.1f} %<extra>%{fullData.name}</extra>",
        ),
        MARGIN_ROW,
        1,
    )  # fmt: skip


def _points(
    figure: go.Figure,
    found: Observations,
    mine: np.ndarray,
    hidden_dim: int,
    symbol: str,
    harness: str,
) -> None:
    """Draw one source's rows as published, a trace per arm."""
    import plotly.graph_objects as go

    for algorithm in ALGORITHMS:
        run = mine & (found.algorithm == algorithm)
        if not run.any():
            continue
        hidden = found.table.hidden_dim[run]
        figure.add_trace(
            go.Scatter(
                x=found.size_bytes[run],
                y=found.latency_us[run],
                mode="markers",
                legendgroup=harness,
                showlegend=False,
                marker={
                    "color": ARM_COLOUR[algorithm],
                    "size": 9,
                    "symbol": _symbols(symbol, hidden_dim, hidden),
                    "line": {"width": 1.5},
                },
                name=f"{plain(harness.split('/')[0])} {arm(algorithm)}",
                customdata=np.column_stack([found.table.tokens[run], hidden]),
                hovertemplate="%{customdata[0]} tokens x %{customdata[1]}, %{x:,} B<br>"
                "published: %{y:.2f} us<extra>%{fullData.name}</extra>",
            ),
            LATENCY_ROW,
            1,
        )


def _symbols(symbol: str, hidden_dim: int, hidden: np.ndarray) -> list[str]:
    """Return a marker per row, open where it has another hidden size (an all-reduce has none)."""
    return [f"{symbol}{'' if np.isnan(h) or h == hidden_dim else '-open'}" for h in hidden]


def _measured_margin(
    figure: go.Figure, calls: Shapes, setting: Setting, found: Observations
) -> None:
    """Draw by how much the other arm is slower in each measured pair, as published."""
    import plotly.graph_objects as go

    from ..decide.pairs import pair

    pairs = pair(found.table, setting.op).against(setting.alternative)
    pairs = pairs.select(pairs.bytes <= float(calls.bytes[-1]) * 1.05)
    harness = found.harness[pairs.row]
    hidden_dim = int(calls.hidden_dim[0])
    for i, name in enumerate(np.unique(found.harness).tolist()):
        mine = harness == name
        if not mine.any():
            continue
        some = pairs.select(mine)
        hidden = some.hidden_dim.astype(float)
        figure.add_trace(
            go.Scatter(
                x=some.bytes,
                y=100 * (some.two_us / some.one_us - 1),
                mode="markers",
                marker={
                    "color": NEUTRAL,
                    "size": 9,
                    "symbol": _symbols(SYMBOLS[i % len(SYMBOLS)], hidden_dim, hidden),
                    "line": {"width": 1.5},
                },
                legendgroup=name,
                name=f"measured pairs of {plain(name.split('/')[0])}",
                showlegend=False,
                customdata=np.column_stack([some.one_us, some.two_us]),
                hovertemplate="%{x:,} B: %{y:.1f} %<br>published %{customdata[0]:.2f} and "
                "%{customdata[1]:.2f} us<extra>%{fullData.name}</extra>",
            ),
            MARGIN_ROW,
            1,
        )
