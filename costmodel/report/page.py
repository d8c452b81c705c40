"""The report as one HTML page that needs nothing else: figures, script and style are inside it."""

from __future__ import annotations

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
    """Return the page, from what :func:`.text.context` and :func:`.explorer.explorer` give."""
    from plotly.offline import get_plotlyjs

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
            data=data,
            plotly=get_plotlyjs(),
            style=_asset("page.css"),
            script=_asset("page.js"),
        )
    )


@cache
def _environment() -> jinja2.Environment:
    made = environment(TEMPLATES)
    # The data stands in a script element; what could end it is written as \u escapes by jinja2.
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def _figure(picture: Picture) -> dict[str, Any]:
    """Return a figure as JSON data without its template, which the page holds once."""
    record: dict[str, Any] = json.loads(picture.figure.to_json())
    record["layout"].pop("template", None)
    return record


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
