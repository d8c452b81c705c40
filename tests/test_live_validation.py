"""``costmodel validate --live`` over gloo, in real processes, and its pieces."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_schemas import check

pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.data import measurement
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.live.validation import arguments, judge_run

QUICK = ("--measure", "--rounds 4 --samples 2 --slots 2")


def live(*options):
    return subprocess.run(
        [sys.executable, "-m", "costmodel", "validate", "--live", "gloo", *map(str, options)],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One live run; its record, exit code and directory."""
    out = tmp_path_factory.mktemp("live") / "run"
    done = live(
        "--arch", "gfx950", "--tp", 2, "--hidden", "512", "--tokens", "3,24", "--out", out,
        *QUICK, "--format", "json",
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout), done, out


def test_the_record_is_that_of_validate_with_live(run):
    record, done, _ = run
    check(done.stdout, "costmodel/validate/1")
    assert record["live"]["backend"] == "gloo"
    assert record["live"]["shapes"] == record["choice"]["pairs"] == 2
    assert done.returncode == (0 if record["passed"] else 1)
    rules = {r["rule"] for r in record["regret"]}
    assert {"recommended", "always-1stage", "always-2stage"} < rules


def test_a_model_that_covers_no_row_is_not_judged_and_says_why(run):
    accuracy = run[0]["accuracy"]
    assert accuracy["n"] == 0
    assert accuracy["median_ape"] is None
    assert "covers no row" in accuracy["reason"]


def test_choices_and_regret_follow_from_the_measured_rows(run):
    record, _, out = run
    table = measurement.read(out / "measurements.csv")
    for choice in record["live"]["choices"]:
        us = {}
        for algorithm in ("1stage", "2stage"):
            mine = (table.tokens == choice["tokens"]) & (table.algorithm == algorithm)
            us[algorithm] = float(table.latency_us[mine][0])
            assert choice[f"{algorithm}_us"] == us[algorithm]
        assert choice["chosen"] == "1stage"  # 2 ranks: every rule of that GPU says so
        regret = 100 * (us["1stage"] / min(us.values()) - 1)
        assert choice["regret_pct"] == pytest.approx(regret, abs=1e-3)
    mean = sum(c["regret_pct"] for c in record["live"]["choices"]) / 2
    ours = next(r for r in record["regret"] if r["rule"] == "recommended")
    assert ours["mean_pct"] == pytest.approx(mean, abs=1e-3)


def test_shapes_of_the_calibration_are_left_out(run, tmp_path):
    seen = measurement.read(run[2] / "measurements.csv")
    options = arguments("gloo", 2, (512,), (3, 24, 48), "bf16", tmp_path / "next", seen)
    plan = json.loads(Path(options[options.index("--plan") + 1]).read_text())
    assert [entry["tokens"] for entry in plan["shapes"]] == [48]
    with pytest.raises(InputError, match="every shape asked for is among the rows"):
        arguments("gloo", 2, (512,), (3, 24), "bf16", tmp_path / "none", seen)


def test_auto_is_measured_and_proven_where_there_is_a_rule(run, tmp_path):
    out = run[2]
    options = arguments("aiter", 8, (4096,), (3,), "bf16", tmp_path / "aiter", None)
    plan = json.loads(Path(options[options.index("--plan") + 1]).read_text())
    assert plan["shapes"][0]["arms"] == ["1stage", "2stage", "auto"]
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("run.json", "measurements.csv"):
        (copy / name).write_bytes((out / name).read_bytes())
    first = json.loads((out / "samples.jsonl").read_text().splitlines()[0])
    first["arms"]["auto"] = {
        **first["arms"]["1stage"], "kernels": ["allreduce_fusion_kernel_1stage"],
    }  # fmt: skip
    (copy / "samples.jsonl").write_text(json.dumps(first) + "\n")
    _, proof = judge_run(copy, Setting.shipped("MI355X"))
    assert [k["kernels"] for k in proof.kernels] == [["allreduce_fusion_kernel_1stage"]]


def test_missing_options_are_named(tmp_path):
    assert "--live needs --out" in live("--arch", "gfx950", "--tp", 2).stderr
    done = live("--arch", "gfx950", "--out", tmp_path / "x")
    assert done.returncode == 2
    assert "--live needs --tp" in done.stderr
