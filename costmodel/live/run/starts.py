"""The same shapes measured in several fresh starts: does the library choose alike each time?

A library's own choice (the arm ``auto``) may hang on what a process found when it started. Each
start is a run of its own in ``start-1``, ``start-2``, ... of the directory, by its own processes;
``starts.json`` beside them says which kernels ran in each, and how often that changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import json_text, replacing
from .directory import RUN, SAMPLES, parse_records
from .exit_codes import FINISHED, WRONG_RESULTS, by_signal
from .points import Point
from .schemas import ArmStarts, SampleLine, StartsRecord

STARTS = "starts.json"


def measure_starts(options: Mapping[str, Any]) -> int:
    """Measure ``options["starts"]`` times in fresh processes; return the worst exit code.

    A start that is there already is continued, so that a run of starts that ended early goes on
    when it is asked for again.
    """
    out = Path(options["out"])
    code = FINISHED
    for number in range(1, options["starts"] + 1):
        directory = out / f"start-{number}"
        again = (directory / RUN).exists()
        print(f"start {number} of {options['starts']}", flush=True)
        given = {**options, "out": directory, "resume": again}
        code = max(code, _run(given))
        if code not in (FINISHED, WRONG_RESULTS):
            return code
    record = compare([_records(out / f"start-{n + 1}") for n in range(options["starts"])])
    with replacing(out / STARTS) as stream:
        stream.write(json_text(record))
    for line in describe(record):
        print(line, flush=True)
    return code


def _run(options: Mapping[str, Any]) -> int:
    """Run one start in a process of its own and return its exit code."""
    argument = json.dumps(options, default=str)  # paths among them
    process = subprocess.Popen([sys.executable, "-m", f"{__package__}.fresh", argument])
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # it heard it too, and says how it ended
            continue
        return code if code >= 0 else by_signal(-code)


def _records(directory: Path) -> list[SampleLine]:
    path = directory / SAMPLES
    records = parse_records(path.read_bytes(), path)
    return [record for record in records if record["kind"] == "shape"]


def compare(starts: list[list[SampleLine]]) -> StartsRecord:
    """Return what each arm ran and took at each shape, start by start.

    A flip is a start whose kernels are other than those of the start before it.
    """
    found: dict[tuple[Any, str], ArmStarts] = {}
    for records in starts:
        for record in records:
            point = Point.from_json(record["point"])
            for arm, result in record["arms"].items():
                shape: ArmStarts = {
                    "tokens": point.shape.tokens, "hidden_dim": point.shape.hidden_dim,
                    "dtype": point.shape.dtype, "arm": arm, "kernels": [], "flips": 0,
                    "latency_us": [],
                }  # fmt: skip
                shape = found.setdefault((point.shape, arm), shape)
                if result["kernels"]:
                    before = shape["kernels"][-1:]
                    shape["flips"] += bool(before) and before[0] != result["kernels"]
                    shape["kernels"].append(result["kernels"])
                if result["summary"]:
                    shape["latency_us"].append(result["summary"].latency_us)
    return {"schema": "costmodel/starts/1", "starts": len(starts), "arms": list(found.values())}


def describe(record: StartsRecord) -> list[str]:
    """Return in words where the choice flipped, and how far medians lay apart between starts."""
    named = [arm for arm in record["arms"] if arm["kernels"]]
    flipped = [arm for arm in named if arm["flips"]]
    lines = []
    for arm in flipped:
        ran = "; ".join(", ".join(kernels) for kernels in arm["kernels"])
        lines.append(
            f"{arm['arm']} flipped {arm['flips']} times at {arm['tokens']} tokens x "
            f"{arm['hidden_dim']} hidden {arm['dtype']}: {ran}"
        )
    if named:
        lines.append(
            f"{record['starts']} starts: the kernels of {len(flipped)} of {len(named)} arms and "
            "shapes changed between starts"
        )
    else:
        lines.append(f"{record['starts']} starts: no kernels could be named; measure --arms auto")
    several = [arm["latency_us"] for arm in record["arms"] if len(arm["latency_us"]) > 1]
    if several:
        apart = max(100.0 * (max(us) / min(us) - 1.0) for us in several)
        lines.append(f"medians of one arm and shape lie at most {apart:.1f} % apart between starts")
    return lines
