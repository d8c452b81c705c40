"""Cells that people and tools write: times and sizes with units, shapes, yes and no.

``12.3 us``, ``**1.2 ms**``, ``1,024.5``, ``9.8 ± 0.2``, ``14.1 (1.2x)`` and ``17 ⚠`` are
figures; ``<10`` and ``12/14`` are not, and ``12,3`` is one in a table that writes decimals so.
Signs that are no letters (emoji, ticks, footnotes) and markdown's bold, code and line breaks are no
part of a cell.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from .cells import number, whole

#: Microseconds of a unit of time, by its name in lower case with ``u`` for the prefix.
TO_US = {
    "us": 1.0, "usec": 1.0, "usecs": 1.0, "microsecond": 1.0, "microseconds": 1.0,
    "ms": 1e3, "msec": 1e3, "msecs": 1e3, "millisecond": 1e3, "milliseconds": 1e3,
    "ns": 1e-3, "nsec": 1e-3, "nanosecond": 1e-3, "nanoseconds": 1e-3,
    "s": 1e6, "sec": 1e6, "secs": 1e6, "second": 1e6, "seconds": 1e6,
}  # fmt: skip

#: Powers of 1024 of a unit of size. Without the ``i`` they may be meant as powers of 1000.
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3}
_SIZE_UNIT = re.compile(r"(?:(k|m|g)(i?)(?:b|bytes?)?|b|bytes?)$")

_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?!\d)|[+-]?\d{1,3}(?:[ _]\d{3})+(?!\d)")
_FIGURE = re.compile(
    r"(?P<figure>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?)\s*[(\[]?\s*(?P<unit>[a-z]*)\s*[)\]]?"
    r"\s*(?P<spread>(?:±|\+/-|\+-)\s*\d[\d.]*\s*[a-z%]*)?\s*(?P<beside>[(\[][^()\[\]]*[)\]])?"
    r"[*†‡]*$"
)
#: What most cells are: no markup, no sign that is left out.
_BARE = re.compile(r"[A-Za-z0-9.+/:(),%-]{1,200}")
#: What markup of ASCII signs begins with, and what an entity or an escaped bar does; what is no
#: text.
_SIGNS = re.compile(r"[*_~`<&\\\x00-\x08\x0e-\x1b\x7f]")
_DECIMAL = re.compile(r"\d{1,20}(?:\.\d{1,20})?")
_MARKS = re.compile(
    r"\*\*|(?<!\w)__|__(?!\w)|~~|`|<br\s*/?>|</?(?:b|strong|i|em|code|sub|sup|td|th|small)>"
)
#: A sign that was lost, or that only one font has: it may have been the prefix of a unit.
_UNREAD = re.compile("[\ufffd\ue000-\uf8ff\ud800-\udfff]")
_ENTITIES = {"&nbsp;": " ", "&micro;": "u", "&mu;": "u", "&plusmn;": "±", "&times;": "×"}
#: What stands where a harness has no figure.
NO_FIGURE = frozenset(
    ("", "-", "--", "---", "—", "–", "n/a", "na", "nan", "none", "null", "inf", "failed", "fail",
     "oom", "err", "error", "skip", "skipped", "disabled", "unsupported", "unavailable", "tbd",
     "?", "...", "n.a.", "not supported", "not available", "timeout", "hang")
)  # fmt: skip


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return a cell's text without markup and signs, either mu as ``u``."""
    if _BARE.fullmatch(text):
        return text
    if text.isascii() and len(text) <= 2000 and not _SIGNS.search(text):
        return " ".join(text.split())
    text = text[:2000]
    for entity, sign in _ENTITIES.items():
        if entity in text:
            text = text.replace(entity, sign)
    text = _MARKS.sub(" ", text).replace("µ", "u").replace("μ", "u")
    text = _UNREAD.sub("?", text)
    kept = (
        " " if c.isspace() or unicodedata.category(c) == "Zs" else c
        for c in text
        if unicodedata.category(c) not in ("So", "Sk", "Cf", "Mn", "No")
    )
    return " ".join("".join(kept).replace("\\|", "|").split())


class WrittenFigure(NamedTuple):
    """A figure, its unit in lower case ("" without) and how many decimals it was written with."""

    value: float
    unit: str
    decimals: int


def figure(text: str) -> WrittenFigure | None:
    """Return the figure of a cell, None where it is none or not one alone."""
    if _DECIMAL.fullmatch(text):
        return WrittenFigure(float(text), "", len(text.partition(".")[2]))
    text = plain(text).lower()
    if len(text) > 80:
        return None
    grouped = _GROUPED.match(text)
    if grouped:
        text = re.sub(r"[,_ ]", "", grouped[0]) + text[grouped.end() :]
    match = _FIGURE.match(text)
    if match is None:
        return None
    value = number(match["figure"])
    if value is None:
        return None
    decimals = len(match["figure"].partition("e")[0].partition(".")[2])
    return WrittenFigure(value, match["unit"], decimals)


#: What may stand in brackets beside a figure and say nothing else of it.
_ASIDE = re.compile(
    r"x|us|ms|ns|best|fastest|winner|faster|slower|speed_?up|baseline|ok|pass(?:ed)?|correct|n|std"
    r"|stdev|sd|sigma|min|max|p\d{1,3}|median|mean|avg|average|vs|iters?|runs?|of|more|less|up|down"
    r"|gbps|gb|s|ref|lossless|rel|ci|e"
)


def aside(text: str) -> str:
    """Return what a cell says beside its figure in words, "" for a speed-up, a spread and the like.

    ``9.1 (2-stage)`` and ``9.1 (fallback)`` are not what their column says.
    """
    if _DECIMAL.fullmatch(text):
        return ""
    if any(sign in text for sign in "❌✗✘☒"):
        return "wrong"
    match = re.search(r"[(\[]([^()\[\]]*)[)\]]", plain(text).lower())
    found = re.findall(r"[a-z_]+", match[1]) if match else []
    return match[1] if match and not all(map(_ASIDE.fullmatch, found)) else ""


#: A figure with what parts its digits, from the start of a cell.
_PARTED = re.compile(r"\W*(\d[\d.,]*)")
#: Figures with decimals behind a comma, those with decimals behind a point, and those of which a
#: comma may part decimals or thousands.
_COMMA = re.compile(r"0,\d+|\d+,(?:\d{1,2}|\d{4,})|\d{1,3}(?:\.\d{3})+,\d+")
_POINT = re.compile(
    r"0\.\d+|\d+\.(?:\d{1,2}|\d{4,})|\d{1,3}(?:,\d{3})+\.\d+|\d{1,3}|\d{1,3}(?:,\d{3}){2,}"
)
_OPEN = re.compile(r"\d{1,3},\d{3}")
_GROUPS = re.compile(r"\W*\d{1,3}(?:,\d{3})+(?![\d.,])")


def decimal_sign(times: Iterable[str], counts: Iterable[str]) -> str:
    """Return the sign before the decimals of a table's figures, "" where it stays open.

    ``times`` are cells that hold times, ``counts`` those that hold whole numbers. ``9,1`` has
    decimals behind a comma, ``1,048,576`` none; ``9,125`` by itself may be either.
    """
    found = [match[1] for text in times if (match := _PARTED.match(text))]
    comma, is_open, point = (any(map(of.fullmatch, found)) for of in (_COMMA, _OPEN, _POINT))
    if comma:
        strict = any("." in one and _POINT.fullmatch(one) for one in found)
        return "." if strict else ","
    if not is_open or point or any(map(_GROUPS.match, counts)):
        return "."
    return ""


def is_open_figure(text: str) -> bool:
    """Whether a comma in a figure may part decimals or thousands."""
    match = _PARTED.match(plain(text))
    return bool(match and _OPEN.fullmatch(match[1]))


def with_point(text: str) -> str:
    """Return a cell whose decimals stand behind a comma with them behind a point."""
    match = re.match(r"\W*(\d{1,3}(?:\.\d{3})+(?![\d.])|\d+)(?:,(\d+))?", text)
    if match is None or not re.search(r"[.,]", match[0]):
        return text
    figure_of = match[1].replace(".", "") + (f".{match[2]}" if match[2] else "")
    return text[: match.start(1)] + figure_of + text[match.end() :]


def is_struck_out(text: str) -> bool:
    """Whether a cell is struck out in markdown or HTML: its figure is withdrawn."""
    return "~~" in text or any(tag in text.lower() for tag in ("<del>", "<s>", "<strike>"))


def scaled(value: float, by: float) -> float:
    """Return a figure in another unit, to the digits that it was written with."""
    return float(f"{value * by:.12g}")


def is_no_figure(text: str) -> bool:
    """Whether a cell says that there is none: empty, ``N/A``, ``FAILED``, a dash."""
    return plain(text).lower() in NO_FIGURE


_APPROXIMATE = re.compile(r"\s*(?:[~≈<>≤≥]|(?:ca|approx)\b|about\b)[^0-9]{0,12}\d")
_RANGE = re.compile(r"\s*\d[\d.,]*\s*[a-z]{0,5}\s*(?:-|–|—|\.\.|to)\s*\d[\d.,]*\s*[a-z]{0,5}\s*")


def no_measurement(text: str) -> str:
    """Return why what looks like a figure is none that was measured, "" for anything else."""
    text = plain(text).lower()
    if _APPROXIMATE.match(text):
        return "is an approximation or a bound"
    return "is a range" if _RANGE.fullmatch(text) else ""


def has_time_unit(text: str) -> bool:
    """Whether a cell is a figure with a unit of time."""
    found = figure(text)
    return found is not None and found.unit in TO_US


def microseconds(text: str, column_us: float | None) -> float | None:
    """Return the time of a cell in microseconds, None where it is no time.

    ``column_us`` are the microseconds of the column's unit; the cell's own unit goes before it.
    """
    found = figure(text)
    if found is None or (found.unit and found.unit not in TO_US):
        return None
    if not found.unit and column_us is None:
        return None
    return scaled(found.value, TO_US[found.unit] if found.unit else column_us or 1.0)


class ByteSize(NamedTuple):
    """A size in bytes, with the half of its last digit, and whether 1024 was taken for KB or MB.

    ``decimal`` is the size where 1000 is meant.
    """

    size_bytes: float
    half_digit: float
    taken: bool
    decimal: float

    def fits(self, size_bytes: float, *, decimal: bool = False) -> bool:
        """Whether a size is what was written, but for rounding."""
        stated = self.decimal if decimal else self.size_bytes
        return abs(stated - size_bytes) <= self.half_digit * 1.000001

    @property
    def exact(self) -> int | None:
        """The bytes as a whole number, None where the figure is rounded."""
        return int(self.size_bytes) if self.size_bytes == int(self.size_bytes) else None


def size_unit(unit: str) -> tuple[int, bool] | None:
    """Return (bytes, whether 1024 was taken) of a unit of size, None for any other word."""
    match = _SIZE_UNIT.fullmatch(unit)
    if match is None:
        return None
    letter, binary = match[1] or "", match[2] or ""
    return 1024 ** _POWERS[letter], bool(letter) and not binary


def size(text: str, column: tuple[int, bool] | None) -> ByteSize | None:
    """Return the size of a cell (``128 KB``, ``64KiB``, ``1M``, ``1,048,576``), None for no size.

    ``column`` is the unit of the column, as :func:`size_unit` gives it, where it says one.
    """
    found = figure(text)
    if found is None or found.value < 0:
        return None
    unit = size_unit(found.unit) if found.unit else column or (1, False)
    if unit is None:
        return None
    bytes_of, taken = unit
    rounded = 0.5 * 10.0**-found.decimals * bytes_of if found.decimals or bytes_of > 1 else 0.0
    power = round(math.log(bytes_of, 1024))
    return ByteSize(found.value * bytes_of, rounded, taken, found.value * 1000**power)


def count(text: str) -> int | None:
    """Return a whole number (``64``, ``1,024``, ``M=64``, ``8 tokens``), or None."""
    text = re.sub(
        r"^[a-z_ ]{1,12}[=:]\s*|\s*(?:tokens?|toks?|gpus?|ranks?)$", "", plain(text).lower()
    )
    grouped = _GROUPED.fullmatch(text)
    return whole(re.sub(r"[,_ ]", "", text) if grouped else text)


def ranks(text: str) -> int | None:
    """Return a number of ranks (``8``, ``TP8``, ``TP=4``, ``8x MI300X``, ``8 GPUs``), or None."""
    match = re.fullmatch(
        r"(?:tp|world ?size|ws)?[ =:_-]*(\d{1,5})(?:\.0)?"
        r"\s*(?:(?:x|×)?\s*(?:gpus?|ranks?|mi\d{3}\w?|[hb]\d{3}))?",
        plain(text).lower(),
    )
    return whole(match[1]) if match else None


def shape(text: str) -> tuple[int, int] | None:
    """Return (tokens, hidden size) of ``(64, 7168)``, ``64x7168``, ``[4, 16, 7168]``.

    Of three sizes the first two are the tokens, as the ops flatten a tensor.
    """
    inner = re.sub(r"torch\.size|[()\[\]{}]", " ", plain(text).lower()).strip()
    parts = re.split(r"\s*[x×*]\s*", inner)
    if len(parts) == 1:
        parts = re.split(r"\s*[,;]\s*|\s+", inner)
    if not 2 <= len(parts) <= 3:
        return None
    sizes = [size for part in parts if (size := count(part)) is not None]
    return (math.prod(sizes[:-1]), sizes[-1]) if len(sizes) == len(parts) else None


def truth(text: str) -> bool | None:
    """Return yes or no, None for any other text; ticks and crosses count."""
    if is_no_figure(text) and not any(c in text for c in "✅✓✔☑❌✗✘☒"):
        return None
    if any(c in text for c in "✅✓✔☑"):
        return True
    if any(c in text for c in "❌✗✘☒"):
        return False
    word = re.split(r"[^a-z0-9]", plain(text).lower(), maxsplit=1)[0]
    if word in ("0", "1") and not re.fullmatch(r"[01](?:\.0)?", plain(text)):
        return None  # 0.0071 is a time
    if word in ("1", "true", "yes", "y", "on", "pass", "passed", "ok", "1stage", "match"):
        return True
    return False if word in ("0", "false", "no", "n", "off", "fail", "failed", "wrong", "2stage",
                             "mismatch", "incorrect") else None  # fmt: skip
