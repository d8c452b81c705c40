"""``costmodel audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..data import kernels as kernel
from ..data.llms import CALLS_PER_LAYER
from ..engines.audit import Audit, Scorer, audit
from ..engines.source import open_trees
from ..errors import InputError
from ..model.shape import FUSED, WORLD_SIZES
from ..rules.rule import Rule, load, named
from ..show.table import table
from . import options

#: Hidden sizes that token counts are given for: GPT-OSS, Llama 8B, Llama 4, DeepSeek V3.
HIDDEN_DIMS = (2880, 4096, 5120, 7168)


@click.command()
@click.argument("path")
@options.target
@click.option(
    "--against",
    metavar="NAME|FILE",
    shell_complete=options.complete_rules,
    help="Rule to compare with [default: the recommended one, with --arch or --gpu].",
)
@options.dtype_option
@click.option("--aiter-version", default=kernel.LATEST, show_default=True)
@options.model_shape
@options.world_sizes
@click.option(
    "--fail-above",
    type=float,
    metavar="PCT",
    help="Exit with 1 when the installed rule loses more than this many percent.",
)
@options.format_option
def command(
    path: str,
    arch: str | None,
    gpu: str | None,
    calibration_file: str | None,
    against: str | None,
    dtype: str,
    aiter_version: str,
    hidden: tuple[int, ...] | None,
    model_name: str | None,
    config_file: str | None,
    tp: tuple[int, ...],
    fail_above: float | None,
    style: str,
) -> int:  # fmt: skip
    """State the dispatch rule of an installed SGLang, vLLM or AITER, and judge it.

    PATH is a package directory, a site-packages directory, a checkout or a wheel. Its sources are
    parsed, never imported or run. With --arch or --gpu the rule is compared with the recommended
    one, as that would stand in the same place, in bytes, tokens, regret and worth.

    \b
    costmodel audit $(python -c 'import sglang, os; print(os.path.dirname(sglang.__file__))')
    costmodel audit vllm-0.33.0.whl --gpu MI355X --model gpt-oss-120b --fail-above 2
    """
    sizes = options.hidden_sizes(hidden, model_name, config_file)
    found = kernel.aiter(aiter_version)
    scorer = None
    rule: Rule | None = None
    if arch or gpu or calibration_file:
        calibration, arch, gpu = options.load_target(arch, gpu, calibration_file)
        scorer = model_scorer(calibration, gpu, dtype, aiter_version, sizes)
        if against is None:
            from ..decide.recommendation import recommended_rule

            rule, _ = recommended_rule(
                arch,
                gpu,
                calibration=calibration,
                dtype=dtype,
                aiter_version=aiter_version,
                hidden_dims=sizes,
            )
    if against is not None:
        is_file = against.endswith(".json") or Path(against).is_file()
        rule = load(against) if is_file else named(against)
    if fail_above is not None and scorer is None:
        raise InputError("--fail-above needs --arch, --gpu or --calibration: a model to score with")
    how = {
        "against": rule,
        "kernel": found,
        "score": scorer,
        "world_sizes": tp,
    }
    done = _audit_all(path, how)
    if style == "json":
        shown = sizes or HIDDEN_DIMS
        records = [one.to_dict(shown, dtype, fail_above) for one in done]
        options.print_json(records[0] if len(records) == 1 else {"audits": records})
    else:
        layers = _layers(model_name, config_file)
        for one in done:
            click.echo(describe(one, sizes or HIDDEN_DIMS, dtype, layers))
    failed = [one for one in done if not one.passed(fail_above)]
    for one in failed:
        click.echo(
            f"costmodel: {one.tree.engine.title}'s rule loses {one.loses_pct:.2f} %, more than "
            f"the {fail_above:g} % allowed",
            err=True,
        )
    return 1 if failed else 0


def _audit_all(path: str, how: dict[str, Any]) -> list[Audit]:
    """Audit every engine at a path; one that cannot be read is named, unless none can."""
    done, failed = [], []
    for tree in open_trees(path):
        try:
            done.append(audit(tree, **how))
        except InputError as error:
            failed.append(error)
    if not done:
        raise failed[0]
    for unread in failed:
        click.echo(f"costmodel: note: {unread}", err=True)
    return done


def model_scorer(
    calibration: Any, gpu: str, dtype: str, aiter_version: str, hidden: tuple[int, ...] | None
) -> Scorer:
    """Return a scorer by the calibrated model over captured batch sizes and the hidden sizes."""
    from ..data.workload import Workload
    from ..decide.regret import ModelledPairs, known_workload

    workload = Workload.of(hidden) if hidden else known_workload()

    def score(rule: Rule, installed: Rule, world_size: int) -> Any:
        pairs = ModelledPairs.of(
            calibration, workload, world_size,
            gpu=gpu, op=FUSED, dtype=dtype, aiter_version=aiter_version,
        )  # fmt: skip
        return pairs.score(rule, installed)

    return score


def describe(one: Audit, hidden_dims: tuple[int, ...], dtype: str, layers: int | None) -> str:
    """Return an audit as text."""
    lines = []
    for installed in one.installed:
        lines.append(installed.statement())
        if installed.moved:
            lines.append("  not where the known releases keep it: make sure that it is in force")
        if installed.known_as:
            lines.append(f"  the same as rule '{installed.known_as}'")
        if installed.overrides:
            lines.append(f"  unless set otherwise by {', '.join(installed.overrides)}")
        lines += [f"  could not be read, taken as met: {a}" for a in installed.assumed]
        lines += [f"  {installed.file}:{f.line}: {f.text}" for f in installed.findings]
    lines += ["", f"largest 1-stage batch in {dtype}, by hidden size:"]
    rules = [("installed", one.rule)]
    if one.against is not None:
        rules.append((one.against.rule.name, one.against.rule))
    rows = [
        (
            f"TP{n}",
            name,
            rule.sizes(n),
            *(_limit(rule.max_tokens(h, n, dtype=dtype)) for h in hidden_dims),
        )
        for n in WORLD_SIZES
        for name, rule in rules
    ]
    lines.append(table(rows, ("ranks", "rule", "1-stage bytes", *hidden_dims)))
    if one.against is not None:
        lines += [f"  {note}" for note in one.against.notes(one.tree.engine.title)]
    if one.scores:
        lines += ["", "by the calibrated model, over captured batch sizes:"]
        lines.append(_scores(one, layers))
    return "\n".join(lines)


def _scores(one: Audit, layers: int | None) -> str:
    head = ["ranks", "installed loses", "90 % interval", "us a call", "decided otherwise"]
    if layers:
        head.append(f"us a decode step ({CALLS_PER_LAYER} x {layers} calls)")
    rows = []
    for n, score in sorted(one.scores.items()):
        lost, saved = score.saved_pct, score.saved_us
        row = [
            f"TP{n}",
            f"{lost.value:.2f} %",
            f"{lost.lo:.2f} to {lost.hi:.2f}",
            f"{saved.value:.2f}",
            f"{100 * score.differ:.0f} %",
        ]
        if layers:
            calls = CALLS_PER_LAYER * layers
            row.append(
                f"{calls * saved.value:.0f} ({calls * saved.lo:.0f} to {calls * saved.hi:.0f})"
            )
        rows.append(row)
    return table(rows, head)


def _layers(model_name: str | None, config_file: str | None) -> int | None:
    from ..data import llms

    if model_name:
        return llms.find(model_name).num_layers
    return llms.from_config(config_file).num_layers if config_file else None


def _limit(tokens: int | None) -> str:
    return "no limit" if tokens is None else str(tokens)
