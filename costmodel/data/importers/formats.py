"""The formats that are read: how each is recognised, and which module reads it.

Adding one is a :class:`Format` here and a module beside this one with
``parse(file: TextFile, imported: Imported) -> None``, which gives every result that the file states
to ``imported.add`` or ``imported.leave``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from types import ModuleType

from msgspec import Struct

from ...errors import InputError, nearest
from .rows import Imported
from .text_file import TextFile

#: What files hold: latencies (schema 1), or rates of links.
LATENCIES, LINK_RATES = "latencies", "link rates"


class Format(Struct, frozen=True):
    """One format.

    ``recognises`` looks at the first 64 KiB of a text. Of a format that may stand ``anywhere``, a
    log with other output before it, the pieces after that are looked at too. A ``general`` format
    is taken only where no other is recognised. ``suffixes`` of the file's name decide between two.
    What is read through tables is recognised as a ``pasted`` one too, where CSV was written.
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
    pasted: bool = False
    magic: bytes = b""
    makes: str = LATENCIES

    def load(self) -> ModuleType:
        """Return the module that reads it."""
        return importlib.import_module(f"{__package__}.{self.module}")

    def parse(self, file: TextFile, imported: Imported) -> None:
        """Read a file into the account."""
        self.load().parse(file, imported)


def _marked(pattern: str, *words: str) -> Callable[[str], object]:
    """Return a recogniser that looks for a pattern where one of its words stands: that is quick."""
    search = re.compile(pattern, re.MULTILINE).search
    return lambda text: any(word in text for word in words) and search(text)


def _never(head: str) -> bool:
    return False


#: The start of a line, behind what a launcher writes there: ``[1,0]<stdout>:``, ``[rank0]: ``.
_AT = r"^(?:\S{1,80}[>:\]]\s?)?"

FORMATS = (
    Format(
        "rccl-tests", "log of rccl-tests or nccl-tests", "collective_tests",
        _marked(r"(?:#|^)[ \t]*(?:size[ \t]+count|bytes[ \t]+N)[ \t]+type[ \t]", "type"),
        anywhere=True, aliases=("nccl-tests",),
    ),
    Format(
        "rccl-tests-json", "JSON or CSV that rccl-tests (-Z) or nccl-tests (-J) writes",
        "collective_json",
        re.compile(r'"nccl_version"\s*:(?!\s*")|"busBw"\s*:|^[ \t,]*numCycle,', re.I | re.M).search,
        aliases=("nccl-tests-json",), pasted=True,
    ),
    Format(
        "transferbench", "what TransferBench prints, as text or CSV", "transfer_bench",
        _marked(
            r"TransferBench v\d|GPU-GFX (?:All-To-All|Scaling) benchmark"
            r"|SRC(?:\+EXE)?\\(?:EXE\+)?DST"
            r"|^Test#,Transfer#,|Transfer\s+\d+\s*[|,│]\s*[\d.]+ GB/s",
            "TransferBench", "GPU-GFX", "SRC", "Test#", "Transfer",
        ),
        anywhere=True, makes=LINK_RATES,
    ),
    Format(
        "rocm-bandwidth-test", "what rocm_bandwidth_test prints", "rocm_bandwidth",
        _marked(
            r"RocmBandwidthTest Version|directional Benchmark Result|^[ \t]*D/D[ \t]+0\b",
            "RocmBandwidthTest", "directional", "D/D",
        ),
        anywhere=True, makes=LINK_RATES,
    ),
    Format(
        "nccl-tuner", "CSV of NCCL's tuner plugin: performance data, or a configuration",
        "tuner_csv",
        re.compile(
            r"^[ \t]*(?:broadcast|reduce|allgather|reducescatter|allreduce),-?\d+,-?\d+,"
            r"(?:tree|ring|collnet|nvls|pat)"
            r"|^(?=[^\n]*\bcollective[,|;\t])(?=[^\n]*\bsize_bytes\b)[^\n]*\bprotocol\b", re.M,
        ).search, pasted=True,
    ),
    Format(
        "aiter", "log, markdown or CSV of AITER's op_tests/multigpu_tests", "aiter",
        _marked(
            r"\bwithGraph\b|\[checkAllclose |^\W*Size \|\s+Shape \|\s+AITER \(us\)"
            r"|\b(?:ar|fused|quant|per_group)_max_us\b|\{'(?:shape|tp_size)'[^{\n]{0,2000}_us'"
            rf"|{_AT}# AR \+ mhc_post only|AR\+mhc_post profile",
            "withGraph", "checkAllclose", "AITER (us)", "_max_us", "_us'", "mhc_post",
        ),
        anywhere=True, pasted=True,
    ),
    Format(
        "flydsl", "CSV or report of AITER's FlyDSL all-reduce tuner", "flydsl",
        _marked(
            r"(?:^|[,|\s])_nbytes[,|\s].* us\b|^# aiter all-reduce benchmark"
            r"|^\W*candidate\s*\|\s*us\s*\||\b(?:fused|separate)_(?:cdr|rccl)\w* us\b",
            "_nbytes", "all-reduce benchmark", "candidate", "_cdr", "_rccl",
        ),
        anywhere=True, pasted=True, aliases=("aiter-flydsl",),
    ),
    Format(
        "sglang", "CSV, report or console of SGLang's benchmark/kernels/all_reduce", "sglang",
        _marked(
            r"\b(?:split|fused)_p50_us\b|\bSplit p50 \(us\)|\bSplit\(3k\) us|\bfused1_us\b"
            rf"|{_AT}Results \((?:avg ms across|eager;|graph;)|\bimplementation,size_bytes\b"
            r"|^# ROCm unfused all-reduce benchmark|\bmsg_size\b.*\beager time\b"
            r"|\bNaive RS\+AG\b",
            "p50", "Split(3k)", "fused1_us", "Results (", "implementation,", "ROCm unfused",
            "msg_size", "RS+AG",
        ),
        anywhere=True, pasted=True,
    ),
    Format(
        "vllm", "JSON, markdown or console of vLLM's communicator and fused-collective benchmarks",
        "vllm",
        _marked(
            r'"timings"\s*:|^# FlashInfer Fused Collective'
            rf"|{_AT}Device Communicator Benchmark Results"
            rf"|{_AT}Results: (?:num_tokens|seq_len)=",
            '"timings"', "FlashInfer Fused", "Device Communicator", "Results: ",
        ),
        anywhere=True, pasted=True,
    ),
    Format(
        "flashinfer", "CSV, JSON lines or console of FlashInfer's allreduce_fusion benchmark",
        "flashinfer",
        _marked(
            rf"(?:^|,)routine,median_time\b|\ballreduce_fusion\b|{_AT}\[PERF\] .*:: median time",
            "median_time", "allreduce_fusion", "[PERF]",
        ),
        anywhere=True, pasted=True,
    ),
    Format(
        "trtllm", "CSV or console of TensorRT-LLM's all_reduce microbenchmark", "trtllm",
        _marked(
            r"\bstrategy,fusion\b|\bfusion,num_tokens\b.*\bstrategy\b|\bstrategy: [\w.]+, fusion: "
            rf"|{_AT}# Fusion: \w+\s+world_size=|\bstrategy\s+fusion\b",
            "strategy", "# Fusion",
        ),
        anywhere=True, pasted=True, aliases=("tensorrt-llm",),
    ),
    Format(
        "kernel-stats", "kernel statistics of rocprof, rocprofv3, rpd, nsys: CSV, or pasted",
        "kernel_stats",
        _marked(
            r"(?i)^(?=[^\n]*(?:name|\bkernel)\b)(?=[^\n]*(?<!of )calls\b|[^\n]*\binstances\b)"
            r"(?=[^\n]*(?:average|\bave\b|\b(?:avg|mean)[ _]?\w{0,8}[ _]?[(\[]?[nuµμm]s\b"
            r"|\btotal time \([nu]s\)))[^\n]*(?:[,|;\t]| {2})",
            "alls", "ALLS", "nstances", "NSTANCES",
        ),
        anywhere=True,
    ),
    Format(
        "kernel-trace", "kernel dispatches (CSV) of rocprof, rocprofv3", "kernel_trace_csv",
        re.compile(
            r"^(?=[^\n{}:]*\bkernel_?name\b)"  # not in a line of JSON
            r"(?=[^\n{}:]*\b(?:start_timestamp|beginns|dispatch_id|gpu-id)\b)[^\n]*,",
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
        _marked(
            r"^[ \t]*Name[ \t]{2}[^\n]*[ \t]{2}# of Calls\b"
            r"|^\s*\|\s*Name\s*\|[^\n]*\|\s*# of Calls\b", "# of Calls",
        ), anywhere=True,
    ),
    Format(
        "torch-trace", "Chrome trace of torch's profiler (.json, .json.gz)", "chrome_trace",
        re.compile(r'"traceEvents"\s*:|\A\s*\[\s*\{[^}]*"ph"\s*:').search,
    ),
    Format(
        "table", "a table of latencies: markdown, CSV, tabs, console columns, JSON records",
        "table",
        re.compile(r"^\s*[\[{]|<table\b|\|[^\n|]*\||\S[,;\t]\s*\S|\S {2,}\S", re.M).search,
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
    bare = "\n".join(map(file.bare, file.head.split("\n")))
    heads = [file.head] if bare == file.head else [file.head, bare]
    fits = [f for f in FORMATS if not f.general and any(map(f.recognises, heads))]
    if not fits and (as_csv := _as_csv(bare)) != bare:
        fits = [f for f in FORMATS if f.pasted and f.recognises(as_csv)]
    fits += [f for f in FORMATS if f.magic and file.head_bytes.startswith(f.magic)]
    if not fits and file.is_text:
        fits = _further_on(file, [f for f in FORMATS if f.anywhere])
    fits = fits or [f for f in FORMATS if f.general and any(map(f.recognises, heads))]
    if not fits and file.is_text:
        fits = _further_on(file, [f for f in FORMATS if f.general])
    if len(fits) > 1:
        fits = [f for f in fits if file.path.suffix.lower() in f.suffixes] or fits
    if len(fits) == 1:
        return fits[0]
    names = ", ".join(f.name for f in fits or FORMATS)
    if file.is_zip and not fits:
        raise InputError(
            f"{file.name}: a spreadsheet or another archive; give what is in it, as CSV"
        )
    if not file.is_text and not fits:
        raise InputError(f"{file.name}: not a text file; say its format by --as: {names}")
    what = "reads as several formats" if fits else "no format is recognised in it"
    raise InputError(f"{file.name}: {what}; say --as with one of {names}")


#: The rule below the names of a table of markdown.
_RULE = re.compile(r"^[ \t>]{0,8}\|?[ \t]*:?-{2,}:?[ \t]*\|[-:| \t]*$", re.MULTILINE)
#: Formats that pass over pasted tables: what stands in such tables is not of them.
_WITHOUT_TABLES = ("rccl-tests", "transferbench", "rocm-bandwidth-test", "torch-table",
                   "flashinfer", "trtllm")  # fmt: skip
#: Formats whose reader takes any other table too.
_WITH_TABLES = ("aiter", "sglang", "vllm")


def beside(file: TextFile, form: Format) -> list[Format]:
    """Return the formats, other than the one that is read, whose output stands in a text too."""
    if not (form.anywhere or form.general) or not file.is_text:
        return []
    waiting = [
        f for f in FORMATS if f.anywhere and f is not form and not (form.general and f.pasted)
    ]
    tables = False
    found: list[Format] = []
    for window in file.windows():
        found += (of_window := [f for f in waiting if f.recognises(window)])
        waiting = [f for f in waiting if f not in of_window]
        tables = tables or (form.name in _WITHOUT_TABLES and bool(_RULE.search(window)))
    if tables and not any(f.name in _WITH_TABLES for f in found):
        found.append(named("table"))
    return found


def owner(text: str, form: str) -> str:
    """Return the format whose table a text is, by its names, ``form`` where that is one of them."""
    if not (own := named(form)).general and own.recognises(text):
        return form
    others = (f.name for f in FORMATS if f.anywhere and f.recognises(text))
    return next(others, "")


_BETWEEN_CELLS = re.compile(r"</t[dh]>\s*<t[dh][^>\n]{0,200}>|[ \t]*\|[ \t]*|[\t;]", re.IGNORECASE)


def _as_csv(text: str) -> str:
    """Return a text with the cells of markdown, HTML and tabs parted as those of plain CSV."""
    return _BETWEEN_CELLS.sub(",", text.replace('"', ""))


def _further_on(file: TextFile, candidates: Sequence[Format]) -> list[Format]:
    """Return those of the formats that are in the first later piece that has one."""
    for window in file.windows():
        bare = "\n".join(map(file.bare, window.split("\n")))
        fits = [f for f in candidates if f.recognises(window) or f.recognises(bare)]
        if fits:
            return fits
    return []
