"""Cutoffs above the latency figure: a lane for each rule, with room for its name and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decide.decision import Cutoff, Decision
from ..decide.setting import Setting
from ..model.fabric import FULL_MESH
from ..model.shape import FUSED, Shapes
from ..rules import ENGINES
from ..rules.catalogue import current
from ..rules.condition import exact_size
from ..show.words import answer, size_interval
from ..units import kib
from .template import NEUTRAL, faded, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..rules.rule import Rule

RECOMMENDED = "recommended"


@dataclass(frozen=True)
class Lane:
    """A rule's lane: its name with the size, and the bytes where it switches (None: nowhere)."""

    text: str
    at_bytes: float | None


def lanes(decision: Decision, calls: Shapes, rules: Sequence[Rule] | None) -> list[Lane]:
    """Return the lane of the recommended cutoff and those of ``rules`` (default: in force)."""
    setting = decision.setting
    cutoff = decision.at(int(calls.world_size[0]))
    if rules is None:
        # Engines run theirs over xGMI, with AITER's kernels.
        there = setting.op == FUSED and setting.calibration.fabric == FULL_MESH
        rules = [current(e) for e in ENGINES] if there else []
    said = answer(cutoff.verdict, cutoff.max_bytes).removeprefix("<= ")
    at = None if cutoff.max_bytes is None else float(cutoff.max_bytes)
    found = [
        _lane(setting, calls, rule) for rule in rules if calls.world_size[0] in rule.world_sizes
    ]
    return [Lane(f"{RECOMMENDED} {said}", at), *found]


def _lane(setting: Setting, calls: Shapes, rule: Rule) -> Lane:
    """Return where a rule switches from 1-stage, by its byte cutoff or by a cap on tokens."""
    hidden_dim, n = int(calls.hidden_dim[0]), int(calls.world_size[0])
    name = plain(rule.engine or rule.name)
    steps = rule.switches(hidden_dim, n, dtype=setting.dtype, kernel_version=setting.aiter_version)
    if len(steps) < 2:
        return Lane(f"{name} {'every size' if steps[0][1] else 'no size'}", None)
    if not steps[0][1]:
        return Lane(f"{name} not the smallest", None)
    token = float(setting.shapes(1, hidden_dim, n).bytes)
    found = rule.cutoff_bytes(n)
    # A token cap can come before the byte cutoff: then the cap is where the rule switches.
    last_1stage = (steps[1][0] - 1) * token
    if found is not None and last_1stage <= found[1] < last_1stage + token * 1.001:
        return Lane(f"{name} {exact_size(found[1])}", float(found[1]))
    return Lane(f"{name} {steps[1][0] - 1} tokens", last_1stage)


def mark(
    figure: go.Figure,
    cutoff: Cutoff,
    shown: Sequence[Lane],
    size_range: tuple[float, float],
    where: str,
) -> None:
    """Draw the lanes in the first row, and their cutoffs through the rows below."""
    import plotly.graph_objects as go

    first, last = size_range
    through: list[dict[str, Any]] = []
    figure.update_yaxes(
        tickvals=[-i for i in range(len(shown))],
        ticktext=[f"<b>{lane.text}</b>" if i == 0 else lane.text for i, lane in enumerate(shown)],
        range=[-len(shown) + 0.4, 0.6], tickfont={"size": 11}, ticks="", row=1, col=1,
    )  # fmt: skip
    for i, lane in enumerate(shown):
        if lane.at_bytes is None or not first <= lane.at_bytes <= last:
            continue
        figure.add_trace(
            go.Scatter(
                x=[lane.at_bytes], y=[-i], mode="markers", showlegend=False, name=lane.text,
                marker={
                    "color": NEUTRAL, "size": 11, "symbol": "diamond" if i == 0 else "line-ns",
                    "line": {"width": 0 if i == 0 else 2.5, "color": NEUTRAL},
                },
                hovertemplate=f"{lane.text}<extra></extra>",
            ),
            1,
            1,
        )  # fmt: skip
        if i:
            line = {"color": NEUTRAL, "width": 1, "dash": "dot"}
            through += [_upright(figure, row, lane.at_bytes, line=line) for row in (2, 3)]
    through += _intervals(figure, cutoff, size_range, where)
    # All at once: plotly looks at every shape again for each that is added.
    figure.layout.shapes = (*figure.layout.shapes, *through)


def _upright(
    figure: go.Figure, row: int, at: float, to: float | None = None, **look: Any
) -> dict[str, Any]:
    """Return the shape of a line through a row of the first column, or of a band up to ``to``."""
    x, y = (axis.plotly_name.replace("axis", "") for axis in figure.get_subplot(row, 1))
    kind, end = ("line", at) if to is None else ("rect", to)
    place = {"x0": at, "x1": end, "xref": x, "y0": 0, "y1": 1, "yref": f"{y} domain"}
    return {"type": kind, **place, **look}


def _intervals(
    figure: go.Figure, cutoff: Cutoff, size_range: tuple[float, float], where: str
) -> list[dict[str, Any]]:
    """Draw the recommended cutoff with both intervals; return what goes through the rows below."""
    import plotly.graph_objects as go

    first, last = size_range
    at, lo, hi = cutoff.max_bytes, cutoff.max_bytes_lo, cutoff.max_bytes_hi
    if at is None or lo is None or not 0 < at <= last:
        return []
    kernel = cutoff.this_kernel_lo, cutoff.this_kernel_hi
    ends = [(max(low or 0.0, 1.0), last if high is None else min(high, last))
            for low, high in ((lo, hi), kernel)]  # fmt: skip
    through = []
    for row in (2, 3):
        for (low, high), shade in zip(ends, (0.1, 0.14), strict=True):
            look = {"fillcolor": faded(NEUTRAL, shade), "line": {"width": 0}, "layer": "below"}
            through.append(_upright(figure, row, low, high, **look))
        through.append(_upright(figure, row, at, line={"color": NEUTRAL, "width": 1.5}))
    said = (
        f"90 %, {where}: {size_interval(lo, hi)}",
        f"90 %, this kernel: {size_interval(*kernel)}",
    )
    for (low, high), width, name in zip(ends, (2, 8), said, strict=True):
        colour = NEUTRAL if width == 2 else faded(NEUTRAL, 0.45)
        figure.add_trace(
            go.Scatter(
                x=np.maximum([low, high], first), y=[0, 0], mode="lines", name=name,
                line={"color": colour, "width": width}, hoverinfo="name",
            ),
            1,
            1,
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[None], y=[None], mode="markers", marker={"color": NEUTRAL, "symbol": "diamond"},
            name=f"recommended: 1-stage to {kib(at)}",
        ),
        1,
        1,
    )  # fmt: skip
    return through
