"""A file of another harness: recognised by its head, read line by line or as a whole, in bounds.

Logs are read as a stream, so a large one needs no more memory than a small one. What has to be read
as a whole (JSON, a pasted page) is refused above :data:`WHOLE_BYTES`.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from ...errors import InputError, one_line
from .launchers import is_of_rank, without_prefix

#: A format is recognised by so much of a file, or of a later piece of it.
HEAD_BYTES = 64 * 1024
#: No harness writes a longer line; a file of one is something else, and would fill the memory.
LINE_BYTES = 1024 * 1024
#: What begins and ends code in markdown.
FENCE = re.compile(r"\s*(?:```|~~~)")
#: A line that stands around a pasted text alone.
AROUND = re.compile(rf"{FENCE.pattern}|\s*</?(?:details|summary|pre|code|p|div)\b")
#: The largest file that is read as a whole: JSON takes some ten times its size in memory.
WHOLE_BYTES = 64 * 1024 * 1024

_GZIP = b"\x1f\x8b"
#: How a file of UTF-16 begins, as PowerShell writes what a program printed.
_WIDE = (b"\xff\xfe", b"\xfe\xff")
#: How a spreadsheet or another archive begins.
_ZIP = b"PK\x03\x04"
_UNREADABLE = (OSError, EOFError, zlib.error)


class TextFile:
    """A file by its path; a file compressed with gzip reads as what is in it.

    Raises :class:`InputError`, one line with the path, for what cannot be read.
    """

    def __init__(self, path: str | Path, wanted: str = "output of another harness") -> None:
        self.path = Path(path)
        self.wanted = wanted
        #: The path for messages: no control character of it reaches a terminal.
        self.name = shortened(str(path))
        #: The last line, where it ends in a figure without a line end; 0 before it is read.
        self.open_line = 0
        #: The launcher's prefix of the one rank whose lines are given, "" for all lines.
        self.rank = ""

    def open(self) -> BinaryIO:
        """Open the file for reading bytes."""
        try:
            mode = self.path.stat().st_mode
            stream: BinaryIO = self.path.open("rb") if S_ISREG(mode) else io.BytesIO(self._piped)
            start = stream.read(200)
            packed = start.startswith(_GZIP)
            stream.seek(0)
            if start.startswith(_WIDE) and b"\0" in start:
                return self._as_utf8(stream)
        except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
            raise self._refused(error) from None
        return gzip.GzipFile(fileobj=stream) if packed else stream  # type: ignore[return-value]

    def _as_utf8(self, stream: BinaryIO) -> BinaryIO:
        """Return a file of UTF-16 as one of UTF-8."""
        content = stream.read(WHOLE_BYTES + 1)
        if len(content) > WHOLE_BYTES:
            raise self._too_large()
        return io.BytesIO(content.decode("utf-16", errors="replace").encode(errors="replace"))

    @property
    def is_zip(self) -> bool:
        """Whether it is a spreadsheet, or another archive of files."""
        return self.head_bytes.startswith(_ZIP)

    @cached_property
    def _piped(self) -> bytes:
        """What comes out of a pipe, which can be read but once."""
        with self.path.open("rb") as stream:
            content = stream.read(WHOLE_BYTES + 1)
        if len(content) > WHOLE_BYTES:
            raise self._too_large()
        return content

    @cached_property
    def head_bytes(self) -> bytes:
        """The first :data:`HEAD_BYTES` as they are, for formats that are no text."""
        return next(self.pieces(), b"")

    @property
    def is_text(self) -> bool:
        """Whether the head is text: no NUL in it, and what is not UTF-8 the exception."""
        head = self.head_bytes
        return b"\0" not in head and head.decode(errors="replace").count("\ufffd") <= len(head) / 50

    @cached_property
    def head(self) -> str:
        """The first :data:`HEAD_BYTES` as text; "" for a file that is none."""
        lines = self.head_bytes.splitlines(keepends=True) if self.is_text else []
        return "".join(decoded(line, first=at == 0) for at, line in enumerate(lines))

    def windows(self) -> Iterator[str]:
        """Give the file in pieces of :data:`HEAD_BYTES`, each with the end of the one before."""
        before = ""
        for piece in self.pieces():
            text = piece.decode(errors="replace")
            yield before + text
            before = text[-4096:]

    def lines(self) -> Iterator[tuple[int, str]]:
        """Give each line with its number, from 1 on, without its end.

        A carriage return ends a line too, as progress bars write it; what it parts has one number.
        A line that is not UTF-8 is taken for the coding of Windows, in which a mu is one byte.
        """
        self._check_text()
        number = 0
        with self.open() as stream:
            try:
                while line := stream.readline(LINE_BYTES + 1):
                    number += 1
                    if len(line) > LINE_BYTES:
                        raise InputError(
                            f"{self.name}:{number}: a line of more than {LINE_BYTES} bytes; "
                            f"give {self.wanted}"
                        )
                    if line[-1:].isdigit() or line[-1:] == b".":
                        self.open_line = number
                    text = decoded(line, first=number == 1)
                    for part in text.rstrip("\r\n").split("\r"):
                        yield number, part
            except _UNREADABLE as error:
                raise self._refused(error) from None

    @cached_property
    def bare(self) -> Callable[[str], str]:
        """What takes a launcher's prefix and a terminal's colours off a line of this file."""
        return without_prefix(self.head)

    def program_lines(self) -> Iterator[tuple[int, str]]:
        """Give each line with its number as the program wrote it, without what a launcher added."""
        bare, rank = self.bare, self.rank
        for number, line in self.lines():
            if not rank or is_of_rank(line, rank):
                yield number, bare(line)

    def text(self) -> str:
        """Return the whole text; lines end with a newline alone.

        Raises :class:`InputError` above :data:`WHOLE_BYTES`.
        """
        self._check_text()
        read = io.BytesIO()
        for piece in self.pieces():
            read.write(piece)
            if read.tell() > WHOLE_BYTES:
                raise self._too_large()
        text = decoded(read.getvalue(), first=True)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def pieces(self, size: int = HEAD_BYTES) -> Iterator[bytes]:
        """Give the file as it is, unpacked, in pieces of ``size`` bytes."""
        with self.open() as stream:
            try:
                while piece := stream.read(size):
                    yield piece
            except _UNREADABLE as error:
                raise self._refused(error) from None

    def _check_text(self) -> None:
        if not self.is_text:
            raise InputError(f"{self.name}: not a text file; give {self.wanted}")

    def _too_large(self) -> InputError:
        return InputError(
            f"{self.name}: more than {WHOLE_BYTES >> 20} MiB, too much for a file that has to be "
            "read as a whole; split it"
        )

    def _refused(self, error: Exception) -> InputError:
        said = getattr(error, "strerror", None) or str(error)
        return InputError(f"{self.name}: {shortened(said)}; give {self.wanted}")


def decoded(line: bytes, *, first: bool = False) -> str:
    """Return bytes of a file as text: UTF-8, else that of Windows; ``first`` may have a mark."""
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


@lru_cache(4096)
def shortened(text: str, limit: int = 120) -> str:
    """Return a text of a file on one printable line of at most ``limit`` characters."""
    line = one_line(text[: 4 * limit])
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
