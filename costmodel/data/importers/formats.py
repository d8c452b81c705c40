"""The formats that are read: how each is recognised, and which module reads it.

Adding one is a :class:`Format` here and a module beside this one with
``parse(file: TextFile, imported: Imported) -> None``, which gives every result that the file states
to ``imported.add`` or ``imported.leave``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from ...errors import InputError, nearest
from .rows import Imported
from .text_file import TextFile

#: What files hold: latencies (schema 1), or rates of links.
LATENCIES, LINK_RATES = "latencies", "link rates"


@dataclass(frozen=True)
class Format:
    """One format.

    ``recognises`` looks at the first 64 KiB of a text. Of a format that may stand ``anywhere``, a
    log with other output before it, the pieces after that are looked at too. A ``general`` format
    is taken only where no other is recognised. ``suffixes`` of the file's name decide between two.
    A format that is no text is known by its first bytes, ``magic``.
    """

    name: str
    title: str
    module: str
    recognises: Callable[[str], object]
    anywhere: bool = False
    general: bool = False
    aliases: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    magic: bytes = b""
    makes: str = LATENCIES

    def load(self) -> ModuleType:
        """Return the module that reads it."""
        return importlib.import_module(f"{__package__}.{self.module}")

    def parse(self, file: TextFile, imported: Imported) -> None:
        """Read a file into the account."""
        self.load().parse(file, imported)


def _never(head: str) -> bool:
    return False


FORMATS = (
    Format(
        "rccl-tests", "log of rccl-tests or nccl-tests", "collective_tests",
        re.compile(r"#[ \t]+(?:size[ \t]+count|bytes[ \t]+N)[ \t]+type[ \t]", re.M).search,
        anywhere=True, aliases=("nccl-tests",),
    ),
    Format(
        "rccl-tests-json", "JSON or CSV that rccl-tests (-Z) or nccl-tests (-J) writes",
        "collective_json",
        re.compile(r'"nccl_version"\s*:|"busBw"\s*:|^\s*numCycle,', re.I).search,
        aliases=("nccl-tests-json",),
    ),
    Format(
        "aiter", "markdown tables of AITER's op_tests, logs around them allowed", "table",
        re.compile(r"^[^\n|]*\|[^\n]*withGraph", re.M).search, anywhere=True,
    ),
    Format(
        "vllm", "JSON, markdown or CSV of vLLM's communicator and collective benchmarks", "vllm",
        re.compile(r'"timings"\s*:|\*\*Hidden Dimension:\*\*').search,
    ),
    Format(
        "sglang", "CSV, JSON records or markdown table of a SGLang kernel benchmark", "table",
        _never,
    ),
    Format(
        "kernel-stats", "kernel statistics (CSV) of rocprof, rocprofv3, rpd, nsys", "kernel_stats",
        re.compile(
            r"^(?=[^\n]*name\b)(?=[^\n]*calls\b|[^\n]*\binstances\b)"
            r"(?=[^\n]*(?:average|\bave\b|\bavg \(ns\)))[^\n]*,", re.M | re.I,
        ).search,
    ),
    Format(
        "kernel-trace", "kernel dispatches (CSV) of rocprof, rocprofv3", "kernel_trace_csv",
        re.compile(
            r"^(?=[^\n]*\bkernel_?name\b)(?=[^\n]*\b(?:start_timestamp|beginns)\b)[^\n]*,",
            re.M | re.I,
        ).search,
    ),
    Format(
        "rocprofv3-json", "JSON of rocprofv3 --kernel-trace", "rocprof_json",
        re.compile(r'"rocprofiler-sdk-tool"\s*:').search,
    ),
    Format("rocpd", "rocpd database of rocprofv3 or rocmProfileData", "rocpd", _never,
           magic=b"SQLite format 3\0"),
    Format(
        "torch-table", "key_averages().table() of torch's profiler", "torch_table",
        re.compile(r"^[ \t]*Name[ \t]{2,}[^\n]*[ \t]{2,}# of Calls\b", re.M).search, anywhere=True,
    ),
    Format(
        "torch-trace", "Chrome trace of torch's profiler (.json, .json.gz)", "chrome_trace",
        re.compile(r'"traceEvents"\s*:|\A\s*\[\s*\{[^}]*"ph"\s*:').search,
    ),
    Format(
        "table", "a markdown table, CSV or JSON records with a latency column", "table",
        re.compile(r"^\s*[\[{]|^[^\n|]*\|[^\n|]*\||^[^\n,]+,", re.M).search,
        general=True,
    ),
)  # fmt: skip


def named(name: str) -> Format:
    """Return a format by its name; raise :class:`InputError` for an unknown one."""
    for found in FORMATS:
        if name in (found.name, *found.aliases):
            return found
    names = [n for f in FORMATS for n in (f.name, *f.aliases)]
    near = nearest(name[:60], names)
    raise InputError(f"unknown format '{name[:60]}'{near}; one of {', '.join(names)}")


def find_format(file: TextFile) -> Format:
    """Return the format of a file; raise :class:`InputError` where none or several fit."""
    fits = [f for f in FORMATS if not f.general and f.recognises(file.head)]
    fits += [f for f in FORMATS if f.magic and file.head_bytes.startswith(f.magic)]
    if not fits and file.is_text:
        fits = _further_on(file)
    fits = fits or [f for f in FORMATS if f.general and f.recognises(file.head)]
    if len(fits) > 1:
        fits = [f for f in fits if file.path.suffix.lower() in f.suffixes] or fits
    if len(fits) == 1:
        return fits[0]
    names = ", ".join(f.name for f in fits or FORMATS)
    if not file.is_text and not fits:
        raise InputError(f"{file.name}: not a text file; say its format by --as: {names}")
    what = "reads as several formats" if fits else "no format is recognised in it"
    raise InputError(f"{file.name}: {what}; say --as with one of {names}")


def _further_on(file: TextFile) -> list[Format]:
    """Return the formats in the first later piece that has one."""
    candidates = [f for f in FORMATS if f.anywhere]
    for window in file.windows():
        fits = [f for f in candidates if f.recognises(window)]
        if fits:
            return fits
    return []
