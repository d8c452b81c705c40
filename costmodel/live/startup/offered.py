"""What an engine offers to be timed: a call of each arm, or a back end that is set up.

The least that an engine can give is two functions, ``op(tokens, hidden_dim)``: each issues one call
of its arm on this rank, on buffers that exist already (views of its largest will do). On a GPU some
calls are captured into a graph and its replays are timed by events, as ``costmodel measure`` does;
on a CPU the calls are timed one after the other. Their results are not looked at: these are the
engine's own kernels, which it is going to run anyway.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...model.shape import ONE_STAGE, TWO_STAGE
from ..backends.base import SEPARATE_ARM, Backend, LiveShape, Timed
from ..backends.device import Device, TimingDevice, TorchGpu, led
from ..repetition import EAGER, GRAPH, Repetition
from .communicator import FUSED_CALL, CommunicatorCalls

#: Calls of one arm on this rank: (tokens, hidden_dim) -> anything.
Op = Callable[[int, int], object]

#: Enters what an engine puts around its own captures (AITER registers captured buffers there); what
#: it gives may name the ``stream`` to capture on.
Capturing = Callable[[], AbstractContextManager[Any]]

#: Arms that stand against 1-stage.
_OTHERS = (TWO_STAGE, SEPARATE_ARM)


def _always(doing: str) -> None:
    """Go on."""


class Offered(ABC):
    """Both arms on this rank: ``arms`` is 1-stage, and what runs where it does not."""

    arms: tuple[str, str]

    @abstractmethod
    def ready(
        self, shape: LiveShape, repetition: Repetition, going: Callable[[str], None] = _always
    ) -> dict[str, Timed]:
        """Return both arms at a shape, ready to be timed. All ranks call this alike.

        ``going`` is told what comes next, and raises where nobody waits for it any more.
        """

    @abstractmethod
    def release(self) -> None:
        """Free what the shape took."""


class OfferedOps(Offered):
    """Two functions of the engine, by arm: ``1stage`` and ``2stage`` or ``separate``."""

    def __init__(
        self, ops: Mapping[str, Op], device: Device | None, capturing: Capturing | None = None
    ) -> None:
        """Keep the functions; ``device`` None times calls by the CPU's clock, without graphs."""
        others = [arm for arm in _OTHERS if arm in ops]
        if len(ops) != 2 or ONE_STAGE not in ops or len(others) != 1:
            raise InputError(
                f"ops are {', '.join(map(str, ops)) or 'none'}; give '{ONE_STAGE}' and one of "
                f"{' and '.join(_OTHERS)}, each a function of tokens and hidden size"
            )
        self.arms = (ONE_STAGE, others[0])
        self._ops, self._device = ops, device
        self._capturing: Capturing = capturing or nullcontext
        self._timed: list[_EagerCalls] = []

    def ready(
        self, shape: LiveShape, repetition: Repetition, going: Callable[[str], None] = _always
    ) -> dict[str, Timed]:
        """See :meth:`Offered.ready`."""
        found: dict[str, Timed] = {}
        for arm in self.arms:
            op = self._ops[arm]

            def call(op: Op = op) -> object:
                return op(shape.tokens, shape.hidden_dim)

            going(f"arm {arm}")
            call()  # compiles, opens connections; a kernel that refuses says so here
            timed = (
                _EagerCalls(CpuClock(), call, repetition.calls)
                if self._device is None
                else _Captured(self._device, call, repetition.calls, self._capturing)
            )
            self._timed.append(timed)
            found[arm] = timed
        return found

    def release(self) -> None:
        """See :meth:`Offered.release`."""
        for timed in self._timed:
            timed.close()
        self._timed = []


class OfferedBackend(Offered):
    """A back end that is set up already."""

    def __init__(self, backend: Backend, other: str = TWO_STAGE) -> None:
        self.arms = (ONE_STAGE, other)
        self.backend = backend

    def ready(
        self, shape: LiveShape, repetition: Repetition, going: Callable[[str], None] = _always
    ) -> dict[str, Timed]:
        """See :meth:`Offered.ready`."""
        self.backend.prepare(shape, repetition.slots, repetition.seed)
        timing, found = self.backend.timings[0], {}
        for arm in self.arms:
            going(f"arm {arm}")
            found[arm] = self.backend.capture(arm, repetition.calls, timing)
        return found

    def release(self) -> None:
        """See :meth:`Offered.release`."""
        self.backend.release()


def offered(
    ops: Any, *, dtype: str = "bf16", timing: str = "", capturing: Capturing | None = None
) -> Offered:
    """Return what is offered as both arms: two functions, a back end, or AITER's communicator.

    Of a communicator the fused op is called with elements of ``dtype``.
    ``timing`` of functions is ``graph`` or ``eager``; "" is graphs in a process that uses a GPU.
    Raises :class:`InputError` for anything that is not two arms.
    """
    if isinstance(ops, Backend):
        return OfferedBackend(ops)
    if hasattr(ops, FUSED_CALL):
        capturing = capturing or getattr(ops, "capture", None)
        ops = CommunicatorCalls(ops, dtype).ops()
    if not isinstance(ops, Mapping):
        raise InputError("ops is neither a mapping of two functions, a back end, nor AITER's "
                         "communicator")  # fmt: skip
    if timing not in ("", GRAPH, EAGER):
        raise InputError(f"timing is '{timing}'; give '{GRAPH}' or '{EAGER}'")
    if not timing:
        import torch

        timing = GRAPH if torch.cuda.is_available() and torch.cuda.is_initialized() else EAGER
    return OfferedOps(ops, TorchGpu() if timing == GRAPH else None, capturing)


class CpuClock:
    """This process's clock, for calls that are over when they return."""

    def synchronize(self) -> None:
        """Wait for nothing."""

    def stamp(self) -> Any:
        """Return the time in ns."""
        return time.perf_counter_ns()

    def elapsed_us(self, start: Any, end: Any) -> float:
        """Return the microseconds between two stamps."""
        return float(end - start) / 1e3


class _EagerCalls(Timed):
    """Calls issued one by one."""

    def __init__(self, clock: TimingDevice, call: Callable[[], object], calls: int) -> None:
        self._clock, self._call, self._calls = clock, call, calls

    def lead(self) -> None:
        """Issue the untimed call that brings the ranks together."""
        self._call()

    def issue(self) -> None:
        """Issue the timed calls."""
        for _ in range(self._calls):
            self._call()

    def replay(self, samples: int) -> NDArray[np.float64]:
        """See :meth:`Timed.replay`."""
        return led(self._clock, self.lead, self.issue, samples) / self._calls


class _Captured(_EagerCalls):
    """Calls captured into one graph, and one more in a graph of its own as the lead."""

    def __init__(
        self, device: Device, call: Callable[[], object], calls: int, capturing: Capturing
    ) -> None:
        super().__init__(device, call, calls)
        device.synchronize()
        graph, lead = device.graph(), device.graph()
        with capturing() as context:
            stream = getattr(context, "stream", None)
            with device.capture(graph, stream):
                super().issue()
            with device.capture(lead, stream):
                super().lead()
        self._graph, self._lead = graph, lead

    def lead(self) -> None:
        """See :meth:`_EagerCalls.lead`."""
        self._lead.replay()

    def issue(self) -> None:
        """See :meth:`_EagerCalls.issue`."""
        self._graph.replay()

    def close(self) -> None:
        """Free the graphs."""
        self._graph = self._lead = None
