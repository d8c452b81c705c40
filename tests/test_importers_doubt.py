"""Figures that look like latencies of one call, and are none: they are left with the reason."""

import pytest
from importing import briefly, column, imported, left, of

AT = "TP8 MI300X bf16 hidden 7168"
READ = "fused 1stage 8 8 7168 bf16 114688 9.1 - clean"
OTHER = "fused 2stage 8 8 7168 bf16 114688 12.1 - clean"
TABLE = "| tokens | fused 1stage{unit} | fused 2stage{unit} |\n|--|--|--|\n| 8 | {a} | {b} |\n\n"
TIMES = TABLE.format(unit="", a=9.1, b=12.1)
OTHERS = TABLE.format(unit="", a=33.1, b=22.1)


@pytest.mark.parametrize(
    ("heading", "quantity"),
    [
        ("### Bandwidth (GB/s)", "gb/s"), ("**Speedup over RCCL**", "speedup"),
        ("### Fused bus bandwidth", "bandwidth"), ("Improvement in %", "%"),
        ("#### Throughput [tokens/s]", "tokens/s"), ("Results in GB/s:", "gb/s"),
        ("### Speed-up vs. the separate ops (x)", "speed-up"), ("### Ratio of RCCL", "ratio"),
    ],
)  # fmt: skip
def test_a_heading_that_names_no_time_takes_the_unit_from_what_is_below(
    tmp_path, heading, quantity
):
    for said in ({}, {"unit": "us"}):
        rows, told = of(tmp_path, f"## {AT}, latency (us)\n\n{TIMES}{heading}\n\n{OTHERS}", **said)
        assert briefly(rows) == [READ, OTHER]
        assert left(told) == {f"'{quantity}' stands above it: no time": 2}


def test_units_of_columns_and_cells_go_before_such_a_heading(tmp_path):
    stated = TABLE.format(unit=" (us)", a=9.1, b=12.1)
    in_cells = TABLE.format(unit="", a="9.4 us", b="2.4x").replace("| 8 |", "| 16 |")
    rows, told = of(tmp_path, f"{AT}\n\n### Speedup\n\n{stated}### Speedup\n\n{in_cells}")
    assert briefly(rows) == [READ, OTHER, "fused 1stage 8 16 7168 bf16 229376 9.4 - clean"]
    assert "columns not used: fused 2stage" in told.notes
    assert not left(told)


@pytest.mark.parametrize(
    "heading",
    [
        "### E2E latency (us)", "**Decode step time, us**", "### Time per layer (us)",
        "Latency of one decode step (us)", "### Total over 80 layers, us", "us per forward pass",
        "### End-to-end decode latency in us", "per-token latency (us)", "### TPOT (us)",
        "### P99 latency (us)", "tail latency, us",
    ],
)  # fmt: skip
def test_a_time_of_many_calls_is_no_calls(tmp_path, heading):
    rows, told = of(tmp_path, f"## {AT}\n\n### Kernel latency (us)\n\n{TIMES}{heading}\n\n{OTHERS}")
    assert briefly(rows) == [READ, OTHER]
    (reason,) = left(told)
    assert reason.endswith("': no time of one call")


def test_a_title_about_such_times_says_nothing_of_tables_with_headings(tmp_path):
    text = f"# Fuse AR + RMSNorm: shorter decode step time\n{AT}, us\n\n### Kernel\n\n{TIMES}"
    rows, _ = of(tmp_path, text)
    assert briefly(rows) == [READ, OTHER]


def test_lines_of_a_table_may_say_both(tmp_path):
    lines = ("**Latency (us)** | |", "8 | 9.1 | 12.1", "**Bus bandwidth (GB/s)** | |",
             "8 | 33.1 | 22.1", "**Decode step time (us)** | |", "8 | 933 | 922",
             "**Kernel (us)** | |", "16 | 9.4 | 12.2")  # fmt: skip
    head = "| tokens | fused 1stage | fused 2stage |\n|--|--|--|\n"
    text = f"{AT}, us\n\n{head}" + "".join(f"| {line} |\n" for line in lines)
    rows, told = of(tmp_path, text)
    assert column(rows, "latency_us") == ["9.1", "12.1", "9.4", "12.2"]
    assert sum(left(told).values()) == 4


@pytest.mark.parametrize(
    "name",
    [
        "fused 1stage total ms (80 layers)", "fused 1stage us per layer", "fused 1stage us/step",
        "fused 1stage decode step (ms)", "E2E fused 1stage (ms)", "fused 1stage total us",
    ],
)  # fmt: skip
def test_columns_of_many_calls_are_not_used(tmp_path, name):
    text = f"{AT}\n\n| tokens | fused 1stage us | {name} |\n|--|--|--|\n| 8 | 9.1 | 728.5 |\n"
    rows, told = of(tmp_path, text)
    assert briefly(rows) == [READ]
    assert f"columns not used: {name}" in told.notes


def test_a_total_of_the_separate_ops_is_their_time(tmp_path):
    text = f"{AT}\n\n| tokens | split total us | fused us |\n|--|--|--|\n| 8 | 20.1 | 9.1 |\n"
    assert column(of(tmp_path, text)[0], "op") == ["ar_then_rmsnorm", "fused_ar_rmsnorm"]


def breakdown(name, first, second, whole):
    total = f"| total | 55.3 | {whole} |\n" if whole else ""
    return (
        f"{AT} tokens 64\n\n| kernel | time (us) | {name} |\n|--|--|--|\n"
        f"| allreduce_fusion_kernel_1stage | 22.1 | {first} |\n| gemm | 33.2 | {second} |\n{total}"
    )


@pytest.mark.parametrize(
    "shares",
    [("%", 40, 60, 100), ("time %", "40.1%", "59.9%", ""), ("share", 0.4, 0.6, ""),
     ("Percentage", "39.96", "60.03", "100.00%")],
)  # fmt: skip
def test_times_beside_their_shares_are_a_profile(tmp_path, shares):
    rows, told = of(tmp_path, breakdown(*shares) + "\n" + f"## {AT}, us\n\n{TIMES}")
    assert briefly(rows) == [READ, OTHER]
    assert left(told)["times beside their shares of a whole: sums of a profile, no call's"] > 0


def test_a_gain_in_percent_is_no_share(tmp_path):
    lines = "| 8 | 9.1 | 40% |\n| 16 | 9.4 | 60% |\n"
    rows, _ = of(tmp_path, f"{AT}\n\n| tokens | fused 1stage us | % |\n|--|--|--|\n{lines}")
    assert column(rows, "latency_us") == ["9.1", "9.4"]


@pytest.mark.parametrize(
    "shapes",
    [["(7168, 64)", "(7168, 1)"], ["7168x128", "7168x512", "7168x2048"], ["(1, 7168)", "(7168, 1)"]],
)  # fmt: skip
def test_shapes_whose_second_number_may_be_the_tokens_are_left(tmp_path, shapes):
    lines = "".join(f"| {shape} | 9.{at} |\n" for at, shape in enumerate(shapes, 1))
    text = f"TP8 bf16\n\n| shape | fused 1stage us |\n|--|--|\n{lines}\n{AT}\n\n"
    rows, told = of(tmp_path, text + TABLE.format(unit=" us", a=9.1, b=12.1))
    assert briefly(rows) == [READ, OTHER]
    assert left(told) == {"'shape' leaves open which number is the tokens'": len(shapes)}


@pytest.mark.parametrize(
    ("header", "shape", "tokens"),
    [("shape", "(4, 16, 7168)", "64"), ("shape", "[1, 8, 7168]", "8"),
     ("Shape (MxK)", "8x7168", "8"), ("shape (tokens, hidden)", "8,7168", "8")],
)  # fmt: skip
def test_shapes_of_tensors(tmp_path, header, shape, tokens):
    text = f"TP8 bf16\n\n| {header} | fused 1stage us |\n|--|--|\n| {shape} | 9.1 |\n"
    assert column(of(tmp_path, text)[0], "tokens", "hidden_dim") == [(tokens, "7168")]


def test_two_medians_of_one_name_are_read_and_no_minimum_beside_them(tmp_path):
    head = "| tokens | fused median us | fused median us | fused min us |\n|--|--|--|--|\n"
    rows, _ = of(tmp_path, f"{AT}\n\n{head}| 8 | 9.1 | 9.3 | 8.7 |\n")
    assert column(rows, "latency_us", "statistic") == [("9.1", "median"), ("9.3", "median")]


def test_two_tables_side_by_side_are_read_where_they_agree(tmp_path):
    head = "| tokens | fused 1stage us | | tokens | fused 2stage us |\n|--|--|--|--|--|\n"
    lines = "| 8 | 9.1 | | 8 | 12.1 |\n| 16 | 9.5 | | 32 | 12.5 |\n"
    rows, told = of(tmp_path, f"{AT}\n\n{head}{lines}")
    assert briefly(rows) == [READ, OTHER]
    assert left(told) == {"tokens stands twice: 16 and 32": 2}
    head = "| kernel | us | kernel | us |\n|--|--|--|--|\n"
    text = f"{AT}\n\n{TABLE.format(unit=' us', a=9.1, b=12.1)}## {AT} tokens=8\n\n{head}"
    rows, told = of(tmp_path, f"{text}| fused 1stage | 9.2 | fused 2stage | 12.2 |\n")
    assert briefly(rows) == [READ, OTHER]
    assert left(told) == {"kernel stands twice: fused 1stage and fused 2stage": 2}


@pytest.mark.parametrize(
    ("end", "read"), [("1", 3), ("12.", 3), ("12.3", 3), ("12.43", 4), ("12.433", 4), ("12.4\n", 4)]
)
def test_a_figure_in_which_the_file_ends_may_be_cut_off(tmp_path, end, read):
    head = "tokens,hidden,tp,dtype,fused_1stage_us,fused_2stage_us\n8,7168,8,bf16,9.12,12.33\n"
    for text in (f"{head}16,7168,8,bf16,9.52,{end}", f"{head}16,7168,8,bf16,9.52,{end}\n"):
        rows, told = of(tmp_path, text)
        whole = text.endswith("\n")
        assert len(rows) == (4 if whole else read)
        assert left(told) == ({} if whole or read == 4 else {"'the file ends in it' is no time": 1})


def test_a_column_or_a_key_may_state_the_unit(tmp_path):
    lines = ("1stage | 9.1 | us", "2stage | 0.0121 | ms", "2stage | 33.5 | GB/s")
    head = "| tokens | kernel | value | unit |\n|--|--|--|--|\n"
    rows, told = of(tmp_path, f"{AT}\n\n{head}" + "".join(f"| 8 | fused {x} |\n" for x in lines))
    assert briefly(rows) == [READ, OTHER]
    assert left(told) == {"'33.5 gb_s' is no time": 1}
    metrics = [
        ("1stage", "latency_us", 9.1),
        ("1stage", "busbw_gbps", 90),
        ("2stage", "latency_us", 12.1),
    ]
    lines = "".join(f"8,7168,8,bf16,fused {arm},{name},{v}\n" for arm, name, v in metrics)
    rows, told = of(tmp_path, f"tokens,hidden,tp,dtype,kernel,metric,value\n{lines}")
    assert briefly(rows) == [READ, OTHER]
    assert column(rows, "kernel_version") == ["", ""]
    said = '"tp": 8, "tokens": 8, "hidden": 7168, "dtype": "bf16"'
    rows, _ = of(tmp_path, f'[{{{said}, "unit": "ms", "fused_1stage": 0.0091}}]')
    assert briefly(rows) == [READ]


def test_a_spread_in_a_name_leaves_the_statistic(tmp_path):
    head = "| tokens | 1stage (us, mean ± std) | 2stage us avg (std) |\n|--|--|--|\n"
    rows, _ = of(tmp_path, f"fused AR + RMSNorm {AT}\n\n{head}| 8 | 9.1 ± 0.2 | 12.1 (0.3) |\n")
    assert briefly(rows) == [READ, OTHER]
    assert column(rows, "statistic") == ["mean", "mean"]


def test_a_delimiter_behind_the_last_cell_is_no_cell(tmp_path):
    text = "tokens\thidden\ttp\tdtype\tfused_1stage_us\n8\t7168\t8\tbf16\t9.1\t\n"
    assert briefly(of(tmp_path, text)[0]) == [READ]


@pytest.mark.parametrize("err", ["nan", "NaN", "inf"])
def test_an_error_that_is_no_number_leaves_a_result_in_doubt(tmp_path, err):
    table = "| tokens | fused 1stage us | err |\n|--|--|--|\n| 8 | 9.1 | {} |\n| 16 | 9.4 | N/A |\n"
    rows, _ = of(tmp_path, f"{AT}\n\n{table.format(err)}")
    assert column(rows, "quality") == ["suspect", "clean"]


def test_a_first_line_of_too_many_cells_is_left_alone(tmp_path):
    head = "tokens,hidden,tp,dtype,arm,latency\n"
    lines = "8,7168,8,bf16,fused_1stage,1,009.1\n8,7168,8,bf16,fused_1stage,9.1\n"
    rows, told = of(tmp_path, head + lines, unit="us")
    assert briefly(rows) == [READ]
    assert left(told) == {"7 cells, the header has 6": 1}


def test_ranks_and_cards_in_a_label_name_no_kernel(tmp_path):
    lines = "| TP-8, bf16 | 8 | 9.1 |\n| 4xMI300X bf16 | 8 | 6.1 |\n"
    head = "| config | tokens | fused 1stage us |\n|--|--|--|\n"
    rows, _ = of(tmp_path, f"hidden 7168\n\n{head}{lines}")
    assert column(rows, "world_size", "kernel_version") == [("8", ""), ("4", "")]


HEADED = "fused AR+RMSNorm MI300X bf16 {}\n\n| tokens | 1stage us |\n|--|--|\n| 8 | 9.1 |\n"


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("TP=4,8", False), ("TP4/8 MI300X", False), ("tp_size: 4, 8", False), ("TP = 4 and 8", False),
        ("ranks 4 and 8", False), ("TP=4, TP=8", False), ("world_size=4,8 bf16", False),
        ("TP=8, 100 iterations", True), ("TP8, 16 runs", True), ("world_size=8, 4 warmups", True),
        ("TP=8, hidden=7168", True), ("TP8 and 2 nodes of others", True),
    ],
)  # fmt: skip
def test_two_world_sizes_above_a_table_are_none(tmp_path, said, known):
    text = HEADED.format(f"hidden 7168 {said}")
    rows, told = of(tmp_path, text + HEADED.format("hidden 7168 TP2"))
    assert ("ranks not said: --world-size" in left(told)) != known
    assert len(rows) == 1 + known


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("hidden=7168,2880", False), ("H=2880/7168", False), ("hidden sizes [2880, 7168]", False),
        ("hidden 7168 and 2880", False), ("hidden: 7168, 2880", False), ("hidden 7,168", True),
        ("hidden=7168, 4096 tokens", True), ("hidden_size 7168, 100 iterations", True),
    ],
)  # fmt: skip
def test_two_hidden_sizes_above_a_table_are_none(tmp_path, said, known):
    rows, told = of(tmp_path, HEADED.format(f"TP8 {said}") + HEADED.format("hidden 2880 TP8"))
    assert ("size not said: --hidden-dim" in left(told)) != known
    assert column(rows, "hidden_dim") == ["7168", "2880"][not known :]


@pytest.mark.parametrize("coding", ["utf-8", "cp1252", "latin-1"])
def test_a_mu_in_any_coding_is_a_mu(tmp_path, coding):
    table = "| tokens | fused 1stage (µs) | fused 2stage |\n|--|--|--|\n| 8 | 9.1 | 12.1 µs |\n"
    (tmp_path / "file").write_bytes(f"{AT}\n\n{table}".encode(coding))
    assert briefly(imported(tmp_path / "file")[0]) == [READ, OTHER]


@pytest.mark.parametrize("sign", ["\ufffd", "\uf06d"])
def test_a_lost_sign_before_a_unit_makes_no_seconds(tmp_path, sign):
    table = "| tokens | fused 1stage | fused 2stage |\n|--|--|--|\n| 8 | 9.1 us | 12.1 {}s |\n"
    rows, told = of(tmp_path, f"{AT}\n\n{table.format(sign)}| 16 | {sign} | 12.4 us |\n")
    assert column(rows, "latency_us") == ["9.1", "12.4"]
    assert left(told) == {"'12.1 ?s' is no time": 1, "no time (?)": 1}


def test_a_comment_below_a_header_hides_no_table(tmp_path):
    text = "tokens,hidden,tp,dtype,fused_1stage_us\n# run 1\n8,7168,8,bf16,9.1\nTotal,,,,9.1\n"
    rows, told = of(tmp_path, text)
    assert briefly(rows) == [READ]
    assert left(told) == {"tokens 'Total' is not understood": 1}


@pytest.mark.parametrize(
    "heading", ["p50 and p99 (us)", "mean, p99 in brackets", "ran with p99=12"]
)
def test_a_tail_beside_the_middle_leaves_the_figures(tmp_path, heading):
    rows, _ = of(tmp_path, f"## {AT}, us\n\n{heading}\n\n{TIMES}")
    assert briefly(rows) == [READ, OTHER]


@pytest.mark.parametrize(
    "sentence",
    [
        "MI355X results will follow.", "Similar gains on MI325X", "TP4 is not affected.",
        "For TP4 see below.", "fp16 behaves the same.", "Compared to H200 this is slower.",
        "With hidden 2880 the crossover moves to 128 KB.", "Eager numbers in the next table.",
        "Measured as before (same as in #1234 on 4x MI250X).", "_TP2 doesn't use it._",
    ],
)  # fmt: skip
def test_a_sentence_about_other_runs_says_nothing_of_a_table(tmp_path, sentence):
    at = f"### {AT}\n\n"
    table = TABLE.format(unit=" us", a=9.1, b=12.1)
    for text in (
        f"{at}{sentence}\n\n{table}",
        f"{at}{sentence}\n{table}",
        f"{at}{table[:-1]}{sentence}\n",
    ):
        rows, _ = of(tmp_path, text)
        assert briefly(rows) == [READ, OTHER]
        assert set(column(rows, "gpu", "timing")) == {("MI300X", "")}


def test_a_sentence_that_says_otherwise_than_its_heading_leaves_it_open(tmp_path):
    table = TABLE.format(unit=" us", a=9.1, b=12.1)
    text = f"### {AT}\n\nMeasured with TP4 on a spare host.\n\n{table}### {AT}\n\nTP8 as ever.\n\n{table}"
    rows, told = of(tmp_path, text)
    assert briefly(rows) == [READ, OTHER]
    assert left(told) == {"ranks not said: --world-size": 2}
    rows, _ = of(tmp_path, f"### {AT}\n\nNow TP4:\n\n{table}")
    assert set(column(rows, "world_size")) == {"4"}


def test_a_mean_over_iterations_is_none_over_ranks(tmp_path):
    table = TABLE.format(unit=" us", a=9.1, b=12.1)
    rows, _ = of(tmp_path, f"{AT}\nnumbers are avg of 100 iterations over 8 ranks\n\n{table}")
    assert set(column(rows, "statistic", "rank_reduction")) == {("mean", "")}


def test_a_table_of_settings_speaks_for_those_below(tmp_path):
    settings = {"GPU": "MI300X", "TP": "8", "dtype": "bf16", "**hidden**": "7168"}
    lines = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
    table = TABLE.format(unit=" us", a=9.1, b=12.1)
    rows, told = of(tmp_path, f"| Setting | Value |\n|--|--|\n{lines}\n{table}")
    assert briefly(rows) == [READ, OTHER]
    assert column(rows, "gpu") == ["MI300X", "MI300X"]
    assert not told.notes[1:]
    one = "| name | value |\n|--|--|\n| tokens | 8 |\n| fused 1stage us | 9.1 |\n"
    assert briefly(of(tmp_path, f"{AT}\n\n{one}")[0]) == [READ]


CALL = "8,7168,8,bf16,fused_ar_rmsnorm"


def lines_of(name, *cells):
    """Return CSV of one call a cell; the name is that of a column that is not a time."""
    lines = (f"{CALL},{cell},{9 + at}.1\n" for at, cell in enumerate(cells))
    return f"tokens,hidden,tp,dtype,op,{name},time_us\n" + "".join(lines)


@pytest.mark.parametrize(
    ("name", "cells"),
    [("norm", ("rmsnorm", "layernorm", "none")), ("quant", ("none", "fp8", "mxfp4")),
     ("with_residual", ("True", "False")), ("quantized", ("False", "True")),
     ("norm_type", ("RMSNorm", "LayerNorm"))],
)  # fmt: skip
def test_a_setting_may_make_a_line_another_op(tmp_path, name, cells):
    rows, told = of(tmp_path, lines_of(name, *cells))
    assert column(rows, "latency_us")[0] == "9.1"
    others = [cell for cell in cells[1:] if cell != "none"]
    assert set(left(told)) == {f"another op: {name} {cell.lower()}" for cell in others}


@pytest.mark.parametrize("name", ["variant_id2", "policy", "num_blocks", "push_pull"])
def test_lines_that_a_column_of_no_known_meaning_tells_apart_are_left(tmp_path, name):
    text = lines_of(name, "4", "8")
    known = of(tmp_path, f"{AT}\n\n{TABLE.format(unit=' us', a=9.1, b=12.1)}\n{text}")
    assert briefly(known[0]) == [READ, OTHER]
    (reason,) = left(known[1])
    assert reason.startswith(f"'{name}' tells lines apart and is not understood")
    rows, _ = of(tmp_path, text, columns={name: "-"})
    assert column(rows, "latency_us") == ["9.1", "10.1"]


def test_a_line_far_down_that_such_a_column_tells_apart_is_left(tmp_path):
    lines = [f"{m},7168,8,bf16,a,9.{m}" for m in range(1, 80)] + ["1,7168,8,bf16,b,99.5"]
    text = "\n".join(["tokens,hidden,tp,dtype,policy,fused_1stage_us", *lines]) + "\n"
    rows, told = of(tmp_path, text)
    assert len(rows) == 79
    assert list(left(told).values()) == [1]
    lines = "| 8 | Kimi | 9.1 |\n| 8 | DeepSeek | 9.2 |\n"
    rows, told = of(
        tmp_path, f"{AT}\n\n{TIMES}| tokens | model | fused us |\n|--|--|--|\n{lines}", unit="us"
    )
    assert briefly(rows) == [READ, OTHER]
    assert list(left(told).values()) == [2]


@pytest.mark.parametrize(
    "name", ["run", "iteration", "host", "timestamp", "notes", "busbw", "model", "phase"]
)
def test_columns_of_runs_tell_no_calls_apart(tmp_path, name):
    assert len(of(tmp_path, lines_of(name, "4", "8"))[0]) == 2


@pytest.mark.parametrize(
    ("name", "cells"),
    [("enable_1stage", ("1", "0")), ("AITER_AR_1STAGE", ("True", "False")), ("stage", ("1", "2")),
     ("num_stages", ("1", "2")), ("one_shot", ("yes", "no"))],
)  # fmt: skip
def test_flags_and_numbers_say_the_arm(tmp_path, name, cells):
    rows, _ = of(tmp_path, lines_of(name, *cells))
    assert column(rows, "algorithm", "latency_us") == [("1stage", "9.1"), ("2stage", "10.1")]


def test_a_flag_says_whether_the_ops_are_fused(tmp_path):
    text = (
        lines_of("is_fused", "True", "False").replace(",op,", ",").replace(",fused_ar_rmsnorm", "")
    )
    rows, _ = of(tmp_path, text)
    assert column(rows, "op") == ["fused_ar_rmsnorm", "ar_then_rmsnorm"]


def test_numbers_of_algorithms_keep_lines_apart(tmp_path):
    rows, _ = of(tmp_path, lines_of("algo", "1", "2"))
    assert column(rows, "algorithm", "kernel_version") == [("", "algo 1"), ("", "algo 2")]


@pytest.mark.parametrize(
    ("name", "cell", "quality"),
    [("status", "timeout", None), ("status", "skipped", None), ("check", "OOM", None),
     ("accuracy", "skipped", "clean"), ("status", "ok", "clean"), ("comment", "noisy", "clean"),
     ("comment", "wrong result", "suspect"), ("notes", "mismatch on rank 3", "suspect")],
)  # fmt: skip
def test_what_a_status_or_a_remark_says_of_a_result(tmp_path, name, cell, quality):
    text = lines_of(name, cell) + lines_of(name, "").splitlines()[1].replace("9.1", "8.1") + "\n"
    rows, _ = of(tmp_path, text)
    assert [r["quality"] for r in rows if r["latency_us"] == "9.1"] == [quality] * bool(quality)
    assert "8.1" in column(rows, "latency_us")
