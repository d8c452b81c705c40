"""The cases of a report from the command line, for the commands that write or draw them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct
from msgspec.structs import replace

from ..data import kernels
from ..decide.objective import MEAN
from ..errors import InputError
from ..model.shape import WORLD_SIZES
from ..rules import ENGINES
from . import options, question, targets

if TYPE_CHECKING:
    from ..report.case import Case

Command = Callable[..., Any]

#: Projects that take a report without a rule of their own, and the engine whose rule they run:
#: ATOM calls AITER's fused op, which chooses (``atom/model_ops/layernorm.py`` of ROCm/ATOM).
RUNS_RULE_OF = {"atom": "aiter"}
PROJECTS = (*ENGINES, *RUNS_RULE_OF)


class Gathered(Struct, frozen=True):
    """Cases, one per arch, the project that they are written for, and the options that gave them.

    ``words`` are those options as words of a command line.
    """

    cases: tuple[Case, ...]
    project: str
    words: tuple[str, ...]


def case_options(command: Command, *, required: bool = True) -> Command:
    """Add the options that :func:`gathered` reads; ``required``: --for must be given."""
    for option in (
        question.deployment_options,
        question.STEP_MS,
        click.option(
            "--batch-histogram", "histogram_file", metavar="FILE",
            help="CSV of batch,share or batch,count [default: captured batch sizes alike].",
        ),
        click.option(
            "--measurements", multiple=True, metavar="FILE",
            help="Schema 1 file or directory to draw and judge by [default: the published rows].",
        ),
        options.world_sizes,
        options.one_model,
        click.option(
            "--for", "engine", required=required, metavar="PROJECT",
            shell_complete=options.offering(PROJECTS),
            help=f"Whom the rule and the text are for: {', '.join(PROJECTS)}.",
        ),
        question.OBJECTIVE,
        question.OTHERWISE,
        question.SOURCE,
        question.DTYPE,
        question.AITER,
    ):  # fmt: skip
        command = option(command)
    return options.target(command)


def gathered(asked: question.Asked) -> Gathered:
    """Return the cases that the options name, one for each arch or GPU of a list."""
    from ..data.histogram import read_histogram
    from ..report.case import gather

    tp, measurements = asked.pop("tp"), asked.pop("measurements")
    histogram_file, config_file = asked.pop("histogram_file"), asked["config_file"]
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
        "--config": config_file,
        "--tp": tp if tp != WORLD_SIZES else None,
    }
    project = asked["engine"].lower()
    asked["engine"] = RUNS_RULE_OF.get(project, project)
    if project != asked["engine"]:
        asked["calls_of"] = asked["calls_of"] or project
    served = question.words(question.deployment_words(asked))
    deployment = question.deployment_of(asked, asked["engine"])
    calibration_file = asked["calibration_file"]
    llm = question.llm_of(asked)
    if llm is None:
        raise InputError("give one of --model and --config: whose decode steps are valued")
    kinds = targets.several(asked)
    cases = []
    for one in [targets.one(asked, kind) for kind in kinds] or [asked]:
        here = {**given, "--arch": one["arch"], "--gpu": one["gpu"]}
        cases.append(
            gather(
                question.setting_of(dict(one)),
                llm,
                world_sizes=tp,
                measurements=measurements,
                histogram=read_histogram(histogram_file, deployment) if histogram_file else None,
                files=[f for f in (calibration_file, config_file, histogram_file) if f],
                target=question.words(here),
                deployment=deployment,
                served=served,
            )
        )
    archs = {case.setting.arch for case in cases}
    # A listed arch has a rule of its own: nothing is said of this one there.
    cases = [
        replace(case, elsewhere=tuple(o for o in case.elsewhere if o.arch not in archs))
        for case in cases
    ]
    words = [*question.words(given), *served, "--for", project]
    for file in measurements:
        words += ["--measurements", file]
    if histogram_file:
        words += ["--batch-histogram", histogram_file]
    return Gathered(tuple(cases), project, tuple(words))
