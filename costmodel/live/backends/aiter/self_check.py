"""Every arm run once before anything is measured, and compared with the fp32 reference."""

from __future__ import annotations

from ....model.shape import ONE_STAGE, TWO_STAGE
from ...repetition import GRAPH
from ..base import AUTO, SEPARATE_ARM, Backend, CannotRun, LiveShape
from ..reference import worst_error

#: The shape of the self-check: legal for every arm in every release and on every arch that has it.
CHECK_SHAPE = LiveShape(4, 2048, "bf16")


def check_arms(backend: Backend) -> list[str]:
    """Run every arm once, eagerly and from a graph, and compare with the fp32 reference.

    An arm that disagrees is only reported: the measurement leaves it out, shape by shape.
    """
    lines = []
    every = (ONE_STAGE, TWO_STAGE, SEPARATE_ARM, AUTO)
    arms = [arm for arm in every if not backend.reason_against(CHECK_SHAPE, arm)]
    backend.prepare(CHECK_SHAPE, 1, 0)
    reference = backend.reference(0)
    for arm in arms:
        errors: list[float] = []
        ran: tuple[str, ...] = ()
        for timing in backend.timings:
            try:
                timed = backend.capture(arm, 1, timing)
            except CannotRun as refusal:
                lines.append(f"{arm} will be left out at {CHECK_SHAPE}: {refusal}")
                break
            backend.poison()
            timed.replay(1)
            error = worst_error(backend.outputs(0)[0], reference, CHECK_SHAPE.dtype)
            errors.append(max(backend.exchange(error)))
            ran = ran or timed.kernels()
            timed.close()
        if len(errors) < len(backend.timings):
            continue
        what = "forced " if arm in (ONE_STAGE, TWO_STAGE) else ""
        for timing, error in zip(backend.timings, errors, strict=True):
            how = "captured into a graph and replayed" if timing == GRAPH else "called eagerly"
            verdict = (
                "agrees with the fp32 reference on all ranks"
                if error <= 1.0
                else "DISAGREES with the fp32 reference on some rank, will be left out,"
            )
            lines.append(
                f"{what}{arm}, {how}, {verdict} at {CHECK_SHAPE} ({error:.2g} of what rounding "
                "explains)"
            )
        kernels = ", ".join(dict.fromkeys(ran)) or "kernels that cannot be named"
        lines.append(f"{what}{arm} ran {kernels}")
    backend.release()
    return lines
