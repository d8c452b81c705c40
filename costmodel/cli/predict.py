"""``costmodel predict``."""

from __future__ import annotations

from typing import Any

import click

from ..data import kernels as kernel
from ..decide.prediction import Prediction, predict
from ..model.shape import ALGORITHMS, Shapes
from ..show.table import table
from ..units import kib
from . import options


@click.command()
@options.target
@options.op_option()
@click.option(
    "--algorithm", type=options.ALGORITHM, default="both", show_default=True,
    help="1stage, 2stage or both.",
)  # fmt: skip
@options.world_sizes
@click.option(
    "--tokens", type=options.INTEGERS, default="1,8,32,128", show_default=True,
    help="Numbers; 8:64:8 in steps; 1..512 doubling.",
)  # fmt: skip
@options.model_shape
@options.dtype_option
@click.option("--aiter-version", default=kernel.LATEST, show_default=True)
@click.option("--source", help="Predict what this calibrated source's harness would print.")
@click.option("--terms", "show_terms", is_flag=True, help="Show the terms in the table.")
@options.format_option
def command(
    arch: str | None,
    gpu: str | None,
    calibration_file: str | None,
    op: str,
    algorithm: str,
    tp: tuple[int, ...],
    tokens: tuple[int, ...],
    hidden: tuple[int, ...] | None,
    model_name: str | None,
    config_file: str | None,
    dtype: str,
    aiter_version: str,
    source: str | None,
    show_terms: bool,
    style: str,
) -> None:
    """Predict latencies with their terms and 90 % intervals.

    Without --source the interval covers the constant that a benchmark adds, which differs between
    harnesses by several us and is the same for both algorithms.

    \b
    costmodel predict --arch gfx950 --tp 4 --hidden 7168 --tokens 8:64:8
    costmodel predict --gpu MI300X --model gpt-oss-120b --tp 8 --algorithm 1stage --format json
    """
    import numpy as np

    calibration, arch, gpu = options.load_target(arch, gpu, calibration_file)
    sizes = options.hidden_sizes(hidden, model_name, config_file) or (7168,)
    n, h, t = (a.ravel() for a in np.meshgrid(tp, sizes, tokens, indexing="ij"))
    shapes = Shapes.of(t, h, n, op=op, dtype=dtype)
    ran = kernel.aiter(aiter_version)
    wanted = ALGORITHMS if algorithm == "both" else (algorithm,)
    found = [predict(calibration, shapes, a, gpu=gpu, kernel=ran, source=source) for a in wanted]
    if style == "json":
        options.print_json(
            {
                "schema": "costmodel/predict/1",
                "arch": arch,
                "gpu": gpu,
                "rows": [row for p in found for row in _rows(p)],
            }
        )
    else:
        click.echo(_table(found, show_terms))


def _rows(p: Prediction) -> list[dict[str, Any]]:
    """Return one record per shape."""
    s = p.shapes
    return [
        {
            "op": s.op,
            "algorithm": p.algorithm,
            "world_size": int(s.world_size[i]),
            "tokens": int(s.tokens[i]),
            "hidden_dim": int(s.hidden_dim[i]),
            "dtype": s.dtype,
            "bytes": int(s.bytes[i]),
            "latency_us": float(p.latency_us[i]),
            "latency_us_lo": float(p.lo_us[i]),
            "latency_us_hi": float(p.hi_us[i]),
            "evidence": str(p.evidence[i]),
            "terms": {name: float(value[i]) for name, value in p.terms.items()},
        }
        for i in range(len(s))
    ]


def _table(found: list[Prediction], show_terms: bool) -> str:
    rows = []
    names: list[str] = []
    for p in found:
        names += [n for n in p.terms if n not in names]
    for p in found:
        for r in _rows(p):
            row = [
                f"TP{r['world_size']}", r["hidden_dim"], r["tokens"], kib(r["bytes"]),
                r["algorithm"], f"{r['latency_us']:.2f}",
                f"{r['latency_us_lo']:.1f} to {r['latency_us_hi']:.1f}", r["evidence"],
            ]  # fmt: skip
            if show_terms:
                row += [f"{r['terms'][n]:.2f}" if n in r["terms"] else "" for n in names]
            rows.append(row)
    head = ["ranks", "hidden", "tokens", "bytes", "algorithm", "us", "90 % interval", "evidence"]
    if show_terms:
        head += names
    return table(rows, head, right=True)
