"""What one cell of another harness's output means: numbers, dtypes, names of GPUs.

Cells come from anybody's file: their length and size are bounded, and none is used as a format.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from functools import lru_cache

from ...units import dtype_name

#: No cell that holds a number is longer.
_NUMBER_CHARACTERS = 40
#: Whole numbers that a float64 holds; schema 1's columns are such.
_LARGEST = 2**53

_AMD = re.compile(r"\bMI[ -]?(\d{2,3}[A-Z]?)\b", re.IGNORECASE)
_VENDOR = re.compile(r"\b(AMD|Instinct|NVIDIA|Tesla|GeForce|Quadro|Radeon)\b", re.IGNORECASE)


def number(text: str) -> float | None:
    """Return a finite number, None for any other text."""
    text = text.strip()
    if not text or len(text) > _NUMBER_CHARACTERS or "_" in text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def whole(text: str) -> int | None:
    """Return a whole number from 0 to 2**53 (``16``, ``16.0``), None for any other text."""
    value = number(text)
    if value is None or value != int(value) or not 0 <= value <= _LARGEST:
        return None
    return int(value)


@lru_cache(256)
def dtype_of(name: str) -> str:
    """Return the project's name of a dtype (``torch.bfloat16``, ``half``), or the name itself."""
    return dtype_name(name) or name.strip().lower().rpartition(".")[2]


def gpu_of(product: str) -> str:
    """Return the GPU's name from a product name: ``AMD Instinct MI300X OAM`` -> ``MI300X``.

    What a card of another form is called stays in the name (``H100 PCIE``): its links are others.
    """
    amd = _AMD.search(product)
    if amd:
        return f"MI{amd[1].upper()}"
    words = re.split(r"[\s-]+", _VENDOR.sub(" ", product).strip().upper())
    form = [word for word in words[1:] if word in ("PCIE", "NVL")]
    return " ".join([words[0], *form])


def csv_cells(line: str, delimiter: str = ",", *, strict: bool = False) -> list[str]:
    """Return the cells of one line of CSV without blanks around them, [] for none or no CSV.

    ``strict`` takes a line of stray quotes for none.
    """
    reader = csv.reader([line], delimiter=delimiter, strict=strict, skipinitialspace=True)
    try:
        return [cell.strip() for cell in next(reader, [])]
    except csv.Error:  # a cell of more than 128 KiB
        return []


def listed(names: Iterable[str]) -> str:
    """Return names for a message, in order and without repetition."""
    return ", ".join(dict.fromkeys(names))
