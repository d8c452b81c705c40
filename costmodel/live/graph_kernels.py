"""The kernels of a captured graph, by name, as the graph itself has them: nothing is run for it.

A profiler changes what it looks at: on an H200 (torch 2.11, CUDA 13) every kernel of every later
replay of the process took 0.8 us more once one replay had been profiled (1.38 us, then 2.15), and
2-stage has two kernels where 1-stage has one. Reading a kept graph changed nothing (1.31 and 1.31).

The form is that of ``cudaGraphDebugDotPrint``; that of ``hipGraphDebugDotPrint`` was not seen.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from typing import Any

from ..data.kernel_names import read

#: A label's kernel name before its launch grid, as CUDA prints it.
_BEFORE_GRID = re.compile(r"([^\n|{}]+?)\s*\\<\\<\\<")
_LABEL = re.compile(r'label="((?:[^"\\]|\\.)*)"', re.DOTALL)


def new_graph() -> Any:
    """Return an empty graph of torch's, which is kept readable where this torch can do so."""
    import torch

    try:
        graph = torch.cuda.CUDAGraph(keep_graph=True)
    except TypeError:  # before torch 2.8
        return torch.cuda.CUDAGraph()
    graph.enable_debug_mode()
    return graph


def complete(graph: Any) -> None:
    """Make a graph of :func:`new_graph` ready for replay, after its capture."""
    instantiate = getattr(graph, "instantiate", None)
    if instantiate is not None:
        instantiate()


def captured(graph: Any) -> tuple[str, ...]:
    """Return the names of a captured graph's kernels in order, () where they cannot be read."""
    handle, path = tempfile.mkstemp(suffix=".dot")
    os.close(handle)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces what it does here
            graph.debug_dump(path)
        with open(path, encoding="utf-8", errors="replace") as stream:
            return parse(stream.read())
    except (AttributeError, OSError, RuntimeError):
        return ()
    finally:
        os.unlink(path)


def parse(dot: str) -> tuple[str, ...]:
    """Return the names of the kernels in a graph's DOT text, in the order of its nodes."""
    names = []
    for label in _LABEL.findall(dot):
        found = _BEFORE_GRID.search(label)
        words = [found[1]] if found else re.split(r"\n|\\n|[|{}]", label)
        name = next((w.strip() for w in words if found or _is_kernel(w.strip())), "")
        if name:
            names.append(name)
    return tuple(names)


def _is_kernel(word: str) -> bool:
    return word.startswith("_Z") or read(word).known
