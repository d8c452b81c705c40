"""``costmodel doctor``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import click

from ..errors import InputError
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
@click.option("--backend", metavar="NAME", help="Look through a back end of measure, on all ranks.")
@click.option("--tp", type=int, metavar="N", help="Its ranks, where torchrun does not say it.")
@click.option("--out", type=click.Path(path_type=Path), help="Directory of its environment.json.")
@options.watchdog
@options.format_option
@click.pass_context
def command(
    ctx: click.Context,
    backend: str | None,
    tp: int | None,
    out: Path | None,
    watchdog: float,
    style: str,
) -> None:
    """Say what this machine can do: packages, GPUs, links, browser; and what to install.

    Keep its output with a report of an error. torch and triton are imported, in a process of their
    own, only where they are installed. The exit code is 0 whatever is missing.

    With --backend it is a first run: devices, rates of the links, version and state of the kernels,
    agreement of the forced stages, a captured graph, the cost of the smallest call, memory over 200
    captures. It ends with "ready" (exit code 0) or with what to do (1).

    \b
    costmodel doctor
    costmodel doctor --format json
    torchrun --nproc-per-node=8 -m costmodel doctor --backend aiter --out run-tp8
    """
    if backend is not None:
        ctx.exit(_first_run(backend, tp, out, watchdog, style))
    for name, given in (("--tp", tp), ("--out", out)):
        if given is not None:
            raise InputError(f"{name} belongs to --backend; give a back end, or leave it out")
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
    options.say(describe(checks, can, _paint), coloured=True)


def _first_run(
    backend: str, tp: int | None, out: Path | None, watchdog_s: float, style: str
) -> int:
    from ..live.run.checkup import to_do
    from ..live.run.launch import look_through
    from ..show.machine import describe_checks, describe_verdict

    def tell(checks: Sequence[Check]) -> None:
        lacks = to_do(checks)
        if style == "json":
            options.print_json(
                DoctorRecord(
                    schema="costmodel/doctor/1",
                    checks=[check.to_dict() for check in checks],
                    abilities=[
                        {
                            "what": f"measure --backend {backend}",
                            "possible": not lacks,
                            "lacks": lacks,
                        }
                    ],
                )
            )
            return
        options.say(describe_checks(checks, _paint), coloured=True)
        options.say(f"\n{describe_verdict(lacks)}")

    if not watchdog_s > 0:
        raise InputError(f"--watchdog is {watchdog_s:g}; give seconds, more than 0")
    return look_through(backend, tp, out, watchdog_s, tell)


def _paint(text: str, status: str) -> str:
    return click.style(text, fg=COLOURS[status])


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
