"""``costmodel worth``."""

from __future__ import annotations

from typing import Any

import click

from ..data import hardware
from ..decide.recommendation import recommend
from ..decide.setting import Setting
from ..decide.worth import Worth, record, worth
from ..errors import InputError
from ..model.shape import OPS, SEPARATE_OPS
from ..rules import ENGINES
from ..rules.rule import Rule
from . import options, question

RECOMMENDED = "recommended"

#: ATOM has no rule of its own: it calls AITER's.
RULE_OF = {"atom": "aiter"}


@click.command()
@question.workload_options
@options.world_size()
@click.option(
    "--from",
    "old",
    metavar="NAME|FILE",
    shell_complete=options.complete_rules,
    help="Rule in force, such as sglang, or one in JSON.",
)
@click.option(
    "--to",
    "new",
    metavar="NAME|FILE",
    shell_complete=options.complete_rules,
    default=RECOMMENDED,
    show_default=True,
    help="New rule.",
)
@click.option(
    "--batch-histogram", "histogram_file", metavar="FILE",
    help="CSV of batch,share or batch,count [default: captured batch sizes alike].",
)  # fmt: skip
@question.STEP_MS
@question.deployment_options
@question.setting_options
@options.format_option
def command(
    tp: int | None,
    old: str | None,
    new: str,
    histogram_file: str | None,
    style: str,
    **asked: Any,
) -> None:
    """State what a change of rule saves in one decode step, by batch size and over a histogram.

    The recommended rule is the one that costmodel recommend gives for the same options, with the
    guards of the engine that --for or --from names, whose fused calls are counted too. Without
    --arch or --gpu the answer is given for the default GPU of each arch. Where model, engine or
    deployment leave no fused call, the answer is 0, with the reason.

    \b
    costmodel worth --model gpt-oss-120b --tp 8 --from sglang --to recommended --step-ms 9
    costmodel worth --gpu MI355X --model deepseek-v3 --tp 8 --from sglang --draft-tokens 3
    costmodel worth --config config.json --tp 4 --from vllm --gpu MI355X --batch-histogram b.csv
    """
    from ..data.histogram import read_histogram

    llm = question.llm_of(asked)
    if llm is None or asked["hidden"]:
        raise InputError("give one of --model and --config: whose decode steps are valued")
    if tp is None or old is None:
        raise InputError("give --tp N and --from RULE (sglang, vllm, aiter or a JSON file)")
    whose = old.lower() if old.lower() in (*ENGINES, *RULE_OF) else _engine_of(old)
    old = RULE_OF.get(old.lower(), old)
    counted = asked["engine"] or whose
    asked["engine"] = asked["engine"] or RULE_OF.get(whose, whose)
    if not asked["otherwise"] and old.lower() != RECOMMENDED and asked["op"] in OPS:
        # A rule of a call site that falls back to separate ops is valued against those.
        apart = question.rule_of(old, asked["op"], also=(RECOMMENDED,)).otherwise == SEPARATE_OPS
        asked["otherwise"] = SEPARATE_OPS if apart else ""
    settings = _settings(asked)
    weighed = question.weighed(asked, llm, counted)
    served = weighed.served
    histogram = read_histogram(histogram_file, served) if histogram_file else None
    named = {
        name: question.rule_of(name, settings[0].op, also=(RECOMMENDED,))
        for name in (old, new)
        if name.lower() != RECOMMENDED
    }

    def rule(setting: Setting, name: str) -> Rule:
        if name in named:
            return named[name]
        return recommend(setting, weighed.workload, world_sizes=(tp,), deployment=served).rule

    worths: list[Worth] = []
    refused: list[str] = []
    for setting in settings:
        try:
            rules = (rule(setting, old), rule(setting, new))
            worths.append(worth(setting, llm, tp, *rules, histogram=histogram, deployment=served))
        except InputError as error:
            refused.append(f"{setting.gpu}: {error}" if len(settings) > 1 else str(error))
    if not worths:
        raise InputError("; ".join(refused))
    for why in refused:
        click.echo(f"costmodel: note: {why}", err=True)
    if style == "json":
        options.print_json(record(worths))
    else:
        from ..show.worth import text

        options.say(text(worths))


def _engine_of(name: str) -> str:
    """Return the engine that a rule of the catalogue is of, "" for any other rule."""
    from ..rules.catalogue import catalogue

    rule = next((rule for rule in catalogue() if rule.name == name.lower()), None)
    return rule.engine if rule and rule.engine in ENGINES else ""


def _settings(asked: question.Asked) -> list[Setting]:
    """Return the setting that was asked about, or that of the default GPU of each arch."""
    if asked["arch"] or asked["gpu"] or asked["calibration_file"]:
        return [question.setting_of(asked)]
    return [question.setting_of({**asked, "arch": arch}) for arch in hardware.GPUS]
