"""Errors meant for people: one line, what is wrong, where, and what would be right."""

from __future__ import annotations

#: Longest line, in characters, of an error on a terminal: names in it may have any length.
LONGEST = 500


class InputError(ValueError):
    """Input from outside (a file, an option, an argument) that cannot be used.

    The message is one line. The command line prints it after ``costmodel: error:``
    and exits with code 2; a library caller catches it like any ``ValueError``.
    """


class CannotWriteError(InputError):
    """A file that the system does not let be written: a full disk, no permission."""


def one_line(message: str) -> str:
    """Return a message on one line, control and other unprintable characters escaped."""
    return printable(" ".join(message.split()))


def first_line(error: Exception) -> str:
    """Return the first line of what an error of somebody else's code says, or else its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: str, kept: str = "") -> str:
    """Return a text with control and other unprintable characters escaped, but those ``kept``."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


def cut_short(line: str) -> str:
    """Return a line of at most :data:`LONGEST` characters: a longer one without its middle."""
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST - 205]} ... {line[-200:]}"


def nearest(word: str, known: list[str] | tuple[str, ...], limit: int = 3) -> str:
    """Return " (did you mean a, b?)" for the known words nearest to ``word``, or ""."""
    import difflib

    lowered = {k.lower(): k for k in known}
    hits = difflib.get_close_matches(word.lower(), list(lowered), n=limit, cutoff=0.5)
    return f" (did you mean {', '.join(lowered[h] for h in hits)}?)" if hits else ""
