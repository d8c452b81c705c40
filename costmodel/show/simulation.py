"""What a simulation found, in words: every rank's time, cutoffs along axes."""

from __future__ import annotations

from collections.abc import Sequence

from ..simulation import Map, Outcome, Study
from ..simulation.study import AXES
from ..units import kib
from .table import table
from .words import arm, size_interval


def text(outcomes: Sequence[Outcome], study: Study) -> str:
    """Return each algorithm's ranks and latency, and which is faster."""
    lines: list[str] = []
    for outcome in outcomes:
        lines += [*_one(outcome), ""]
    if len(outcomes) == 2:
        one, two = outcomes
        first, second = sorted(outcomes, key=lambda o: o.latency_us)
        lines.append(
            f"{first.algorithm} is faster by {second.latency_us - first.latency_us:.2f} us"
            if one.latency_us != two.latency_us
            else "both take the same time"
        )
    setting = study.setting
    lines.append(
        f"costs: calibration {setting.calibration.id}, {setting.gpu}, without the "
        f"{study.left_out_us(outcomes[0].algorithm):.2f} us that a benchmark adds "
        "(costmodel predict includes them)"
    )
    lines += outcomes[0].machine.notes
    return "\n".join(lines)


def _one(outcome: Outcome) -> list[str]:
    """Return the lines about one algorithm; ranks with the same times share a row."""
    m, run = outcome.machine, outcome.run
    names = list(outcome.terms(0))
    rows: list[list[str]] = []
    ranks: list[list[int]] = []
    for rank in range(m.ranks):
        terms = outcome.terms(rank)
        times = (
            run.arrival_us[rank], run.finish_us[rank], outcome.duration_us[rank],
            run.waiting_us[rank], *(terms.get(name, 0.0) for name in names),
        )  # fmt: skip
        cells = [f"{abs(t) if abs(t) < 5e-3 else t:.2f}" for t in times]
        if rows and rows[-1] == cells:
            ranks[-1][1] = rank
        else:
            rows.append(cells)
            ranks.append([rank, rank])
    named = [str(a) if a == b else f"{a}-{b}" for a, b in ranks]
    shown = [[name, *cells] for name, cells in zip(named, rows, strict=True)]
    if len(shown) > 24:
        shown = [*shown[:12], ["..."] + [""] * (len(rows[0])), *shown[-11:]]
    head = ["rank", "arrives", "ends", "in op", "waits", *names]
    lines = [
        f"{outcome.algorithm}: {outcome.tokens} tokens x {outcome.hidden_dim} "
        f"({kib(outcome.bytes)}), {m.fabric} of {m.ranks} ranks",
        table(shown, head, right=True),
        f"latency {outcome.latency_us:.2f} us after the last arrival; {_against(outcome)}",
    ]
    if outcome.departures:
        lines.append("  the closed form does not know that")
    return [*lines, *(f"  - {text}" for text in outcome.departures)]


def _against(outcome: Outcome) -> str:
    closed = outcome.closed_form_us
    if closed is None:
        return "no closed form"
    off = 100.0 * (outcome.latency_us / closed - 1.0)
    said = f"closed form {closed:.2f} us, simulated "
    return said + ("the same to 0.01 %" if abs(off) < 0.005 else f"{off:+.2f} %")


def map_text(found: Map) -> str:
    """Return the cutoffs as a table: the first axis down, the second across."""
    study = found.study
    one, other = (arm(a) for a in study.setting.arms)

    def said(value: float) -> str:
        return one if value == float("inf") else other if value == 0 else kib(value)

    (down, rows), *rest = found.axes
    values = found.bytes.reshape(len(rows), -1)
    cells = [
        [f"{v:g}", *(said(b) for b in line)] for v, line in zip(rows, values.tolist(), strict=True)
    ]
    if rest:
        head = [down, *(f"{rest[0][0]}={v:g}" for v in rest[0][1])]
    else:
        head = [down, "cutoff", "90 % interval"]
        for line, cell in zip(cells, found.cells, strict=True):
            line.append("-" if cell.interval is None else size_interval(*cell.interval))
    per = "a chain of layers" if study.layers else "one collective, after the last arrival"
    return "\n".join(
        [
            f"cutoff of {per}: hidden {study.hidden_dim}, {study.setting.gpu}",
            table(cells, head, right=True),
            *(f"{name}: {AXES[name]}" for name, _ in found.axes),
            f"'{one}' or '{other}': the faster at every size",
        ]
    )
