from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.calibration.posterior import shipped
from costmodel.data.workload import Workload, captured_batch_sizes, snap_tokens
from costmodel.decide.recommendation import best_cutoff, recommend
from costmodel.errors import InputError

GPUS = [("gfx942", "MI300X"), ("gfx942", "MI308X"), ("gfx942", "MI325X"),
        ("gfx950", "MI350X"), ("gfx950", "MI355X")]  # fmt: skip


@pytest.fixture(scope="module")
def answers():
    return {gpu: recommend(shipped(arch), gpu=gpu) for arch, gpu in GPUS}


@pytest.mark.parametrize("gpu", [g for _, g in GPUS])
def test_two_ranks_are_always_1stage(answers, gpu):
    cutoff = answers[gpu].cutoffs[0]
    assert (cutoff.world_size, cutoff.verdict, cutoff.max_bytes) == (2, "always_1stage", None)


@pytest.mark.parametrize("gpu", [g for _, g in GPUS])
def test_eight_ranks_switch_at_half_to_three_quarters_of_four(answers, gpu):
    _, four, eight = answers[gpu].cutoffs
    assert 0.5 <= eight.max_bytes / four.max_bytes <= 0.75


def test_mi355x_at_4_ranks_is_measured_where_the_arms_cross(answers):
    """The published arms: 11.55 against 11.79 us at 448 KiB, 20.09 against 16.38 at 896 KiB."""
    cutoff = answers["MI355X"].cutoffs[1]
    assert cutoff.verdict == "measured"
    assert 448 * 1024 <= cutoff.max_bytes <= 560 * 1024
    assert cutoff.max_bytes_lo <= cutoff.max_bytes <= cutoff.max_bytes_hi
    assert "aiter-3458-mi355x" in cutoff.reason


@pytest.mark.parametrize("gpu", ["MI300X", "MI308X", "MI325X"])
def test_gfx942_is_not_passed_off_as_measured(answers, gpu):
    for cutoff in answers[gpu].cutoffs[1:]:
        assert cutoff.verdict == "transferred"
        assert "MI355X" in cutoff.reason
        assert cutoff.max_bytes_hi / cutoff.max_bytes_lo > 1.6
        assert {m["algorithm"] for m in cutoff.measure_next} == {"1stage", "2stage"}


def test_gfx942_is_wider_than_gfx950(answers):
    def ratio(gpu):
        return answers[gpu].cutoffs[1].max_bytes_hi / answers[gpu].cutoffs[1].max_bytes_lo

    assert ratio("MI300X") > ratio("MI355X")


def test_2880_is_in_the_set_and_hidden_does_not_matter_beyond_bytes(answers):
    found = answers["MI300X"]
    assert 2880 in found.hidden_set
    assert 16384 not in found.hidden_set
    assert not found.depends_on_hidden
    assert found.hidden_rule == "hidden % 8 == 0 and hidden / 8 <= 1024"


def test_old_versions_have_a_hidden_set_and_a_token_cap():
    found = recommend(shipped("gfx942"), gpu="MI300X", aiter_version="0.1.10.post3")
    assert set(found.hidden_set) == {2048, 4096}
    assert "tokens <= 80" in found.hidden_rule


def test_switch_points_are_captured_batches_around_the_cutoff(answers):
    four = answers["MI355X"].cutoffs[1]
    for hidden, last, first in four.switch:
        assert last * hidden * 2 <= four.max_bytes < first * hidden * 2
        assert {last, first} <= {0, *captured_batch_sizes().tolist()}


def test_a_rejected_hidden_size_is_refused():
    with pytest.raises(InputError, match="hidden size 16384 is rejected"):
        recommend(shipped("gfx942"), gpu="MI300X", hidden_dims=(16384,))


def test_no_1stage_kernel_nothing_to_choose():
    with pytest.raises(InputError, match="nothing to choose"):
        recommend(shipped("gfx942"), gpu="MI300X", aiter_version="0.1.10")


def test_plain_all_reduce_has_an_answer_too():
    found = recommend(shipped("gfx950"), gpu="MI355X", op="all_reduce")
    assert found.cutoffs[0].verdict == "always_1stage"
    # AITER says 160 and 80 KiB for the plain op, vLLM proposed 64.
    assert 32 * 1024 <= found.cutoffs[2].max_bytes_lo <= 200 * 1024


def brute_force(size, t1, t2, weight):
    """Try every cutoff one by one."""
    best = np.minimum(t1, t2)
    regret = {}
    for cutoff in [0, *np.unique(size)]:
        chosen = np.where(size <= cutoff, t1, t2)
        regret[int(cutoff)] = float(np.mean((weight * (chosen / best - 1)).sum(1)))
    return regret


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_best_cutoff_is_the_best_of_all_cutoffs(seed):
    rng = np.random.default_rng(seed)
    n, draws = int(rng.integers(2, 30)), int(rng.integers(1, 6))
    size = np.sort(rng.integers(1, 12, n)) * 1000
    t1, t2 = rng.uniform(1, 10, (2, draws, n))
    weight = rng.dirichlet(np.ones(n))
    choice = best_cutoff(size, t1, t2, weight)
    regret = brute_force(size, t1, t2, weight)
    # ``bytes`` may be a rounder value that decides alike: judge what it decides.
    chosen = np.where(size <= choice.bytes, t1, t2)
    mine = float(np.mean((weight * (chosen / np.minimum(t1, t2) - 1)).sum(1)))
    assert mine == pytest.approx(min(regret.values()), abs=1e-12)
    assert choice.regret_pct == pytest.approx(100 * mine, abs=1e-9)
    assert choice.lo <= choice.bytes
    assert choice.hi is None or choice.lo <= choice.hi


def test_a_known_crossing_is_found():
    size = np.arange(1, 201) * 4096
    w, a1, a2 = 50e3, 5.0, 8.0
    t1, t2 = (a1 + size / w)[None], (a2 + size / 2 / w)[None]
    choice = best_cutoff(size, t1, t2, np.full(200, 1 / 200))
    crossing = (a2 - a1) * w * 2
    assert crossing - 4096 <= choice.bytes <= crossing + 4096
    assert choice.always == choice.never == 0


def test_weights_decide_where_one_cutoff_cannot_serve_all():
    size = np.array([1000, 2000, 3000])
    t1, t2 = np.array([[2.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 1.0]])
    assert best_cutoff(size, t1, t2, np.array([0.1, 0.8, 0.1])).bytes >= 2000
    assert best_cutoff(size, t1, t2, np.array([0.6, 0.2, 0.2])).bytes == 0


def test_captured_batches_and_workload():
    batch = captured_batch_sizes()
    assert batch[:5].tolist() == [1, 2, 4, 8, 16]
    assert batch[-2:].tolist() == [496, 512]
    assert len(batch) == 3 + 32 + 16
    load = Workload.of([2880, 7168])
    assert load.weight.sum() == pytest.approx(1)
    assert len(load.tokens) == 2 * 51
    assert snap_tokens(128 * 1024, 2880, 2) == (16, 24)
    assert snap_tokens(100, 2880, 2) == (0, 1)
    assert snap_tokens(24 * 2880 * 2, 2880, 2) == (24, 32)
    assert snap_tokens(10**9, 2880, 2) == (512, None)
