"""What the simulator found: each rank's time in the op, cutoffs and latencies along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from ..model.shape import ALGORITHMS
from ..show.words import arm
from ..simulation.study import AXES, Map, Study
from .template import (
    ARM_COLOUR,
    ARM_DASH,
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    PURPLE,
    VERMILLION,
    finish,
    plain,
    provenance,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..simulation.collective import Outcome

_LINES = (
    (BLUE, "circle", "solid"),
    (VERMILLION, "diamond", "dash"),
    (GREEN, "square", "dot"),
    (PURPLE, "triangle-up", "dashdot"),
    (ORANGE, "x", "longdash"),
)  # fmt: skip


def time_per_rank(outcome: Outcome) -> go.Figure:
    """Return a bar per rank from its arrival to its finish: waiting for others, then own work.

    What a profiler shows for a rank is the whole bar.
    """
    import plotly.graph_objects as go

    run = outcome.run
    rank = np.arange(outcome.machine.ranks)
    waiting = run.waiting_us
    bars = (
        ("waiting for other ranks", run.arrival_us, waiting, NEUTRAL, "/"),
        ("own work", run.arrival_us + waiting, outcome.duration_us - waiting, BLUE, ""),
    )
    figure = go.Figure(
        [
            go.Bar(
                y=rank, x=length, base=start, orientation="h", name=name,
                marker={"color": colour, "pattern": {"shape": shape}},
                hovertemplate="rank %{y}: %{x:.1f} us<extra>" + name + "</extra>",
            )
            for name, start, length, colour, shape in bars
        ]
    )  # fmt: skip
    for r, arrival, duration in zip(rank, run.arrival_us, outcome.duration_us, strict=True):
        figure.add_annotation(
            x=arrival + duration, y=r, text=f" {duration:.1f} us", showarrow=False, xanchor="left"
        )
    end = float(run.finish_us.max())
    figure.update_layout(barmode="overlay", bargap=0.35)
    figure.update_yaxes(title="rank", autorange="reversed", tickvals=rank.tolist())
    figure.update_xaxes(title="us since the first rank arrived", range=[0, 1.12 * end])
    machine = outcome.machine
    subtitle = (
        f"{arm(outcome.algorithm)}, {outcome.tokens} tokens x hidden {outcome.hidden_dim}, "
        f"{machine.gpu}, {machine.fabric}. From the last arrival to the last finish: "
        f"{outcome.latency_us:.1f} us. Simulated with calibrated costs."
    )
    return finish(
        figure, f"Time in the op, {machine.ranks} ranks", subtitle, height=190 + 26 * rank.size
    )


def cutoffs_along(
    maps: Mapping[str, Map], study: Study, *, title: str = "", log: bool = False
) -> go.Figure:
    """Return simulated cutoffs along the axis that all ``maps`` have, a line per map.

    ``study`` says what they have in common. With ``log`` the axis is logarithmic and a value of 0
    stands at its left edge.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    axis = next(iter(maps.values())).axes[0][0]
    ticks = np.unique(np.concatenate([m.axes[0][1] for m in maps.values()])).astype(float)
    left = ticks[ticks > 0].min() / 3

    def place(values: Sequence[float] | np.ndarray) -> np.ndarray:
        at = np.asarray(values, float)
        return np.where(at == 0, left, at) if log else at

    top = 0.0
    for (name, found), (colour, symbol, dash) in zip(maps.items(), _LINES, strict=False):
        values = found.axes[0][1]
        y = np.where(np.isfinite(found.bytes), found.bytes / 1024, np.nan)
        top = max(top, float(np.nanmax(y)))
        figure.add_scatter(
            x=place(values), y=y, name=plain(name), mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.5},
            marker={"symbol": symbol, "size": 9},
            text=[f"{v:g}" for v in values], hovertemplate="%{text}: %{y:.0f} KiB",
        )  # fmt: skip
    figure.update_yaxes(title="cutoff, KiB on one rank", range=[0, 1.12 * top])
    figure.update_xaxes(
        title=AXES[axis], tickvals=place(ticks).tolist(), ticktext=[f"{v:g}" for v in ticks]
    )
    if log:
        figure.update_xaxes(type="log")
    return finish(figure, title or f"Simulated cutoff along {axis}", _subtitle(study), height=400)


def latency_along(study: Study, axis: str, values: Sequence[float], *, tokens: int) -> go.Figure:
    """Return simulated latencies of both algorithms for one call along an axis of a study."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for algorithm in ALGORITHMS:
        found = [study.along(axis, v).simulate(algorithm, tokens) for v in values]
        figure.add_scatter(
            x=list(values), y=[o.latency_us for o in found], name=arm(algorithm),
            mode="lines+markers", marker={"size": 9},
            line={"color": ARM_COLOUR[algorithm], "dash": ARM_DASH[algorithm], "width": 2.5},
            hovertemplate="%{x}: %{y:.1f} us",
        )  # fmt: skip
    figure.update_xaxes(
        type="log", title=AXES[axis], tickvals=list(values), ticktext=[f"{v:g}" for v in values]
    )
    figure.update_yaxes(title="latency, us", rangemode="tozero")
    common = replace(study, ranks=None) if axis == "ranks" else study
    return finish(figure, f"{tokens} tokens along {axis}, simulated", _subtitle(common), height=400)


def _subtitle(study: Study) -> str:
    ranks = "" if study.ranks is None else f", {study.ranks} ranks"
    setting = study.setting
    return (
        f"{setting.op}, {setting.dtype}, hidden {study.hidden_dim}, costs of {setting.gpu}, "
        f"{study.fabric or setting.calibration.fabric}{ranks}; {provenance(setting.calibration)}. "
        "Simulated, not measured."
    )
