"""A prediction of one machine of several: prepared before its rows, and what few programs take."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from costmodel.calibration import posterior
from costmodel.decide.setting import Setting

ROOT = Path(__file__).parents[1]
REVISION = ROOT / "measurements" / "h200-pair" / "revision-3"
MACHINES = REVISION / "machines"
LEASES = [f"h200-pair-3-lease-{n}" for n in (1, 2, 3, 4)]


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def run(*arguments, check=True):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "preregistered.py", *map(str, arguments)],
        capture_output=True, text=True, check=check,
    )  # fmt: skip


def calibrated(place, kept):
    """Write the rows of some hidden sizes that ``kept`` keeps, and their calibration."""
    some = [
        r for r in rows(MACHINES / "calibration.csv")
        if r["hidden_dim"] in ("2048", "3584", "4608", "7168") and int(r["tokens"]) < 65 and kept(r)
    ]  # fmt: skip
    with (place / "calibration.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, some[0])
        writer.writeheader()
        writer.writerows(some)
    (place / "calibration.json").unlink(missing_ok=True)
    subprocess.run(
        [sys.executable, "-m", "costmodel", "calibrate", place / "calibration.csv", "--family",
         "costmodel-3", "--no-cross-validation", "--out", place / "calibration.json"],
        capture_output=True, check=True,
    )  # fmt: skip


def test_the_plan_and_the_form_stand_before_the_machine_s_own_rows(tmp_path):
    """What is predicted is the last machine; what is measured, and how far off, stood before."""
    calibrated(tmp_path, lambda r: r["source"] in (LEASES[0], LEASES[2]))
    run("prepare", tmp_path, "--hidden", "3072,3584", "--source", LEASES[0])
    before = {name: (tmp_path / name).read_text() for name in ("plan.json", "forms.json")}
    planned = json.loads(before["plan.json"])["shapes"]
    known = {
        (int(r["world_size"]), int(r["hidden_dim"]), int(r["tokens"]))
        for r in rows(tmp_path / "calibration.csv")
    }
    asked = {(s["world_size"], s["hidden_dim"], s["tokens"]) for s in planned}
    assert {hidden for _, hidden, _ in asked} == {3072, 3584}
    assert not known & asked  # 3584 has rows: only calls that it lacks are asked

    calibrated(tmp_path, lambda r: r["source"] != LEASES[1])
    run("predict", tmp_path, "--source", LEASES[3])
    assert {name: (tmp_path / name).read_text() for name in before} == before
    said = json.loads((tmp_path / "prediction.json").read_text())
    assert said["source"] == LEASES[3]
    assert said["form_errors"] == json.loads(before["forms.json"])
    assert len(said["rows"]) == len(planned)
    counts = {(c["hidden_dim"], c["counts"]) for c in said["crossovers"]}
    assert counts == {(3072, True), (3584, False)}

    (tmp_path / "prediction.json").unlink()
    run("predict", tmp_path, "--source", LEASES[0])
    other = json.loads((tmp_path / "prediction.json").read_text())
    moved = [
        c["bytes"] / o["bytes"]
        for c, o in zip(said["crossovers"], other["crossovers"], strict=True)
        if c["world_size"] == 4
    ]
    assert max(np.abs(np.log(moved))) > 0.003  # machines differ
    again = run("prepare", tmp_path, "--hidden", "3072", check=False)
    assert again.returncode == 1
    assert "exists: a prediction is made once" in again.stderr


def test_the_rows_of_a_machine_came_after_its_prediction():
    """The record of when rows were taken, beside the rows that the prediction rests on."""
    anchors = json.loads((MACHINES / "lease-4.environment.json").read_text())["when"]
    for name in ("test", "repeat", "another"):
        for ranks in (4, 8):
            record = json.loads((MACHINES / f"{name}-tp{ranks}.environment.json").read_text())
            assert record["when"] > anchors
            found = rows(MACHINES / f"{name}-tp{ranks}.csv")
            assert {r["quality"] for r in found} == {"clean"}
            assert {r["world_size"] for r in found} == {str(ranks)}


@pytest.mark.parametrize("name", ["repeat", "another"])
@pytest.mark.parametrize("ranks", [4, 8])
def test_campaigns_in_another_order_and_on_another_machine_agree(name, ranks):
    key = ("hidden_dim", "tokens", "dtype", "algorithm")

    def us(of):
        found = rows(MACHINES / f"{of}-tp{ranks}.csv")
        return {tuple(r[k] for k in key): float(r["latency_us"]) for r in found}

    first, second = us("test"), us(name)
    assert first.keys() == second.keys()
    apart = np.log([second[call] / first[call] for call in first])
    assert abs(np.median(apart)) < 0.01
    assert np.percentile(np.abs(apart), 90) < 0.03


def test_turns_of_few_programs_wait_for_their_own_loads():
    """Rows on 8 to 64 programs, which the calibration lacks, by their limit.

    With one round trip for all turns of a call, the 2-stage on 8 programs is said to take 0.16 to
    0.9 of what it takes.
    """
    calibration = posterior.load(REVISION / "mended" / "calibration.json")
    setting = Setting(calibration, "H200", source="h200-pair-3")
    model, costs = calibration.model, setting._costs(setting.point)
    off = {}
    for row in rows(REVISION / "workgroups.csv"):
        if row["algorithm"] == "1stage" or row["world_size"] == "2":
            continue
        limit = int(row["workgroups"] or setting.kernel.max_workgroups)
        call = (int(row[name]) for name in ("tokens", "hidden_dim", "world_size"))
        kernel = replace(setting.kernel, max_workgroups=limit)
        geometry = model.geometry(setting.shapes(*call), "2stage", kernel, "sm_90")
        us = sum(float(np.sum(term)) for term in model.terms(geometry, costs).values())
        off.setdefault(limit, []).append(us / float(row["latency_us"]))
    middle = {limit: float(np.median(each)) for limit, each in off.items()}
    assert sorted(middle) == [8, 16, 32, 64, setting.kernel.max_workgroups]
    assert 0.78 < min(middle.values()) <= max(middle.values()) < 1.02
