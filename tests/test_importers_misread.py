"""Tables whose figures are easily taken for what they are not: each is read right, or left."""

import pytest
from importing import briefly, column, left, of

from costmodel.errors import InputError

ON = "TP8 MI300X bf16 hidden 4096"


def test_figures_that_no_clock_took_are_no_latencies(tmp_path):
    rows, account = of(
        tmp_path,
        f"""fused 1-stage on {ON}
| tokens | measured (us) | Δ (us) | model (us) | ideal (us) | σ (us) | predicted us | ±us | TTFT (ms) |
|--|--|--|--|--|--|--|--|--|
| 8 | 9.1 | 0.3 | 8.8 | 5.1 | 0.2 | 8.7 | 0.1 | 120 |
""",
    )
    assert briefly(rows) == ["fused 1stage 8 8 4096 bf16 65536 9.1 - clean"]
    assert "Δ (us), model (us), ideal (us), σ (us), predicted us, ±us, TTFT" in account.notes[0]


def test_a_caption_names_the_op_of_no_column_that_may_be_another(tmp_path):
    rows, account = of(
        tmp_path,
        f"""fused AR+RMSNorm on {ON}
| tokens | allreduce us | rmsnorm us | sum us | fused us | total (us) | add_rmsnorm us | launch us |
|---|---|---|---|---|---|---|---|
| 8 | 9.1 | 3.0 | 12.1 | 9.9 | 33 | 20.1 | 2.2 |
""",
    )
    assert briefly(rows) == [
        "plain - 8 8 4096 bf16 65536 9.1 - clean",
        "fused - 8 8 4096 bf16 65536 9.9 - clean",
    ]
    assert left(account) == {
        "no op of schema 1: rmsnorm us": 1,
        "no op of schema 1: add_rmsnorm us": 1,
        "'sum' may be another op: --column 'sum=OP:ALGORITHM'": 1,
        "'total' may be another op: --column 'total=OP:ALGORITHM'": 1,
        "'launch' may be another op: --column 'launch=OP:ALGORITHM'": 1,
    }


@pytest.mark.parametrize(
    "name", ["1stage/2stage", "2stage:1stage", "1-stage ÷ 2-stage", "before/after", "fused/split"]
)
def test_a_ratio_of_two_arms_is_no_time(tmp_path, name):
    rows, account = of(
        tmp_path,
        f"""fused on {ON}, times in us
| tokens | 1stage | 2stage | {name} |
|---|---|---|---|
| 8 | 9.1 | 12.0 | 0.76 |
""",
    )
    assert column(rows, "latency_us") == ["9.1", "12"]
    assert account.notes == [f"columns not used: {name}"]


def test_ranks_of_each_host_are_not_all_ranks(tmp_path):
    table = "\n| size | RCCL us |\n|---|---|\n| 16KiB | 40.1 |\n"
    for heading in ("2 nodes, 8x MI300X each, all-reduce", "2x8 MI300X, all-reduce"):
        rows, _ = of(tmp_path, f"## {heading}\n{table}", world_size="16")
        assert column(rows, "world_size", "interconnect") == [("16", "network")]
    rows, _ = of(tmp_path, f"## 1 node, 8x MI300X, all-reduce\n{table}")
    assert column(rows, "world_size", "interconnect") == [("8", "xgmi")]
    rows, _ = of(
        tmp_path,
        """## all-reduce MI300X
| nodes | gpus | size | RCCL us |
|---|---|---|---|
| 2 | 16 | 16KiB | 40.1 |
| 1 | 8 | 16KiB | 39.1 |
""",
    )
    assert column(rows, "world_size", "interconnect") == [("16", "network"), ("8", "xgmi")]


def test_batch_size_beside_sequence_length_leaves_the_tokens_open(tmp_path):
    text = """fused 1stage TP8 MI300X bf16
| batch | seq_len | hidden | size | us |
|---|---|---|---|---|
| 8 | 128 | 4096 | 8 MiB | 90.1 |
| 8 | 128 | 4096 |  | 91.1 |
| 8 | 128 | 4096 | 64 KiB | 9.1 |
| 8 | 1 | 4096 |  | 8.1 |
| 1 | 16 | 4096 |  | 7.1 |
"""
    rows, account = of(tmp_path, text)
    assert column(rows, "tokens", "latency_us") == [
        ("1024", "90.1"), ("1024", "91.1"), ("8", "8.1"), ("16", "7.1"),
    ]  # fmt: skip
    assert left(account) == {"the size is not tokens x hidden size x element size": 1}
    rows, account = of(tmp_path, text.replace(" size |", " note |").replace("8 MiB", "a"))
    assert column(rows, "tokens") == ["8", "16"]
    reason = "batch size and sequence length both stand there: tokens are not said"
    assert left(account) == {reason: 3}


def test_times_of_all_ranks_are_one_call(tmp_path):
    rows, account = of(
        tmp_path,
        f"""fused 1stage {ON.replace("TP8", "TP4")}
| tokens | rank0 (us) | rank1 (us) | rank2 (us) | rank3 (us) |
|---|---|---|---|---|
| 8 | 9.1 | 9.9 | 9.0 | 9.2 |
| 16 | 9.1 | - | 9.0 | 9.2 |
""",
    )
    assert column(rows, "latency_us", "rank_reduction") == [("9.9", "max")]
    assert sum(left(account).values()) == 7
    rows, account = of(
        tmp_path,
        """tokens,hidden,tp,rank,dtype,fused_1stage_us,fused_2stage_us
8,4096,4,0,bf16,9.1,12
8,4096,4,1,bf16,9.2,11
8,4096,4,2,bf16,9.9,11
8,4096,4,3,bf16,9.0,11
16,4096,4,0,bf16,9.1,
16,4096,4,1,bf16,9.2,13
""",
    )
    assert column(rows, "tokens", "latency_us", "rank_reduction") == [
        ("8", "9.9", "max"), ("8", "12", "max"), ("16", "9.2", "max"),
    ]  # fmt: skip
    assert left(account) == {"of another rank, beside the slowest": 8, "no time": 1}


def test_a_line_of_rank_0_alone_says_so(tmp_path):
    rows, _ = of(tmp_path, "rank,tokens,hidden,tp,fused_1stage_us\n0,8,4096,4,9.1\n")
    assert column(rows, "rank_reduction") == ["rank0"]


@pytest.mark.parametrize("name", ["stat", "percentile", "metric"])
def test_of_statistics_in_lines_the_median_is_taken(tmp_path, name):
    rows, account = of(
        tmp_path,
        f"""tokens,hidden,tp,dtype,{name},fused_1stage_us
8,4096,4,bf16,p50,9.1
8,4096,4,bf16,p99,19.2
8,4096,4,bf16,mean,9.4
8,4096,4,bf16,std,0.3
16,4096,4,bf16,mean,10.4
16,4096,4,bf16,p99.9,20.1
""",
    )
    assert column(rows, "tokens", "latency_us", "statistic") == [
        ("8", "9.1", "median"), ("16", "10.4", "mean"),
    ]  # fmt: skip
    assert left(account) == {
        "a tail or a spread, no latency of a call": 3, "another statistic of the same call": 1,
    }  # fmt: skip


def test_quantiles_in_lines_are_statistics(tmp_path):
    text = "tokens,hidden,tp,quantile,fused_1stage_us\n8,4096,4,0.5,9.1\n8,4096,4,0.99,19.2\n"
    rows, _ = of(tmp_path, text)
    assert column(rows, "latency_us", "statistic") == [("9.1", "median")]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("9.1 ❌", "wrong result: a cross beside it"),
        ("9.1 (2-stage)", "'9.1 (2-stage)': not the column's figure alone"),
        ("9.1 (fallback to NCCL)", "'9.1 (fallback to NCCL)': not the column's figure alone"),
        ("9.1 (TP4)", "'9.1 (TP4)': not the column's figure alone"),
        ("9.1 (zero copy)", "'9.1 (zero copy)': not the column's figure alone"),
        ("9.1 [est.]", "'9.1 [est.]': not the column's figure alone"),
    ],
)
def test_words_beside_a_figure_are_read(tmp_path, cell, reason):
    rows, account = of(
        tmp_path,
        f"""fused on {ON}
| tokens | 1stage us |
|---|---|
| 8 | {cell} |
| 16 | 9.2 (1-stage, 1.2x) |
| 24 | 9.3 (best of 3) ✅ |
""",
    )
    assert column(rows, "latency_us") == ["9.2", "9.3"]
    assert left(account) == {reason: 1}


def test_a_figure_that_is_struck_out_is_not_clean(tmp_path):
    rows, _ = of(tmp_path, f"{ON}\n| tokens | fused us |\n|--|--|\n| 8 | ~~9.1~~ |\n| 9 | 9 |\n")
    assert column(rows, "quality") == ["suspect", "clean"]


def test_the_arm_beside_a_figure_is_its_algorithm(tmp_path):
    rows, _ = of(
        tmp_path,
        f"""{ON}
| tokens | fused us |
|--|--|
| 8 | 9.1 (1-stage) |
| 256 | 19.1 (2-stage) |
""",
    )
    assert column(rows, "algorithm") == ["1stage", "2stage"]


def test_captions_with_numbers_stand_on_one_side_of_all_tables(tmp_path):
    tables = [
        "| tokens | fused us |\n|--|--|\n| 8 | 9.1 |\n",
        "| tokens | fused us |\n|--|--|\n| 8 | 8 |\n",
    ]
    captions = ["*Table 1: TP8, hidden 7168*\n", "*Table 2: TP4, hidden 2880*\n"]
    below = "\n".join(part for both in zip(tables, captions, strict=True) for part in both)
    above = "\n".join(part for both in zip(captions, tables, strict=True) for part in both)
    for text in (below, above):
        rows, _ = of(tmp_path, text)
        assert column(rows, "world_size", "hidden_dim", "latency_us") == [
            ("8", "7168", "9.1"), ("4", "2880", "8"),
        ]  # fmt: skip


def test_a_column_of_one_letter_holds_hidden_sizes_only_where_they_are(tmp_path):
    table = "fused 1stage TP8 MI300X bf16\n| tokens | n | us |\n|---|---|---|\n| 8 | 100 | 9.1 |\n"
    table += "| 8 | 4096 | 9.2 |\n"
    rows, account = of(tmp_path, table)
    assert column(rows, "hidden_dim") == ["4096"]
    assert left(account) == {"n '100' is not understood": 1}


@pytest.mark.parametrize("tokens", ["0", "-1", "1.5", "8 or 16", "1" + 15 * "0"])
def test_a_number_that_is_told_is_whole_and_of_15_digits_at_most(tmp_path, tokens):
    with pytest.raises(InputError, match=r"--tokens .*: give a whole number from 1 on"):
        of(tmp_path, "hidden,tp,fused_1stage_us\n4096,4,9.1\n", tokens=tokens)


@pytest.mark.parametrize(("name", "kept"), [("status", False), ("validation", True)])
def test_a_check_that_was_skipped_leaves_the_result(tmp_path, name, kept):
    """What was skipped under ``status`` is the run itself."""
    lines = "| 8 | 9.1 | skipped |\n| 16 | 9.2 | ok |\n"
    rows, account = of(
        tmp_path, f"fused on {ON}\n\n| tokens | 1stage us | {name} |\n|--|--|--|\n{lines}"
    )
    assert column(rows, "latency_us") == (["9.1", "9.2"] if kept else ["9.2"])
    assert left(account) == ({} if kept else {"no result: status is skipped": 1})


@pytest.mark.parametrize(("lines", "dtype"), [(1, "bf16"), (5, "bf16"), (6, "")])
def test_the_five_lines_below_a_table_speak_of_it(tmp_path, lines, dtype):
    others = "".join(f"line {letter} of words\n" for letter in "abcdefgh"[: lines - 1])
    table = "| tokens | hidden | 1stage us |\n|--|--|--|\n| 8 | 4096 | 9.1 |\n"
    rows, _ = of(tmp_path, f"fused, MI300X, TP8\n\n{table}{others}dtype=bf16\n")
    assert column(rows, "dtype") == [dtype]


def test_rules_of_two_dashes_are_no_rows(tmp_path):
    table = "\n| tokens | fused us |\n|--|--|\n| 8 | 9.1 |\n\n| tokens | fused us |\n|--|--|\n| 9 | 9 |\n"
    rows, account = of(tmp_path, f"### {ON}\n{table}")
    assert (len(rows), account.n_left) == (2, 0)


@pytest.mark.parametrize("section", ["**TP8, hidden 2880**", "TP = 8, hidden=2880"])
def test_a_line_with_one_cell_speaks_for_those_below(tmp_path, section):
    rows, account = of(
        tmp_path,
        f"""### fused 1stage, TP4, hidden 7168, MI300X
| tokens | us |
|---|---|
| 8 | 7.1 |
| {section} | |
| 8 | 9.1 |
| 16 | |
""",
    )
    assert column(rows, "world_size", "hidden_dim", "latency_us") == [
        ("4", "7168", "7.1"), ("8", "2880", "9.1"),
    ]  # fmt: skip
    assert left(account) == {"no time": 1}


def test_a_label_may_say_ranks_and_sizes(tmp_path):
    for name in ("config", ""):
        rows, _ = of(
            tmp_path,
            f"""### fused, TP4, hidden 7168
| {name} | tokens | 1-stage (us) |
|---|---|---|
| **TP8, hidden 2880** | 8 | 9.1 |
| as above | 8 | 7.1 |
""",
        )
        assert column(rows, "world_size", "hidden_dim") == [("8", "2880"), ("4", "7168")]


def test_times_below_two_are_no_truths(tmp_path):
    text = "fused TP8 h=7168, in ms\n\n| tokens | 1stage | 2stage |\n|--|--|--|\n| 8 | 0.0071 | 1.5 |\n"
    rows, _ = of(tmp_path, f"{text}\nNow in us:\n\n| tokens | 1stage |\n|--|--|\n| 16 | 1.25 |\n")
    assert column(rows, "algorithm", "latency_us") == [
        ("1stage", "7.1"), ("2stage", "1500"), ("1stage", "1.25"),
    ]  # fmt: skip


def test_truths_of_a_data_frame_say_the_arm(tmp_path):
    text = "tokens,hidden,tp,use_1stage,fused_us\n8,7168,8,1.0,9.1\n16,7168,8,0.0,9.2\n32,7168,8,True,9.3\n"
    rows, _ = of(tmp_path, text)
    assert column(rows, "algorithm") == ["1stage", "2stage", "1stage"]


TABLES = {
    "markdown": ("| tokens | fused us |\n|--|--|\n| 8 | 9.1 |\n", "| 16 | 9.3 |\n"),
    "CSV": ("tokens,fused_us\n8,9.1\n", "16,9.3\n"),
    "console": ("tokens  fused_us\n8           9.1\n", "16          9.3\n"),
}


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize(
    ("between", "ranks"),
    [("\n", "8"), ("\n\n", "8"), ("INFO 15:00:01 capturing graph of TP4\n", "8"), ("# TP4\n", "4"),
     ("\nTP4:\n", "4")],
)  # fmt: skip
def test_lines_behind_others_are_of_the_table_still(tmp_path, form, between, ranks):
    first, second = TABLES[form]
    rows, account = of(tmp_path, f"TP8, hidden 7168\n\n{first}{between}{second}\nThat is all.\n")
    assert column(rows, "tokens", "world_size", "timing") == [("8", "8", ""), ("16", ranks, "")]
    assert account.n_left == 0


@pytest.mark.parametrize("form", TABLES)
def test_another_header_begins_another_table(tmp_path, form):
    first, second = TABLES[form]
    again = first.replace("fused", "fused_1stage" if form != "markdown" else "fused 1stage")
    rows, account = of(tmp_path, f"TP8, hidden 7168\n\n{first}{second}\n{again}{second}")
    assert column(rows, "algorithm") == ["", "", "1stage", "1stage"]
    assert account.n_left == 0


def test_quotes_behind_a_blank_are_those_of_a_cell(tmp_path):
    text = '"tokens", "hidden", "tp", "fused (us)"\n"8", "4,096", "8", "1,009.5"\n'
    rows, _ = of(tmp_path, text)
    assert column(rows, "hidden_dim", "latency_us") == [("4096", "1009.5")]


def test_a_module_that_is_loaded_names_no_op(tmp_path):
    table = "| tp_size | shape | withGraph | max_us | err |\n|--|--|--|--|--|\n| 8 | (8, 7168) | True | 9.1 | 0 |\n"
    text = f"[aiter] import [module_custom_all_reduce] under /opt/aiter/jit\n{table}"
    rows, _ = of(tmp_path, text, op="fused_ar_rmsnorm")
    assert column(rows, "op", "quality") == [("fused_ar_rmsnorm", "clean")]


def test_a_csv_whose_first_line_has_a_bare_thousand_is_counted(tmp_path):
    rows, account = of(tmp_path, "tokens,tp,hidden,fused_us\n1,024,8,7168,9.1\n8,8,7168,9.1\n")
    assert column(rows, "tokens") == ["8"]
    assert left(account) == {"5 cells, the header has 4": 1}


@pytest.mark.parametrize(
    ("line", "ranks"),
    [("TP8, 100 iterations", "8"), ("TP8, 16 tokens each", "8"), ("TP4, 8", ""), ("TP4/8", "")],
)
def test_numbers_behind_a_world_size(tmp_path, line, ranks):
    text = f"fused MI300X {line}\n\n| tokens | hidden | us |\n|---|---|---|\n| 8 | 4096 | 9.1 |\n"
    if ranks:
        assert column(of(tmp_path, text)[0], "world_size") == [ranks]
    else:
        assert column(of(tmp_path, text, world_size="2")[0], "world_size") == ["2"]
