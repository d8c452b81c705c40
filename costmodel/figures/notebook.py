"""Figures in a notebook: a picture for whoever reads the page, plotly for whoever runs it, sliders.

A page without a kernel, as GitHub shows it, draws neither plotly nor widgets. :func:`inline` puts a
PNG beside each figure, drawn by kaleido in one Chrome or Chromium that stays open; without a
browser the notebook still runs and shows plotly alone. :func:`sliders` needs ``ipywidgets`` (extra
``notebook``) and leaves a line of text where there is no kernel.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .static import browser
from .template import WIDTH

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLOTLY = "plotly_mimetype"
WITH_PICTURE = "costmodel"

#: Pixels per unit of the pictures: sharp at the width of a page, and a notebook stays small.
SCALE = 1.25


def inline(*, scale: float = SCALE) -> str:
    """Choose how figures show in this notebook; return the name of plotly's renderer.

    ``costmodel`` gives each figure as plotly and as PNG, ``plotly_mimetype`` as plotly alone, where
    kaleido or a browser is missing or does not draw.
    """
    import plotly.graph_objects as go
    import plotly.io as pio
    from plotly.io.base_renderers import MimetypeRenderer

    class WithPicture(MimetypeRenderer):
        """Plotly's own record, and a picture for pages that do not know it."""

        def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, Any]:
            bundle = pio.renderers[PLOTLY].to_mimebundle(fig_dict)
            encoded = base64.b64encode(_png(fig_dict, scale)).decode()
            title = fig_dict.get("layout", {}).get("title", {}).get("text", "figure")
            return {**bundle, "image/png": encoded, "text/plain": str(title)}

    chosen = WITH_PICTURE
    try:
        if browser() is None:
            raise FileNotFoundError
        _start()
        _png(go.Figure().to_dict(), 1.0)
    except Exception:  # whatever keeps a browser from drawing, the notebook runs without
        chosen = PLOTLY
    else:
        pio.renderers[WITH_PICTURE] = WithPicture()
    pio.renderers.default = chosen
    return chosen


def sliders(draw: Callable[..., go.Figure], **choices: Any) -> None:
    """Show ``draw(**choices)`` below sliders that change its arguments.

    ``choices`` are as for ``ipywidgets.interactive``: tuples (low, high, step) or lists of values.
    Raises :class:`InputError` when ``ipywidgets`` is missing.
    """
    try:
        import ipywidgets
    except ImportError:
        raise InputError(
            "sliders need ipywidgets: pip install 'xgmi-costmodel[notebook]'"
        ) from None
    from IPython.display import display

    box = ipywidgets.interactive(
        lambda **chosen: display(_plotly_only(draw(**chosen)), raw=True), **choices
    )
    for child in box.children:
        if hasattr(child, "continuous_update"):
            child.continuous_update = False
    bundle = box._repr_mimebundle_()
    names = ", ".join(name.replace("_", " ") for name in choices)
    bundle["text/plain"] = f"[sliders over {names}: run this notebook to move them]"
    display(bundle, raw=True)


def _plotly_only(figure: go.Figure) -> dict[str, Any]:
    import plotly.io as pio

    bundle: dict[str, Any] = pio.renderers[PLOTLY].to_mimebundle(figure.to_dict())
    return bundle


def _start() -> None:
    """Start the browser that draws all pictures of this process, once."""
    import logging
    import warnings

    import kaleido

    logging.getLogger("choreographer").setLevel(logging.CRITICAL)
    # Figures that are written to files meanwhile are drawn by the same browser, as it was started.
    warnings.filterwarnings("ignore", message="The kopts argument is ignored")
    # MathJax would be fetched from the network.
    kaleido.start_sync_server(n=1, mathjax=False, silence_warnings=True)


def _png(figure: dict[str, Any], scale: float) -> bytes:
    import kaleido

    sized = {**figure, "layout": {**figure.get("layout", {}), "width": WIDTH}}
    found: bytes = kaleido.calc_fig_sync(sized, opts={"format": "png", "scale": scale})
    return found
