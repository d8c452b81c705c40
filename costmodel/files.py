"""Files read and written: JSON read as typed records, files written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar, get_type_hints

from .errors import CannotWriteError, InputError, one_line
from .units import MIB

T = TypeVar("T")

#: The largest file that is read as a whole.
WHOLE_BYTES = 256 * MIB

_SPACES = str.maketrans("\n\r\t", "   ")

#: What colours and underlines on a terminal.
_ESCAPES = r"\x1b\[[0-9;?]*[A-Za-z]"


def read_text(path: str | Path, wanted: str) -> str:
    """Return the text of a UTF-8 file, of :data:`WHOLE_BYTES` at most, lines ended by a newline.

    Raises :class:`InputError` that says what is ``wanted``.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(WHOLE_BYTES + 1)  # a device may have no end
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; give {wanted}") from None
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {said}; give {wanted}") from None
    if len(content) > WHOLE_BYTES:
        raise InputError(f"{path}: more than {WHOLE_BYTES // MIB} MiB; give {wanted}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, kind: type[T], wanted: str, *, foreign: bool = False) -> T:
    """Read a JSON file as a ``kind``; arguments and errors are those of its two halves."""
    return parse_json(read_text(path, wanted), kind, str(path), wanted, foreign=foreign)


def parse_json(
    text: str | bytes, kind: type[T], where: str, wanted: str, *, foreign: bool = False
) -> T:
    """Read JSON text as a ``kind``, a type that msgspec knows.

    ``foreign`` text may hold the NaN and Infinity that Python's json writes and JSON lacks.

    Raises :class:`InputError` that names ``where`` and what is ``wanted``: for text that is no
    JSON, with the line; for a ``schema`` other than the one ``kind`` states; and else with the path
    of the field that is missing or of another type. Text of costmodel's own formats that holds a
    control character (line breaks and tabs aside) is refused too: it would reach a terminal.
    """
    import msgspec

    try:
        if foreign:
            return msgspec.convert(json.loads(text), kind, str_keys=True)
        found = msgspec.json.decode(text, type=kind)
        hidden = _unprintable(text)
        if hidden is None:
            return found
        wrong = f"'{one_line(hidden[:60])}' holds a character that cannot be printed"
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at `$")
        what, place = what[0].lower() + what[1:], at.rstrip("`").lstrip(".")
        wrong = _other_schema(text, kind) or (f"{place}: {what}" if place else what)
    except (msgspec.DecodeError, UnicodeError) as error:
        said = re.search(r"\(byte (\d+)\)", str(error))
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        line = raw[: int(said[1]) if said else len(raw)].rstrip(b"\n").count(b"\n") + 1
        wrong = f"truncated or not JSON (line {line})"
    except json.JSONDecodeError as error:
        wrong = f"truncated or not JSON (line {error.lineno})"
    except ValueError:  # Python reads no whole number of more than 4300 digits
        wrong = "a number has too many digits"
    except RecursionError:
        wrong = "nested too deeply"
    raise InputError(f"{where}: {wrong}; give {wanted}")


def _unprintable(text: str | bytes) -> str | None:
    """Return a word of JSON text that cannot be printed, None where there is none."""
    import msgspec

    raw = text if isinstance(text, str) else text.decode()
    # Nearly every file: nothing is escaped, so what is seen is what is there.
    if "\\" not in raw and raw.translate(_SPACES).isprintable():
        return None
    waiting = [msgspec.json.decode(text)]
    while waiting:
        here = waiting.pop()
        if isinstance(here, str) and not here.translate(_SPACES).isprintable():
            return here
        if isinstance(here, dict):
            waiting += [*here, *here.values()]
        elif isinstance(here, list):
            waiting += here
    return None


def without_escapes(text: str) -> str:
    """Return what a program printed without the colours that it draws on a terminal."""
    return re.sub(_ESCAPES, "", text) if "\x1b" in text else text


def json_text(record: Any, indent: int = 1) -> str:
    """Return a record as the text of a JSON file; a number that is not finite is null."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(record), indent=indent).decode() + "\n"


def _other_schema(text: str | bytes, kind: type[Any]) -> str:
    """Return how the ``schema`` of a JSON object differs from what ``kind`` states, or ""."""
    import msgspec

    if "schema" not in getattr(kind, "__annotations__", ()):
        return ""
    try:
        schema = stated_schema(text)
    except (msgspec.DecodeError, RecursionError):  # no object, or odd: said in its own words
        return ""
    (known,) = get_type_hints(kind)["schema"].__args__
    return "" if schema == known else f"schema is {schema!r}, this version reads '{known}'"


def stated_schema(text: str | bytes) -> Any:
    """Return what a JSON object says its ``schema`` is; raise as msgspec does for no object."""
    import msgspec

    stated = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("schema", b"null")
    return msgspec.json.decode(stated)


def check_free(path: str | Path, force: bool = False, *, read: Iterable[str | Path] = ()) -> None:
    """Raise :class:`InputError` when :func:`replacing` should not, or could not, write ``path``.

    That is one of the files that are ``read``, ``force`` or not: it would be lost; a file that
    exists, without ``force``; a directory; a place that does not exist or must
    not be written. What is not a regular file (``/dev/null``, a pipe) is written into and needs no
    ``force``, since nothing is lost.
    """
    target = Path(os.path.realpath(path))
    kind = _kind(path)
    if kind is not None and stat.S_ISDIR(kind):
        raise InputError(f"{path}: is a directory; name a file")
    if kind is not None and stat.S_ISREG(kind) and target in map(Path, map(os.path.realpath, read)):
        raise InputError(f"{path}: is read here and would be lost; give another name")
    if kind is not None and stat.S_ISREG(kind) and not force:
        raise InputError(f"{path}: exists; give --force to replace it, or another name")
    if kind is not None and not stat.S_ISREG(kind):
        if not os.access(path, os.W_OK):
            raise InputError(f"{path}: cannot write: {os.strerror(errno.EACCES)}")
        return
    if not target.parent.is_dir():
        raise InputError(f"{path}: cannot write: no directory {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{path}: cannot write: {os.strerror(errno.EACCES)} ({target.parent})")


@contextmanager
def replacing(path: str | Path) -> Iterator[TextIO]:
    """Give a UTF-8 text stream; its content takes the place of ``path`` only on success.

    A link is followed: what it points to is replaced, with the permissions (and, where allowed,
    the owner) that it had. What is not a regular file is written into. Raises
    :class:`InputError`, one line, when the system refuses; then no temporary file is left.
    """
    target = os.path.realpath(path)
    kind = _kind(path)
    into = kind is not None and not stat.S_ISREG(kind)
    temporary = os.path.join(os.path.dirname(target), f".costmodel-{os.urandom(8).hex()}")
    try:
        # Created as any other new file of this user would be: the umask decides.
        mode = os.O_WRONLY | (0 if into else os.O_CREAT | os.O_EXCL)
        handle = os.open(path if into else temporary, mode | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise CannotWriteError(f"{path}: cannot write: {error.strerror}") from None
    stream = os.fdopen(handle, "w", newline="", encoding="utf-8")
    done = False
    try:
        yield stream
        stream.flush()
        if not into:
            os.fsync(handle)
            _keep(target, handle)
        stream.close()
        if not into:
            os.replace(temporary, target)
        done = True
    except OSError as error:
        # The caller's own errors name their file; those of this stream name none, or the temporary.
        if error.filename not in (None, temporary):
            raise
        raise CannotWriteError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        if not done:
            with suppress(OSError):  # what is still buffered meets the same refusal
                stream.close()
            if not into:
                os.unlink(temporary)


def _kind(path: str | Path) -> int | None:
    """Return the mode of what ``path`` leads to, None where there is nothing yet."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:  # a loop of links, a file where a directory should be
        raise InputError(f"{path}: cannot write: {error.strerror}") from None


def _keep(target: str, handle: int) -> None:
    """Give the new file the owner and permissions of the one that it will replace, if any."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        return
    with suppress(OSError):  # only root may give a file away
        os.chown(handle, old.st_uid, old.st_gid)
    os.chmod(handle, stat.S_IMODE(old.st_mode))
