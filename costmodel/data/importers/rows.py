"""What every importer shares: what the user says, dtype names, and rows made of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import InputError
from ...units import ELEMENT_BYTES, dtype_name


@dataclass(frozen=True)
class Said:
    """Schema 1 cells that the user gives by option, "" where nothing is said.

    ``columns`` maps a column or label of the file to ``op`` or ``op:algorithm``, or to ``-`` to
    leave it out.
    """

    source: str = ""
    url: str = ""
    date: str = ""
    gpu: str = ""
    arch: str = ""
    interconnect: str = ""
    world_size: str = ""
    op: str = ""
    algorithm: str = ""
    kernel_family: str = ""
    kernel_version: str = ""
    tokens: str = ""
    hidden_dim: str = ""
    dtype: str = ""
    timing: str = ""
    statistic: str = ""
    rank_reduction: str = ""
    quality: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def cells(self) -> dict[str, str]:
        """Return the cells that were said."""
        return {k: v for k, v in asdict(self).items() if k != "columns" and v}


@dataclass
class Imported:
    """Rows of a file, and what was set aside or assumed on the way."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def complete(row: Mapping[str, Any], said: Said, where: str) -> dict[str, Any]:
    """Return a row with what the user said filled in, and ``bytes`` computed where it can be.

    Raises :class:`InputError` where the file says otherwise than the user.
    """
    cells = {key: value for key, value in row.items() if value not in ("", None)}
    if "dtype" in cells:
        cells["dtype"] = dtype_of(str(cells["dtype"]))
    for key, value in said.cells().items():
        value = dtype_of(value) if key == "dtype" else value
        found = cells.setdefault(key, value)
        if key not in ("source", "quality") and str(found).lower() != str(value).lower():
            raise InputError(
                f"{where}: the file says {key} {found}, --{key.replace('_', '-')} says {value}; "
                "leave the option out, or split the file"
            )
    if cells.get("gpu"):
        cells.setdefault("gpu_evidence", "stated")
    cells.setdefault("quality", "clean")
    known = all(key in cells for key in ("tokens", "hidden_dim"))
    if known and "bytes" not in cells and cells.get("dtype") in ELEMENT_BYTES:
        elements = int(cells["tokens"]) * int(cells["hidden_dim"])
        cells["bytes"] = elements * ELEMENT_BYTES[cells["dtype"]]
    if "op" not in cells:
        raise InputError(f"{where}: the file does not say which op this is; say --op")
    return cells


def dtype_of(name: str) -> str:
    """Return the project's name of a dtype (``torch.bfloat16``, ``half``), or the name itself."""
    return dtype_name(name) or name.lower().rpartition(".")[2]


def gpu_of(product: str) -> str:
    """Return the GPU's name from a product name: ``AMD Instinct MI300X`` -> ``MI300X``."""
    words = re.sub(r"\b(AMD|Instinct|NVIDIA)\b", " ", product).split()
    return words[0].upper() if words else ""


def listed(names: Iterable[str]) -> str:
    """Return names for a message, in order and without repetition."""
    return ", ".join(dict.fromkeys(names))
