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
from dataclasses import dataclass

from ..errors import InputError
from .diff import newline_of, split_lines
from .expression import WIDTH

_MARK = "# Undo (costmodel emit --revert) "
_FIRST = re.compile(rf"\s*{re.escape(_MARK)}(\d{{1,6}}):(\S*)\s*$")
_NEXT = re.compile(r"\s*# (\S+)\s*$")
#: Far above what a patch replaces; a packed text of more is none of ours.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Mark:
    """A mark in a source: its lines, [first, end) from 0, and what is packed in them."""

    first: int
    end: int
    packed: str


def find(text: str) -> Mark | None:
    """Return the mark of an applied patch, None where there is none."""
    lines = split_lines(text)
    for first, line in enumerate(lines):
        opened = _FIRST.match(line)
        if not opened:
            continue
        length, packed, end = int(opened[1]), opened[2], first + 1
        while len(packed) < length and end < len(lines) and (more := _NEXT.match(lines[end])):
            packed, end = packed + more[1], end + 1
        return Mark(first, end, packed if len(packed) == length else "")
    return None


def original(text: str, name: str) -> str | None:
    """Return the source as it was before the patch, None where no patch is marked in it.

    Raises :class:`InputError`, naming file and line, when the patched lines were changed since.
    """
    mark = find(text)
    if mark is None:
        return None
    lines = split_lines(text)
    del lines[mark.first : mark.end]
    try:
        above, count, digest, pieces = _unpacked(mark.packed)
        start = mark.first - above
        if start < 0 or _digest(lines[start : start + count]) != digest:
            raise ValueError("other lines")
        for first, replaced, old in reversed(pieces):
            lines[start + first : start + first + replaced] = [old]
    except (ValueError, TypeError, RecursionError, zlib.error):
        raise InputError(
            f"{name}:{mark.first + 1}: the lines of the patch that is applied here were changed "
            "since, so the original cannot be known; restore the file (git checkout, or "
            "patch -R with the patch) first"
        ) from None
    return "".join(lines)


def marked(before: str, after: str, line: int) -> str:
    """Return the patched source ``after`` with its mark put before a line, counted from 1.

    The mark undoes exactly the difference of ``before`` and ``after``.
    """
    old, new = split_lines(before), split_lines(after)
    matcher = difflib.SequenceMatcher(None, new, old, autojunk=False)
    changes = [op for op in matcher.get_opcodes() if op[0] != "equal"]
    at = line - 1
    start = min([at, *(first for _, first, *_ in changes)])
    end = max([at, *(last for _, _, last, *_ in changes)])
    pieces = [(i - start, j - i, "".join(old[k:m])) for _, i, j, k, m in changes]
    indent = len(new[at]) - len(new[at].lstrip(" "))
    packed = _packed([at - start, end - start, _digest(new[start:end]), pieces])
    newline = newline_of(before)
    new[at:at] = [f"{text}{newline}" for text in _written(packed, indent)]
    return "".join(new)


def _written(packed: str, indent: int) -> list[str]:
    head = f"{'':{indent}}{_MARK}{len(packed)}:"
    room, step = max(8, WIDTH - len(head)), max(8, WIDTH - indent - 2)
    rest = packed[room:]
    pieces = [rest[i : i + step] for i in range(0, len(rest), step)]
    return [head + packed[:room], *(f"{'':{indent}}# {piece}" for piece in pieces)]


def _packed(record: list[object]) -> str:
    data = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    # Without zlib's header: the checksum is in the record.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return base64.b85encode(packer.compress(data) + packer.flush()).decode()


def _unpacked(packed: str) -> tuple[int, int, str, list[tuple[int, int, str]]]:
    """Return what :func:`_packed` took; raise ValueError for anything else."""
    reader = zlib.decompressobj(-15)
    data = reader.decompress(base64.b85decode(packed), _MOST_BYTES)
    above, count, digest, pieces = json.loads(data)
    checked = [(int(first), int(replaced), str(old)) for first, replaced, old in pieces]
    if min([above, count, *(n for first, replaced, _ in checked for n in (first, replaced))]) < 0:
        raise ValueError("negative places")
    return int(above), int(count), str(digest), checked


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:12]
