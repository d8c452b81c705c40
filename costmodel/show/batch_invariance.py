"""One kernel for every size as text: which, why, and what it costs."""

from __future__ import annotations

import textwrap

from ..decide.batch_invariance import OneKernel, OneKernels, Price
from .table import table
from .words import arm, estimate


def text(found: OneKernels) -> str:
    """Return the kernels, their prices beside the recommended rule, and what must be known."""
    calls = found.calls_per_step
    unit = "us a call" if calls is None else f"us a decode step ({calls} calls)"
    rows = [
        (
            f"TP{k.world_size}", arm(k.arm), *_price(k.price, calls),
            f"{arm(k.other.arm)} {_price(k.other, calls)[0]}" if k.other else "-",
        )
        for k in found.kernels
    ]  # fmt: skip
    head = ("ranks", "every size", unit, "percent", "the other arm")
    lines = [
        "batch-invariant: one kernel for every size, priced beside the recommended rule:",
        table(rows, head),
    ]
    for k in found.kernels:
        lines += _paragraph(f"TP{k.world_size}: {_said(k)}.")
    lines += [line for note in found.notes() for line in _paragraph(note)]
    if calls is None:
        lines += _paragraph("--model says what a decode step costs")
    return "\n".join(lines)


def sentences(found: OneKernels) -> list[str]:
    """Return the same in sentences, one a world size and one a note."""
    calls = found.calls_per_step
    unit = "us a call" if calls is None else f"us a decode step of {calls} calls"
    said = []
    for k in found.kernels:
        us, pct = _price(k.price, calls)
        price = "no price" if k.price is None else f"{us} {unit}, {pct} %, beside the recommended"
        said.append(f"TP{k.world_size}: {arm(k.arm)} for every size: {price}; {k.reason}")
    return [*said, *found.notes()]


def _price(price: Price | None, calls: int | None) -> tuple[str, str]:
    if price is None:
        return "-", "-"
    us = price.call_us if calls is None else price.step_us(calls)
    return estimate(us), estimate(price.pct)


def _said(k: OneKernel) -> str:
    if k.price is None:
        return f"{k.reason}; no cutoff is claimed there, so there is no price"
    dearest = (
        f"most at {k.price.tokens} tokens of hidden {k.price.hidden_dim}: "
        f"{estimate(k.price.most_us)} us a call"
    )
    return f"{k.reason}; {dearest}"


def _paragraph(words: str) -> list[str]:
    return textwrap.wrap(words, 98, initial_indent="  ", subsequent_indent="     ")
