"""A tuning from its record: the order of shapes, the interval closing, the regret falling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..show.words import arm
from .template import ARM_COLOUR, NEUTRAL, band, byte_ticks, finish, log_ticks, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Shapes up to which the axis has their names, not only their numbers.
NAMED = 12

#: Regrets below this many percent are drawn here: a logarithmic axis has no zero.
FLOOR_PCT = 0.001

#: Heights in pixels for a world size: its title, the cutoff, a gap, the regret, names of shapes.
HEIGHTS = (26, 190, 14, 76, 54)

#: Markers of measured shapes by the arm that was faster there: meaning hangs on no colour alone.
SYMBOLS = {"1stage": "circle", "2stage": "square", "separate": "diamond", "": "x"}


@dataclass(frozen=True)
class Shape:
    """A measured shape; ``faster`` is the arm that was faster on it, "" where that is unknown."""

    tokens: int
    hidden_dim: int
    bytes: int
    faster: str


@dataclass(frozen=True)
class Course:
    """A tuning at one world size.

    ``steps`` are its journal's (``max_bytes``, ``max_bytes_lo``, ``max_bytes_hi`` in bytes,
    ``contested_pct`` in percent, None where nothing is claimed), the first before any shape.
    ``learnt`` and ``judged`` are the shapes in the order in which they were measured; ``end`` says
    why learning ended, "" while it goes on.
    """

    world_size: int
    steps: Sequence[Mapping[str, Any]]
    learnt: Sequence[Shape]
    judged: Sequence[Shape]
    end: str


def tuning_course(courses: Sequence[Course], machine: str, notice: str = "") -> go.Figure:
    """Return what a tuning knew after each shape, two panels per world size.

    Above, the recommended cutoff with its 90 % interval on this machine, and the shapes at their
    bytes: filled those that were learnt from, open those by which the rule was judged. Below, the
    expected regret on contested calls. ``machine`` names the GPU; ``notice`` is what must be said
    of every number, such as that it was replayed. Raises :class:`InputError` without a step.
    """
    from plotly.subplots import make_subplots

    shown = [c for c in courses if c.steps]
    if not shown:
        raise InputError("nothing to draw: this tuning has no step yet")
    figure = make_subplots(rows=2 * len(shown), cols=1)
    said: set[str] = set()
    for i, course in enumerate(shown):
        _cutoffs(figure, course, 2 * i + 1, said)
        _regret(figure, course, 2 * i + 2)
        _shapes_axis(figure, course, 2 * i + 1)
        _place(figure, _title(course), i, len(shown))
    figure.update_xaxes(
        title="shapes measured, in their order (tokens x hidden)", row=2 * len(shown), col=1
    )
    words = (
        "Line and band: the cutoff and its 90 % interval on this machine, after each shape. Marks: "
        "the shapes at their bytes, by the arm that was faster; open ones were measured to judge "
        "the rule, which did not learn from them."
    )
    subtitle = f"{plain(notice)} {words}" if notice else words
    return finish(figure, f"How tuning closed in on the cutoff, {plain(machine)}", subtitle,
                  height=220 + sum(HEIGHTS) * len(shown))  # fmt: skip


def _title(course: Course) -> str:
    """Return a panel's title: the end, and after how many shapes."""
    end = f": {plain(course.end)}" if course.end else ": not ended"
    count = len(course.learnt)
    return f"TP{course.world_size}, {count} shape{'s' * (count != 1)} learnt from{end}"


def _place(figure: go.Figure, title: str, i: int, count: int) -> None:
    """Place the two panels of the world size ``i`` of ``count``, and its title above them."""
    whole = sum(HEIGHTS) * count
    # Under the last panel the margin holds the names.
    ends = np.cumsum([0, *HEIGHTS]) + i * sum(HEIGHTS)
    top, first, last, under = (1 - ends[k] / (whole - HEIGHTS[-1]) for k in (1, 2, 3, 4))
    figure.update_yaxes(domain=[first, top], row=2 * i + 1, col=1)
    figure.update_yaxes(domain=[max(0.0, under), last], row=2 * i + 2, col=1)
    figure.add_annotation(
        text=title, x=0, xref="paper", xanchor="left", y=top, yref="paper", yanchor="bottom",
        showarrow=False, font={"size": 13},
    )  # fmt: skip


def _cutoffs(figure: go.Figure, course: Course, row: int, said: set[str]) -> None:
    """Draw the cutoff with its interval after each step, and the shapes at their bytes."""
    import plotly.graph_objects as go

    shapes = [*course.learnt, *course.judged]
    sizes = [float(s.bytes) for s in shapes]
    claimed = [s for s in course.steps if s["max_bytes"] and s["max_bytes_lo"]]
    ends = [float(s[k]) for s in claimed for k in ("max_bytes_lo", "max_bytes_hi") if s[k]]
    low, high = min([*ends, *sizes], default=1024.0), max([*ends, *sizes], default=1 << 20)
    low, high = low * 0.8, high * 1.25
    if claimed:
        x = np.array([s["shapes"] for s in claimed], float)
        at, lo = (np.array([s[k] for s in claimed], float) for k in ("max_bytes", "max_bytes_lo"))
        hi = np.array([s["max_bytes_hi"] or high for s in claimed], float)
        first = "cutoff" not in said
        figure.add_trace(band(x, lo, hi, NEUTRAL, "90 %, this machine", showlegend=first), row, 1)
        figure.add_trace(
            go.Scatter(
                x=x, y=at, mode="lines+markers", name="cutoff", showlegend=first,
                line={"color": NEUTRAL, "width": 2.5}, marker={"symbol": "diamond", "size": 8},
                customdata=np.column_stack([lo, hi]),
                hovertemplate="after %{x} shapes: %{y:,} B (%{customdata[0]:,} to "
                "%{customdata[1]:,})<extra>cutoff</extra>",
            ),
            row,
            1,
        )  # fmt: skip
        said.add("cutoff")
    for number, (shape, judged) in enumerate(
        [*((s, False) for s in course.learnt), *((s, True) for s in course.judged)], start=1
    ):
        faster = f"{arm(shape.faster)} faster" if shape.faster else "not usable"
        name = f"{faster}, to judge" if judged else faster
        symbol = SYMBOLS[shape.faster]
        figure.add_trace(
            go.Scatter(
                x=[number], y=[shape.bytes], mode="markers", name=name, legendgroup=name,
                showlegend=name not in said,
                marker={
                    "color": ARM_COLOUR.get(shape.faster, NEUTRAL), "size": 11,
                    "symbol": f"{symbol}-open" if judged else symbol, "line": {"width": 2},
                },
                hovertemplate=f"{shape.tokens} tokens x hidden {shape.hidden_dim}: %{{y:,}} B"
                f"<extra>{name}</extra>",
            ),
            row,
            1,
        )  # fmt: skip
        said.add(name)
    powers, names = byte_ticks(low, high)
    figure.update_yaxes(
        type="log", range=np.log10([low, high]).tolist(), tickvals=powers, ticktext=names,
        title="bytes on one rank", row=row, col=1,
    )  # fmt: skip


def _regret(figure: go.Figure, course: Course, row: int) -> None:
    """Draw the expected regret on contested calls after each step."""
    import plotly.graph_objects as go

    known = [s for s in course.steps if s["contested_pct"] is not None]
    left = np.array([max(s["contested_pct"], FLOOR_PCT) for s in known])
    figure.add_trace(
        go.Scatter(
            x=[s["shapes"] for s in known], y=left, mode="lines+markers", showlegend=False,
            line={"color": NEUTRAL, "width": 2}, marker={"size": 7},
            hovertemplate="after %{x} shapes: %{y:.3f} %<extra>regret, contested</extra>",
        ),
        row,
        1,
    )  # fmt: skip
    low, high = (float(left.min()) * 0.6, float(left.max()) * 1.7) if known else (0.01, 1.0)
    values, names = log_ticks(low, high)
    few = slice(None, None, 1 + len(values) // 4)
    figure.update_yaxes(
        type="log", range=np.log10([low, high]).tolist(), tickvals=values[few],
        ticktext=names[few], title="regret on<br>contested, %", row=row, col=1,
    )  # fmt: skip


def _shapes_axis(figure: go.Figure, course: Course, row: int) -> None:
    """Name the shapes in their order along both panels of a world size."""
    shapes = [*course.learnt, *course.judged]
    last = max(len(shapes), len(course.steps) - 1)
    named = len(shapes) <= NAMED
    at = [0, *range(1, last + 1)] if named else [v for v in range(last + 1) if v % 4 == 0]
    names = [
        f"{i}<br>{shapes[i - 1].tokens} x {shapes[i - 1].hidden_dim}"
        if named and 0 < i <= len(shapes)
        else str(i)
        for i in at
    ]
    for which, texts in ((row, [""] * len(at)), (row + 1, names)):
        figure.update_xaxes(
            range=[-0.3, last + 0.5], tickvals=at, ticktext=texts, tickangle=0,
            tickfont={"size": 11}, row=which, col=1,
        )  # fmt: skip
