"""Regret of rules: what each loses against always running the faster algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.posterior import TAIL
from ..data.workload import Workload
from ..decide.decision import Decision
from ..decide.measured_regret import bootstrap_means, recommended_choice
from ..decide.regret import Arms, Estimate
from ..errors import InputError
from ..rules.catalogue import ALWAYS_1STAGE, ALWAYS_2STAGE, catalogue
from ..rules.rule import Rule
from ..show.words import OF_FASTER, arm, benchmark
from .template import (
    GREEN,
    ORANGE,
    PURPLE,
    finish,
    in_order,
    plain,
    provenance,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..decide.validation import Validation

#: World sizes: colour, marker, and where they stand on a rule's row.
BY_WORLD_SIZE = {
    2: (ORANGE, "triangle-up", -0.22),
    4: (GREEN, "circle", 0.0),
    8: (PURPLE, "square", 0.22),
}

#: Regrets below this many percent are drawn here: a logarithmic axis has no zero.
FLOOR_PCT = 0.02

#: Differences from the best of this many percent and more share the darkest colour.
FULL_PCT = 30.0


def field(decision: Decision) -> list[Rule]:
    """Return the rules that figures compare: recommended, shipped, proposed, the constant ones."""
    op = decision.setting.op
    known = [
        r
        for r in catalogue()
        if r.op == op and r.fabric == "xgmi" and r.status in ("shipped", "current", "proposed")
    ]
    claimed = any(c.claimed for c in decision.cutoffs)
    return [*([decision.rule] if claimed else []), *known, ALWAYS_1STAGE, ALWAYS_2STAGE]


def regret_over_workload(decision: Decision) -> go.Figure:
    """Return mean and worst regret of every rule over the workload, with 90 % intervals.

    Both algorithms' latencies are the model's; intervals come from the posterior. The worst is
    that of the worst call of the workload.
    """
    setting, world_sizes = decision.setting, in_order(decision.world_sizes)
    rules = field(decision)
    found: dict[str, dict[int, tuple[Estimate, Estimate]]] = {}
    for rule in rules:
        found[rule.name] = {}
        for cutoff in decision.cutoffs:
            arms = cutoff.arms
            try:
                choice = arms.use_1stage(rule)
            except InputError:  # no claim for this world size
                continue
            loss = 100 * (arms.chosen_us(choice) / arms.fastest_us - 1)
            # The call that is expected to lose most, as everywhere: not each draw's own worst.
            worst = loss[:, int(loss.mean(axis=0).argmax())]
            found[rule.name][cutoff.world_size] = (
                Estimate.of(arms.regret_pct(choice)),
                Estimate.of(worst),
            )
    order = sorted(
        (r for r in rules if found[r.name]),
        key=lambda r: np.mean([m.value for m, _ in found[r.name].values()]),
        reverse=True,
    )
    labels = [plain(r.name) for r in order]
    figure = _two_panels("mean regret over the workload, %", "regret of the worst call, %")
    for n in world_sizes:
        colour, symbol, shift = BY_WORLD_SIZE[n]
        mine = [(i, found[r.name][n]) for i, r in enumerate(order) if n in found[r.name]]
        for column in (1, 2):
            estimates = [pair[column - 1] for _, pair in mine]
            _dots(
                figure, [i + shift for i, _ in mine], estimates, f"TP{n}", colour, symbol,
                column, [order[i].words() for i, _ in mine],
            )  # fmt: skip
    _rows(figure, labels)
    load = decision.workload
    subtitle = (
        f"{setting.op}, {setting.dtype}, {setting.kernel.title}; "
        f"{provenance(setting.calibration)}. Workload: "
        f"{np.unique(load.tokens).size} batch sizes x {len(load.hidden_dims())} hidden "
        f"sizes. In percent {OF_FASTER}, modelled; 90 % intervals from the posterior; left edge: "
        f"{FLOOR_PCT:g} % or less."
    )
    title = f"What every rule loses, {plain(setting.gpu)}"
    return finish(figure, title, subtitle, height=170 + 36 * len(labels))


def regret_on_pairs(validation: Validation) -> go.Figure:
    """Return mean and worst regret of every rule on the calls measured with both algorithms.

    The interval of the mean is the bootstrap's over the pairs, with the noise of the rows. The
    worst call is one measurement and has none. Diamonds are the same mean over the workload,
    by the model.
    """
    order = sorted(validation.regret, key=lambda r: r.mean_pct, reverse=True)
    figure = _two_panels("mean regret, %", "regret of the worst pair, %")
    means = [_interval_of_mean(validation, r.rule, r.mean_pct) for r in order]
    at = list(range(len(order)))
    _dots(figure, at, means, "measured pairs", GREEN, "circle", 1)
    worst = [Estimate(r.max_pct, r.max_pct, r.max_pct) for r in order]
    _dots(figure, at, worst, "measured pairs", GREEN, "circle", 2)
    some = [(i, r.modelled_pct) for i, r in enumerate(order) if r.modelled_pct is not None]
    _dots(
        figure, [i + 0.25 for i, _ in some], [e for _, e in some],
        "over the workload, by the model", PURPLE, "diamond", 1,
    )  # fmt: skip
    _rows(figure, [plain(r.rule) for r in order])
    sources = sorted(set(validation.pairs.source.tolist()))
    gpus = ", ".join(sorted(set(validation.pairs.gpu.tolist())))
    ranks = ", ".join(f"TP{n}" for n in np.unique(validation.pairs.world_size))
    subtitle = (
        f"{len(validation.pairs)} calls measured with both algorithms ({plain(gpus)}, {ranks}: "
        f"{plain(', '.join(sources))}); in percent {OF_FASTER}; 90 % intervals by bootstrap. "
        f"{provenance(validation.calibration)}. Left edge: {FLOOR_PCT:g} % or less."
    )
    if set(sources) & set(validation.own_sources):
        subtitle += " The calibration was fitted on these rows."
    return finish(figure, "Rules on measured pairs", subtitle, height=180 + 30 * len(order))


def _interval_of_mean(validation: Validation, name: str, mean: float) -> Estimate:
    """Return a rule's mean regret on the pairs with the bootstrap's interval."""
    pairs = validation.pairs
    version = validation.advice[0].setting.aiter_version
    known = {r.name: r for r in (*catalogue(), ALWAYS_1STAGE, ALWAYS_2STAGE)}
    choice: np.ndarray
    if name == "recommended":
        choice = recommended_choice(pairs, validation.advice)
    elif name in known:
        choice = pairs.use_1stage(known[name], version)
    else:
        return Estimate(mean, mean, mean)
    pct = 100 * (pairs.chosen_us(choice) / pairs.fastest_us - 1)
    lo, hi = np.quantile(bootstrap_means(pct[:, None]), [TAIL, 1 - TAIL])
    return Estimate(mean, max(0.0, float(lo)), float(hi))


def difference_from_best(decision: Decision, hidden_dim: int) -> go.Figure:
    """Return, per rule and captured batch size, how far above the faster algorithm it runs."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    setting, world_sizes = decision.setting, in_order(decision.world_sizes)
    rules = field(decision)
    load = Workload.of([hidden_dim])
    figure = make_subplots(
        rows=len(world_sizes), cols=1, shared_xaxes=True, vertical_spacing=0.07,
        subplot_titles=[f"TP{n}" for n in world_sizes],
    )  # fmt: skip
    height = 0
    for row, n in enumerate(world_sizes, start=1):
        arms = Arms.of(setting, load, n)
        claimed = [r for r in rules if n in r.world_sizes][::-1]
        z, lo, hi, runs = [], [], [], []
        for rule in claimed:
            choice = arms.use_1stage(rule)
            loss = 100 * (arms.chosen_us(choice) / arms.fastest_us - 1)
            z.append(loss.mean(0))
            ends = np.quantile(loss, [TAIL, 1 - TAIL], axis=0)
            lo.append(ends[0])
            hi.append(ends[1])
            runs.append(np.where(choice, *map(arm, setting.arms)))
        figure.add_trace(
            go.Heatmap(
                x=[str(t) for t in arms.shapes.tokens],
                y=[plain(r.name) for r in claimed],
                z=np.round(z, 2),
                coloraxis="coloraxis",
                xgap=1,
                ygap=1,
                customdata=np.dstack([np.round(lo, 1), np.round(hi, 1), np.array(runs)]),
                hovertemplate="%{y}: %{customdata[2]} at %{x} tokens<br>%{z:.1f} % above the "
                "faster one (%{customdata[0]} to %{customdata[1]})" + f"<extra>TP{n}</extra>",
            ),
            row,
            1,
        )
        height += len(claimed)
        named = [str(t) for t in arms.shapes.tokens if t in (1, 8, 32, 64, 128, 192, 256, 384, 512)]
        figure.update_xaxes(
            type="category", tickvals=named, showgrid=False, ticks="", row=row, col=1
        )
    figure.update_yaxes(showgrid=False, ticks="", tickfont={"size": 11})
    figure.update_xaxes(title="tokens (captured batch sizes)", row=len(world_sizes), col=1)
    figure.update_layout(
        coloraxis={
            "cmin": 0,
            "cmax": FULL_PCT,
            "autocolorscale": True,
            "colorbar": {
                "title": {"text": "% above<br>best", "font": {"size": 12}},
                "ticksuffix": " %",
                "thickness": 12,
                "outlinewidth": 0,
            },
        }
    )
    subtitle = (
        f"{setting.op}, {setting.dtype}, hidden {hidden_dim}, {setting.kernel.title}; "
        f"{provenance(setting.calibration)}. "
        f"Expected over the posterior; modelled latencies, {plain(benchmark(setting.reference))}."
    )
    return finish(
        figure, f"Difference from the faster algorithm, {plain(setting.gpu)}", subtitle,
        height=150 + 60 * len(world_sizes) + 17 * height, legend="none",
    )  # fmt: skip


def _two_panels(left: str, right: str) -> go.Figure:
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, title in ((1, left), (2, right)):
        figure.update_xaxes(
            type="log", title=title, tickvals=[0.02, 0.1, 1, 10, 100],
            ticktext=["≤ 0.02", "0.1", "1", "10", "100"], row=1, col=column,
        )  # fmt: skip
    return figure


def _dots(
    figure: go.Figure,
    y: Sequence[float],
    estimates: Sequence[Estimate],
    name: str,
    colour: str,
    symbol: str,
    column: int,
    words: Sequence[str] | None = None,
) -> None:
    import plotly.graph_objects as go

    value, lo, hi = (
        np.maximum([getattr(e, k) for e in estimates], FLOOR_PCT) for k in ("value", "lo", "hi")
    )
    shown = np.array([[e.value, e.lo, e.hi] for e in estimates])
    text = [plain(w) for w in words] if words is not None else [""] * len(estimates)
    figure.add_trace(
        go.Scatter(
            x=value,
            y=y,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": hi - value,
                "arrayminus": value - lo,
                "color": colour,
                "thickness": 1.5,
                "width": 0,
            },
            name=name,
            legendgroup=name,
            showlegend=column == 1,
            text=text,
            customdata=shown,
            hovertemplate="%{customdata[0]:.2f} % (%{customdata[1]:.2f} to %{customdata[2]:.2f})"
            f"<br>%{{text}}<extra>{name}</extra>",
        ),
        1,
        column,
    )


def _rows(figure: go.Figure, labels: Sequence[str]) -> None:
    """Name the rows, and set the recommended rule's name in bold."""
    bold = [f"<b>{name}</b>" if name == "recommended" else name for name in labels]
    figure.update_yaxes(
        tickvals=list(range(len(labels))), ticktext=bold, range=[-0.6, len(labels) - 0.4],
        showgrid=True,
    )  # fmt: skip
    high = max(
        (float(np.max(t.x + t.error_x.array)) for t in figure.data if len(t.x)), default=100.0
    )
    figure.update_xaxes(range=np.log10([FLOOR_PCT * 0.8, max(1.0, high) * 1.3]).tolist())


__all__ = ["difference_from_best", "field", "regret_on_pairs", "regret_over_workload"]
