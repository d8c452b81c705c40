"""``costmodel explain``: the numbers of one decision, and refusals, through real processes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from costmodel.calibration import posterior as calibrations
from costmodel.data import kernels as kernel
from costmodel.data.workload import captured_batch_sizes
from costmodel.decide.explanation import decisions, explain
from costmodel.decide.prediction import predict
from costmodel.decide.recommendation import recommend
from costmodel.decide.sensitivity import Setting
from costmodel.errors import InputError
from costmodel.model.shape import ALGORITHMS, ONE_STAGE, TWO_STAGE
from costmodel.rules import catalogue

KEYS = [
    "schema", "arch", "gpu", "op", "dtype", "aiter_version", "calibration", "world_size",
    "hidden_dim", "tokens", "bytes", "choice", "probability", "decided", "reason", "margin_us",
    "margin_pct", "arms", "separate", "verdict", "rules", "crossover", "flips",
]  # fmt: skip


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "costmodel", "explain", *map(str, args)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def refused(*args):
    done = run(*args)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("costmodel: error: ")
    return lines[0]


@pytest.fixture(scope="module")
def gfx942():
    return calibrations.shipped("gfx942")


@pytest.fixture(scope="module")
def near(gfx942):
    """Return a call close to the crossover."""
    return explain(Setting(gfx942, "MI300X", 8, 2880), 32)


def test_json_has_exactly_the_documented_keys_and_adds_up():
    done = run(
        "--arch", "gfx942", "--tp", 8, "--hidden", 2880, "--tokens", 32, "--format", "json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == KEYS
    assert found["schema"] == "costmodel/explain/1"
    assert (found["gpu"], found["bytes"]) == ("MI300X", 32 * 2880 * 2)
    for arm in found["arms"].values():
        terms = sum(t["value"] for t in arm["terms"].values())
        assert terms == pytest.approx(arm["latency_us"])
        assert arm["latency_us_lo"] < arm["latency_us"] < arm["latency_us_hi"]
        assert arm["evidence"] == "transferred"
    margin = found["arms"]["2stage"]["latency_us"] - found["arms"]["1stage"]["latency_us"]
    assert found["margin_us"]["value"] == pytest.approx(margin)
    assert found["margin_us"]["lo"] < 0 < found["margin_us"]["hi"]
    assert not found["decided"]
    assert {"what", "at", "choice"} <= set(found["flips"][0])


def test_text_says_who_wins_by_how_much_and_what_would_flip_it():
    done = run("--arch", "gfx942", "--tp", 8, "--hidden", 2880, "--tokens", 32)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "1-stage is faster: 2-stage takes 0.30 us more, 2.4 %" in text
    assert "not decided at 90 %" in text
    assert "2-stage from 40 (captured batch sizes, 225 KiB)" in text
    assert "link_read" in text
    disagree = [line for line in text.splitlines() if line.endswith("NO")]
    assert any(line.startswith("sglang-128k") for line in disagree)
    assert not any(line.startswith("aiter-per-rank") for line in disagree)


def test_arms_are_those_of_predict(gfx942, near):
    for algorithm in ALGORITHMS:
        modelled = predict(
            gfx942, near.setting.shapes([32]), algorithm, gpu="MI300X", kernel=kernel.aiter()
        )
        arm = near.arms[algorithm]
        assert arm.latency_us.value == pytest.approx(modelled.latency_us[0])
        for name, term in arm.terms.items():
            assert term.value == pytest.approx(modelled.terms[name][0])


def test_probability_is_the_share_of_the_posterior(near):
    s = near.setting
    margin = s.margin_us([32], s.drawn)[:, 0]
    assert near.choice == ONE_STAGE
    assert near.probability == pytest.approx(float(np.mean(margin > 0)))
    inside = (margin >= near.margin_us.lo) & (margin <= near.margin_us.hi)
    assert 0.88 <= inside.mean() <= 0.92


def test_a_clear_call_is_decided_both_ways():
    gfx950 = calibrations.shipped("gfx950")
    setting = Setting(gfx950, "MI355X", 4, 7168)
    small, large = explain(setting, 1), explain(setting, 256)
    assert (small.choice, large.choice) == (ONE_STAGE, TWO_STAGE)
    assert small.decided
    assert large.decided
    assert small.margin_us.lo > 0 > large.margin_us.hi
    assert {a.evidence for a in small.arms.values()} == {"measured", "transferred"}


def test_rules_say_what_they_run(near):
    shapes = near.setting.shapes([32])
    for opinion in near.opinions:
        rule = opinion.rule
        if rule.name == "recommended":
            found = recommend(near.setting.calibration, gpu="MI300X", world_sizes=(8,))
            assert opinion.sizes == f"<= {found.cutoffs[0].max_bytes // 1024} KiB"
        use = rule.use_1stage(shapes, kernel_version=kernel.LATEST)[0]
        assert opinion.choice == (ONE_STAGE if use else TWO_STAGE)
    names = [o.rule.name for o in near.opinions]
    for engine in catalogue.ENGINES:
        assert catalogue.current(engine).name in names
    assert not any(o.rule.fabric == "nvlink" for o in near.opinions)


def test_token_flips_are_where_the_choice_changes(near):
    every = decisions(near.setting)
    assert every.tokens.tolist() == captured_batch_sizes().tolist()
    by_tokens = dict(zip(every.tokens.tolist(), every.choice.tolist(), strict=True))
    assert by_tokens[32] == near.choice
    (flip,) = near.token_flips
    assert by_tokens[flip.tokens] == flip.choice != near.choice
    before = every.tokens[(every.tokens >= 32) & (every.tokens < flip.tokens)]
    assert {by_tokens[t] for t in before.tolist()} == {near.choice}
    at, lo, hi = near.crossover_bytes
    assert lo < at < hi
    assert 32 * 5760 < at <= flip.tokens * 5760


def test_all_marks_what_the_rules_do_otherwise():
    done = run("--gpu", "MI355X", "--tp", 4, "--model", "gpt-oss-120b", "--all")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    row = next(line for line in lines if line.split()[:1] == ["24"])
    assert "1-stage" in row
    assert "2*" in row
    done = run(
        "--gpu", "MI355X", "--tp", 4, "--model", "gpt-oss-120b", "--all", "--format", "json"
    )  # fmt: skip
    calls = json.loads(done.stdout)["calls"]
    assert [c["tokens"] for c in calls] == captured_batch_sizes().tolist()
    choices = [c["choice"] for c in calls]
    assert choices == sorted(choices)
    for c in calls:
        sglang = c["rules"]["sglang-128k"]
        assert sglang == ("1stage" if c["bytes"] <= 131072 else "2stage")


def test_a_call_that_one_kernel_rejects_has_no_margin(gfx942):
    found = explain(Setting(gfx942, "MI300X", 4, 8200), 8)
    assert found.choice == TWO_STAGE
    assert found.margin_us is None
    assert list(found.arms) == [TWO_STAGE]
    assert "the 1stage kernel rejects the call" in found.reason
    record = found.to_dict()
    assert record["margin_us"] is None
    assert record["flips"] == []
    every = decisions(Setting(gfx942, "MI300X", 4, 8200))
    assert set(every.choice.tolist()) == {TWO_STAGE}
    assert np.isnan(every.margin_us).all()
    json.dumps(every.to_dict(), allow_nan=False)
    with pytest.raises(InputError, match="no kernel of AITER"):
        explain(Setting(gfx942, "MI300X", 4, 2881), 8)


def test_bad_input_is_one_line():
    good = ["--arch", "gfx942", "--tp", 8, "--hidden", 2880, "--tokens", 32]
    assert "2, 4 or 8" in refused(*good[:2], "--tp", 3, *good[4:])
    assert "--tokens for one call or --all" in refused(*good, "--all")
    assert "one hidden size" in refused(*good[:4], "--hidden", "2880,4096", "--tokens", 32)
    assert "unknown GPU" in refused("--gpu", "MI400X", *good[2:])
    assert "no kernel" in refused(*good[:4], "--hidden", 2881, "--tokens", 32)
    assert "separate ops stand beside" in refused(*good, "--op", "separate")
