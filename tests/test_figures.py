"""Figures: they show the model's own numbers, say what they rest on, and hold hostile text."""

from __future__ import annotations

import html
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel import figures
from costmodel.calibration import posterior as calibrations
from costmodel.calibration.cross_validation import CrossValidation, ErrorSummary
from costmodel.data import facts, llms
from costmodel.data import kernels as kernel
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.explanation import explain
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Arms
from costmodel.decide.sensitivity import against_factor, flips
from costmodel.decide.setting import Setting
from costmodel.decide.validation import validate
from costmodel.decide.worth import worth
from costmodel.figures import cutoff_drift as drift
from costmodel.figures import static, template
from costmodel.figures import token_hidden_map as maps
from costmodel.figures.regret import field
from costmodel.model.shape import ALGORITHMS
from costmodel.planning import Budget, plan
from costmodel.rules import catalogue
from costmodel.show.words import arm


@pytest.fixture(scope="module")
def gfx950():
    return calibrations.shipped("gfx950")


@pytest.fixture(scope="module")
def gfx942():
    return calibrations.shipped("gfx942")


@pytest.fixture(scope="module")
def mi355x(gfx950):
    return Setting(gfx950, "MI355X")


@pytest.fixture(scope="module")
def mi300x(gfx942):
    return Setting(gfx942, "MI300X")


@pytest.fixture(scope="module")
def decision(mi355x):
    return recommend(mi355x, world_sizes=(4, 8))


@pytest.fixture(scope="module")
def older(mi300x):
    """Return the decision for MI300X at 8 ranks, on the workload of one hidden size."""
    return recommend(mi300x, Workload.of([2880]), world_sizes=(8,))


@pytest.fixture(scope="module")
def judged(mi355x, published):
    return validate(published, mi355x, every_gpu=False, op="fused_ar_rmsnorm")


@pytest.fixture(scope="module")
def change(mi355x, decision):
    old = catalogue.current("sglang")
    return [worth(mi355x, llms.find("gpt-oss-120b"), n, old, decision.rule) for n in (4, 8)]


def said_under(figure):
    """Return the subtitle of a figure as one line."""
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def one_call(setting, tokens=32, hidden=7168, n=4):
    return explain(setting, setting.shapes(tokens, hidden, n))


def validation():
    one, other = ErrorSummary(20, 2.0, 6.0, 9.0), ErrorSummary(18, 3.0, 8.0, 12.0)
    return CrossValidation(
        in_sample={},
        family_in_sample=one,
        leave_one_out={"model": one, "hockney": other},
        coverage90=0.88,
        leave_source_out={},
        leave_source_out_pooled={"model": one, "hockney": other},
        leave_source_out_skipped=0,
        hidden=None,
        same_rows={
            "hockney": (ErrorSummary(18, 1.5, 5.0, 7.0), other),
            "source:hockney": (one, other),
        },
    )


def every(gfx950, mi355x, decision, judged, change):
    """Return (name, figure, unit that an axis carries) for every figure function."""
    along = recommend(mi355x, Workload.of([4096]))
    return [
        ("latency", figures.latency_against_bytes(decision, 4, 7168), "us"),
        ("map", figures.decision_map(decision), "tokens"),
        ("regret", figures.regret_over_workload(decision), "%"),
        ("pairs", figures.regret_on_pairs(judged), "%"),
        ("difference", figures.difference_from_best(decision, 2880), "tokens"),
        ("terms", figures.terms_along_bytes(decision, 4, 7168), "us"),
        ("call", figures.terms_of_call(one_call(mi355x)), "us"),
        ("residuals", figures.residuals(gfx950), "%"),
        ("parameters", figures.parameter_intervals(gfx950), "standard deviations"),
        ("left out", figures.left_out_errors(gfx950, validation()), "%"),
        ("rate", figures.cutoff_against_link_rate(along), "GB/s"),
        ("skew", figures.cutoff_against_skew(along), "us"),
        ("version", figures.cutoff_against_version(along), "KiB"),
        ("worth", figures.worth_by_batch(change), "us"),
        ("plan", figures.cutoffs_after_plan(plan(mi355x, Budget(2), world_sizes=(4, 8))), "bytes"),
    ]  # fmt: skip


def test_every_figure_names_its_calibration_and_units(gfx950, mi355x, decision, judged, change):
    made = every(gfx950, mi355x, decision, judged, change)
    # Those of a plan's benchmark and of a tuning's record are in test_figures_of_measuring.py.
    apart = {"write_images", "regret_against_measurements", "tuning_course"}
    functions = [name for name in figures.__all__ if name not in apart]
    assert len(made) == len(functions)
    for name, figure, unit in made:
        record = json.loads(figure.to_json())
        assert record["data"], name
        layout = record["layout"]
        assert gfx950.id in layout["title"]["subtitle"]["text"], name
        axes = [a["title"]["text"] for k, a in layout.items() if "axis" in k and "title" in a]
        assert any(unit in text for text in axes), (name, axes)
        assert layout["template"]["layout"]["font"]["family"] == template.FONT, name


def test_figures_along_a_world_size_state_its_evidence(mi300x, decision):
    measured = said_under(figures.latency_against_bytes(decision, 4, 7168))
    one, _ = decision.at(4).evidence
    assert "aiter-3458-mi355x" in one.sources
    rows = f"{one.count} rows: {', '.join(one.sources)}"
    assert f"1-stage measured elsewhere ({rows})" in measured
    other = figures.terms_of_call(one_call(mi300x, 32, 2880, 8))
    assert "2-stage transferred (never measured here)" in said_under(other)


def test_latency_shows_the_model(mi355x, decision):
    by_name = {t.name: t for t in figures.latency_against_bytes(decision, 4, 7168).data}
    for algorithm in ALGORITHMS:
        line = by_name[f"{arm(algorithm)}, model and 90 % band"]
        tokens = line.customdata[:, 2].astype(int)
        modelled = predict(mi355x, mi355x.shapes(tokens, 7168, 4), algorithm)
        assert line.y == pytest.approx(modelled.latency_us)
        # The band is narrower than a prediction's interval, which holds every harness.
        low, high = line.customdata[:, 0], line.customdata[:, 1]
        assert np.all(high - low < modelled.hi_us - modelled.lo_us)
        # Thick where the prediction is not carried from elsewhere.
        thick = by_name[f"{arm(algorithm)}, thick where measured here"]
        here = modelled.evidence != "transferred"
        assert 0 < here.sum() < here.size
        assert thick.x.tolist() == line.x[here].tolist()
        assert thick.line.width > line.line.width


def test_measured_points_stand_as_published_and_curves_move(gfx950, mi355x, decision, published):
    figure = figures.latency_against_bytes(decision, 4, 7168)
    for source in ("aiter-3458-mi355x", "vllm-54787"):
        points = [t for t in figure.data if t.mode == "markers" and t.name.startswith(source + " ")]
        rows = published.select(
            (published.source == source) & (published.world_size == 4)
            & (published.quality == "clean") & (published.op == "fused_ar_rmsnorm")
            & np.isin(published.algorithm, ALGORITHMS) & (published.bytes < 512 * 7168 * 2)
        )  # fmt: skip
        assert sorted(y for t in points for y in t.y) == sorted(rows.latency_us.tolist())
        assert all(not str(s).endswith("-open") for t in points for s in t.marker.symbol)
        shift = gfx950.values[f"harness[{source}/aiter]"] - mi355x.point["harness[]"]
        said = [t.name for t in figure.data if (t.name or "").startswith(f"{source}: as published")]
        assert said == [f"{source}: as published, its curves {shift:+.1f} us"]
        for algorithm in ALGORITHMS:
            (curve,) = (t for t in figure.data if t.name == f"{arm(algorithm)}, model for {source}")
            calls = mi355x.shapes(np.array(curve.x) // (7168 * 2), 7168, 4)
            assert curve.y == pytest.approx(mi355x.latency_us(calls, algorithm) + shift)
    other = figures.latency_against_bytes(decision, 4, 2880)
    moved = [
        t for t in other.data if t.mode == "markers" and t.name.startswith("aiter-3458-mi355x ")
    ]
    assert moved
    assert all(str(s).endswith("-open") for t in moved for s in t.marker.symbol)


def test_measured_percentages_are_those_of_the_published_pair(decision, published):
    figure = figures.latency_against_bytes(decision, 4, 7168)
    dots = [t for t in figure.data if (t.name or "").startswith("measured pairs of")]
    assert sum(len(t.x) for t in dots) == 10
    for t in dots:
        source = t.name.removeprefix("measured pairs of ")
        for size, percent, (one, two) in zip(t.x, t.y, t.customdata, strict=True):
            mine = (published.source == source) & (published.bytes == size)
            mine &= (published.world_size == 4) & (published.op == "fused_ar_rmsnorm")
            assert one in published.latency_us[mine & (published.algorithm == "1stage")]
            assert two in published.latency_us[mine & (published.algorithm == "2stage")]
            assert percent == pytest.approx(100 * (two / one - 1))


def test_latency_marks_the_recommended_cutoff_and_those_in_force(decision):
    figure = figures.latency_against_bytes(decision, 4, 7168)
    cutoff = decision.at(4)
    lines = {round(s.x0) for s in figure.layout.shapes if s.x0 == s.x1}
    assert cutoff.max_bytes in lines
    assert {128 * 1024, 256 * 1024, 448 * 1024} <= lines
    (band, *_) = [s for s in figure.layout.shapes if s.x0 != s.x1 and s.type == "rect"]
    assert (band.x0, band.x1) == (cutoff.max_bytes_lo, cutoff.max_bytes_hi)
    # Every rule has a lane, whose name stands beside the plot and not on it.
    lanes = list(figure.layout.yaxis.ticktext)
    size = f"{cutoff.max_bytes // 1024} KiB"
    assert lanes == [
        f"<b>recommended {size}</b>", "sglang 128 KiB", "vllm 256 KiB", "aiter 448 KiB",
    ]  # fmt: skip
    marks = {
        t.name: t.x[0] for t in figure.data if t.yaxis == "y" and t.mode == "markers" and t.x[0]
    }
    assert marks[f"recommended {size}"] == cutoff.max_bytes
    assert marks["vllm 256 KiB"] == 256 * 1024
    bars = {
        t.name.partition(":")[0]: tuple(t.x)
        for t in figure.data
        if t.yaxis == "y" and t.mode == "lines"
    }
    assert bars["90 %, your machine"] == (cutoff.max_bytes_lo, cutoff.max_bytes_hi)
    assert bars["90 %, this kernel"] == (cutoff.this_kernel_lo, cutoff.this_kernel_hi)
    always = figures.latency_against_bytes(recommend(decision.setting, world_sizes=(2,)), 2, 2880)
    assert always.layout.yaxis.ticktext[0] == "<b>recommended always</b>"


def test_a_source_set_aside_is_not_called_never_measured(decision):
    said = said_under(figures.latency_against_bytes(decision, 8, 7168))
    assert "rows of aiter-3458-mi355x set aside: quality is noisy" in said
    assert "never measured" not in said


@given(hidden=st.integers(64, 1024), n=st.sampled_from([2, 4, 8]))
@settings(max_examples=25, deadline=None)
def test_boundaries_on_the_map_are_the_rules(decision, hidden, n):
    hidden *= 8
    for rule in field(decision):
        if n not in rule.world_sizes:
            continue
        drawn = maps.boundary(rule, n, np.array([hidden]), "bf16", kernel.LATEST, 512)[0]
        limit = rule.max_tokens(hidden, n, kernel_version=kernel.LATEST)
        if limit is None or limit >= 1024:
            assert drawn == np.inf or drawn >= 1023
        elif limit == 0:
            assert drawn == 0
        else:
            assert limit <= drawn < limit + 1


def test_map_colours_by_the_faster_arm(mi355x):
    figure = figures.decision_map(recommend(mi355x, world_sizes=(4,)))
    (heat,) = [t for t in figure.data if t.type == "heatmap"]
    z = np.array(heat.z)
    for row in (10, 40, 50):
        hidden = int(heat.y[row])
        calls = mi355x.shapes(np.array(heat.x), hidden, 4)
        one, two = (mi355x.latency_us(calls, a) for a in ALGORITHMS)
        margin = two - one
        choice = mi355x.takes_both(calls)  # elsewhere there is nothing to colour
        assert np.isfinite(z[row]).tolist() == choice.tolist()
        assert (z[row] > 0).tolist() == ((margin > 0) & choice).tolist()
        faster = (margin > 0) & choice
        assert z[row][faster] == pytest.approx(100 * (margin / one)[faster], abs=0.06)
    axis = figure.layout.xaxis
    assert list(axis.tickvals) == captured_batch_sizes().tolist()


def test_the_map_has_no_holes(mi355x):
    figure = figures.decision_map(recommend(mi355x))
    for heat in (t for t in figure.data if t.type == "heatmap"):
        z = np.array(heat.z)
        assert z.shape[0] >= 50
        assert np.isfinite(z).all()


def test_regret_figures_show_the_scores(mi355x, judged):
    figure = figures.regret_over_workload(recommend(mi355x, world_sizes=(8,)))
    names = [t.replace("<b>", "").replace("</b>", "") for t in figure.layout.yaxis.ticktext]
    mean, worst = figure.data
    taken = [h for h in llms.hidden_dims() if h <= 8192]
    model = Arms.of(mi355x, Workload.of(taken), 8)
    for name in ("sglang-128k", "aiter-per-rank", "always-2stage"):
        rule = catalogue.named(name)
        scored = model.score(rule, rule).regret_pct
        at = names.index(name)
        shown = mean.customdata[at]
        assert shown == pytest.approx([scored.value, scored.lo, scored.hi])
        assert worst.customdata[at][0] >= shown[0]
    # Calls weigh as the workload says.
    load = Workload.of([2880], [8, 256], [9.0, 1.0])
    weighed = figures.regret_over_workload(recommend(mi355x, load, world_sizes=(8,)))
    labels = list(weighed.layout.yaxis.ticktext)
    model = Arms.of(mi355x, load, 8)
    never = model.score(catalogue.ALWAYS_2STAGE, catalogue.ALWAYS_2STAGE).regret_pct
    shown = weighed.data[0].customdata[labels.index("always-2stage")][0]
    assert shown == pytest.approx(never.value)
    # The worst rule stands at the bottom.
    assert list(mean.customdata[:, 0]) == sorted(mean.customdata[:, 0], reverse=True)
    pairs = figures.regret_on_pairs(judged)
    shown = dict(
        zip(
            [t.removeprefix("<b>").removesuffix("</b>") for t in pairs.layout.yaxis.ticktext],
            pairs.data[0].customdata[:, 0], strict=True,
        )
    )  # fmt: skip
    assert shown == {r.rule: pytest.approx(r.mean_pct) for r in judged.regret}
    assert "fitted on these rows" in said_under(pairs)


def test_difference_is_zero_where_a_rule_runs_the_faster_arm(mi355x):
    figure = figures.difference_from_best(recommend(mi355x, world_sizes=(4,)), 2880)
    (heat,) = figure.data
    z, names = np.array(heat.z), list(heat.y)
    assert [int(t) for t in heat.x] == captured_batch_sizes().tolist()
    calls = mi355x.shapes(captured_batch_sizes(), 2880, 4)
    one, two = (mi355x.latency_us(calls, a, mi355x.draws) for a in ALGORITHMS)
    wins = one < two
    sure = wins.all(0)
    assert sure.sum() > 5
    assert (z[names.index("always-1stage")][sure] == 0).all()
    assert (z[names.index("always-2stage")][sure] > 10).any()
    assert (z >= 0).all()


def test_stacked_terms_add_up_to_the_latency(mi355x, decision):
    figure = figures.terms_along_bytes(decision, 4, 7168)
    for algorithm in ALGORITHMS:
        stack = [t for t in figure.data if t.stackgroup == algorithm]
        tokens = np.array(stack[0].customdata)
        total = np.sum([t.y for t in stack], axis=0)
        # Terms below 0.005 us are left out.
        latency = mi355x.latency_us(mi355x.shapes(tokens, 7168, 4), algorithm)
        assert total == pytest.approx(latency, abs=0.03)


def test_waterfall_leads_from_one_arm_to_the_other(mi300x):
    figure = figures.terms_of_call(one_call(mi300x, 32, 2880, 8))
    (bars,) = figure.data
    call = mi300x.shapes(32, 2880, 8)
    one, two = (float(mi300x.latency_us(call, a)) for a in ALGORITHMS)
    assert bars.y[0] == pytest.approx(one, abs=1e-3)
    assert bars.y[-1] == pytest.approx(two, abs=1e-3)
    assert sum(bars.y[:-1]) == pytest.approx(two, abs=0.03)
    assert list(bars.measure) == ["absolute", *["relative"] * (len(bars.y) - 2), "total"]


def test_residuals_hold_every_row_that_the_calibration_covers(gfx950, mi355x, published):
    judged = validate(published, mi355x, need_pairs=False)
    figure = figures.residuals(gfx950)
    dots = [t for t in figure.data if t.type == "scatter"]
    boxes = [t for t in figure.data if t.type == "box"]
    assert sum(len(t.x) for t in dots) == judged.accuracy.n == sum(len(t.x) for t in boxes)
    shown = np.concatenate([np.abs(t.y) for t in dots])
    assert np.median(shown) == pytest.approx(judged.accuracy.median_ape, abs=1e-3)
    for t in dots:
        measured, predicted = t.customdata[:, 0], t.customdata[:, 1]
        assert t.y == pytest.approx(100 * (predicted / measured - 1), abs=0.02)


def test_a_parameter_without_data_is_as_wide_as_its_prior(gfx950):
    figure = figures.parameter_intervals(gfx950)
    dots = figure.data[1]
    labels = [t.split("  ")[0] for t in figure.layout.yaxis.ticktext]
    unknown = labels.index("link_gbps[MI350X]")
    known = labels.index("read_floor_us")
    width = np.array(dots.error_x.array) + np.array(dots.error_x.arrayminus)
    assert width[unknown] == pytest.approx(2 * 1.645, rel=0.01)
    assert width[known] < 2.0
    assert dots.x[unknown] == pytest.approx(0.0, abs=0.01)


def test_left_out_errors_stand_beside_the_model_on_the_same_rows(gfx950):
    figure = figures.left_out_errors(gfx950, validation())
    model = next(t for t in figure.data if t.name == "model, same rows")
    baseline = next(t for t in figure.data if t.name == "baseline")
    assert list(model.y) == [1.5, 2.0]
    assert list(baseline.y) == [3.0]
    assert next(iter(model.x)).startswith("hockney")
    assert "88 %" in figure.layout.title.subtitle.text


def test_link_rate_moves_the_cutoff_and_skew_does_not(gfx942, older):
    now = older.at(8)
    rate = next(
        t for t in figures.cutoff_against_link_rate(older).data if t.mode == "lines" and t.text
    )
    # Slower links hold 2-stage, which moves less, in front: the cutoff only rises with the rate.
    assert (np.diff(rate.y) >= 0).all()
    assert rate.y[-1] > 2 * rate.y[0]
    x = gfx942.values["link_gbps[MI300X]"]
    sweep = against_factor(older.setting, 8, "link_gbps[MI300X]", np.ones(1), older.workload)
    assert now.arms.best().cell.lo <= sweep.cutoff_bytes[0] <= now.arms.best().cell.hi
    assert (sweep.lo[0], sweep.hi[0]) == (now.max_bytes_lo, now.max_bytes_hi)
    assert rate.x[0] < x < rate.x[-1]
    skew = next(t for t in figures.cutoff_against_skew(older).data if t.text)
    # Both arms wait alike, so microseconds do not change; their shares of a slower call do.
    still = now.arms.best().cell
    assert still.lo / 1024 <= skew.y[0] <= still.hi / 1024
    assert (np.abs(skew.y - skew.y[0]) <= 2 * 8 * 5760 / 1024).all()


def test_kernel_version_moves_the_cutoff_where_a_barrier_came(mi300x):
    decision = recommend(mi300x, Workload.of([4096]), world_sizes=(8,))
    figure = figures.cutoff_against_version(decision)
    (curve,) = (t for t in figure.data if t.text)
    by_version = dict(zip(curve.text, curve.y, strict=True))
    assert list(by_version) == drift.releases()
    # release_acquire came with 0.1.14: 2-stage pays more, so 1-stage lasts longer. Its own exit
    # barrier takes some of that back.
    assert by_version["0.1.14"] > by_version["0.1.12"] + 5
    # The limit of 80 tokens went with 0.1.17: other calls are weighed, by the same kernels.
    assert abs(by_version["0.1.17"] - by_version["0.1.14"]) <= 8
    assert by_version["0.1.19.post1"] < by_version["0.1.17"] - 5
    partial = figures.cutoff_against_version(recommend(mi300x, Workload.of([2880])))
    said = said_under(partial)
    assert "0.1.10.post2 does not take every hidden size" in said
    assert "0.1.10.post2" not in next(t for t in partial.data if t.text).text
    assert "0.1.14: the wait inside 2-stage flushes memory" in said
    assert set(drift.CHANGED) == {row["feature"] for row in facts.rows("aiter_kernels.csv")}


def test_worth_bars_stand_where_the_rules_differ(change, decision):
    figure = figures.worth_by_batch(change)
    bars = [t for t in figure.data if t.type == "bar"]
    for w, shown in zip(change, bars, strict=True):
        changed = [b for b in w.batches if b.old != b.new]
        assert changed
        assert list(shown.x) == [str(b.batch) for b in changed]
        assert shown.y == pytest.approx([b.saved_us.value for b in changed], abs=1e-3)
        assert shown.name == "1-stage instead of 2-stage"
        ends = [
            (b.saved_us.lo, b.saved_us.hi, b.this_kernel_us.lo, b.this_kernel_us.hi)
            for b in changed
        ]
        assert shown.customdata == pytest.approx(np.array(ends), abs=0.01)
        assert any(abs(b.saved_us.hi - b.this_kernel_us.hi) > 0.1 for b in changed)


def test_worth_has_no_empty_panel(mi355x, decision, change):
    model = llms.find("gpt-oss-120b")
    same = worth(mi355x, model, 4, decision.rule, decision.rule)
    figure = figures.worth_by_batch([same, change[1]])
    assert "No batch changes at TP4" in said_under(figure)
    assert [a.text.split(" ")[0] for a in figure.layout.annotations] == ["TP8"]
    assert [k for k in figure.to_dict()["layout"] if k.startswith("yaxis")] == ["yaxis"]
    with pytest.raises(static.InputError, match="decide alike"):
        figures.worth_by_batch([same])


def test_what_moves_the_cutoff_has_both_intervals(decision):
    one = np.ones(1)
    name = "link_gbps[MI355X]"
    sweep = against_factor(decision.setting, 4, name, one, decision.workload)
    c = decision.at(4)
    assert (sweep.lo[0], sweep.hi[0]) == (c.max_bytes_lo, c.max_bytes_hi)
    assert (sweep.this_kernel_lo[0], sweep.this_kernel_hi[0]) == (
        c.this_kernel_lo,
        c.this_kernel_hi,
    )
    figure = figures.cutoff_against_skew(decision, world_sizes=(4,))
    wide, narrow, curve = figure.data
    assert wide.fill == narrow.fill == "toself"
    lo, hi, kernel_lo, kernel_hi = curve.customdata[0] * 1024
    assert (lo, hi, kernel_lo, kernel_hi) == pytest.approx(
        (c.max_bytes_lo, c.max_bytes_hi, c.this_kernel_lo, c.this_kernel_hi)
    )


def test_subtitles_and_titles_fit_a_narrow_page(gfx950, mi355x, decision, judged, change):
    for name, figure, _ in every(gfx950, mi355x, decision, judged, change):
        title = figure.layout.title
        for text, size in ((title.subtitle.text, 12), (title.text, 17)):
            lines = text.split("<br>")
            assert max(template.width_px(line, size) for line in lines) <= template.LINE_PX, name


@given(st.lists(st.text("ab W@<&m", min_size=1, max_size=300), max_size=4))
def test_names_of_any_length_are_broken_into_lines_and_lose_nothing(names):
    escaped = [template.plain(name) for name in names]
    lines = template.wrapped(" ".join(escaped))
    assert all(template.width_px(line, 12) <= template.LINE_PX for line in lines)
    shown = html.unescape("".join(lines)).replace(" ", "")
    assert shown == "".join(names).replace(" ", "")


def test_a_parameter_flips_where_the_margin_vanishes(gfx942, mi300x):
    call = mi300x.shapes([24], 2880, 8)
    found = flips(mi300x, call)
    assert {"second_kernel_us", "link_gbps[MI300X]"} <= {f.name for f in found}
    # 48 tokens would need more than the link's nominal 64 GB/s, which no transfer can reach.
    names = [f.name for f in flips(mi300x, mi300x.shapes([48], 2880, 8))]
    assert "second_kernel_us" in names
    assert "link_gbps[MI300X]" not in names
    for f in found:
        values = {**{k: np.full((1, 1), v) for k, v in mi300x.point.items()}}
        values[f.name] = np.full((1, 1), f.at)
        one, two = (float(mi300x.latency_us(call, a, values)[0, 0]) for a in ALGORITHMS)
        assert two - one == pytest.approx(0.0, abs=0.02), f
    inside = [f.name for f in found if f.inside]
    assert {"second_kernel_us", "release_acquire_us"} <= set(inside)


HOSTILE = '</script><img src=x onerror="alert(1)"><a href="javascript:alert(1)">%{x}</a>'


def test_text_of_users_is_never_markup(gfx950):

    shown = template.plain(HOSTILE)
    assert "<" not in shown
    assert "%{" not in shown
    assert html.unescape(shown) == HOSTILE
    coverage = tuple(replace(c, sources=(HOSTILE,)) for c in gfx950.coverage)
    hostile = recommend(Setting(replace(gfx950, coverage=coverage), "MI355X"), world_sizes=(4,))
    subtitle = figures.latency_against_bytes(hostile, 4, 2880).layout.title.subtitle.text
    assert "<img" not in subtitle
    assert "&lt;img" in subtitle


def _contrast(one, other):
    """Return the contrast ratio of two colours, as WCAG 2.1 defines it."""

    def luminance(colour):
        colour = colour.lstrip("#")
        colour = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
        channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    a, b = sorted((luminance(one), luminance(other)))
    return (b + 0.05) / (a + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_arms_are_readable_on_both_grounds(dark):
    layout = template.template(dark).layout
    paper = layout.paper_bgcolor
    assert _contrast(layout.font.color, paper) > 7
    assert _contrast(template.NEUTRAL, paper) > 3.9
    for name in ("1stage", "2stage"):
        assert _contrast(template.ARM_COLOUR[name], paper) > 3
    # What no call decides is the page's own ground, and lines on a map stand out from it.
    for kind, at in (("diverging", 2), ("sequential", 0)):
        colour = layout.colorscale[kind][at][1]
        assert _contrast(colour, paper) < 1.3
        assert _contrast(template.template(dark).data.scatter[0].line.color, colour) > 7


def test_a_missing_browser_is_one_line_that_helps(mi355x, tmp_path, monkeypatch):
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    with pytest.raises(static.NoBrowserError) as caught:
        static.write_images({tmp_path / "a.png": figures.terms_of_call(one_call(mi355x))})
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "nothing") in message
    assert "apt-get install chromium" in message
    assert not list(tmp_path.iterdir())


def test_other_kinds_of_file_are_refused(mi355x, tmp_path):
    with pytest.raises(static.InputError, match=r"cannot draw to '\.pdf'"):
        static.write_images({tmp_path / "a.pdf": figures.terms_of_call(one_call(mi355x))})


@pytest.mark.skipif(static.browser() is None, reason="no Chrome or Chromium here")
def test_static_files_are_drawn_at_the_width_of_a_pull_request(mi355x, tmp_path):
    pytest.importorskip("kaleido")
    png, svg = tmp_path / "a.png", tmp_path / "b.svg"
    figure = figures.terms_of_call(one_call(mi355x))
    static.write_images({png: figure, svg: figure})
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (1800, 2 * figure.layout.height)
    text = svg.read_text()
    assert 'width="900"' in text
    assert ">second</tspan>" in text
    assert figure.layout.width is None


def test_plotly_is_imported_only_when_a_figure_is_made():
    code = (
        "import importlib, pkgutil, sys;"
        "import costmodel.figures, costmodel.report, costmodel.decide.explanation, costmodel.show.notebook;"
        "modules = [p.__name__ + '.' + m.name for p in (costmodel.figures, costmodel.report)"
        "           for m in pkgutil.iter_modules(p.__path__)];"
        "assert len(modules) > 10, modules;"
        "[importlib.import_module(m) for m in modules];"
        "print([m for m in ('plotly', 'scipy', 'kaleido', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_of_the_readme_are_there_and_fit_a_page():
    root = Path(__file__).resolve().parent.parent
    drawn = {p.name: p.read_bytes() for p in (root / "docs" / "images").glob("*.png")}
    assert {"latency.png", "decision-map.png", "regret.png", "call.png", "worth.png"} <= set(drawn)
    for name, data in drawn.items():
        assert data[:8] == b"\x89PNG\r\n\x1a\n", name
        assert struct.unpack(">I", data[16:20])[0] == 1350, name
    linked = re.findall(r"docs/images/([\w-]+\.png)", (root / "README.md").read_text())
    assert set(linked) <= set(drawn)
