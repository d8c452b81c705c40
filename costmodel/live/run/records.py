"""One measured shape as it is kept: a line of ``samples.jsonl``, and its schema 1 rows."""

from __future__ import annotations

import math
from typing import Any, Literal

from ..backends.base import Backend, family_of, op_and_algorithm
from . import environment
from .harness import ArmResult
from .points import Point
from .schemas import ArmRecord, Labels, SampleLine


def to_record(
    index: int,
    point: Point,
    results: dict[str, ArmResult],
    seconds: float,
    kind: Literal["shape", "again", "retry"] = "shape",
) -> SampleLine:
    """Return the line of ``samples.jsonl`` for one measured point, still without ``rows``."""
    arms: dict[str, ArmRecord] = {}
    for arm, result in results.items():
        if result.skipped:
            continue
        arms[arm] = {
            "correct": result.summary is not None,
            # NaN and missing outputs count as infinite, which JSON lacks
            "worst_error": result.worst_error if math.isfinite(result.worst_error) else None,
            "wrong_ranks": list(result.wrong_ranks),
            "summary": result.summary,
            "clean": result.summary.clean if result.summary else None,
            "kernels": list(result.kernels),
            "latency_us": result.latency_us.tolist() if result.latency_us is not None else None,
        }
    record: SampleLine = {
        "kind": kind,
        "index": index,
        "when": environment.now(),
        "seconds": round(seconds, 3),
        "point": point.to_json(),
        "arms": arms,
        "rows": [],
    }
    skipped = {arm: result.skipped for arm, result in results.items() if result.skipped}
    if skipped:
        record["skipped"] = skipped
    return record


def schema_rows(
    record: SampleLine, run_id: str, labels: Labels, world_size: int, timing: str
) -> list[dict[str, Any]]:
    """Return the schema 1 rows of one record: one for each arm that was right."""
    point = Point.from_json(record["point"])
    rows = []
    for arm, result in record["arms"].items():
        summary = result["summary"]
        if summary is None:
            continue
        op, algorithm = op_and_algorithm(arm)
        quality = "clean" if result["clean"] else "noisy"
        rows.append(
            {
                "source": run_id,
                "date": record["when"][:10],
                "gpu": labels["gpu"],
                "gpu_evidence": "stated" if labels["gpu"] else "",
                "arch": labels["arch"],
                "interconnect": labels["interconnect"],
                "world_size": world_size,
                "op": op,
                "algorithm": algorithm,
                "kernel_family": family_of(
                    arm, labels["kernel_family"], labels.get("separate_family", "")
                ),
                "kernel_version": labels["kernel_version"],
                "tokens": point.shape.tokens,
                "hidden_dim": point.shape.hidden_dim,
                "dtype": point.shape.dtype,
                "bytes": point.shape.bytes,
                "latency_us": round(summary.latency_us, 4),
                "statistic": "median",
                "rank_reduction": "max",
                "timing": timing,
                "quality": quality if labels["genuine"] == "yes" else "suspect",
            }
        )
    return rows


def labels(backend: Backend) -> Labels:
    """Return what the rows say of the machine and the kernels; a resumed run must have the same."""
    known = backend.environment()
    said: Labels = {
        "gpu": str(known.get("gpu", "")),
        "arch": str(known.get("arch", "")),
        "interconnect": backend.interconnect,
        "kernel_family": backend.kernel_family,
        "kernel_version": backend.kernel_version,
        "genuine": "yes" if backend.genuine else "no",
    }
    if backend.separate_family:
        said["separate_family"] = backend.separate_family
    return said
