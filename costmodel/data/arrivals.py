"""What late ranks do to the time that a profiler shows: the skew law, in one place.

A kernel with an entry barrier moves nothing before its last rank has arrived, so a rank's time in
it is the collective's time plus that rank's wait:

    duration_i = T_i + (t_last - t_i),   so   T_i = duration_i - (t_last - t_i) = finish_i - t_last

With an exit barrier all T_i are the same. ``docs/simulation.md`` says where it was checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def without_wait(arrival_us: Any, finish_us: Any) -> Floats:
    """Return each rank's time in the collective without its wait for the last one, in us.

    ``arrival_us`` and ``finish_us`` have the ranks on their last axis and must be on one clock.
    A value of 0 or less is a rank that ended before the last one arrived: then they are not, or
    the kernel has no entry barrier.
    """
    arrival = np.asarray(arrival_us, dtype=np.float64)
    last = arrival.max(axis=-1, keepdims=True)
    return np.asarray(np.asarray(finish_us, dtype=np.float64) - last)
