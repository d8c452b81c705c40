"""How sources say that they timed: causes of what a benchmark adds to the kernels' own time.

Rows state it in the columns ``timing``, ``rank_reduction`` and ``statistic``; what a source states
beside is in ``facts/timing_methods.csv``. These are facts to show: most sources state nothing, and
those that do differ as widely as the rest, so no prior of the model hangs on them.
"""

from __future__ import annotations

from . import facts

#: What a way of timing or a reduction over ranks leaves in a figure.
LEAVES = {
    "graph": "no launch by the host is in it",
    "eager": "the host's launches are in it",
    "profiler": "a kernel's wait for other ranks is in it",
    "max": "the slowest rank counts",
}


def beside(source: str) -> tuple[str, ...]:
    """Return what a source states of its timing beside the columns of its rows."""
    return tuple(r["words"] for r in facts.rows("timing_methods.csv") if r["source"] == source)


def stated(source: str) -> tuple[str, ...] | None:
    """Return all that a published source states of its timing; None where it is not published."""
    from . import measurement  # whoever only needs words starts faster

    file = next((f for f in measurement.published_directory().iterdir() if f.stem == source), None)
    if file is None:
        return None
    rows = measurement.read(file)
    said = [_with(timing, timing) for timing in rows.timing.used if timing]
    said += [_with(f"{over} over ranks", over) for over in rows.rank_reduction.used if over]
    return (*said, *filter(None, rows.statistic.used), *beside(source))


def _with(words: str, name: str) -> str:
    return f"{words} ({LEAVES[name]})" if name in LEAVES else words
