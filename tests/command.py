"""The command line without a process of its own, for tests that ask nothing of processes.

Starting Python and importing numpy and click takes a third of a second, often ten times the answer.
Pipes, signals, terminals, limits and what a fresh interpreter imports need a real start: test_cli.py
has those, and starts every command once.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from costmodel.cli.main import main


def costmodel(
    *args: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a process would; ``env`` is added to the environment.

    What a process prints of warnings stands on standard error here too. The environment, the
    directory and the streams are those from before afterwards.
    """
    words = [os.fspath(a) if isinstance(a, Path) else str(a) for a in args]
    out, error = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with (
        mock.patch.dict(os.environ, env or {}),
        mock.patch.object(sys, "argv", ["costmodel", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        _within(cwd),
        _warnings_as_printed(),
    ):
        try:
            main(words)
        except SystemExit as ended:
            status = ended.code
    return subprocess.CompletedProcess(words, int(status), _text(out), _text(error))  # type: ignore[arg-type]


@contextlib.contextmanager
def _within(folder: Path | None) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _warnings_as_printed() -> Iterator[None]:
    """Undo what pytest does to warnings: the filters of a plain start, printed where they belong."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (
            DeprecationWarning,
            PendingDeprecationWarning,
            ImportWarning,
            ResourceWarning,
        ):
            warnings.simplefilter("ignore", category)

        def shown(message, category, filename, lineno, file=None, line=None):
            print(
                warnings.formatwarning(message, category, filename, lineno, line),
                end="",
                file=sys.stderr,
            )

        warnings.showwarning = shown
        yield


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode().replace("\r\n", "\n")  # type: ignore[attr-defined]
