"""What a change of rule is worth: microseconds per decode step, by batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..show.place import machine
from ..show.words import estimate
from ..show.worth import evidence_words
from .cutoff_marks import RECOMMENDED
from .template import ARM_COLOUR, NEUTRAL, finish, in_order, plain, provenance

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..decide.regret import Estimate
    from ..decide.worth import BatchWorth, Worth

#: What a bar stands for: the algorithm that runs after the change.
CHANGE = {"1stage": "1-stage instead of 2-stage", "2stage": "2-stage instead of 1-stage"}

#: Batch sizes that are named on the axis.
NAMED = (1, 8, 32, 64, 96, 128, 192, 256, 384, 512)


def worth_by_batch(worths: Sequence[Worth]) -> go.Figure:
    """Return the us that a decode step saves at every captured batch size, one panel per TP.

    Up is saved. Bars stand only where the two rules decide differently; thin whiskers are the 90 %
    intervals on your machine, thick ones those of this kernel. A world size at which nothing
    changes is named in the subtitle and has no panel. Raises :class:`InputError` where nothing
    changes at all.
    """
    from plotly.subplots import make_subplots

    first = worths[0]
    by_ranks = {w.world_size: w for w in worths}
    shown = [by_ranks[n] for n in in_order(list(by_ranks)) if by_ranks[n].changed]
    alike = [f"TP{w.world_size}" for w in worths if not w.changed]
    if not shown:
        raise InputError(
            f"nothing to draw: {first.old.name} and {first.new.name} decide alike at every "
            f"captured batch size at {', '.join(alike)}"
        )
    figure = make_subplots(
        rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.5 / (len(shown) * 3 + 1),
        subplot_titles=[
            f"TP{w.world_size} ({evidence_words(w)}): mean {_mean(w)} us a step"
            f"{'' if w.decided else ', not decided'}"
            for w in shown
        ],
    )  # fmt: skip
    named: set[str] = set()
    for row, w in enumerate(shown, start=1):
        for arm, name in CHANGE.items():
            mine = [b for b in w.changed if b.new == arm]
            if not mine:
                continue
            _bars(figure, mine, row, ARM_COLOUR[arm], name, name not in named, machine(w.setting))
            named.add(name)
        figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1}, row=row, col=1)
    batch = [str(b.batch) for b in first.batches]
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=batch, range=[-0.6, len(batch) - 0.4],
        tickvals=[b for b in batch if int(b) in NAMED], tickangle=0, showgrid=False,
    )  # fmt: skip
    figure.update_xaxes(title="batch size (captured)", row=len(shown), col=1)
    figure.update_yaxes(title="us saved a step")
    figure.update_layout(bargap=0.15, barmode="overlay")
    setting = first.setting
    weights = first.histogram.name or "every captured batch size alike (no real traffic)"
    subtitle = (
        f"{plain(first.llm.name)}: {first.calls.words()}, hidden "
        f"{first.llm.hidden_size}, {setting.dtype}, {setting.kernel.title}; "
        f"{provenance(setting.calibration)}. Modelled. 90 % intervals: thin, {machine(setting)}; "
        f"thick, this kernel. Mean over: {plain(weights)}."
    )
    if alike:
        subtitle += f" No batch changes at {' and '.join(alike)}."
    new = "the recommended rule" if first.new.name == RECOMMENDED else plain(first.new.name)
    title = f"What {new} saves over {plain(first.old.name)}, {plain(setting.gpu)}"
    return finish(figure, title, subtitle, height=170 + 170 * len(shown))


def _bars(
    figure: go.Figure,
    mine: Sequence[BatchWorth],
    row: int,
    colour: str,
    name: str,
    showlegend: bool,
    where: str,
) -> None:
    """Draw the batches of a panel that change to one algorithm, with both intervals."""
    import plotly.graph_objects as go

    def ends(values: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value, lo, hi = (np.array([getattr(e, k) for e in values]) for k in ("value", "lo", "hi"))
        return value.round(3), lo, hi

    saved, lo, hi = ends([b.saved_us for b in mine])
    there, kernel_lo, kernel_hi = ends([b.this_kernel_us for b in mine])
    x = [str(b.batch) for b in mine]
    whisker = {"type": "data", "symmetric": False, "color": NEUTRAL}
    figure.add_trace(
        go.Bar(
            x=x,
            y=saved,
            error_y={
                **whisker, "array": (hi - saved).round(3), "arrayminus": (saved - lo).round(3),
                "thickness": 1.2, "width": 2,
            },
            marker={"color": colour},
            name=name,
            legendgroup=name,
            showlegend=showlegend,
            customdata=np.column_stack([lo, hi, kernel_lo, kernel_hi]).round(2),
            hovertemplate="batch %{x}: %{y:.1f} us a step (%{customdata[0]} to %{customdata[1]} on "
            f"{where}, %{{customdata[2]}} to %{{customdata[3]}} for this kernel)"
            f"<extra>{name}</extra>",
        ),
        row,
        1,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=x, y=there, mode="markers", marker={"size": 0.1, "color": NEUTRAL},
            error_y={
                **whisker, "array": (kernel_hi - there).round(3),
                "arrayminus": (there - kernel_lo).round(3), "thickness": 4, "width": 0,
            },
            name="this kernel", legendgroup=name, showlegend=False, hoverinfo="skip",
        ),
        row,
        1,
    )  # fmt: skip


def _mean(w: Worth) -> str:
    return estimate(w.mean_us, "+.0f" if abs(w.mean_us.value) >= 100 else "+.1f")
