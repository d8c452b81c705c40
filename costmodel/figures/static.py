"""PNG and SVG files of figures, drawn by kaleido in a headless Chrome or Chromium.

Kaleido 1 and later brings no browser. It takes the one that ``BROWSER_PATH`` names, else a Chrome
or Chromium on the path or at its usual place, and runs it without a sandbox, so that root can use
it too. ``apt-get install chromium`` or ``kaleido_get_chrome`` gives one.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .template import WIDTH

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Pixels per unit: figures are read on dense screens.
SCALE = 2.0

#: Kinds of file that can be written.
KINDS = (".png", ".svg")

#: Names under which browsers are installed.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

HOW = "install one (apt-get install chromium, or kaleido_get_chrome) or name it in BROWSER_PATH"


class NoBrowserError(InputError):
    """Figures cannot be drawn to files: kaleido or a browser is missing, or does not start."""


def browser() -> str | None:
    """Return the browser that ``BROWSER_PATH`` names or that stands on the path, if any."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if shutil.which(named) else None
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def write_images(
    figures: Mapping[Path, go.Figure], *, width: int = WIDTH, scale: float = SCALE
) -> None:
    """Write each figure to its path, as the suffix says: ``.png`` or ``.svg``.

    One browser draws them all. Raises :class:`NoBrowserError` when there is none, with what to do
    about it, and :class:`InputError` for another suffix.
    """
    for path in figures:
        if path.suffix not in KINDS:
            raise InputError(f"{path}: cannot draw to '{path.suffix}'; one of {', '.join(KINDS)}")
    try:
        import kaleido

        draw = kaleido.write_fig_from_object_sync
    except (ImportError, AttributeError):
        raise NoBrowserError(
            "static figures need kaleido 1 or later: pip install 'xgmi-costmodel[figures]'"
        ) from None
    # What goes wrong is said once, by the exception.
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)
    jobs = []
    for path, figure in figures.items():
        sized = figure.to_dict()
        sized["layout"]["width"] = width
        kind = path.suffix.removeprefix(".")
        jobs.append({"fig": sized, "path": str(path), "opts": {"format": kind, "scale": scale}})
    try:
        # MathJax would be fetched from the network.
        draw(jobs, kopts={"mathjax": False, "n": 1})
    except Exception as error:  # kaleido and choreographer raise many kinds
        raise NoBrowserError(_reason(error)) from None
    missing = [str(path) for path in figures if not path.is_file()]
    if missing:
        raise NoBrowserError(f"the browser drew no {missing[0]}; {HOW}")


def _reason(error: Exception) -> str:
    """Return one line on why no browser could draw."""
    named = os.environ.get("BROWSER_PATH")
    if type(error).__name__ == "ChromeNotFoundError":
        where = f"no browser at BROWSER_PATH={named}" if named else "no Chrome or Chromium found"
        return f"{where}; {HOW}"
    which = f" ({named})" if named else ""
    return f"the browser{which} failed to draw ({type(error).__name__}); {HOW}"
