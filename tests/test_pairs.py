"""Which measured rows are one call: both algorithms, differing in nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_rows import a_row, table

from costmodel.decide.pairs import calls, group_median
from costmodel.model.shape import ALL_REDUCE, FUSED, SEPARATE


def test_rows_pair_only_when_they_differ_in_nothing_but_the_algorithm():
    found = calls(
        table(
            a_row(latency_us=7.0),
            a_row(latency_us=6.0),
            a_row(latency_us=9.0),
            a_row(algorithm="2stage", latency_us=8.0),
            a_row(algorithm="2stage", latency_us=1.0, timing="eager"),
            a_row(algorithm="2stage", latency_us=2.0, source="yours"),
            a_row(algorithm="2stage", latency_us=3.0, tokens=16),
        ),
        FUSED,
    )
    assert len(found) == 4
    pairs = found.select(found.both)
    assert (len(pairs), pairs.one_us[0], pairs.two_us[0], pairs.repeats[0]) == (1, 7.0, 8.0, 1)
    assert pairs.fastest_us[0] == 7.0
    assert pairs.gap_pct[0] == pytest.approx(100 / 7)
    assert (pairs.bytes[0], pairs.world_size[0]) == (8 * 7168 * 2, 4)


def test_separate_ops_and_the_librarys_own_choice_join_a_pair():
    rows = table(
        a_row(latency_us=7.0),
        a_row(algorithm="2stage", latency_us=8.0),
        a_row(op=SEPARATE, algorithm="auto", kernel_version="another norm", latency_us=6.5),
        a_row(op=SEPARATE, algorithm="1stage", kernel_version="another norm", latency_us=6.0),
        a_row(op=SEPARATE, tokens=16, latency_us=5.0),
    )
    auto = table(a_row(algorithm="auto", latency_us=7.7), a_row(algorithm="auto", tokens=9))
    found = calls(rows, FUSED, auto)
    assert found.separate_us.tolist() == [6.0]
    assert found.auto_us.tolist() == [7.7]


def test_an_all_reduce_known_by_bytes_alone_pairs():
    plain = {"op": ALL_REDUCE, "tokens": None, "hidden_dim": None, "dtype": "", "bytes": 65536}
    found = calls(
        table(a_row(**plain), a_row(**plain, algorithm="2stage"), a_row(**{**plain, "bytes": 128})),
        ALL_REDUCE,
    )
    assert found.both.tolist() == [True, False]
    assert found.bytes.tolist() == [65536, 128]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0.1, 1e6)), max_size=40))
def test_group_median_is_the_median_of_each_group(items):
    group = np.array([g for g, _ in items], np.int64)
    values = np.array([v for _, v in items])
    found = group_median(values, group, 5)
    for g in range(5):
        mine = values[group == g]
        assert np.isnan(found[g]) if not mine.size else found[g] == pytest.approx(np.median(mine))


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("source", "yours"), ("url", "https://example.org"), ("date", "2026-09-02"),
        ("gpu", "MI350X"), ("gpu_evidence", "inferred"), ("interconnect", "xgmi-bridge"),
        ("world_size", 8), ("kernel_family", "vllm"), ("kernel_version", "0.1.18"), ("tokens", 16),
        ("hidden_dim", 4096), ("dtype", "fp16"), ("statistic", "mean"), ("rank_reduction", "mean"),
        ("timing", "eager"), ("workgroups", 80), ("threads", 512),
    ],
)  # fmt: skip
def test_no_pair_is_made_across_a_column(column, other):
    """Above all not across GPUs: the difference would be theirs and not the algorithms'."""
    rows = table(a_row(), a_row(algorithm="2stage", latency_us=8.0, **{column: other}))
    assert not calls(rows, FUSED).both.any()
