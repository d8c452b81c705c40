"""What moves a cutoff, drawn: link rate, skew, kernel version, single parameters."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel import figures
from costmodel.data import facts
from costmodel.data.workload import Workload
from costmodel.decide.recommendation import recommend
from costmodel.decide.sensitivity import against_factor, flips
from costmodel.figures import cutoff_drift as drift
from costmodel.model.shape import ALGORITHMS


@pytest.fixture(scope="module")
def older(mi300x):
    """Return the decision for MI300X at 8 ranks, on the workload of one hidden size."""
    return recommend(mi300x, Workload.of([2880]), world_sizes=(8,))


def said_under(figure):
    """Return the subtitle of a figure as one line."""
    return figure.layout.title.subtitle.text.replace("<br>", " ")


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
