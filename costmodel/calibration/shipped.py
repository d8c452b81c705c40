"""The calibrations that the package ships: whose kernels each is of, on what links."""

from __future__ import annotations

from ..data import cards, hardware, kernels
from ..errors import InputError
from .posterior import Calibration, shipped

#: Archs of the shipped calibrations, by what joins their GPUs and whose kernels they are of. That
#: of sm_90 is of the project's own on two H200 (``measurements/h200-pair/revision-3/mended``).
SHIPPED = {
    (cards.XGMI, "aiter"): ("gfx942", "gfx950"),
    ("nvlink", kernels.OWN_FAMILY): ("sm_90",),
}


def of_kernels(gpu: str, interconnect: str, kernel_family: str) -> Calibration:
    """Return the shipped calibration of a family's kernels on a GPU over such links.

    ``interconnect`` is a row's. Raises :class:`InputError` where none is shipped.
    """
    wire, family = interconnect.partition("/")[0], kernels.calibrates(kernel_family)
    name = hardware.product(gpu)
    for arch in SHIPPED.get((wire, family), ()):
        calibration = shipped(arch)
        if name in (known for _, known in calibration.gpus):
            return calibration
    of = "AITER" if family == "aiter" else family
    over = interconnect or "links that are not known"
    raise InputError(f"no calibration of {of}'s kernels on {gpu} over {over}")
