"""What changed between two calibrations, two tables, two engine trees: found where it is, only there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import costmodel
from engines.shapes import SHAPES
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.data import measurement
from costmodel.decide import drift
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.engines.rule_change import rule_changes
from costmodel.engines.source import open_trees
from costmodel.files import parse_json

SHIPPED = Setting.shipped("MI355X")
RUNS = "measurements/h200-loopback"


def run(*args):
    return costmodel("diff", *args)


def slower(table, pct, where):
    """Return the table with some rows slower by so many percent."""
    us = np.where(where(table), table.latency_us * (1 + pct / 100), table.latency_us)
    return replace(table, latency_us=us)


class TestCalibrations:
    def test_one_beside_itself_has_not_changed(self):
        found = drift.calibrations(SHIPPED, SHIPPED, None, (2, 4, 8))
        for s in found:
            assert s.old.max_bytes == s.new.max_bytes
            assert s.loses_pct == pytest.approx(0, abs=0.01)
            assert not any(drift.significant(a.us) for a in s.arms)
            assert all(a.us.lo < 0 < a.us.hi for a in s.arms)

    def test_a_slower_arm_moves_the_cutoff_and_costs_the_old_one(self, published):
        kept = observe(published).table
        rows = slower(kept, 22, lambda t: (t.algorithm == "1stage") & (t.arch == "gfx950"))
        calibration, _ = calibrate(observe(rows), arch="gfx950")
        (s,) = drift.calibrations(SHIPPED, SHIPPED.but(calibration=calibration), None, (4,))
        one, two = s.arms
        assert drift.significant(one.us)
        assert one.us.value > 1
        assert one.us.value > two.us.value + 0.5
        assert s.new.estimate < s.old.max_bytes
        assert s.loses_pct > 1

    def test_two_gpus_are_not_compared(self):
        with pytest.raises(measurement.InputError, match="MI355X and MI300X"):
            drift.calibrations(SHIPPED, Setting.shipped("MI300X"), None, (4,))


class TestRows:
    def test_an_arm_that_became_slower_is_found_and_no_other(self):
        old = measurement.read(f"{RUNS}/calibration.csv")
        new = slower(old, 5, lambda t: (t.algorithm == "2stage") & (t.world_size == 4))
        found = drift.rows(old, new)
        assert sum(s.calls for s in found) > 100
        for s in found:
            moved = (s.algorithm, s.world_size) == ("2stage", 4)
            assert s.significant == moved
            assert s.pct.value == pytest.approx(5 if moved else 0, abs=1e-6)
            assert (s.us > 0) == moved

    @settings(max_examples=30, deadline=None)
    @given(st.integers(5, 60), st.integers(0, 2**31))
    def test_the_interval_holds_the_median_of_nine_in_ten_samples(self, n, seed):
        rng = np.random.default_rng(seed)
        held = 0
        for _ in range(200):
            after = np.exp(0.1 * rng.standard_normal(n))
            e = drift._median_change_pct(np.ones(n), after)
            held += e.lo <= 0 <= e.hi
        assert held >= 0.84 * 200

    def test_calls_of_one_table_alone_are_counted(self):
        old = measurement.read(f"{RUNS}/calibration.csv")
        new = old.select(old.tokens != old.tokens[0])
        gone = int((old.tokens == old.tokens[0]).sum())
        assert sum(s.alone for s in drift.rows(old, new)) == gone

    def test_too_few_calls_say_nothing(self):
        old = measurement.read(f"{RUNS}/calibration.csv").select(np.arange(4))
        new = slower(old, 50, lambda t: t.latency_us > 0)
        assert not any(s.significant for s in drift.rows(old, new))


class TestTrees:
    def test_a_rule_beside_itself_has_not_changed(self, tmp_path):
        (tree,) = open_trees(SHAPES["sglang_bytes"].package(tmp_path))
        shift, *others = rule_changes(tree, tree)
        assert not any(s.changed for s in (shift, *others))

    def test_the_first_call_that_is_decided_otherwise_is_named_and_weighed(self, tmp_path):
        old = SHAPES["sglang_bytes"].package(tmp_path / "old")
        new = SHAPES["sglang_hidden_set"].package(tmp_path / "new")
        decision = recommend(SHIPPED, world_sizes=(4, 8))
        shift, *_ = rule_changes(open_trees(old)[0], open_trees(new)[0], decision)
        assert shift.changed
        assert shift.where.startswith("TP2")
        # The set leaves hidden sizes out that run 1-stage with gain.
        assert all(pct.lo > 0 for pct in shift.loses_pct.values())
        done = run(old, new, "--gpu", "MI355X", "--fail-above", "0.01")
        assert done.returncode == 1
        assert "the new rule loses" in done.stdout
        assert run(new, old, "--gpu", "MI355X", "--fail-above", "0.01").returncode == 0


class TestCommand:
    def test_measurements_fail_above_a_limit(self, tmp_path):
        old = measurement.read(f"{RUNS}/calibration.csv")
        path = tmp_path / "new.csv"
        slower(old, 5, lambda t: t.algorithm == "1stage").write(path)
        assert run(f"{RUNS}/calibration.csv", path).returncode == 0
        assert run(f"{RUNS}/calibration.csv", path, "--fail-above", "6").returncode == 0
        done = run(f"{RUNS}/calibration.csv", path, "--fail-above", "4", "--format", "json")
        assert done.returncode == 1
        record = json.loads(done.stdout)
        assert record["passed"] is False
        assert {r["algorithm"] for r in record["rows"] if r["significant"]} == {"1stage"}

    def test_like_is_compared_with_like(self, tmp_path):
        calibration = tmp_path / "c.json"
        calibration.write_text("{}")
        done = run(calibration, f"{RUNS}/calibration.csv")
        assert done.returncode == 2
        assert "compare like with like" in done.stderr
        assert run(tmp_path / "none", tmp_path).returncode == 2
        assert run(f"{RUNS}/calibration.csv", f"{RUNS}/two-slots.environment.json").returncode == 2

    def test_tables_without_a_common_call_are_refused(self, tmp_path):
        old = measurement.read(f"{RUNS}/calibration.csv")
        path = tmp_path / "other.csv"
        replace(old, gpu=np.full(len(old), "H100")).write(path)
        done = run(f"{RUNS}/calibration.csv", path)
        assert done.returncode == 2
        assert "no clean row of one call in common" in done.stderr

    def test_records_are_of_their_schema(self, tmp_path):
        from costmodel.decide.drift_schemas import DiffRecord

        text = run(f"{RUNS}/calibration.csv", f"{RUNS}/held-out.csv", "--format", "json").stdout
        if text:
            parse_json(text, DiffRecord, "diff", "a comparison")
        path = tmp_path / "c.json"
        path.write_bytes(
            (
                measurement.published_directory().parents[1]
                / "costmodel/data/facts/calibrations/gfx950.json"
            ).read_bytes()
        )
        done = run(path, path, "--tp", "8", "--format", "json")
        assert done.returncode == 0, done.stderr
        record = parse_json(done.stdout, DiffRecord, "diff", "a comparison")
        assert record["cutoffs"][0]["loses_pct"] == pytest.approx(0, abs=0.01)
