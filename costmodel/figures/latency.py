"""Latency against bytes: both arms, measured points, the cutoff, and where rules switch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..calibration.posterior import TAIL
from ..data.words import Words
from ..decide.decision import Cutoff, Decision
from ..decide.prediction import scatter
from ..decide.setting import Setting
from ..model.shape import ALGORITHMS, FUSED, Shapes
from ..rules import ENGINES
from ..rules.catalogue import current
from ..rules.condition import exact_size
from ..show.words import arm, size_interval
from ..units import kib
from .template import (
    ARM_COLOUR,
    ARM_DASH,
    NEUTRAL,
    band,
    byte_ticks,
    evidence_line,
    faded,
    finish,
    log_ticks,
    plain,
    provenance,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..data.measurement import Measurements
    from ..decide.pairs import Pairs
    from ..rules.rule import Rule

#: Markers of sources, in the order in which sources come.
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross", "star", "pentagon")


def latency_against_bytes(
    decision: Decision,
    world_size: int,
    hidden_dim: int,
    table: Measurements | None = None,
    *,
    rules: Sequence[Rule] | None = None,
    max_tokens: int = 512,
) -> go.Figure:
    """Return both arms over bytes, and below them by how many percent the other one is slower.

    The line is the model with the harness constant of a typical benchmark, its band where a new
    measurement on such a benchmark falls 90 % of the time. ``table`` (default: the published rows)
    gives the measured points of the setting's GPU, ranks and op; each source's own harness constant
    is taken off them, since it says how the source measured and is the same for both arms. The
    recommended cutoff is marked with both intervals, and ``rules`` (default: the engines' current
    ones) where they switch.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from ..data import measurement

    setting = decision.setting
    calls = setting.shapes(token_grid(max_tokens, per_doubling=16), hidden_dim, world_size)
    size = calls.bytes.astype(float)
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.64, 0.36], vertical_spacing=0.05
    )
    noise = scatter(setting)
    lowest, highest = [], []
    for algorithm in setting.arms:
        run = calls.select(setting.takes(calls, algorithm))
        if not len(run):
            continue
        point = setting.latency_us(run, algorithm)
        drawn = setting.latency_us(run, algorithm, setting.draws) * noise
        lo, hi = _ends(drawn)
        colour, name = ARM_COLOUR[algorithm], arm(algorithm)
        figure.add_trace(
            band(run.bytes, lo, hi, colour, name, legendgroup=name, showlegend=False), 1, 1
        )
        figure.add_trace(
            go.Scatter(
                x=run.bytes,
                y=point,
                name=f"{name}, model and 90 % band",
                legendgroup=name,
                line={"color": colour, "width": 2.5, "dash": ARM_DASH[algorithm]},
                customdata=np.column_stack([lo, hi, run.tokens]),
                hovertemplate="%{customdata[2]} tokens, %{x:,} B<br>%{y:.2f} us "
                f"(%{{customdata[0]:.2f}} to %{{customdata[1]:.2f}})<extra>{name}</extra>",
            ),
            1,
            1,
        )
        lowest.append(float(lo.min()))
        highest.append(float(hi.max()))
    _margin(figure, setting, calls.select(setting.takes_both(calls)))
    rows = measurement.published() if table is None else table
    lowest_measured, highest_measured = _points(figure, calls, setting, rows)
    _recommended(figure, decision.at(world_size), float(size[-1]))
    _cutoffs(figure, setting, calls, rules)
    low = min([*lowest, *lowest_measured]) * 0.9
    high = max([*highest, *highest_measured]) * 1.1
    values, names = log_ticks(low, high)
    figure.update_yaxes(
        type="log", range=np.log10([low, high]).tolist(), tickvals=values, ticktext=names,
        title="latency, us", row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(title=f"{arm(setting.alternative)} slower, %", row=2, col=1)
    powers, names = byte_ticks(size[0], size[-1])
    figure.update_xaxes(
        type="log", tickvals=powers, ticktext=names, tickangle=0,
        range=np.log10([size[0] * 0.93, size[-1] * 1.07]).tolist(),
    )  # fmt: skip
    figure.update_xaxes(title="input bytes on one rank", row=2, col=1)
    n = world_size
    subtitle = (
        f"{setting.op}, {setting.dtype}, hidden {hidden_dim}, "
        f"{setting.kernel.title}; {provenance(setting.calibration)}.<br>"
        f"{evidence_line(setting, n)}. "
        "Points: measured (open: at another hidden size), moved by what their source's benchmark "
        "adds beyond that of the curves."
    )
    title = f"Latency of both algorithms, {plain(setting.gpu)}, TP{n}"
    finish(figure, title, subtitle, height=640)
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
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1}, row=2, col=1)
    figure.add_trace(band(size, lo, hi, NEUTRAL, "margin", showlegend=False), 2, 1)
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
        2,
        1,
    )


def _points(
    figure: go.Figure, calls: Shapes, setting: Setting, table: Measurements
) -> tuple[list[float], list[float]]:
    """Draw the measured rows and, below, the pairs of arms; return their extremes in us."""
    import plotly.graph_objects as go

    from ..decide.pairs import pair
    from ..decide.row_errors import covered

    rows = table.select(
        (table.gpu == setting.gpu)
        & (table.world_size == calls.world_size[0])
        & (table.op == setting.op)
    )
    if not len(rows):
        return [], []
    found = covered(setting.calibration, rows)
    if not len(found):
        return [], []
    last, hidden_dim = float(calls.bytes[-1]), int(calls.hidden_dim[0])
    size = found.size_bytes
    offset = _harness_us(setting, found.harness)
    level = found.latency_us - offset
    keep = (size <= last * 1.05) & (level > 0)
    symbol = {h: SYMBOLS[i % len(SYMBOLS)] for i, h in enumerate(found.harness.used)}
    for harness in found.harness.used:
        for algorithm in ALGORITHMS:
            mine = keep & (found.harness == harness) & (found.algorithm == algorithm)
            if not mine.any():
                continue
            shift = float(offset[mine][0])
            known = f"harness[{harness}]" in setting.calibration.values
            filled = _same_hidden(hidden_dim, found.table.hidden_dim[mine])
            figure.add_trace(
                go.Scatter(
                    x=size[mine],
                    y=level[mine],
                    mode="markers",
                    marker={
                        "color": ARM_COLOUR[algorithm],
                        "size": 9,
                        "symbol": [f"{symbol[harness]}{'' if f else '-open'}" for f in filled],
                        "line": {"width": 1.5},
                    },
                    name=f"{plain(harness.split('/')[0])} {arm(algorithm)}, "
                    + (f"{-shift:+.1f} us" if known else "as measured"),
                    customdata=np.column_stack(
                        [
                            found.latency_us[mine],
                            found.table.tokens[mine],
                            found.table.hidden_dim[mine],
                        ]
                    ),
                    hovertemplate="%{customdata[1]} tokens x %{customdata[2]}, %{x:,} B<br>"
                    "%{y:.2f} us "
                    "(published %{customdata[0]:.2f})<extra>%{fullData.name}</extra>",
                ),
                1,
                1,
            )
    pairs = pair(found.table, setting.op).against(setting.alternative)
    _measured_margin(figure, hidden_dim, pairs, found.harness, symbol, offset, last)
    shown = level[keep]
    return ([float(shown.min())], [float(shown.max())]) if shown.size else ([], [])


def _harness_us(setting: Setting, harness: Words) -> np.ndarray:
    """Return per row what its source adds beyond the curves' own; 0 for an unknown source."""
    values = setting.point
    drawn = values["harness[]"]
    return harness.each(lambda h: values.get(f"harness[{h}]", drawn) - drawn, np.float64)


def _same_hidden(hidden_dim: int, hidden: np.ndarray) -> list[bool]:
    """Return which rows have this hidden size (a plain all-reduce has none)."""
    return [bool(np.isnan(h) or h == hidden_dim) for h in hidden]


def _measured_margin(
    figure: go.Figure,
    hidden_dim: int,
    pairs: Pairs,
    harness: Words,
    symbol: dict,
    offset: np.ndarray,
    last: float,
) -> None:
    import plotly.graph_objects as go

    if not len(pairs):
        return
    mine = harness[pairs.row]
    size = pairs.bytes
    shift = offset[pairs.row]
    percent = 100 * ((pairs.two_us - shift) / (pairs.one_us - shift) - 1)
    keep = size <= last * 1.05
    same = np.array(_same_hidden(hidden_dim, pairs.hidden_dim.astype(float)), np.bool_)
    figure.add_trace(
        go.Scatter(
            x=size[keep],
            y=percent[keep],
            mode="markers",
            marker={
                "color": NEUTRAL,
                "size": 9,
                "symbol": [
                    f"{symbol[h]}{'' if f else '-open'}"
                    for h, f in zip(mine[keep], same[keep], strict=True)
                ],
                "line": {"width": 1.5},
            },
            name="measured pairs",
            showlegend=False,
            customdata=np.column_stack([pairs.one_us[keep], pairs.two_us[keep]]),
            hovertemplate="%{x:,} B: %{y:.1f} %<br>published %{customdata[0]:.2f} and "
            "%{customdata[1]:.2f} us<extra>measured pair</extra>",
        ),
        2,
        1,
    )


def _recommended(figure: go.Figure, cutoff: Cutoff, last: float) -> None:
    """Mark the recommended cutoff in both panels, your machine's interval lightly."""
    import plotly.graph_objects as go

    at, lo, hi = cutoff.max_bytes, cutoff.max_bytes_lo, cutoff.max_bytes_hi
    top = last * 1.07
    if at is None or lo is None or not 0 < at <= top:
        return
    shades = [((lo, hi), 0.1), ((cutoff.this_kernel_lo, cutoff.this_kernel_hi), 0.14)]
    for row in (1, 2):
        for (low, high), shade in shades:
            figure.add_vrect(
                x0=max(low or 0.0, 1.0), x1=top if high is None else min(high, top),
                fillcolor=faded(NEUTRAL, shade), line_width=0, layer="below", row=row, col=1,
            )  # fmt: skip
        figure.add_vline(x=at, line={"color": NEUTRAL, "width": 1.5}, row=row, col=1)
    figure.add_trace(
        go.Scatter(
            x=[None], y=[None], mode="lines", line={"color": NEUTRAL, "width": 6},
            name=f"recommended: 1-stage to {kib(at)}, 90 %: {size_interval(lo, hi)} (your "
            f"machine), {size_interval(*shades[1][0])} (this kernel)",
        ),
        1,
        1,
    )  # fmt: skip


def _cutoffs(
    figure: go.Figure, setting: Setting, calls: Shapes, rules: Sequence[Rule] | None
) -> None:
    """Mark where each rule switches from 1-stage to 2-stage, labels above one another."""
    if rules is None:
        rules = [current(e) for e in ENGINES] if setting.op == FUSED else []
    first, last = float(calls.bytes[0]), float(calls.bytes[-1])
    hidden_dim, n = int(calls.hidden_dim[0]), int(calls.world_size[0])
    marks: dict[float, list[str]] = {}
    for rule in rules:
        if n not in rule.world_sizes:
            continue
        steps = rule.switches(
            hidden_dim, n, dtype=setting.dtype, kernel_version=setting.aiter_version
        )
        if not steps[0][1] or len(steps) < 2:
            continue
        token = float(setting.shapes(1, hidden_dim, n).bytes)
        found = rule.cutoff_bytes(n)
        # A token cap can come before the byte cutoff: then the cap is where the rule switches.
        last_1stage = (steps[1][0] - 1) * token
        by_bytes = found is not None and last_1stage <= found[1] < last_1stage + token * 1.001
        at = float(found[1]) if by_bytes and found is not None else last_1stage
        how = (
            exact_size(found[1]) if by_bytes and found is not None else f"{steps[1][0] - 1} tokens"
        )
        marks.setdefault(at, []).append(f"{rule.engine or rule.name} {how}")
    width = np.log10(last / first)
    taken: list[tuple[float, int]] = []
    for at, names in sorted(marks.items()):
        if not first <= at <= last:
            continue
        text = ", ".join(plain(n) for n in names)
        # Labels step down a line while the one before reaches into them (about 85 letters a row).
        half = width * len(text) / 85 / 2
        level = 0
        while any(lv == level and np.log10(at) - half < end for end, lv in taken):
            level += 1
        taken.append((np.log10(at) + half, level))
        for row in (1, 2):
            figure.add_vline(
                x=at, line={"color": NEUTRAL, "width": 1, "dash": "dot"}, row=row, col=1
            )
        figure.add_annotation(
            x=np.log10(at), y=1.0 - 0.055 * level, yref="y domain", yanchor="top", text=text,
            showarrow=False, bgcolor=faded("#888888", 0.25), font={"size": 11}, row=1, col=1,
        )  # fmt: skip
