"""Decision map: tokens x hidden per world size, who wins by how much, and what every rule says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.posterior import LEVEL, TAIL
from ..data.workload import captured_batch_sizes
from ..decide.decision import Cutoff, Decision
from ..decide.setting import Setting
from ..model.shape import Shapes
from ..rules.condition import Calls
from ..show.recommendation import evidence
from ..show.words import arm
from ..units import PACK_BYTES, element_bytes
from .template import finish, in_order, plain, provenance

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..rules.rule import Rule

Array = np.ndarray

#: Hidden sizes of the map: from the smallest that engines' first rules name to the kernel's limit.
HIDDEN = (512, 8192)

#: Hidden sizes that get a tick: the powers of two and those of models between them.
HIDDEN_TICKS = (512, 1024, 2048, 2880, 4096, 5120, 7168)

#: Margins beyond this many percent share a colour.
FULL_PCT = 40.0

#: Dashes of rules, in the order in which they are drawn.
DASHES = ("dot", "dash", "dashdot", "longdash", "longdashdot")


def decision_map(
    decision: Decision, *, rules: Sequence[Rule] | None = None, max_tokens: int = 512
) -> go.Figure:
    """Return a map per world size: how many percent the slower algorithm is slower.

    Blue is where 1-stage is faster, orange where 2-stage is. The thin pair of lines bounds the
    calls on which the posterior does not decide with 95 % either way. The recommended rule and
    ``rules`` (default: the engines' current ones) are drawn where they switch. Ticks along the
    tokens are the captured batch sizes.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    setting, world_sizes = decision.setting, in_order(decision.world_sizes)
    op, dtype, aiter_version = setting.op, setting.dtype, setting.aiter_version
    if rules is None:
        rules = _current(op)
    recommended = decision.rule if any(c.claimed for c in decision.cutoffs) else None
    tokens = _edges(1, max_tokens, 84)
    # Whole packs for every rank, as models' hidden sizes are: between them the 2-stage kernel takes
    # some token counts and not others, and the map would be full of holes.
    step = max(world_sizes) * PACK_BYTES // element_bytes(dtype)
    hidden = np.unique(np.rint(np.geomspace(*HIDDEN, 64) / step) * step).astype(np.int64)
    t, h = (a.ravel() for a in np.meshgrid(tokens, hidden))
    figure = make_subplots(
        rows=1, cols=len(world_sizes), shared_yaxes=True, horizontal_spacing=0.03,
        subplot_titles=[_panel_title(decision.at(n)) for n in world_sizes],
    )  # fmt: skip
    for column, n in enumerate(world_sizes, start=1):
        shapes = setting.shapes(t, h, n)
        both = setting.takes_both(shapes)
        one, other = (setting.latency_us(shapes, a) for a in setting.arms)
        margin = 100 * np.where(other > one, other / one - 1, 1 - one / other)
        wins = _probability(setting, shapes)
        grid = (hidden.size, tokens.size)
        figure.add_trace(
            go.Heatmap(
                x=tokens,
                y=hidden,
                z=np.where(both, margin, np.nan).round(1).astype(np.float32).reshape(grid),
                coloraxis="coloraxis",
                customdata=(100 * wins).round().reshape(grid).astype(np.int8),
                hovertemplate="%{x} tokens x hidden %{y}<br>"
                "%{z:+.1f} % (positive: 1-stage faster)<br>1-stage faster in "
                "%{customdata} % of the posterior" + f"<extra>TP{n}</extra>",
            ),
            1,
            column,
        )
        figure.add_trace(
            go.Contour(
                x=tokens,
                y=hidden,
                z=np.where(both, wins, np.nan).astype(np.float32).reshape(grid),
                contours={
                    "start": TAIL, "end": 1 - TAIL, "size": LEVEL,
                    "coloring": "none",
                },
                line={"width": 1},
                showlegend=False,
                showscale=False,
                hoverinfo="skip",
            ),
            1,
            column,
        )  # fmt: skip
        for rule, dash in zip(rules, DASHES, strict=False):
            _boundary(figure, rule, n, column, dtype, aiter_version, max_tokens, dash=dash)
        if recommended is not None and n in recommended.world_sizes:
            _boundary(
                figure, recommended, n, column, dtype, aiter_version, max_tokens,
                dash="solid", width=3.5,
            )  # fmt: skip
    _legend(figure, rules, recommended)
    _axes(figure, len(world_sizes), max_tokens, arm(setting.alternative))
    subtitle = (
        f"{op}, {dtype}, {setting.kernel.title}; {provenance(setting.calibration)}. Colour: how "
        "much slower the slower arm is, in percent of the faster one, 1-stage and "
        f"{arm(setting.alternative)} as modelled.<br>Thin lines: between them neither algorithm is "
        "faster with 95 % probability. Ticks: captured batch sizes."
    )
    finish(figure, f"Which algorithm is faster, {plain(setting.gpu)}", subtitle, height=520)
    figure.update_layout(margin={"b": 84, "r": 80})
    return figure


def _panel_title(cutoff: Cutoff) -> str:
    word = evidence(cutoff) if cutoff.claimed else "no claim"
    return f"TP{cutoff.world_size}<br>{word}"


def _current(op: str) -> list[Rule]:
    from ..errors import InputError
    from ..rules import ENGINES
    from ..rules.catalogue import current

    found = []
    for engine in ENGINES:
        try:
            found.append(current(engine, op))
        except InputError:
            continue
    return found


def _edges(low: int, high: int, count: int) -> Array:
    return np.unique(np.rint(np.geomspace(low, high, count))).astype(np.int64)


def _probability(setting: Setting, shapes: Shapes) -> Array:
    """Return the share of the posterior in which 1-stage is faster, per shape."""
    share = np.empty(len(shapes))
    for start in range(0, len(shapes), 1024):
        block = slice(start, start + 1024)
        some = shapes.select(block)
        one, other = (setting.latency_us(some, a, setting.draws) for a in setting.arms)
        share[block] = np.mean(one < other, axis=0)
    return share


def boundary(
    rule: Rule, world_size: int, hidden: Array, dtype: str, aiter_version: str, max_tokens: int
) -> Array:
    """Return, per hidden size, the tokens (not rounded) up to which a rule runs 1-stage.

    0 where the first token is 2-stage, infinity where every batch is 1-stage. Byte and element
    cutoffs are probed between whole tokens, so that the line is smooth; a token cap counts to the
    next whole token.
    """
    steps = np.unique(
        np.concatenate([np.geomspace(1, max_tokens * 2, 1200), np.arange(1, max_tokens * 2 + 1)])
    )
    elements = np.floor(steps[None, :] * hidden[:, None]).astype(np.int64)
    full = np.broadcast_to(hidden[:, None], elements.shape)
    whole = elements // full
    calls = Calls(
        dtype, whole, full, elements, np.full(elements.shape, world_size),
        kernel_version=aiter_version,
    )  # fmt: skip
    one = rule.condition.holds(calls)
    stops = np.argmin(one, axis=1)
    return np.where(one.all(1), np.inf, np.where(one[:, 0], steps[np.maximum(stops - 1, 0)], 0.0))


def _boundary(
    figure: go.Figure,
    rule: Rule,
    n: int,
    column: int,
    dtype: str,
    aiter_version: str,
    max_tokens: int,
    *,
    dash: str,
    width: float = 2.0,
) -> None:
    """Draw one rule's boundary in one panel."""
    import plotly.graph_objects as go

    if n not in rule.world_sizes:
        return
    pack = 16 // element_bytes(dtype)
    hidden = np.unique(np.rint(np.geomspace(*HIDDEN, 120) / pack) * pack).astype(np.int64)
    at = boundary(rule, n, hidden, dtype, aiter_version, max_tokens)
    inside = (at >= 1) & (at <= max_tokens * 1.05)
    figure.add_trace(
        go.Scatter(
            x=np.where(inside, at, np.nan),
            y=hidden,
            mode="lines",
            line={"width": width, "dash": dash},
            showlegend=False,
            name=plain(rule.engine or rule.name),
            hovertemplate="1-stage to %{x:.1f} tokens at hidden %{y}"
            f"<extra>{plain(rule.engine or rule.name)}</extra>",
        ),
        1,
        column,
    )


def _legend(figure: go.Figure, rules: Sequence[Rule], recommended: Rule | None) -> None:
    """Name every rule once, whether or not it switches inside the map."""
    import plotly.graph_objects as go

    def entry(name: str, dash: str, width: float) -> None:
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="lines", name=name,
                line={"width": width, "dash": dash},
            ),
            1,
            1,
        )  # fmt: skip

    if recommended is not None:
        entry("recommended", "solid", 3.5)
    for rule, dash in zip(rules, DASHES, strict=False):
        entry(f"{plain(rule.engine)} ({plain(rule.name)})", dash, 2)


def _axes(figure: go.Figure, columns: int, max_tokens: int, other: str) -> None:
    batch = [int(b) for b in captured_batch_sizes() if b <= max_tokens]
    named = {1, 8, 64, 512} if columns > 1 else {1, 2, 4, 8, 16, 32, 64, 128, 256, 512}
    figure.update_xaxes(
        type="log", range=np.log10([0.95, max_tokens * 1.04]).tolist(), showgrid=False,
        tickvals=batch, ticktext=[str(b) if b in named else "" for b in batch], tickangle=0,
        tickfont={"size": 11},
    )  # fmt: skip
    figure.update_yaxes(
        type="log", range=np.log10([HIDDEN[0] * 0.97, HIDDEN[1] * 1.02]).tolist(), showgrid=False,
        tickvals=HIDDEN_TICKS, ticktext=[str(h) for h in HIDDEN_TICKS],
    )  # fmt: skip
    figure.update_xaxes(title="tokens", row=1, col=(columns + 1) // 2)
    figure.update_yaxes(title="hidden size", row=1, col=1)
    figure.update_layout(
        coloraxis={
            "cmin": -FULL_PCT,
            "cmax": FULL_PCT,
            "autocolorscale": True,
            "colorbar": {
                "tickvals": [-40, -20, 0, 20, 40],
                "ticktext": [
                    f"40 %<br>{other.replace(' ', '<br>')}<br>faster",
                    "20",
                    "0",
                    "20",
                    "40 %<br>1-stage<br>faster",
                ],
                "thickness": 12,
                "tickfont": {"size": 11},
                "outlinewidth": 0,
            },
        }
    )
