"""The harness against a back end whose truth is known: latencies by law, errors on demand."""

import fcntl
import json
import os
import struct
import sys
import termios

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.cli.main import main
from costmodel.data import measurement
from costmodel.errors import InputError
from costmodel.live.backends.base import (
    BACKENDS,
    Backend,
    CannotRun,
    LiveShape,
    Outputs,
    Timed,
)  # fmt: skip
from costmodel.live.backends.reference import fused_reference, operands, torch_dtype
from costmodel.live.repetition import Repetition
from costmodel.live.run.directory import RunDirectory
from costmodel.live.run.exit_codes import RunEnded
from costmodel.live.run.harness import check_points, measure_point, together
from costmodel.live.run.peers import join
from costmodel.live.run.points import Point, grid
from costmodel.live.run.records import labels
from costmodel.live.run.schedule import Schedule
from costmodel.live.run.watchdog import Watchdog

TRUTH_US = {"1stage": 10.0, "2stage": 14.0, "separate": 20.0, "auto": 10.0}
POINT = Point(LiveShape(2, 64, "bf16"), ("1stage", "2stage"))
REPETITION = Repetition(rounds=6, samples=4, calls=2, slots=2, seed=3)


class Known(Backend):
    """All ranks in one process. An arm takes TRUTH_US on rank 0 and 1 us more on each next rank.

    ``fault`` maps an arm to what is wrong with it: ``value`` (one element), ``silent`` (writes
    nothing), ``late`` (right at first, wrong after it was timed), ``rank`` (only the last rank),
    ``refuse`` (the library refuses it in capture at 2 tokens). Three tokens of 4096 do not fit.
    """

    name = "known"
    kernel_family, kernel_version, interconnect = "known", "1", "loopback"

    def __init__(self, world_size, fault=None):
        super().__init__(world_size)
        self.local_ranks = tuple(range(world_size))
        self.fault = fault or {}
        self.log = []
        self.slow = 1.0

    def set_up(self):
        pass

    def close(self):
        pass

    def reason_against(self, shape, arm):
        return "too wide" if shape.hidden_dim > 4096 and arm == "1stage" else None

    def prepare(self, shape, slots, seed):
        if shape.tokens == 3 and shape.hidden_dim == 4096:
            raise RuntimeError("HIP out of memory. Tried to allocate more")
        self.shape, self.seed = shape, seed
        self.found = [[None] * self.world_size for _ in range(slots)]
        self.log.append(("prepare", shape))

    def capture(self, arm, calls, timing):
        if self.fault.get(arm) == "refuse" and self.shape.tokens == 2:
            raise CannotRun("its custom op returned nothing")
        return KnownArm(self, arm, calls)

    def poison(self):
        nan = torch.full((self.shape.tokens, self.shape.hidden_dim), float("nan"))
        self.found = [[Outputs(nan, nan)] * self.world_size for _ in self.found]

    def outputs(self, slot):
        return self.found[slot]

    def reference(self, slot):
        return fused_reference(operands(self.shape, self.world_size, slot, self.seed))

    def release(self):
        self.log.append(("release",))

    def environment(self):
        return {"gpu": "known", "arch": "sm_0"}

    def kernels_run(self, arm):
        return (f"kernel_of_{arm}",)


class KnownArm(Timed):
    def __init__(self, backend, arm, calls):
        self.backend, self.arm, self.calls, self.replays = backend, arm, calls, 0

    def replay(self, samples):
        backend, fault = self.backend, self.backend.fault.get(self.arm)
        backend.log.append((self.arm, samples))
        self.replays += samples
        for slot in range(min(self.calls, len(backend.found))):
            right = backend.reference(slot)
            dtype = torch_dtype(backend.shape.dtype)
            for rank in backend.local_ranks:
                output, residual_out = (t.to(dtype) for t in right)
                last = rank == backend.world_size - 1
                if fault == "value" or (fault == "rank" and last):
                    output[-1, -1] += 1.0
                if fault == "late" and self.replays > 10:
                    residual_out[0, 0] += 1.0
                if fault != "silent":
                    backend.found[slot][rank] = Outputs(output, residual_out)
        level = TRUTH_US[self.arm] * backend.slow + np.arange(backend.world_size)
        return np.tile(level, (samples, 1))


@pytest.fixture
def watch():
    peers = join()
    with Watchdog(peers, 60) as watchdog:
        yield watchdog
    peers.leave()


def test_the_truth_is_recovered_and_raw_samples_are_kept(watch):
    results = measure_point(Known(4), POINT, REPETITION, 0, watch)
    assert results["1stage"].summary.latency_us == 13.0  # the slowest of four ranks
    assert results["2stage"].summary.latency_us == 17.0
    assert results["1stage"].latency_us.shape == (6, 4, 4)
    assert results["1stage"].latency_us[0, 0].tolist() == [10.0, 11.0, 12.0, 13.0]
    assert 0 < results["1stage"].worst_error <= 1.0
    assert results["1stage"].kernels == ()


def timed_order(backend):
    return [entry[0] for entry in backend.log if entry[1:] == (REPETITION.samples,)]


def test_arms_alternate_in_an_order_that_the_seed_fixes(watch):
    orders = []
    for order_seed in (1, 1, 2, 3, 4):
        backend = Known(2)
        point = Point(POINT.shape, ("1stage", "2stage", "separate"))
        measure_point(backend, point, REPETITION, order_seed, watch)
        order = timed_order(backend)
        rounds = [order[i : i + 3] for i in range(0, 18, 3)]
        assert all(sorted(r) == ["1stage", "2stage", "separate"] for r in rounds)
        assert rounds[1::2] == [r[::-1] for r in rounds[0::2]]
        orders.append(order)
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 2


@pytest.mark.parametrize("fault", ["value", "silent"])
def test_a_wrong_arm_is_reported_and_never_timed(watch, fault):
    backend = Known(2, {"1stage": fault})
    results = measure_point(backend, POINT, REPETITION, 0, watch)
    assert results["1stage"].worst_error > 1.0
    assert results["1stage"].latency_us is None
    assert [entry for entry in backend.log if entry[0] == "1stage"] == [("1stage", 1)]
    assert results["2stage"].summary.latency_us == 15.0


def test_one_wrong_rank_is_named(watch):
    results = measure_point(Known(4, {"2stage": "rank"}), POINT, REPETITION, 0, watch)
    assert results["2stage"].wrong_ranks == (3,)
    assert results["2stage"].summary is None


def test_an_arm_that_goes_wrong_while_timed_is_thrown_out(watch):
    results = measure_point(Known(2, {"1stage": "late"}), POINT, REPETITION, 0, watch)
    assert results["1stage"].summary is None
    assert results["2stage"].summary is not None


def test_auto_says_which_kernel_ran(watch):
    results = measure_point(Known(2), Point(POINT.shape, ("auto",)), REPETITION, 0, watch)
    assert results["auto"].kernels == ("kernel_of_auto",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 3}, "at least 4 rounds"),
        ({"calls": 5, "slots": 2}, r"multiple of --slots \(2\)"),
        ({"samples": 0}, "1 or more"),
    ],
)
def test_repetitions_that_cannot_work(change, message):
    with pytest.raises(InputError, match=message):
        Repetition(**change).check()


def test_a_run_of_which_nothing_can_run_is_refused_before_anything_runs():
    check_points(Known(2), grid([1], [8192], ["bf16"], ["1stage", "2stage"], 2))
    check_points(Known(2), [])  # shapes that are chosen later
    points = grid([1, 2], [8192], ["bf16"], ["1stage"], 2)
    message = (
        "known cannot run arm 1stage at 1 tokens x 8192 hidden bf16 on 2 ranks: too wide; nor 1"
    )
    with pytest.raises(InputError, match=message):
        check_points(Known(2), points)


def test_the_failure_of_any_rank_is_everybodys():
    class Third(Known):
        def exchange(self, value):
            return [None, None, ("rank 2: out of memory", self.skips), None]

    third = Third(4)
    for third.skips, kind in ((True, CannotRun), (False, InputError)):
        with pytest.raises(InputError, match=r"^rank 2: out of memory$") as error:
            together(third, lambda: None)
        assert error.type is kind


# -- runs of several shapes ------------------------------------------------------------------------------------

POINTS = grid([1, 2, 3], [64], ["bf16"], ["1stage", "2stage"], 2)


class OneStart:
    """A run started or resumed in a directory, with everything that it said."""

    def __init__(self, directory, watch, *, resume=False, fault=None, points=POINTS, **options):
        self.said = []
        self.backend = Known(2, fault)
        if resume:
            self.run = RunDirectory.resume(directory)
        else:
            settings = {
                "schema": "costmodel/run/1", "id": "known-1", "started": "2026-09-01T08:00:00Z",
                "backend": "known", "world_size": 2, "timing": "graph", "seed": 1, "rounds": 4,
                "samples": 5, "calls": 2, "slots": 2, "warm_up": 1,
                "points": [point.to_json() for point in points], "labels": labels(self.backend),
            }  # fmt: skip
            self.run = RunDirectory.start(directory, settings, {})
        self.schedule = Schedule(
            self.backend, points, REPETITION, watch, self.run, self.said.append, **options
        )

    def measure(self):
        code = self.schedule.measure()
        self.run.close()
        return code

    def prepared(self):
        return [entry[1].tokens for entry in self.backend.log if entry[0] == "prepare"]


def test_a_run_writes_schema_1_and_measures_the_first_shape_twice(tmp_path, watch):
    started = OneStart(tmp_path, watch)
    assert started.measure() == 0
    table = measurement.read(tmp_path / "measurements.csv")
    assert started.prepared() == [1, 1, 2, 3, 1]  # the very first time does not count
    assert table.tokens.tolist() == [1, 1, 2, 2, 3, 3]
    assert table.latency_us.tolist() == [11.0, 15.0] * 3
    assert set(table.source) == {"known-1"}
    assert set(table.interconnect) == {"loopback"}
    assert set(table.quality) == {"clean"}
    assert set(table.rank_reduction) == {"max"}
    assert any("measured again at the end: 1stage +0.0 %, 2stage +0.0 %" in s for s in started.said)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["shape"] * 3 + ["again"]
    assert np.array(lines[0]["arms"]["2stage"]["latency_us"]).shape == (6, 4, 2)


def test_what_cannot_run_is_skipped_with_its_reason_and_the_run_goes_on(tmp_path, watch):
    points = grid([1, 2, 3], [8192, 4096], ["bf16"], ["1stage", "2stage"], 2)
    started = OneStart(tmp_path, watch, fault={"2stage": "refuse"}, points=points)
    assert started.measure() == 0
    rows = measurement.read(tmp_path / "measurements.csv")
    assert sorted(zip(rows.tokens, rows.hidden_dim, rows.algorithm, strict=True)) == [
        (1, 4096, "1stage"), (1, 4096, "2stage"), (1, 8192, "2stage"), (2, 4096, "1stage"),
        (3, 8192, "2stage"),
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    skipped = {
        (line["point"]["tokens"], line["point"]["hidden_dim"]): line.get("skipped", {})
        for line in lines
    }
    lacking = "out of memory at 3 tokens x 4096 hidden bf16 with 2 slots: HIP out of memory. Tried"
    assert skipped[1, 4096] == {}
    assert skipped[1, 8192] == {"1stage": "too wide"}
    assert skipped[2, 8192] == {"1stage": "too wide", "2stage": "its custom op returned nothing"}
    assert skipped[2, 4096] == {"2stage": "its custom op returned nothing"}
    assert [reason.startswith(lacking) for reason in skipped[3, 4096].values()] == [True, True]
    said = "\n".join(started.said)
    assert "    1stage    skipped: too wide" in said
    assert "skipped: 1stage at 1 tokens x 8192 hidden bf16 and 2 more: too wide" in said
    again = OneStart(tmp_path, watch, resume=True, points=points)
    assert again.schedule.todo == []
    assert again.measure() == 0


def test_a_process_that_cannot_go_on_leaves_the_rest_to_the_next(tmp_path, watch):
    started = OneStart(tmp_path, watch)
    prepared = started.prepared
    started.backend.reason_to_stop = lambda calls: (
        f"no slot for {calls} calls" if len(prepared()) > 2 else ""
    )
    assert started.measure() == 0
    assert prepared() == [1, 1, 2]  # and no second look at the first shape
    assert "no slot for 6 calls: 1 of 3 shapes are left; continue with --resume" in started.said
    again = OneStart(tmp_path, watch, resume=True)
    assert again.measure() == 0
    assert again.prepared() == [3, 3]


def test_a_run_in_which_nothing_could_be_measured_says_why(tmp_path, watch):
    points = grid([3], [4096], ["bf16"], ["1stage", "2stage"], 2)
    started = OneStart(tmp_path, watch, points=points)
    with pytest.raises(RunEnded, match=r"^nothing could be measured: out of memory at 3") as ended:
        started.measure()
    assert ended.value.exit_code == 2
    started.run.close()


def test_a_resumed_run_measures_only_what_is_left(tmp_path, watch):
    first = OneStart(tmp_path, watch)
    first.schedule.todo = first.schedule.todo[:1]
    first.measure()
    samples = (tmp_path / "samples.jsonl").read_bytes()
    second = OneStart(tmp_path, watch, resume=True)
    assert second.measure() == 0
    assert second.prepared() == [2, 2, 3, 2]
    assert (tmp_path / "samples.jsonl").read_bytes().startswith(samples)
    assert len(measurement.read(tmp_path / "measurements.csv")) == 6
    third = OneStart(tmp_path, watch, resume=True)
    assert third.measure() == 0
    assert third.prepared() == []


def test_a_wrong_arm_gives_no_row_and_exit_code_1_even_when_resumed(tmp_path, watch):
    started = OneStart(tmp_path, watch, fault={"2stage": "silent"})
    assert started.measure() == 1
    table = measurement.read(tmp_path / "measurements.csv")
    assert set(table.algorithm) == {"1stage"}
    assert sum("2stage    WRONG on rank 0, 1" in line for line in started.said) == 3
    again = OneStart(tmp_path, watch, resume=True)
    assert again.measure() == 1
    assert again.prepared() == []


def test_a_spent_budget_stops_between_shapes_and_says_what_is_left(tmp_path, watch):
    started = OneStart(tmp_path, watch, budget_s=1e-9)
    assert started.measure() == 0
    assert started.prepared() == []
    assert any("3 of 3 shapes are left; continue with --resume" in line for line in started.said)


def test_a_budget_does_not_begin_a_shape_that_will_not_fit(tmp_path, watch):
    started = OneStart(tmp_path, watch, budget_s=1000.0)
    started.schedule.seconds = [2000.0]
    assert started.measure() == 0
    assert started.prepared() == []


def test_memory_that_runs_out_in_a_graph_is_one_line_that_names_the_shape(tmp_path, watch):
    def exhausted(arm, calls, timing):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    started = OneStart(tmp_path, watch)
    started.backend.capture = exhausted
    with pytest.raises(RunEnded, match=r"out of memory at 1 tokens x 64 .* 2 GiB\.; use fewer"):
        started.measure()


def test_rows_of_a_test_double_are_suspect(tmp_path, watch, monkeypatch):
    monkeypatch.setattr(Known, "genuine", False)
    OneStart(tmp_path, watch).measure()
    assert set(measurement.read(tmp_path / "measurements.csv").quality) == {"suspect"}


def drawn(tmp_path, watch, monkeypatch):
    """Run three shapes with standard error on a terminal; return what was drawn there."""
    terminal, ours = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    with os.fdopen(ours, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        assert OneStart(tmp_path, watch).measure() == 0
        stderr.write("the end")
        stderr.flush()
        text = b""
        while not text.endswith(b"the end"):
            text += os.read(terminal, 65536)
    os.close(terminal)
    return text.decode().removesuffix("the end")


def test_a_terminal_shows_a_bar_that_leaves_nothing_behind(tmp_path, watch, monkeypatch):
    pytest.importorskip("tqdm", reason="the bar is tqdm's: pip install tqdm")
    text = drawn(tmp_path, watch, monkeypatch)
    assert "0/3 [" in text
    assert "2/3 [" in text
    assert text.endswith("\r")
    assert text.rstrip("\r").rpartition("\r")[2].strip() == ""


def test_without_tqdm_there_is_no_bar_and_the_run_goes_on(tmp_path, watch, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert drawn(tmp_path, watch, monkeypatch) == ""


@pytest.fixture
def known_by_name(monkeypatch):
    """Register the back end of this file under the name ``known``."""
    monkeypatch.setitem(BACKENDS, "known", f"{__name__}:Known")


def test_a_run_in_one_process_from_the_command_to_the_rows(tmp_path, capsys, known_by_name):
    arguments = ["measure", "--backend", "known", "--tp", "2", "--hidden", "64", "--tokens", "1,2",
                 "--rounds", "4", "--out", str(tmp_path / "run")]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "known on 2 ranks, graph timing, seed " in capsys.readouterr().out
    assert len(measurement.read(tmp_path / "run" / "measurements.csv")) == 4


def test_a_shape_that_the_kernel_rejects_leaves_no_run_behind(tmp_path, capsys, known_by_name):
    with pytest.raises(SystemExit) as ended:
        main(["measure", "--backend", "known", "--tp", "2", "--hidden", "8192", "--tokens", "1",
              "--arms", "1stage", "--out", str(tmp_path / "run")])  # fmt: skip
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "costmodel: error: known cannot run arm 1stage at 1 tokens x 8192 hidden bf16 on 2 ranks: "
        "too wide\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_device_that_fails_is_one_line_that_says_where(
    tmp_path, capsys, known_by_name, monkeypatch
):
    def gave_up(self, samples):
        raise RuntimeError("a barrier gave up\nwith details")

    monkeypatch.setattr(KnownArm, "replay", gave_up)
    with pytest.raises(SystemExit) as ended:
        main(["measure", "--backend", "known", "--tp", "2", "--hidden", "64", "--tokens", "1",
              "--out", str(tmp_path / "run")])  # fmt: skip
    assert ended.value.code == 3
    assert capsys.readouterr().err == (
        "costmodel: error: a barrier gave up; this was at: 1 tokens x 64 hidden bf16, arm 1stage, "
        "check against the reference; 0 of 1 shapes are finished and kept; continue with --resume\n"
    )
