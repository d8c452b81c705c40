"""What moves the cutoff: link rate, rank skew, kernel version."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data import facts
from ..data import kernels as _kernel
from ..decide.decision import Decision
from ..decide.evidence import ALWAYS_ONE_STAGE
from ..decide.sensitivity import Sweep, against_factor, against_jitter, against_version
from ..decide.setting import Setting
from ..errors import InputError
from ..model.parameters import nominal_gbps
from ..model.shape import FUSED, ONE_STAGE
from ..show.place import machine
from .regret import BY_WORLD_SIZE
from .template import NEUTRAL, band, evidence_line, finish, plain, provenance, width_px

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Spreads of arrival looked at, us. A gfx950 decode trace shows ranks 64 us apart
#: (https://github.com/vllm-project/vllm/issues/52911).
JITTER_US = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

#: Width of the plot on the narrowest page.
PLOT_PX = 540

#: Height of a label on a mark, as a share of the plot's.
LABEL_SHARE = 0.075

#: What a release changed, in words: (where the feature has a value from then on, where it has not).
#: Features are those of ``aiter_kernels.csv``.
CHANGED = {
    "plain_1stage_exit_barrier": ("1-stage waits at its end", "1-stage no longer waits at its end"),
    "fused_2stage": ("2-stage comes", "2-stage goes"),
    "fused_2stage_exit_barrier": (
        "2-stage's first kernel waits at its end",
        "2-stage's first kernel no longer waits at its end",
    ),
    "plain_write_mode_above_bytes": (
        "large 2-stage calls push at 8 ranks of gfx942",
        "no 2-stage call pushes",
    ),
    "fused_1stage": ("1-stage comes", "1-stage goes"),
    "fused_1stage_hidden_dims": ("1-stage for a few hidden sizes", "1-stage for any hidden size"),
    "fused_1stage_max_tokens": ("1-stage up to a number of tokens", "1-stage for any batch"),
    "plain_double_buffer": ("1-stage loads ahead", "1-stage no longer loads ahead"),
    "release_acquire": (
        "the wait inside 2-stage flushes memory",
        "the wait inside 2-stage no longer flushes memory",
    ),
    "fused_1stage_exit_barrier": ("1-stage waits at its end", "1-stage no longer waits at its end"),
    "fused_2stage_pack_multiple": ("2-stage for rows of whole KiB", "2-stage for any row"),
    "custom_max_bytes": ("another size limit of a call", "no size limit of a call"),
}


def cutoff_against_link_rate(
    decision: Decision, *, world_sizes: Sequence[int] | None = None
) -> go.Figure:
    """Return the cutoff against the rate of one link, all else as calibrated.

    Marked are the fitted rate of every GPU of the calibration and the nominal one of this GPU.
    """
    setting, calibration, load = decision.setting, decision.setting.calibration, decision.workload
    gpu, ranks = setting.gpu, _crossing(decision, world_sizes)
    name = f"link_gbps[{gpu}]"
    if name not in calibration.names:
        raise InputError(f"calibration {calibration.id} has no link rate of {gpu} to vary")
    now = calibration.values[name]
    factors = np.geomspace(0.25, 2.0, 25)
    figure = _curves(
        [(n, against_factor(setting, n, name, factors, load)) for n in ranks],
        now * factors,
        "GB/s",
        where=machine(setting),
    )
    figure.update_xaxes(
        type="log", title="rate of one link, one direction, GB/s",
        tickvals=[10, 15, 20, 30, 40, 50, 60, 80, 100],
        range=np.log10(now * factors[[0, -1]]).tolist(),
    )  # fmt: skip
    # This GPU is named in the title; others have a mark where their rate is another.
    marks = {"fitted": now}
    for _, g in calibration.gpus:
        rate = calibration.values[f"link_gbps[{g}]"]
        if abs(rate - now) > 0.03 * now:
            marks[f"{g if len(g) <= 16 else g[:15] + '…'} fitted"] = rate
    nominal = nominal_gbps(name)
    if nominal:
        marks["nominal"] = nominal
    _marks(figure, marks)
    subtitle = _subtitle(setting, ranks, "All other parameters as calibrated.")
    return finish(figure, f"Cutoff against link rate, {plain(gpu)}", subtitle, height=430)


def cutoff_against_skew(
    decision: Decision, *, world_sizes: Sequence[int] | None = None
) -> go.Figure:
    """Return the cutoff, and both latencies there, against the spread with which ranks arrive.

    By the closed form, in which every barrier waits for the last rank. ``costmodel simulate``
    follows the ranks one by one.
    """
    setting, calibration, load = decision.setting, decision.setting.calibration, decision.workload
    gpu, ranks = setting.gpu, _crossing(decision, world_sizes)
    if calibration.model.wiring is None:
        raise InputError(f"calibration {calibration.id} has no arrival jitter to vary")
    jitter = np.array(JITTER_US)
    # A logarithmic axis has no zero: no skew stands at its left edge.
    x = np.where(jitter == 0, 0.03, jitter)
    found = [(n, against_jitter(setting, n, jitter, load)) for n in ranks]
    figure = _curves(found, x, "us", where=machine(setting))
    figure.update_xaxes(
        type="log", tickvals=x.tolist(), ticktext=["none", *(f"{j:g}" for j in jitter[1:])],
        title="standard deviation of arrival times, us", range=np.log10([0.025, 120]).tolist(),
    )  # fmt: skip
    subtitle = _subtitle(
        setting,
        ranks,
        "Closed form: every barrier waits for the last rank, so skew adds the same to algorithms "
        "with as many barriers.",
    )
    return finish(figure, f"Cutoff against rank skew, {plain(gpu)}", subtitle, height=400)


def cutoff_against_version(
    decision: Decision,
    *,
    world_sizes: Sequence[int] | None = None,
    versions: Sequence[str] | None = None,
) -> go.Figure:
    """Return the cutoff with the kernels of each AITER release that changed them.

    The calibration stays; what changes is which barriers and limits the kernels have.
    """
    setting, calibration, load = decision.setting, decision.setting.calibration, decision.workload
    gpu, op, ranks = setting.gpu, setting.op, _crossing(decision, world_sizes)
    if calibration.kernel_family != "aiter":
        raise InputError(f"calibration {calibration.id} is not of AITER's kernels")
    asked = list(versions or releases(op))
    one = setting.shapes(1, load.hidden_dims(), 2)
    chosen = [v for v in asked if setting.but(aiter_version=v).takes(one, ONE_STAGE).all()]
    figure = _curves(
        [(n, against_version(setting, n, chosen, load)) for n in ranks],
        np.arange(len(chosen), dtype=float), "", where=machine(setting), shape="hv", names=chosen,
    )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(chosen))), ticktext=_staggered(chosen), tickangle=0,
        title="AITER release (those that changed these kernels)",
        range=[-0.2, len(chosen) - 0.6],
    )  # fmt: skip
    subtitle = _subtitle(setting, ranks, "Kernel facts per release, parameters unchanged.", "")
    notes = [f"{v}: {why}" for v, why in changes(op) if v in asked and why]
    notes += [f"{v} does not take every hidden size" for v in asked if v not in chosen]
    if notes:
        subtitle += f"<br>{plain('; '.join(notes))}."
    return finish(figure, f"Cutoff against kernel version, {plain(gpu)}", subtitle, height=430)


def _staggered(names: Sequence[str]) -> list[str]:
    """Return names of ticks on as many lines in turn as keep neighbours apart on a narrow page."""
    wide = max((width_px(name, 13) for name in names), default=0.0) + 8
    lines = max(1, math.ceil(wide * len(names) / PLOT_PX))
    return ["<br>" * (i % lines) + plain(name) for i, name in enumerate(names)]


def releases(op: str = FUSED) -> list[str]:
    """Return the AITER releases that changed the op's kernels and have both algorithms of it."""
    return [v for v, why in changes(op) if why and (op != FUSED or _kernel.aiter(v).fused_1stage)]


def changes(op: str = FUSED) -> list[tuple[str, str]]:
    """Return (release, what it changed) for the kernels of an op, from the fact file."""
    other = "plain" if op == FUSED else "fused"
    by_release: dict[str, list[str]] = {}
    for row in facts.rows("aiter_kernels.csv"):
        said = by_release.setdefault(row["since_release"], [])
        words = CHANGED[row["feature"]][not row["value"]]
        if not row["feature"].startswith(other) and words not in said:
            said.append(words)
    return [(v, ", ".join(said)) for v, said in by_release.items()]


def _crossing(decision: Decision, world_sizes: Sequence[int] | None) -> list[int]:
    """Return the world sizes to draw: those asked for, else those at which the arms cross."""
    ranks = list(world_sizes or decision.world_sizes)
    return [n for n in ranks if decision.at(n).verdict != ALWAYS_ONE_STAGE] or ranks[:1]


def _curves(
    found: Sequence[tuple[int, Sweep]],
    x: np.ndarray,
    unit: str,
    *,
    where: str,
    shape: str = "linear",
    names: Sequence[str] | None = None,
) -> go.Figure:
    """Draw the cutoff with its band for every world size, over ``x``."""
    import plotly.graph_objects as go

    figure = go.Figure()
    known = [
        a[np.isfinite(a)]
        for _, c in found
        for a in (c.cutoff_bytes, c.lo, c.hi, c.this_kernel_lo, c.this_kernel_hi)
    ]
    top = 1.12 * max((float(a.max()) for a in known if a.size), default=1024.0) / 1024
    for n, curve in found:
        colour, symbol, _ = BY_WORLD_SIZE[n]
        name = f"TP{n}"
        mid, lo, hi, kernel_lo, kernel_hi = (
            a / 1024
            for a in (
                curve.cutoff_bytes, curve.lo, curve.hi, curve.this_kernel_lo, curve.this_kernel_hi,
            )
        )  # fmt: skip
        mid = np.where(np.isfinite(mid), mid, np.nan)
        at = x + (0.03 * (n - 6) / 2 if shape != "linear" else 0.0)
        for low, high, width in ((lo, hi, 1.5), (kernel_lo, kernel_hi, 4.5)):
            inside = np.isfinite(low)
            # An open interval reaches the upper edge, where an arrow says that it goes on.
            opened = inside & ~np.isfinite(high)
            high = np.minimum(high, top)
            if shape == "linear":
                ends = x[inside], low[inside], high[inside]
                figure.add_trace(band(*ends, colour, name, legendgroup=name, showlegend=False))
                continue
            # An interval on its own axis does not hang on the point, which may lie outside it.
            for some, cap in ((inside & ~opened, 5 if width < 2 else 0), (opened, 0)):
                if not some.any():
                    continue
                figure.add_trace(
                    go.Scatter(
                        x=at[some], y=(high + low)[some] / 2, mode="markers", hoverinfo="skip",
                        marker={"size": 0.1, "color": colour}, showlegend=False, legendgroup=name,
                        error_y={
                            "type": "data", "array": (high - low)[some] / 2, "color": colour,
                            "thickness": width, "width": cap,
                        },
                    )
                )  # fmt: skip
            if opened.any():
                figure.add_trace(
                    go.Scatter(
                        x=at[opened], y=np.full(int(opened.sum()), 0.985 * top), mode="markers",
                        marker={"symbol": "triangle-up", "size": 11, "color": colour},
                        name=f"{name}: no upper end", showlegend=False, legendgroup=name,
                        hovertemplate="no upper end<extra>" + name + "</extra>",
                    )
                )  # fmt: skip
        labels = list(names) if names is not None else [f"{v:.4g} {unit}" for v in x]
        figure.add_trace(
            go.Scatter(
                x=at,
                y=mid,
                mode="lines+markers" if shape != "linear" or x.size < 12 else "lines",
                line={"color": colour, "width": 2.5, "shape": shape},
                marker={"symbol": symbol, "size": 8},
                name=name,
                legendgroup=name,
                text=[plain(v) for v in labels],
                customdata=np.column_stack([lo, hi, kernel_lo, kernel_hi]),
                hovertemplate="%{text}: %{y:.0f} KiB (%{customdata[0]:.0f} to "
                f"%{{customdata[1]:.0f}} on {where}, %{{customdata[2]:.0f}} to "
                f"%{{customdata[3]:.0f}} for this kernel)<extra>{name}</extra>",
            )
        )
    figure.update_yaxes(title="recommended cutoff, KiB on one rank", range=[0, top])
    return figure


def _marks(figure: go.Figure, marks: dict[str, float]) -> None:
    """Mark values on the logarithmic x axis; each line ends at its label, a step below the last.

    So no line runs through the label of another. The labels stand above all curves.
    """
    by_value = sorted(marks.items(), key=lambda m: m[1])
    low, top = figure.layout.yaxis.range
    figure.update_yaxes(range=[low, top / (1 - LABEL_SHARE * len(by_value))])
    for level, (name, value) in enumerate(by_value):
        y = 0.99 - LABEL_SHARE * level
        figure.add_shape(
            type="line", x0=value, x1=value, y0=0, y1=y, yref="paper",
            line={"color": NEUTRAL, "width": 1, "dash": "dot"},
        )  # fmt: skip
        figure.add_annotation(
            x=np.log10(value), y=y, yref="paper", yanchor="top",
            xanchor="left", text=f" {plain(name)} {value:.0f}", showarrow=False,
            font={"size": 11},
        )  # fmt: skip


def _subtitle(
    setting: Setting, world_sizes: Sequence[int], words: str, version: str | None = None
) -> str:
    ran = f", {setting.kernel.title}" if version is None else version
    lines = [
        f"{setting.op}, {setting.dtype}{ran}; {provenance(setting.calibration)}. "
        f"90 % intervals: light or thin, {machine(setting)}; dark or thick, this kernel. {words}"
    ]
    texts = [evidence_line(setting, n) for n in world_sizes]
    if len(set(texts)) == 1:
        lines.append(f"{texts[0]}.")
    else:
        lines += [
            f"TP{n}: {text.removeprefix('Evidence: ')}."
            for n, text in zip(world_sizes, texts, strict=True)
        ]
    return "<br>".join(lines)
