"""``costmodel report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from . import options
from .report_case import case_options, gathered


@click.command()
@case_options
@click.option("--out", required=True, metavar="DIR", help="Directory of the report.")
@click.option("--force", is_flag=True, help="Replace a report that is there.")
def command(out: str, force: bool, **asked: Any) -> None:
    """Write the case for a rule: report.md to paste, its pictures, and report.html to explore.

    The rule is the one that costmodel recommend gives for the same model, as it will stand in the
    engine; a list of archs or GPUs makes one report on all. The text has the headings of the
    project's pull requests. PNG files need Chrome or Chromium; without one, report.html has the
    figures.

    \b
    costmodel report --arch gfx950 --model gpt-oss-120b --for sglang --out report
    costmodel report --arch gfx942,gfx950 --model gpt-oss-120b --for sglang --out both
    """
    from ..report import directory

    directory.check_free(Path(out), force)
    found = gathered(asked)
    line = shlex.join(["costmodel", "report", *found.words, "--out", out])
    written = directory.write(found.cases, out, command=line, project=found.project, force=force)
    options.say(written.title)
    options.say(f"wrote {written.directory}: {', '.join(written.files)}")
    if written.without_images:
        click.echo(f"costmodel: note: no PNG files: {written.without_images}", err=True)
