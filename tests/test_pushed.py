"""LL and LL128 as arms of the plain op: what one benchmark measured beside 1-stage, no more."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import costmodel
from msgspec import structs

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.families import with_families
from costmodel.calibration.observations import observe
from costmodel.calibration.one_fabric import fabric_of, on_fabric
from costmodel.calibration.posterior import load, shipped
from costmodel.data import kernels
from costmodel.data.measurement import Measurements, concat
from costmodel.data.words import Words
from costmodel.data.workload import Workload
from costmodel.decide import drawn
from costmodel.decide.explanation import explain
from costmodel.decide.prediction import predict, scatter
from costmodel.decide.pushed import pushed, pushed_arms
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Arms
from costmodel.decide.setting import Setting
from costmodel.decide.three_way import _AllArms
from costmodel.errors import InputError
from costmodel.model.fabric import FULL_MESH
from costmodel.model.shape import ALGORITHMS, ONE_STAGE, PUSHED

SOURCE = "aiter-5272-mi308"


@pytest.fixture(scope="module")
def asked():
    return Setting.shipped("MI308X", op="plain")


@pytest.fixture(scope="module")
def decision(asked):
    return recommend(asked, world_sizes=(2, 4))


@pytest.fixture(scope="module")
def table(published):
    """Return the medians of #5272's table: latency of an arm by bytes, LL128's of 512 threads."""
    mine = published.select(published.source == SOURCE)
    versions = {ONE_STAGE: "baseline", "ll": "5272 ll (", "ll128": "ll128 512"}

    def of(arm):
        rows = mine.kernel_version.each(lambda v: versions[arm] in v, np.bool_)
        return dict(zip(mine.bytes[rows].tolist(), mine.latency_us[rows].tolist(), strict=True))

    return {arm: of(arm) for arm in versions}


def families(calibration):
    return {c.kernel_family: c for c in calibration.families}


@pytest.mark.parametrize("arm", PUSHED)
def test_the_shipped_calibration_has_those_of_the_family_s_rows(arm, published):
    """Rebuild with ``costmodel calibrate --published --arch gfx942 --out FILE`` when this fails."""
    family = kernels.pushing("aiter", arm)
    rows = observe(published, family=family)
    fresh = calibrate(on_fabric(rows, fabric_of(rows)), arch="gfx942")[0]
    kept = families(shipped("gfx942"))[family]
    scale = np.sqrt(np.diag(fresh.covariance))
    assert kept.data["sha256"] == fresh.data["sha256"]
    assert (np.abs(kept.mean - fresh.mean) < 0.02 * scale + 1e-6).all()
    assert kept.coverage == fresh.coverage
    assert shipped("gfx950").families == ()


def test_the_arms_stand_beside_1stage_as_the_table_has_them(asked, table):
    sizes = sorted(set.intersection(*map(set, table.values())))
    assert len(sizes) > 20
    calls = asked.shapes(1, np.array(sizes, np.int64) // 2, 2)
    arms = {a.arm: a for a in pushed_arms(asked, 2)}
    assert list(arms) == list(PUSHED)
    shift = asked.point[f"harness[{arms['ll'].benchmark}]"] - asked.point["harness[]"]
    measured = {arm: np.array([us[s] for s in sizes]) for arm, us in table.items()}
    model = {name: predict(asked, calls, name).latency_us for name in arms}
    model[ONE_STAGE] = asked.latency_us(calls, ONE_STAGE) + shift
    for name, few in ((ONE_STAGE, 0.03), ("ll", 0.02), ("ll128", 0.06)):
        assert np.median(np.abs(model[name] / measured[name] - 1)) < few
        apart = np.abs(measured[name] / measured[ONE_STAGE] - 1) > 0.1
        faster, truly = (us[name] < us[ONE_STAGE] for us in (model, measured))
        assert (faster == truly)[apart].all()
    # What is subtracted is not the setting's own reference, with which LL would take less than 0.
    assert asked.reference != arms["ll"].benchmark
    assert model["ll"].min() < shift + 5


def test_ll_is_run_up_to_where_its_authors_run_it(decision):
    push = decision.at(2).pushed
    ll, ll128 = push.cutoffs
    assert push.verdict == "measured"
    assert ll.here.lo.lo < ll.this_kernel.lo.lo < ll.max_bytes < ll.this_kernel.hi.hi
    assert ll.this_kernel.hi.hi < ll.here.hi.hi
    assert ll128.max_bytes is None
    assert ll128.here.lo.lo > 4 * ll.max_bytes
    stated = {b.statement.compared: b for b in decision.at(2).statements}
    theirs = stated["AITER's LL against its 1-stage"]
    assert theirs.held is True
    assert ll.here.lo.lo <= theirs.statement.hi_bytes <= ll.here.hi.hi


def test_the_choice_among_all_arms_is_that_of_the_benchmark(decision):
    """Counted again, call by call, over the same draws."""
    asked, c = decision.setting, decision.at(2)
    arms = c.pushed.arms
    shift = (asked.draws[f"harness[{arms[0].benchmark}]"] - asked.draws["harness[]"])[::8]
    some = {k: v[::8] if np.ndim(v) else v for k, v in asked.draws.items()}
    shapes = c.arms.shapes
    us = {a: asked.latency_us(shapes, a, some) + shift for a in ALGORITHMS}
    us |= {a.arm: a.drawn_us(shapes)[::8] for a in arms}
    best = np.minimum.reduce(list(us.values()))
    regret = {a: 100 * (each / best - 1).mean(axis=0) for a, each in us.items()}
    size = shapes.bytes
    chosen = np.full(size.size, np.nan)
    for w in c.three_way.windows:
        inside = (size >= w.from_bytes) & (size <= w.to_bytes)
        chosen[inside] = regret[w.algorithm][inside]
    assert [w.algorithm for w in c.three_way.windows[:2]] == ["ll", "ll128"]
    rule = np.where(size <= c.estimate, regret[ONE_STAGE], regret["2stage"])
    lost = float(c.arms.weight @ (rule - chosen))
    assert c.three_way.loss_pct == pytest.approx(lost)
    assert lost > 10
    assert c.three_way.beside.share > 0.5


def test_explain_predict_and_the_family_s_own_answer_agree(asked):
    call = asked.shapes(8, 7168, 2)
    found = explain(asked, call)
    own = families(asked.calibration)["aiter-ll"]
    own = Setting(own, "MI308X", op="plain", source=SOURCE)
    ll, _ = found.pushed
    assert ll.latency_us.value == float(predict(own, call, ONE_STAGE).latency_us)
    here = asked.but(source=SOURCE)
    assert ll.one_us == pytest.approx(float(predict(here, call, ONE_STAGE).latency_us))
    assert ll.probability > 0.95
    large = explain(asked, asked.shapes(512, 7168, 2))
    assert large.pushed[0].probability < 0.05
    assert explain(asked, asked.shapes(8, 7168, 4)).pushed == ()


@pytest.mark.parametrize("arm", PUSHED)
def test_predict_gives_the_latency_and_interval_of_the_comparison(asked, table, arm):
    """Draws of recommend's comparison, with the scatter of a measurement, as of every arm."""
    calls = asked.shapes([1, 8, 64], 7168, 2)
    found = predict(asked, calls, arm.upper())
    (of,) = (a for a in pushed_arms(asked, 2) if a.arm == arm)
    heavy = scatter(of.own)
    mine, theirs = (of.drawn_us(calls, laboratory=where) * heavy for where in (False, True))
    assert np.array_equal([found.lo_us, found.hi_us], drawn.ends(mine))
    assert np.array_equal([found.kernel_lo_us, found.kernel_hi_us], drawn.ends(theirs))
    assert (found.lo_us < found.latency_us).all()
    assert (found.latency_us < found.hi_us).all()
    assert found.latency_us == pytest.approx(sum(found.terms.values()))
    assert (found.algorithm, set(found.evidence.tolist())) == (arm, {"measured"})
    assert found.kernel == f"aiter-{arm}'s kernels (AITER's main since #5272)"
    assert found.reference == f"{SOURCE}/aiter-ll"
    call = explain(asked, calls.select(slice(1, 2)))
    told = next(p for p in call.pushed if p.arm == arm).latency_us
    assert (told.value, told.lo, told.hi) == (
        found.latency_us[1], *(float(predict(asked, call.call, arm).to_rows()[0][k])
                               for k in ("latency_us_lo", "latency_us_hi")),
    )  # fmt: skip
    # Its own rows lie inside.
    sizes = np.array(sorted(table[arm]), np.int64)
    rows = predict(asked, asked.shapes(1, sizes // 2, 2), arm)
    us = np.array([table[arm][s] for s in sizes.tolist()])
    assert np.mean((rows.kernel_lo_us <= us) & (us <= rows.kernel_hi_us)) >= 0.8


def test_predict_of_many_calls_is_that_of_each(asked):
    calls = asked.shapes([[1, 3], [8, 500]], 7168, 2)
    found = predict(asked, calls, "ll")
    assert found.lo_us.shape == (2, 2)
    one = predict(asked, asked.shapes(500, 7168, 2), "ll")
    assert float(one.hi_us) == pytest.approx(found.hi_us[1, 1])
    assert float(one.latency_us) == pytest.approx(found.latency_us[1, 1])
    newer = predict(asked.but(aiter_version="0.1.99"), calls, "ll")
    assert set(newer.evidence.ravel().tolist()) == {"transferred"}
    assert (newer.hi_us > found.hi_us).all()


@pytest.mark.parametrize(
    ("gpu", "more", "ranks", "said"),
    [
        ("MI308X", {}, (2, 4, 8), "LL is not identified at TP4 and TP8: no benchmark .* has LL beside "
         "1-stage on MI308X .*; measure plain_1stage, plain_ll at hidden 7168, tokens .* "
         "\\(it is identified at TP2\\)$"),
        ("MI300X", {}, (2,), "LL is not identified at TP2: .* tokens [0-9, ]+$"),
        ("MI308X", {"op": "fused"}, (2,), "an arm of the plain op, not of fused_ar_rmsnorm"),
        ("MI308X", {"aiter_version": "0.1.15"}, (2,), "not beside AITER 0.1.15"),
    ],
)  # fmt: skip
def test_predict_claims_no_arm_that_recommend_does_not(gpu, more, ranks, said):
    setting = Setting.shipped(gpu, **{"op": "plain", **more})
    with pytest.raises(InputError, match=said):
        predict(setting, setting.shapes(8, 7168, ranks), "ll")


def test_predict_refuses_what_the_kernel_rejects_and_names_that_are_none(asked):
    with pytest.raises(
        InputError, match="LL128 kernel of aiter-ll128's kernels rejects 1 tokens x"
    ):
        predict(asked, asked.shapes([8, 1], [7168, 3], 2), "ll128")
    with pytest.raises(InputError, match=r"did you mean ll128.*one of 1stage, 2stage, ll, ll128"):
        predict(asked, asked.shapes(8, 7168, 2), "ll129")


def test_arms_of_two_benchmarks_are_not_predicted_as_one(row):
    arms = ("plain_1stage", "plain_2stage", "plain_ll")
    other = [r | {"source": "other", "world_size": 2} for r in own_rows(row, arms)]
    table = Measurements.from_rows([*own_rows(row, arms), *other])
    calibration = with_families(calibrate(observe(table))[0], table)
    setting = Setting(calibration, "MI355X", op="plain")
    with pytest.raises(InputError, match="as other measures it at TP2 and as mine does at TP4"):
        predict(setting, setting.shapes(8, 7168, [2, 4]), "ll")
    assert predict(setting, setting.shapes(8, 7168, [4]), "ll").reference == "mine/aiter-ll"


def test_on_the_machine_that_was_measured_there_is_no_contrast(asked):
    named = asked.but(source=SOURCE)
    calls = asked.shapes([4, 16], 7168, 2)
    (new, _), (mine, _) = (pushed_arms(s, 2) for s in (asked, named))
    assert np.array_equal(
        mine.drawn_us(calls), mine.own.latency_us(calls, ONE_STAGE, mine.own.draws)
    )
    assert (new.drawn_us(calls).std(axis=0) > 2 * mine.drawn_us(calls).std(axis=0)).all()
    assert not mine.shift_us.any()


@pytest.mark.parametrize(("gpu", "ranks"), [("MI308X", 4), ("MI300X", 2), ("MI355X", 2)])
def test_without_rows_nothing_is_claimed_and_what_to_measure_is_said(gpu, ranks):
    setting = Setting.shipped(gpu, op="plain")
    c = recommend(setting, world_sizes=(ranks,)).at(ranks)
    assert c.pushed.verdict == "not_identified"
    assert c.pushed.cutoffs == ()
    assert c.pushed.unidentified == PUSHED
    assert c.three_way is None
    wanted = {(m["algorithm"], m["tokens"]) for m in c.pushed.measure_next}
    tokens = {t for _, t in wanted}
    assert wanted == {(a, t) for a in (ONE_STAGE, *PUSHED) for t in tokens}
    # Around where #5272 sees LL cross 1-stage: 256 KiB on MI355X, 448 KiB on MI308X.
    assert min(tokens) * 7168 * 2 <= 256 * 1024 < 448 * 1024 <= max(tokens) * 7168 * 2


def test_other_ops_older_kernels_and_other_families_have_no_such_arm(asked):
    assert pushed_arms(Setting.shipped("MI308X"), 2) == ()
    old = asked.but(aiter_version="0.1.15")
    calls = Arms.of(old, Workload.of([7168]), 2)
    assert pushed(old, calls, 2) is None
    assert pushed_arms(asked.but(aiter_version="0.1.19.post1"), 2)


def test_kernels_that_nobody_read_are_less_sure(asked, decision):
    newer = recommend(asked.but(aiter_version="0.1.99"), world_sizes=(2,)).at(2).pushed.cutoffs[0]
    now = decision.at(2).pushed.cutoffs[0]
    assert newer.here.lo.lo < now.here.lo.lo
    assert now.this_kernel.hi.hi < newer.this_kernel.hi.hi


def test_rows_of_a_run_that_name_the_arm_are_the_family_s(row):
    """What ``measure --arms plain_ll`` writes."""
    mine = row | {"op": "all_reduce", "kernel_family": "aiter-ll", "source": "mine"}
    table = Measurements.from_rows([mine])
    assert len(observe(table, family="aiter-ll")) == 1
    assert observe(table).set_aside == {"kernel family not modelled": 1}


def test_on_the_command_line():
    told = costmodel("recommend", "--gpu", "MI308X", "--op", "plain", "--tp", "2,4").stdout
    said = " ".join(told.split())
    assert "LL (AITER's main since #5272) is expected to be fastest: TP2" in said
    assert "two arms are not enough" in said
    assert f"as {SOURCE} has them beside 1-stage; no release up to 0.1.20.post1 has them" in said
    assert "LL and LL128 (AITER's main since #5272) not identified at TP4" in said
    assert "measure plain_1stage, plain_ll, plain_ll128 at hidden 7168" in said
    fused = json.loads(
        costmodel("recommend", "--gpu", "MI308X", "--tp", 2, "--format", "json").stdout
    )
    assert fused["cutoffs"][0]["pushed"] is None


def test_predict_explain_and_plan_on_the_command_line():
    where = ("--gpu", "MI308X", "--op", "plain", "--tp")
    words = ("predict", *where, 2, "--tokens", "8,32", "--algorithm", "ll")
    record = json.loads(costmodel(*words, "--format", "json").stdout)
    assert record["kernel"] == "aiter-ll's kernels (AITER's main since #5272)"
    assert [(r["algorithm"], r["tokens"]) for r in record["rows"]] == [("ll", 8), ("ll", 32)]
    told = costmodel(*words).stdout
    assert f"latencies as {SOURCE}/aiter-ll measures them, on any machine: what another" in told
    assert f"{record['rows'][0]['latency_us']:.2f}" in told
    refused = costmodel("predict", *where, 4, "--algorithm", "ll128")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "LL128 is not identified at TP4" in refused.stderr
    assert "measure plain_1stage, plain_ll128 at hidden 7168" in refused.stderr
    for more in ((), ("--verbose",)):
        said = costmodel("explain", *where, 4, "--tokens", 8, "--hidden", 7168, *more).stdout
        assert "LL and LL128 (AITER's main since #5272) not identified at TP4" in said
    said = costmodel("explain", *where, 2, "--all", "--hidden", 7168).stdout
    assert "TP2: LL is faster than 1-stage up to 384 KiB" in said
    said = costmodel("plan", *where, "2,4", "--shapes", 1).stdout
    assert "LL and LL128 are in no shape below: their rows calibrate apart" in said
    assert (
        "TP2: LL against 1-stage is open at 400 KiB to 480 KiB: plain_1stage, plain_ll at" in said
    )
    assert "not identified at TP4" in said
    plan = json.loads(costmodel("plan", *where, "2,4", "--shapes", 1, "--format", "json").stdout)
    here, there = (c["pushed"] for c in plan["cutoffs"])
    assert {m["algorithm"] for m in there["measure_next"]} == {"1stage", "ll", "ll128"}
    assert {m["tokens"] * 14336 for m in here["arms"][0]["measure_next"]} == {32 * 14336}
    assert here["arms"][0]["max_bytes_lo"] < 32 * 14336 <= here["arms"][0]["max_bytes_hi"]
    fused = costmodel(
        "plan", "--gpu", "MI308X", "--tp", 4, "--shapes", 1, "--format", "json"
    ).stdout
    assert json.loads(fused)["cutoffs"][0]["pushed"] is None


def test_another_benchmark_s_1stage_does_not_stand_in(asked, published):
    """Rows of one's own at this shape say nothing of an arm that they do not hold."""
    mine = published.select((published.source == SOURCE) & (published.kernel_family == "aiter"))
    mine = structs.replace(mine, source=Words.of(np.full(len(mine), "mine")))
    others = published.select(published.source != SOURCE)
    calibration, _ = calibrate(on_fabric(observe(concat([others, mine])), FULL_MESH))
    calibration = with_families(calibration, published)
    assert set(families(calibration)) == {"aiter-ll", "aiter-ll128"}
    own = Setting(calibration, "MI308X", op="plain")
    assert calibration.measured("MI308X", 2, "all_reduce", ONE_STAGE).sources == ("mine",)
    assert pushed_arms(own, 2) == ()


def own_rows(row, arms, tokens=(1, 4, 16, 64, 256)):
    """Return rows as a run of some arms writes them: 1-stage 14 us and its bytes, LL 6 and twice."""
    us = {
        "plain_1stage": (14.0, 1.0), "plain_2stage": (14.5, 1.0), "plain_ll": (6.0, 2.0),
        "plain_ll128": (6.0, 16 / 15),
    }  # fmt: skip
    return [
        row | {
            "source": "mine", "gpu": "MI355X", "arch": "gfx950", "op": "all_reduce", "tokens": t,
            "algorithm": arm[-6:] if "stage" in arm else "1stage", "hidden_dim": 7168,
            "kernel_family": "aiter" if "stage" in arm else arm.replace("plain", "aiter").replace("_", "-"),
            "bytes": t * 14336,
            "kernel_version": "0.1.21", "latency_us": us[arm][0] + us[arm][1] * t * 14336e-3 / 57,
        }
        for arm in arms for t in tokens
    ]  # fmt: skip


def test_what_is_asked_to_be_measured_answers(row, tmp_path):
    """Rows of one's own at 4 ranks: LL takes 8 us less and its bytes once more, at 57 GB/s."""
    file, out = tmp_path / "mine.csv", tmp_path / "mine.json"
    Measurements.from_rows(own_rows(row, ("plain_1stage", "plain_2stage", "plain_ll"))).write(file)
    made = costmodel("calibrate", file, "--published", "--arch", "gfx950", "--out", out)
    assert made.returncode == 0, made.stderr
    assert ", with aiter-ll beside" in made.stdout
    assert families(load(out))["aiter-ll"].data["rows_used"] == 5
    asked = ("recommend", "--calibration", out, "--gpu", "MI355X", "--op", "plain", "--tp", 4)
    (c,) = json.loads(costmodel(*asked, "--format", "json").stdout)["cutoffs"]
    (ll,) = c["pushed"]["arms"]
    assert ll["max_bytes_lo"] < 8 * 57e3 < ll["max_bytes_hi"]
    assert c["pushed"]["not_identified"] == ["ll128"]
    assert {m["algorithm"] for m in c["pushed"]["measure_next"]} == {"1stage", "ll128"}
    assert c["three_way"][0]["algorithm"] == "ll"


def test_an_edited_family_is_an_edited_file(tmp_path):
    file = tmp_path / "edited.json"
    record = json.loads(shipped("gfx942").to_json())
    record["families"][0]["noise"]["aiter-5272-mi308/aiter-ll"] = 0.5
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="edited since"):
        load(file)
    record["families"][1]["harness_log_sd"] = -1.0
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="not a usable calibration"):
        load(file)


def test_arms_of_two_benchmarks_are_compared_in_one(row):
    """Another benchmark adds 5 us to 1-stage and LL128: that makes neither slower beside LL."""
    mine = own_rows(row, ("plain_1stage", "plain_2stage", "plain_ll"))
    other = [
        r | {"source": "other", "latency_us": r["latency_us"] + 5.0}
        for r in own_rows(row, ("plain_1stage", "plain_2stage", "plain_ll128"))
    ]
    table = Measurements.from_rows([*mine, *other])
    calibration = with_families(calibrate(observe(table))[0], table)
    setting = Setting(calibration, "MI355X", op="plain")
    arms = pushed_arms(setting, 4)
    assert [a.source for a in arms] == ["mine", "other"]
    weighed = Arms.of(setting, Workload.of([7168]), 4)
    every = _AllArms.of(setting, weighed, arms)
    ll, ll128 = (every.us[every.names.index(a)].mean(axis=0)[0] for a in PUSHED)
    assert ll128 == pytest.approx(ll, abs=0.7)
    assert arms[1].drawn_us(weighed.shapes).mean(axis=0)[0] == pytest.approx(ll + 5.0, abs=0.7)
