"""Do printed ends hold the truth: the short form of benchmarks/coverage.py, as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("coverage") / "coverage.json"
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--truths", "8", "--only", "none", "--only", "all",
         "--workers", "2", "--out", out],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.campaign
def test_printed_ends_hold_the_truth_also_where_the_model_is_wrong(found):
    """64 cells of the 16 truths; at the aim of 80 to 90 % fewer than 70 % are a chance of 1 %."""
    cells = found["coverage"]
    assert [c["truths"] for c in cells] == [8] * 8
    assert sum(c["coverage"] for c in cells) / len(cells) >= 0.7


@pytest.mark.campaign
def test_width_is_no_substitute(found):
    score = found["interval_score_log2_bytes"]
    assert score["ours"] < 1.5 * score["oracle"]
    assert score["ours"] < 1.2 * score["flat"]


def test_the_committed_result_meets_its_aims():
    kept = json.loads(BENCHMARK.with_suffix(".json").read_text())
    worst = {}
    for c in kept["coverage"]:
        assert c["truths"] >= 400
        name = c["misspecification"]
        worst[name] = min(worst.get(name, 1.0), c["coverage"])
    assert worst.pop("all") >= 0.80
    assert min(worst.values()) >= 0.85
    score = kept["interval_score_log2_bytes"]
    assert score["ours"] < score["flat"]
    assert score["ours"] <= 1.5 * score["oracle"]
    again = kept["interval_score_log2_bytes_of_32_truths_each"]
    assert again["ours"] < again["before"]
