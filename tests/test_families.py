"""Kernel families other than AITER's: calibrations of their own, by the same code."""

from __future__ import annotations

import json

import numpy as np
import pytest
from msgspec import structs

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.calibration.one_fabric import fabric_of, on_fabric
from costmodel.cli.main import main
from costmodel.data import kernels
from costmodel.data.measurement import Measurements, concat
from costmodel.decide.explanation import explain
from costmodel.decide.pairs import pair
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.decide.row_errors import compare, covered
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.fabric import SWITCH
from costmodel.model.shape import ALL_REDUCE, FUSED, ONE_STAGE, TWO_STAGE
from costmodel.simulation.collective import simulate
from costmodel.simulation.machine import machine


@pytest.fixture(scope="module")
def by_family(published):
    """Return calibrations of families, each fitted once: family -> (calibration, fit)."""
    known = {}

    def of(family):
        if family not in known:
            rows = observe(published, family=family)
            known[family] = calibrate(on_fabric(rows, fabric_of(rows)))
        return known[family]

    return of


@pytest.fixture
def run(capsys):
    """Return a function that runs a command: (exit code, standard output, standard error)."""

    def command(*arguments):
        with pytest.raises(SystemExit) as done:
            main([*map(str, arguments)])
        return (done.value.code, *capsys.readouterr())

    return command


def error_pct(found):
    return 100 * np.abs(np.expm1(found.log_residual))


def test_every_row_is_of_one_family_s_calibration_at_most(published):
    used = {f: len(observe(published, family=f)) for f in kernels.families() if f != "aiter"}
    assert used["aiter-ll"] == 24
    assert used["aiter-ll128"] == 70
    assert used["hip_comms"] == 23
    assert used["torch_symm_mem"] == used["helion"] == 9
    assert used["kraken"] == used["symm_mem_recipes"] == 0
    for family in used:
        seen = observe(published, family=family)
        assert len(seen) + sum(seen.set_aside.values()) == len(published)
    mine = observe(published)
    ran = {g.kernel_family for g in mine.groups}
    assert ran == {"aiter", "vllm"}
    assert mine.set_aside["kernel family not modelled"] > sum(used.values()) - used["vllm"]


def test_ll_pushes_twice_the_bytes_and_waits_for_nobody(by_family):
    calibration, found = by_family("aiter-ll")
    assert calibration.kernel_family == "aiter-ll"
    assert np.median(error_pct(found)) < 1
    setting = Setting(calibration, "MI308X", op="plain")
    terms = setting.terms(setting.shapes(1024, 7168, 2), ONE_STAGE)
    assert set(terms) == {"harness", "launch", "link_write"}
    rate = calibration.values["link_gbps[MI308X]"]
    assert float(terms["link_write"]) == pytest.approx(2 * 1024 * 7168 * 2e-3 / rate, rel=1e-3)


def test_ll_crosses_aiter_s_own_kernel_where_its_authors_say(by_family):
    """#5272 runs LL up to about 32 x 7168 elements on MI308X at 2 ranks: 448 KiB."""
    ll = Setting(by_family("aiter-ll")[0], "MI308X", op="plain")
    own = Setting.shipped("MI308X", op="plain", source="aiter-5272-mi308")
    calls = ll.shapes([16, 64], 7168, 2)
    gain = own.latency_us(calls, ONE_STAGE) - ll.latency_us(calls, ONE_STAGE)
    assert gain[0] > 0 > gain[1]


def test_a_family_without_an_arm_predicts_the_other_and_recommends_nothing(by_family):
    setting = Setting(by_family("aiter-ll")[0], "MI308X", op="plain")
    shapes = setting.shapes([8], 7168, 2)
    assert predict(setting, shapes, ONE_STAGE).evidence.tolist() == ["measured"]
    for ask in (lambda: recommend(setting), lambda: recommend(setting.but(op="fused"))):
        with pytest.raises(InputError, match=r"aiter-ll has no .*, so there is nothing to choose"):
            ask()
    with pytest.raises(InputError, match="aiter-ll has no 2-stage plain kernel"):
        predict(setting, shapes, TWO_STAGE)
    said = explain(setting, shapes).to_dict()
    assert said["choice"] == ONE_STAGE
    assert said["kernel"] == "aiter-ll's kernels"


def test_a_family_with_both_arms_answers_for_itself(by_family):
    calibration, found = by_family("hip_comms")
    assert np.median(error_pct(found)) < 2
    setting = Setting(calibration, "MI355X", op="plain")
    assert setting.kernel == kernels.calibrated("hip_comms")
    decision = recommend(setting, world_sizes=(4, 8))
    assert [c.verdict for c in decision.cutoffs] == ["transferred", "measured"]
    assert decision.to_dict()["kernel"] == "hip_comms's kernels"
    with pytest.raises(InputError, match="hip_comms's kernels, which sglang does not run"):
        setting.but(op="fused", engine="sglang")


def test_one_arm_alone_identifies_no_cutoff(by_family):
    calibration, _ = by_family("torch_symm_mem")
    assert (calibration.fabric, calibration.gpus) == (SWITCH, (("sm90", "H100"),))
    decision = recommend(Setting(calibration, "H100", op="plain"))
    assert {c.verdict for c in decision.cutoffs} == {"not_identified"}


def test_rows_without_a_clean_one_are_refused(published):
    unclean = observe(published, family="flydsl", include=("launch_bound",))
    calibration, _ = calibrate(unclean, unclean=True)
    cutoffs = recommend(Setting(calibration, "MI308X", op="plain")).cutoffs
    assert {c.verdict for c in cutoffs} == {"not_identified"}


def test_the_library_s_own_choice_is_not_guessed(published):
    found = observe(published, family="trtllm")
    assert found.set_aside["algorithm not stated"] == 9
    assert set(found.algorithm) == {ONE_STAGE, TWO_STAGE}


def test_a_family_s_calibration_is_judged_on_its_own_rows(by_family, published):
    calibration, _ = by_family("aiter-ll128")
    rows = covered(calibration, published)
    assert len(rows) == 70
    assert set(rows.table.kernel_family) == {"aiter-ll"}
    assert compare(calibration, rows).known.all()


def test_the_fabric_is_that_of_the_rows_and_xgmi_s_among_several(published):
    vllm = observe(published, family="vllm")
    assert len({g.model.fabric for g in vllm.groups}) == 2
    assert fabric_of(vllm) == "full_mesh"
    assert fabric_of(vllm, "sm90") == SWITCH
    assert fabric_of(observe(published, family="helion")) == SWITCH


def test_errors_are_stated_on_every_row_of_the_family(run, by_family):
    """Where AITER's name stands at a row that vllm's kernel ran, it is one of vllm's."""
    code, told, error = run("calibrate", "--published", "--family", "vllm", "--format", "json")
    assert code == 0, error
    record = json.loads(told)
    _, found = by_family("vllm")
    errors = error_pct(found)
    assert record["scores"]["in_sample"]["n"] == record["rows"]["used"] == errors.size == 32
    assert record["scores"]["in_sample"]["median"] == pytest.approx(np.median(errors), rel=1e-6)


def test_on_the_command_line(run, tmp_path):
    out = tmp_path / "hip.json"
    code, _, error = run(
        "calibrate", "--published", "--family", "HIP_COMMS", "--arch", "gfx950", "--out", out,
        "--no-cross-validation",
    )  # fmt: skip
    assert code == 0, error
    _, told, _ = run("recommend", "--calibration", out, "--op", "plain", "--tp", 8)
    assert "(MI355X, all_reduce, bf16, hip_comms's" in told.splitlines()[0]
    _, told, _ = run(
        "predict", "--calibration", out, "--op", "plain", "--tp", 8, "--format", "json"
    )
    record = json.loads(told)
    assert record["kernel"] == "hip_comms's kernels"
    assert {r["algorithm"] for r in record["rows"]} == {ONE_STAGE, TWO_STAGE}


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("kraken", "28 GPU not stated"),
        ("hipcomms", "unknown kernel family 'hipcomms' (did you mean hip_comms?)"),
    ],
)
def test_a_family_that_cannot_be_calibrated_is_an_error(run, family, says):
    code, _, error = run("calibrate", "--published", "--family", family)
    assert code == 2
    assert says in error


def test_predict_of_both_shows_the_arm_that_there_is(run, by_family, tmp_path):
    by_family("aiter-ll")[0].save(tmp_path / "ll.json")
    ask = ("--calibration", tmp_path / "ll.json", "--op", "plain", "--tp", 2)
    _, told, _ = run("predict", *ask, "--format", "json")
    assert {r["algorithm"] for r in json.loads(told)["rows"]} == {ONE_STAGE}
    assert "aiter-ll's kernels: latencies as aiter-5272-mi308" in run("predict", *ask)[1]


def test_a_kernel_that_pushes_is_not_simulated(by_family):
    pair = machine(
        by_family("aiter-ll")[0], "MI308X", ranks=2, kernel=kernels.calibrated("aiter-ll")
    )
    with pytest.raises(InputError, match="pushes without a barrier, which is not simulated"):
        simulate(pair, ONE_STAGE, 8, 7168, op=ALL_REDUCE)


GRIDS = (None, 2)
TRUTH = {"read_floor_us": 2.6, "read_floor_growth": 0.8}


def on_grids(row, grids, latency_us=None):
    """Return rows of the plain all-reduce by AITER over sizes, on several grids."""
    sizes = [2**k for k in range(13, 23)]
    rows = [
        row | {
            "op": ALL_REDUCE, "algorithm": a, "tokens": "", "hidden_dim": "", "bytes": size,
            "workgroups": grid, "latency_us": 1.0,
        }
        for grid in grids for a in (ONE_STAGE, TWO_STAGE) for size in sizes
    ]  # fmt: skip
    if latency_us is not None:
        rows = [r | {"latency_us": us} for r, us in zip(rows, latency_us.tolist(), strict=True)]
    return observe(Measurements.from_rows(rows))


def true_us(observations):
    """Return what a machine takes for the rows on which a workgroup's reads matter."""
    values = Setting.shipped("MI300X").calibration.values | TRUTH
    return observations.latency(values) + 1.5


def test_two_grids_at_one_shape_are_two_arms_that_a_fit_tells_apart(row):
    rows = on_grids(row, GRIDS, true_us(on_grids(row, GRIDS)))
    assert len(rows) == 40
    assert len({id(g.geometry) for g in rows.groups}) == 4
    calibration, found = calibrate(rows)
    assert error_pct(found).max() < 0.5
    for name, truth in TRUTH.items():
        lo, _, hi = calibration.interval(name)
        assert lo <= truth <= hi
    assert calibration.values["read_floor_growth"] == pytest.approx(0.8, abs=0.1)
    other = on_grids(row, (4,))
    assert np.abs(other.latency(calibration.values) / (true_us(other) - 1.5) - 1).max() < 0.15
    # Without its grid a row would be another measurement of the same arm, far off.
    nowhere = np.full(len(rows), np.nan)
    blind = observe(structs.replace(rows.table, workgroups=nowhere))
    assert error_pct(calibrate(blind)[1]).max() > 20


def test_a_grid_is_an_arm_s_state_unless_it_is_the_family_s_own():
    own = kernels.aiter("0.1.19")

    def state(workgroups=None, threads=None, op=ALL_REDUCE):
        return own.on_grid(workgroups, threads).state(op, ONE_STAGE)

    assert state() == state(80, 512) == own.state(ALL_REDUCE, ONE_STAGE)
    assert state(32) == f"{state()}, 32 workgroups"
    assert state(32, 256) == f"{state()}, 32 workgroups, 256 threads"
    # One thread a pack: what a fused 1-stage's row says of threads is no other kernel.
    assert state(threads=448, op=FUSED) == state(op=FUSED)


def test_rows_of_two_grids_are_not_one_row_and_make_pairs_of_their_own(row):
    plain = row | {"op": ALL_REDUCE}
    rows = [
        plain | {"algorithm": a, "workgroups": grid, "latency_us": us}
        for grid, us in ((80, 9.5), (8, 30.0))
        for a in (ONE_STAGE, TWO_STAGE)
    ]
    table = Measurements.from_rows(rows)
    pairs = pair(table, ALL_REDUCE)
    assert sorted(pairs.one_us.tolist()) == [9.5, 30.0]
    with pytest.raises(InputError, match="the same row"):
        concat([table, Measurements.from_rows([rows[-1]])])
