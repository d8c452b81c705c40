"""The cutoff that measured pairs say without the model, and how much they scatter."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.data import measurement
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.evidence import ALWAYS_ONE_STAGE, MEASURED, NOT_IDENTIFIED
from costmodel.decide.measured_cutoff import (
    FEWEST_PAIRS,
    PER_MEDIAN,
    arms_of,
    measured_cutoff,
    ratio_scatter,
    spared_pct,
)
from costmodel.decide.pairs import pair
from costmodel.decide.recommendation import recommend

HIDDEN = (2880, 7168)


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
    few = verdict(4 + 0.1 * tokens, 8 + 0.02 * tokens, FEWEST_PAIRS - 1)
    assert few.verdict == NOT_IDENTIFIED
    assert few.reason.endswith(f"fewer than {FEWEST_PAIRS}")


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


def test_one_pair_between_two_scatters_by_its_distance_from_their_line():
    """In log size and log ratio; the line's own ends scatter too, each by its share."""
    one, two = np.array([10.0, 13.0, 44.0]), np.array([12.0, 11.0, 40.0])
    found = pairs([8, 16, 128], [7168] * 3, one, two)
    ratio = np.log(one / two)  # 16 lies a quarter of the way from 8 to 128
    apart = abs(ratio[1] - (0.75 * ratio[0] + 0.25 * ratio[2]))
    wanted = PER_MEDIAN * apart / np.sqrt(1 + 0.25**2 + 0.75**2)
    assert ratio_scatter(found) == pytest.approx(wanted, rel=1e-12)
    swapped = found.select(np.array([2, 0, 1]))
    assert ratio_scatter(swapped) == pytest.approx(wanted, rel=1e-12)


def test_what_pairs_spare_is_as_sure_as_the_calls_that_they_decide_otherwise(mi355x):
    """The mean over n pairs of d errors of the scatter each: scatter * sqrt(d) / n."""
    tokens = np.array([*range(8, 24, 2), *range(200, 512, 26)])
    scatter = 1 + 0.01 * (-1.0) ** np.arange(tokens.size)
    one, two = (4 + 0.1 * tokens) * scatter, 8 + 0.02 * tokens  # they meet at 50 tokens
    found = pairs(tokens, [7168] * tokens.size, one, two)
    load = Workload.of([7168])
    # The last pair below the crossing, left out, is larger than any that the others send.
    own = tokens < tokens[tokens < 50].max()
    spared, error = spared_pct(mi355x, load, 4, found, np.ones(tokens.size, np.bool_))
    lost = 100 * (one - two) / np.minimum(one, two)
    assert spared == pytest.approx(np.mean(np.where(own, 0.0, lost)))
    n, differ = tokens.size, int((~own).sum())
    assert error == pytest.approx(100 * ratio_scatter(found) * np.sqrt(differ) / n)
    assert spared_pct(mi355x, load, 4, found, own) == (0.0, 0.0)
