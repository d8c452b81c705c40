"""Logs of rccl-tests and nccl-tests, of all releases since 2017.

A line of results is ``size count type``, in most releases ``redop`` and ``root``, and then out of
place and in place ``time algbw busbw`` and how wrong the result was; which columns there are is
read from the header above. The time is the mean over the iterations. The out-of-place time becomes
the row, the in-place time beside it is left. Before the table stand versions, the collective, the
options and the devices; in front of every line there may be what a launcher puts there.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from ...files import without_escapes
from .collective_run import ELEMENT_BYTES, CollectiveRun, Rank, Result, Taker
from .rows import IN_PLACE, Imported
from .text_file import TextFile, shortened

#: What stands before a line: ``[1,0]<stdout>:``, ``[0]``, ``[rank0]:``, ``0:``, ``node-1:``.
_RANK_PREFIX = re.compile(
    r"\s*(?:(\[[^\]\s]{1,120}\])(?:<std\w{3}>:|:?(?=\s|$|#))"
    r"|([\w.-]{1,80})(?:<std\w{3}>:|:(?=\s|$|#)))"
)
#: The time of day that a container's log has there, what mpirun's --timestamp-output writes, and
#: the sign of a quotation.
_TIME_PREFIX = re.compile(
    r"\s*>(?=\s|$)|\s*\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*(?: std(?:out|err) [FP])?(?=\s|$|#)"
    r"|\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}(?:<std\w{3}>:|(?=\s|$|#))"
)
_RESULT = re.compile(r"\s*\d+\s+\d+\s+[a-z]\w*(?:\s|$)")
#: What the tests' own lines look like behind any other prefix: a logger's, a quotation's.
_OWN_LINE = re.compile(
    r"#[ \t]*(?:nThreads?|Using devices|Rank|Collective test|size|bytes|out-of-place|in-place"
    r"|[rn]ccl-tests)\b.*|#[ \t]*\(B\).*"
    r"|size[ \t]+count[ \t]+type[ \t].*|\(B\)[ \t]+\(elements\)[ \t].*"
    rf"|(?<!\S)\d+[ \t]+\d+[ \t]+(?:{'|'.join(ELEMENT_BYTES)})[ \t].*"
)
#: A line of the header that has lost its sign, as markdown takes it for a heading's.
_UNSIGNED = re.compile(
    r"\s*(?:size\s+count\s+type\s|bytes\s+N\s+type\s|\((?:B|bytes)\)\s+\(elements\)\s"
    r"|out-of-place\s+in-place\s*$)"
)
#: The time of day in a prefix, which is no part of whose line it is.
_CLOCK = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}:\d\d(?::\d\d)?(?:[.,]\d+)?|\d{5,}")
#: No prefix is longer.
_PREFIX = 200
_RANK = re.compile(
    r"#\s+Rank\s+(\d{1,9})(?:\s+Group\s+(\d{1,9}))?(?:\s+Pid\s+(\d+))?\s+on\s+(\S+)"
    r"\s+device\s+(\d+)\s+\[([^\]]*)\]\s*(.*)"
)
_OPTIONS = re.compile(
    r"#?\s*nThreads?:?\s+(\d{1,6})\s+nGpus:?\s+(\d{1,6})(?:\s+nRanks:?\s+(\d{1,6}))?"
)
_STARTING = re.compile(r"#\s*Collective test starting:\s*(\w+)")
_PROGRAM = re.compile(r"(?:^|[\s/])(\w{1,60})_perf(?:\.\w+)?(?=\s|$)")
_TESTS = re.compile(r"#?\s*((?:rccl|nccl)-tests:?\s+version\s+\S+)(.*)", re.IGNORECASE)
_LIBRARY = re.compile(r"\b([RN]CCL version\s{0,8}:?\s{0,8}\d\S*)")
_LIBRARY_CODE = re.compile(r"\b(r|n)ccl-library=(\d{4,6})\b")
_CYCLE = re.compile(r"#\s*Testing (\d{1,9}) cycle")
_SETTINGS = (
    (re.compile(r"\bagg iters: (\d+)"), "1", "aggregated {}"),
    (re.compile(r"\bunalign: (\d+)"), "0", "unaligned {}"),
)
#: Comments of the programs themselves; any other above a run says what somebody changed for it.
_OWN = re.compile(
    r"#\s*($|Using|Out of|Avg|Errors|error:|Collective|Testing|Reducing|Blocking|Parallel|Writing|"
    r"skipping|GPU mem|Per-It|Swap|Network|Node |NIC |Counters|Device list|Warning|Launch)"
)
#: Streams of different launcher prefixes that are told apart.
_STREAMS = 4096


class Layout(NamedTuple):
    """Columns of a table: those before the first time, the groups of each place, those after."""

    keys: list[str]
    groups: list[tuple[str, list[str]]]
    after: int
    to_us: float


def parse(file: TextFile, imported: Imported) -> None:
    """Read a log; see :mod:`costmodel.data.importers.formats`."""
    taker = Taker(imported)
    counts: Counter[str] = Counter()
    streams: dict[str, Log] = {}
    for line_number, line in file.lines():
        prefix, content = split_prefix(without_escapes(line) if "\x1b" in line else line)
        content = f"# {content.strip()}" if _UNSIGNED.match(content) else content
        log = streams.get(prefix)
        if log is None:
            prefix = prefix if len(streams) < _STREAMS else ""
            log = streams.setdefault(prefix, Log(taker, counts))
        log.read(content, f"{file.name}:{line_number}")
    for log in streams.values():
        taker.finish(log.run)
    taker.close()


def split_prefix(line: str) -> tuple[str, str]:
    """Return the rank or host that a launcher wrote before a line, "" for none, and the line."""
    if match := _TIME_PREFIX.match(line):
        line = line[match.end() :]
    if _RESULT.match(line) or line.startswith("#"):
        return "", line
    match = _RANK_PREFIX.match(line)
    if match and match[2] in ("rccl-tests", "nccl-tests"):
        return "", line
    if not match:
        own = _OWN_LINE.search(line[: _PREFIX + 200])
        if own is None or own.start() > _PREFIX:
            return "", line
        return _CLOCK.sub("", line[: own.start()]).strip(), line[own.start() :]
    rest = line[match.end() :]
    inner = _TIME_PREFIX.match(rest)
    return match[1] or match[2], rest[inner.end() :] if inner else rest


class Log:
    """One stream of lines, and the run that it is in."""

    def __init__(self, taker: Taker, counts: Counter[str]) -> None:
        self.taker = taker
        self.counts = counts
        self.run = CollectiveRun()
        self.begun: set[str] = set()
        self.comment = ""
        self.places: list[str] = []
        self.header: Layout | None = None
        self.layout: Layout | None = None

    def read(self, line: str, where: str) -> None:
        """Take one line."""
        if _RESULT.match(line):
            self._result(line.split(), where)
            return
        text = line.strip()
        if not text:
            return
        if text.startswith("#") and self._table_head(text):
            return
        if match := _RANK.match(text):
            rank, group, pid, host, _, bus, product = match.groups()
            self.run.list_rank(Rank(int(rank), int(group or 0), pid or "", host, bus, product))
        elif match := _TESTS.match(text):
            self._begin("tests")
            self.run.tests = match[1].lstrip("# ")
            self._library(match[2])
        elif match := _STARTING.match(text):
            self._begin("starting")
            self.run.collective = match[1].removesuffix("_perf")
        elif match := _OPTIONS.match(text):
            self._begin("options")
            self._options(text, match)
        elif match := _CYCLE.match(text):
            self.run.cycle = int(match[1])
        elif not text.startswith("#"):
            self._other(text)
        elif not _OWN.match(text):
            self.comment = shortened(text.lstrip("# "), 60)
        elif text.startswith("# Blocking"):
            self.run.labels.append("blocking")

    def _begin(self, sign: str) -> None:
        """Begin a new run where ``sign`` cannot belong to this one any more."""
        if self.run.n_results or sign in self.begun:
            self.taker.finish(self.run)
            self.run = CollectiveRun()
            self.begun = set()
            self.layout = None
        if not self.begun:
            self.run.name, self.comment = self.comment, ""
        self.begun.add(sign)

    def _options(self, text: str, match: re.Match[str]) -> None:
        run = self.run
        run.per_process = int(match[1]) * int(match[2]) * int(match[3] or 1)
        graph = re.search(r"\bgraph: (\d+)", text)
        run.graph = bool(graph and int(graph[1][:9]))  # releases without it had no graphs
        for pattern, usual, label in _SETTINGS:
            said = pattern.search(text)
            if said and said[1] != usual:
                run.labels.append(label.replace("{}", said[1][:9]))

    def _other(self, text: str) -> None:
        """Take a line that is no comment: a version, or the command that was run."""
        if not self._library(text) and (program := _PROGRAM.search(text)):
            self._begin("command")
            self.run.collective = program[1]
            if average := re.search(r"\s(?:-a|--average)[ =]?([0-3])\b", text):
                self.run.average = average[1]
            if processes := re.search(r"\s(?:-np?|--np|--ntasks)[ =](\d{1,6})\b", text):
                self.run.processes = int(processes[1])

    def _library(self, text: str) -> bool:
        """Take the library's version from a line that has one."""
        if match := _LIBRARY.search(text):
            self.run.library = self.run.library or " ".join(match[1].split())
        elif match := _LIBRARY_CODE.search(text):
            self.run.library = f"{match[1].upper()}CCL {version_of_code(int(match[2]))}"
        return match is not None

    def _table_head(self, text: str) -> bool:
        """Take a line of the table's head, if it is one."""
        words = text.lstrip("#").split()
        if words[:1] == ["(B)"]:
            self.layout = self.header if "(us)" in words else None
            return True
        if "out-of-place" in words or "in-place" in words:
            self.places = [w for w in words if w in ("out-of-place", "in-place")]
            return True
        if words[:1] not in (["size"], ["bytes"]) or "type" not in words:
            return False
        self.header = layout_of(words, self.places)
        # The releases of before March 2019 have no line of units: milliseconds (b188a15).
        self.layout = self.header if words[0] == "bytes" else None
        return True

    def _result(self, words: list[str], where: str) -> None:
        imported, layout, run = self.taker.imported, self.layout, self.run
        if layout is None:
            imported.leave(where, "no line of units with (B) and (us) above it")
            return
        read = values_of(words, layout)
        if read is None:
            imported.leave(where, "a line whose cells are not those of the header")
            return
        if not run.n_results:
            self.counts[run.collective] += 1
            run.number = self.counts[run.collective]
        key, groups = read
        first = next((i for i, (place, _) in enumerate(layout.groups) if place != "in-place"), 0)
        for i, ((place, names), values) in enumerate(zip(layout.groups, groups, strict=True)):
            cells = dict(zip(names, values, strict=True))
            for name in names:
                if name in _BESIDE:
                    imported.leave(where, _BESIDE[name])
            if "cputime" in cells:
                imported.leave(where, "CPU time of the launch (-C 1), no latency")
            elif i != first:
                imported.leave(where, IN_PLACE)
            else:
                self.taker.take(run, _result(key, cells, layout), where, place == "in-place")


#: Latencies that stand beside the mean of a result.
_BESIDE = {
    "hipevt": "time by HIP events, beside the time",
    "i_min": "extremes of single iterations, beside their mean",
    "i_max": "extremes of single iterations, beside their mean",
    "i_p99": "extremes of single iterations, beside their mean",
}


def layout_of(words: list[str], places: list[str]) -> Layout | None:
    """Return the columns that a header names, None where it names no time."""
    times = [i for i, word in enumerate(words) if word in ("time", "cputime")]
    if not times:
        return None
    ends = [*times[1:], len(words)]
    names = [words[start:end] for start, end in zip(times, ends, strict=True)]
    last = [i for i, word in enumerate(names[-1]) if word in _LAST]
    after = names[-1][last[-1] + 1 :] if last else []
    names[-1] = names[-1][: len(names[-1]) - len(after)]
    known = places if len(places) == len(names) else ["out-of-place", "in-place"]
    groups = [(known[min(i, 1)], group) for i, group in enumerate(names)]
    # A timestamp is two words.
    width = sum(2 if word == "timestamp" else 1 for word in after)
    return Layout(words[: times[0]], groups, width, 1e3 if words[0] == "bytes" else 1.0)


#: Names of the last column of a place.
_LAST = ("#wrong", "error", "res", "i_cv%")


def values_of(words: list[str], layout: Layout) -> tuple[dict[str, str], list[list[str]]] | None:
    """Return size, type and redop of a line of results, and the values of each place.

    None for a line that is cut, or has other cells than the header names. A collective without a
    reduction has an empty redop in releases of before 2022.
    """
    key = {"size": words[0], "count": words[1], "type": words[2], "redop": "", "root": ""}
    at = 3
    for name in layout.keys[3:]:
        if at >= len(words):
            return None
        if name == "root":
            if not re.fullmatch(r"-?\d+", words[at]):
                return None
            key["root"] = words[at]
        elif words[at][:1].isalpha() and words[at] != "nan":
            key["redop"] = words[at]
        else:
            continue
        at += 1
    groups = []
    for _, names in layout.groups:
        groups.append(words[at : at + len(names)])
        at += len(names)
    return (key, groups) if at + layout.after == len(words) else None


def _result(key: dict[str, str], cells: dict[str, str], layout: Layout) -> Result:
    old = next((name for name in ("error", "res") if name in cells), "")
    return Result(
        key["size"], key["count"], key["type"], key["redop"], key["root"], cells["time"],
        cells[old] if old else cells.get("#wrong", ""), bool(old), layout.to_us,
        cells.get("algbw", ""), cells.get("busbw", ""),
    )  # fmt: skip


def version_of_code(code: int) -> str:
    """Return a version from NCCL_VERSION_CODE: 2708 is 2.7.8, 22807 is 2.28.7."""
    major, rest = divmod(code, 1000 if code < 10000 else 10000)
    return f"{major}.{rest // 100}.{rest % 100}"


def program_of(name: str) -> str:
    """Return the collective of a program's name: ``./build/all_reduce_perf`` -> ``all_reduce``."""
    match = _PROGRAM.search(name)
    return match[1] if match else ""
