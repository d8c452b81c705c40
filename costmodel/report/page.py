"""The report as one HTML page that needs nothing else: figures, script and style are inside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..show import html as markup
from ..show.document import Block, Picture

#: The page may load nothing and send nothing; plotly draws into data and blob addresses.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)

_HERE = Path(__file__).resolve().parent


def page(
    title: str, blocks: Iterable[Block], pictures: Mapping[str, Picture], explorer: dict[str, Any]
) -> str:
    """Return the page. ``pictures`` by name, ``explorer`` the data of the explorer."""
    from plotly.offline import get_plotlyjs

    from ..figures.template import template

    data = {
        "templates": {
            name: template(dark=name == "dark").to_plotly_json() for name in ("light", "dark")
        },
        "figures": {name: _figure(p) for name, p in pictures.items()},
        "explorer": explorer,
    }
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{markup.escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{markup.escape(title)}</title>",
            f"<style>{_asset('page.css')}</style>",
            "</head>",
            "<body>",
            "<main>",
            '<button id="theme" type="button">Dark</button>',
            markup.render(blocks),
            '<p class="note">One file, no network: it can be attached as it is.</p>',
            "</main>",
            f'<script type="application/json" id="data">{_json(data)}</script>',
            f"<script>{get_plotlyjs()}</script>",
            f"<script>{_asset('page.js')}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _figure(picture: Picture) -> dict[str, Any]:
    """Return a figure as JSON data without its template, which the page holds once."""
    found: dict[str, Any] = json.loads(picture.figure.to_json())
    found["layout"].pop("template", None)
    return found


def _json(data: Any) -> str:
    """Return JSON that may stand inside a script element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
