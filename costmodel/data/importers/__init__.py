"""Other harnesses' output, read into schema 1 measurements.

An importer turns a file's text into rows; what the file does not say stays empty unless the user
says it (:class:`~costmodel.data.importers.rows.Said`). Nothing is guessed, and everything that is
set aside is counted.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError, nearest
from ...files import read_text
from ..measurement import Measurements
from .rows import Imported, Said

#: Format -> (module of this package, what its files are).
FORMATS = {
    "rccl-tests": ("collective_tests", "log of a rccl-tests program"),
    "nccl-tests": ("collective_tests", "log of a nccl-tests program"),
    "aiter": ("table", "markdown tables of AITER's op_tests, logs around them allowed"),
    "sglang": ("table", "CSV, JSON records or markdown table of a SGLang kernel benchmark"),
    "vllm": ("vllm", "JSON, markdown or CSV of vLLM's communicator and collective benchmarks"),
}


def read(kind: str, path: str | Path, said: Said) -> tuple[Measurements, list[str]]:
    """Read a file of another harness; return its measurements and what the user should know.

    Raises :class:`InputError` for an unknown format, an unreadable file, a file without such
    measurements, and rows that do not agree with themselves or with what the user said.
    """
    import importlib

    if kind not in FORMATS:
        raise InputError(
            f"unknown format '{kind}'{nearest(kind, list(FORMATS))}; one of {', '.join(FORMATS)}"
        )
    text = read_text(path, FORMATS[kind][1])
    module = importlib.import_module(f"{__name__}.{FORMATS[kind][0]}")
    imported: Imported = module.parse(text, str(path), said, kind)
    if not imported.rows:
        raise InputError(
            f"{path}: no measurement found in it"
            + (f" ({'; '.join(imported.notes)})" if imported.notes else "")
            + f"; {kind} means: {FORMATS[kind][1]}"
        )
    try:
        return Measurements.from_rows(imported.rows), imported.notes
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
