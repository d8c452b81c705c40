"""What launchers and collectors of logs write before each line of a program, and taking it off.

Known are mpirun and torchrun, srun -l, pdsh, Ray, Kubernetes, loggers and quotations. Whether a
blank follows the prefix is seen from all lines together: columns stand below each other, so it
matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ...files import without_escapes

#: Of a launcher, wherever it stands.
_ALWAYS = re.compile(
    r"\[[^\]\s]{0,80}\d,\d+\]<std(?:out|err)>:|\[(?:default|rank)\d+\]:"
    r"|\(\w[\w ]{0,60} pid=\d+[^)]{0,80}\)"
)
_LEVEL = r"(?:TRACE|DEBUG|INFO|WARNING|WARN|ERROR)"
#: Of a logger, of vLLM's, of SGLang's and of Python's, where most lines begin so and what is behind
#: has the rule of a table: the lines of a serving log are no captions.
_LOGGERS = (
    re.compile(rf"{_LEVEL} \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{{1,6}})? \[[^\]\s]{{1,80}}\]"),
    re.compile(r"\[\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[^\]]{0,40}\]"),
    re.compile(
        r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[,.]\d{1,9})?(?: - | )(?:[\w.-]{1,60}(?: - | ))?"
        rf"{_LEVEL}(?: -|:| [\w.]{{1,60}}:)?"
    ),
    re.compile(rf"{_LEVEL}:[\w.]{{1,60}}:"),
    re.compile(r"\[\d\d:\d\d:\d\d(?:[,.]\d{1,6})?\]|\d\d:\d\d:\d\d(?:[,.]\d{1,6})?(?=\s)"),
)
_RULE = re.compile(r"\s*(?=.*[-=]{3})[-=+|:_ ]{3,}$")
#: Of a launcher where most lines begin so.
_OFTEN = (
    _ALWAYS,
    re.compile(r"\s{0,4}\d{1,4}:(?=[\s|+{#\[]|$)"),
    re.compile(r">"),
    re.compile(r"\[pod/[^\]\s]{1,200}\]"),
    re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S{0,20}(?: std(?:out|err) [FP])?(?=\s|$)"),
    re.compile(r"(?=[A-Za-z][\w.-]{0,60}\d)[A-Za-z][\w.-]{1,60}:(?=\s|$)"),
    re.compile(r"\[(?=[A-Za-z][\w.-]{0,60}\d)[A-Za-z][\w.-]{1,60}\](?=\s|$)"),
)
#: Of these, a word that names a host.
_NAMES = _OFTEN[-2:]
#: The share of lines that shows a prefix, and the lines that are looked at.
_MOST, _LOOKED_AT = 0.8, 400
#: Hosts of a run that are taken for such; more different words are no prefix.
_HOSTS = 32


class _Layer(NamedTuple):
    prefix: re.Pattern[str]
    spaced: bool

    def off(self, line: str) -> str:
        """Return a line without the prefix."""
        match = self.prefix.match(line)
        if match is None:
            return line
        end = match.end()
        return line[end + (self.spaced and line[end : end + 1] == " ") :]


def without_prefix(head: str) -> Callable[[str], str]:
    """Return what takes colours, prefixes and blanks off a line, by a file's head.

    Blanks are those at its end, and the indent that all lines have.
    """
    lines = [without_escapes(line) for line in head.splitlines()[:_LOOKED_AT] if line.strip()]
    outer = _indent(lines)
    lines = [line[outer:] for line in lines]
    layers: list[_Layer] = []
    while len(layers) < 3 and (layer := _layer(lines)):
        layers.append(layer)
        lines = [rest for rest in map(layer.off, lines) if rest.strip()]
    indent = _indent(lines) + (0 if layers else outer)
    outer = outer if layers else 0
    alone = _Layer(_ALWAYS, spaced=True)

    def bare(line: str) -> str:
        line = without_escapes(line)
        if outer and not line[:outer].strip(" "):
            line = line[outer:]
        for layer in layers:
            line = layer.off(line)
        if not layers and line[:1] in ("[", "("):
            line = alone.off(line)
        if indent and not line[:indent].strip(" "):
            line = line[indent:]
        return line.rstrip(" ")  # a tab at its end is an empty cell

    return bare


def _indent(lines: list[str]) -> int:
    """Return how many blanks all lines begin with."""
    return min((len(line) - len(line.lstrip(" ")) for line in lines), default=0)


def ranks_with_tables(head: str) -> list[str]:
    """Return the launcher's prefixes behind which lines of a table stand in a file's head."""
    found = (match for line in head.splitlines() if (match := _ALWAYS.match(line)))
    table = re.compile(r"\|.*\d|\d\s{2,}\d|\d,\d")
    return list(dict.fromkeys(m[0] for m in found if table.search(m.string[m.end() :])))


def is_of_rank(line: str, prefix: str) -> bool:
    """Whether a line stands behind a launcher's prefix, or behind none."""
    match = _ALWAYS.match(line)
    return match is None or match[0] == prefix


def _layer(lines: list[str]) -> _Layer | None:
    """Return the prefix that most lines have, None for none."""
    for prefix in (*_LOGGERS, *_OFTEN):
        found = [match for line in lines if (match := prefix.match(line))]
        if len(found) < max(2.0, _MOST * len(lines)):
            continue
        if prefix in _LOGGERS and not any(_RULE.match(m.string, m.end()) for m in found):
            continue
        if prefix in _NAMES and (
            len({match[0] for match in found}) > _HOSTS
            or len(found) < 2 * len({m[0] for m in found})
        ):
            continue
        after = [match.string[match.end() : match.end() + 1] for match in found]
        return _Layer(prefix, spaced=all(text in ("", " ") for text in after))
    return None
