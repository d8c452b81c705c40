"""A large JSON file read piece by piece: the members of its object, and the records of one list.

The object is walked with Python's own decoder on a window of the text, so that a trace of gigabytes
needs no more memory than its longest record. What profilers write for a number that is
none (``inf``, ``-nan``, nothing: kineto #105) is read as null, control characters as they are.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from ...errors import InputError
from .text_file import HEAD_BYTES, TextFile

#: The longest record of the list, and the longest other member.
RECORD_CHARACTERS = 1024 * 1024
MEMBER_CHARACTERS = 16 * 1024 * 1024

_SPACE = " \t\r\n"

#: A member whose value is no JSON, and the most characters from its last quote on.
_NO_VALUE = re.compile(r'(?<!\\)"[ \t]*:[ \t]*(?:-?(?:inf|nan)[ \t\r\n]*)?(?=[,}])')
_PENDING = 64


def records(file: TextFile, key: str, member: Callable[[str, Any], None]) -> Iterator[Any]:
    """Give each record of the list ``key`` of the file's object, or of the file's own list.

    The other members of the object go to ``member``. A file that ends too early gives what it holds
    and then raises :class:`EOFError`. Raises :class:`InputError` for what is no JSON, and for a
    record or member that is too long.
    """
    if not file.is_text:
        raise InputError(f"{file.name}: not a text file; give {file.wanted}")
    text = _Window(file)
    start = text.peek()
    if start == "[":
        yield from _list(text)
        return
    if start != "{":
        raise InputError(f"{file.name}: no JSON object or list; give {file.wanted}")
    text.skip()
    while text.peek() != "}":
        name = text.value(MEMBER_CHARACTERS)
        if text.peek() != ":" or not isinstance(name, str):
            raise text.wrong()
        text.skip()
        if name == key and text.peek() == "[":
            yield from _list(text)
        else:
            member(name, text.value(MEMBER_CHARACTERS))
        if text.peek() == ",":
            text.skip()


def _list(text: _Window) -> Iterator[Any]:
    text.skip()
    while text.peek() != "]":
        yield text.value(RECORD_CHARACTERS)
        if text.peek() == ",":
            text.skip()
    text.skip()


def _fraction(text: str) -> float | Decimal:
    """Return a number with a point; one of more digits than a float holds as what it says."""
    return float(text) if len(text) <= 16 else Decimal(text[:64])


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= 30 else float("nan")


class _Window:
    """The part of a text that is looked at."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self._pieces = self._read()
        self._text = ""
        self._at = 0
        self._dropped = 0
        self._decoder = json.JSONDecoder(parse_float=_fraction, parse_int=_integer, strict=False)

    def peek(self) -> str:
        """Return the next character that is no space; raise :class:`EOFError` at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                raise EOFError

    def skip(self) -> None:
        """Step over the character that :meth:`peek` returned."""
        self._at += 1

    def value(self, longest: int) -> Any:
        """Return the next value, of at most so many characters."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._more():  # a number may go on
                    self._at = end
                    return value
            except RecursionError:
                raise InputError(f"{self._file.name}: nested too deeply") from None
            except ValueError:
                if len(self._text) - self._at > longest:
                    raise self.wrong(
                        f"no JSON, or a value of more than {longest} characters"
                    ) from None
                if not self._more():
                    if self._text[self._at] in '{["':
                        raise EOFError from None
                    raise self.wrong() from None

    def wrong(self, what: str = "not JSON") -> InputError:
        """Return the error of what stands here."""
        return InputError(f"{self._file.name}: {what} (character {self._dropped + self._at})")

    def _more(self) -> bool:
        """Read on, dropping what was looked at; return False at the end."""
        piece = next(self._pieces, "")
        if not piece:
            return False
        self._dropped += self._at
        self._text, self._at = self._text[self._at :] + piece, 0
        return True

    def _read(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        held = ""
        for piece in self._file.pieces(4 * HEAD_BYTES):
            text = held + decoder.decode(piece)
            # A value may be cut by the end of a piece: from its name's last quote on it waits.
            end = text.rfind('"', max(len(text) - _PENDING, 0)) - 1
            held = text[end:] if end > 0 else ""
            if text := text.removesuffix(held):
                yield _NO_VALUE.sub('": null', text)
        if held:
            yield _NO_VALUE.sub('": null', held)
