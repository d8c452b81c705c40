"""Latency and its terms: the model's own numbers, measured points as published, cutoffs as marks."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel import figures
from costmodel.decide.explanation import explain
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.model.shape import ALGORITHMS
from costmodel.show.words import arm


def said_under(figure):
    """Return the subtitle of a figure as one line."""
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def one_call(setting, tokens=32, hidden=7168, n=4):
    return explain(setting, setting.shapes(tokens, hidden, n))


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
