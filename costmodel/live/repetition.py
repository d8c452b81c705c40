"""How calls are timed, and how often: what a plan's seconds count and a run's harness does.

Nothing here meets a device, so that planning starts without what does.
"""

from __future__ import annotations

from msgspec import Struct

from ..errors import InputError

#: How calls are timed: replay of a captured device graph, or calls issued one by one.
GRAPH = "graph"
EAGER = "eager"
TIMINGS = (GRAPH, EAGER)

#: Slots and calls of one replay where the user names none: every slot is visited twice.
SLOTS = 8
CALLS = 16


class Repetition(Struct, frozen=True):
    """How often every arm of a run is repeated, how it is timed, and the seed of all that is drawn.

    ``calls`` of the op make one replay (one sample); they walk through ``slots`` sets of buffers.
    Each arm gives ``rounds`` x ``samples`` samples after ``warm_up`` untimed replays.
    """

    timing: str = GRAPH
    seed: int = 0
    rounds: int = 20
    samples: int = 10
    calls: int = CALLS
    slots: int = SLOTS
    warm_up: int = 3

    @property
    def timed_calls(self) -> int:
        """Calls of each arm that are timed."""
        return self.rounds * self.samples * self.calls

    def check(self) -> None:
        """Raise :class:`InputError` for numbers that cannot give a result."""
        if self.rounds < 4:
            raise InputError(
                f"--rounds is {self.rounds}; A/A pairs and drift need at least 4 rounds"
            )
        if min(self.samples, self.calls, self.slots) < 1:
            raise InputError("--samples, --calls and --slots must each be 1 or more")
        if self.calls % self.slots:
            raise InputError(
                f"--calls is {self.calls}; it must be a multiple of --slots ({self.slots}), so "
                "that every slot is used equally often"
            )
