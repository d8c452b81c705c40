"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from .errors import InputError


def check_free(path: str | Path, force: bool = False) -> None:
    """Raise :class:`InputError` when :func:`replacing` should not, or could not, write ``path``.

    That is a file that exists, without ``force``; a directory; a place that does not exist or must
    not be written. What is not a regular file (``/dev/null``, a pipe) is written into and needs no
    ``force``, since nothing is lost.
    """
    target = Path(os.path.realpath(path))
    kind = _kind(path)
    if kind is not None and stat.S_ISDIR(kind):
        raise InputError(f"{path}: is a directory; name a file")
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
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
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
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
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
