"""Time stamps in the fused kernels: their compiled code, and what is made of them."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

triton = pytest.importorskip(
    "triton", minversion="3.4", reason="triton 3.4 or newer is not installed: pip install triton"
)
torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

from kernels_without_gpu import TARGETS, compiled_for, element_type

from costmodel.live.backends.base import LiveShape
from costmodel.live.backends.triton import kernels, stamps
from costmodel.live.backends.triton.adapter import TritonBackend
from costmodel.live.backends.triton.launch import (
    TWO_STAGE_REGISTERS,
    row_block,
    row_threads,
    share_of,
    two_stage_threads,
)

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

#: Arm, kernel, and the stamps in its code.
ARMS = {"1stage": ("fused_one_stage", 6), "2stage": ("fused_two_stage", 8)}
CLOCKS = {
    "wall": (stamps.WALL.value, r"%globaltimer", r"s_memrealtime"),
    "cycles": (stamps.CYCLES.value, r"%clock64", r"s_memtime"),
}


@pytest.fixture(scope="module")
def benchmark():
    path = str(Path(__file__).resolve().parents[1] / "benchmarks")
    sys.path.insert(0, path)
    try:
        yield importlib.import_module("stamps")
    finally:
        sys.path.remove(path)


# -- compiled ahead of time -----------------------------------------------------------------------


def built(arm: str, target: str, clock: int):
    name, _ = ARMS[arm]
    hidden, ranks = 7168, 4
    one = arm == "1stage"
    threads = row_threads(hidden, ranks) if one else two_stage_threads(hidden, ranks)
    constants = {
        "HIDDEN": hidden, "BLOCK": row_block(hidden), "RANKS": ranks, "LOCAL": ranks,
        "TYPE": element_type("bf16"), "SCOPE": "gpu", "HIP": target != "sm_90", "EXIT": True,
        **share_of(hidden, ranks, 2), "CLOCK": clock,
    }  # fmt: skip
    registers = 0 if one else TWO_STAGE_REGISTERS
    return compiled_for(target, getattr(kernels, name), constants, threads, registers)


def text_of(kernel, target: str) -> str:
    return kernel.asm["ptx" if target == "sm_90" else "amdgcn"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("arm", ARMS)
def test_what_is_timed_has_no_trace_of_a_clock(arm, target):
    text = text_of(built(arm, target, stamps.NO_CLOCK.value), target)
    assert not re.search(r"globaltimer|clock|memrealtime|memtime", text)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("arm", ARMS)
def test_each_stamp_comes_straight_behind_a_barrier_of_all_threads(arm, clock, target):
    """No access to device memory lies between the two, in either vendor's code."""
    code, on_nvidia, on_amd = CLOCKS[clock]
    text = text_of(built(arm, target, code), target)
    cuda = target == "sm_90"
    events = re.findall(
        r"bar\.sync|(?:ld|st|atom|red)\.\w*\.?global|%globaltimer|%clock64"
        if cuda
        else r"s_barrier|(?:global|buffer|flat)_(?:load|store|atomic)|s_memrealtime|s_memtime",
        text,
    )
    own = re.compile(on_nvidia if cuda else on_amd)
    before = [events[at - 1] for at, event in enumerate(events) if own.fullmatch(event)]
    barrier = "bar.sync" if cuda else "s_barrier"
    assert before.count(barrier) == ARMS[arm][1]
    others = {before for before in before if before != barrier}
    # at both ends the wall clock is read once more, behind the stamp ahead of it
    assert all(clock == "wall" and re.search(r"st|time", access) for access in others)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("arm", ARMS)
def test_the_machine_code_keeps_that_order(arm, clock, tmp_path):
    """And the rows that a stamp is behind were consumed before the barrier ahead of it."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this triton carries no cuobjdump to read registers with")
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(built(arm, "sm_90", CLOCKS[clock][0]).asm["cubin"])
    sass = subprocess.run([tool, "-sass", binary], capture_output=True, text=True, check=True)
    events = re.findall(
        r"\b(BAR\.SYNC|LDG|STG|RED|ATOM\w*|SR_GLOBALTIMERLO|SR_CLOCKLO)\b", sass.stdout
    )
    own = "SR_GLOBALTIMERLO" if clock == "wall" else "SR_CLOCKLO"
    before = [events[at - 1] for at, event in enumerate(events) if event == own]
    assert before.count("BAR.SYNC") == ARMS[arm][1]
    assert set(before) <= {"BAR.SYNC", "STG"}  # the stamp before it, where two share a barrier


@pytest.mark.parametrize("target", TARGETS)
def test_the_clock_s_steps_are_read_by_a_kernel_that_compiles(benchmark, target):
    constants = {"COUNT": 64, "HIP": target != "sm_90"}
    text = text_of(compiled_for(target, benchmark.read_often, constants, 64), target)
    assert re.search(r"globaltimer|s_memrealtime", text)


# -- what is made of them -------------------------------------------------------------------------


def marks_of(arm: str) -> np.ndarray:
    """One call of two programs; the first makes two turns, the second one."""
    marks = np.zeros((1, 3, 2, stamps.POINTS.value), np.int64)
    head, turns = marks[0, 0], marks[0, 1:]
    head[:, stamps.STARTED.value] = 1000, 1010
    head[:, stamps.ENTERED.value] = 1100, 1150
    if arm == "1stage":
        points = [s.value for s in (stamps.READ, stamps.NORMED, stamps.WRITTEN)]
        turns[0, 0, points], turns[1, 0, points] = (1200, 1230, 1240), (1300, 1335, 1345)
        turns[0, 1, points] = 1250, 1280, 1300
        head[:, stamps.LEFT.value] = 1400, 1420
    else:
        first = [s.value for s in (stamps.READ, stamps.SENT)]
        then = [s.value for s in (stamps.GATHERED_ROW, stamps.NORMED, stamps.WRITTEN)]
        turns[0, 0, first], turns[1, 0, first] = (1200, 1220), (1260, 1290)
        turns[0, 1, first] = 1250, 1290
        turns[0, 0, then], turns[1, 0, then] = (1310, 1320, 1324), (1390, 1400, 1404)
        turns[0, 1, then] = 1380, 1390, 1394
        head[:, stamps.LEFT.value] = 1410, 1400
    return marks


@pytest.mark.parametrize(
    ("arm", "phases"),
    [
        ("1stage", {"entry_barrier": (100, 140), "read": (160, 100), "norm": (65, 30),
                    "write": (20, 20), "exit_barrier": (55, 120)}),
        ("2stage", {"entry_barrier": (100, 140), "read": (140, 100), "push": (50, 40),
                    "norm": (20, 10), "write": (14, 10), "wait": (86, 90)}),
    ],
)  # fmt: skip
def test_the_phases_of_a_program_add_up_to_its_time(benchmark, arm, phases):
    marks = marks_of(arm)
    found = benchmark.durations(marks, arm)
    assert {name: tuple(us[0]) for name, us in found.items()} == phases
    whole = marks[:, 0, :, stamps.LEFT.value] - marks[:, 0, :, stamps.STARTED.value]
    assert np.array_equal(sum(found.values()), whole)
    assert np.array_equal(sum(benchmark.grouped(found, arm).values()), whole)


def test_the_step_of_a_clock_is_its_usual_one(benchmark):
    """Readings at every 20 ns of a clock that goes on by 256 and now and then by 32."""
    edges = np.cumsum([256, 256, 32, 256, 256, 256, 32, 256])
    at = np.arange(0, edges[-1], 20)
    readings = np.concatenate([[0], edges])[np.searchsorted(edges, at, side="right")]
    assert benchmark.typical_step(readings) == 256


def test_a_calibration_speaks_for_rows_of_its_own_fabric(benchmark):
    def row(interconnect, ranks):
        return {"interconnect": interconnect, "world_size": ranks}

    assert benchmark.covers("split_2", row("nvlink/2", 4))
    assert benchmark.covers("split_2", row("nvlink", 2))
    assert not benchmark.covers("split_2", row("nvlink", 4))
    assert not benchmark.covers("split_2", row("loopback", 2))
    assert benchmark.covers("loopback", row("loopback", 8))


def test_terms_without_a_row_of_their_fabric_are_one_line(benchmark, tmp_path):
    root = Path(__file__).resolve().parents[1]
    rows = tmp_path / "stamps.json"
    rows.write_text('{"gpu": "H200", "rows": [{"interconnect": "loopback", "world_size": 2}]}')
    calibration = root / "measurements" / "h200-pair" / "revision-2" / "calibration.json"
    done = subprocess.run(
        [sys.executable, root / "benchmarks" / "stamps.py", "terms", rows,
         "--calibration", calibration, "--out", tmp_path / "out.json"],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.endswith("is of split_2, the rows of loopback; nothing to put beside\n")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("tokens", [1, 200])
def test_stamps_of_a_call_on_the_gpu_lie_within_it(benchmark, arm, clock, tokens):
    backend = TritonBackend(2)
    backend.set_up()
    backend.prepare(LiveShape(tokens, 2880, "bf16"), benchmark.SLOTS, 0)
    found = benchmark.measured(backend, arm, CLOCKS[clock][0])
    backend.close()
    assert all(phase["lo"] >= 0 for phase in found["phases_us"].values())
    assert 0 < found["sum_us"] < found["total_with_stamps_us"]["us"]
