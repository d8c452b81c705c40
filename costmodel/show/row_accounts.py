"""How the account of measured rows reads: a table for each GPU, world size and op."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ..calibration.row_accounts import AccountRecord
from ..data.timing import LEAVES
from .listing import text as cell
from .table import table

HEAD = (
    "algorithm", "kernels", "source", "GPU is", "quality", "timing, statistic, over ranks", "rows",
    "used", "set aside", "link",
)  # fmt: skip


def text(records: Sequence[AccountRecord]) -> str:
    """Return the records, sorted by GPU, world size and op, with their links below, by number."""
    numbers: dict[str, int] = {}
    parts = []
    for arm, members in groupby(records, key=lambda r: (r["gpu"], r["world_size"], r["op"])):
        rows = []
        for record in members:
            link = record["url"]
            number = numbers.setdefault(link, len(numbers) + 1) if link else 0
            rows.append(
                [
                    record["algorithm"] or "?",
                    record["kernel_family"] or "?",
                    record["source"],
                    record["gpu_evidence"] or "?",
                    record["quality"],
                    _measured(record),
                    record["rows"],
                    record["used"],
                    cell(record["set_aside"]),
                    f"[{number}]" if number else "none",
                ]
            )
        parts.append(f"{_arm(*arm)}\n{table(rows, HEAD)}")
    read, used = sum(r["rows"] for r in records), sum(r["used"] for r in records)
    parts.append(
        f"{used} of {read} rows used. ? = the source does not say; link none = without an address."
    )
    if said := _timed(records):
        parts.append("\n".join(["what of a benchmark's own is in the figures:", *said]))
    if numbers:
        parts.append("\n".join(f"[{n}] {link}" for link, n in numbers.items()))
    return "\n\n".join(parts)


def _timed(records: Sequence[AccountRecord]) -> list[str]:
    """Return what each way of timing leaves in a figure, and what sources state beside."""
    seen = {r[column] for r in records for column in ("timing", "rank_reduction")}  # type: ignore[literal-required]
    beside = {(r["source"], words) for r in records for words in r["timing_beside"]}
    return [
        *(f"{name}: {words}" for name, words in LEAVES.items() if name in seen),
        *(f"{source}: {words}" for source, words in sorted(beside)),
    ]


def _arm(gpu: str, world_size: int | None, op: str) -> str:
    ranks = f"{world_size} ranks" if world_size else "ranks not stated"
    return f"{gpu or 'GPU not stated'}, {ranks}, {op}"


def _measured(record: AccountRecord) -> str:
    """Return how a latency was measured; one ``?`` where nothing of it is said."""
    cells = (record["timing"], record["statistic"], record["rank_reduction"])
    return ", ".join(c or "?" for c in cells) if any(cells) else "?"
