"""The commands that list what there is, in every form."""

from __future__ import annotations

import csv
import io
import json

import pytest
from command import costmodel

from costmodel.calibration.observations import observe
from costmodel.data import hardware, llms
from costmodel.rules.catalogue import catalogue

LISTS = ("models", "rules", "statements", "gpus", "data")


def run(*args, code=0):
    done = costmodel(*args)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def records(name, *args):
    found = json.loads(run(name, *args, "--format", "json"))
    assert found["schema"] == f"costmodel/{name}/1"
    assert list(found) == ["schema", name]
    return found[name]


@pytest.mark.parametrize("name", LISTS)
def test_csv_holds_what_json_holds(name):
    found = records(name)
    rows = list(csv.DictReader(io.StringIO(run(name, "--format", "csv"))))
    assert len(rows) == len(found) > 3
    for row, record in zip(rows, found, strict=True):
        assert list(row) == list(record)
        for key, value in record.items():
            if isinstance(value, float):
                assert float(row[key]) == value
            elif isinstance(value, str | int) and not isinstance(value, bool):
                assert row[key] == str(value)
            elif value is None:
                assert row[key] == ""


@pytest.mark.parametrize("name", LISTS)
def test_the_table_has_a_row_and_a_link_for_each(name):
    text = run(name)
    links = {r["url" if "url" in r else "source"] for r in records(name)} - {""}
    for address in links:
        assert any(line.endswith(f"] {address}") for line in text.splitlines()), address
    assert text.count("\n[") == len(links)


def test_models_are_the_catalogue():
    found = records("models")
    assert [m["name"] for m in found] == [m.name for m in llms.catalogue()]
    by = {m["name"]: m for m in found}
    assert by["gpt-oss-120b"]["hidden_size"] == 2880
    assert by["gpt-oss-120b"]["calls_per_step"] == 72
    assert all(m["source"].startswith("https://") for m in found)


def test_rules_are_the_catalogue_and_can_be_narrowed():
    assert [r["name"] for r in records("rules")] == [r.name for r in catalogue()]
    for rule in records("rules", "--op", "fused", "--status", "current"):
        assert (rule["op"], rule["status"]) == ("fused_ar_rmsnorm", "current")
        assert "-stage" in rule["rule"]
        assert rule["source"]
    assert "no rule is of op 'gather'" in run("rules", "--op", "gather", code=2)


def test_gpus_are_those_of_the_shipped_calibrations():
    found = records("gpus")
    assert {(g["arch"], g["gpu"]) for g in found} == {
        (arch, gpu) for arch, gpus in hardware.GPUS.items() for gpu in gpus
    }
    for gpu in found:
        assert (
            gpu["calibrated_link_gbps_lo"]
            <= gpu["calibrated_link_gbps"]
            <= gpu["calibrated_link_gbps_hi"]
        )
        assert gpu["calibration"].startswith(gpu["arch"])
        assert gpu["source"].startswith("https://")
    assert [g["gpu"] for g in found if g["default"]] == ["MI300X", "MI355X"]


def test_every_published_row_is_used_or_set_aside_for_a_reason(published):
    found = records("data")
    assert sum(r["rows"] for r in found) == len(published)
    for record in found:
        assert record["rows"] == record["used"] + sum(record["set_aside"].values())
    seen = observe(published)
    assert sum(r["used"] for r in found) == len(seen)
    reasons: dict[str, int] = {}
    for record in found:
        for reason, count in record["set_aside"].items():
            # Kernels beside AITER's own calibrate apart: to the fused op's rows they are others.
            reason = "kernel family not modelled" if "calibrated beside" in reason else reason
            reasons[reason] = reasons.get(reason, 0) + count
    assert reasons == seen.set_aside


def test_data_of_ones_own(tmp_path, published):
    published.select(published.source == "vllm-54787").write(tmp_path / "mine.csv")
    found = records("data", tmp_path / "mine.csv")
    assert {r["source"] for r in found} == {"vllm-54787"}
    assert found == records("data", "--source", "vllm-54787")
    assert "did you mean" in run("data", "--source", "vllm-5478", code=2)
    assert "absent.csv" in run("data", "absent.csv", code=2)
