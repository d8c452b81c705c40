"""A list of things that costmodel knows, with links: as a table, as CSV or as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..files import json_text
from .table import fitted, table


@dataclass(frozen=True)
class Listing:
    """Records under one JSON ``schema`` (``costmodel/models/1``), which also names their key.

    Every record has the same keys; ``shown`` maps those of the table to their heads. The address
    under ``link`` stands below the table, by number, since it cannot be wrapped.
    """

    schema: str
    records: tuple[Mapping[str, Any], ...]
    shown: Mapping[str, str]
    link: str = "source"

    def render(self, style: str) -> str:
        """Return the records as ``table``, ``csv`` or ``json``, without the last newline."""
        return {"table": self._table, "csv": self._csv, "json": self._json}[style]()

    def _json(self) -> str:
        key = self.schema.split("/")[1]
        return json_text({"schema": self.schema, key: self.records}).rstrip("\n")

    def _csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        keys = list(self.records[0]) if self.records else list(self.shown)
        writer.writerow(keys)
        for record in self.records:
            values = (record[key] for key in keys)
            writer.writerow([v if isinstance(v, float) else text(v) for v in values])
        return out.getvalue().rstrip("\n")

    def _table(self) -> str:
        numbers: dict[str, int] = {}
        rows = []
        for record in self.records:
            address = text(record[self.link])
            number = numbers.setdefault(address, len(numbers) + 1) if address else ""
            rows.append(
                [*(text(record[key]) for key in self.shown), f"[{number}]" if number else ""]
            )
        lines = [f"[{number}] {address}" for address, number in numbers.items()]
        return fitted("\n".join([table(rows, [*self.shown.values(), "link"]), "", *lines]))


def text(value: Any) -> str:
    """Return a value of a record as one cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{n} {what}" for what, n in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(text, value))
    return str(value)
