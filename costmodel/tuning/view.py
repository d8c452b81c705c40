"""What a terminal shows after each shape: both curves, the interval closing, the time left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.workload import captured_batch_sizes
from ..show.sketch import scale_head, scale_of, two_curves
from ..show.words import arm, ranks_and_op
from .journal import StepRecord
from .knowledge import Known

#: Steps whose intervals are shown, the last ones.
STEPS = 6


def view(
    known: Known, world_size: int, steps: Sequence[StepRecord], left: str, *, fine: bool
) -> str:
    """Return the view as lines; ``left`` is the time left in words.

    The curves are those of the first hidden size that counts, at the calibration's estimate.
    """
    setting = known.setting
    hidden = known.decision.workload.hidden_dims()[0]
    shapes = setting.shapes(captured_batch_sizes(), hidden, world_size)
    shapes = shapes.select(np.flatnonzero(setting.takes_both(shapes)))
    arms = {a: setting.latency_us(shapes, a).tolist() for a in setting.arms}
    letters = ", ".join(f"{a[0]} {arm(a)}" for a in arms)
    margin = " " * 12
    lines = [f"{ranks_and_op(world_size, setting.op)}, hidden {hidden}: {letters}"]
    lines += two_curves(shapes.bytes.tolist(), arms) if len(shapes) else []
    lines += [f"{margin}{scale_head()}"]
    for step in steps[-STEPS:]:
        drawn = scale_of(step["max_bytes"], step["max_bytes_lo"], step["max_bytes_hi"], fine=fine)
        lines.append(f"{step['shapes']:4} shape{'s' if step['shapes'] != 1 else ' '} {drawn}")
    return "\n".join([*lines, left])
