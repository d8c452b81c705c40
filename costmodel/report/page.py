"""The report as one HTML page that needs nothing else: figures, script and style are inside it.

What is large, plotly's script and the data, is carried compressed (gzip in base64) and unpacked by
the browser's own ``DecompressionStream``, so that the page can be attached.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ..show.templating import environment
from .pictures import Picture
from .text import TEMPLATES

if TYPE_CHECKING:
    import jinja2


def render(context: Mapping[str, Any], explorer: Mapping[str, Any]) -> str:
    """Return the page, from what :func:`.text.context` gives and each GPU's explorer."""
    from ..figures.template import template

    data = {
        "templates": {
            name: template(dark=name == "dark").to_plotly_json() for name in ("light", "dark")
        },
        "figures": {p.name: _figure(p) for p in context["pictures"]},
        "explorer": explorer,
    }
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            context,
            explored=bool(explorer),
            data=packed(json.dumps(data, allow_nan=False, separators=(",", ":"))),
            plotly=_plotly(),
            style=_asset("page.css"),
            script=_asset("page.js"),
        )
    )


def packed(text: str) -> str:
    """Return text as gzip in base64, the same on every run."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return packed(get_plotlyjs())


@cache
def _environment() -> jinja2.Environment:
    return environment(TEMPLATES)


def _figure(picture: Picture) -> dict[str, Any]:
    """Return a figure as JSON data without its template, which the page holds once."""
    record: dict[str, Any] = json.loads(picture.figure.to_json())
    record["layout"].pop("template", None)
    return record


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
