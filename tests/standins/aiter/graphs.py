"""Device graphs on a CPU: what is issued during capture is kept and runs at replay."""

import time
from contextlib import contextmanager

from costmodel.live.backends.aiter.device import Device

_launched: list[str] = []


class State:
    inside_graph_capture = False
    graph = None


class Graph:
    def __init__(self):
        self.calls = []
        self.registered = False

    def replay(self):
        if not self.registered:
            raise RuntimeError("replay of a graph whose buffers no peer knows: an illegal access")
        for call in self.calls:
            call()


def launched(name):
    _launched.append(name)


def issue(run):
    """Run now, or at replay while a graph is being captured."""
    if State.graph is None:
        run()
    else:
        State.graph.calls.append(run)


class CaptureContext:
    stream = "the capture stream"


@contextmanager
def graph_capture():
    captured = CaptureContext()
    captured.graphs = []
    State.inside_graph_capture, State.context = True, captured
    yield captured
    State.inside_graph_capture = False
    for graph in captured.graphs:
        graph.registered = True


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
        assert State.inside_graph_capture, "the op cannot be captured outside graph_capture()"
        assert stream is CaptureContext.stream
        State.context.graphs.append(graph)
        State.graph = graph
        yield
        State.graph = None

    def stamp(self):
        return time.perf_counter_ns()

    def elapsed_us(self, start, end):
        return (end - start) / 1e3

    def kernels(self, run):
        _launched.clear()
        run()
        return tuple(_launched)
