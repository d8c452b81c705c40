"""``costmodel plot``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from ..files import check_free, replacing
from .report_case import case_options, gathered

#: Kinds of file: images, which a browser draws, and plotly's own page and record.
KINDS = (".png", ".svg", ".html", ".json")


@click.command()
@click.argument("name", required=False, default="")
@case_options
@click.option(
    "--width", type=click.IntRange(300, 4000), default=900, show_default=True,
    help="Width of a .png or .svg in pixels (twice as many in a .png).",
)  # fmt: skip
@click.option("--dark", is_flag=True, help="For a dark page.")
@click.option("--out", metavar="FILE", help=f"File to write: {', '.join(KINDS)}.")
@click.option("--force", is_flag=True, help="Replace the file.")
def command(name: str, width: int, dark: bool, out: str | None, force: bool, **asked: Any) -> None:
    """Draw one figure of the report; without a name, list them with what they show.

    \b
    costmodel plot --arch gfx950 --model gpt-oss-120b --for sglang
    costmodel plot latency-tp4 --arch gfx950 --model gpt-oss-120b --for sglang --out latency.png
    """
    from ..report.pictures import picture, pictures

    path = Path(out) if out else None
    if path is not None and path.suffix not in KINDS:
        raise InputError(f"{out}: cannot draw to '{path.suffix}'; one of {', '.join(KINDS)}")
    if name and path is None:
        raise InputError(f"give --out FILE for the figure: {', '.join(KINDS)}")
    case, *_ = gathered(asked).cases
    if not name:
        from ..show.table import table

        rows = [(p.name, p.words) for p in pictures(case)]
        click.echo(table(rows, ("figure", "shows")))
        return
    assert path is not None
    check_free(path, force)
    drawn = picture(case, name)
    from ..figures.template import template

    figure = drawn.figure.update_layout(template=template(dark))
    if path.suffix in (".png", ".svg"):
        from ..figures.static import write_images

        write_images({path: figure}, width=width)
    else:
        whole = path.suffix == ".html"
        with replacing(path) as file:
            file.write(figure.to_html(include_plotlyjs=True) if whole else figure.to_json())
    click.echo(f"wrote {shlex.quote(str(path))}: {drawn.words}")
