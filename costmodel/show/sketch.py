"""Curves and bars in text: what a terminal and a pull request can show of a figure."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

import numpy as np

from ..decide.decision import Cutoff
from ..model.shape import ONE_STAGE
from ..units import kib
from .words import arm

if TYPE_CHECKING:
    from ..decide.explanation import Choices, Explanation  # recommend starts without it

#: Letters of the longest bar, and of a scale of sizes; letters before the bars of a curve.
BAR, SCALE, AT_THE_BARS = 30, 40, 32

#: Sizes at the ends of a scale, bytes: captured calls of common models lie between them.
SCALE_ENDS = (16 * 1024, 4 * 1024 * 1024)


def blocks(stream: TextIO | None = None) -> bool:
    """Whether a stream (default: standard output) is a terminal that shows block characters."""
    stream = sys.stdout if stream is None else stream
    if stream is None:  # closed before we started
        return False
    try:
        "█░◆".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return stream.isatty()


def bars(found: Explanation, *, fine: bool) -> list[str]:
    """Return a bar per arm of one call, from 0 us; ``fine`` draws with block characters."""
    arms = [(arm(a), part.latency_us.value) for a, part in found.arms.items()]
    most = max(us for _, us in arms)
    wide = max(len(name) for name, _ in arms)
    return [f"  {name:{wide}}  {us:6.2f} us  {_bar(us / most, fine)}" for name, us in arms]


def scale(cutoff: Cutoff, *, fine: bool) -> str:
    """Return a cutoff and its interval on your machine on a scale of bytes, SCALE letters."""
    return scale_of(cutoff.max_bytes, cutoff.max_bytes_lo, cutoff.max_bytes_hi, fine=fine)


def scale_of(max_bytes: int | None, lo: int | None, hi: int | None, *, fine: bool) -> str:
    """Return the same of a cutoff and its ends in bytes, "" where there is no cutoff."""
    if max_bytes is None or lo is None:
        return ""
    mark, inside, outside = ("◆", "█", "░") if fine else ("*", "=", ".")
    at = [_place(b) for b in (lo, max_bytes, hi)]
    drawn = [inside if at[0] <= i <= at[2] else outside for i in range(SCALE)]
    drawn[at[1]] = mark
    return "".join(drawn)


def curve(found: Choices, *, rule: str = "the rule", fine: bool = False, lines: int = 12) -> str:
    """Return by how much 2-stage (or what runs otherwise) is slower, a line per captured batch.

    At most ``lines`` batches, those around the place where the choice turns over. ``rule`` is what
    the recommended rule is called there.
    """
    one, other = (found.latency_us[a] for a in found.setting.arms)
    both = np.flatnonzero(~np.isnan(found.margin_us))
    percent = 100 * (other / one - 1)
    turn = int(np.argmax(found.choice[both] != ONE_STAGE)) if both.size else 0
    first = max(0, min(turn - lines // 2, both.size - lines))
    shown = both[first : first + lines]
    most = max((abs(percent[i]) for i in shown), default=1.0) or 1.0
    name = arm(found.setting.alternative)
    n, hidden = int(found.calls.world_size[0]), int(found.calls.hidden_dim[0])
    claimed = found.decision is not None and found.decision.at(n).claimed
    rows = [
        f"TP{n}, hidden {hidden}: by how much {name} is slower (+) or faster (-) than 1-stage",
        f"{'':{AT_THE_BARS + BAR}}  {f'{rule} runs' if claimed else 'expected faster'}",
    ]
    for i in shown:
        mark = "+" if percent[i] > 0 else "-"
        drawn = _bar(abs(percent[i]) / most, fine, mark)
        runs = arm(str(found.choice[i]))
        rows.append(
            f"{int(found.calls.tokens[i]):4} tokens {kib(int(found.calls.bytes[i])):>9} "
            f"{percent[i]:+6.1f} %  {drawn:{BAR}}  {runs}"
        )
    return "\n".join(rows)


def two_curves(
    size_bytes: Sequence[int], arms: Mapping[str, Sequence[float]], *, lines: int = 9
) -> list[str]:
    """Return latencies in us against bytes as letters over the scale of :func:`scale`.

    Both axes are logarithmic. The letter of an arm is the first of its name, that of several that
    meet is ``x``.
    """
    at, ends = np.log(size_bytes), np.log(SCALE_ENDS)
    columns = ends[0] + (np.arange(SCALE) + 0.5) / SCALE * (ends[1] - ends[0])
    shown = (columns >= at.min()) & (columns <= at.max())
    heights = {a: np.interp(columns, at, np.log(us)) for a, us in arms.items()}
    every = np.concatenate([h[shown] for h in heights.values()])
    if not every.size:
        return []
    low, high = every.min(), every.max()
    drawn = [[" "] * SCALE for _ in range(lines)]
    for name, height in heights.items():
        line = ((high - height) / max(high - low, 1e-9) * (lines - 1)).round().astype(int)
        for i in np.flatnonzero(shown):
            there = drawn[line[i]]
            there[i] = name[0] if there[i] == " " else "x"
    us = np.exp(np.linspace(high, low, lines))
    rows = zip(us, drawn, strict=True)
    return [f"{value:7.1f} us |{''.join(row)}".rstrip() for value, row in rows]


def _bar(share: float, fine: bool, letter: str = "#") -> str:
    return ("█" if fine else letter) * max(1, round(BAR * share))


def _place(size_bytes: float | None) -> int:
    """Return where on the scale a size stands; None is beyond its end."""
    low, high = SCALE_ENDS
    if size_bytes is None:
        return SCALE - 1
    share = math.log(max(size_bytes, low) / low) / math.log(high / low)
    return min(SCALE - 1, int(share * SCALE))


def scale_head(names: Sequence[str] = ("16 KiB", "256 KiB", "4 MiB")) -> str:
    """Return the ends and the middle of the scale, as long as one."""
    left, middle, right = names
    gap = SCALE - sum(map(len, names))
    return left + " " * (gap // 2) + middle + " " * (gap - gap // 2) + right
