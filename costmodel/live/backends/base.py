"""The interface of a live back end: what the harness needs from the thing that runs the op.

A back end owns devices, buffers, kernels, clocks and graphs. It decides nothing: which shapes and
arms run, in what order, how often, what is compared with what and which numbers are kept is
:mod:`costmodel.live.run`'s business, so that every back end is measured alike.

A run calls, in every process alike and in this order::

    backend.set_up()
    backend.reason_against(shape, arm)          # of every shape and arm; those are skipped
    backend.environment()                       # what the rows and the record say of the machine
    for each shape:
        backend.prepare(shape, slots, seed)
        backend.reference(slot)                 # of every slot
        for each arm:
            timed = backend.capture(arm, calls, timing)
            check: backend.poison(); timed.replay(1); backend.outputs(slot) against the reference
            timed.kernels()                     # arms that ran another's kernels are not timed
        timed.replay(warm_up) for each arm that was right
        for each round, arms in random order:
            timed.replay(samples)               # -> latency_us (samples, local_ranks)
        for each arm:
            check once more: a race shows under load
            backend.kernels_run(arm)            # of ``auto``, where timed.kernels() read nothing
        timed.close() for each arm
        backend.release()
    backend.meet(code)
    backend.close()
    backend.leave()                             # after the last world size

``exchange`` is called between all of these, also as a barrier. An arm that was wrong is closed at
once and not timed. Several world sizes are several back ends, one after the other in the same
processes: the first ``world_size`` of them are the ranks, the others set up, meet and close alone.

A *rank* is one participant of the collective. A loopback back end holds all ``world_size`` ranks in
one process; gloo and AITER hold one rank a process. ``local_ranks`` names those of this process,
none in one that stands by.

A *slot* is one complete set of buffers (inputs of each local rank, residual, outputs). Slots are
pointer-distinct, and the calls of one replay walk through them (call ``i`` uses slot
``i % slots``), so that no call finds the previous call's lines in a cache that a model would have
displaced.

Nothing here imports torch; back ends do, inside methods.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data import kernels
from ...errors import InputError, nearest
from ...model import shape
from ...model.shape import (
    ALL_REDUCE,
    FP8,
    FP8_PER_TOKEN,
    FUSED,
    MHC,
    MXFP4,
    ONE_STAGE,
    SEPARATE,
    TWO_STAGE,
)  # fmt: skip
from ...units import element_bytes
from ..machine import Check
from ..repetition import TIMINGS

#: The arms. ``auto`` is the library's own choice between its stages; ``separate`` is its all-reduce
#: followed by its add + RMSNorm kernel, which ``separate_1stage`` and ``separate_2stage`` force.
#: Those of other ops are named by op and stage.
AUTO = "auto"
SEPARATE_ARM = "separate"
SEPARATE_STAGES = (f"{SEPARATE_ARM}_{ONE_STAGE}", f"{SEPARATE_ARM}_{TWO_STAGE}")
#: Ops that have a forced stage of their own, by the word in the arm's name.
OTHER_OPS = {
    "plain": ALL_REDUCE, "fp8_token": FP8_PER_TOKEN, "fp8_group": FP8, "mxfp4": MXFP4, "mhc": MHC,
}  # fmt: skip
#: Plain all-reduces that push their data with flags in it, by the transport that a kernel's name
#: says (:class:`costmodel.data.kernel_names.KernelName`); kernels of families of their own.
PUSHED = {f"plain_{arm}": arm for arm in shape.PUSHED}
OTHER_ARMS = (
    *(f"{word}_{stage}" for word in OTHER_OPS for stage in (ONE_STAGE, TWO_STAGE)), *PUSHED,
)  # fmt: skip
ARMS = (ONE_STAGE, TWO_STAGE, AUTO, SEPARATE_ARM, *SEPARATE_STAGES, *OTHER_ARMS)

#: Epsilon of RMSNorm in every live run.
EPSILON = 1e-6


@dataclass(frozen=True)
class LiveShape:
    """The scalar shape of one call on every rank: (tokens, hidden_dim) of dtype."""

    tokens: int
    hidden_dim: int
    dtype: str

    @property
    def bytes(self) -> int:
        """Input bytes on one rank."""
        return self.tokens * self.hidden_dim * element_bytes(self.dtype)

    def __str__(self) -> str:
        return f"{self.tokens} tokens x {self.hidden_dim} hidden {self.dtype}"


class Outputs(NamedTuple):
    """What one call wrote on one rank: torch tensors of shape (tokens, hidden_dim)."""

    output: Any
    residual_out: Any


class CannotRun(InputError):
    """An arm cannot run a shape, or no arm can; the message is the reason.

    :meth:`Backend.capture` raises it on every rank alike, having asked the others; from
    :meth:`Backend.prepare` it may come on one rank, since nothing there waits for a peer.
    """


def op_and_algorithm(arm: str) -> tuple[str, str]:
    """Return the schema 1 ``op`` and ``algorithm`` of an arm."""
    if arm in PUSHED:
        return ALL_REDUCE, ONE_STAGE
    if arm in SEPARATE_STAGES:
        return SEPARATE, arm.rpartition("_")[2]
    if arm in OTHER_ARMS:
        word, _, stage = arm.rpartition("_")
        return OTHER_OPS[word], stage
    return (SEPARATE, "") if arm == SEPARATE_ARM else (FUSED, arm)


def arm_of(op: str, algorithm: str) -> str:
    """Return the arm of a schema 1 ``op`` and ``algorithm``; one that pushes is never meant."""
    return next(arm for arm in ARMS if op_and_algorithm(arm) == (op, algorithm))


#: Both stages of the plain op.
PLAIN_STAGES = tuple(arm_of(ALL_REDUCE, stage) for stage in shape.ALGORITHMS)


def family_of(arm: str, family: str, separate: str = "") -> str:
    """Return the schema 1 ``kernel_family`` of an arm, of a back end's own family.

    ``separate`` is that of the arm ``separate`` (:attr:`Backend.separate_family`).
    """
    if arm == SEPARATE_ARM and separate:
        return separate
    return kernels.pushing(family, PUSHED[arm]) if arm in PUSHED else family


class Timed(ABC):
    """One arm at one shape, ready to be timed: a captured graph, or a loop of eager calls.

    ``quantum`` is what quantising the output adds to its error, as a share of an element and its
    row's root mean square; 0 where nothing is quantised.
    """

    quantum: float = 0.0

    @abstractmethod
    def replay(self, samples: int) -> NDArray[np.float64]:
        """Run ``samples`` replays and return latency_us, shape (samples, len(local_ranks)).

        A replay issues the ``calls`` of :meth:`Backend.capture`; its latency is its duration
        divided by ``calls``. Ranks are brought together before each replay (by a barrier, or by an
        untimed call of the collective), so that the wait for a late process is not counted. Where
        one clock covers all local ranks (a single launch), there is a single column.

        Returns only when the outputs of every slot are complete.
        """

    def kernels(self) -> tuple[str, ...]:
        """Replay once and return the names of the kernels launched, in order; all ranks call this.

        Profiled, not assumed: the proof of what is timed. () where names cannot be read.
        """
        return ()

    def close(self) -> None:  # noqa: B027  (a loop of eager calls holds nothing)
        """Free the graph and what it holds; may be called twice."""


class Backend(ABC):
    """One way of running the op; see the module's docstring for the order of calls.

    Anything that the user can mend (no GPU, too few GPUs, not under torchrun, out of memory) is
    raised as :class:`~costmodel.errors.InputError` with one line. What only one shape or arm cannot
    do is :class:`CannotRun`: it is skipped and the run goes on. Other exceptions of a collective
    mean that a peer was lost; the watchdog names rank, shape and arm.
    """

    #: Name on the command line, e.g. ``gloo``.
    name: ClassVar[str]
    #: Schema 1 columns that the back end knows; instance attributes where the machine decides.
    kernel_family: str
    kernel_version: str
    interconnect: str
    #: The family of the arm ``separate`` where another library's all-reduce runs it, "" where not.
    separate_family: str = ""
    #: The two forced stages that run where no arm is named, and that a first look compares.
    stages: ClassVar[tuple[str, str]] = (ONE_STAGE, TWO_STAGE)
    #: Ops of which both stages can be forced at one shape, so that one can be chosen by measuring.
    forced_ops: ClassVar[tuple[str, ...]] = (FUSED,)
    #: Timings on offer; the first is the default.
    timings: ClassVar[tuple[str, ...]] = TIMINGS
    #: Norms that the arm ``separate`` can end in; the first is the default, the run chooses.
    norms: ClassVar[tuple[str, ...]] = ()
    norm: str = ""
    #: Who starts the processes: ``in_process`` needs none (or adapts when it finds itself under
    #: torchrun), ``spawn`` has ``measure`` start one a rank, ``torchrun`` is the user's doing.
    launch: ClassVar[str] = "in_process"
    #: The library that has the op, where a first look has a check of it.
    library: ClassVar[str] = ""

    #: Whether a process that torchrun starts may hold several ranks, which share its GPU.
    ranks_share_gpus: ClassVar[bool] = False
    #: How much longer than other steps that compile :meth:`set_up` may take.
    start_up_patience: ClassVar[float] = 1.0
    #: False for a test double: every row is then marked ``suspect``.
    genuine: bool = True

    def __init__(self, world_size: int) -> None:
        """Keep ``world_size``; touch no device, so that construction cannot fail half-way."""
        self.world_size = world_size

    # -- ranks ------------------------------------------------------------------------------------

    #: Ranks that this process holds. (0, ..., N-1) in a loopback; one rank otherwise.
    local_ranks: tuple[int, ...] = (0,)

    @abstractmethod
    def set_up(self) -> None:
        """Claim devices, join the ranks, check every assumption; printing is allowed on rank 0."""

    def exchange(self, value: Any) -> list[Any]:
        """Give ``value`` to all processes; return everybody's, by process. Also a barrier.

        Small picklable values (decisions, samples of one round), never on the timed path.
        A back end whose ranks share one process keeps this.
        """
        return [value]

    def meet(self, value: Any) -> list[Any]:
        """Do as :meth:`exchange` with all processes that were started, also those that stand by.

        These wait here until the ranks are through.
        """
        return self.exchange(value)

    @abstractmethod
    def close(self) -> None:
        """Give everything back; safe after a failed :meth:`set_up` and when called twice.

        Processes that were started together stay so, for the next world size.
        """

    def leave(self) -> None:  # noqa: B027  (a single process has nobody to leave)
        """Part from the other processes, after the last world size; may be called twice."""

    # -- one shape --------------------------------------------------------------------------------

    @abstractmethod
    def reason_against(self, shape: LiveShape, arm: str) -> str | None:
        """Return why ``arm`` cannot run ``shape`` ("hidden_dim % 8 is 4"), or None if it can.

        Pure: no allocation, same answer on every rank.
        """

    @abstractmethod
    def prepare(self, shape: LiveShape, slots: int, seed: int) -> None:
        """Allocate and fill ``slots`` sets of buffers; the same ``seed`` gives the same values.

        :func:`costmodel.live.backends.reference.operands` makes the values. Raises
        :class:`CannotRun` when they do not fit into memory.
        """

    @abstractmethod
    def capture(self, arm: str, calls: int, timing: str) -> Timed:
        """Warm ``arm`` up and return it ready for timing: ``calls`` calls a replay, by ``timing``.

        ``calls`` is a multiple of ``slots``. Several arms may be captured at the same time. Raises
        :class:`CannotRun` on all ranks where the library refuses on any.
        """

    @abstractmethod
    def poison(self) -> None:
        """Fill the outputs of every slot, and staging buffers where possible, with NaN."""

    @abstractmethod
    def outputs(self, slot: int) -> list[Outputs]:
        """Return what the last call on ``slot`` wrote, one entry per local rank."""

    @abstractmethod
    def reference(self, slot: int) -> Outputs:
        """Return the outputs of ``slot`` computed in fp32 by plain torch, the same for all ranks.

        :func:`costmodel.live.backends.reference.fused_reference` computes them from the operands.
        """

    @abstractmethod
    def release(self) -> None:
        """Free the buffers of the shape; may be called twice."""

    def reason_to_stop(self, calls: int) -> str:
        """Return why this process cannot go on with a capture of ``calls`` calls, "" if it can.

        Asked between shapes, and answered alike on every rank; a new process can, with --resume.
        """
        return ""

    # -- records ----------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """Return what only the back end knows of its environment (JSON values).

        Keys that the rows use where present: ``gpu`` (e.g. ``H200``, ``MI300X``) and ``arch``
        (``sm_90``, ``gfx942``). The run adds driver, clocks, topology, versions and git state.
        """
        return {}

    def kernels_run(self, arm: str) -> tuple[str, ...]:
        """Return the names of the device kernels that one call of ``arm`` launches.

        Profiled, not assumed: the proof of which kernel ``auto`` ran. () where unreadable.
        """
        return ()

    def checks(self) -> tuple[Check, ...]:
        """Return what only the back end can say of the machine before a first run: all ranks call.

        Its library's version and state, its devices, rates of the links between them.
        """
        return ()

    def memory_bytes(self) -> dict[str, int]:
        """Return the memory in use by its name (``device``, ``process``), where it can be read."""
        return {}


#: Where each back end lives; loaded on use, since each needs libraries that others do not.
BACKENDS = {
    "aiter": "costmodel.live.backends.aiter.adapter:AiterBackend",
    "flashinfer": "costmodel.live.backends.flashinfer.adapter:FlashInferBackend",
    "gloo": "costmodel.live.backends.gloo:GlooBackend",
    "replay": "costmodel.live.backends.replay:ReplayBackend",
    "torch": "costmodel.live.backends.torch.adapter:TorchBackend",
    "triton": "costmodel.live.backends.triton.adapter:TritonBackend",
}


def load(name: str) -> type[Backend]:
    """Return the back end class of that name.

    Raises :class:`~costmodel.errors.InputError` for an unknown name and for a missing library.
    """
    if name not in BACKENDS:
        raise InputError(
            f"unknown back end '{name}'{nearest(name, list(BACKENDS))}; "
            f"one of {', '.join(BACKENDS)}"
        )
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError(
            f"back end {name} needs torch, which is not installed; "
            "pip install 'xgmi-costmodel[live]'"
        ) from None
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise InputError(f"back end {name} cannot be loaded: {error}") from None
