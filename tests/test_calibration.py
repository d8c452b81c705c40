from __future__ import annotations

import json

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from costmodel.calibration import posterior as record
from costmodel.calibration.cross_validation import (
    cross_validate,
    leave_hidden_out,
    leave_source_out,
    origami_us,
    refit_offset,
)
from costmodel.calibration.estimate import calibrate, data_sha256
from costmodel.calibration.fit import refits
from costmodel.calibration.observations import observe
from costmodel.calibration.one_fabric import on_fabric
from costmodel.calibration.posterior import load, shipped
from costmodel.data import measurement
from costmodel.data.measurement import Measurements
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import known_workload, weigh
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.model.fabric import FULL_MESH
from costmodel.simulation.machine import machine


@pytest.fixture(scope="module")
def scores(fitted):
    return cross_validate(fitted[1])


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_shipped_calibrations_match_the_data(arch, fitted, published):
    """Rebuild with ``costmodel calibrate --published --arch ARCH --out FILE`` when this fails."""
    kept, fresh = shipped(arch), fitted[0].restrict(arch)
    assert kept.data["sha256"] == data_sha256(on_fabric(observe(published), FULL_MESH))
    assert kept.names == fresh.names
    scale = np.sqrt(np.diag(fresh.covariance))
    assert (np.abs(kept.mean - fresh.mean) < 0.02 * scale + 1e-6).all()
    np.testing.assert_allclose(np.sqrt(np.diag(kept.covariance)), scale, rtol=0.02)
    assert kept.coverage == fresh.coverage


def test_accuracy_in_sample(scores):
    assert scores.family_in_sample.n == 169
    assert scores.family_in_sample.median <= 2.5


def test_accuracy_leaving_one_row_out(scores):
    model = scores.leave_one_out["model"]
    assert model.median <= 3.5
    assert model.p90 <= 10
    assert 0.85 <= scores.coverage90 <= 0.95


def test_hidden_sizes_left_out_are_foretold_by_bytes(scores):
    """The gate of AMD's own tuner: else bytes would be the wrong key."""
    held_out = scores.leave_hidden_out
    assert held_out.n == 99
    assert held_out.median <= 1.7 * scores.leave_one_out["model"].median
    assert held_out.p90 <= 15


@pytest.mark.parametrize("name", ["interpolation", "hockney", "two lines", "softplus", "origami"])
def test_better_than_each_baseline_on_the_same_rows(scores, name):
    model, baseline = scores.same_rows[name]
    assert model.n == baseline.n > 100
    assert model.median < baseline.median
    assert model.p90 < baseline.p90
    model, baseline = scores.same_rows[f"source:{name}"]
    assert model.n == baseline.n > 10
    # Few rows have another source of the same arm; the best of four is within a fifth there.
    assert model.median < 1.2 * baseline.median
    assert model.p90 < baseline.p90


def test_origami_as_it_stands_charges_the_launch_of_rccl(scores):
    assert scores.origami_raw.n == scores.family_in_sample.n
    assert scores.origami_raw.median > 100 > scores.same_rows["origami"][1].median
    assert 0 < scores.origami_elsewhere < scores.origami_raw.n


def test_errors_of_origami_and_of_hidden_sizes_left_out_are_percent_of_the_measured(scores, fitted):
    found = fitted[1]
    observations = found.problem.observations
    table, measured = observations.table, observations.latency_us
    mine = table.kernel_family == "aiter"
    of_origami = 100 * (origami_us(observations)[mine] - measured[mine]) / measured[mine]
    assert scores.origami_raw.max == pytest.approx(np.nanmax(np.abs(of_origami)))
    assert scores.origami_raw.median == pytest.approx(np.nanmedian(np.abs(of_origami)))
    errors = leave_hidden_out(found)
    hidden = table.hidden_dim == 7168
    scored = hidden & ~np.isnan(errors)
    assert scored.sum() > 5
    (without,) = refits(found, [~scored])
    off = 100 * (without.predicted[scored] - measured[scored]) / measured[scored]
    np.testing.assert_allclose(errors[scored], off, rtol=1e-6)


def test_a_source_left_out_is_judged_by_the_physics_with_an_offset_of_its_own(fitted):
    found = fitted[1]
    observations = found.problem.observations
    measured = observations.latency_us
    errors, _, _ = leave_source_out(found)
    source = "aiter-3458-mi355x"
    out = observations.table.source == source
    scored = ~np.isnan(errors[source])
    assert scored.sum() >= 10
    assert not (scored & ~out).any()
    (without,) = refits(found, [~out])
    for key in np.unique(observations.harness[scored]):
        mine = scored & (observations.harness == key)
        moved = without.predicted[mine]
        moved = moved + refit_offset(moved, measured[mine])
        off = 100 * (moved - measured[mine]) / measured[mine]
        np.testing.assert_allclose(errors[source][mine], off, rtol=1e-6)


def test_physics_carries_to_a_source_left_out(scores):
    assert scores.leave_source_out_pooled["model"].median <= 4
    for source, score in scores.leave_source_out.items():
        assert score.n == 0 or score.median <= 4, source
    assert scores.leave_source_out_skipped == 37


def test_hidden_size_has_no_effect_beyond_bytes(scores):
    assert scores.hidden.rows == 76
    assert scores.hidden.lo < 0 < scores.hidden.hi
    middle = (scores.hidden.lo + scores.hidden.hi) / 2
    assert middle == pytest.approx(scores.hidden.pct_per_doubling)


@pytest.mark.parametrize(
    ("gpu", "low", "high"),
    [
        ("MI300X", 46.0, 50.0),
        ("MI308X", 38.0, 50.0),
        ("MI325X", 44.0, 56.0),
        ("MI355X", 52.0, 66.0),
    ],
)
def test_link_rates_are_those_of_peer_copies(fitted, gpu, low, high):
    lo, _, hi = fitted[0].interval(f"link_gbps[{gpu}]")
    assert low < lo < hi < high


def test_published_row_is_predicted_with_its_own_harness():
    """aiter-3458: 32 tokens x 7168 at 4 ranks, 11.55 us 1-stage and 11.79 us 2-stage."""
    setting = Setting.shipped("MI355X", aiter_version="0.1.16", source="aiter-3458-mi355x")
    for algorithm, latency in (("1stage", 11.55), ("2stage", 11.79)):
        p = predict(setting, setting.shapes([32], 7168, 4), algorithm)
        assert p.latency_us[0] == pytest.approx(latency, rel=0.05)
        assert p.lo_us[0] < latency < p.hi_us[0]
        assert p.evidence.tolist() == ["measured"]
        assert sum(v[0] for v in p.terms.values()) == pytest.approx(p.latency_us[0])


def test_an_unknown_harness_widens_the_interval():
    setting = Setting.shipped("MI355X")
    known, unknown = (
        predict(s, s.shapes([32], 7168, 4), "1stage")
        for s in (setting.but(source="aiter-3458-mi355x"), setting)
    )
    assert (unknown.hi_us - unknown.lo_us)[0] > 2 * (known.hi_us - known.lo_us)[0]


def test_evidence_follows_gpu_world_size_and_bytes():
    setting = Setting.shipped("MI355X", aiter_version="0.1.19")
    p = predict(setting, setting.shapes([32, 32, 512], 7168, [4, 8, 4]), "1stage")
    assert p.evidence.tolist() == ["measured", "transferred", "transferred"]
    small = predict(setting, setting.shapes([1], 512, 4), "1stage")
    assert small.evidence.tolist() == ["transferred"]


def test_intervals_of_many_shapes_agree_with_one_by_one():
    tokens = np.arange(1, 401)
    setting = Setting.shipped("MI300X")
    together = predict(setting, setting.shapes(tokens, 4096, 8), "2stage")
    alone = predict(setting, setting.shapes([200], 4096, 8), "2stage")
    assert together.lo_us[199] == pytest.approx(alone.lo_us[0])
    assert (together.lo_us < together.latency_us).all()
    assert (together.latency_us < together.hi_us).all()


def test_files_give_back_the_same_calibration(tmp_path, fitted):
    path = tmp_path / "c.json"
    fitted[0].save(path)
    again = load(path)
    for algorithm in ("1stage", "2stage"):
        before, after = (
            s.latency_us(s.shapes([1, 64, 512], 5120, [2, 4, 8]), algorithm)
            for s in (Setting(fitted[0], "MI355X"), Setting(again, "MI355X"))
        )
        np.testing.assert_allclose(after, before, rtol=1e-5)
    again.save(tmp_path / "d.json")
    assert (tmp_path / "d.json").read_text() == path.read_text()
    assert again.id == fitted[0].id


def changed(edit):
    """Return an edit of a file's text by an edit of its record."""

    def of_text(text):
        record = json.loads(text)
        edit(record)
        return json.dumps(record)

    return of_text


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: text[: len(text) // 2], "truncated or not JSON"),
        (lambda text: text.replace("calibration/2", "calibration/9"), "calibration/9"),
        (lambda text: "[]", "expected `object`, got `array`"),
        (lambda text: "", "truncated"),
        (lambda text: text.replace('"full_mesh"', '"torus"'), "unknown fabric 'torus'"),
        (lambda text: text.replace('"full_mesh"', '"split_1"'), "split over 1 GPU"),
        (lambda text: json.dumps(json.loads(text) | {"mean": [1.0]}), "differ in length"),
        (
            lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "gpus"}),
            "missing required field `gpus`",
        ),
        (
            lambda text: text.replace('"mean": [\n  ', '"mean": [\n  NaN, '),
            r"truncated or not JSON \(line \d+\)",
        ),
        (
            lambda text: text.replace('"mean": [\n  ', '"mean": [\n  1e999, '),
            r"mean\[0\]: number out of range",
        ),
        (changed(lambda d: d["parameters"][0].update(estimate=40.0)), "does not follow from mean"),
        (
            changed(
                lambda d: next(
                    p for p in d["parameters"] if p["name"] == "read_efficiency[gfx950]"
                ).update(estimate=0.5)
            ),
            r"read_efficiency\[gfx950\] does not follow from mean",
        ),
        (changed(lambda d: d["mean"].__setitem__(0, 3.7)), "does not follow from mean"),
        (changed(lambda d: d["covariance_lower"][3].__setitem__(3, -1.0)), "not positive definite"),
        (changed(lambda d: d["covariance_lower"][3].append(0.1)), "not a triangle"),
        (changed(lambda d: d["noise"].__setitem__(d["harness"][0], -0.1)), "scale is not positive"),
        (changed(lambda d: d["noise"].popitem()), "name different sources"),
        (changed(lambda d: d["parameters"][0].update(name="link_gbps[MI300X]")), "are not those"),
        (changed(lambda d: d["taus"].__setitem__(0, [0.05, 2.0])), "weights not one"),
        (changed(lambda d: d["coverage"].pop()), "does not add up to the rows used"),
        (
            changed(
                lambda d: d["refusals"].append({"gpu": "MI355X", "world_size": 4, "reason": "?"})
            ),
            "edited since",
        ),
        (changed(lambda d: d["sources"][0].update(rows=1)), "edited since"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, edit, says):
    path = tmp_path / "c.json"
    path.write_text(edit(shipped("gfx950").to_json()))
    with pytest.raises(InputError, match=says):
        load(path)


def test_an_absent_gpu_is_named():
    with pytest.raises(InputError, match="no MI355X; it covers MI300X"):
        shipped("gfx942").costs("MI355X", shipped("gfx942").values)


def test_contradicting_rows_are_refused_with_the_rows_named(published):
    noisy = published.select(
        (published.source == "aiter-3458-mi355x") & (published.world_size == 8)
    )
    calibration, found = calibrate(observe(noisy, include=("noisy",)))
    scatter = 100 * np.sqrt(np.mean(found.log_residual**2))
    (refusal,) = calibration.refusals
    assert (refusal.gpu, refusal.world_size) == ("MI355X", 8)
    assert "1stage at 4 tokens is 6.98 us" in refusal.reason
    assert set(found.problem.observations.table.op.tolist()) == {"fused_ar_rmsnorm"}
    said = f"rows scatter by {scatter:.0f} % around any smooth latency (limit 12 %): "
    assert said in refusal.reason
    assert "aiter-3458-mi355x.csv:" in refusal.reason


def test_clean_published_rows_are_not_refused(fitted):
    assert fitted[0].refusals == ()


def test_schema_of_the_record(fitted):
    found = json.loads(fitted[0].to_json())
    assert found["schema"] == "costmodel/calibration/2"
    coordinates = [*found["parameters"], *found["harness"], *found["contrast"]]
    assert len(found["mean"]) == len(coordinates)
    assert measurement.published_directory().is_dir()


def test_ranks_split_over_gpus_are_calibrated_and_predicted(tmp_path, row):
    """Rows made with a 1-stage whose port carries 4 pairs of 4 ranks at 40 GB/s."""
    tokens = [64, 256, 1024, 4096]
    made = [
        row | {
            "gpu": "MI300X", "interconnect": "nvlink/2", "tokens": t, "bytes": t * 8192,
            "latency_us": 8.0 + 4 * t * 8192 / 40e3,
        }
        for t in tokens
    ]  # fmt: skip
    calibrate(observe(Measurements.from_rows(made)))[0].save(tmp_path / "split.json")
    split = load(tmp_path / "split.json")
    assert split.fabric == "split_2"
    setting = Setting(split, "MI300X")
    modelled = setting.latency_us(setting.shapes(tokens, 4096, 4), "1stage")
    np.testing.assert_allclose(modelled, [m["latency_us"] for m in made], rtol=0.1)
    with pytest.raises(InputError, match="unknown fabric 'split_2'"):
        machine(split, "MI300X")


def test_half_widths_are_quantiles_at_the_level():
    from scipy.stats import norm, t

    assert pytest.approx(norm.ppf(1 - record.TAIL), rel=1e-12) == record.NORMAL_HALF_WIDTH
    assert t.ppf(1 - record.TAIL, record.NOISE_DOF) == pytest.approx(record.NOISE_HALF_WIDTH)


@pytest.fixture(scope="module")
def cutoffs_with_all(fitted):
    return _ends(fitted[0])


def _ends(calibration):
    """Return (lo, point, hi) per GPU and world size, as last calls on 1-stage."""
    ends = {}
    for gpu in ("MI355X", "MI300X"):
        setting = Setting(calibration, gpu)
        for n in (4, 8):
            best = weigh(setting, known_workload(setting), n)[1]
            ends[gpu, n] = best.lo.lo, best.cell.lo, best.hi.lo
    return ends


@pytest.mark.parametrize(
    "source",
    [
        "aiter-1290", "aiter-1880", "aiter-3458-mi355x", "aiter-5272-mi308", "aiter-801",
        "aiter-comm-doc", "vllm-19744", "vllm-39080", "vllm-54787", "vllm-fork-81",
    ],
)  # fmt: skip
def test_no_single_source_carries_a_cutoff(source, published, cutoffs_with_all):
    others = on_fabric(observe(published.select(published.source != source)), FULL_MESH)
    without = _ends(calibrate(others)[0])
    for where, (lo, point, hi) in cutoffs_with_all.items():
        assert abs(without[where][1] - point) <= 0.5 * (hi - lo), where


def test_every_source_is_left_out_once(fitted):
    observations = fitted[1].problem.observations
    mark = test_no_single_source_carries_a_cutoff.pytestmark[0]
    assert set(mark.args[1]) == set(observations.table.source.tolist())


def test_a_source_of_the_gpu_is_nearer_than_one_of_its_arch_however_little_that_adds():
    calibration = shipped("gfx950")
    least, most = sorted(calibration.harness, key=lambda k: calibration.values[f"harness[{k}]"])[
        :: len(calibration.harness) - 1
    ]
    one = calibration.sources[0]
    here = replace(one, key=most, gpus=("MI355X",), ops=("all_reduce",))
    kin = replace(one, key=least, gpus=("MI350X",), ops=("fused_ar_rmsnorm",))
    known = replace(
        calibration, sources=(kin, here), gpus=(("gfx950", "MI350X"), ("gfx950", "MI355X"))
    )
    assert known.nearest_source("MI355X", "fused_ar_rmsnorm") == most
    assert known.nearest_source("MI350X", "fused_ar_rmsnorm") == least
    assert replace(known, sources=(kin,)).nearest_source("MI355X", "fused_ar_rmsnorm") == least


def test_what_a_new_benchmark_adds_spreads_as_those_of_the_sources():
    """A Student-t deviation of the logarithm."""
    calibration = shipped("gfx950")
    drawn = calibration.draw(8000, 5)
    deviation = np.log(drawn["harness[]"] / drawn["harness_us"]).ravel()
    middle = stats.t.ppf(0.75, 8) * calibration.harness_log_sd
    assert np.median(np.abs(deviation)) == pytest.approx(middle, rel=0.1)
    assert np.median(deviation) == pytest.approx(0, abs=middle / 10)
