"""The benchmark of a pair of GPUs: what can be known without one."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from costmodel.data.kernels import at_date
from costmodel.model.choose import for_fabric
from costmodel.model.shape import Shapes

pytest.importorskip("torch", reason="the live back ends compute with torch")
pytest.importorskip("triton", minversion="3.4", reason="triton 3.4 or newer is not installed")

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("pair_floor")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_floor_is_the_barriers_and_what_bytes_add_to_the_faster_copy(benchmark):
    us = {
        "two barriers": 3.0,
        "copy engine, S": 12.0, "copy engine, 16 bytes": 4.0,
        "copy kernel, S": 11.0, "copy kernel, 16 bytes": 2.0,
    }  # fmt: skip
    assert benchmark.floor_us(us) == 3.0 + 8.0
    assert benchmark.floor_us({**us, "copy kernel, S": 9.0}) == 3.0 + 7.0
    assert benchmark.floor_us({**us, "copy kernel, S": 1.0}) == 3.0  # noise takes nothing away


@pytest.mark.parametrize(("ranks", "times"), [(2, 1), (4, 2), (8, 4)])
def test_the_bytes_are_those_of_the_algorithm_that_moves_least(benchmark, ranks, times):
    shape = benchmark.LiveShape(16, 2880, "bf16")
    assert benchmark.crossing_bytes(shape, ranks) == times * shape.bytes
    for arm in ("1stage", "2stage"):
        model = for_fabric("split_2", "costmodel-2")
        shapes = Shapes.of([16], 2880, ranks)
        found = model.geometry(shapes, arm, at_date("costmodel-2", ""), "sm_90")
        moved = found.crossing_bytes[0] * (1 if arm == "1stage" else 2 / ranks)
        assert moved >= benchmark.crossing_bytes(shape, ranks)


def test_one_process_is_one_line():
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "pair_floor.py"], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 1
    assert done.stderr == (
        "pair_floor: start it as torchrun --nproc-per-node 2 benchmarks/pair_floor.py\n"
    )
