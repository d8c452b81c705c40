"""Figures of what was or will be measured: a plan, its worth, and a tuning from its record."""

from __future__ import annotations

import json

import pytest
from command import costmodel

from costmodel import figures
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.planning import Budget, plan
from costmodel.report.pictures import NAMES, check_name
from costmodel.tuning.picture import courses, picture
from costmodel.tuning.session import Session


def said_under(figure):
    """Return the subtitle of a figure as one line."""
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def named(figure, name):
    return [t for t in figure.data if t.name == name]


def test_the_figure_of_a_plan_has_both_intervals_and_its_shapes():
    setting = Setting.shipped("MI355X")
    planned = plan(setting, Budget(4))
    figure = figures.cutoffs_after_plan(planned)
    decision = recommend(setting)
    drawn = [decision.at(n) for n in (4, 8)]  # at 2 ranks nothing is open
    assert [tuple(t.x) for t in named(figure, "90 %, your machine")] == [
        (c.max_bytes_lo, c.max_bytes_hi) for c in drawn
    ]
    assert [tuple(t.x) for t in named(figure, "90 %, this kernel")] == [
        (c.this_kernel_lo, c.this_kernel_hi) for c in drawn
    ]
    assert any(c.this_kernel_lo != c.max_bytes_lo for c in drawn)
    after = [p.after for p in planned.prospects if not p.always]
    assert [tuple(t.x) for t in named(figure, "90 %, your machine, expected")] == [
        (i.lo, i.hi) for i in after
    ]
    for lane, n in zip(named(figure, "shape"), (4, 8), strict=True):
        sizes = {e.bytes for e in planned.entries if e.world_size == n}
        assert set(lane.x) == sizes
    assert "No cutoff to narrow at TP2" in said_under(figure)
    with pytest.raises(InputError, match="no cutoff of MI355X is open at TP2"):
        figures.cutoffs_after_plan(plan(setting, Budget(1), world_sizes=(2,)))


def test_what_planning_is_worth_draws_what_can_be_avoided():
    record = {
        "title": "MI300X, TP 4, 8", "before_pct": 0.09, "perfect_pct": 0.01,
        "series": [
            {"name": "uniform", "n": [8, 4], "regret_pct": [0.03, 0.05], "error_pct": [0.01, 0.01]},
            {"name": "<b>new", "n": [2], "regret_pct": [0.02], "error_pct": [0.0]},
        ],
    }  # fmt: skip
    figure = figures.regret_against_measurements(record)
    grid, new = figure.data
    assert list(grid.x) == [4, 8]
    assert grid.y == pytest.approx([0.04, 0.02])
    assert new.name == "&lt;b&gt;new"
    (line,) = figure.layout.shapes
    assert line.y0 == pytest.approx(0.08)
    assert "0.010 % is unavoidable" in said_under(figure)


def run(*args):
    return costmodel(*args, env={"COSTMODEL_REPLAY": "MI355X:17"})


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Return the directory of a replayed tuning."""
    out = tmp_path_factory.mktemp("tune") / "pr"
    done = run("tune", "--backend", "replay", "--tp", "8", "--out", out, "--rounds", 4,
               "--samples", 2, "--seed", 7)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_a_tuning_is_drawn_from_its_record(tuned):
    lines = (tuned / "tp8" / "tuning.jsonl").read_text().splitlines()
    journal = [json.loads(line) for line in lines]
    steps = [s for s in journal if s["kind"] == "step"]
    (stop,) = [s for s in journal if s["kind"] == "stop"]
    figure = picture(Session.open(tuned))
    (cutoff,) = named(figure, "cutoff")
    assert list(cutoff.x) == [s["shapes"] for s in steps]
    assert list(cutoff.y) == [s["max_bytes"] for s in steps]
    assert [tuple(row) for row in cutoff.customdata] == [
        (s["max_bytes_lo"], s["max_bytes_hi"]) for s in steps
    ]
    # The interval closes and the regret falls: that is what the picture is for.
    low, high = cutoff.customdata[0]
    assert cutoff.customdata[-1][1] / cutoff.customdata[-1][0] < high / low
    (regret,) = [t for t in figure.data if "regret" in (t.hovertemplate or "")]
    assert list(regret.y) == pytest.approx([s["contested_pct"] for s in steps])
    # Shapes stand in their order, those to judge the rule open.
    marks = sorted((t for t in figure.data if "faster" in (t.name or "")), key=lambda t: t.x[0])
    measured = [s["next"] for s in steps[: stop["shapes"]]] + stop["judging"]
    assert [t.x[0] for t in marks] == list(range(1, len(measured) + 1))
    assert [t.y[0] for t in marks] == [2 * p["tokens"] * p["hidden_dim"] for p in measured]
    assert [str(t.marker.symbol).endswith("-open") for t in marks] == [
        i >= stop["shapes"] for i in range(len(measured))
    ]
    (course,) = courses(Session.open(tuned))
    rows = json.loads((tuned / "tp8" / "samples.jsonl").read_text().splitlines()[0])["rows"]
    us = {r["algorithm"]: r["latency_us"] for r in rows}
    assert course.learnt[0].faster == min(us, key=us.get)
    assert "Replayed from a stated model (replayed-MI355X-17), not measured" in said_under(figure)
    (title,) = [a.text for a in figure.layout.annotations]
    assert title.startswith(f"TP8, {stop['shapes']} shapes learnt from: {stop['words']}")


def test_a_tuning_without_a_step_is_one_line(tuned, tmp_path):
    (tmp_path / "tuning.json").write_text((tuned / "tuning.json").read_text())
    with pytest.raises(InputError, match="no step yet"):
        picture(Session.open(tmp_path))


def test_plot_draws_the_record(tuned, tmp_path):
    out = tmp_path / "tune.json"
    done = run("plot", "tune", "--record", tuned, "--out", out)
    assert done.returncode == 0, done.stderr
    drawn = json.loads(out.read_text())
    assert drawn["layout"]["title"]["text"] == "How tuning closed in on the cutoff, MI355X"
    shown = json.loads(picture(Session.open(tuned)).to_json())
    assert drawn["data"] == shown["data"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nope"], "no figure 'nope'"),
        (["nope", "--arch", "gfx950"], "one of latency-tpN, worth, "),
        (["latncy-tp4"], "did you mean latency-tp4"),
        (["tune", "--out", "a.png"], "'tune' and --record DIR go together"),
        (["worth", "--record", "x", "--out", "a.png"], "'tune' and --record DIR go together"),
        (["tune", "--record", "/nonexistent", "--out", "a.json"], "there is no tuning.json"),
        (["worth", "--out", "a.json"], "give --for PROJECT (sglang, vllm, aiter, atom)"),
        ([], "figures: latency-tpN, worth, "),
    ],
)
def test_a_wrong_name_or_a_missing_option_of_plot_is_one_line(args, says):
    done = run("plot", *args)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert says in done.stderr


def test_every_name_of_a_figure_is_known_with_ranks_and_gpu():
    for name in NAMES:
        check_name(name.replace("-tpN", "-tp8"))
        check_name(f"mi300x-{name.replace('-tpN', '-tp2')}")
    for name in ("tune", "latency", "mi300x", "mi300x-tune", "worth-tp4"):
        with pytest.raises(InputError, match="no figure"):
            check_name(name)
