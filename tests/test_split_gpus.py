"""Ranks split over GPUs: traffic of a port, the limits of a pass, and what was registered before."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from costmodel.calibration import posterior
from costmodel.calibration.crossing import last_crossing
from costmodel.data import kernels, measurement
from costmodel.decide.pairs import pair as pairing
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.figures.registered import Registered, prediction_against_measurement
from costmodel.live.run.options import world_sizes
from costmodel.model import choose
from costmodel.model.shape import FUSED, Shapes
from costmodel.rules.catalogue import load

ROOT = Path(__file__).parents[1]
PAIR = ROOT / "measurements" / "h200-pair"
FIRST, SECOND, THIRD = (kernels.at_date(family, "") for family in kernels.OWN_FAMILIES)


def geometry(gpus, ranks, tokens=64, hidden=4096, arm="1stage", kernel=FIRST):
    shapes = Shapes.of([tokens], hidden, ranks)
    model = choose.for_fabric(f"split_{gpus}", kernel.family)
    return model.geometry(shapes, arm, kernel, "sm_90")


@pytest.mark.parametrize(
    ("gpus", "ranks", "times"), [(2, 2, 1), (2, 4, 4), (2, 8, 16), (4, 4, 3), (4, 8, 12), (8, 8, 7)]
)
def test_a_port_carries_what_the_pairs_across_it_exchange(gpus, ranks, times):
    local = ranks // gpus
    # Every rank of one GPU reads from every rank of the others.
    assert times == sum(1 for a in range(local) for b in range(local, ranks))
    size = 64 * 4096 * 2
    assert geometry(gpus, ranks).crossing_bytes.tolist() == [times * size]


def test_a_gpu_holds_its_own_ranks_alone():
    whole, half = geometry(2, 8).on_gpu, geometry(4, 8).on_gpu
    assert half.working_set_bytes == whole.working_set_bytes / 2
    assert half.phases[0].issued_bytes == whole.phases[0].issued_bytes / 2
    assert half.programs >= whole.programs  # fewer ranks share the multiprocessors


def test_ranks_that_do_not_split_are_refused():
    with pytest.raises(InputError, match="4 ranks do not split evenly over the GPUs of fabric"):
        geometry(3, 4)


@pytest.fixture(scope="module")
def pair():
    calibration = posterior.load(PAIR / "second" / "calibration.json")
    return Setting(calibration, "H200", source="h200-pair")


@pytest.mark.parametrize(("ranks", "times"), [(2, 1), (4, 4), (8, 16)])
def test_large_one_stage_calls_take_what_the_port_takes(pair, ranks, times):
    shapes = pair.shapes([40_000, 80_000], 8192, ranks)
    terms = pair.terms(shapes, "1stage")["link_read"]
    rate = pair.point["link_gbps[H200]"] * pair.point["read_efficiency[sm_90]"]
    port_us = times * shapes.bytes / rate / 1e3
    # What programs do besides is not all hidden behind it; at 2 ranks memory is nearly as slow.
    assert (terms > port_us).all()
    if ranks > 2:
        np.testing.assert_allclose(np.diff(terms), np.diff(port_us), rtol=0.1)


@pytest.fixture(scope="module")
def preregistered():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("preregistered")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def revised():
    calibration = posterior.load(PAIR / "revision-2" / "third" / "calibration.json")
    return Setting(calibration, "H200", source="h200-pair-2")


PREDICTED = [
    "",
    "second",
    "revision-2",
    "revision-2/second",
    "revision-2/third",
    "revision-2/fourth",
    "revision-3",
    "revision-3/machines",
]


def test_one_launch_has_no_second_and_norms_by_the_programs_that_met(revised):
    """4 ranks a GPU, 128 tokens: 264 programs, two a multiprocessor, whose fences queue."""
    one = geometry(2, 8, 128, 7168, "2stage", SECOND).on_gpu
    assert one.programs.tolist() == [8 * 66]
    assert one.local.sharing.tolist() == [2]
    assert one.local.turns.tolist() == [2]
    terms = revised.terms(revised.shapes([8, 128], 7168, 8), "2stage")
    assert not {"second_launch", "exit_barrier"} & set(terms)
    few, many = terms["middle_barrier"]
    assert many - few > 0.8 * revised.point["release_acquire_us"]
    two = geometry(2, 8, 128, 7168, "2stage").on_gpu
    assert two.local.sharing is None


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_port_adds_to_what_the_programs_take(revised, ranks):
    """Between a sum and a maximum: programs ask for all they load at once."""
    shapes = revised.shapes([1, 16, 512], 4096, ranks)
    read_us = revised.terms(shapes, "1stage")["link_read"]
    endless = {**revised.point, "link_gbps[H200]": 1e9}
    without = revised.terms(shapes, "1stage", endless)["link_read"]
    crossing = (ranks // 2) ** 2 * shapes.bytes
    rate = revised.point["link_gbps[H200]"] * revised.point["read_efficiency[sm_90]"]
    port_us = crossing / rate / 1e3
    assert (read_us < without + port_us).all()
    assert (read_us > np.maximum(without, port_us)).all()


def test_a_third_program_s_fence_does_not_queue(revised):
    """4 ranks, 2 a GPU: 40, 80 and 140 tokens are one, two and three programs a multiprocessor."""
    assert geometry(2, 4, 140, 2048, "2stage", SECOND).on_gpu.local.sharing.tolist() == [3]
    terms = revised.terms(revised.shapes([40, 80, 140], 2048, 4), "2stage")
    one, two, three = terms["middle_barrier"]
    assert two - one > revised.point["release_acquire_us"]
    assert three - two < 0.1


@pytest.fixture(scope="module")
def marked():
    calibration = posterior.load(PAIR / "revision-3" / "mended" / "calibration.json")
    return Setting(calibration, "H200", source="h200-pair-3")


def test_a_marked_2_stage_meets_once_and_its_turns_overlap(marked):
    """4 ranks, 2 a GPU, hidden 7168: 128 programs a rank make 1, 2, 4 and 8 turns."""
    tokens = 128 * np.array([1, 2, 4, 8])
    on_gpu = geometry(2, 4, 128, 7168, "2stage", THIRD).on_gpu
    assert (on_gpu.programs.tolist(), on_gpu.phases[0].turns.tolist()) == ([4 * 128], [1])
    terms = marked.terms(marked.shapes(tokens, 7168, 4), "2stage")
    assert not {"middle_barrier", "exit_barrier", "local_pass", "second_launch"} & set(terms)
    first, second, later = np.diff(terms["link_read"]) / [1, 2, 4]
    assert later == pytest.approx(second, rel=0.01)
    assert second < 0.95 * first
    rate = marked.point["link_gbps[H200]"], marked.point["read_efficiency[sm_90]"]
    port_us = 128 * 7168 * 2 * (1 / rate[0] + 1 / (rate[0] * rate[1])) / 1e3
    assert port_us < later < 1.1 * port_us


def test_a_pack_without_columns_takes_part_of_one_that_is_full(marked):
    """Hidden 4352 to 6144 are two to three packs of 256 threads: longer, and no step between."""
    hidden = np.array([4096, 4352, 5120, 6144])
    us = [marked.latency_us(marked.shapes([4], h, 4), "2stage")[0] for h in hidden]
    assert (np.diff(us) > 0).all()
    packs = [geometry(2, 4, 4, h, "2stage", THIRD).on_gpu.local.packs[0] for h in hidden]
    assert packs == pytest.approx([2.0, 2.5625, 2.75, 3.0])


def test_calls_that_no_calibration_has_take_what_is_said(marked):
    """Four hidden sizes at 2, 4 and 8 ranks, measured with the prediction's repeat."""
    pairs = pairing(measurement.read(PAIR / "revision-3" / "live.csv"), FUSED)
    known = measurement.read(PAIR / "revision-3" / "mended" / "calibration.csv")
    assert not set(pairs.hidden_dim.tolist()) & set(known.hidden_dim.tolist())
    shapes = marked.shapes(pairs.tokens, pairs.hidden_dim, pairs.world_size)
    for arm, us in (("1stage", pairs.one_us), ("2stage", pairs.two_us)):
        off = np.abs(marked.latency_us(shapes, arm) / us - 1)
        assert np.median(off) < 0.02


def test_a_rank_a_gpu_is_a_case_of_the_split(revised):
    shapes = revised.shapes([1, 64, 512], 4096, 2)
    switch = revised.but(calibration=replace(revised.calibration, fabric="switch"))
    assert type(switch.calibration.model) is type(revised.calibration.model)
    for arm in ("1stage", "2stage"):
        np.testing.assert_allclose(
            switch.latency_us(shapes, arm), revised.latency_us(shapes, arm), rtol=1e-12
        )


def test_a_draw_of_falling_growth_leaves_finite_latencies(revised):
    values = {**revised.point, "trip_growth": -0.4}
    for ranks in (2, 4, 8):
        shapes = revised.shapes([1, 64], 4096, ranks)
        assert np.isfinite(revised.latency_us(shapes, "1stage", values)).all()


def test_the_tuning_s_rule_is_that_of_every_captured_batch(tmp_path):
    """36 s on two H200, concluded again from its record, beside 204 calls measured in full."""
    record = tmp_path / "tune"
    shutil.copytree(PAIR / "revision-2" / "tune", record)
    done = subprocess.run(
        [sys.executable, "-m", "costmodel", "tune", "--backend", "triton", "--finish", "--out",
         record], capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = json.loads((record / "tune.json").read_text())
    assert said["decided"]
    assert "where costmodel-2's kernels are dispatched; no engine runs them" in done.stdout
    pairs = pairing(measurement.read(PAIR / "revision-2" / "exhaustive.csv"), FUSED)
    chosen = pairs.chosen_us(pairs.use_1stage(load(record / "rule.json"), kernels.LATEST))
    assert set(pairs.world_size.tolist()) == {2, 4, 8}
    assert (chosen / pairs.fastest_us - 1).mean() < 1e-4


@pytest.mark.parametrize("place", PREDICTED)
def test_the_prediction_is_of_the_calibration_beside_it(place):
    said = json.loads((PAIR / place / "prediction.json").read_text())
    content = (PAIR / place / "calibration.json").read_bytes()
    assert said["calibration_sha256"] == hashlib.sha256(content).hexdigest()
    planned = json.loads((PAIR / place / "plan.json").read_text())["shapes"]
    key = ("world_size", "tokens", "hidden_dim", "dtype")
    assert [[r[k] for k in key] for r in said["rows"]] == [[s[k] for k in key] for s in planned]


@pytest.mark.parametrize("place", ["revision-2/third", "revision-2/fourth"])
def test_revision_2_s_last_predictions_are_what_the_model_says(place):
    """The others are by the models of their commits."""
    said = json.loads((PAIR / place / "prediction.json").read_text())["rows"]
    setting = Setting(
        posterior.load(PAIR / place / "calibration.json"), "H200", source="h200-pair-2"
    )
    for row in said[::7]:
        here = setting.but(dtype=row["dtype"])
        shapes = here.shapes([row["tokens"]], row["hidden_dim"], row["world_size"])
        for arm in ("1stage", "2stage"):
            assert here.latency_us(shapes, arm)[0] == pytest.approx(row[arm][0], abs=1e-3)


def test_no_tested_shape_was_calibrated_on():
    for place in PREDICTED:
        with (PAIR / place / "calibration.csv").open() as stream:
            known = {
                (int(r["world_size"]), int(r["hidden_dim"]), int(r["tokens"]), r["dtype"])
                for r in csv.DictReader(stream)
            }
        said = json.loads((PAIR / place / "prediction.json").read_text())["rows"]
        assert known
        tested = {(r["world_size"], r["hidden_dim"], r["tokens"], r["dtype"]) for r in said}
        assert not known & tested


@pytest.mark.parametrize(
    ("place", "right", "misses"),
    [
        ("", "21 of 49", 8 + 7),
        ("revision-2", "34 of 45", 2),
        ("revision-2/second", "22 of 22", 2),
        ("revision-2/third", "50 of 51", 2),
        ("revision-2/fourth", "40 of 46", 0),
        ("revision-3", "33 of 39", 12 + 11),
        ("revision-3/machines", "57 of 58", 0),
    ],
)
def test_the_score_is_printed_with_its_misses(place, right, misses):
    done = subprocess.run(
        [sys.executable, "benchmarks/preregistered.py", "score", f"measurements/h200-pair/{place}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"test, TP8: the chosen arm is right on {right} shapes" in done.stdout
    assert done.stdout.count("miss") == misses


def test_the_figure_shows_the_prediction_and_every_row():
    said, us = np.array([[8.0, 7.0, 9.0], [20.0, 18.0, 24.0]]), np.array([8.5, 30.0])
    part = Registered(
        8, np.array([1e4, 1e6]), {"1stage": said, "2stage": said + 1},
        np.array([2e4, 2e6]), {"1stage": us, "2stage": us + 1}, (4e4, 8e4), [1.3e5],
    )  # fmt: skip
    figure = prediction_against_measurement([part, part], "two of them")
    points = [t for t in figure.data if t.mode == "markers"]
    assert [t.y.tolist() for t in points] == 2 * [us.tolist(), (us + 1).tolist()]
    lines = [t for t in figure.data if t.mode == "lines" and t.fill is None]
    assert [t.y.tolist() for t in lines] == 2 * [[8.0, 20.0], [9.0, 21.0]]
    crossed = [s.x0 for s in figure.layout.shapes if s.type == "line"]
    assert crossed == [1.3e5, 1.3e5]


def test_a_prediction_is_made_once():
    done = subprocess.run(
        [sys.executable, "benchmarks/preregistered.py", "predict", "measurements/h200-pair/second"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "prediction.json exists: a prediction is made once" in done.stderr


def test_ranks_may_share_the_processes_that_torchrun_started(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert world_sizes((2, 4, 8), share=True) == (2, 4, 8)
    assert world_sizes((), share=True) == (2,)
    with pytest.raises(InputError, match="--tp is 4, but torchrun started 2 processes"):
        world_sizes((4,))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="--tp is 4,8, but torchrun started 3 processes"):
        world_sizes((4, 8), share=True)


def test_the_last_crossing_lies_on_the_line_between_neighbours():
    assert last_crossing([10, 20, 30, 50], [-2.0, 1.0, -1.0, 3.0]) == 35.0
    assert last_crossing([10, 20], [-1.0, 0.0]) == 20.0
    assert last_crossing([10, 20], [1.0, 2.0]) is None
    assert last_crossing([10, 20], [2.0, -1.0]) is None


def test_a_latency_that_no_kernel_can_reach_is_refused(preregistered):
    said = json.loads((PAIR / PREDICTED[-1] / "prediction.json").read_text())["rows"]
    assert not preregistered.below_floor(said, preregistered.FLOORS)
    row = next(r for r in said if r["tokens"] == 96)
    faster = {**row, "2stage": [2.0, 1.9, 2.1]}
    (found,) = preregistered.below_floor([row, faster], preregistered.FLOORS)
    assert f"{row['world_size']} ranks, 96 x {row['hidden_dim']}, 2stage: 2.0 us, floor " in found
