"""Others' statements: what the facts hold, which interval holds them, where they are shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from costmodel.data import cards, hardware, kernels, llms, statements
from costmodel.data.statements import KINDS, SMALLEST_CROSSOVER, WINDOW, about, published
from costmodel.data.workload import Workload
from costmodel.decide.explanation import explain
from costmodel.decide.recommendation import recommend
from costmodel.decide.regret import Cell
from costmodel.decide.setting import Setting
from costmodel.decide.statements import beside as beside_both
from costmodel.model.shape import ALL_REDUCE, FUSED, WORLD_SIZES
from costmodel.report import markdown
from costmodel.report.case import gather
from costmodel.report.text import context
from costmodel.show import explanation, recommendation

#: The state that vLLM #57886 measured, and the bytes that it states at 8 ranks.
MEASURED = Setting.shipped("MI355X", aiter_version="0.1.19")
VLLM_TP8 = 192 * 1024


def beside(setting, n, lo, hi):
    """One interval for all hidden sizes and for the smallest of them."""
    return beside_both(setting, n, Cell(lo, hi), Cell(lo, hi))


@pytest.mark.parametrize("s", published(), ids=lambda s: f"{s.who} {s.op} TP{s.world_size}")
def test_a_statement_says_all_that_is_needed(s):
    assert s.gpu in hardware.GPUS[s.arch] or cards.without_xgmi()[s.gpu].arch == s.arch
    assert s.gpu_evidence in ("stated", "inferred")
    assert s.world_size in WORLD_SIZES
    assert s.op in (FUSED, ALL_REDUCE)
    assert s.kind in KINDS
    assert (s.lo_bytes is not None) == (s.kind == WINDOW)
    assert (s.lo_bytes or 0) < s.hi_bytes
    assert re.fullmatch(r"\d{4}-\d\d(-\d\d)?", s.date)
    assert s.url == "" or s.url.startswith("https://")
    assert all((s.who, s.compared, s.kernel_version, s.words))
    if s.comparable:
        assert kernels.of_row(s.kernel_family, s.who, s.kernel_version, s.date)


def test_statements_are_of_the_arch_the_ranks_and_the_op_and_ones_own_gpu_comes_first():
    assert [s.who for s in about("MI355X", "gfx950", 8, FUSED)] == ["vLLM #57886", "hip_comms"]
    assert [s.gpu for s in about("MI308X", "gfx942", 4, FUSED)] == ["MI300X"]
    assert about("MI355X", "gfx950", 2, FUSED) == ()


def test_what_is_stated_of_pcie_stands_beside_no_gpu_with_xgmi():
    (pcie,) = about("MI350P", "gfx950", 8, FUSED)
    assert (pcie.hi_bytes, pcie.comparable) == (2 << 20, False)
    assert "PCIe" in pcie.words
    assert pcie not in about("MI355X", "gfx950", 8, FUSED)
    (xgmi,) = about("MI300X", "gfx942", 8, FUSED)
    assert (xgmi.compared, 16 * xgmi.hi_bytes) == (pcie.compared, pcie.hi_bytes)
    assert about("MI350P", "gfx950", 4, FUSED) == ()


def test_of_a_gpu_that_nobody_knows_nothing_is_stated():
    for gpu, arch in (("MI350P", "gfx942"), ("H100", "sm90"), ("MI355X", "gfx942")):
        assert [about(gpu, arch, n, op) for n in WORLD_SIZES for op in (FUSED, ALL_REDUCE)] == [
            ()
        ] * 6


sizes = st.integers(0, 1 << 22) | st.integers(VLLM_TP8 - 2, VLLM_TP8 + 2)


@given(sizes, sizes | st.none())
def test_an_interval_holds_a_crossover_between_its_ends(lo, hi):
    vllm, other = beside(MEASURED, 8, lo, hi)
    assert vllm.statement.hi_bytes == VLLM_TP8
    assert vllm.held == (lo <= VLLM_TP8 and (hi is None or hi >= VLLM_TP8))
    assert (other.held, other.note) == (None, "other kernels")


@given(st.integers(1, VLLM_TP8), st.integers(VLLM_TP8, 1 << 22), st.integers(1, 1 << 20))
def test_moving_an_interval_beyond_a_statement_flips_the_flag(lo, hi, by):
    held = [
        beside(MEASURED, 8, *ends)[0].held
        for ends in ((lo, hi), (VLLM_TP8 + by, hi + by), (lo, VLLM_TP8 - by))
    ]
    assert held == [True, False, False]


@given(st.integers(0, 320 * 1024), st.integers(0, 1 << 20) | st.none())
def test_a_bound_is_held_by_an_interval_that_begins_below_it(lo, hi):
    """11 tokens of hidden 7168 take longer by 1-stage than 12 by 2-stage."""
    (notes,) = beside(Setting.shipped("MI355X", op=ALL_REDUCE), 4, lo, hi)
    assert notes.held == (lo < 11 * 7168 * 2)
    assert notes.note == "its GPU is inferred"


def test_a_window_is_held_where_its_upper_end_lies(monkeypatch):
    (window,) = about("MI300X", "gfx942", 8, ALL_REDUCE)
    ours = replace(window, comparable=True, kernel_family="aiter", kernel_version="AITER 0.1.19")
    monkeypatch.setattr(statements, "published", lambda: (ours,))
    setting = Setting.shipped("MI300X", op=ALL_REDUCE)
    held = [
        beside(setting, 8, lo * 1024, hi * 1024)[0].held
        for lo, hi in ((100, 168), (168, 200), (100, 167), (169, 200))
    ]
    assert held == [True, True, False, False]


def test_what_is_about_another_gpu_is_neither_inside_nor_outside():
    vllm = beside(Setting.shipped("MI350X", aiter_version="0.1.19"), 8, 0, None)[0]
    assert vllm.statement.who == "vLLM #57886"
    assert (vllm.held, vllm.note) == (None, "another GPU")


@pytest.mark.parametrize(
    ("op", "n", "version", "same"),
    [
        (FUSED, 8, "0.1.19.post1", False),  # its fused 1-stage got an exit barrier
        (FUSED, 8, "0.1.16", True),  # less is taken, in the same time
        (FUSED, 8, "0.1.15", True),  # without an exit barrier in the plain op alone
        (ALL_REDUCE, 4, "0.1.15", False),
        (ALL_REDUCE, 4, "0.1.19.post1", True),
    ],
)
def test_the_state_that_counts_is_that_of_the_op_s_arms(op, n, version, same):
    first = beside(Setting.shipped("MI355X", op=op, aiter_version=version), n, 0, None)[0]
    assert first.statement.comparable
    assert (first.held is not None) == same
    assert (first.note == "another kernel version") == (not same)


def test_other_kernels_and_other_fabrics(monkeypatch):
    own = replace(MEASURED.calibration, kernel_family=kernels.OWN_FAMILY)
    assert {b.note for b in beside(MEASURED.but(calibration=own), 8, 0, None)} == {"other kernels"}
    loopback = replace(MEASURED.calibration, fabric="loopback")
    assert beside(MEASURED.but(calibration=loopback), 8, 0, None) == ()


def test_statements_move_no_number(monkeypatch):
    with_them = recommend(MEASURED, world_sizes=(8,)).to_dict()
    monkeypatch.setattr(statements, "published", lambda: ())
    without = recommend(MEASURED, world_sizes=(8,)).to_dict()
    assert len(with_them["cutoffs"][0].pop("statements")) == 2
    assert without["cutoffs"][0].pop("statements") == []
    assert with_them == without


@pytest.mark.parametrize("kind", KINDS[:2] + KINDS[3:4])
def test_the_interval_is_that_of_what_is_stated(monkeypatch, kind):
    cutoff = recommend(MEASURED, world_sizes=(8,)).at(8)
    (vllm, _), lo, hi = (
        about("MI355X", "gfx950", 8, FUSED),
        cutoff.max_bytes_lo,
        cutoff.max_bytes_hi,
    )
    if kind == SMALLEST_CROSSOVER:
        smallest = cutoff.adequacy.smallest
        assert smallest.lo < lo
        assert lo < smallest.hi <= hi
        lo, hi = smallest.lo, smallest.hi
    stated = (lo - 1, lo, cutoff.max_bytes, hi, hi + 1)
    monkeypatch.setattr(
        statements, "published", lambda: tuple(replace(vllm, hi_bytes=b, kind=kind) for b in stated)
    )
    beside_it = recommend(MEASURED, world_sizes=(8,)).at(8).statements
    assert [b.held for b in beside_it] == [False, True, True, True, False]


def test_the_smallest_crossovers_that_vllm_measured_are_held():
    """AITER 0.1.19 on MI355X: no row at that state is from there, and no prior was moved for it."""
    for n, stated in ((4, 320 * 1024), (8, VLLM_TP8)):
        cutoff = recommend(MEASURED, world_sizes=(n,)).at(n)
        assert cutoff.adequacy.smallest.lo <= stated <= cutoff.adequacy.smallest.hi
        assert cutoff.adequacy.smallest.hi < 2 * stated
        assert cutoff.statements[0].held


def test_recommend_and_explain_show_what_the_record_says():
    decision = recommend(MEASURED, world_sizes=(8,))
    (cutoff,) = decision.to_dict()["cutoffs"]
    vllm, _ = cutoff["statements"]
    assert (vllm["hi_bytes"], vllm["url"]) == (VLLM_TP8, "https://github.com/vllm-project/vllm/pull/57886")  # fmt: skip
    lo, hi = cutoff["smallest_over_hidden_lo"], cutoff["smallest_over_hidden_hi"]
    assert vllm["held"] == (lo <= VLLM_TP8 <= hi)
    text = " ".join(recommendation.text(decision).split())
    flag = "inside" if vllm["held"] else "OUTSIDE"
    said = "vLLM #57886, AITER 0.1.19: smallest crossover over hidden sizes 192 KiB"
    assert f"others measured: {said} - {flag} this interval" in text
    assert "others (other kernels): hip_comms" in text

    told = explain(MEASURED, MEASURED.shapes(16, 7168, 8))
    assert told.cutoff is not None
    flag = "inside" if told.cutoff.statements[0].held else "OUTSIDE"
    lines = [x for x in explanation.text(told).splitlines() if x.startswith("others")]
    assert len(lines) == 1
    assert f"{said} - {flag} this interval" in lines[0]


@pytest.mark.parametrize(("gpu", "lines"), [("MI300X", 1), ("MI325X", 0)])
def test_explain_shows_no_statement_on_another_gpu(gpu, lines):
    setting = Setting.shipped(gpu)
    text = explanation.text(explain(setting, setting.shapes(16, 7168, 8)))
    assert sum(x.startswith("others (other kernels): AITER #5670, ") for x in text.splitlines()) == lines  # fmt: skip
    assert ("AITER #5670" in text) == bool(lines)
    assert "AITER #5670" in recommendation.text(recommend(setting, Workload.of([7168])))


def test_the_report_has_them_in_a_table():
    llm = llms.find("gpt-oss-120b")
    case = gather(MEASURED.but(engine="sglang"), llm, world_sizes=(2, 8))
    text = markdown.render(context([case], "costmodel report", "out"))
    rows = [x for x in text.splitlines() if "57886](https://github.com" in x]
    assert len(rows) == 1
    assert rows[0].startswith("| TP8 |")
    held = case.by_world_size[1].cutoff.statements[0].held
    assert ("**OUTSIDE this interval" in rows[0]) == (not held)
    two = gather(MEASURED.but(engine="sglang"), llm, world_sizes=(2,))
    assert "none of it was fitted" in text
    assert "none of it was fitted" not in markdown.render(context([two], "costmodel", "out"))
