"""``costmodel recommend``."""

from __future__ import annotations

import click

from ..data import kernels as kernel
from ..decide.recommendation import Recommendation, recommend
from ..show.table import table
from ..units import kib
from . import options


@click.command()
@options.target
@options.op_option("fused or plain all-reduce.")
@options.world_sizes
@options.dtype_option
@click.option("--aiter-version", default=kernel.LATEST, show_default=True)
@options.model_shape
@options.format_option
def command(
    arch: str | None,
    gpu: str | None,
    calibration_file: str | None,
    op: str,
    tp: tuple[int, ...],
    dtype: str,
    aiter_version: str,
    hidden: tuple[int, ...] | None,
    model_name: str | None,
    config_file: str | None,
    style: str,
) -> None:
    """Recommend the dispatch rule: hidden sizes, byte cutoff per tensor-parallel size, evidence.

    \b
    costmodel recommend --arch gfx942
    costmodel recommend --gpu MI355X --model gpt-oss-120b --format json
    """
    calibration, _, gpu = options.load_target(arch, gpu, calibration_file)
    found = recommend(
        calibration,
        gpu=gpu,
        op=op,
        world_sizes=tp,
        dtype=dtype,
        aiter_version=aiter_version,
        hidden_dims=options.hidden_sizes(hidden, model_name, config_file),
    )
    if style == "json":
        options.print_json(found.to_dict())
    else:
        click.echo(describe(found))


def describe(found: Recommendation) -> str:
    """Return the recommendation as text."""
    calibration = found.calibration
    lines = [
        f"1-stage or 2-stage: {found.op} on {found.gpu} ({found.arch}), {found.dtype}, "
        f"AITER {found.aiter_version}",
        f"calibration {calibration.id}: {calibration.data['rows_used']} of "
        f"{calibration.data['rows_read']} rows used, {len(calibration.data['sources'])} sources",
        "",
    ]
    rows = []
    for c in found.cutoffs:
        if c.max_bytes_lo is None:
            interval = "-"
        else:
            high = "no limit" if c.max_bytes_hi is None else kib(c.max_bytes_hi)
            interval = f"{kib(c.max_bytes_lo)} to {high}"
        answer = {"always_1stage": "always", "not_identified": "no claim"}.get(
            c.verdict, f"<= {kib(c.max_bytes or 0)}"
        )
        rows.append((f"TP{c.world_size}", answer, interval, c.verdict, f"{c.regret_pct:.2f} %"))
    head = ("ranks", "1-stage when bytes", "90 % interval", "evidence", "expected regret")
    lines += [table(rows, head), ""]
    for c in found.cutoffs:
        lines.append(_paragraph(f"TP{c.world_size}: {c.reason}."))
        if c.separate_note:
            lines.append(_paragraph(f"     {c.separate_note}."))
    lines += ["", f"hidden_dim: the kernel takes {found.hidden_rule}."]
    lines.append(f"  known models: {', '.join(map(str, found.hidden_set))}")
    effect = (
        "matters: see the reasons above"
        if found.depends_on_hidden
        else f"does not matter{_hidden_evidence(found)}"
    )
    lines.append(_paragraph(f"  beyond bytes, hidden size {effect}."))
    switch = [c for c in found.cutoffs if c.switch]
    if switch:
        lines += ["", "last captured batch on 1-stage / first on 2-stage, by hidden size:"]
        hidden = [h for h, _, _ in switch[0].switch]
        by_hidden = [
            (f"TP{c.world_size}", *(f"{a or '-'} / {b or '-'}" for _, a, b in c.switch))
            for c in switch
        ]
        lines.append(table(by_hidden, ("", *hidden)))
    wanted = [m for c in found.cutoffs for m in c.measure_next]
    if wanted:
        lines += ["", "to narrow this, measure on this GPU (costmodel plan chooses fewer):"]
        for c in found.cutoffs:
            if c.measure_next:
                tokens = sorted({m["tokens"] for m in c.measure_next})
                arms = sorted({m["algorithm"] for m in c.measure_next})
                lines.append(
                    f"  TP{c.world_size}: {' and '.join(arms)} at hidden "
                    f"{c.measure_next[0]['hidden_dim']}, tokens {', '.join(map(str, tokens))}"
                )
    return "\n".join(lines)


def _paragraph(text: str) -> str:
    """Wrap at 100 columns, continuation lines indented."""
    import textwrap

    return textwrap.fill(text, 100, subsequent_indent="     ")


def _hidden_evidence(found: Recommendation) -> str:
    """Return what the measurements say about hidden size beyond bytes."""
    effect = found.calibration.data.get("hidden_effect")
    if not effect:
        return " in the model; no measured arm has several hidden sizes"
    return (
        f": {effect['rows']} rows at several hidden sizes change by "
        f"{effect['pct_per_doubling']:+.1f} % per doubling at like bytes "
        f"(90 % interval {effect['lo']:+.1f} to {effect['hi']:+.1f})"
    )
