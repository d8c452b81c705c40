"""An applied patch in an engine's source: recognise it, and give the original lines back.

Every patch leaves one mark: a comment with the lines that it replaced, packed, and a checksum of
those that it wrote. So the original can be restored exactly as long as nobody changed the patched
lines by hand; after that it is refused.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import re
import zlib
from collections.abc import Iterator

from msgspec import Struct

from ..data import ops
from ..errors import InputError
from .diff import newline_of, split_lines
from .expression import WIDTH

_MARK = "# Undo (costmodel emit --revert): "
#: Stands for the op in the marks of a consultation, which is one patch of several places.
CONSULTATION = "runtime_table"
#: What a source with an applied patch contains, as a regular expression.
PATTERN = re.escape(_MARK)
_FIRST = re.compile(
    rf"\s*{PATTERN}(?P<op>\w+) (?P<above>\d{{1,6}}) (?P<count>\d{{1,6}}) (?P<digest>[0-9a-f]{{8}})"
    r" (?P<length>\d{1,6}):(?P<packed>\S*)\s*$"
)
_COMMANDED = re.compile(r"\s*# Reproduce: costmodel emit ")
_NEXT = re.compile(r"\s*# (\S+)\s*$")
#: Far above what a patch replaces; a packed text of more is none of ours.
_MOST_BYTES = 1 << 20
#: Lines between the first and the last change of a patch that are matched; more are kept whole.
_MOST_MATCHED = 2000


class Mark(Struct, frozen=True):
    """A mark in a source: its lines, [first, end) from 0, the op, and how to undo the patch.

    The patch changed ``count`` lines, of which ``above`` stand over the mark; ``digest`` is theirs
    without it. ``packed`` holds what they replaced.
    """

    first: int
    end: int
    op: str
    above: int
    count: int
    digest: str
    packed: str


def marks(text: str) -> Iterator[Mark]:
    """Yield the marks of the patches that are applied to a source."""
    lines = split_lines(text)
    for first, line in enumerate(lines):
        found = _FIRST.match(line)
        if not found:
            continue
        length, packed, end = int(found["length"]), found["packed"], first + 1
        while len(packed) < length and end < len(lines) and (more := _NEXT.match(lines[end])):
            packed, end = packed + more[1], end + 1
        above, count = int(found["above"]), int(found["count"])
        yield Mark(first, end, found["op"], above, count, found["digest"], packed)


def original(text: str, name: str, op: str | None) -> str | None:
    """Return the source as it was before the patch of an op's rule, None where there is none.

    A consultation of the run-time table is taken out with the patch of any op; ``op`` None takes
    out the patches of all. Raises :class:`InputError`, naming file and line, when the patched lines
    were changed since.
    """
    before = None
    while mark := next((m for m in marks(text) if op in (None, m.op) or _consults(m)), None):
        before = text = _without(text, name, mark)
    return before


def _consults(mark: Mark) -> bool:
    return mark.op == CONSULTATION


def _without(text: str, name: str, mark: Mark) -> str:
    """Return the source with one patch taken out."""
    lines = split_lines(text)
    del lines[mark.first : mark.end]
    start = mark.first - mark.above
    patched = lines[start : start + mark.count] if start >= 0 else []
    try:
        if _digest(patched) != mark.digest:
            raise ValueError("other lines")
        for first, count, old in reversed(_unpacked(mark.packed, patched)):
            patched[first : first + count] = [old]
    except (ValueError, TypeError, RecursionError, zlib.error):
        raise InputError(
            f"{name}:{mark.first + 1}: the lines of the patch that is applied here were changed "
            f"since, so the original cannot be known; {_way_out(text, mark)} first"
        ) from None
    lines[start : start + mark.count] = patched
    return "".join(lines)


def _way_out(text: str, mark: Mark) -> str:
    """Return what to do before a patch can be taken out whose lines are not its own any more."""
    end = mark.first - mark.above + mark.count
    for other in marks(text):
        if other.op != mark.op and mark.first < other.first <= end + other.end - other.first:
            return f"take out that of {other.op}"
    return "restore the file (git checkout, or patch -R with the patch)"


def check_patchable(text: str, name: str) -> None:
    """Raise :class:`InputError` for a source that no patch can be written into.

    That is one with a patch without a mark, as older releases of this project made: nothing says
    what it replaced, and another would stack on it. And one where Python ends lines that ``patch``
    does not.
    """
    if text.startswith("\ufeff"):
        raise InputError(
            f"{name}:1: the file begins with a byte order mark, which no patch is written after; "
            "save it as UTF-8 without one"
        )
    lines = split_lines(text)
    alone = next((i for i, line in enumerate(lines, 1) if "\r" in line.removesuffix("\r\n")), 0)
    if alone:
        raise InputError(
            f"{name}:{alone}: a carriage return without a line feed: Python ends a line there and "
            "patch does not, so no patch is written; end every line with a line feed"
        )
    own = [i + 1 for i, line in enumerate(lines) if _COMMANDED.match(line)]
    known = {op.name for op in ops.chosen()}
    own = [
        n
        for n in own
        if not (n < len(lines) and (m := _FIRST.match(lines[n])) and m["op"] in known)
    ]
    if own:
        raise InputError(
            f"{name}:{own[0]}: a patch of an older costmodel is applied here, without a mark that "
            "undoes it; restore the file (git checkout, or patch -R with the patch) first"
        )


def marked(before: str, after: str, op: str, below: str) -> str:
    """Return the patched source ``after`` with the mark of its patch, under the line ``below``.

    The mark undoes exactly the difference of ``before`` and ``after``.
    """
    old, new = split_lines(before), split_lines(after)
    changes = _changes(new, old)
    changed = [i for _, first, last, *_ in changes for i in range(first, last)]
    at = 1 + next((i for i in changed if new[i].strip() == below), -1)
    if not at:
        raise InputError(
            "the comment of a patch of costmodel stands here already, without a mark that undoes "
            "it; restore the file (git checkout, or patch -R with the patch) first"
        )
    start = min(first for _, first, *_ in changes)
    patched = new[start : max(last for _, _, last, *_ in changes)]
    pieces = [(i - start, j - i, "".join(old[k:m])) for _, i, j, k, m in changes]
    head = f"{op} {at - start} {len(patched)} {_digest(patched)}"
    indent = len(new[at - 1]) - len(new[at - 1].lstrip(" "))
    mark = _written(head, _packed(pieces, patched), indent)
    new[at:at] = [f"{line}{newline_of(before)}" for line in mark]
    return "".join(new)


def _changes(new: list[str], old: list[str]) -> list[tuple[str, int, int, int, int]]:
    """Return the opcodes of what differs.

    Lines at both ends that agree are left out: matching takes the square of lines that are alike.
    """
    most = min(len(new), len(old))
    head = next((i for i in range(most) if new[i] != old[i]), most)
    rest = most - head
    tail = next((i for i in range(rest) if new[-1 - i] != old[-1 - i]), rest)
    inner_new, inner_old = new[head : len(new) - tail], old[head : len(old) - tail]
    if max(len(inner_new), len(inner_old)) > _MOST_MATCHED:
        return [("replace", head, len(new) - tail, head, len(old) - tail)]
    matcher = difflib.SequenceMatcher(None, inner_new, inner_old, autojunk=False)
    return [
        (what, i + head, j + head, k + head, m + head)
        for what, i, j, k, m in matcher.get_opcodes()
        if what != "equal"
    ]


def _written(head: str, packed: str, indent: int) -> list[str]:
    opening = f"{'':{indent}}{_MARK}{head} {len(packed)}:"
    room, step = max(8, WIDTH - len(opening)), max(8, WIDTH - indent - 2)
    rest = packed[room:]
    pieces = [rest[i : i + step] for i in range(0, len(rest), step)]
    return [opening + packed[:room], *(f"{'':{indent}}# {piece}" for piece in pieces)]


def _packed(pieces: list[tuple[int, int, str]], patched: list[str]) -> str:
    """Pack pieces (first line, lines to replace, old text) with the patched lines as dictionary."""
    data = json.dumps(pieces, ensure_ascii=False, separators=(",", ":")).encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=_dictionary(patched))
    return base64.b85encode(packer.compress(data) + packer.flush()).decode()


def _unpacked(packed: str, patched: list[str]) -> list[tuple[int, int, str]]:
    reader = zlib.decompressobj(-15, zdict=_dictionary(patched))
    data = reader.decompress(base64.b85decode(packed), _MOST_BYTES)
    return [(int(first), int(count), str(old)) for first, count, old in json.loads(data)]


def _dictionary(patched: list[str]) -> bytes:
    # As JSON, so that quotes and line ends look as they do in what is packed.
    return json.dumps("".join(patched), ensure_ascii=False).encode()[-32768:]


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:8]
