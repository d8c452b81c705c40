"""A prediction that was committed first, beside what was measured after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..show.words import arm
from .template import ARM_COLOUR, ARM_DASH, NEUTRAL, band, byte_ticks, finish, log_ticks

if TYPE_CHECKING:
    import plotly.graph_objects as go

Array = NDArray[np.float64]

#: Marks of measured calls by arm: meaning hangs on no colour alone.
SYMBOLS = {"1stage": "circle", "2stage": "square"}


class Registered(Struct, frozen=True):
    """A prediction at one world size and the rows measured after it.

    ``bytes`` (n,) ascending; ``predicted`` (n, 3) holds point, lower and upper end in us by arm, of
    one hidden size. ``measured_bytes`` (m,) and ``measured_us`` (m,) by arm are of every hidden
    size. ``crossover`` is the predicted interval in bytes, ``crossed`` the measured places.
    """

    world_size: int
    bytes: Array
    predicted: Mapping[str, Array]
    measured_bytes: Array
    measured_us: Mapping[str, Array]
    crossover: tuple[float, float]
    crossed: Sequence[float]


def prediction_against_measurement(parts: Sequence[Registered], subtitle: str) -> go.Figure:
    """Return a panel for each world size: curves and bands as predicted, marks as measured."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = [f"{part.world_size} ranks" for part in parts]
    figure = make_subplots(rows=1, cols=len(parts), subplot_titles=titles, horizontal_spacing=0.1)
    for column, part in enumerate(parts, 1):
        place = {"row": 1, "col": column}
        for name, said in part.predicted.items():
            first = column == 1
            shade = band(
                part.bytes, said[:, 1], said[:, 2], ARM_COLOUR[name],
                f"{arm(name)}, 90 % of measurements predicted", showlegend=False, legendgroup=name,
            )  # fmt: skip
            figure.add_trace(shade, **place)
            figure.add_trace(
                go.Scatter(
                    x=part.bytes, y=said[:, 0], mode="lines", name=f"{arm(name)}, predicted",
                    line={"color": ARM_COLOUR[name], "dash": ARM_DASH[name]}, showlegend=first,
                    legendgroup=name,
                ),
                **place,
            )  # fmt: skip
            figure.add_trace(
                go.Scatter(
                    x=part.measured_bytes, y=part.measured_us[name], mode="markers",
                    name=f"{arm(name)}, measured after",
                    marker={
                        "color": ARM_COLOUR[name], "symbol": SYMBOLS[name], "size": 6,
                        "line": {"width": 1, "color": NEUTRAL},
                    },
                    showlegend=first, legendgroup=name,
                ),
                **place,
            )  # fmt: skip
        figure.add_vrect(
            *part.crossover, fillcolor=NEUTRAL, opacity=0.18, line_width=0,
            annotation_text="crossover, predicted", annotation_position="top left", **place,
        )  # fmt: skip
        for at in part.crossed:
            figure.add_vline(at, line={"color": NEUTRAL, "width": 1, "dash": "dot"}, **place)
        sizes, words = byte_ticks(float(part.bytes[0]), float(part.bytes[-1]))
        figure.update_xaxes(
            type="log", title="bytes of the input", tickvals=sizes, ticktext=words, **place
        )
        every = np.concatenate([*part.measured_us.values(), *part.predicted["1stage"].T])
        at_us, words = log_ticks(float(every.min()), float(every.max()))
        figure.update_yaxes(
            type="log", title="latency, us" if column == 1 else "", tickvals=at_us, ticktext=words,
            **place,
        )  # fmt: skip
    return finish(figure, "Predicted first, then measured", subtitle)
