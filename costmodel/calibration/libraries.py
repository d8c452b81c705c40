"""What rows of RCCL and NCCL are: a library's all-reduce, which is neither arm of the op."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data.kernels import LIBRARY_FAMILIES
from ..data.measurement import Measurements


def all_of_a_library(table: Measurements) -> bool:
    """Whether there are rows, and all of them are a library's."""
    return len(table) > 0 and bool(np.isin(table.kernel_family, LIBRARY_FAMILIES).all())


def of_a_library(table: Measurements, times: NDArray[np.int64] | None = None) -> str:
    """Return what a library's rows are good for and what to do instead, "" where there is none.

    Each counts as often as ``times`` says (default: once).
    """
    each = np.ones(len(table), np.int64) if times is None else times
    of = {family: int(each[table.kernel_family == family].sum()) for family in LIBRARY_FAMILIES}
    count = sum(of.values())
    if not count:
        return ""
    which = f"all {count} are" if all_of_a_library(table) else f"{count} of {each.sum()} rows are"
    families = " and ".join(family.upper() for family, n in of.items() if n)
    return (
        f"{which} of {families}, whose kernels are neither arm of the op, 1-stage or 2-stage: each "
        "is the time of a separate all-reduce, to hold beside the separate ops; it fits no model "
        "and judges no rule; rows of both arms do, by `costmodel measure` or AITER's op_tests, "
        "and these may stand beside them"
    )
