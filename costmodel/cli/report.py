"""``costmodel report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ..data import kernels
from ..decide.objective import MEAN
from ..errors import InputError
from ..model.shape import WORLD_SIZES
from ..rules import ENGINES
from . import options, question


@click.command()
@options.target
@question.AITER
@question.DTYPE
@question.SOURCE
@question.OTHERWISE
@question.OBJECTIVE
@click.option(
    "--for",
    "engine",
    required=True,
    metavar="ENGINE",
    help=f"Whom the rule is for: {', '.join(ENGINES)}.",
)
@options.one_model
@options.world_sizes
@click.option(
    "--measurements", multiple=True, metavar="FILE",
    help="Schema 1 file or directory to draw and judge by [default: the published rows].",
)  # fmt: skip
@click.option(
    "--batch-histogram", "histogram_file", metavar="FILE",
    help="CSV of batch,share or batch,count [default: captured batch sizes alike].",
)  # fmt: skip
@question.STEP_MS
@question.deployment_options
@click.option("--out", required=True, metavar="DIR", help="Directory of the report.")
@click.option("--force", is_flag=True, help="Replace a report that is there.")
def command(
    tp: tuple[int, ...],
    measurements: tuple[str, ...],
    histogram_file: str | None,
    out: str,
    force: bool,
    **asked: Any,
) -> None:
    """Write the case for a rule: report.md with its pictures, and report.html to explore.

    The rule is the one that costmodel recommend gives for the same model, as it will stand in the
    engine. PNG files need
    Chrome or Chromium; without one, report.html has the figures.

    \b
    costmodel report --arch gfx950 --model gpt-oss-120b --for sglang --out report
    """
    from ..data.histogram import read_histogram
    from ..report import case, directory, text

    given = {
        "--arch": asked["arch"],
        "--gpu": asked["gpu"],
        "--calibration": asked["calibration_file"],
        "--aiter-version": asked["aiter_version"]
        if asked["aiter_version"] != kernels.LATEST
        else None,
        "--dtype": asked["dtype"],
        "--source": asked["source"],
        "--otherwise": asked["otherwise"],
        "--objective": asked["objective"] if asked["objective"] != MEAN else None,
        "--model": asked["model_name"],
        "--config": asked["config_file"],
        "--tp": tp if tp != WORLD_SIZES else None,
    }
    engine, config_file = asked["engine"], asked["config_file"]
    served = question.words(question.deployment_words(asked))
    deployment = question.deployment_of(asked, engine)
    calibration_file = asked["calibration_file"]
    llm = question.llm_of(asked)
    if llm is None:
        raise InputError("give one of --model and --config: whose decode steps are valued")
    directory.check_free(Path(out), force)
    target = question.words(given)
    found = case.gather(
        question.setting_of(asked),
        llm,
        world_sizes=tp,
        measurements=measurements,
        histogram=read_histogram(histogram_file, deployment) if histogram_file else None,
        files=[f for f in (calibration_file, config_file, histogram_file) if f],
        target=target,
        deployment=deployment,
        served=served,
    )
    words = ["costmodel", "report", *target, *served, "--for", engine]
    for file in measurements:
        words += ["--measurements", file]
    if histogram_file:
        words += ["--batch-histogram", histogram_file]
    written = directory.write(found, out, command=shlex.join([*words, "--out", out]), force=force)
    click.echo(text.title(found))
    click.echo(f"wrote {written.directory}: {', '.join(written.files)}")
    if written.without_images:
        click.echo(f"costmodel: note: no PNG files: {written.without_images}", err=True)
