"""Tables whose header is no single line of names, HTML, and figures written as elsewhere."""

import pytest
from importing import column, left, of

from costmodel.data.importers.headers import (
    _is_arm,
    is_names_below,
    is_transposed,
    may_be_transposed,
    one_line,
)
from costmodel.errors import InputError

ON = "Fused AR+RMSNorm on MI300X, hidden 7168, bf16, all times in us\n\n"
BOTH = [("4", "8", "1stage", "5.1"), ("4", "8", "2stage", "6.1"),
        ("8", "8", "1stage", "9.1"), ("8", "8", "2stage", "8.1")]  # fmt: skip
PANDAS = """<table border="1" class="dataframe">
  <thead>
    <tr>
      <th></th>
      <th colspan="2" halign="left">TP4</th>
      <th colspan="2" halign="left">TP8</th>
    </tr>
    <tr>
      <th></th>
      <th>1stage</th>
      <th>2stage</th>
      <th>1stage</th>
      <th>2stage</th>
    </tr>
    <tr>
      <th>tokens</th>
      <th></th>
      <th></th>
      <th></th>
      <th></th>
    </tr>
  </thead>
  <tbody>
    <tr>
      <th>8</th>
      <td>5.1</td>
      <td>6.1</td>
      <td>9.1</td>
      <td>8.1</td>
    </tr>
  </tbody>
</table>
"""
TWO_LEVELS = {
    "ranks over arms": (
        "| | TP4 | | TP8 | |\n|--|--|--|--|--|\n| tokens | 1stage | 2stage | 1stage | 2stage |\n"
        "| 8 | 5.1 | 6.1 | 9.1 | 8.1 |\n"
    ),
    "the name of the lines above": (
        "| tokens | TP4 | | TP8 | |\n|--|--|--|--|--|\n| | 1stage | 2stage | 1stage | 2stage |\n"
        "| 8 | 5.1 | 6.1 | 9.1 | 8.1 |\n"
    ),
    "arms over ranks": (
        "| tokens | 1-stage (us) | | 2-stage (us) | |\n|--|--|--|--|--|\n"
        "| | TP4 | TP8 | TP4 | TP8 |\n| 8 | 5.1 | 9.1 | 6.1 | 8.1 |\n"
    ),
    "a grid": (
        "+---+---+---+---+---+\n|   | TP4 | TP4 | TP8 | TP8 |\n| tokens | 1stage | 2stage | 1stage"
        " | 2stage |\n+---+---+---+---+---+\n| 8 | 5.1 | 6.1 | 9.1 | 8.1 |\n+---+---+---+---+---+\n"
    ),
    "CSV of pandas": (
        ",TP4,TP4,TP8,TP8\n,1stage,2stage,1stage,2stage\ntokens,,,,\n8,5.1,6.1,9.1,8.1\n"
    ),
    "CSV whose levels have names": (
        "tp,4,4,8,8\narm,1stage,2stage,1stage,2stage\ntokens,,,,\n8,5.1,6.1,9.1,8.1\n"
    ),
    "tabs": "tokens\tTP4\t\tTP8\t\n\t1stage\t2stage\t1stage\t2stage\n8\t5.1\t6.1\t9.1\t8.1\n",
    "HTML of pandas": PANDAS,
    "HTML in one line": (
        "<table><tr><th rowspan=2>tokens</th><th colspan=2>TP4</th><th colspan=2>TP8</th></tr>"
        "<tr><th>1stage</th><th>2stage</th><th>1stage</th><th>2stage</th></tr>"
        "<tr><td>8</td><td>5.1</td><td><b>6.1</b></td><td>9.1<sup>1</sup></td><td>8.1</td></tr>"
        "</table>\n"
    ),
    "as pandas prints it": (
        "          TP4           TP8       \n       1stage 2stage 1stage 2stage\n"
        "tokens                            \n8         5.1    6.1    9.1    8.1\n"
    ),
    "a console": (
        "        TP4             TP8\ntokens  1stage  2stage  1stage  2stage\n"
        "8          5.1     6.1     9.1     8.1\n"
    ),
    "a corner and lines of arms": (
        "| arm \\ TP | 4 | 8 |\n|--|--|--|\n| 1stage, 8 tokens | 5.1 | 9.1 |\n"
        "| 2stage, 8 tokens | 6.1 | 8.1 |\n"
    ),
    "lines with a blank for the one above": (
        "| TP | tokens | arm | us |\n|--|--|--|--|\n| 4 | 8 | 1stage | 5.1 |\n| | | 2stage | 6.1 |\n"
        "| 8 | 8 | 1stage | 9.1 |\n| | | 2stage | 8.1 |\n"
    ),
    "HTML cells that reach down": (
        "<table>\n<tr><td>TP</td><td>tokens</td><td>1stage</td><td>2stage</td></tr>\n"
        "<tr><td>4</td><td rowspan=2>8</td><td>5.1</td><td>6.1</td></tr>\n"
        "<tr><td>8</td><td>9.1</td><td>8.1</td></tr>\n</table>\n"
    ),
    "ranks across, arms in lines": (
        "tokens 8\n\n| | TP4 | TP8 |\n|--|--|--|\n| 1-stage (us) | 5.1 | 9.1 |\n"
        "| 2-stage (us) | 6.1 | 8.1 |\n"
    ),
    "tuples as names": (
        "| tokens | ('TP4', '1stage') | ('TP4', '2stage') | ('TP8', '1stage') | ('TP8', '2stage') |\n"
        "|--|--|--|--|--|\n| 8 | 5.1 | 6.1 | 9.1 | 8.1 |\n"
    ),
}  # fmt: skip


def calls(rows):
    return sorted(column(rows, "world_size", "tokens", "algorithm", "latency_us"))


@pytest.mark.parametrize("text", TWO_LEVELS.values(), ids=TWO_LEVELS)
def test_names_in_two_lines_or_on_two_sides(tmp_path, text):
    rows, told = of(tmp_path, ON + text)
    assert calls(rows) == BOTH
    assert set(column(rows, "op", "hidden_dim", "gpu", "dtype")) == {
        ("fused_ar_rmsnorm", "7168", "MI300X", "bf16")
    }
    assert told.n_left == 0


def test_names_of_the_lines_may_stand_in_a_line_of_their_own():
    """As pandas writes them, below the names of the columns; a shorter line is none of names."""
    top = ["", "1stage us", "2stage us"]
    assert one_line([top, ["tokens", "", ""]]) == (["tokens", "1stage us", "2stage us"], "")
    over = ["", "fused", "fused"]
    assert one_line([over, ["", "1stage us", "2stage us"], ["tokens", "", ""]], spanned=True) == (
        ["tokens", "fused 1stage us", "fused 2stage us"], "",
    )  # fmt: skip
    names, problem = one_line([over, ["", "a", "b"], ["", "c", "d"]])
    assert names == ["", "c", "d"]
    assert problem
    assert is_names_below(["", "us", "us"], top)
    assert is_names_below(["tokens", "", ""], top)
    assert not is_names_below(["us", "us"], top)
    assert not is_names_below(["tokens", ""], ["", "us", "us"])


def test_a_table_behind_the_end_of_another_is_counted_from_its_own_line(tmp_path):
    first = "<table>\n<tr><th>tokens</th><th>1stage us</th></tr>\n<tr><td>8</td><td>9.1</td></tr>\n"
    then = "</table><table><tr><th>tokens</th><th>2stage us</th></tr>\n<tr><td>8</td><td>oom</td></tr>\n"
    text = f"TP8, {ON}{first}{then}</table>\n"
    rows, account = of(tmp_path, text)
    assert column(rows, "latency_us") == ["9.1"]
    ((reason, one),) = account.left.items()
    assert "oom" in reason
    line = 1 + text.splitlines().index("<tr><td>8</td><td>oom</td></tr>")
    assert one.first.endswith(f":{line}")


@pytest.mark.parametrize(
    ("name", "is_arm"),
    [("all_reduce", True), ("1stage", True), ("fused 2stage", True), ("rccl", True),
     ("apples", False), ("hidden", False)],
)  # fmt: skip
def test_an_arm_is_what_names_an_op_an_algorithm_or_a_library(name, is_arm):
    assert _is_arm(name) == is_arm


def test_tables_on_their_side_have_calls_across_and_whole_lines():
    across = ["tokens", "8", "16"]
    assert is_transposed(across, [(2, ["1stage us", "9.1", "9.2"])])
    assert not is_transposed(across, [(2, ["1stage us", "9.1", "9.2"]), (3, ["2stage us", "9.1"])])
    assert not is_transposed(across, [(2, ["1stage us", "9.1", "9.2", "9.3"])])
    assert not is_transposed(across, [])
    assert may_be_transposed(["name", "tokens=8", "tokens=16"], ["1stage us", "9.1", "9.2"])
    assert not may_be_transposed(["name", "apples", "pears"], ["1stage us", "9.1", "9.2"])
    assert not may_be_transposed(["name", "tokens=8", ""], ["1stage us", "9.1", "9.2"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("| | | TP4 | | | TP8 | |\n|--|--|--|--|--|--|--|\n"
         "| tokens | 1stage | 2stage | split | 1stage | 2stage | split |\n"
         "| 8 | 5.1 | 6.1 | 7 | 9.1 | 8.1 | 11 |\n", "whose upper names stand over no clear"),
        ("| | TP4 | | TP8 | | |\n|--|--|--|--|--|--|\n"
         "| tokens | 1stage | 2stage | 1stage | 2stage | RCCL + norm |\n"
         "| 8 | 5.1 | 6.1 | 9.1 | 8.1 | 15 |\n", "whose upper names stand over no clear"),
        ("| | TP4 | | TP8 | |\n|--|--|--|--|--|\n| | eager | graph | eager | graph |\n"
         "| tokens | 1stage | 1stage | 1stage | 1stage |\n| 8 | 5.1 | 6.1 | 9.1 | 8.1 |\n",
         "a header of more than two lines: 4"),
        ("           fused_1stage_us  fused_2stage_us\ntp tokens                                 \n"
         "4  8                  5.1             6.1\n   16                 5.2             7.1\n",
         "lines with names of several levels: print the frame with reset_index"),
    ],
)  # fmt: skip
def test_headers_that_leave_it_open_are_refused(tmp_path, text, reason):
    with pytest.raises(InputError, match=reason):
        of(tmp_path, ON + text)


AT_8 = "### TP8, hidden 7168, bf16, MI355X\n\n"
CALLS = [("1", "1stage", "9.1"), ("1", "2stage", "10.1"), ("2", "1stage", "9.25"),
         ("2", "2stage", "10.2")]  # fmt: skip
TURNED = {
    "markdown": (
        "| tokens | 1 | 2 |\n|--|--|--|\n| fused 1stage (us) | 9.1 | 9.25 |\n"
        "| fused 2stage (us) | 10.1 | 10.2 |\n| speedup | 1.1 | 1.1 |\n"
    ),
    "a frame": (
        "| | 0 | 1 |\n|:--|--:|--:|\n| tokens | 1 | 2 |\n| fused_1stage_us | 9.1 | 9.25 |\n"
        "| fused_2stage_us | 10.1 | 10.2 |\n"
    ),
    "CSV": "tokens,1,2\nfused_1stage_us,9.1,9.25\nfused_2stage_us,10.1,10.2\n",
    "console": (
        "tokens             1     2\nfused 1stage us  9.1  9.25\nfused 2stage us  10.1  10.2\n"
    ),
    "settings as names": (
        "| | M=1 | M=2 |\n|--|--|--|\n| fused 1stage (us) | 9.1 | 9.25 |\n"
        "| fused 2stage (us) | 10.1 | 10.2 |\n"
    ),
    "units in a line of their own": (
        "| # tokens | fused 1stage | fused 2stage |\n|--|--|--|\n| | (us) | (us) |\n"
        "| 1 | 9.1 | 10.1 |\n| 2 | 9.25 | 10.2 |\n"
    ),
    "a header without names": (
        "| | | |\n|--|--|--|\n| tokens | fused 1stage us | fused 2stage us |\n| 1 | 9.1 | 10.1 |\n"
        "| 2 | 9.25 | 10.2 |\n"
    ),
    "decimal commas": (
        "tokens;fused_1stage_us;fused_2stage_us\n1;9,1;10,1\n2;9,25;10,2\n"
    ),
    "decimal commas in bold": (
        "| tokens | fused 1stage (us) | fused 2stage (us) |\n|--|--|--|\n| 1 | **9,1** | 10,100 |\n"
        "| 2 | 9,250 | 10,2 |\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", TURNED.values(), ids=TURNED)
def test_names_down_the_first_column_and_other_decimals(tmp_path, text):
    rows, told = of(tmp_path, AT_8 + text)
    assert sorted(column(rows, "tokens", "algorithm", "latency_us")) == CALLS
    assert set(column(rows, "world_size")) == {"8"}
    assert told.n_left == 0


def test_one_record_as_names_and_values(tmp_path):
    text = "| metric | value |\n|--|--|\n| TP | 8 |\n| tokens | 16 |\n| hidden | 7168 |\n| dtype | bf16 |\n"
    rows, _ = of(tmp_path, text + "| fused 1stage (us) | 9.1 |\n| fused 2stage (us) | 10.1 |\n")
    assert calls(rows) == [("8", "16", "1stage", "9.1"), ("8", "16", "2stage", "10.1")]
    assert column(rows, "kernel_version") == ["", ""]


def test_two_html_tables_in_one_line_have_their_own_headings(tmp_path):
    table = "<table><tr><th>tokens</th><th>fused 1stage (&micro;s)</th></tr>"
    text = (
        f"<h3>TP8 hidden 7168 bf16</h3>{table}<tr><td>8</td><td>9.1</td></tr></table>"
        f"<h3>TP4 hidden 7168 bf16</h3>{table}<tr><td>8</td><td><del>5.1</del></td></tr></table>"
    )
    rows, _ = of(tmp_path, text)
    assert column(rows, "world_size", "latency_us", "quality") == [
        ("8", "9.1", "clean"), ("4", "5.1", "suspect"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "latencies"),
    [
        (("9,100", "9,125"), None),  # thousands or decimals
        (("1,100", "2,125.5"), ["1100", "2125.5"]),
        (("995", "1,125"), ["995", "1125"]),
        (("9,1", "9.2"), ["9.2"]),  # both signs: what has a comma is no figure
        (("1.009,25", "9,5"), ["1009.25", "9.5"]),
        (("0,125", "1,125"), ["0.125", "1.125"]),
    ],
)
def test_what_parts_decimals_is_known_by_the_table(tmp_path, cells, latencies):
    text = AT_8 + "| batch | fused 1stage (us) |\n|--|--|\n"
    text += "".join(f"| {2**at} | {cell} |\n" for at, cell in enumerate(cells))
    if latencies is None:
        with pytest.raises(InputError, match="'9,100' may have decimals or thousands: 1"):
            of(tmp_path, text)
        return
    assert column(of(tmp_path, text)[0], "latency_us") == latencies


DRAWN = {
    "frames": "│ tokens ┆ fused_1stage_us │\n╞════════╪═════════════════╡\n│ 8 ┆ 9.1 │\n└────┴────┘\n",
    "polars": (
        "┌────────┬─────────────────┐\n│ tokens ┆ fused_1stage_us │\n│ ---    ┆ ---             │\n"
        "│ i64    ┆ f64             │\n╞════════╪═════════════════╡\n│ 8      ┆ 9.1             │\n"
        "└────────┴─────────────────┘\n"
    ),
    "rich": (
        "┏━━━━━━━━┳━━━━━━━━━━━━━━━━━┓\n┃ tokens ┃ fused 1stage us ┃\n┡━━━━━━━━╇━━━━━━━━━━━━━━━━━┩\n"
        "│ 8      │ 9.1             │\n└────────┴─────────────────┘\n"
    ),
    "psql": " tokens | fused_1stage_us \n--------+-----------------\n      8 |  9.1\n(1 row)\n",
    "Jira": "|| tokens || fused 1stage us ||\n| 8 | 9.1 |\n",
    "TeX": (
        "\\begin{tabular}{rr}\n\\toprule\ntokens & fused 1stage ($\\mu$s) \\\\\n\\midrule\n"
        "8 & \\textbf{9.1} $\\pm$ 0.2 \\\\\n\\bottomrule\n\\end{tabular}\n"
    ),
    "reStructuredText": (
        "====== =============\ntokens fused 1stage (us)\n====== =============\n8      9.1\n"
        "====== =============\n"
    ),
    "markdown placed by HTML": (
        "<table><tr><td>\n\n| tokens | fused 1stage us |\n|--|--|\n| 8 | 9.1 |\n\n</td></tr></table>\n"
    ),
    "a label of tokens": "| | fused 1stage us |\n|--|--|\n| 8 tokens | 9.1 |\n",
}  # fmt: skip


@pytest.mark.parametrize("text", DRAWN.values(), ids=DRAWN)
def test_tables_of_other_tools(tmp_path, text):
    rows, told = of(tmp_path, AT_8 + text)
    assert column(rows, "tokens", "algorithm", "latency_us", "kernel_version") == [
        ("8", "1stage", "9.1", "")
    ]
    assert told.n_left == 0


def test_approximations_and_ranges_are_left(tmp_path):
    cells = ("~9.1", "≈9.25", "9.1-9.5", "9–10", "<10", "ca. 9", "7.7")
    text = AT_8 + "| tokens | fused 1stage (us) |\n|--|--|\n"
    rows, told = of(tmp_path, text + "".join(f"| {at} | {c} |\n" for at, c in enumerate(cells, 1)))
    assert column(rows, "latency_us") == ["7.7"]
    bound = "is an approximation or a bound"
    assert left(told) == {
        f"'~9.1' {bound}": 1, f"'≈9.25' {bound}": 1, f"'<10' {bound}": 1, f"'ca. 9' {bound}": 1,
        "'9.1-9.5' is a range": 1, "'9–10' is a range": 1,
    }  # fmt: skip


def test_columns_of_ranks_without_a_unit_ask_for_it(tmp_path):
    text = (
        "hidden 7168 bf16, fused 1stage\n\n| tokens | TP2 | TP4 |\n|--|--|--|\n| 8 | 4.1 | 5.1 |\n"
    )
    with pytest.raises(InputError, match="column 'TP2' has no unit: --unit us, ms or ns: 1"):
        of(tmp_path, text)
    assert column(of(tmp_path, text, unit="us")[0], "world_size", "latency_us") == [
        ("2", "4.1"), ("4", "5.1"),
    ]  # fmt: skip


def test_comments_before_a_csv_are_lines_and_no_headings(tmp_path):
    text = "# gpu: MI355X\n# tp: 8\n# dtype: bf16\ntokens,hidden,fused_1stage_us\n8,7168,9.1\n"
    rows, _ = of(tmp_path, text)
    assert column(rows, "gpu", "world_size", "dtype") == [("MI355X", "8", "bf16")]


@pytest.mark.parametrize(
    ("names", "cell"),
    [(("MI300X", "MI325X"), "gpu"), (("hidden=4096", "hidden=7168"), "hidden_dim"),
     (("eager", "graph"), "timing"), (("bf16", "fp16"), "dtype"), (("TP4", "TP8"), "world_size")],
)  # fmt: skip
def test_columns_that_say_a_setting(tmp_path, names, cell):
    text = "TP8 MI300X hidden 7168 bf16 fused 1stage (us)\n\n| tokens | " + " | ".join(names)
    rows, told = of(tmp_path, text + " |\n|--|--|--|\n| 8 | 19.1 | 8.1 |\n")
    said = [name.rpartition("=")[2].removeprefix("TP") for name in names]
    assert column(rows, cell, "latency_us", "kernel_version") == [
        (said[0], "19.1", ""), (said[1], "8.1", ""),
    ]  # fmt: skip
    assert told.n_left == 0


def test_a_line_of_units_below_the_names(tmp_path):
    text = "tokens,hidden,fused_1stage,fused_2stage\n-,-,us,ms\n8,7168,9.1,0.0101\n"
    rows, _ = of(tmp_path, text, world_size="8")
    assert column(rows, "tokens", "latency_us") == [("8", "9.1"), ("8", "10.1")]


def test_a_shape_in_a_label_is_the_lines_and_thousands_of_nanoseconds_are_no_decimals(tmp_path):
    text = "TP8, bf16\n\n| case | fused 1stage (ns) |\n|--|--|\n| (8, 7168) | 9,100 |\n| 16x4096 | 9,250 |\n"
    rows, _ = of(tmp_path, text)
    assert column(rows, "tokens", "hidden_dim", "latency_us") == [
        ("8", "7168", "9.1"), ("16", "4096", "9.25"),
    ]  # fmt: skip
