"""Writing a report: Markdown, pictures, the page and the rule, into one directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from ..errors import InputError
from ..figures.static import NoBrowserError, write_images
from ..files import json_text
from . import markdown, page
from .case import Case
from .commands import rule_file_of
from .explorer import explored
from .pictures import Picture, shown_of
from .text import context

MARKDOWN, PAGE = "report.md", "report.html"


class Written(Struct, frozen=True):
    """What was written: the title, files in the directory, and why pictures are missing, if so."""

    directory: Path
    title: str
    files: tuple[str, ...]
    without_images: str


def write(
    cases: Sequence[Case],
    out: str | Path,
    *,
    command: str,
    project: str = "",
    notice: str = "",
    force: bool = False,
) -> Written:
    """Write the report on one or several GPUs into the directory ``out``, whole or not at all.

    ``command`` is the command line that the report names, ``project`` whose headings the text has
    (default: the engine's); ``notice`` stands before the title. Without a browser there are no
    pictures beside the text. Raises :class:`InputError` when ``out`` is there and not empty, unless
    ``force``; then the report's files are replaced and others left alone.
    """
    out = Path(out)
    check_free(out, force)
    shown = shown_of(cases)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise InputError(f"{out}: cannot write: {error.strerror}") from None
    try:
        drawn, missing = _images(_first(cases, shown), temporary)
        given = context(
            cases,
            command,
            str(out),
            project=project,
            notice=notice,
            shown=shown,
            drawn=sorted(drawn),
        )
        _write(temporary / MARKDOWN, markdown.render(given))
        _write(temporary / PAGE, page.render(given, explored(cases)))
        for case in (c for c in cases if c.claims):
            rule = json_text(case.new.to_json(case.provenance), indent=2)
            _write(temporary / rule_file_of(case, len(cases) > 1), rule)
        files = tuple(sorted(p.name for p in temporary.iterdir()))
        _move(temporary, out)
    except OSError as error:
        raise InputError(f"{out}: cannot write: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Written(out, given["title"], files, missing)


def check_free(out: Path, force: bool) -> None:
    """Raise :class:`InputError` when the directory cannot take a report."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a directory")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise InputError(f"{out}: exists and is not empty; --force replaces the report in it")


def _first(cases: Sequence[Case], shown: Sequence[Picture]) -> list[Picture]:
    """Return the pictures that are written as files: those of the cutoffs, the worth and the map.

    A report that proposes nothing has none beside its text.
    """
    if not any(c.proposes for c in cases):
        return []
    return [p for p in shown if p.first]


def _images(wanted: Sequence[Picture], directory: Path) -> tuple[list[str], str]:
    """Draw pictures as files; return their names, or why there are none."""
    named = {f"{p.name}.png": p for p in wanted}
    try:
        if named:
            write_images({directory / name: p.figure for name, p in named.items()})
    except NoBrowserError as error:
        for name in named:
            (directory / name).unlink(missing_ok=True)
        return [], str(error)
    return list(named), ""


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _move(temporary: Path, out: Path) -> None:
    """Put the report in place: the directory at once where there is none, else file by file.

    Links are followed. Raises :class:`InputError` where one of its names is taken by something else
    than a file; then nothing is replaced.
    """
    os.chmod(temporary, 0o755)
    if not out.exists():
        os.replace(temporary, os.path.realpath(out))
        return
    places = {path: os.path.realpath(out / path.name) for path in temporary.iterdir()}
    for path, place in places.items():
        if os.path.exists(place) and not os.path.isfile(place):
            raise InputError(f"{out / path.name}: is not a regular file; take it away")
    for path, place in places.items():
        shutil.move(path, place)  # a link may lead to another file system
