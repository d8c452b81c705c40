"""What a change of rule is worth: microseconds per decode step, by batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..show.words import estimate
from .template import ARM_COLOUR, NEUTRAL, finish, plain, provenance

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..decide.worth import Worth

#: What a bar stands for: the algorithm that runs after the change.
CHANGE = {"1stage": "now 1-stage instead of 2-stage", "2stage": "now 2-stage instead of 1-stage"}

#: Batch sizes that are named on the axis.
NAMED = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def worth_by_batch(worths: Sequence[Worth]) -> go.Figure:
    """Return the us that a decode step saves at every captured batch size, one panel per TP.

    Up is saved. Bars stand only where the two rules decide differently; whiskers are the
    posterior's 90 % intervals.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    first = worths[0]
    figure = make_subplots(
        rows=len(worths), cols=1, shared_xaxes=True, vertical_spacing=0.5 / (len(worths) * 3 + 1),
        subplot_titles=[
            f"TP{w.world_size} ({w.evidence}): mean {_mean(w)} us a step"
            for w in worths
        ],
    )  # fmt: skip
    named: set[str] = set()
    for row, w in enumerate(worths, start=1):
        for arm, name in CHANGE.items():
            mine = [b for b in w.changed if b.new == arm]
            saved = np.array([b.saved_us.value for b in mine])
            lo, hi = (np.array([getattr(b.saved_us, k) for b in mine]) for k in ("lo", "hi"))
            if not mine and name in named:
                continue
            figure.add_trace(
                go.Bar(
                    x=[str(b.batch) for b in mine],
                    y=saved.round(3),
                    error_y={
                        "type": "data", "symmetric": False, "array": (hi - saved).round(3),
                        "arrayminus": (saved - lo).round(3), "color": NEUTRAL, "thickness": 1.2,
                        "width": 2,
                    },
                    marker={"color": ARM_COLOUR[arm]},
                    name=name,
                    legendgroup=name,
                    showlegend=bool(mine) and name not in named,
                    customdata=np.column_stack([lo.round(2), hi.round(2)]) if mine else None,
                    hovertemplate="batch %{x}: %{y:.1f} us a step (%{customdata[0]} to "
                    f"%{{customdata[1]}})<extra>{name}</extra>",
                ),
                row,
                1,
            )  # fmt: skip
            if mine:
                named.add(name)
        figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1}, row=row, col=1)
        if not w.changed:
            figure.add_annotation(
                text="both rules decide alike at every captured batch size", showarrow=False,
                x=0.5, y=0.5, xref="x domain", yref="y domain", row=row, col=1,
            )  # fmt: skip
            figure.update_yaxes(range=[-1, 1], row=row, col=1)
    batch = [str(b.batch) for b in first.batches]
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=batch, range=[-0.6, len(batch) - 0.4],
        tickvals=[b for b in batch if int(b) in NAMED], tickangle=0, showgrid=False,
    )  # fmt: skip
    figure.update_xaxes(title="batch size (captured)", row=len(worths), col=1)
    figure.update_yaxes(title="us saved a step")
    figure.update_layout(bargap=0.15, barmode="overlay")
    setting = first.setting
    weights = first.histogram.name or "every captured batch size alike, which is nobody's traffic"
    subtitle = (
        f"{plain(first.llm.name)}: {first.calls.words()}, hidden "
        f"{first.llm.hidden_size}, {setting.dtype}, {setting.kernel.title}; "
        f"{provenance(setting.calibration)}. Modelled; 90 % intervals. Mean over: {plain(weights)}."
    )
    title = f"Worth of {plain(first.new.name)} over {plain(first.old.name)}, {plain(setting.gpu)}"
    return finish(figure, title, subtitle, height=150 + 170 * len(worths))


def _mean(w: Worth) -> str:
    return estimate(w.mean_us, "+.0f" if abs(w.mean_us.value) >= 100 else "+.1f")
