"""What a start-up begins from: which calibration, on what, and what a pair of GPUs makes of it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from costmodel.calibration.estimate import calibrate
from costmodel.calibration.observations import observe
from costmodel.calibration.one_fabric import on_fabric
from costmodel.calibration.posterior import load, shipped
from costmodel.calibration.shipped import SHIPPED, of_kernels
from costmodel.data import facts, hardware, kernels, measurement
from costmodel.data.workload import Workload
from costmodel.decide.learnt import Learnt
from costmodel.decide.pairs import pair
from costmodel.decide.setting import Setting
from costmodel.errors import InputError
from costmodel.live.backends.replay import truth
from costmodel.live.startup.learning import LIMITS, Here, Learner, RefusedError
from costmodel.live.startup.rule import StartupRule
from costmodel.model.choose import split_over
from costmodel.model.shape import FUSED
from costmodel.rules.table import MOST_BYTES

PAIR = Path(__file__).parents[1] / "measurements" / "h200-pair"
MENDED = PAIR / "revision-3" / "mended"
HERE: Here = {
    "costmodel": "0", "torch": "2", "gpu": "H200", "device": "NVIDIA_H200",
    "interconnect": "nvlink/2", "world_size": 4, "kernel_family": kernels.OWN_FAMILY,
    "kernel_version": "triton kernels 3", "dtype": "bf16", "hidden_sizes": [2880, 7168],
    "arms": ["1stage", "2stage"], "genuine": True,
}  # fmt: skip


def learner(**changes):
    return Learner({**HERE, **changes}, until=np.inf)


def test_the_pair_s_prior_is_the_calibration_of_its_rows():
    """Copy ``mended/calibration.json`` over it when this fails, if that still is what is meant."""
    file = facts.path("calibrations/sm_90.json")
    assert file.read_bytes() == (MENDED / "calibration.json").read_bytes()
    rows = measurement.read(MENDED / "calibration.csv")
    observed = on_fabric(observe(rows, family=kernels.OWN_FAMILY), "split_2")
    fresh, _ = calibrate(observed, arch="sm_90")
    kept = shipped("sm_90")
    assert kept.names == fresh.names
    scale = np.sqrt(np.diag(fresh.covariance))
    assert (np.abs(kept.mean - fresh.mean) < 0.02 * scale + 1e-6).all()
    np.testing.assert_allclose(np.sqrt(np.diag(kept.covariance)), scale, rtol=0.02)
    assert kept.coverage == fresh.coverage


def test_every_shipped_calibration_is_found_by_what_it_is_of():
    for (wire, family), archs in SHIPPED.items():
        for arch in archs:
            kept = load(facts.path(f"calibrations/{arch}.json"))
            assert (kept.arch, kept.kernel_family) == (arch, family)
            for _, gpu in kept.gpus:
                assert of_kernels(f"nvidia {gpu}", wire, family).id == kept.id
    files = {p.stem for p in facts.path("calibrations").iterdir()}
    assert files == {arch for archs in SHIPPED.values() for arch in archs}
    assert set(hardware.GPUS) == set(SHIPPED["xgmi", "aiter"])


@pytest.mark.parametrize(
    ("gpu", "interconnect", "family", "said"),
    [
        ("B200", "nvlink", "costmodel-3", "no calibration of costmodel-3's kernels on B200 over"),
        ("H200", "loopback", "costmodel-3", "on H200 over loopback"),
        (
            "H200",
            "nvlink/2",
            "costmodel",
            "no calibration of AITER's kernels on H200 over nvlink/2",
        ),
        ("MI300X", "xgmi", "costmodel-3", "costmodel-3's kernels on MI300X over xgmi"),
        ("MI300X", "mixed", "aiter", "AITER's kernels on MI300X over mixed"),
        ("MI300X", "", "aiter", "on MI300X over links that are not known"),
        ("H200", "nvlink", "flashinfer", "flashinfer's kernels on H200 over nvlink"),
    ],
)
def test_other_kernels_and_links_have_none(gpu, interconnect, family, said):
    with pytest.raises(InputError, match=said):
        of_kernels(gpu, interconnect, family)
    asked = learner(gpu=gpu, interconnect=interconnect, kernel_family=family)
    with pytest.raises(RefusedError, match=said):
        asked.rule(lambda tokens, hidden: pytest.fail("timed"))


def test_ranks_of_a_gpu_each_are_split_over_as_many():
    assert split_over("nvlink", 2) == split_over("nvlink/2", 8) == "nvlink/2"
    assert split_over("xgmi", 4) == "xgmi"


def test_a_prior_of_other_numbers_of_gpus_is_said_to_be_transferred():
    for interconnect, ranks in (("nvlink", 2), ("nvlink/2", 2), ("nvlink/2", 8)):
        assert not learner(interconnect=interconnect, world_size=ranks).transferred
    asked = learner(interconnect="nvlink", world_size=8)
    assert asked.transferred == "from a prior of fabric split_2, transferred"
    assert asked.setting.calibration.fabric == "split_8"
    assert (asked.fabric, asked.calibration.fabric) == ("nvlink/8", "split_2")


class Campaign:
    """The pair as it was measured in full: what it answers to a start-up."""

    def __init__(self, world_size, seed):
        pairs = pair(measurement.read(PAIR / "revision-2" / "exhaustive.csv"), FUSED)
        self.pairs = pairs.select(pairs.world_size == world_size)
        calls = zip(self.pairs.tokens.tolist(), self.pairs.hidden_dim.tolist(), strict=True)
        us = np.stack([self.pairs.one_us, self.pairs.two_us], axis=1)
        self.us = dict(zip(calls, us, strict=True))
        self.random = np.random.default_rng([world_size, seed])
        self.asked = []

    def told(self, tokens, hidden):
        self.asked.append((tokens, hidden))
        if (tokens, hidden) not in self.us:  # at 2 ranks a few calls were measured, of many
            return [{"latency_us": {}, "refused": "not measured"}] * 2
        us = self.us[tokens, hidden] * np.exp(0.005 * self.random.standard_normal(2))
        one, two = np.split(us * np.exp(0.002 * self.random.standard_normal((8, 3, 2))), 2, axis=2)
        return [{"latency_us": {"1stage": one.tolist(), "2stage": two.tolist()}, "refused": ""}] * 2

    def regret_pct(self, max_bytes):
        pairs = self.pairs
        chosen = np.where(pairs.bytes <= max_bytes, pairs.one_us, pairs.two_us)
        return 100 * float(np.mean(chosen / pairs.fastest_us - 1))


@pytest.mark.parametrize("world_size", [4, 8])
def test_a_start_up_on_the_pair_finds_the_rule_of_every_captured_batch(world_size):
    """204 calls, measured in full by another start, of the kernels before the prior's."""
    for seed in range(3):
        campaign = Campaign(world_size, seed)
        entry = learner(world_size=world_size).rule(campaign.told)
        assert 3 <= len(campaign.asked) <= LIMITS.shapes
        assert campaign.regret_pct(entry["max_bytes"]) < 0.05
        assert entry["lo"] <= entry["max_bytes"] <= entry["hi"]
        assert (entry["fabric"], entry["aiter_from"]) == ("nvlink/2", None)
        said = str(StartupRule.of(entry))
        assert f"nvlink/2, TP{world_size}, " in said
        assert "costmodel-3's kernels, hidden 2880, 7168: 1-stage <= " in said


def test_two_ranks_on_the_pair_are_always_1stage():
    campaign = Campaign(2, 0)
    entry = learner(world_size=2, interconnect="nvlink").rule(campaign.told)
    assert (entry["max_bytes"], entry["fabric"]) == (MOST_BYTES, "nvlink/2")


def test_the_prior_is_of_a_machine_that_nobody_has_measured():
    """What its one source's machine is known for does not count as known of another."""
    setting = learner().setting
    assert setting.machine == ""
    contrast = setting.new_source["contrast[2stage]"]
    assert 0.4 < float(np.std(contrast)) < 1.2


def test_the_starts_on_the_pair_are_what_the_page_says():
    record = json.loads((PAIR / "startup_live.json").read_text())
    assert not record["rehearsed"]
    exhaustive = pair(measurement.read(PAIR / "revision-2" / "exhaustive.csv"), FUSED)
    for start in record["starts"]:
        assert start["ranks_agree"]
        assert start["seconds"] < 3.0
        if start["max_bytes"] is None:
            assert "the machine is busy" in start["said"]
            continue
        here = exhaustive.select(exhaustive.world_size == start["world_size"])
        sent = here.bytes <= start["max_bytes"]
        chosen = np.where(sent, here.one_us, here.two_us)
        regret = 100 * float(np.mean(chosen / here.fastest_us - 1))
        assert start["regret_pct"] == pytest.approx(regret)
        assert regret < 0.005
    learnt = [s for s in record["starts"] if s["max_bytes"] is not None]
    assert len(learnt) == len(record["starts"]) - 1
    found = {
        n: Counter(s["max_bytes"] for s in learnt if s["world_size"] == n and s["shapes"])
        for n in (4, 8)
    }
    assert found == {4: {256 * 1024: 3, 288 * 1024: 2}, 8: {32 * 1024: 5}}
    assert [f["executed"] for f in record["figures"]] == [[102, 102]] * 3
    assert max(f["flips_pct"] for f in record["figures"]) < 1.0


def test_the_faster_of_two_measured_arms_changes_on_one_call_of_the_pair():
    changed = calls = 0
    for ranks in (4, 8):
        first, again = (
            pair(measurement.read(PAIR / "revision-2" / f"{name}-tp{ranks}.csv"), FUSED)
            for name in ("test", "repeat")
        )
        for name in ("tokens", "hidden_dim", "dtype"):
            assert getattr(first, name).tolist() == getattr(again, name).tolist()
        faster = [run.one_us <= run.two_us for run in (first, again)]
        changed, calls = changed + int((faster[0] != faster[1]).sum()), calls + len(first)
    assert (changed, calls) == (1, 185)


class Hidden:
    """A machine like the pair that nobody has measured: a draw of its calibration."""

    def __init__(self, world_size, draw):
        setting, load = Setting(shipped("sm_90"), "H200"), Workload.of(HERE["hidden_sizes"])
        shapes = setting.shapes(load.tokens, load.hidden_dim, world_size)
        values = truth(setting, draw)
        self.size = shapes.bytes
        self.us = [setting.latency_us(shapes, arm, values)[0] for arm in HERE["arms"]]
        calls = zip(shapes.tokens.tolist(), shapes.hidden_dim.tolist(), strict=True)
        self.place = {call: i for i, call in enumerate(calls)}
        self.random = np.random.default_rng([world_size, draw])

    def told(self, tokens, hidden):
        at = self.place[tokens, hidden]
        us = {
            arm: one[at]
            * np.exp(0.01 * self.random.standard_t(4))
            * np.exp(0.002 * self.random.standard_normal((8, 3, 1)))
            for arm, one in zip(HERE["arms"], self.us, strict=True)
        }
        return [{"latency_us": {arm: v.tolist() for arm, v in us.items()}, "refused": ""}]

    def regret_pct(self, cutoff):
        chosen = np.where(self.size <= cutoff, *self.us)
        return 100 * float(np.mean(chosen / np.minimum(*self.us) - 1))

    def best(self):
        """Return the least regret, and the bytes between which its cutoffs lie."""
        cutoffs = [0, *np.unique(self.size).tolist(), np.inf]
        regrets = [self.regret_pct(cutoff) for cutoff in cutoffs[:-1]]
        at = int(np.argmin(regrets))
        return regrets[at], cutoffs[at], cutoffs[at + 1]


def test_hidden_truths_like_the_pair_are_learnt_with_an_interval_that_holds():
    before, after, holds, refused = [], [], [], 0
    for world_size in (4, 8):
        asked = learner(world_size=world_size)
        load = Workload.of(HERE["hidden_sizes"])
        prior = Learnt.nothing(asked.setting, load, world_size).best.cell.roundest()
        for draw in range(14):
            hidden = Hidden(world_size, draw)
            least, low, above = hidden.best()
            try:
                entry = asked.rule(hidden.told)
            except RefusedError as error:
                # One arm is faster on nearly every call there: the engine's own rule stays.
                assert "too wide for a claim" in str(error)
                assert hidden.regret_pct(0) < 0.1
                refused += 1
                continue
            before.append(hidden.regret_pct(prior) - least)
            after.append(hidden.regret_pct(entry["max_bytes"]) - least)
            holds.append((entry["lo"] or 1) < above and (entry["hi"] or np.inf) >= low)
    assert np.mean(after) < 0.01
    assert np.mean(after) < 0.1 * np.mean(before)
    assert np.mean(holds) >= 0.85
    assert refused <= 12
