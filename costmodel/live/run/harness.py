"""One shape measured: correctness first, then rounds of arms in random order, on every rank alike.

For each shape, in one go:

1. every arm is captured, its outputs poisoned with NaN, replayed once, and every slot compared with
   the fp32 reference on every rank. An arm that is wrong anywhere is reported and never timed;
   nor is one whose kernels, by the names that a replay launches, are not its own;
2. each arm warms up;
3. rounds: in each, all arms are replayed a few times. The order of the arms is drawn from the seed
   and reversed in every second round, so that no arm always follows the same other one;
4. outputs are compared again: what was timed is what is right;
5. the samples of all ranks are gathered and summarized (:mod:`costmodel.live.run.statistics`).

A shape that an arm cannot run is skipped with its reason; the other arms are measured.

:mod:`.schedule` runs this over many shapes. All ranks run the same code in step; what one decides
or finds is exchanged, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..backends.base import AUTO, Backend, CannotRun, Outputs, Timed
from ..backends.reference import is_out_of_memory, out_of_memory
from ..repetition import Repetition
from .points import Point
from .proof import distinct, refusals
from .statistics import Latency, summarize
from .watchdog import Watchdog

#: Steps that may compile kernels or open connections get this many times the watchdog's limit.
COMPILE_PATIENCE = 10.0


@dataclass(frozen=True)
class ArmResult:
    """One arm at one shape. ``latency_us`` (rounds, samples, ranks); None for a wrong arm.

    ``worst_error`` is the largest error over slots, ranks and elements in units of what rounding
    explains (:func:`costmodel.live.backends.reference.worst_error`): more than 1 is wrong.
    ``skipped`` is why the arm was not timed, "" where it was, or is wrong. ``kernels`` are those
    that one replay launched on the first rank, each once, () where no name can be read.
    """

    worst_error: float
    wrong_ranks: tuple[int, ...]
    latency_us: NDArray[np.float64] | None
    summary: Latency | None
    kernels: tuple[str, ...] = ()
    skipped: str = ""


def reasons_against(backend: Backend, point: Point) -> dict[str, str]:
    """Return why the back end says beforehand that it cannot run some of the point's arms."""
    reasons = {arm: backend.reason_against(point.shape, arm) for arm in point.arms}
    return {arm: reason for arm, reason in reasons.items() if reason}


def check_points(backend: Backend, points: Sequence[Point]) -> None:
    """Raise :class:`InputError` where the back end can run no arm of any shape."""
    against = [(point, reasons_against(backend, point)) for point in points]
    if against and all(len(reasons) == len(point.arms) for point, reasons in against):
        point, reasons = against[0]
        arm, reason = next(iter(reasons.items()))
        others = sum(len(reasons) for _, reasons in against) - 1
        raise InputError(
            f"{backend.name} cannot run arm {arm} at {point.shape} on "
            f"{backend.world_size} ranks: {reason}"
            + (f"; nor {others} other{'s' * (others > 1)} asked for" if others else "")
        )


def together(backend: Backend, action: Callable[[], None]) -> None:
    """Run ``action`` on every rank; if any rank fails by InputError, all raise the first one's.

    It is :class:`CannotRun` on all ranks where it is on that one.

    Only for actions without collectives: nobody may wait for the rank that failed.
    """
    failure = None
    try:
        action()
    except InputError as error:
        rank = backend.local_ranks[0]
        said = f"rank {rank}: {error}" if rank else str(error)
        failure = (said, isinstance(error, CannotRun))
    failures = [failure for failure in backend.exchange(failure) if failure]
    if failures:
        said, skips = failures[0]
        raise CannotRun(said) if skips else InputError(said)


def measure_point(
    backend: Backend,
    point: Point,
    repetition: Repetition,
    order_seed: int,
    watch: Watchdog,
    note: Callable[[str], None] = lambda doing: None,
) -> dict[str, ArmResult]:
    """Measure all arms of one point that can be run; every rank returns the same result.

    ``order_seed`` fixes the order of the arms together with ``repetition.seed``.
    """

    def step(doing: str, patience: float = 1.0) -> None:
        watch.step(f"{point.shape}, {doing}", patience)
        note(f"{point.shape}, {doing}")

    skipped = reasons_against(backend, point)
    arms = [arm for arm in point.arms if arm not in skipped]
    timed: dict[str, Timed] = {}
    references: list[Outputs] = []

    def prepare() -> None:
        try:
            backend.prepare(point.shape, repetition.slots, repetition.seed)
            references.extend(backend.reference(slot) for slot in range(repetition.slots))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(point.shape, repetition.slots, error) from None

    if arms:
        step("preparing buffers", COMPILE_PATIENCE)
        try:
            together(backend, prepare)
        except CannotRun as error:
            skipped |= dict.fromkeys(arms, str(error))
            arms = []
            references.clear()
            backend.release()
    errors: dict[str, tuple[float, tuple[int, ...]]] = {}  # (largest, wrong ranks)
    ran: dict[str, tuple[str, ...]] = {}
    for arm in arms:
        step(f"arm {arm}, capture", COMPILE_PATIENCE)
        try:
            captured = backend.capture(arm, repetition.calls, repetition.timing)
        except CannotRun as error:
            skipped[arm] = str(error)
            continue
        timed[arm] = captured
        step(f"arm {arm}, check against the reference")
        errors[arm] = compare(backend, captured, references, point.shape.dtype)
        if errors[arm][0] > 1.0:
            timed.pop(arm).close()
            continue
        step(f"arm {arm}, kernels of one replay")
        backend.exchange("kernels")
        ran[arm] = captured.kernels()
    for arm, reason in _refusals(backend, ran).items():
        skipped[arm] = reason
        timed.pop(arm).close()
    samples = timed_rounds(timed, repetition, order_seed, step)
    kernels: dict[str, tuple[str, ...]] = {}
    for arm, ready in timed.items():
        step(f"arm {arm}, second check against the reference")
        again = compare(backend, ready, references, point.shape.dtype)
        errors[arm] = max(errors[arm], again)
        names = ran[arm] or (backend.kernels_run(arm) if arm == AUTO else ())
        kernels[arm] = distinct(names)
    if arms:
        step("gathering samples")
    results = {}
    for arm in point.arms:
        if arm in skipped:
            results[arm] = ArmResult(0.0, (), None, None, skipped=skipped[arm])
            continue
        worst, wrong = errors[arm]
        if worst > 1.0:
            results[arm] = ArmResult(worst, wrong, None, None)
            continue
        columns = backend.exchange(samples[arm])
        latency_us = np.round(np.concatenate(columns, axis=2), 4)
        results[arm] = ArmResult(worst, (), latency_us, summarize(latency_us), kernels[arm])
    if arms:
        step("releasing buffers")
    for ready in timed.values():
        ready.close()
    backend.release()
    return results


def timed_rounds(
    timed: Mapping[str, Timed],
    repetition: Repetition,
    order_seed: int,
    step: Callable[[str], None] = lambda doing: None,
) -> dict[str, NDArray[np.float64]]:
    """Warm up and time the arms of one shape; return latency_us (rounds, samples, local ranks).

    In each round all arms are replayed, in the same random order on every rank. ``step`` is told
    what comes next.
    """
    samples: dict[str, list[NDArray[np.float64]]] = {arm: [] for arm in timed}
    for arm, ready in timed.items():
        step(f"arm {arm}, warm-up")
        ready.replay(repetition.warm_up)
    random = np.random.default_rng([repetition.seed, order_seed])
    order = list(timed)
    for index in range(repetition.rounds):
        order = order[::-1] if index % 2 else [str(arm) for arm in random.permutation(order)]
        for arm in order:
            step(f"arm {arm}, round {index + 1} of {repetition.rounds}")
            samples[arm].append(timed[arm].replay(repetition.samples))
    return {arm: np.stack(taken) for arm, taken in samples.items()}


def _refusals(backend: Backend, ran: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the arms that ran other kernels than their own on some rank, alike on every rank."""
    everybody = backend.exchange(ran)
    processes = {arm: [names[arm] for names in everybody] for arm in ran}
    return refusals(processes, backend.world_size)


def compare(
    backend: Backend, arm: Timed, references: Sequence[Outputs], dtype: str
) -> tuple[float, tuple[int, ...]]:
    """Poison, replay once, compare; return (largest error of slots and ranks, the wrong ranks)."""
    from ..backends.reference import worst_error

    backend.exchange("poison")  # peers may still read or write staging buffers of this rank
    backend.poison()
    backend.exchange("replay")
    arm.replay(1)
    mine = dict.fromkeys(backend.local_ranks, 0.0)
    for slot, reference in enumerate(references):
        for rank, outputs in zip(backend.local_ranks, backend.outputs(slot), strict=True):
            mine[rank] = max(mine[rank], worst_error(outputs, reference, dtype, arm.quantum))
    everybody = {rank: error for part in backend.exchange(mine) for rank, error in part.items()}
    wrong = tuple(rank for rank, error in sorted(everybody.items()) if not error <= 1.0)
    return max(everybody.values()), wrong
