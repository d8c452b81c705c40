"""What headings and lines around a table say: ranks, dtype, hidden size, GPU, mode, versions.

A heading speaks for all below it until the next of its level; a line for what follows it. A line
that names two values (``TP4 and TP8``) says none: the cell is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .cells import dtype_of, gpu_of
from .quantities import TO_US

#: What stands where two values are named.
SEVERAL = "several"

_IS = r"\s*(?:is|of)?\s*[=:]?\s*"
_SURE = r"\s*[=:]\s*\**\s*"


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _graph(text: str) -> str:
    return "eager" if re.search(r"eager|false|off|no|without|0", text.lower()) else "graph"


def _compiled(patterns: Mapping[str, Sequence[str]]) -> dict[str, tuple[re.Pattern[str], ...]]:
    return {key: tuple(map(re.compile, of)) for key, of in patterns.items()}


#: Key -> patterns of what is said as ``name = value``; group 1 is the value.
_STATED = _compiled({
    "world_size": (
        rf"\b(?:tp|tp[_ -]size|tensor[_ -]parallel(?:[_ -]size)?|world[_ -]?size|nranks|n?_?ranks|"
        rf"num[_ -]gpus|n_?gpus|nproc[_-]per[_-]node|tp[_ -]degree){_SURE}(\d{{1,5}})\b",
        r"--?(?:tp|tp-size|np|nproc[_-]per[_-]node|world-size|tensor-parallel-size|n)[ =]"
        r"(\d{1,5})\b",
        r"\busing tp size: (\d{1,5})\b",
        r"\bacross (\d{1,5}) (?:ranks|gpus)\b",
    ),
    "hosts": (
        rf"(?<!numa )\b(?:nnodes|n_?hosts|num[_ -](?:nodes|hosts)|nodes|hosts){_SURE}(\d{{1,4}})\b",
        r"--?nnodes[ =](\d{1,4})\b",
    ),
    "hidden_dim": (
        rf"\b(?:hidden(?:[_ -]?(?:size|dim(?:ension)?))?|hdim|d_model|n){_SURE}(\d[\d,]{{0,8}})\b",
        rf"\bh{_SURE}(\d[\d,]{{2,8}})\b",
        r"--hidden[-_](?:dim|size)[ =](\d{1,7})\b",
    ),
    "tokens": (
        rf"\b(?:num[_ -]tokens|tokens|seq[_ -]?len|batch(?:[_ -]size)?|m|bs){_SURE}"
        r"(\d[\d,]{0,8})\b",
    ),
    "dtype": (rf"\b(?:d[_ -]?type|data[_ -]type|precision){_SURE}(?:torch\.)?(\w+)",),
    "timing": (
        rf"\b(?:mode|timing){_SURE}\**\w*\(?(eager|graph)\b",
        r"\b(?:prefill|decode)\((eager|graph)\)",
        rf"\b(?:with[_ -]?graph|cuda[_ -]?graph|hip[_ -]?graph|graph){_SURE}"
        r"(true|false|on|off|0|1)\b",
    ),
})  # fmt: skip
_OF_HOSTS = (
    r"\b(\d{1,4})[ -]?(?:nodes?|hosts?|servers?|machines?)\b",
    r"\b(\d{1,3}) ?[x×] ?\d{1,3} ?(?:[x×] ?)?(?:amd )?(?:instinct )?(?:mi\d{3}|gpus?\b)",
)
#: Key -> patterns of bare words, for headings and short lines.
_BARE = _compiled({
    "world_size": (
        r"\btp[ -]?(\d{1,3})\b",
        rf"\b(?:world[ _-]?size|tensor[ -]parallel(?:ism)?(?:[ _-]size)?){_IS}(\d{{1,5}})\b",
        r"\b(\d{1,5})[ -]?ranks?\b",
    ),
    "hidden_dim": (
        rf"\b(?:hidden(?:[ _-](?:size|dim(?:ension)?))?){_IS}(\d[\d,]{{2,8}})\b",
        r"\bh(\d{4,5})\b",
    ),
    "hosts": _OF_HOSTS,
    "tokens": (
        r"\b(\d{1,7}) tokens?\b", r"\btokens? (\d{1,7})\b(?! ?(?:[-–/,]|to\b|and\b) ?\d)",
    ),
    "dtype": (r"\b(bf16|bfloat16|fp16|float16|fp32|float32|f32|f16)\b",),
    "timing": (
        r"\b(eager|graph)\b(?!-(?:on|off)|(?: capture)? (?:size|break|pool))",
        r"\b((?:no|without)[ -](?:cuda|hip)?[ -]?graphs?)\b",
        r"\b(?:cuda|hip)[ -]?(graph)s?\b",
        r"\bgraph[- ](on|off)\b",
    ),
})  # fmt: skip
_HOSTS = _BARE["hosts"]
_GPUS = tuple(
    map(
        re.compile,
        (
            r"\b(\d{1,3}) ?[x×] ?(?:amd |nvidia )?(?:instinct )?"
            r"(?:mi\d{3}\w?|[hb]\d{3}\w?|gpus?)\b",
            r"\b(\d{1,3})[ -]gpus?\b(?! ?\(s\) visible)",
        ),
    )
)
_OF_GPUS = re.compile(r"gpu|mi ?\d|[hb]\d{3}").search
#: Words of which a line has one that says a cell: most lines of a log have none.
_HINTS = {
    "world_size": ("tp", "parallel", "world", "rank", "gpu", "nproc", "-n"),
    "hosts": ("node", "host", "server", "machine", "mi", "gpu"),
    "hidden_dim": ("hidden", "hdim", "d_model", "h", "n"),
    "tokens": ("tok", "seq", "batch", "bs", "m"),
    "dtype": ("type", "precision", "16", "32"),
    "timing": ("graph", "eager"),
}
_OF_PLACES = re.compile(r"mi ?\d|[hb][123]00|h20|a100|l40s|gfx|sm_?\d").search
_OF_STATISTICS = re.compile(r"median|p50|avg|average|mean|slowest|max|rank").search
_GPU = re.compile(
    r"(?:\b|(?<=\dx))(MI ?\d{3}[AXP]?|GB[23]00|[HB][123]00|H20|A100|L40S)\b", re.IGNORECASE
)
_ARCH = re.compile(r"\b(gfx9\d\d|gfx1\d{3}|sm_?(?:80|90|100|103|120))\b", re.IGNORECASE)
_AITER = re.compile(
    r"\b(?:amd[-_])?aiter\s*(?:version|v|==|=|:|@|release|main|commit)*\s*"
    r"(?:(\d+\.\d+\.\d+(?:\.post\d+)?)|(?:main|commit|@)\s*([0-9a-f]{7,40}))\b",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r"[(\[](us|ms|ns|usec|msec)[)\]]"
    r"|\b(?:in|avg|average|mean|median|p50|latency|times?|all) (us|ms|usec|msec|"
    r"microseconds|milliseconds|nanoseconds)\b|\b(us|ms|microseconds|milliseconds) per\b"
    r"|[,;/] ?(us|ms|usec|microseconds|milliseconds)[\s).:*]*$"
)
#: What a heading says that is no time: a rate, a share, a ratio.
_NO_TIME = re.compile(
    r"[(\[]\s*((?:[gt]i?b/s(?:ec)?|[gt]bps|[gtp]?flops?|%|x|tok(?:en)?s?/s(?:ec)?))\s*[)\]]"
    r"|\bin ([gt]i?b/s|[gt]bps|t?flops|%)(?!\w)"
    r"|^\W*(?:[\w+-]+ ){0,3}((?:alg|bus)_?bw|bandwidth|throughput|speed-?ups?|ratios?"
    r"|improvements?)"
    r"(?: (?:of|over|vs\.?|against|relative to|compared (?:to|with))\b.{0,40})?\W*$"
)
#: A time that is no call's: of a step, of layers, of a request.
_MANY_CALLS = re.compile(
    r"\b(?:e2e|end[- _]?(?:to|2)[- _]?end|tpot|ttft|itl)\b"
    r"|\b(?:step|layer|forward(?:[- ]pass)?|request|model|inter[- ]token)[- _](?:time|latency)\b"
    r"|(?:\b(?:per|(?:of|for) (?:an?|one|the|each|all|\d+))|/)[ _-]?"
    r"(?:(?:output|decod\w*|prefill|forward|model|engine|whole)[ _-])?"
    r"(?:steps?|layers?|forward|pass|tok(?:en)?|request)(?![a-z])"
    r"|\b(?:decode|engine|whole|full|model)[- _](?:steps?|forward|pass)\b"
    r"|\b(?:all|\d+)[ _x×-]*layers?\b.*\b(?:total|sum)"
    r"|\b(?:total|sum)\w*\b.*\b(?:layers?|calls|steps)\b"
)
#: A tail of many calls, and what stands beside one where a table has both.
_OF_TAIL = re.compile(r"\bp9\d(?:\.\d+)?\b(?!\W*[\d=:])|\btail latenc")
_OF_MIDDLE = re.compile(r"p50|median|mean|avg|average|\bmin\b")
_TIMED = re.compile(r"time|latenc|duration|cost|overhead|\b[num]s\b|\bmsec\b|\busec\b|total|sum")


def is_of_many_calls(text: str) -> bool:
    """Whether a caption or a column's name says that its times are no single call's.

    ``time per decode step``, ``E2E latency``, ``total ms (80 layers)``, ``P99 latency``.
    """
    line = text[:500].lower().replace("µ", "u").replace("μ", "u")
    if _OF_TAIL.search(line) and not _OF_MIDDLE.search(line):
        return True
    return bool(_MANY_CALLS.search(line) and _TIMED.search(line))


_STATISTIC = (("median", r"\b(?:median|p50)\b"), ("mean", r"\b(?:avg|average|mean)\b"))
_REDUCTION = (
    ("max", r"slowest[ _-]rank|max(?:imum)?[ _-](?:over|across|of)[ _-](?:all )?(?:the )?(?:\d+ )?"
            r"(?:ranks|gpus)|rank[ -]max|max latency across"),
    ("mean", r"(?:avg|average|mean)(?:(?!iter|run|trial|rep|call|sample)[ \w])*"
             r"(?:over|across) (?:all )?(?:\d+ )?(?:ranks|gpus)"),
    ("rank0", r"\brank ?0 (?:only|time)"),
)  # fmt: skip


#: ``TP4/8``, ``TP4 and TP8``; not ``TP8, 100 iterations``.
_SEVERAL_TP = re.compile(
    r"\b(?:tp(?:[_ -]size)?|world[_ -]?size|ranks) ?[=:]? ?\d+"
    r"(?: ?(?:[/,&]| and| vs\.?| or) ?tp ?[=:]? ?\d|(?:,| ?[/&] ?)(?:1|2|4|8|16|32|64)\b"
    r"|(?:, | and | vs\.? | or )(?:1|2|4|8|16|32|64)\b(?! ?(?!and\b|or\b|vs\b)[a-z%x×.]))"
)


#: ``hidden 7168 and 2880``, ``H=2880/7168``; not ``hidden 7168, 4096 tokens`` nor ``7,168``.
_SEVERAL_HIDDEN = re.compile(
    r"\b(?:h|hidden(?:[ _-]?(?:sizes?|dims?|dimensions?))?) ?[=:]? ?[\[(]?\d{3,5}"
    r"(?:(?: ?[/&]| and| or| vs\.?) ?\d{3,5}|, ?\d{4,5}|, \d{3})\b"
    r"(?! ?(?!and\b|or\b|vs\b)[a-z%x×.])"
)
_NUMBER = re.compile(r"(?<![A-Za-z_\d])\d+")
#: What is said without a number that stands by itself.
_WITHOUT_NUMBER = {"unit", "statistic", "rank_reduction", "dtype"}


def said_by(text: str, *, bare: bool) -> Mapping[str, Any]:
    """Return what a line says, by schema 1 cell (and ``unit``); :data:`SEVERAL` for two values.

    A ``unit`` that is none of time (``gb/s``, ``speedup``) says that what follows is no latency.
    ``bare`` words (``TP8``, ``bf16``) count in headings, labels and short lines only. The lines of
    a log differ in their numbers alone: what one says with zeros for them is kept.
    """
    found = _read(_NUMBER.sub(lambda match: "0" * len(match[0]), text[:500]), bare)
    return found if found.keys() <= _WITHOUT_NUMBER else _read(text, bare)


@lru_cache(maxsize=4096)
def _read(text: str, bare: bool) -> Mapping[str, Any]:
    line = text[:500].lower().replace("µ", "u").replace("μ", "u").replace("**", "")
    said: dict[str, Any] = {}
    for key, hints in _HINTS.items():
        if not any(hint in line for hint in hints):
            continue
        found = _values(_STATED[key], line)
        if not found and bare:
            found = _values(_BARE.get(key, ()), line)
        _take(said, key, found)
    if "world_size" not in said and _OF_GPUS(line) and not re.search(r"available|visible", line):
        _take(said, "world_size", _values(_GPUS, line))
        hosts = {int(value) for value in _values(_HOSTS, line)}
        if "world_size" in said and max(hosts, default=1) > 1:
            said["world_size"] = SEVERAL  # those of each host, or of all
    if "world_size" in said and _SEVERAL_TP.search(line):
        said["world_size"] = SEVERAL
    if "hidden_dim" in said and _SEVERAL_HIDDEN.search(line):
        said["hidden_dim"] = SEVERAL
    if _OF_PLACES(line):
        _take(said, "gpu", {gpu_of(m[1].replace(" ", "")) for m in _GPU.finditer(text[:500])})
        _take(said, "arch", {m[1].lower().replace("sm_", "sm") for m in _ARCH.finditer(line)})
    if "aiter" in line and (match := _AITER.search(text[:500])):
        said["kernel_version"] = f"AITER {match[1] or 'main ' + match[2]}"
    units = {u for m in _UNIT.finditer(line) for u in m.groups() if u} if "s" in line else set()
    if len({TO_US[u] for u in units}) == 1:
        said["unit"] = units.pop()
    elif bare and not units and (match := _NO_TIME.search(line)):
        said["unit"] = next(filter(None, match.groups()))
    for key, table in (("statistic", _STATISTIC), ("rank_reduction", _REDUCTION)):
        if not _OF_STATISTICS(line):
            break
        _take(said, key, {value for value, pattern in table if re.search(pattern, line)})
    return said


def _values(patterns: Iterable[re.Pattern[str]], line: str) -> set[str]:
    return {match.group(1) for pattern in patterns for match in pattern.finditer(line)}


def _take(said: dict[str, Any], key: str, found: set[str]) -> None:
    values: set[Any] = set(found)
    if key in ("world_size", "hidden_dim", "tokens", "hosts"):
        values = {_number(v) for v in found}
    elif key == "timing":
        values = {_graph(v) for v in found}
    elif key == "dtype":
        values = {dtype_of(v) for v in found}
    if values:
        said[key] = values.pop() if len(values) == 1 else SEVERAL


_HEADING = re.compile(r"^\s{0,3}(#{1,6})\s+(\S.*)$")
_SUMMARY = re.compile(
    r"<(?:summary|h([1-6]))>(.*?)</(?:summary|h[1-6])>|<summary>(.*)", re.IGNORECASE
)
_BOLD = re.compile(r"^\s*(?:[-*]\s+)?\*\*([^*]+)\*\*:?\s*$")
#: Levels of what is no heading of markdown: a fold, a bold line, any other line.
_FOLD, _BOLD_LEVEL, _LINE = 7, 8, 9
#: A line of so many characters is a caption; a longer one is prose, whose bare words say little,
#: and whose end says nothing.
SHORT, _PROSE = 60, 1000
#: Of these a longer caption names three.
_SETTINGS = {"world_size", "hidden_dim", "tokens", "dtype", "gpu", "timing"}
#: The time of day, which a line of a log has and a caption has not.
CLOCK = re.compile(r"(?<!\d)\d\d:\d\d:\d\d(?!\d)")


#: What a sentence has that speaks of other runs than those of the table it stands beside.
_REMARK = re.compile(
    r"\b(?:compar(?:ed|ison|able)|similar(?:ly)?|than|unlike|instead of|see|will|would"
    r"|previous(?:ly)?|earlier|later|soon|same|behaves?|moves?|follow|next|todo|wip|slower|worse|better|regress\w*|unaffected"
    r"|(?:is|are|was|were|does|do|did) not|isn't|aren't|doesn't|don't|didn't)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[a-z]{2}\W{0,3}[.!?][\s*_)]*$", re.IGNORECASE)


def is_remark(text: str) -> bool:
    """Whether a line is a sentence about other runs, and no caption: ``TP4 is not affected.``"""
    return not text.rstrip("*_ ").endswith(":") and _has_remark(_NUMBER.sub("0", text))


@lru_cache(maxsize=4096)
def _has_remark(text: str) -> bool:
    return _REMARK.search(text) is not None


#: A caption with a number. It stands above each table of a text, or below each.
_CAPTION = re.compile(r"[\s*_>]*(?:<\w+>)?[\s*_]*(?:table|tab\.)\s*\d{1,4}\b", re.IGNORECASE)


def is_caption(text: str) -> bool:
    """Whether a line is a table's caption by its number: ``*Table 2: TP4, hidden 7168*``."""
    return bool(_CAPTION.match(text))


class Context:
    """What has been said on the way down a file.

    What a heading says, and lines under it, holds until the next heading of its level or above.
    """

    def __init__(self) -> None:
        self._scopes: list[tuple[int, dict[str, Any]]] = [(0, {})]
        self._above: list[str] = []

    def line(self, text: str) -> None:
        """Take the next line that is part of no table."""
        text = text[:_PROSE].strip()
        if not text or re.fullmatch(r"[-=*_+~#`|\s]+", text):
            return
        if re.match(r"</details>", text, re.IGNORECASE):
            self._close(_FOLD)
            return
        level, words = _level(text)
        if level < _LINE:
            self._close(level)
            self._scopes.append((level, dict(said_by(words, bare=True))))
            self._above = [words]
            return
        said = dict(said_by(words, bare=_is_caption_like(words)))
        if said and not is_remark(words):
            if _SENTENCE.search(words):  # may be of another run than the heading's
                held = self.says()
                told = said.keys() & held.keys() & _SETTINGS
                said |= {key: SEVERAL for key in told if said[key] != held[key]}
            self._scopes[-1][1].update(said)
        self._above = [*self._above[-2:], words]

    def _close(self, level: int) -> None:
        self._scopes = [scope for scope in self._scopes if scope[0] < level]

    def says(self) -> dict[str, Any]:
        """Return what holds here, by cell; what two values were named for is absent."""
        merged: dict[str, Any] = {}
        for _, said in self._scopes:
            merged.update(said)
        return {key: value for key, value in merged.items() if value != SEVERAL}

    def captions(self) -> Iterator[str]:
        """Give the short lines and headings right above, the nearest first."""
        yield from (text for text in reversed(self._above) if len(text) <= 2 * SHORT)


def _is_caption_like(words: str) -> bool:
    """Whether bare words of a line count: it is short, or says little but settings."""
    if CLOCK.search(words):
        return False
    return len(words) <= SHORT or (
        len(words) <= 3 * SHORT and len(_SETTINGS & said_by(words, bare=True).keys()) >= 3
    )


#: A comment of a CSV, which is no heading: ``# tp: 8``.
_COMMENT = re.compile(r"#\s*([\w -]{1,40}?\s*[:=]\s*\S.*)")


def _level(text: str) -> tuple[int, str]:
    if comment := _COMMENT.fullmatch(text):
        return _LINE, comment[1]
    if heading := _HEADING.match(text):
        return len(heading[1]), heading[2].strip("# ")
    if fold := _SUMMARY.search(text):
        return (int(fold[1]) if fold[1] else _FOLD), re.sub(
            r"<[^>]+>", "", fold[2] or fold[3] or ""
        )
    if bold := _BOLD.match(text):
        return _BOLD_LEVEL, bold[1]
    return _LINE, text
