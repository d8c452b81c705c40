"""Where the model is left aside: which calls are measured in full, and what a whole run says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from command import costmodel
from samples import swap_arms

from costmodel.data import measurement
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.measured_cutoff import HELD_BACK
from costmodel.decide.pairs import pair
from costmodel.decide.recommendation import recommend
from costmodel.live.backends.base import LiveShape
from costmodel.live.backends.replay import STEP, truth
from costmodel.rules.catalogue import load
from costmodel.tuning import choice
from costmodel.tuning.conclusion import BY_PAIRS, CONFIRMED, CONTRADICTED, NOT_DECIDED, conclude
from costmodel.tuning.knowledge import Known
from costmodel.tuning.session import Session

RECORD = Path(__file__).parents[1] / "measurements" / "h200-loopback" / "revision-2"
HIDDEN = (2880, 7168)
STEPPED = "MI355X:17:stepped"


def tune(*args, replay=STEPPED):
    return costmodel("tune", *args, env={"COSTMODEL_REPLAY": replay})


SHORT = ("--backend", "replay", "--hidden", "2880,7168", "--rounds", 4, "--samples", 2, "--seed", 7)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """Return (what the tuning of a truth beyond the model printed, its directory)."""
    out = tmp_path_factory.mktemp("survey") / "pr"
    return tune("--tp", 4, "--for", "vllm", "--out", out, *SHORT), out


# Which calls


def test_any_first_calls_of_a_survey_are_spread_over_all_sizes(mi355x):
    decision = recommend(mi355x, Workload.of(list(HIDDEN)), world_sizes=(4,))
    known = Known(mi355x, decision, measured=True)
    seen = [LiveShape(64, 7168, "bf16")]
    points = choice.survey(known, 4, seen, 1000)
    shapes = [p.shape for p in points]
    assert len(set(shapes)) == len(shapes) == 2 * captured_batch_sizes().size - 1
    assert seen[0] not in shapes
    assert choice.survey(known, 4, seen, 10) == points[:10]
    ordered = sorted(shapes, key=lambda s: (s.hidden_dim, s.tokens))
    for first in (8, 16, 32):
        at = sorted(ordered.index(s) for s in shapes[:first])
        assert max(np.diff([0, *at, len(ordered)])) <= 2 * len(ordered) / first


# The whole command


def best_cutoffs(world_size):
    """Return (sizes, mean regret of each as a cutoff) of the stepped truth, in percent."""
    from costmodel.decide.setting import Setting

    setting = Setting.shipped("MI355X")
    load = Workload.of(list(HIDDEN))
    calls = setting.shapes(load.tokens, load.hidden_dim, world_size)
    one, two = (setting.latency_us(calls, a, truth(setting, 17))[0] for a in ("1stage", "2stage"))
    two = two * (1 + STEP * (-1) ** np.floor(np.log2(calls.bytes)))
    sizes = np.unique(calls.bytes)
    lost = [100 * (np.where(calls.bytes <= s, one, two) / np.minimum(one, two) - 1) for s in sizes]
    return sizes, np.array([each.mean() for each in lost])


def test_a_truth_beyond_the_model_gets_the_cutoff_of_its_pairs(stepped):
    done, out = stepped
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "tune.json").read_text())
    (ending,) = record["endings"]
    assert ending["verdict"] == BY_PAIRS
    sizes, lost = best_cutoffs(4)
    mine = lost[np.searchsorted(sizes, ending["max_bytes"], side="right") - 1]
    assert mine <= lost.min() + 0.2
    # The model's own cutoff, as the last step has it, loses more.
    model = ending["steps"][-1]["max_bytes"]
    assert lost[np.searchsorted(sizes, model, side="right") - 1] > mine + 0.5
    assert ending["surveyed"] == 2 * captured_batch_sizes().size - ending["shapes"] - 4
    assert "the model's rule loses" in ending["reason"]
    assert ending["max_bytes_lo"] <= ending["max_bytes"] <= ending["max_bytes_hi"]
    assert "3 + 95" in done.stdout
    assert "left aside" in done.stdout


def test_what_is_handed_over_rests_on_the_pairs_and_not_on_the_model(stepped):
    _, out = stepped
    assert not (out / "calibration.json").exists()
    assert not (out / "report").exists()
    rule = load(out / "rule.json")
    assert rule.source == "measured pairs of replayed-MI355X-17-stepped"
    assert json.loads((out / "tune.json").read_text())["calibration_sha256"] is None
    patch = (out / "rule.patch").read_text()
    assert "Replayed, not measured" in patch
    assert "(measured pairs of" in patch
    assert "nothing was measured" not in patch
    assert "without the model" in (out / "summary.md").read_text()


def test_the_figure_says_how_many_calls_were_measured_without_the_model(stepped):
    from costmodel.tuning.picture import courses

    (course,) = courses(Session.open(stepped[1]))
    assert course.end == "then 95 calls in full, without the model"
    assert len(course.judged) == len(choice.JUDGED_AT)


def test_finishing_again_says_the_same(stepped, tmp_path):
    _, out = stepped
    other = tmp_path / "pr"
    shutil.copytree(out, other)
    before = (other / "tune.json").read_text()
    assert tune("--out", other, "--finish").returncode == 0
    assert (other / "tune.json").read_text() == before


def cut(out, tmp_path, keep):
    """Return a copy in which only so many shapes were measured."""
    other = tmp_path / "pr"
    shutil.copytree(out, other)
    run = other / "tp4"
    kept = (run / "samples.jsonl").read_text().splitlines(keepends=True)[:keep]
    (run / "samples.jsonl").write_text("".join(kept))
    rows = (run / "measurements.csv").read_text().splitlines(keepends=True)
    count = 1 + sum(len(json.loads(line)["rows"]) for line in kept)
    (run / "measurements.csv").write_text("".join(rows[:count]))
    return other


def test_a_tuning_that_is_killed_in_its_survey_goes_on_to_the_same_end(stepped, tmp_path):
    _, out = stepped
    other = cut(out, tmp_path, 60)
    done = tune("--out", other, "--resume", *SHORT[4:])
    assert done.returncode == 0, done.stderr
    mine, whole = (json.loads((d / "tune.json").read_text())["endings"] for d in (other, out))
    assert mine == whole


def test_a_short_survey_decides_less(stepped, tmp_path):
    """Seventy calls are enough for a cutoff, with a wider interval; two are not."""
    _, out = stepped
    whole = json.loads((out / "tune.json").read_text())["endings"][0]
    first = whole["shapes"] + len(choice.JUDGED_AT)
    few = conclude(Session.open(cut(out, tmp_path / "few", first + 2)))
    assert few.endings[0].verdict == NOT_DECIDED
    assert "fewer than 12" in few.endings[0].reason
    assert few.accepted == ()
    some = conclude(Session.open(cut(out, tmp_path / "some", first + 70)))
    ending = some.endings[0]
    assert (ending.verdict, ending.surveyed) == (BY_PAIRS, 70)
    width = ending.cutoff.max_bytes_hi / ending.cutoff.max_bytes_lo
    assert width >= whole["max_bytes_hi"] / whole["max_bytes_lo"]


def test_held_back_calls_that_say_otherwise_contradict_the_pairs_too(stepped, tmp_path):
    _, out = stepped
    other = cut(out, tmp_path, 1000)
    ending = json.loads((out / "tune.json").read_text())["endings"][0]
    first = ending["shapes"] + len(choice.JUDGED_AT)
    held_back = range(first, first + ending["surveyed"], HELD_BACK)
    swap_arms(other / "tp4" / "samples.jsonl", held_back)
    found = conclude(Session.open(other)).endings[0]
    assert found.verdict == CONTRADICTED
    assert found.judged.lost_pct > found.judged.least_pct + 1


@pytest.mark.parametrize("replay", ["MI355X:17:bent", "MI355X:17:stepped:"])
def test_a_truth_that_nobody_stated_is_one_line(replay, tmp_path):
    done = tune("--tp", 8, "--out", tmp_path / "pr", *SHORT, replay=replay)
    assert done.returncode == 2
    assert "MI355X:17:stepped" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "pr").exists()


def test_where_the_judging_shapes_alone_erred_the_model_stays(tmp_path):
    """The steps cost the model's rule much on them, and little more than any cutoff on all."""
    out = tmp_path / "pr"
    done = tune("--tp", 8, "--shapes", 6, "--for", "vllm", "--out", out, *SHORT,
                replay="MI355X:10:stepped")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (ending,) = json.loads((out / "tune.json").read_text())["endings"]
    assert ending["verdict"] == CONFIRMED
    assert ending["surveyed"] == 4 * 6
    assert ending["judged"] == ending["surveyed"] + len(choice.JUDGED_AT)
    assert "no cutoff of their own loses less beyond noise" in ending["reason"]
    assert (out / "calibration.json").exists()


# On one H200


@pytest.mark.parametrize("run", ["tune", "tune-again"])
def test_on_one_gpu_the_rule_is_that_of_every_captured_batch(run):
    """Ranks share the GPU; two starts, beside all 612 latencies of the workload."""
    every = pair(measurement.read(RECORD / "exhaustive.csv"), "fused_ar_rmsnorm")
    record = json.loads((RECORD / run / "tune.json").read_text())
    assert record["decided"]
    batches = captured_batch_sizes()
    for ending in record["endings"]:
        here = every.select(every.world_size == ending["world_size"])
        assert len(here) == 2 * batches.size

        def lost(most, here=here):
            return float((here.chosen_us(here.bytes <= most) / here.fastest_us - 1).mean())

        best = min({0, *here.bytes.tolist()}, key=lost)
        for hidden in HIDDEN:
            mine, theirs = (
                int(np.searchsorted(batches, most // (2 * hidden), side="right"))
                for most in (ending["max_bytes"], best)
            )
            assert abs(mine - theirs) <= 1
        assert lost(ending["max_bytes"]) - lost(best) < 0.0015
