"""What a change of rule is worth, in words: by GPU and batch size."""

from __future__ import annotations

from collections.abc import Sequence

from ..decide.evidence import MEASURED, MEASURED_ELSEWHERE, TRANSFERRED
from ..decide.worth import Worth
from ..units import kib
from .table import table
from .words import evidence

#: What the evidence classes say of a GPU and world size.
MEANS = {
    MEASURED: "both arms were measured at one shape with these kernels and this dtype",
    MEASURED_ELSEWHERE: "both arms were measured, but not at one shape with just this",
    TRANSFERRED: "an arm was never measured",
}


def text(worths: Sequence[Worth]) -> str:
    """Return the worth of one change on several GPUs as text."""
    first = worths[0]
    llm = first.llm
    head = (
        f"{llm.name}: hidden size {llm.hidden_size}, {llm.num_layers} layers, "
        f"{llm.calls_per_step} calls a decode step, {first.setting.dtype}, TP{first.world_size} "
        f"({llm.source})"
    )
    return "\n\n".join([head, *map(_one, worths)])


def _one(w: Worth) -> str:
    s = w.setting
    lines = [
        f"{s.gpu}, calibration {s.calibration.id}, {s.kernel.title}; {evidence(w.evidence)}: "
        f"{MEANS[w.evidence]} on {s.gpu} at TP{w.world_size}",
        f"  from {w.old.name}: {w.old.words()}",
        f"  to   {w.new.name}: {w.new.words()}",
    ]
    if not w.changed:
        return "\n".join(
            [*lines, "the rules run the same algorithm at every captured batch size: worth 0 us"]
        )
    rows = [
        (
            b.batch, kib(b.bytes), b.old, b.new, f"{b.saved_us.value:+.1f}",
            f"{b.saved_us.lo:+.1f} to {b.saved_us.hi:+.1f}",
        )
        for b in w.changed
    ]  # fmt: skip
    lines.append(
        table(
            rows, ("batch", "bytes", "from", "to", "us saved a step", "90 % interval"), right=True
        )
    )
    alike = len(w.batches) - len(w.changed)
    lines.append(f"{alike} other captured batch sizes run the same algorithm: worth 0 us")
    mean = w.mean_us
    over = w.histogram.name or "all captured batch sizes alike (no real traffic)"
    lines.append(
        f"over {over}: {mean.value:+.1f} us a decode step (90 % {mean.lo:+.1f} to {mean.hi:+.1f})"
    )
    return "\n".join(lines)
