"""Where numbers hold, in words: whose machine, which links; and how to measure there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..data.kernels import OTHER_BACKENDS, OWN_FAMILIES
from ..model.fabric import FULL_MESH, LOOPBACK, SPLIT, SWITCH

if TYPE_CHECKING:
    from ..calibration.posterior import Calibration
    from ..decide.setting import Setting

#: The machine that an interval is for: one that nobody has measured, or one whose rows are in the
#: calibration (docs/glossary.md).
YOUR_MACHINE, THIS_MACHINE = "your machine", "this machine"


def machine(*settings: Setting) -> str:
    """Return whose machine intervals are for; of several settings, ``your`` where one is."""
    return THIS_MACHINE if all(s.machine for s in settings) else YOUR_MACHINE


def fabric(name: str) -> str:
    """Return a calibration's fabric in words: ``ranks split over 2 GPUs``."""
    if name.startswith(SPLIT):
        return f"ranks split over {_gpus(name)} GPUs"
    known = {FULL_MESH: "xGMI", SWITCH: "GPUs at a switch", LOOPBACK: "ranks sharing one GPU"}
    return known.get(name, name)


def fabrics(calibrations: Iterable[Calibration]) -> str:
    """Return the fabrics of calibrations in words, each once."""
    return ", ".join(dict.fromkeys(fabric(c.fabric) for c in calibrations))


def measure(calibration: Calibration, world_size: int) -> str:
    """Return the start of the command that measures the calibration's kernels on its fabric.

    The project's own kernels hold several ranks in one process, one process for each GPU.
    """
    if calibration.kernel_family not in OWN_FAMILIES:
        backend = OTHER_BACKENDS.get(calibration.kernel_family, "aiter")
        return f"torchrun --nproc-per-node={world_size} -m costmodel measure --backend {backend}"
    gpus = world_size if calibration.fabric == SWITCH else _gpus(calibration.fabric)
    start = "costmodel" if gpus == 1 else f"torchrun --nproc-per-node={gpus} -m costmodel"
    return f"{start} measure --backend triton"


def _gpus(fabric_name: str) -> int:
    """Return over how many GPUs ranks that share one are spread."""
    return int(fabric_name.removeprefix(SPLIT)) if fabric_name.startswith(SPLIT) else 1
