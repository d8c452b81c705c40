"""What every latency model offers, whatever its ranks are wired with.

A call's *geometry* is what a kernel does for its shape, before any time is assigned to it; *costs*
are what each action takes on one GPU; *terms* put the two together. Both are a model's own objects,
made and read by it alone, so that nobody else needs to know which model is at work::

    model = for_fabric(calibration.fabric)
    did = model.geometry(shapes, algorithm, kernel, arch)
    latency_us = total(model.terms(did, model.costs(values, arch, gpu, ...)))

Which model speaks for a fabric is chosen in :mod:`.choose`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, Protocol

from ..data.kernels import Kernel
from .fabric import Wiring
from .shape import Shapes


class LatencyModel(Protocol):
    """One model of latency."""

    @property
    def fabric(self) -> str:
        """The fabric that it speaks for, as named in calibration files."""

    @property
    def wiring(self) -> Wiring | None:
        """How links of the ranks' own are wired; None where ranks have no links."""

    def parameter_names(
        self, gpus: Iterable[tuple[str, str]], norm_kernels: Iterable[str]
    ) -> list[str]:
        """Return its parameters, without those of sources, for (arch, gpu) pairs."""

    def covers(self, names: Container[str], norm_kernel: str) -> bool:
        """Return whether the parameters ``names`` are enough for a separate norm kernel."""

    def reason_against(self, kernel_family: str, arch: str, world_size: int) -> str | None:
        """Return why it does not cover rows of a family's kernels; None when it does."""

    def by_bytes(self, op: str, algorithm: str) -> bool:
        """Return whether calls of as many bytes over as many ranks all take equally long."""

    def geometry(self, shapes: Shapes, algorithm: str, kernel: Kernel, arch: str) -> Any:
        """Return what ``algorithm`` does for every shape, whether or not the kernel takes it.

        Raises :class:`InputError` for a world size or an arch that it has no geometry for.
        """

    def costs(
        self, values: Mapping[str, Any], arch: str, gpu: str, *, norm_kernel: str, hbm_gbps: float,
        harness_us: Any = 0.0,
    ) -> Any:  # fmt: skip
        """Resolve parameter values by name, scalars or draws of shape (draws, 1), for one GPU."""

    def terms(self, geometry: Any, costs: Any) -> dict[str, Any]:
        """Return the named terms in us; their sum is the latency. Only terms that the kernel has.

        Arrays broadcast from the shapes and the costs, so costs of shape (draws, 1) against n
        shapes give (draws, n). A term that does not depend on the shape may be a scalar.
        """
