"""Where the model is left aside: calls measured in full, and the cutoff that their pairs say."""

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
from costmodel.decide import measured_cutoff as read
from costmodel.decide.evidence import ALWAYS_ONE_STAGE, MEASURED, NOT_IDENTIFIED
from costmodel.decide.measured_cutoff import (
    HELD_BACK,
    arms_of,
    measured_cutoff,
    ratio_scatter,
    spared_pct,
)
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


def table(tokens, hidden_dim, one_us, two_us, world_size=4):
    """Return rows of both arms at some shapes."""
    rows = [
        {
            "source": "x", "date": "2026-11-01", "gpu": "MI355X", "gpu_evidence": "stated",
            "arch": "gfx950", "interconnect": "xgmi", "world_size": world_size,
            "op": "fused_ar_rmsnorm", "algorithm": arm, "kernel_family": "aiter",
            "kernel_version": "0.1.20.post1", "tokens": int(t), "hidden_dim": int(h), "dtype": "bf16",
            "bytes": int(2 * t * h), "latency_us": float(us), "statistic": "median", "rank_reduction": "max",
            "timing": "graph", "quality": "clean",
        }
        for arm, latencies in (("1stage", one_us), ("2stage", two_us))
        for t, h, us in np.broadcast(tokens, hidden_dim, latencies)
    ]  # fmt: skip
    return measurement.Measurements.from_rows(rows)


def pairs(tokens, hidden_dim, one_us, two_us):
    return pair(table(tokens, hidden_dim, one_us, two_us), "fused_ar_rmsnorm")


# The cutoff of pairs


def test_each_pair_stands_for_the_calls_that_are_nearest_to_it(mi355x):
    load = Workload.of([2880, 7168])
    found = pairs([8, 512, 64], [2880, 2880, 7168], [5.0, 50.0, 20.0], [9.0, 30.0, 15.0])
    arms = arms_of(mi355x, load, 4, found)
    assert arms.shapes.bytes.tolist() == sorted(found.bytes.tolist())
    calls = mi355x.shapes(load.tokens, load.hidden_dim, 4)
    share = dict.fromkeys(found.bytes.tolist(), 0.0)
    for t, h, w in zip(calls.tokens.tolist(), calls.hidden_dim.tolist(), load.weight, strict=True):
        apart = [
            abs(np.log(2 * t * h / b)) + abs(np.log(h / k))
            for b, k in zip(found.bytes.tolist(), found.hidden_dim.tolist(), strict=True)
        ]
        share[int(found.bytes[int(np.argmin(apart))])] += w
    assert arms.weight == pytest.approx([share[b] for b in sorted(share)])


def test_the_scatter_is_that_of_the_ratios_and_rare_steps_are_none():
    random = np.random.default_rng(5)
    tokens = captured_batch_sizes()
    smooth = 0.3 * np.log(tokens)
    noisy = np.exp(smooth + 0.02 * random.standard_normal(tokens.size))
    step = np.where(tokens > 200, 1.2, 1.0)
    hidden = [7168] * tokens.size
    flat = np.full(tokens.size, 10.0)
    assert ratio_scatter(pairs(tokens, hidden, 10 * noisy, flat)) == pytest.approx(0.02, rel=0.4)
    assert ratio_scatter(pairs(tokens, hidden, 10 * np.exp(smooth), flat)) < 1e-12
    assert ratio_scatter(pairs(tokens, hidden, 10 * step, flat)) < 1e-12
    assert ratio_scatter(pairs([8, 16], [7168] * 2, [1.0, 2.0], [2.0, 1.0])) == 0.0


@pytest.fixture(scope="module")
def modelled(mi355x):
    load = Workload.of([7168])
    return load, recommend(mi355x, load, world_sizes=(4,)).cutoffs[0]


def test_the_cutoff_is_where_the_pairs_cross_and_its_ends_hold_it(mi355x, modelled):
    load, cutoff = modelled
    tokens = captured_batch_sizes()
    one, two = 4 + 0.1 * tokens, 8 + 0.02 * tokens  # they meet at 50 tokens
    found = measured_cutoff(
        cutoff, mi355x, load, pairs(tokens, [7168] * tokens.size, one, two), "the model fails"
    )
    assert found.verdict == MEASURED
    assert 48 * 7168 * 2 <= found.max_bytes < 56 * 7168 * 2
    assert found.max_bytes_lo <= found.max_bytes <= found.max_bytes_hi
    assert found.reason.startswith(f"the model fails; read from {tokens.size} pairs")
    assert found.regret_pct < 0.1
    assert found.evidence == cutoff.evidence


def test_always_never_and_few_are_said(mi355x, modelled):
    load, cutoff = modelled
    tokens = captured_batch_sizes()
    hidden = [7168] * tokens.size
    fast, slow = 5 + 0.01 * tokens, 10 + 0.02 * tokens

    def verdict(one, two, n=tokens.size):
        some = pairs(tokens[:n], hidden[:n], one[:n], two[:n])
        return measured_cutoff(cutoff, mi355x, load, some, "why")

    always = verdict(fast, slow)
    assert (always.verdict, always.max_bytes, always.claimed) == (ALWAYS_ONE_STAGE, None, True)
    never = verdict(slow, fast)
    assert never.verdict == NOT_IDENTIFIED
    assert "1-stage is the faster arm on no call" in never.reason
    few = verdict(4 + 0.1 * tokens, 8 + 0.02 * tokens, read.FEWEST_PAIRS - 1)
    assert few.verdict == NOT_IDENTIFIED
    assert few.reason.endswith(f"fewer than {read.FEWEST_PAIRS}")


def test_scatter_is_no_merit_of_the_pairs_and_a_wrong_choice_is(mi355x):
    """Their own cutoff is judged on pairs that did not give it."""
    random = np.random.default_rng(3)
    tokens = np.tile(captured_batch_sizes(), 2)
    hidden = np.repeat(HIDDEN, tokens.size // 2)
    size = 2.0 * tokens * hidden
    scatter = np.exp(0.03 * random.standard_normal((2, tokens.size)))
    one, two = (5 + size / 5e4) * scatter[0], (12 + size / 2e5) * scatter[1]
    found = pairs(tokens, hidden, one, two)
    cross = 7 / (1 / 5e4 - 1 / 2e5)
    load = Workload.of(list(HIDDEN))

    def better(most):
        spares, error = spared_pct(mi355x, load, 4, found, found.bytes <= most)
        return spares > 1.645 * error

    assert not better(cross)
    assert better(2 * cross)
    assert better(cross / 2)


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
