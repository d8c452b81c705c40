"""``costmodel plot``."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..files import check_free, replacing
from ..model.shape import WORLD_SIZES
from . import options
from .report_case import PROJECTS, case_options, gathered

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from click.shell_completion import CompletionItem

#: The figure of a tuning's record, which no report has.
TUNE = "tune"

#: Kinds of file: images, which a browser draws, and plotly's own page and record.
KINDS = (".png", ".svg", ".html", ".json")


def _figures(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from ..report.pictures import NAMES

    ranks = [name.replace("tpN", f"tp{n}") for name in NAMES for n in WORLD_SIZES[1:]]
    return options.completed(dict.fromkeys([*ranks, TUNE]), incomplete)


@click.command()
@click.argument("name", required=False, default="", shell_complete=_figures)
@partial(case_options, required=False)
@click.option(
    "--record", metavar="DIR", type=click.Path(path_type=Path),
    help=f"For '{TUNE}': what costmodel tune --out wrote, ended or not.",
)  # fmt: skip
@click.option(
    "--width", type=click.IntRange(300, 4000), default=900, show_default=True,
    help="Width of a .png or .svg in pixels (twice as many in a .png).",
)  # fmt: skip
@click.option("--dark", is_flag=True, help="For a dark page.")
@click.option("--out", metavar="FILE", help=f"File to write: {', '.join(KINDS)}.")
@click.option("--force", is_flag=True, help="Replace the file.")
def command(
    name: str,
    record: Path | None,
    width: int,
    dark: bool,
    out: str | None,
    force: bool,
    **asked: Any,
) -> None:
    """Draw one figure of the report; without a name, list them with what they show.

    Of a report on several archs or GPUs each figure has the GPU before its name, as
    mi300x-worth. 'tune' draws the record of a tuning, step by step.

    \b
    costmodel plot --arch gfx950 --model gpt-oss-120b --for sglang
    costmodel plot latency-tp4 --arch gfx950 --model gpt-oss-120b --for sglang --out latency.png
    costmodel plot tune --record tuned --out tune.png
    """
    from ..report.pictures import NAMES, check_name, picture, shown_of

    if name:
        check_name(name, (TUNE,))
    if (name == TUNE) != (record is not None):
        raise InputError(f"'{TUNE}' and --record DIR go together")
    path = Path(out) if out else None
    if path is not None and path.suffix not in KINDS:
        raise InputError(f"{out}: cannot draw to '{path.suffix}'; one of {', '.join(KINDS)}")
    if name and path is None:
        raise InputError(f"give --out FILE for the figure: {', '.join(KINDS)}")
    if path is not None:
        check_free(path, force)
    if record is not None:
        from ..tuning.picture import picture as of_tuning
        from ..tuning.session import Session

        assert path is not None
        _write(of_tuning(Session.open(record)), path, width, dark)
        options.say(f"wrote {shlex.quote(str(path))}: what the tuning in {record} knew, by shape")
        return
    if not asked["engine"]:
        raise InputError(
            f"give --for PROJECT ({', '.join(PROJECTS)}) and --model: whose report is drawn; "
            f"figures: {', '.join((*NAMES, TUNE))}"
        )
    cases = gathered(asked).cases
    if not name:
        from ..show.table import table

        rows = [(p.name, p.words) for p in shown_of(cases)]
        options.say(table(rows, ("figure", "shows")))
        return
    assert path is not None
    drawn = picture(cases, name)
    _write(drawn.figure, path, width, dark)
    options.say(f"wrote {shlex.quote(str(path))}: {drawn.words}")


def _write(figure: go.Figure, path: Path, width: int, dark: bool) -> None:
    """Write a figure as the suffix of its file says."""
    from ..figures.template import template

    figure = figure.update_layout(template=template(dark))
    if path.suffix in (".png", ".svg"):
        from ..figures.static import write_images

        write_images({path: figure}, width=width)
    else:
        whole = path.suffix == ".html"
        with replacing(path) as file:
            file.write(figure.to_html(include_plotlyjs=True) if whole else figure.to_json())
