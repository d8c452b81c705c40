"""``costmodel doctor``."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal, TypedDict

import click

from ..live.machine import CheckRecord
from . import options

if TYPE_CHECKING:
    from ..live.machine import Check


class AbilityRecord(TypedDict):
    """One thing to do here, and what it lacks."""

    what: str
    possible: bool
    lacks: list[str]


class DoctorRecord(TypedDict):
    """``costmodel/doctor/1``."""

    schema: Literal["costmodel/doctor/1"]
    checks: list[CheckRecord]
    abilities: list[AbilityRecord]


#: Colours of what a check can end with.
COLOURS = {"ok": "green", "missing": "yellow", "wrong": "red", "note": "cyan"}


@click.command()
@options.format_option
def command(style: str) -> None:
    """Say what this machine can do: packages, GPUs, links, browser; and what to install.

    Keep its output with a report of an error. torch and triton are imported, in a process of their
    own, only where they are installed. The exit code is 0 whatever is missing.

    \b
    costmodel doctor
    costmodel doctor --format json
    """
    from ..live.machine import Ability, abilities, look
    from ..show.machine import describe

    figures = _figures()
    checks = (*look(), figures)
    lacks = () if figures.status == "ok" else (figures.advice,)
    can = (*abilities(checks), Ability("figures as PNG and SVG files", lacks))
    if style == "json":
        options.print_json(
            DoctorRecord(
                schema="costmodel/doctor/1",
                checks=[check.to_dict() for check in checks],
                abilities=[
                    {"what": a.what, "possible": not a.lacks, "lacks": list(a.lacks)} for a in can
                ],
            )
        )
        return
    click.echo(describe(checks, can, lambda text, status: click.style(text, fg=COLOURS[status])))


def _figures() -> Check:
    """Look for what draws figures to files, without starting it."""
    from ..figures.static import HOW, browser
    from ..live.machine import MISSING, OK, Check

    named = browser()
    if importlib.util.find_spec("kaleido") is None:
        return Check("browser", MISSING, f"{named or 'none'}; no kaleido", "pip install kaleido")
    if named is None:
        return Check("browser", MISSING, "no Chrome or Chromium", HOW)
    return Check("browser", OK, f"{named}, with kaleido")
