"""A progress bar on standard error, by tqdm; nothing where tqdm or the terminal is missing.

Each finished shape prints its own lines (:mod:`.schedule`), bar or not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ProgressBar:
    """Counts finished shapes; ``shown`` is False on ranks that do not speak."""

    def __init__(self, total: int, finished: int, *, shown: bool) -> None:
        self._bar = _tqdm(total, finished) if shown and sys.stderr.isatty() else None

    def note(self, doing: str) -> None:
        """Show what is being done; drawn at most ten times a second."""
        if self._bar is not None:
            self._bar.set_postfix_str(doing, refresh=False)
            self._bar.update(0)

    def shape_done(self) -> None:
        """Count one more shape."""
        if self._bar is not None:
            self._bar.update(1)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar off the terminal inside the block, so that lines can be printed."""
        if self._bar is None:
            yield
            return
        self._bar.clear()
        yield
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _tqdm(total: int, finished: int) -> Any:
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return None
    tqdm.monitor_interval = 0  # no thread of tqdm's own beside the timed calls
    # smoothing 0: the time left follows from the mean of all shapes, which differ in size
    return tqdm(
        total=total, initial=finished, unit="shape", smoothing=0, miniters=0, leave=False,
        dynamic_ncols=True, file=sys.stderr,
    )  # fmt: skip
