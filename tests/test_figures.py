"""Figures: they show the model's own numbers, say what they rest on, and hold hostile text."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel import figures
from costmodel.calibration.cross_validation import CrossValidation, ErrorSummary
from costmodel.data import kernels as kernel
from costmodel.data import llms
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.explanation import explain
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Arms
from costmodel.decide.setting import Setting
from costmodel.decide.validation import validate
from costmodel.decide.worth import worth
from costmodel.figures import static, template
from costmodel.figures import token_hidden_map as maps
from costmodel.figures.regret import field
from costmodel.model.shape import ALGORITHMS
from costmodel.planning import Budget, plan
from costmodel.rules import catalogue


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
