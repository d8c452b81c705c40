"""Device graphs on a CPU: what is issued during capture is kept and runs at replay."""

import os
import time
from contextlib import contextmanager

from costmodel.live.backends.device import Device

from .versions import FAULTS

_launched: list[str] = []


class State:
    """The graph that is being captured, and the streams' context of graph_capture()."""

    graph = None
    context = None


class Graph:
    def __init__(self):
        self.calls = []
        self.unregistered = 0

    def replay(self):
        if self.unregistered:
            raise RuntimeError("replay of a graph whose buffers no peer knows: an illegal access")
        for call in self.calls:
            call()


def is_current_stream_capturing():
    return State.graph is not None


def launched(name):
    _launched.append(name)


def issue(run):
    """Run now, or at replay while a graph is being captured."""
    if State.graph is None:
        run()
    else:
        State.graph.calls.append(run)


class GraphCaptureContext:
    stream = "the capture stream"


def expandable_segments():
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if os.environ.get(name):
            return "expandable_segments:true" in os.environ[name].lower()
    return False


class CpuDevice(Device):
    kind = "cpu"

    def count(self):
        return 8

    def claim(self, local_rank):
        import torch

        torch.set_num_threads(1)

    def describe(self):
        return {"gpu": "STANDIN", "arch": "none", "product": "a stand-in on CPUs"}

    def synchronize(self):
        pass

    def graph(self):
        return Graph()

    @contextmanager
    def capture(self, graph, stream):
        assert State.context is not None, "the op cannot be captured outside graph_capture()"
        assert stream is State.context.stream
        if "no-capture" in FAULTS:
            raise RuntimeError("operation not permitted when stream is capturing")
        State.graph = graph
        try:
            yield
        finally:
            State.graph = None

    def stamp(self):
        return time.perf_counter_ns()

    def elapsed_us(self, start, end):
        return (end - start) / 1e3

    def kernels(self, run):
        _launched.clear()
        run()
        return tuple(_launched)

    def memory_bytes(self):
        from .dist.device_communicators.custom_all_reduce import _lost

        return sum(map(len, _lost))

    def copy_gbps(self, source, target):
        return 10.0 if (source, target) == (0, 1) and "slow-link" in FAULTS else 48.0
