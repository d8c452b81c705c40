"""What back ends of one rank a process ask of a GPU: events, graphs and names of kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...units import MIB
from .. import graph_kernels
from ..profiled import launched

#: A copy that shows the rate of a link: large beside its start, about 1 ms; the best of a few.
COPY_BYTES, COPIES = 64 * MIB, 5


class Device(ABC):
    """One rank's device. ``kind`` is torch's device type, where tensors are made."""

    kind: str

    @abstractmethod
    def count(self) -> int:
        """Return how many such devices this machine has."""

    @abstractmethod
    def claim(self, local_rank: int) -> None:
        """Make the device of that number current in this process."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return ``gpu`` (e.g. ``MI300X``), ``arch`` (``gfx942``) and ``product``."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything issued so far is done."""

    @abstractmethod
    def graph(self) -> Any:
        """Return an empty graph; it has ``replay()``."""

    @abstractmethod
    def capture(self, graph: Any, stream: Any) -> AbstractContextManager[Any]:
        """Return the context in which what is issued to ``stream`` is captured into ``graph``."""

    @abstractmethod
    def stamp(self) -> Any:
        """Issue a time stamp after everything issued so far; return its event."""

    @abstractmethod
    def elapsed_us(self, start: Any, end: Any) -> float:
        """Return the microseconds between two events, both reached."""

    @abstractmethod
    def kernels(self, run: Callable[[], object]) -> tuple[str, ...]:
        """Return the names of the kernels that ``run`` launches, in order."""

    def captured(self, graph: Any) -> tuple[str, ...]:
        """Return the names of a captured graph's kernels, () where it does not tell them."""
        return ()

    def memory_bytes(self) -> int | None:
        """Return the device memory in use by everybody, None where it cannot be read."""
        return None

    def free_bytes(self) -> int | None:
        """Return the device memory that nobody has, None where it cannot be read."""
        return None

    def copy_gbps(self, source: int, target: int) -> float | None:
        """Return the rate in GB/s of a copy between two devices, None where there is none."""
        return None


class TimingDevice(Protocol):
    """What timing asks of a device."""

    def synchronize(self) -> None:
        """See :meth:`Device.synchronize`."""

    def stamp(self) -> Any:
        """See :meth:`Device.stamp`."""

    def elapsed_us(self, start: Any, end: Any) -> float:
        """See :meth:`Device.elapsed_us`."""


def led(
    clock: TimingDevice, lead: Callable[[], object], issue: Callable[[], object], samples: int
) -> NDArray[np.float64]:
    """Time ``issue`` so many times, each after an untimed ``lead``; return us, (samples, 1).

    The lead is a call of the collective, after which the ranks are together. The CPU runs ahead of
    a GPU over all samples.
    """
    stamps: list[tuple[Any, Any]] = []
    for _ in range(samples):
        lead()
        start = clock.stamp()
        issue()
        stamps.append((start, clock.stamp()))
    clock.synchronize()
    return np.array([clock.elapsed_us(start, end) for start, end in stamps]).reshape(samples, 1)


class TorchGpu(Device):
    """A GPU through ``torch.cuda``, which is also ROCm's name in torch.

    ``capture_errors`` is ``capture_error_mode`` of ``torch.cuda.graph``: whose calls spoil a
    capture. It is ``thread_local`` beside a thread that watches NCCL.
    """

    kind = "cuda"

    def __init__(self, capture_errors: str = "global") -> None:
        self._capture_errors = capture_errors

    def count(self) -> int:
        """See :meth:`Device.count`."""
        import torch

        return torch.cuda.device_count()

    def claim(self, local_rank: int) -> None:
        """See :meth:`Device.claim`."""
        import torch

        torch.cuda.set_device(local_rank)

    def describe(self) -> dict[str, str]:
        """See :meth:`Device.describe`; the gpu is the first word of AMD's product name."""
        import torch

        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        arch, gpu = architecture(properties), short_name(properties.name)
        gpu = gpu.split()[0] if arch.startswith("gfx") else gpu
        return {"gpu": gpu, "arch": arch, "product": properties.name}

    def synchronize(self) -> None:
        """See :meth:`Device.synchronize`."""
        import torch

        torch.cuda.synchronize()

    def graph(self) -> Any:
        """See :meth:`Device.graph`."""
        return graph_kernels.new_graph()

    @contextmanager
    def capture(self, graph: Any, stream: Any) -> Iterator[None]:
        """See :meth:`Device.capture`."""
        import torch

        with torch.cuda.graph(graph, stream=stream, capture_error_mode=self._capture_errors):
            yield
        graph_kernels.complete(graph)

    def stamp(self) -> Any:
        """See :meth:`Device.stamp`."""
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed_us(self, start: Any, end: Any) -> float:
        """See :meth:`Device.elapsed_us`; torch counts in milliseconds."""
        return start.elapsed_time(end) * 1e3

    def kernels(self, run: Callable[[], object]) -> tuple[str, ...]:
        """See :meth:`Device.kernels`, by torch's profiler; () where it sees no kernel."""
        return launched(run)

    def captured(self, graph: Any) -> tuple[str, ...]:
        """See :meth:`Device.captured`."""
        return graph_kernels.captured(graph)

    def memory_bytes(self) -> int | None:
        """See :meth:`Device.memory_bytes`; mappings of peers' memory count, torch's cache too."""
        import torch

        free, total = torch.cuda.mem_get_info()
        return total - free

    def free_bytes(self) -> int | None:
        """See :meth:`Device.free_bytes`; torch's cache does not count as free."""
        import torch

        return torch.cuda.mem_get_info()[0]

    def copy_gbps(self, source: int, target: int) -> float | None:
        """See :meth:`Device.copy_gbps`: the best of :data:`COPIES`, each of :data:`COPY_BYTES`."""
        import torch

        def buffer(device: int) -> Any:
            return torch.zeros(COPY_BYTES, dtype=torch.uint8, device=f"cuda:{device}")

        given, taken = buffer(source), buffer(target)
        best = float("inf")
        with torch.cuda.device(source):
            for _ in range(COPIES):
                torch.cuda.synchronize(target)
                start = self.stamp()
                taken.copy_(given, non_blocking=True)
                end = self.stamp()
                torch.cuda.synchronize()
                best = min(best, self.elapsed_us(start, end))
        return COPY_BYTES / best / 1e3


def short_name(device_name: str) -> str:
    """Return the name that tables use: ``H200`` for NVIDIA H200, ``MI300X`` for AMD Instinct."""
    words = [word for word in device_name.split() if word not in ("NVIDIA", "AMD", "Instinct")]
    return " ".join(words) or device_name


def architecture(device: Any) -> str:
    """Return ``sm_90`` or ``gfx942`` of torch's properties of a device."""
    name = getattr(device, "gcnArchName", "")
    return name.partition(":")[0] if name.startswith("gfx") else f"sm_{device.major}{device.minor}"
