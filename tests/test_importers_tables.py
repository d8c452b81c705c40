"""Tables of latencies as people paste them: what is read of them, and what is asked for."""

from pathlib import Path

import pytest
from importing import briefly, column, imported, left, of

from costmodel.data.importers.context import Context, said_by
from costmodel.data.importers.labels import read_label, untold
from costmodel.data.importers.quantities import (
    count,
    is_no_figure,
    microseconds,
    ranks,
    shape,
    size,
    truth,
)  # fmt: skip
from costmodel.data.importers.rows import Said
from costmodel.errors import InputError

CASES = Path(__file__).parent / "cases"


# The files of tests/cases, whose README says what is right.


def test_a_greek_mu_shapes_and_ranks_of_a_heading():
    rows, told = imported(CASES / "pr-shape-mu.md", op="all_reduce", algorithm="1stage")
    assert briefly(rows) == [
        "plain 1stage 8 4 7168 bf16 57344 15.8 - clean",
        "plain 1stage 8 4 7168 bf16 57344 18.1 - clean",
        "plain 1stage 8 8 8192 fp32 262144 18 - clean",
        "plain 1stage 8 8 8192 fp32 262144 17.9 - clean",
    ]
    assert column(rows, "kernel_family") == ["flydsl", "aiter", "flydsl", "aiter"]
    assert told.n_left == 0
    with pytest.raises(
        InputError, match=r"'FlyDSL' does not say which op: --op, or --column 'FlyD"
    ):
        imported(CASES / "pr-shape-mu.md")


def test_each_heading_has_its_ranks():
    rows, _ = imported(CASES / "pr-tp-heading.md", op="fused_ar_rmsnorm", algorithm="1stage")
    assert column(rows, "world_size", "tokens", "latency_us") == [
        ("8", "4", "6.98"), ("8", "8", "16.04"), ("4", "4", "5.83"), ("4", "8", "5.88"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="'latency_us' does not say which op"):
        imported(CASES / "pr-tp-heading.md")


def test_units_in_cells_and_a_mode_that_says_the_arm():
    said = {"world_size": "4", "hidden_dim": "7168", "dtype": "bf16"}
    rows, told = imported(CASES / "pr-unit-in-cells.md", **said)
    assert briefly(rows) == [
        "separate - 4 1 7168 bf16 14336 22.64 - clean",
        "fused 1stage 4 1 7168 bf16 14336 19.32 - clean",
        "separate - 4 32 7168 bf16 458752 24.281 - clean",
        "fused 2stage 4 32 7168 bf16 458752 25.4 - clean",
    ]
    assert "columns not used: fused delta" in told.notes
    with pytest.raises(
        InputError, match="ranks and size not said: --world-size and --hidden-dim: 4"
    ):
        imported(CASES / "pr-unit-in-cells.md")


def test_two_arms():
    rows, _ = imported(CASES / "simple-two-arm.md", world_size="8", hidden_dim="7168")
    assert column(rows, "algorithm", "tokens", "latency_us") == [
        ("1stage", "8", "9.1"), ("2stage", "8", "10.2"),
        ("1stage", "64", "15"), ("2stage", "64", "13.5"),
    ]  # fmt: skip
    with pytest.raises(
        InputError, match="ranks and size not said: --world-size and --hidden-dim: 4"
    ):
        imported(CASES / "simple-two-arm.md")


# Forms of a pasted table: each says all that a row needs.

HEAD = "### TP8, hidden 7168, bf16, MI355X\n\n"
FORMS = {
    "alignment of one dash, bold, struck out, ticks": (
        HEAD + "| Tokens | fused 1-stage (us) |\n|--:|:-:|\n| 1 | **9.1** ✅ |\n| 2 | ~~9.2~~ 🚀 |\n",
        ["9.1", "9.2"],
    ),
    "no outer bars": (
        HEAD + "tokens | fused 1stage (us)\n---|---\n1 | 9.1\n2 | 9.2\n", ["9.1", "9.2"],
    ),
    "a grid": (
        HEAD + "+--------+-------------------+\n| tokens | fused 1stage (us) |\n"
        "+========+===================+\n| 1      | 9.1               |\n"
        "+--------+-------------------+\n| 2      | 9.2               |\n"
        "+--------+-------------------+\n", ["9.1", "9.2"],
    ),
    "behind a launcher": (
        "[1,0]<stdout>:TP8 hidden=7168 dtype=bf16\n[1,0]<stdout>:| tokens | fused 1stage us |\n"
        "[1,0]<stdout>:|---|---|\n[1,0]<stdout>:| 1 | 9.1 |\n", ["9.1"],
    ),
    "behind a log": (
        HEAD + "08-20 10:00 INFO | tokens | fused 1stage us |\n08-20 10:00 INFO |---|---|\n"
        "08-20 10:00 INFO | 1 | 9.1 |\n", ["9.1"],
    ),
    "colours": (HEAD + "| tokens | fused 1stage us |\n|---|---|\n| 1 | \x1b[32m9.1\x1b[0m |\n", ["9.1"]),
    "console columns": (
        "TP=8 hidden=7168 dtype=bf16\ntokens   fused 1stage (us)\n------   -----------------\n"
        "1        9.1\n2        9.2\n\ndone\n", ["9.1", "9.2"],
    ),
    "console columns without a rule": (
        HEAD + "tokens   fused_1stage_us\n1        9.1\n2        9.2\n", ["9.1", "9.2"],
    ),
    "a data frame": (
        HEAD + "   tokens  fused_1stage_us\n0       1              9.1\n1       2              9.2\n",
        ["9.1", "9.2"],
    ),
    "tabs": (HEAD + "tokens\tfused 1stage (us)\n1\t9.1\n2\t9.2\n", ["9.1", "9.2"]),
    "CSV in a fence": (
        HEAD + "```csv\ntokens,fused_1stage_us\n1,9.1\n2,9.2\n```\nthe end, 3, 4\n", ["9.1", "9.2"],
    ),
    "semicolons": (HEAD + "tokens;fused_1stage_us\n1;9.1\n", ["9.1"]),
    "CSV with quotes and a break in a cell": (
        'tokens,hidden,tp,dtype,note,fused_1stage_us\n1,7168,8,bf16,"a, b\nc",9.1\n', ["9.1"],
    ),
    "a byte order mark and Windows ends": (
        "\ufefftokens,hidden,tp,dtype,fused_1stage_us\r\n1,7168,8,bf16,9.1\r\n", ["9.1"],
    ),
    "an escaped bar": (
        HEAD + "| kernel \\| variant | tokens | us |\n|---|---|---|\n| fused 1stage \\| a | 1 | 9.1 |\n",
        ["9.1"],
    ),
    "a thousands separator": (
        HEAD + "| tokens | fused 1stage (us) |\n|---|---|\n| 1,024 | 1,130.5 |\n", ["1130.5"],
    ),
    "both mus and milliseconds in cells": (
        HEAD + "| tokens | fused 1stage |\n|---|---|\n| 1 | 9.1 µs |\n| 2 | 9.2 μs |\n| 3 | 1.2 ms |\n",
        ["9.1", "9.2", "1200"],
    ),
    "a unit in the heading": (
        "### TP8 hidden=7168 latency (ms)\n\n| tokens | 1stage fused |\n|---|---|\n| 1 | 0.0091 |\n",
        ["9.1"],
    ),
    "a unit in a line above": (
        HEAD + "All times in microseconds.\n\n| tokens | 1stage fused |\n|---|---|\n| 1 | 9.1 |\n",
        ["9.1"],
    ),
    "a spread, a ratio in brackets": (
        HEAD + "| tokens | 1stage fused us |\n|---|---|\n| 1 | 9.1 ± 0.2 |\n| 2 | 9.2 (1.3x) |\n",
        ["9.1", "9.2"],
    ),
    "a fold": (
        "<details><summary>TP=8, hidden=7168</summary>\n\n| bs | fused 1stage us |\n|---|---|\n"
        "| 1 | 9.1 |\n\n</details>\n", ["9.1"],
    ),
    "JSON records": (
        '[{"tp": 8, "shape": [1, 7168], "dtype": "bfloat16", "op": "fused 1stage", "latency_us": 9.1}]',
        ["9.1"],
    ),
    "JSON records with statistics": (
        '{"tp": 8, "rows": [{"M": 1, "N": 7168, "fused_1stage_us": {"median": 9.1, "p99": 12}}]}',
        ["9.1"],
    ),
    "JSON lines": (
        '{"tp": 8, "m": 1, "n": 7168, "fused_1stage_us": 9.1}\n'
        '{"tp": 8, "m": 2, "n": 7168, "fused_1stage_us": 9.2}\n', ["9.1", "9.2"],
    ),
    "statistics beside each other": (
        "tp,m,n,algo,min_us,mean_us,p50_us,p99_us\n8,1,7168,fused 1stage,8.8,9.3,9.1,12.0\n", ["9.1"],
    ),
    "ranks in a cell": (
        "| GPUs | tokens | hidden | fused 1stage (us) |\n|---|---|---|---|\n| 8x MI300X | 1 | 7168 | 9.1 |\n"
        "| TP8 | 2 | 7168 | 9.2 |\n", ["9.1", "9.2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "latencies"), FORMS.values(), ids=FORMS)
def test_forms_of_a_table(tmp_path, text, latencies):
    rows, told = of(tmp_path, text)
    assert column(rows, "latency_us") == latencies
    assert {(r["op"], r["algorithm"], r["world_size"], r["hidden_dim"]) for r in rows} == {
        ("fused_ar_rmsnorm", "1stage", "8", "7168")
    }
    assert column(rows, "tokens") == (["1024"] if "1,024" in text else ["1", "2", "3"][: len(rows)])
    assert told.n_left == 0


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("(64, 7168)", ("64", "7168")), ("64x7168", ("64", "7168")), ("64 × 7168", ("64", "7168")),
        ("[64, 7168]", ("64", "7168")), ("64,7168", ("64", "7168")),
        ("torch.Size([64, 7168])", ("64", "7168")), ("1,024 x 7,168", ("1024", "7168")),
        ("M=64, N=7168", ("64", "7168")), ("64*7168", ("64", "7168")), ("64 7168", ("64", "7168")),
    ],
)  # fmt: skip
def test_shapes(tmp_path, cells, expected):
    text = f"| shape | tp | fused 1stage us |\n|---|---|---|\n| {cells} | 8 | 9.1 |\n"
    rows, _ = of(tmp_path, text)
    assert column(rows, "tokens", "hidden_dim") == [expected]


@pytest.mark.parametrize(
    ("cell", "size_bytes", "note"),
    [
        ("128 KB", "131072", True), ("64KiB", "65536", False), ("1M", "1048576", True),
        ("512 B", "512", False), ("1,048,576", "1048576", False), ("2 MiB", "2097152", False),
        ("0.50 MB", "524288", True), ("1 GB", "1073741824", True), ("16k", "16384", True),
        ("4096", "4096", False),
    ],
)  # fmt: skip
def test_sizes(tmp_path, cell, size_bytes, note):
    text = f"TP8\n\n| message size | 1stage all-reduce (us) |\n|---|---|\n| {cell} | 9.1 |\n"
    rows, told = of(tmp_path, text)
    assert column(rows, "bytes") == [size_bytes]
    assert ("KB and MB of sizes are taken as powers of 1024" in told.notes) is note


def test_a_size_beside_a_shape_decides_what_kb_is(tmp_path):
    text = "TP8 bf16\n\n| tokens | hidden | size | fused 1stage us |\n|---|---|---|---|\n"
    rows, told = of(tmp_path, text + "| 8 | 8192 | 131.1 KB | 9.1 |\n")
    assert column(rows, "bytes") == ["131072"]
    assert "KB and MB of sizes are powers of 1000, as the shapes say" in told.notes
    rows, told = of(tmp_path, text + "| 8 | 8192 | 128 KB | 9.1 |\n| 8 | 8192 | 256 KB | 9.2 |\n")
    assert column(rows, "bytes") == ["131072"]
    assert left(told) == {"the size is not tokens x hidden size x element size": 1}


def test_a_rounded_size_alone_is_no_size(tmp_path):
    text = "TP8\n\n| size | all-reduce (us) |\n|---|---|\n| 0.11 MB | 9.1 |\n| 64 KB | 8.1 |\n"
    rows, told = of(tmp_path, text)
    assert column(rows, "latency_us") == ["8.1"]
    assert left(told) == {"size '0.11 MB' is rounded: no whole number of bytes": 1}


# Arms.


def test_baseline_is_no_op_unless_it_is_said(tmp_path):
    text = (
        HEAD
        + "| tokens | baseline (us) | fused (us) | speedup |\n|---|---|---|---|\n| 1 | 12 | 9 | 1.3x |\n"
    )
    rows, told = of(tmp_path, text)
    assert column(rows, "op", "latency_us") == [("fused_ar_rmsnorm", "9")]
    assert left(told) == {
        "'baseline' does not say which op: --op, or --column 'baseline=OP:ALGORITHM'": 1
    }
    for name in ("baseline (us)", "Baseline us"):
        rows, told = of(tmp_path, text, columns={name: "ar_then_rmsnorm"})
        assert column(rows, "op", "latency_us") == [
            ("ar_then_rmsnorm", "12"),
            ("fused_ar_rmsnorm", "9"),
        ]
    rows, _ = of(tmp_path, text, columns={"baseline (us)": "-"})
    assert column(rows, "op") == ["fused_ar_rmsnorm"]


@pytest.mark.parametrize(
    "side", ["before", "after", "this PR", "main", "old", "new", "ours", "reference"]
)
def test_sides_of_a_comparison_are_asked_for(tmp_path, side):
    text = HEAD + f"| tokens | {side} (us) |\n|---|---|\n| 1 | 12 |\n"
    with pytest.raises(InputError, match=r"does not say which op: --op, or --column"):
        of(tmp_path, text)
    rows, _ = of(tmp_path, text, op="fused_ar_rmsnorm", algorithm="2stage")
    assert briefly(rows) == ["fused 2stage 8 1 7168 bf16 14336 12 - clean"]
    assert column(rows, "kernel_version") == [side.lower()]


def test_a_caption_says_the_op_of_neutral_columns_alone(tmp_path):
    text = "### TP8 {}\n\n| tokens | hidden | {} |\n|---|---|---|\n| 1 | 7168 | 9.1 |\n"
    rows, _ = of(tmp_path, text.format("fused all-reduce + RMSNorm, 1-stage", "latency (us)"))
    assert column(rows, "op", "algorithm") == [("fused_ar_rmsnorm", "1stage")]
    rows, _ = of(tmp_path, text.format("custom all-reduce", "2stage us"))
    assert column(rows, "op", "algorithm") == [("all_reduce", "2stage")]
    for caption, name in (
        ("fused against split", "latency (us)"), ("fused all-reduce", "before (us)"),
        ("all-gather", "latency (us)"), ("fused qk_norm all-reduce", "latency us"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"does not say which op|no op of schema 1"):
            of(tmp_path, text.format(caption, name))


def test_an_all_reduce_and_a_norm_are_the_separate_ops_beside_a_fused_one(tmp_path):
    text = HEAD + "| tokens | AR + RMSNorm (us) |{}\n|---|---|{}\n| 1 | 15 |{}\n"
    rows, _ = of(tmp_path, text.format(" Fused AR+RMSNorm (us) |", "---|", " 9 |"))
    assert column(rows, "op") == ["ar_then_rmsnorm", "fused_ar_rmsnorm"]
    with pytest.raises(InputError, match="does not say which op"):
        of(tmp_path, text.format("", "", ""))


def test_aiter_s_kernels_that_push_are_families_of_their_own_and_another_s_ll_is_not(tmp_path):
    """Else a row of LL would be one of AITER's 1-stage, by its own dispatch."""
    text = "op,tokens,hidden,kernel,latency (us)\n" + "".join(
        f"all_reduce,8,7168,{kernel},{us}\n"
        for kernel, us in (
            ("aiter LL", 8), ("AITER LL128 b512", 7.6), ("aiter 1stage", 16), ("rccl ring LL", 30),
            ("aiter allreduce", 15),
        )
    )  # fmt: skip
    rows, _ = of(tmp_path, text, world_size="2")
    assert column(rows, "kernel_family", "algorithm") == [
        ("aiter-ll", "1stage"), ("aiter-ll128", "1stage"), ("aiter", "1stage"), ("rccl", ""),
        ("aiter", ""),
    ]  # fmt: skip
    text = "tokens,hidden_dim,plain_1stage,plain_ll,plain_ll128\n8,7168,16.3,8.0,7.6\n"
    rows, _ = of(tmp_path, text, op="all_reduce", unit="us", world_size="2")
    assert column(rows, "kernel_family") == ["", "aiter-ll", "aiter-ll128"]


def test_the_separate_ops_have_no_algorithm_of_the_option(tmp_path):
    text = HEAD + "| tokens | split us | fused us |\n|---|---|---|\n| 1 | 15 | 9 |\n"
    rows, _ = of(tmp_path, text, algorithm="1stage")
    assert column(rows, "op", "algorithm") == [
        ("ar_then_rmsnorm", ""),
        ("fused_ar_rmsnorm", "1stage"),
    ]


def test_hyper_connections_are_another_op(tmp_path):
    text = (
        HEAD + "| tokens | split + mhc us | fused mhc 1stage us |\n|---|---|---|\n| 1 | 15 | 9 |\n"
    )
    rows, told = of(tmp_path, text)
    assert column(rows, "op", "algorithm") == [("fused_ar_mhc", "1stage")]
    assert told.n_left == 1


def test_arms_of_one_op_are_told_apart(tmp_path):
    text = (
        "TP8\n\n| size | kernel | all-reduce us |\n|---|---|---|\n| 64KiB | 1stage v1 | 9 |\n"
        "| 64KiB | 1stage v2 | 8 |\n| 64KiB | rccl | 21 |\n"
    )
    rows, _ = of(tmp_path, text)
    assert column(rows, "algorithm", "kernel_family", "kernel_version") == [
        ("1stage", "", "v1"), ("1stage", "", "v2"), ("", "rccl", ""),
    ]  # fmt: skip


def test_modes_graph_and_eager_are_told_apart(tmp_path):
    text = (
        "| shape | tp | mode | algo | time (us) |\n|---|---|---|---|---|\n"
        "| 1x7168 | 8 | graph | fused 1stage | 7.7 |\n| 1x7168 | 8 | eager | fused 1stage | 17.7 |\n"
    )
    rows, _ = of(tmp_path, text)
    assert column(rows, "timing", "latency_us") == [("graph", "7.7"), ("eager", "17.7")]


# What is wrong or missing is left, in words, with the option that answers.


def test_every_result_is_a_row_or_left(tmp_path):
    text = (
        "tokens,hidden,tp,dtype,fused_1stage_us,fused_2stage_us\n"
        "1,7168,8,bf16,9.1,N/A\n"  # no time
        "2,7168,8,bf16,fast,9.2\n"  # no time
        "x,7168,8,bf16,9.1,9.2\n"  # tokens not understood
        "3,7168,,bf16,9.1,9.2\n"  # no ranks
        "4,7168,8,bf16,9.1\n"  # a cell too few
        "5,,8,bf16,9.1,9.2\n"  # no hidden size
        "6,7168,8,bf16,-1,9.2\n"  # no time
        "1,7168,8,bf16,9.1,<9\n"  # the same again
    )
    rows, told = of(tmp_path, text)
    assert column(rows, "tokens", "latency_us") == [("1", "9.1"), ("2", "9.2"), ("6", "9.2")]
    assert left(told) == {
        "no time (N/A)": 1, "'fast' is no time": 1, "tokens 'x' is not understood": 2,
        "ranks not said: --world-size": 2, "5 cells, the header has 6": 2,
        "size not said: --hidden-dim": 2, "no time": 1, "'<9' is an approximation or a bound": 1,
        "the same row as one before, to the last digit": 1,
    }  # fmt: skip
    assert told.n_rows + told.n_left == 2 * 8


def test_times_without_a_unit_are_asked_for(tmp_path):
    text = HEAD + "| tokens | fused 1stage latency |\n|---|---|\n| 1 | 9.1 |\n"
    with pytest.raises(
        InputError, match=r"column 'fused 1stage latency' has no unit: --unit us, ms"
    ):
        of(tmp_path, text)
    rows, _ = of(tmp_path, text, unit="ms")
    assert column(rows, "latency_us") == ["9100"]
    with pytest.raises(InputError, match="--unit minutes: one of us, ms, ns"):
        of(tmp_path, text, unit="minutes")


def test_two_values_above_a_table_are_none(tmp_path):
    text = "TP4 and TP8, hidden 7168\n\n| tokens | fused 1stage us |\n|---|---|\n| 1 | 9.1 |\n"
    with pytest.raises(InputError, match="ranks not said: --world-size"):
        of(tmp_path, text)


@pytest.mark.parametrize(
    ("check", "quality"),
    [
        ("PASS", "clean"), ("✅", "clean"), ("True", "clean"), ("N/A", "clean"), ("", "clean"),
        ("FAIL", None), ("❌", None), ("False", None), ("mismatch", None),
        ("FAIL(max=0.25,mean=0.01)", "suspect"), ("out=FAIL(max=0.25), residual=PASS", "suspect"),
    ],
)  # fmt: skip
def test_a_wrong_result_is_never_clean(tmp_path, check, quality):
    text = (
        HEAD + f"| tokens | fused 1stage us | correctness |\n|---|---|---|\n| 1 | 9.1 | {check} |\n"
    )
    if quality is None:
        with pytest.raises(InputError, match="wrong result: correctness is no: 1"):
            of(tmp_path, text)
        return
    rows, told = of(tmp_path, text)
    assert column(rows, "quality") == [quality]
    assert any("suspect" in note and "0.25" in note for note in told.notes) is (
        quality == "suspect"
    )


@pytest.mark.parametrize(
    ("err", "quality"),
    [("0", "clean"), ("0.0", "clean"), ("0.05", "suspect"), ("1.2%", "suspect"), ("0.051", None),
     ("nan", "suspect"), ("7%", None), ("-1", None), ("bad", None)],
)  # fmt: skip
def test_shares_of_wrong_elements(tmp_path, err, quality):
    text = HEAD + f"| tokens | fused 1stage us | err |\n|---|---|---|\n| 1 | 9.1 | {err} |\n"
    if quality is None:
        with pytest.raises(InputError, match="wrong result: err"):
            of(tmp_path, text)
        return
    assert column(of(tmp_path, text)[0], "quality") == [quality]


def test_braces_and_long_numbers_are_texts(tmp_path):
    text = (
        "tokens,hidden,tp,dtype,kernel,fused_us\n1,64,8,bf16,{0},5\n2,64,8,bf16,{x!r:>99999999},6\n"
        f"3,64,8,bf16,%s%n,7\n{'9' * 500},64,8,bf16,a,8\n4,64,8,bf16,a,{'9' * 500}\n5,64,8,bf16,a,1e400\n"
    )
    rows, told = of(tmp_path, text)
    assert column(rows, "latency_us") == ["5", "6", "7"]
    assert told.n_left == 3


def test_control_characters_are_shown_as_escapes(tmp_path):
    text = (
        "tokens,hidden,tp,dtype,kernel,fused_us\n1,64,8,bf16,a\x07\x1b]0;b,5\n2,64,8,bf16,c,\x1bd\n"
    )
    rows, told = of(tmp_path, text)
    said = [*column(rows, "kernel_version"), *told.left, *told.notes]
    assert all(word.isprintable() for word in said)


# The words that the tables are read by.


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("12.3 us", 12.3), ("1.2 ms", 1200), ("12.3us", 12.3), ("900 ns", 0.9), ("0.001 s", 1000),
        ("9.8 ± 0.2", 9.8), ("`7`", 7), ("1 024.5", 1024.5), ("1e1", 10), ("12 †", 12), ("7 (us)", 7),
        ("<10", None), ("~12", None), ("12/14", None), ("12,3", None), ("12 GB/s", None), ("", None),
        ("1.5x", None), ("−12%", None), ("12 → 10", None), ("0x10", None), ("1_0", None), ("inf", None),
    ],
)  # fmt: skip
def test_times(text, us):
    assert microseconds(text, 1.0) == us


def test_words_of_cells():
    assert [count(t) for t in ("64", "1,024", "64 tokens", "M=8", "8.0", "8.5", "8K", "-1")] == [
        64, 1024, 64, 8, 8, None, None, None,
    ]  # fmt: skip
    assert [ranks(t) for t in ("8", "TP8", "TP=4", "8x MI300X", "8 GPUs", "two")] == [
        8,
        8,
        4,
        8,
        8,
        None,
    ]
    assert [shape(t) for t in ("7168", "2x3x13x2880", "a,b", "3x13x2880")] == [
        None,
        None,
        None,
        (39, 2880),
    ]
    assert [truth(t) for t in ("True", "0", "✔", "✗", "PASS(x)", "maybe")] == [
        True, False, True, False, True, None,
    ]  # fmt: skip
    assert all(is_no_figure(t) for t in ("", "—", "N/A", "None", "FAILED", "`-`"))
    assert size("12 parsecs", None) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("## TP8", {"world_size": 8}), ("TP=4, hidden=2880", {"world_size": 4, "hidden_dim": 2880}),
        ("World Size: 4, Data Type: torch.bfloat16, Hidden Size: 8192",
         {"world_size": 4, "dtype": "bf16", "hidden_dim": 8192}),
        ("8 GPUs (MI300X)", {"world_size": 8, "gpu": "MI300X"}),
        ("8x MI355X, graph mode", {"world_size": 8, "gpu": "MI355X", "timing": "graph"}),
        ("torchrun --nproc_per_node=8 bench.py", {"world_size": 8}),
        ("AITER 0.1.17 on gfx942", {"kernel_version": "AITER 0.1.17", "arch": "gfx942"}),
        ("amd-aiter==0.1.19.post1", {"kernel_version": "AITER 0.1.19.post1"}),
        ("Results (avg ms across 4 ranks)",
         {"world_size": 4, "unit": "ms", "statistic": "mean", "rank_reduction": "mean"}),
        ("eager and graph", {}), ("MI300X and MI355X", {}), ("TP4/TP8", {}), ("bf16, fp32 sums", {}),
        ("Available GPUs: 8", {}),
    ],
)  # fmt: skip
def test_what_lines_say(line, said):
    context = Context()
    context.line(line)
    assert context.says() == said


def test_prose_says_less_than_captions():
    prose = "In contrast to what was seen with TP4 before, the numbers below are a good deal lower."
    assert "world_size" not in said_by(prose, bare=False)
    context = Context()
    for line in ("# MI355X", "## TP8", "graph mode", "### hidden 7168", prose):
        context.line(line)
    assert context.says() == {
        "gpu": "MI355X",
        "world_size": 8,
        "timing": "graph",
        "hidden_dim": 7168,
    }
    context.line("## TP4")
    assert context.says() == {"gpu": "MI355X", "world_size": 4}


def test_what_is_left_of_a_label():
    assert [untold(t) for t in ("fused 1stage (us)", "TP8 aiter", "this PR us", "fused_v2_us")] == [
        "", "", "this pr", "v2",
    ]  # fmt: skip
    assert read_label("fused split", Said()).op == ""
    assert read_label("gemm_allreduce", Said()).used is False
