"""``costmodel report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from ..data import kernels as kernel
from ..engines.call_sites import ENGINES
from ..engines.call_sites import engine as engine_named
from ..errors import InputError
from . import options


@click.command()
@options.target
@click.option(
    "--for",
    "engine",
    required=True,
    metavar="ENGINE",
    help=f"{', '.join(e.name for e in ENGINES)}.",
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
@click.option("--dtype", type=options.DTYPE, help="Of the activations [default: the model's].")
@click.option("--aiter-version", default=kernel.LATEST, show_default=True)
@click.option("--out", required=True, metavar="DIR", help="Directory of the report.")
@click.option("--force", is_flag=True, help="Replace a report that is there.")
def command(
    arch: str | None,
    gpu: str | None,
    calibration_file: str | None,
    engine: str,
    model_name: str | None,
    config_file: str | None,
    tp: tuple[int, ...],
    measurements: tuple[str, ...],
    histogram_file: str | None,
    dtype: str | None,
    aiter_version: str,
    out: str,
    force: bool,
) -> None:
    """Write the case for a rule: report.md with its pictures, and report.html to explore.

    The rule is the recommended one over captured batch sizes x hidden sizes of known models, as it
    will stand in the engine; the model only says whose decode steps are valued. PNG files need
    Chrome or Chromium; without one, report.html has the figures.

    \b
    costmodel report --arch gfx950 --model gpt-oss-120b --for sglang --out report
    """
    from ..data import llms
    from ..data.histogram import read_histogram
    from ..report import case as findings
    from ..report import directory
    from ..report import text as story

    target_engine = engine_named(engine)
    if (model_name is None) == (config_file is None):
        raise InputError("give one of --model and --config: whose decode steps are valued")
    directory.check_free(Path(out), force)
    llm = llms.find(model_name) if model_name else llms.from_config(str(config_file))
    calibration, _, gpu_found = options.load_target(arch, gpu, calibration_file)
    chosen: dict[str, Any] = {
        "--arch": arch, "--gpu": gpu, "--calibration": calibration_file,
        "--aiter-version": aiter_version if aiter_version != kernel.LATEST else None,
    }  # fmt: skip
    target = [word for name, value in chosen.items() if value for word in (name, value)]
    found = findings.gather(
        calibration,
        gpu=gpu_found,
        engine=target_engine.name,
        llm=llm,
        dtype=dtype,
        aiter_version=aiter_version,
        world_sizes=tp,
        measurements=measurements,
        histogram=read_histogram(histogram_file) if histogram_file else None,
        files=[f for f in (calibration_file, config_file, histogram_file) if f],
        target=target,
    )
    given: list[str] = ["costmodel", "report", *target, "--for", target_engine.name]
    given += ["--model", model_name] if model_name else ["--config", str(config_file)]
    if tp != (2, 4, 8):
        given += ["--tp", ",".join(map(str, tp))]
    for file in measurements:
        given += ["--measurements", file]
    if histogram_file:
        given += ["--batch-histogram", histogram_file]
    if dtype:
        given += ["--dtype", dtype]
    written = directory.write(found, out, command=shlex.join([*given, "--out", out]), force=force)
    click.echo(story.title(found))
    click.echo(f"wrote {written.directory}: {', '.join(written.files)}")
    if written.without_images:
        click.echo(f"costmodel: note: no PNG files: {written.without_images}", err=True)
