"""How a live run can end, and the exit code of each way."""

from __future__ import annotations

import signal

#: Everything that was asked for (or that the budget allowed) is measured.
FINISHED = 0
#: Measured, but an arm gave wrong results somewhere; it was reported and not timed.
WRONG_RESULTS = 1
#: Bad input, from options to a machine that lacks what the run needs.
BAD_INPUT = 2
#: A rank died, stopped, hung, or failed in its device or its collective.
LOST_RANK = 3
#: The results could not be written (a full disk, say).
CANNOT_WRITE = 4


def by_signal(number: int) -> int:
    """Return the exit code of a run ended by a signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


def signal_name(number: int) -> str:
    """Return what people call a signal: Ctrl-C, SIGTERM, SIGKILL."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class RunEnded(Exception):
    """A live run cannot go on. The message is one line; ``exit_code`` is one of the above."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
