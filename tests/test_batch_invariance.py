"""One kernel for every size: which, and what it costs beside the recommended rule."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import costmodel
from engines.shapes import SHAPES

from costmodel.data import llms
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.batch_invariance import one_kernel
from costmodel.decide.recommendation import recommend
from costmodel.decide.setting import Setting
from costmodel.decide.worth import worth
from costmodel.rules.catalogue import ALWAYS_1STAGE, ALWAYS_2STAGE
from costmodel.rules.condition import Always

MODEL = llms.find("gpt-oss-120b")
LOAD = Workload.of([MODEL.hidden_size])


def run(*args):
    return costmodel(*args)


@pytest.fixture(scope="module")
def free():
    return one_kernel(recommend(Setting.shipped("MI355X"), LOAD), MODEL.calls_per_step)


class TestChoice:
    def test_the_1_stage_runs_every_size_where_the_kernel_takes_every_size(self, free):
        assert [k.arm for k in free.kernels] == ["1stage"] * 3
        assert free.rule.condition == Always()

    def test_a_kernel_with_a_token_cap_cannot(self):
        old = recommend(Setting.shipped("MI300X", aiter_version="0.1.14"), LOAD)
        found = one_kernel(old)
        assert [k.arm for k in found.kernels] == ["2stage"] * 3
        assert "takes tokens <= 80 only" in found.kernels[0].reason
        assert found.rule.condition == Always(False)
        assert all(k.other is None for k in found.kernels)

    def test_an_engine_that_keeps_a_cap_cannot(self):
        found = one_kernel(recommend(Setting.shipped("MI355X", engine="vllm"), LOAD))
        assert {k.arm for k in found.kernels} == {"2stage"}
        assert "vllm keeps 1-stage to tokens <= 80" in found.kernels[0].reason
        sglang = one_kernel(recommend(Setting.shipped("MI355X", engine="sglang"), LOAD))
        assert {k.arm for k in sglang.kernels} == {"1stage"}

    def test_a_call_site_with_separate_ops_gives_way_to_those(self):
        setting = Setting.shipped("MI355X", engine="vllm", otherwise="separate")
        found = one_kernel(recommend(setting, LOAD))
        assert {k.arm for k in found.kernels} == {"separate"}
        assert found.rule.otherwise == "separate"

    def test_world_sizes_that_were_not_asked_about_keep_their_own(self):
        one = one_kernel(recommend(Setting.shipped("MI355X"), LOAD, world_sizes=(8,)))
        assert one.rule.world_sizes == (8,)
        old = Setting.shipped("MI300X", aiter_version="0.1.14")
        assert one_kernel(recommend(old, LOAD, world_sizes=(4,))).rule.world_sizes == (4,)

    def test_no_size_changes_the_kernel(self, free):
        for n in (2, 4, 8):
            assert len(free.rule.switches(2880, n)) == 1


class TestPrice:
    @pytest.mark.parametrize(
        ("arm", "rule"), [("1stage", ALWAYS_1STAGE), ("2stage", ALWAYS_2STAGE)]
    )
    def test_a_step_costs_what_worth_says_of_the_change(self, free, arm, rule):
        decision = free.decision
        for k in free.kernels:
            price = k.price if k.arm == arm else k.other
            saved = worth(decision.setting, MODEL, k.world_size, decision.rule, rule).mean_us
            step = price.step_us(MODEL.calls_per_step)
            assert step.value == pytest.approx(-saved.value, abs=1e-9)
            assert (step.lo, step.hi) == pytest.approx((-saved.hi, -saved.lo), abs=1e-9)

    def test_sizes_that_one_arm_alone_takes_cost_nothing_more(self):
        setting = Setting.shipped("MI300X", aiter_version="0.1.14")
        found = one_kernel(recommend(setting, LOAD), MODEL.calls_per_step)
        for k in found.kernels:
            saved = worth(setting, MODEL, k.world_size, found.decision.rule, ALWAYS_2STAGE).mean_us
            assert k.price.step_us(MODEL.calls_per_step).value == pytest.approx(-saved.value)

    def test_percent_is_of_the_time_of_all_calls_under_the_recommended_rule(self, free):
        decision, n = free.decision, 8
        setting = decision.setting
        calls = setting.shapes(captured_batch_sizes(), MODEL.hidden_size, n)
        one, two = (setting.latency_us(calls, a, setting.draws) for a in ("1stage", "2stage"))
        chosen = np.where(
            decision.rule.use_1stage(calls, kernel_version=setting.aiter_version), one, two
        )
        pct = 100 * (one.sum(axis=1) / chosen.sum(axis=1) - 1)
        price = free.kernels[2].price
        assert price.pct.value == pytest.approx(pct.mean())
        assert price.pct.lo < price.pct.value < price.pct.hi

    def test_where_no_cutoff_is_claimed_there_is_no_price(self):
        # Plain all-reduce at 4 ranks of MI300X is claimed or not by the calibration that ships.
        for gpu in ("MI300X", "MI308X", "MI355X"):
            decision = recommend(Setting.shipped(gpu, op="plain"), LOAD)
            for k, c in zip(one_kernel(decision).kernels, decision.cutoffs, strict=True):
                assert (k.price is None) == (not c.claimed)

    def test_two_ranks_pay_nothing_for_the_1_stage(self, free):
        assert free.kernels[0].price.call_us.value == 0
        assert free.kernels[0].other.call_us.value > 0


class TestNotes:
    def test_what_a_cutoff_does_and_what_is_not_verified(self, free):
        said = "; ".join(free.notes())
        assert "a cutoff makes the kernel, and so the rounding, depend on the batch" in said
        assert "1-stage: one token a workgroup, sums in fp32 in the order of the ranks" in said
        assert "not verified on a GPU" in said
        assert "the 2-stage for every size is cheaper at TP4, TP8" in said

    def test_packs_that_the_2_stage_leaves_unreduced_are_told(self):
        # 2888 / 8 = 361 packs, no multiple of 2.
        setting = Setting.shipped("MI300X", aiter_version="0.1.14")
        found = one_kernel(recommend(setting, Workload.of([2888])))
        assert any("hidden 2888 the 2-stage leaves the last packs" in n for n in found.notes())
        even = one_kernel(recommend(setting, LOAD))
        assert not any("unreduced" in n for n in even.notes())


class TestCommand:
    def test_recommend_prints_the_price_of_a_decode_step(self):
        done = run("recommend", "--gpu", "MI355X", "--model", "gpt-oss-120b", "--batch-invariant")
        assert done.returncode == 0, done.stderr
        assert f"us a decode step ({MODEL.calls_per_step} calls)" in done.stdout
        assert "TP8    1-stage" in done.stdout

    def test_json_holds_it_and_is_null_without(self):
        asked = ("recommend", "--gpu", "MI355X", "--tp", "4", "--format", "json")
        assert json.loads(run(*asked).stdout)["batch_invariant"] is None
        found = json.loads(run(*asked, "--batch-invariant").stdout)["batch_invariant"]
        assert found["calls_per_step"] is None
        assert [k["arm"] for k in found["kernels"]] == ["1stage"]
        assert found["kernels"][0]["price"]["us_per_step"] is None
        assert found["rule"]["condition"] == {"bytes": ["<=", {"4": None}]}


class TestEmit:
    def test_the_patch_of_an_engine_takes_one_kernel(self, tmp_path):
        tree = SHAPES["sglang_bytes"].package(tmp_path)
        done = run(
            "emit", "--for", "sglang", "--gpu", "MI355X", "--batch-invariant", "--aiter-version",
            "0.1.19", "--source", str(tree),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "+            use_1stage_ar = True" in done.stdout
        assert "--batch-invariant" in done.stdout
        assert "TP8: 1-stage for every size: " in done.stderr
        assert "a cutoff makes the kernel, and so the rounding, depend on the batch" in done.stderr

    def test_kernels_with_a_token_cap_get_the_other_one(self, tmp_path):
        tree = SHAPES["sglang_bytes"].package(tmp_path)
        done = run(
            "emit", "--for", "sglang", "--gpu", "MI355X", "--batch-invariant", "--aiter-version",
            "0.1.14", "--source", str(tree),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "+            use_1stage_ar = False" in done.stdout
        assert "never" not in done.stdout

    def test_a_named_rule_is_another_rule(self):
        done = run("emit", "--for", "json", "--rule", "sglang", "--batch-invariant")
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "--rule or --batch-invariant" in line
