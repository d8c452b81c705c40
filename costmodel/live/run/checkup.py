"""A first look at a machine through a back end, on all ranks: what ``costmodel doctor`` adds to it.

In this order: devices, links, library and kernels, as the back end knows them; both stages against
the fp32 reference and each other; a captured graph; the cost of the smallest call; memory over many
captures. Each is a :class:`~costmodel.live.machine.Check`; none changes anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import InputError, first_line
from ...files import json_text, read_json, replacing
from ...model.shape import SPOKEN
from ...units import KIB, MIB
from ..backends.base import Backend, LiveShape, Timed, op_and_algorithm
from ..backends.reference import worst_error
from ..machine import MISSING, NOTE, OK, WRONG, Check, look
from ..repetition import EAGER, GRAPH
from . import environment
from .directory import AS_WRITTEN, ENVIRONMENT
from .exit_codes import RunEnded
from .harness import COMPILE_PATIENCE, together
from .proof import distinct, refusals
from .schemas import EnvironmentRecord
from .watchdog import Watchdog

#: Legal for both stages in every release that has them, at 2, 4 and 8 ranks; a kernel of each.
SHAPE = LiveShape(4, 1024, "bf16")

#: The smallest call that both stages take: a call of nothing but launches and barriers.
SMALLEST = LiveShape(1, 512, "bf16")

#: Captures over which memory may not grow, and those before it, which fill pools once.
CAPTURES, FIRST_CAPTURES = 200, 20

#: Growth a capture, beyond which a long campaign runs into the limit.
GROWTH_BYTES = 64 * KIB

#: Samples of the smallest call.
SAMPLES = 50

#: Checks of the machine itself that a first run on GPUs needs, beside that of a back end's library.
BASE = ("python", "costmodel", "other costmodel", "torch", "GPUs", "links")

READY, NOT_READY = 0, 1


def check_up(
    backend: Backend,
    watch: Watchdog,
    directory: Path | None,
    tell: Callable[[Sequence[Check]], None],
) -> int:
    """Set the back end up, look at everything, record and tell it; return 0 where all is ready.

    The record goes into ``environment.json`` of ``directory``. All ranks return the same. Raises
    :class:`RunEnded` with what to do where the ranks cannot be set up, or a step fails.
    """

    def set_up() -> tuple[Check, ...]:
        with redirect_stdout(sys.stderr):  # what a back end says of itself is no answer
            backend.set_up()
        return (Check("ranks", OK, f"{backend.world_size} of back end {backend.name} met"),)

    checks = (*_try("setting up the ranks", set_up), *look_over(backend, watch))
    watch.step("recording", COMPILE_PATIENCE)
    together(backend, lambda: _conclude(backend, checks, directory, tell))
    return NOT_READY if to_do(checks) else READY


def look_over(backend: Backend, watch: Watchdog) -> tuple[Check, ...]:
    """Return what is to be said of a back end that is set up, the same on all ranks.

    Raises :class:`RunEnded` with what to do where a step fails.
    """
    checks: list[Check] = []
    for doing, step in STEPS.items():
        watch.step(doing, COMPILE_PATIENCE)
        checks += _try(doing, partial(step, backend))
    return tuple(checks)


def _try(doing: str, step: Callable[[], tuple[Check, ...]]) -> tuple[Check, ...]:
    """Return what a step finds; raise :class:`RunEnded` where it fails."""
    try:
        return step()
    except InputError as error:
        raise RunEnded(f"not ready: {error}", NOT_READY) from None
    except RuntimeError as error:
        said = first_line(error)
        raise RunEnded(f"not ready: {said}; this was at: {doing}", NOT_READY) from error


def _conclude(
    backend: Backend,
    checks: Sequence[Check],
    directory: Path | None,
    tell: Callable[[Sequence[Check]], None],
) -> None:
    if 0 in backend.local_ranks:
        if directory is not None:
            record(checks, backend, directory)
        tell(checks)


def without_ranks(kind: type[Backend], tp: int | None) -> tuple[Check, ...]:
    """Return what can be said of a back end that runs one process a rank, without those."""
    named = (*BASE, kind.library) if kind.launch == "torchrun" else ("python", "costmodel", "torch")
    how = f"torchrun --nproc-per-node={tp or 'N'} -m costmodel doctor --backend {kind.name}"
    return (
        *(check for check in look() if check.name in named),
        Check("ranks", MISSING, "this is one process, and they are one a rank", f"start {how}"),
    )


def to_do(checks: Sequence[Check]) -> list[str]:
    """Return what has to be done before a first run, [] where the machine is ready."""
    return [
        f"{check.name}: {check.advice or check.seen}"
        for check in checks
        if check.status in (MISSING, WRONG)
    ]


def record(checks: Sequence[Check], backend: Backend, directory: Path) -> None:
    """Write the checks into a directory's ``environment.json``, beside what a run wrote there."""
    path = directory / ENVIRONMENT
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror}; give another --out") from None
    if path.exists():
        machine = read_json(path, EnvironmentRecord, AS_WRITTEN)
    else:
        machine = environment.read_machine(backend.environment())
    machine["doctor"] = [check.to_dict() for check in checks]
    with replacing(path) as stream:
        stream.write(json_text(machine))


def _devices(backend: Backend) -> tuple[Check, ...]:
    """Return the checks of this machine, where it is a real one, and those of the back end."""
    mine: tuple[Check, ...] = ()
    if backend.genuine and backend.launch == "torchrun" and 0 in backend.local_ranks:
        mine = tuple(check for check in look() if check.name in (*BASE, backend.library))
    return (*backend.exchange(mine)[0], *backend.checks())


def _timed(backend: Backend, arm: str, timing: str) -> Timed:
    backend.exchange("capture")
    return backend.capture(arm, 1, timing)


def _stages(backend: Backend) -> tuple[Check, ...]:
    """Compare the forced stages with the fp32 reference, with each other, and by their kernels."""
    ran: dict[str, list[tuple[str, ...]]] = {}
    errors, outputs = {}, {}
    backend.prepare(SHAPE, 1, 0)
    reference = backend.reference(0)
    for arm in backend.stages:
        reason = backend.reason_against(SHAPE, arm)
        if reason:
            return (Check("stages", NOTE, f"{_spoken(arm)} does not run {SHAPE}: {reason}"),)
        timed = _timed(backend, arm, backend.timings[0])
        backend.poison()
        backend.exchange("replay")
        timed.replay(1)
        written = backend.outputs(0)
        worst = max(worst_error(each, reference, SHAPE.dtype) for each in written)
        errors[arm] = max(backend.exchange(worst))
        outputs[arm] = [tuple(tensor.clone() for tensor in each) for each in written]
        ran[arm] = backend.exchange(timed.kernels())
        timed.close()
    backend.release()
    wrong = [f"{_spoken(arm)} is wrong" for arm, error in errors.items() if not error <= 1.0]
    wrong += [f"{_spoken(a)}: {why}" for a, why in refusals(ran, backend.world_size).items()]
    if wrong:
        advice = "these arms will be left out; see the library's version and its compiled kernels"
        return (Check("stages", WRONG, "; ".join(wrong), advice),)
    same = all(
        bool((a == b).all())
        for one, two in zip(*(outputs[arm] for arm in backend.stages), strict=True)
        for a, b in zip(one, two, strict=True)
    )
    same = all(backend.exchange(same))
    seen = "both agree with the fp32 reference on all ranks, and " + (
        "with each other bit for bit" if same else "differ from each other by rounding"
    )
    names = {arm: list(distinct(processes[0])) for arm, processes in ran.items()}
    unread = "" if all(names.values()) else "; their kernels cannot be named"
    return (Check("stages", OK, seen + unread, "", {"kernels": names, "same_bits": same}),)


def _spoken(arm: str) -> str:
    """Return what an arm's stage is called in sentences."""
    return SPOKEN[op_and_algorithm(arm)[1]]


def _captured(backend: Backend) -> tuple[Check, ...]:
    """Capture a graph of several calls and replay it."""
    if GRAPH not in backend.timings:
        return (Check("graph", NOTE, f"{backend.name} has none; calls are issued one by one"),)
    backend.prepare(SHAPE, 2, 1)
    worst = 0.0
    backend.exchange("capture")
    timed = backend.capture(backend.stages[0], 4, GRAPH)
    for _ in range(2):
        backend.poison()
        backend.exchange("replay")
        timed.replay(1)
        for slot in range(2):
            reference = backend.reference(slot)
            errors = [worst_error(o, reference, SHAPE.dtype) for o in backend.outputs(slot)]
            worst = max(worst, *errors)
    timed.close()
    backend.release()
    if max(backend.exchange(worst)) > 1.0:
        return (Check("graph", WRONG, "replays are wrong", "measure with --timing eager"),)
    return (Check("graph", OK, "4 calls captured; two replays agree with the reference"),)


def _smallest(backend: Backend) -> tuple[Check, ...]:
    """Time the smallest call."""
    seen, details = [], {}
    backend.prepare(SMALLEST, 1, 2)
    for arm in backend.stages:
        if backend.reason_against(SMALLEST, arm):
            continue
        backend.exchange("capture")
        timed = backend.capture(arm, 16, backend.timings[0])
        timed.replay(3)
        columns = backend.exchange(timed.replay(SAMPLES))
        latency_us = float(np.median(np.concatenate(columns, axis=1).max(axis=1)))
        timed.close()
        seen.append(f"{_spoken(arm)} {latency_us:.3g} us")
        details[arm] = round(latency_us, 3)
    backend.release()
    if not seen:
        return (Check("barrier", NOTE, f"no stage runs {SMALLEST}"),)
    size = f"{SMALLEST.bytes / KIB:.3g} KiB"
    what = f"a call of {size}, which is launches and barriers: {', '.join(seen)}"
    if backend.timings[0] == EAGER:
        what += ", issued one by one"
    return (Check("barrier", OK, what, "", {"latency_us": details}),)


def _memory(backend: Backend) -> tuple[Check, ...]:
    """Capture many times, and see what is not given back."""
    backend.prepare(SHAPE, 1, 3)
    before: dict[str, int] = {}
    for index in range(FIRST_CAPTURES + CAPTURES):
        if index == FIRST_CAPTURES:
            before = _in_use(backend)
        _timed(backend, backend.stages[0], backend.timings[0]).close()
    after = _in_use(backend)
    backend.release()
    growth = {
        name: max(
            now.get(name, 0) - was.get(name, 0)
            for was, now in zip(backend.exchange(before), backend.exchange(after), strict=True)
        )
        for name in before
    }
    seen = ", ".join(f"{name} {size / MIB:+.1f} MiB" for name, size in growth.items())
    seen = f"over {CAPTURES} captures: {seen}" if growth else "cannot be read"
    most = max(growth.values(), default=0) / CAPTURES
    if most > GROWTH_BYTES:
        return (
            Check(
                "memory", WRONG, f"{seen}; it grows by {most / KIB:.3g} KiB a capture",
                "set HSA_ENABLE_IPC_MODE_LEGACY=1, or measure in pieces (--budget, --resume)",
                {"growth_bytes": growth},
            ),
        )  # fmt: skip
    return (Check("memory", OK if growth else NOTE, seen, "", {"growth_bytes": growth}),)


def _in_use(backend: Backend) -> dict[str, int]:
    """Return the memory in use by its name: of the back end's devices, and of this process."""
    used = backend.memory_bytes()
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            used["process"] = int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    return used


#: What is looked at, in this order, by the words in which an error names it.
STEPS = {
    "looking at devices, links and library": _devices,
    "comparing the forced stages": _stages,
    "replaying a captured graph": _captured,
    "timing the smallest call": _smallest,
    "capturing many times": _memory,
}
