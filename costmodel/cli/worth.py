"""``costmodel worth``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..data import kernels as kernel
from ..errors import InputError
from . import options

if TYPE_CHECKING:
    from ..calibration.posterior import Calibration
    from ..data.llms import LLM
    from ..decide.worth import Worth
    from ..rules.rule import Rule

RECOMMENDED = "recommended"


@click.command()
@options.one_model
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
@options.target
@click.option("--dtype", type=options.DTYPE, help="Of the activations [default: the model's].")
@click.option("--aiter-version", default=kernel.LATEST, show_default=True)
@options.format_option
def command(
    model_name: str | None,
    config_file: str | None,
    tp: int | None,
    old: str | None,
    new: str,
    histogram_file: str | None,
    arch: str | None,
    gpu: str | None,
    calibration_file: str | None,
    dtype: str | None,
    aiter_version: str,
    style: str,
) -> None:
    """State what a change of rule saves in one decode step, by batch size and over a histogram.

    Without --arch or --gpu the answer is given for the default GPU of each arch.

    \b
    costmodel worth --model gpt-oss-120b --tp 8 --from sglang --to recommended
    costmodel worth --config config.json --tp 4 --from vllm --gpu MI355X --batch-histogram b.csv
    """
    from ..data import llms
    from ..data.histogram import BatchHistogram, read_histogram
    from ..decide.worth import SCHEMA, worth

    if (model_name is None) == (config_file is None):
        raise InputError("give one of --model and --config")
    if tp is None or old is None:
        raise InputError("give --tp N and --from RULE (sglang, vllm, aiter or a JSON file)")
    llm = llms.find(model_name) if model_name else llms.from_config(str(config_file))
    dtype = dtype or llm.dtype
    histogram = read_histogram(histogram_file) if histogram_file else BatchHistogram.alike()
    found = []
    for calibration, one_gpu in _targets(arch, gpu, calibration_file):
        before, after = (
            _rule(name, calibration, one_gpu, tp, dtype, aiter_version) for name in (old, new)
        )
        found.append(
            worth(
                calibration, llm, tp, before, after,
                gpu=one_gpu, dtype=dtype, aiter_version=aiter_version, histogram=histogram,
            )
        )  # fmt: skip
    if style == "json":
        options.print_json(
            {
                "schema": SCHEMA,
                "model": {
                    "name": llm.name,
                    "hidden_size": llm.hidden_size,
                    "num_layers": llm.num_layers,
                    "calls_per_step": llm.calls_per_step,
                    "source": llm.source,
                },
                "world_size": tp,
                "dtype": dtype,
                "aiter_version": aiter_version,
                "histogram": histogram.name or None,
                "gpus": [w.to_dict() for w in found],
            }
        )
    else:
        click.echo(_head(llm, tp, dtype))
        for w in found:
            click.echo("\n" + describe(w))


def _targets(
    arch: str | None, gpu: str | None, calibration_file: str | None
) -> list[tuple[Calibration, str]]:
    """Return (calibration, GPU) for what was asked, or for the default GPU of each arch."""
    from ..data.hardware import GPUS

    if arch or gpu or calibration_file:
        calibration, _, found = options.load_target(arch, gpu, calibration_file)
        return [(calibration, found)]
    targets = (options.load_target(a, None, None) for a in GPUS)
    return [(calibration, found) for calibration, _, found in targets]


def _rule(
    name: str, calibration: Calibration, gpu: str, tp: int, dtype: str, aiter_version: str
) -> Rule:
    from ..decide.worth import recommended_at
    from ..rules.rule import load, named

    if name.lower() == RECOMMENDED:
        return recommended_at(calibration, gpu, tp, dtype, aiter_version)
    if name.endswith(".json") or Path(name).is_file():
        return load(name)
    return named(name)


def _head(llm: LLM, tp: int, dtype: str) -> str:
    return (
        f"{llm.name}: hidden size {llm.hidden_size}, {llm.num_layers} layers, "
        f"{llm.calls_per_step} calls a decode step, {dtype}, TP{tp} ({llm.source})"
    )


def describe(w: Worth) -> str:
    """Return the worth on one GPU as text."""
    from ..show.table import table
    from ..units import kib

    lines = [
        f"{w.gpu}, calibration {w.calibration.id}, "
        f"{kernel.calibrated(w.calibration.kernel_family, w.aiter_version).title}; {w.evidence}: "
        + (
            f"both algorithms were measured on {w.gpu} at TP{w.world_size}"
            if w.evidence == "measured"
            else f"an algorithm was never measured on {w.gpu} at TP{w.world_size}"
        ),
        f"  from {w.old.name}: {w.old.words()}",
        f"  to   {w.new.name}: {w.new.words()}",
    ]
    differ = [b for b in w.batches if b.old != b.new]
    if not differ:
        return "\n".join(
            [*lines, "the rules run the same algorithm at every captured batch size: worth 0 us"]
        )
    rows = [
        (
            b.batch, kib(b.bytes), b.old, b.new, f"{b.saved_us.value:+.1f}",
            f"{b.saved_us.lo:+.1f} to {b.saved_us.hi:+.1f}",
        )
        for b in differ
    ]  # fmt: skip
    lines.append(
        table(
            rows, ("batch", "bytes", "from", "to", "us saved a step", "90 % interval"), right=True
        )
    )
    alike = len(w.batches) - len(differ)
    lines.append(f"{alike} other captured batch sizes run the same algorithm: worth 0 us")
    mean = w.mean_us
    over = w.histogram.name or "all captured batch sizes alike (no real traffic)"
    lines.append(
        f"over {over}: {mean.value:+.1f} us a decode step (90 % {mean.lo:+.1f} to {mean.hi:+.1f})"
    )
    return "\n".join(lines)
