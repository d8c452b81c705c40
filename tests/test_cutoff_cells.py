"""A cutoff, its cell and its interval: which cutoffs decide alike, and which is the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.data import llms
from costmodel.data.workload import Workload, captured_batch_sizes
from costmodel.decide.recommendation import every_hidden_cell, recommend
from costmodel.decide.regret import Arms
from costmodel.decide.setting import Setting
from costmodel.model.shape import WORLD_SIZES

SHIPPED = ("MI300X", "MI308X", "MI325X", "MI350X", "MI355X")


MODELS = ("", "gpt-oss-120b", "deepseek-r1")


@settings(max_examples=60, deadline=None)
@given(
    gpu=st.sampled_from(SHIPPED),
    packs=st.lists(st.integers(64, 1024), min_size=1, max_size=3, unique=True),
    n=st.sampled_from(WORLD_SIZES),
    op=st.sampled_from(["fused_ar_rmsnorm", "all_reduce"]),
    dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
)
def test_a_cutoff_lies_in_its_interval_and_its_cell(gpu, packs, n, op, dtype):
    unit = 4 if dtype == "fp32" else 2
    load = Workload.of([16 // unit * p for p in packs])
    c = recommend(Setting.shipped(gpu, op=op, dtype=dtype), load, world_sizes=(n,)).at(n)
    best = c.arms.best()
    top = np.inf if best.cell.hi is None else best.cell.hi
    assert best.lo.lo <= best.cell.lo <= top
    assert best.hi.hi is None or top <= best.hi.hi
    if c.max_bytes is None:
        return
    assert c.max_bytes_lo <= c.max_bytes
    assert c.max_bytes_hi is None or c.max_bytes <= c.max_bytes_hi
    assert c.cell.lo <= c.max_bytes
    assert c.cell.hi is None or c.max_bytes <= c.cell.hi
    assert best.cell.lo <= c.max_bytes <= top


#: Every hidden size of 16 bits that the 1-stage kernel takes.
EVERY_HIDDEN = np.arange(8, 8193, 8)


def decides(limit: int):
    """Return what a cutoff decides on every captured batch of every hidden size, (h, batch)."""
    return EVERY_HIDDEN[:, None] * captured_batch_sizes() * 2 <= limit


@settings(max_examples=60, deadline=None)
@given(
    gpu=st.sampled_from(SHIPPED), model=st.sampled_from(MODELS), n=st.sampled_from((4, 8)),
    share=st.floats(0, 1),
)  # fmt: skip
def test_the_emitted_rule_decides_alike_anywhere_in_its_cell(gpu, model, n, share):
    load = Workload.of([llms.find(model).hidden_size]) if model else None
    decision = recommend(Setting.shipped(gpu), load, world_sizes=(n,))
    c = decision.at(n)
    if not c.claimed:
        return
    same = decides(c.max_bytes)
    inside = c.cell.lo + round(share * (c.cell.hi - c.cell.lo))
    for limit in (c.cell.lo, inside, c.cell.hi):
        assert (decides(limit) == same).all()
    # No wider one would do.
    assert (decides(c.cell.lo - 1) != same).any()
    assert (decides(c.cell.hi + 1) != same).any()
    # And it is what the rule does.
    t, h = (a.ravel() for a in np.meshgrid(captured_batch_sizes(), EVERY_HIDDEN))
    calls = decision.setting.shapes(t, h, n)
    assert (decision.rule.use_1stage(calls).reshape(same.shape) == same).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40 * 2**20))
def test_the_cell_of_any_cutoff_is_the_widest_that_decides_alike(limit):
    cell = every_hidden_cell(Setting.shipped("MI355X"), limit)
    same = decides(limit)
    assert (decides(cell.lo) == same).all()
    if cell.lo:
        assert (decides(cell.lo - 1) != same).any()
    if cell.hi is None:
        assert same.all()
    else:
        assert (decides(cell.hi) == same).all()
        assert (decides(cell.hi + 1) != same).any()


@settings(max_examples=40, deadline=None)
@given(
    gpu=st.sampled_from(SHIPPED), n=st.sampled_from(WORLD_SIZES),
    hidden=st.lists(st.sampled_from([512, 2880, 4096, 7168, 8192]), min_size=1, unique=True),
    tokens=st.lists(st.integers(1, 512), min_size=2, max_size=12, unique=True),
    data=st.data(),
)  # fmt: skip
def test_the_best_cutoff_is_the_best_of_all_by_brute_force(gpu, n, hidden, tokens, data):
    weight = data.draw(
        st.lists(st.floats(0.01, 1.0), min_size=len(tokens), max_size=len(tokens))
    )  # fmt: skip
    arms = Arms.of(Setting.shipped(gpu), Workload.of(hidden, tokens, weight), n)
    size = arms.shapes.bytes
    tried = {limit: float(arms.regret_pct(size <= limit).mean()) for limit in [0, *size.tolist()]}
    best = arms.best()
    assert best.regret_pct == pytest.approx(min(tried.values()), abs=1e-9)
    mine = arms.regret_pct(size <= best.cell.roundest()).mean()
    assert mine == pytest.approx(min(tried.values()), abs=1e-9)
