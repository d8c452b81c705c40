"""What follows an import accounts for every row of it: used, or set aside with a true reason."""

import json

import pytest

from costmodel.cli.main import main

PASTED = """\
### TP8, hidden 7168, bf16, MI355X

| tokens | fused 1stage (us) | fused 2stage (us) | split (us) | RCCL allreduce (us) | fused fp8 quant 1stage (us) |
|--|--|--|--|--|--|
| 8 | 9.1 | 10.1 | 20.0 | 18.0 | 11.0 |
| 16 | ~~9.3~~ | 10.3 | 20.3 | 18.3 | 11.3 |

### TP4, hidden 7168, bf16, 2 nodes

| tokens | fused 1stage (us) |
|--|--|
| 8 | 19.1 |

### TP16, hidden 7168, fp16

| tokens | fused 1stage (us) |
|--|--|
| 8 | 29.1 |
"""
TRACE = """\
"Name","Calls","TotalDurationNs","AverageNs","Percentage"
"void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16, __hip_bfloat16, 8>(x)",9,108000,12000,9
"""
RATES = """\
TransferBench v1.66.01
Test 1:
 Executor: GPU 00 |   48.1 GB/s |      1.394 ms |     67108864 bytes | 48.5 GB/s (sum)
     Transfer 00  |   48.5 GB/s |      1.382 ms |     67108864 bytes | G0 -> GPU0:4 -> G1
"""


@pytest.fixture
def run(capsys):
    def one(*args):
        """Run the command line; return (exit code, what it printed, its error)."""
        with pytest.raises(SystemExit) as ended:
            main(list(args))
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return one


@pytest.fixture
def bring(tmp_path, run):
    def one(text, *options):
        """Import a text; return the file of its rows."""
        (tmp_path / "file").write_text(text, encoding="utf-8")
        out = str(tmp_path / "rows.csv")
        assert run("import", str(tmp_path / "file"), *options, "--out", out, "--force")[0] == 0
        return out

    return one


def reasons(told):
    """Return (rows, used, reasons with counts) of what ``data`` says."""
    records = json.loads(told)["data"]
    found = {}
    for record in records:
        assert record["rows"] == record["used"] + sum(record["set_aside"].values())
        for reason, count in record["set_aside"].items():
            found[reason] = found.get(reason, 0) + count
    return sum(r["rows"] for r in records), sum(r["used"] for r in records), found


def test_each_row_of_a_table_is_used_or_set_aside_with_its_reason(run, bring):
    rows = bring(PASTED, "--gpu", "MI355X")
    assert reasons(run("data", rows, "--format", "json")[1]) == (
        12, 0,
        {"kernel family not stated": 7, "kernel family not modelled": 2, "op not modelled": 2,
         "quality is suspect": 1},
    )  # fmt: skip
    code, _, error = run("validate", "--arch", "gfx950", "--measurements", rows)
    assert code == 2
    assert "12 read, all set aside (" in error
    assert "7 kernel family not stated" in error
    # The option that the import names answers it, beside rows of RCCL that say theirs.
    rows = bring(PASTED, "--gpu", "MI355X", "--kernel-family", "aiter")
    assert reasons(run("data", rows, "--format", "json")[1]) == (
        12, 5,
        {"interconnect not modelled": 1, "world size not 2, 4 or 8": 1, "quality is suspect": 1,
         "kernel family not modelled": 2, "op not modelled": 2},
    )  # fmt: skip
    code, told, _ = run("validate", "--arch", "gfx950", "--measurements", rows)
    assert code in (0, 1)
    assert "against 5 of 12 rows" in told
    assert "set aside: 7 rows" in told


def test_rows_of_a_profile_are_set_aside_as_such_by_every_command(run, bring):
    rows = bring(TRACE, "--gpu", "MI300X")
    assert reasons(run("data", rows, "--format", "json")[1]) == (
        1,
        0,
        {"quality is serving_trace": 1},
    )
    for command in (["validate", "--arch", "gfx942", "--measurements"], ["calibrate"]):
        code, _, error = run(*command, rows)
        assert (code, "1 quality is serving_trace" in error) == (2, True), error


def test_rates_of_links_are_known_for_what_they_are(run, bring):
    rows = bring(RATES, "--gpu", "MI300X")
    for command in (["validate", "--arch", "gfx942", "--measurements"], ["calibrate"], ["data"]):
        code, _, error = run(*command, rows)
        assert (code, "rates of links, no latencies" in error) == (2, True), error
