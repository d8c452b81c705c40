"""Predicted latencies as a table."""

from __future__ import annotations

from collections.abc import Sequence

from ..decide.prediction import Prediction
from ..decide.setting import Setting
from ..model.shape import PUSHED
from ..units import kib
from .place import machine
from .table import table


def text(predictions: Sequence[Prediction], setting: Setting, *, terms: bool = False) -> str:
    """Return a row per shape and arm of a setting; ``terms`` adds a column for each term."""
    rows = []
    names: list[str] = []
    for p in predictions:
        names += [n for n in p.terms if n not in names]
    for p in predictions:
        for r in p.to_rows():
            row = [
                f"TP{r['world_size']}", r["hidden_dim"], r["tokens"], kib(r["bytes"]),
                r["algorithm"], f"{r['latency_us']:.2f}",
                f"{r['latency_us_this_kernel_lo']:.1f} to {r['latency_us_this_kernel_hi']:.1f}",
                f"{r['latency_us_lo']:.1f} to {r['latency_us_hi']:.1f}", r["evidence"],
            ]  # fmt: skip
            if terms:
                row += [f"{r['terms'][n]:.2f}" if n in r["terms"] else "" for n in names]
            rows.append(row)
    head = [
        "ranks", "hidden", "tokens", "bytes", "algorithm", "us", "90 %, this kernel",
        f"90 %, {machine(setting)}", "evidence",
    ]  # fmt: skip
    if terms:
        head += names
    measured = dict.fromkeys(map(_measured, predictions))
    return "\n".join([table(rows, head, right=True), *measured])


def _measured(p: Prediction) -> str:
    """Return whose kernels a prediction is of, and as whose benchmark measures them."""
    said = f"{p.kernel}: latencies as {p.reference or 'a typical source'} measures them"
    if p.algorithm not in PUSHED:
        return said
    return f"{said}, on any machine: what another benchmark adds to these kernels is not known"
