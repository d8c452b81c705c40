"""A run as a timeline in the Chrome trace format, which Perfetto (ui.perfetto.dev) opens.

One process per rank, one track per class of equal workgroups, one slice per step; and one counter
per directed link with its load in GB/s. Format: "Trace Event Format"
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import replacing
from ..units import BYTES_PER_US_PER_GBPS
from .collective import Outcome
from .program import Program

#: Links whose load is drawn; more counters than this no person reads.
MAX_COUNTERS = 512


def events(outcome: Outcome, process: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the trace events of a recorded outcome; ``process`` is the number of rank 0."""
    ranks = outcome.machine.ranks
    for rank in range(ranks):
        title = f"{outcome.algorithm} rank {rank}"
        yield _metadata("process_name", process + rank, 0, {"name": title})
        yield _metadata("process_sort_index", process + rank, 0, {"sort_index": process + rank})
        for k, name in enumerate(workgroup_names(outcome.program)):
            yield _metadata("thread_name", process + rank, k, {"name": name})
    for span in outcome.run.spans:
        columns = zip(
            span.rank.tolist(), span.workgroups.tolist(), span.start.tolist(), strict=True
        )
        for rank, k, start in columns:
            if span.end > start:
                yield {
                    "ph": "X", "cat": "step", "name": span.term, "pid": process + rank, "tid": k,
                    "ts": start, "dur": span.end - start,
                }  # fmt: skip
    links = process + ranks
    yield _metadata("process_name", links, 0, {"name": f"{outcome.algorithm} links (GB/s)"})
    topology = outcome.machine.topology
    shown = range(len(topology.ends) - 1)[:MAX_COUNTERS]
    before = np.zeros(len(topology.ends))
    for time, load in outcome.run.loads:
        for link in shown:
            if load[link] != before[link]:
                yield {
                    "ph": "C", "name": topology.link_name(link), "pid": links, "tid": 0,
                    "ts": time, "args": {"GB/s": float(load[link]) / BYTES_PER_US_PER_GBPS},
                }  # fmt: skip
        before = load


def workgroup_names(program: Program) -> list[str]:
    """Return ``workgroups 0-79`` for each class."""
    first, count = program.first.tolist(), program.workgroups.tolist()
    return [
        f"workgroups {a}-{a + n - 1}" if n > 1 else f"workgroup {a}"
        for a, n in zip(first, count, strict=True)
    ]


def write(outcomes: Iterable[Outcome], path: str | Path) -> None:
    """Write recorded outcomes side by side into one file, whole or not at all."""
    every: list[dict[str, Any]] = []
    process = 0
    for outcome in outcomes:
        if not outcome.run.spans:
            raise InputError("nothing was recorded; simulate with record=True")
        every += events(outcome, process)
        process += outcome.machine.ranks + 1
    with replacing(path) as stream:
        json.dump({"displayTimeUnit": "ns", "traceEvents": every}, stream)
        stream.write("\n")


def _metadata(name: str, process: int, thread: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "args": args}
