"""A progress line on standard error, with a remaining time that admits what it does not know."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time


class Progress:
    """Counts finished shapes and estimates the rest from the time that they took."""

    def __init__(self, total: int, finished: int = 0, *, shown: bool = True) -> None:
        self.total = total
        self.finished = finished
        self.seconds: list[float] = []
        self._shown = shown
        self._terminal = shown and sys.stderr.isatty()
        self._started = self._last_line = time.monotonic()

    def done(self, seconds: float) -> None:
        """Count one more shape, which took ``seconds``."""
        self.finished += 1
        self.seconds.append(seconds)

    def remaining_s(self) -> tuple[float, float, float] | None:
        """Return (estimate, lower, upper) of the seconds left, None before the first shape.

        The rest is taken to cost what the shapes so far cost on average. The range is two standard
        errors of that prediction: sd x sqrt(left + left^2 / n), the spread of the shapes to come
        and the uncertainty of the mean.
        """
        n, left = len(self.seconds), self.total - self.finished
        if n == 0:
            return None
        mean = statistics.fmean(self.seconds)
        spread = statistics.stdev(self.seconds) if n > 1 else mean
        error = 2.0 * spread * math.sqrt(left + left * left / n)
        return left * mean, max(0.0, left * mean - error), left * mean + error

    def line(self, doing: str) -> str:
        """Return the progress line."""
        bar = "#" * round(20 * self.finished / self.total) if self.total else ""
        elapsed = _clock(time.monotonic() - self._started)
        remaining = self.remaining_s()
        if remaining is None:
            left = "time left: unknown before the first shape is done"
        else:
            left = "about {} left ({} to {})".format(*map(_clock, remaining))
        return f"[{bar:<20}] {self.finished}/{self.total} shapes, {elapsed}, {left}  {doing}"

    def show(self, doing: str) -> None:
        """Draw the line: in place on a terminal, else as a new line at most every 30 seconds."""
        now = time.monotonic()
        if self._terminal and now - self._last_line > 0.1:
            self._last_line = now
            width = os.get_terminal_size(2).columns
            sys.stderr.write("\r\033[K" + self.line(doing)[: width - 1])
            sys.stderr.flush()
        elif self._shown and not self._terminal and now - self._last_line > 30:
            self._last_line = now
            print(self.line(doing), file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Wipe the line, so that other output can follow."""
        if self._terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
