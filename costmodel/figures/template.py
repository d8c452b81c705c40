"""The look that every figure shares: colours, template, title with evidence, escaping.

Colours are those of Okabe and Ito, which people with any common colour blindness can tell apart
(Wong, "Points of view: Color blindness", Nature Methods 8 (2011), 441). Meaning never hangs on
colour alone: arms differ in dash and marker, rules in dash and label.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ..model.fabric import FULL_MESH
from ..show.place import fabric
from ..show.words import arm, evidence

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..calibration.posterior import Calibration
    from ..decide.setting import Setting

#: Okabe and Ito's palette without black, which does not show on a dark page.
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"

#: Readable on white and on the dark page alike (contrast about 4.5 to both).
NEUTRAL = "#7A7F87"

#: The two algorithms and the third arm, everywhere.
ARM_COLOUR = {"1stage": BLUE, "2stage": VERMILLION, "separate": GREEN}
ARM_DASH = {"1stage": "solid", "2stage": "dash", "separate": "dot"}

#: Width in pixels of a figure in a pull request, and its usual height.
WIDTH = 900
HEIGHT = 460

#: Pixels for a line of the subtitle and of the title on the narrowest page that a figure is read
#: on, 700 pixels with its margins, and the sizes of their letters.
LINE_PX, SUBTITLE_SIZE, TITLE_SIZE = 620, 12, 17

#: Widths of letters in units of the size, of Arial and what has its measures; others are 0.556.
_WIDTHS = {
    **dict.fromkeys("ijl'|", 0.222), **dict.fromkeys("ft.,:;/!()[]I -", 0.3),
    **dict.fromkeys("ckrsvxyz", 0.5), **dict.fromkeys("ABEKPSVXY&", 0.667),
    **dict.fromkeys("CDHNRUGOQw", 0.75), **dict.fromkeys("mM%W@", 0.9), "r": 0.333,
}  # fmt: skip

#: Colour scales by theme, from the page's own ground to strong colours, so that no cell glares on a
#: dark page: differences with a sign, and those without.
SCALES = {
    False: {
        "diverging": [
            [0.0, VERMILLION], [0.25, "#EFA66B"], [0.5, "#F7F7F5"], [0.75, "#7FB7DC"], [1.0, BLUE],
        ],
        "sequential": [[0.0, "#F4F5F6"], [0.2, "#FBD9B4"], [0.5, ORANGE], [1.0, "#8C3A00"]],
    },
    True: {
        "diverging": [
            [0.0, VERMILLION], [0.25, "#7F4015"], [0.5, "#23282D"], [0.75, "#1B4F70"], [1.0, BLUE],
        ],
        "sequential": [[0.0, "#1D2227"], [0.2, "#4E3814"], [0.5, "#A87300"], [1.0, "#E0A040"]],
    },
}  # fmt: skip

FONT = "Arial, Helvetica, Liberation Sans, sans-serif"


@cache
def template(dark: bool = False) -> go.layout.Template:
    """Return the template for a light or a dark page, made once: a figure takes a copy of it."""
    import plotly.graph_objects as go

    ink, grid, paper = ("#DDE1E6", "#343A41", "#14171A") if dark else ("#22262B", "#E3E6EA", "#FFF")
    axis = {
        "gridcolor": grid,
        "linecolor": NEUTRAL,
        "tickcolor": NEUTRAL,
        "zerolinecolor": NEUTRAL,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "automargin": True,
        "minor": {"ticklen": 3, "tickcolor": NEUTRAL},
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    layout = go.Layout(
        font={"family": FONT, "size": 13, "color": ink},
        paper_bgcolor=paper,
        plot_bgcolor=paper,
        colorway=[BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, NEUTRAL],
        colorscale=SCALES[dark],
        title={
            "x": 0.0, "xref": "container", "xanchor": "left", "pad": {"l": 12},
            "y": 1.0, "yref": "container", "yanchor": "top",
            "font": {"size": TITLE_SIZE},
            "subtitle": {"font": {"size": SUBTITLE_SIZE, "color": NEUTRAL}},
        },
        xaxis=axis,
        yaxis=axis,
        legend={"bgcolor": "rgba(0,0,0,0)", "font": {"size": 12}},
        hoverlabel={"font": {"family": FONT, "size": 12}},
        annotationdefaults={"font": {"size": 12}, "arrowcolor": NEUTRAL},
        shapedefaults={"line": {"color": NEUTRAL}},
        margin={"l": 64, "r": 24, "t": 88, "b": 60},
    )  # fmt: skip
    # Lines to which a figure gives no colour lie on a map of colours and contrast with its middle.
    drawn = {"scatter": [{"line": {"color": ink}}], "contour": [{"line": {"color": ink}}]}
    return go.layout.Template(layout=layout, data=drawn)


def finish(
    figure: go.Figure,
    title: str,
    subtitle: str = "",
    *,
    height: int = HEIGHT,
    legend: str = "bottom",
) -> go.Figure:
    """Give a figure the template, its title and the line that states units and evidence.

    ``legend`` is ``bottom`` (a row under the plot), ``right`` or ``none``. ``title`` and
    ``subtitle`` may hold plotly's markup; escape what users wrote with :func:`plain`.
    """
    lines, titles = wrapped(subtitle), wrapped(title, TITLE_SIZE)
    # Titles of panels are annotations that make_subplots sets larger than everything else.
    names = [a.text for a in figure.layout.annotations if a.font.size == 16]
    panels = max((1 + name.count("<br>") for name in names), default=0)
    top = 22 + 22 * len(titles) + 16 * len(lines) + 16 * panels
    figure.update_layout(
        template=template(),
        title={
            "text": "<br>".join(titles),
            "subtitle": {"text": "<br>".join(lines)},
            "pad": {"t": 14, "l": 12},
        },
        width=None,
        height=height + 22 * (len(titles) - 1) + 16 * max(0, len(lines) - 2),
        autosize=True,
        margin={"t": top + 14},
        showlegend=legend != "none",
    )  # fmt: skip
    figure.update_annotations(patch={"font": {"size": 14}}, selector={"font": {"size": 16}})
    if legend == "bottom":
        figure.update_layout(
            legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom",
                    "x": 0.0, "xanchor": "left"}
        )  # fmt: skip
    return figure


def wrapped(text: str, size: float = SUBTITLE_SIZE) -> list[str]:
    """Return text as lines that fit a figure on a narrow page, in letters of a size in pixels."""
    lines = []
    for part in text.split("<br>"):
        line = ""
        for word in _broken(part.split(), size):
            longer = f"{line} {word}" if line else word
            if line and width_px(longer, size) > LINE_PX:
                lines.append(line)
                longer = word
            line = longer
        if line:
            lines.append(line)
    return lines


def _broken(words: list[str], size: float) -> list[str]:
    """Return words, those that no line holds in pieces; an escaped character stays whole."""
    out = []
    for word in words:
        piece = ""
        for letter in re.findall(r"&[#\w]+;|.", word) if width_px(word, size) > LINE_PX else [word]:
            if piece and width_px(piece + letter, size) > LINE_PX:
                out.append(piece)
                piece = ""
            piece += letter
        out.append(piece)
    return out


def width_px(text: str, size: float) -> float:
    """Return about how wide text is drawn, without its markup."""
    shown = html.unescape(re.sub(r"<[^>]*>", "", text))
    return size * sum(_WIDTHS.get(c, 0.556) for c in shown)


def plain(text: object) -> str:
    """Return text for a figure with nothing in it taken for markup.

    Plotly reads a subset of HTML and expands ``%{...}`` in hover templates.
    """
    return html.escape(str(text), quote=True).replace("%{", "%&#123;")


def evidence_line(setting: Setting, world_size: int) -> str:
    """Return what the two arms' latencies at a world size rest on, for a figure's subtitle."""
    from ..calibration.row_accounts import said_of
    from ..decide.evidence import arms_evidence

    parts = []
    for rests_on in arms_evidence(setting, world_size):
        name = arm(rests_on.arm)
        if not rests_on.here:
            aside = said_of(
                setting.calibration.data.get("aside", ()),
                gpu=setting.gpu, world_size=world_size, op=setting.op, algorithm=rests_on.arm,
            )  # fmt: skip
            parts.append(f"{name} transferred ({plain(aside or 'never measured here')})")
            continue
        sources = plain(", ".join(rests_on.sources))
        parts.append(f"{name} {evidence(rests_on.word)} ({rests_on.count} rows: {sources})")
    return "Evidence: " + "; ".join(parts)


def provenance(calibration: Calibration) -> str:
    """Return the calibration's name, how many rows it rests on, and a fabric other than xGMI's."""
    data = calibration.data
    wired = "" if calibration.fabric == FULL_MESH else f"; {fabric(calibration.fabric)}"
    count = len(data.get("sources", ()))
    return plain(
        f"calibration {calibration.id} ({data.get('rows_used', '?')} rows, "
        f"{count} source{'s' * (count != 1)}{wired})"
    )


def in_order(world_sizes: Sequence[int]) -> list[int]:
    """Return numbers of ranks as panels have them: 2, which physics decides, comes last."""
    return sorted(world_sizes, key=lambda n: (n == 2, n))


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Return ticks 1, 2, 5 x 10^k inside a range, for a logarithmic axis of microseconds."""
    import math

    found: list[float] = []
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        found += [m * 10.0**exponent for m in (1, 2, 5)]
    found = [v for v in found if low * 0.999 <= v <= high * 1.001]
    return found, [f"{v:g}" for v in found]


def byte_ticks(low: float, high: float) -> tuple[list[int], list[str]]:
    """Return the powers of two inside a range of bytes, at most eight of them named."""
    from ..units import kib

    found = [1 << k for k in range(4, 40) if low <= 1 << k <= high]
    step = 1 + (len(found) - 1) // 8
    return found, [kib(v) if i % step == 0 else "" for i, v in enumerate(found)]


def faded(colour: str, alpha: float) -> str:
    """Return a colour with some of it let through."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def band(x: Any, lo: Any, hi: Any, colour: str, name: str, **more: Any) -> go.Scatter:
    """Return a filled band between two curves over the same x."""
    import numpy as np
    import plotly.graph_objects as go

    return go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([hi, lo[::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=faded(colour, 0.18),
        line={"width": 0},
        hoverinfo="skip",
        name=name,
        **more,
    )
