"""Words from outside (names of rules, files and sources) that go into code, shell lines and tables.

They are written into comments, docstrings and command lines of several languages. A word that could
end one of those, and so become live code, is refused here, once for all of them.
"""

from __future__ import annotations

from ..errors import InputError

_BREAKS = "\n\r\x0b\x0c\x85\u2028\u2029"
#: What ends a docstring or a comment somewhere, starts an escape, or reads as a line of a diff.
_REFUSED = ('"""', "'''", "\\", "*/", "`", "$(", "${", "--- ", "+++ ", "*** ", "@@ ")


def writable(text: str, what: str) -> str:
    """Return ``text`` when it can stand in any emitted file.

    Raises :class:`InputError` that names ``what`` for line breaks and other characters that cannot
    be seen, for quotes that end a docstring, for backslashes, and for what a shell replaces.
    """
    unseen = next((c for c in text if not c.isprintable()), None)
    if unseen is not None:
        held = "a line break" if unseen in _BREAKS else ascii(unseen)
        raise InputError(f"{what} holds {held}, which cannot be written into code: rename it")
    held = next((part for part in _REFUSED if part in text), "")
    if held:
        raise InputError(f"{what} holds {held} which cannot be written into code: rename it")
    return text
