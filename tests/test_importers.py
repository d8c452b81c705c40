import json

import pytest

from costmodel.cli.main import main
from costmodel.data import measurement
from costmodel.data.importers import FORMATS, Said, account, read
from costmodel.data.importers.cells import dtype_of, gpu_of
from costmodel.data.importers.formats import LATENCIES
from costmodel.data.importers.labels import read_label
from costmodel.errors import InputError

RCCL = """\
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 8 minBytes 1024 maxBytes 4096 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1 validation: 1 graph: {graph}
#
rccl-tests: Version develop:8dfeaa1
# Using devices
#  Rank  0 Group  0 Pid  41 on      node device  0 [0000:05:00] AMD Instinct MI300X
#  Rank  1 Group  0 Pid  41 on      node device  1 [0000:26:00] AMD Instinct MI300X
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
           0             0  bfloat16     sum      -1     0.35    0.00    0.00      0     0.31    0.00    0.00      0
        1024           512  bfloat16     sum      -1    12.34    0.08    0.08      0    11.95    0.09    0.09      0
        2048          1024  bfloat16     sum      -1    12.50    0.16    0.16      2    12.10    0.17    0.17      0
        4096          2048  bfloat16     sum      -1    13.01    0.31    0.31    N/A    12.80    0.32    0.32    N/A
# Errors with asterisks indicate errors that have exceeded the maximum threshold.
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 0.18
"""

AITER = """\
[aiter] start dump, worker 0
[2026-06-12 10:11:12] [aiter] fused allreduce rmsnorm summary (markdown):
|   tp_size | shape      | dtype          | withGraph   |   min_us |   max_us |   err |
|----------:|:-----------|:---------------|:------------|---------:|---------:|------:|
|         8 | (16, 7168) | torch.bfloat16 | True        |     8.11 |     9.27 |     0 |
|         8 | (32, 7168) | torch.bfloat16 | False       |    10.42 |    27.10 |     0 |
[aiter] done
"""

SGLANG_CSV = """\
num_tokens,hidden_size,tp,split_us,fused 1-stage (us),fused_2stage_latency_ms,speedup
1,2880,8,14.2,8.1,0.0102,1.75
64,2880,8,19.5,N/A,0.0127,1.53
"""

VLLM_COMMUNICATORS = {
    "world_size": 4, "dtype": "torch.bfloat16", "hidden_size": 8192,
    "sequence_lengths": [16, 512], "num_warmup": 5, "num_trials": 50,
    "cuda_graph_capture_cycles": 10,
    "results": {
        "16": {"timings": {"ca_1stage": 0.0101, "ca_2stage": 0.0123, "pynccl": 0.0301,
                           "aiter_ag": 0.02}, "speedup_info": {}},
        "512": {"timings": {"ca_2stage": 0.0921}, "speedup_info": {}},
    },
}  # fmt: skip

VLLM_COLLECTIVE = """\
# FlashInfer Fused Collective Operations Benchmark Results

**World Size:** 8
**Hidden Dimension:** 7168
**Warmup Iterations:** 5
**Benchmark Trials:** 20
**Quantization Modes:** none

---

## Configuration: num_tokens=128, dtype=torch.bfloat16, with residual
**Input Size:** 1.75 MB

| Operation                                           | Time (ms) | Speedup  |
|:----------------------------------------------------|:----------|:---------|
| Standard Allreduce  Custom Rms Norm                 | 0.061     | 0.95x    |
| Flashinfer Trtllm Fused Allreduce Rmsnorm Oneshot   | 0.033     | 1.76x    |
| Flashinfer Trtllm Fused Allreduce Rmsnorm Twoshot   | FAILED    | FAILED   |

## Configuration: num_tokens=128, dtype=torch.bfloat16, no residual
**Input Size:** 1.75 MB

| Operation                                           | Time (ms) | Speedup  |
|:----------------------------------------------------|:----------|:---------|
| Standard Allreduce  Custom Rms Norm                 | 0.055     | baseline |
"""


def imported(tmp_path, kind, text, **said):
    path = tmp_path / "file"
    path.write_text(text)
    table, account_of_it = read(path, Said(**{"source": "mine", **said}), kind)
    assert len(table) == account_of_it.n_rows
    return table, [*account(account_of_it), *account_of_it.notes]


def test_aiter_markdown_takes_the_slowest_rank(tmp_path):
    table, notes = imported(
        tmp_path, "aiter", AITER, op="fused_ar_rmsnorm", algorithm="1stage", arch="gfx950"
    )
    assert table.latency_us.tolist() == [9.27, 27.10]
    assert set(table.rank_reduction) == {"max"}
    assert table.tokens.tolist() == [16, 32]
    assert set(table.hidden_dim) == {7168}
    assert table.bytes.tolist() == [16 * 7168 * 2, 32 * 7168 * 2]
    assert table.timing.tolist() == ["graph", "eager"]
    assert set(table.world_size) == {8}
    assert set(table.dtype) == {"bf16"}
    assert set(table.algorithm) == {"1stage"}
    assert set(table.kernel_family) == {"aiter"}
    assert any("maximum is the latency" in note for note in notes)
    assert any("min_us" in note for note in notes)


def test_a_latency_of_no_known_op_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no row could be read .*'max_us' does not say which op"):
        imported(tmp_path, "aiter", AITER.replace("fused allreduce rmsnorm ", ""))


def test_sglang_csv_has_a_column_for_each_implementation(tmp_path):
    table, notes = imported(tmp_path, "sglang", SGLANG_CSV, dtype="bf16")
    rows = sorted(
        zip(table.tokens, table.op, table.algorithm, table.latency_us.round(6), strict=True)
    )
    assert rows == [
        (1, "ar_then_rmsnorm", "", 14.2),
        (1, "fused_ar_rmsnorm", "1stage", 8.1),
        (1, "fused_ar_rmsnorm", "2stage", 10.2),  # from milliseconds
        (64, "ar_then_rmsnorm", "", 19.5),
        (64, "fused_ar_rmsnorm", "2stage", 12.7),
    ]
    assert set(table.bytes) == {5760, 64 * 5760}
    assert "no time (N/A): 1" in notes
    assert "columns not used: speedup" in notes


def test_the_user_says_what_a_column_is(tmp_path):
    text = "M,H,tp,dtype,kernel_x (us),other (us)\n8,4096,8,bf16,7.5,9.5\n"
    table, notes = imported(
        tmp_path, "sglang", text,
        columns={"kernel_x (us)": "fused_ar_rmsnorm:2stage", "other (us)": "-"},
    )  # fmt: skip
    assert (table.op[0], table.algorithm[0], table.latency_us[0]) == (
        "fused_ar_rmsnorm", "2stage", 7.5,
    )  # fmt: skip
    assert "columns not used: other (us)" in notes
    with pytest.raises(InputError, match="unknown op 'fused'"):
        imported(tmp_path, "sglang", text, columns={"kernel_x (us)": "fused"})


def test_json_records_with_a_label_in_each_row(tmp_path):
    records = [
        {"tokens": 4, "hidden_dim": 4096, "provider": "fused_1stage", "median_us": 7.25},
        {"tokens": 4, "hidden_dim": 4096, "provider": "unfused", "median_us": 12.5},
        {"tokens": 4, "hidden_dim": 4096, "provider": "all_gather", "median_us": 3.5},
    ]
    for text in (
        json.dumps(records),
        "\n".join(map(json.dumps, records)),
        json.dumps({"tp_size": 4, "dtype": "half", "rows": records}),
    ):
        table, notes = imported(tmp_path, "sglang", text, world_size="4", dtype="fp16")
        assert table.op.tolist() == ["fused_ar_rmsnorm", "ar_then_rmsnorm"]
        assert table.algorithm.tolist() == ["1stage", ""]
        assert set(table.statistic) == {"median"}
        assert "no op of schema 1: all_gather: 1" in notes
    assert set(table.world_size) == {4}
    assert set(table.dtype) == {"fp16"}


def test_vllm_device_communicators(tmp_path):
    table, notes = imported(tmp_path, "vllm", json.dumps(VLLM_COMMUNICATORS), gpu="MI355X")
    assert table.tokens.tolist() == [16, 16, 16, 512]
    assert table.algorithm.tolist() == ["1stage", "2stage", "", "2stage"]
    assert table.latency_us.tolist() == pytest.approx([10.1, 12.3, 30.1, 92.1])
    assert set(table.op) == {"all_reduce"}
    assert set(table.rank_reduction) == {"rank0"}
    assert set(table.world_size) == {4}
    assert table.bytes[0] == 16 * 8192 * 2
    assert "not all-reduce: aiter_ag: 1" in notes


def test_vllm_fused_collective(tmp_path):
    table, notes = imported(tmp_path, "vllm", VLLM_COLLECTIVE)
    assert table.op.tolist() == ["ar_then_rmsnorm", "fused_ar_rmsnorm"]
    assert table.algorithm.tolist() == ["", "1stage"]
    assert table.latency_us.tolist() == pytest.approx([61.0, 33.0])
    assert table.kernel_family.tolist() == ["vllm", "flashinfer"]
    assert "no time (FAILED): 1" in notes
    assert "without residual: another op than the fused one: 1" in notes


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("aiter", "no table here\n", "no row could be read from it; aiter means: log"),
        ("aiter", "| tokens | time |\n|---|---|\n| 1 | 2 |\n", "column 'time' has no unit"),
        (
            "aiter",
            "| tokens | x |\n|---|---|\n| 1 | 2 |\n",
            "no column of times in the table of line 1",
        ),
        ("aiter", "| tokens | a_us |\n|---|---|\n| 1 | 2 | 3 |\n", "(3 cells, the header has 2: 1"),
        ("sglang", "tokens,fused_us\n1.5,2\n", "tokens '1.5' is not understood: 1"),
        ("sglang", "tokens,fused_us\n1,fast\n", "'fast' is no time: 1"),
        ("sglang", "tokens,fused_us\n1,-3\n", "no time: 1"),
        ("sglang", "tokens,shape,fused_us\n1,7168,3\n", "shape '7168' is not understood: 1"),
        (
            "sglang",
            "tokens,fused_us\n1,n/a\n",
            "no row could be read from it (no time (n/a): 1",
        ),
        ("sglang", '{"a": 1}', "no column of times in the table of line 1: a"),
        ("sglang", "{", "not JSON"),
        (
            "vllm",
            '{"results": {"1": {}}}',
            "results[...]: object missing required field `timings`; give the JSON that",
        ),
    ],
)
def test_bad_files(tmp_path, kind, text, message):
    with pytest.raises(InputError) as caught:
        imported(tmp_path, kind, text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_the_user_says_against_the_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="the file says world_size 8, --world-size says 4"):
        imported(tmp_path, "sglang", SGLANG_CSV, world_size="4")


def test_a_file_that_is_missing_or_binary(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none", Said())
    with pytest.raises(InputError, match="Is a directory"):
        read(tmp_path, Said())
    (tmp_path / "binary").write_bytes(b"\x00\xfe\x00\x80")
    texts = [form.name for form in FORMATS if form.makes == LATENCIES and not form.magic]
    for kind in ("", *texts):
        with pytest.raises(InputError, match="not a text file"):
            read(tmp_path / "binary", Said(), kind)
    with pytest.raises(InputError, match=r"unknown format 'rccl' \(did you mean rccl-tests"):
        read(tmp_path / "binary", Said(), "rccl")


@pytest.mark.parametrize(
    ("text", "op", "algorithm", "used"),
    [
        ("1stage_us", "", "1stage", True),
        ("fused_one_shot (us)", "fused_ar_rmsnorm", "1stage", True),
        ("fused 2-stage", "fused_ar_rmsnorm", "2stage", True),
        ("auto fused", "fused_ar_rmsnorm", "auto", True),
        ("unfused", "ar_then_rmsnorm", "", True),
        ("custom_all_reduce_twoshot_us", "all_reduce", "2stage", True),
        ("fused_ar_rms_fp8_1stage", "fused_ar_rmsnorm_quant_fp8", "1stage", True),
        ("reduce_scatter_us", "other", "", False),
        ("standard_fp8_quant", "other", "", False),
        ("latency_us", "", "", True),
    ],
)
def test_labels(text, op, algorithm, used):
    label = read_label(text, Said())
    assert (label.op, label.algorithm, label.used) == (op, algorithm, used)


def test_names():
    assert [dtype_of(n) for n in ("torch.bfloat16", "Half", "float", "fp8")] == [
        "bf16", "fp16", "fp32", "fp8",
    ]  # fmt: skip
    assert gpu_of("AMD Instinct MI300X OAM") == "MI300X"
    assert gpu_of("NVIDIA H200") == "H200"


@pytest.mark.parametrize("meaning", ["fused:2-stage", "fused_ar_rmsnorm:2stage", "Fused:twostage"])
def test_a_column_is_named_as_the_options_name_an_arm(tmp_path, capsys, meaning):
    log, out = tmp_path / "log.md", tmp_path / "rows.csv"
    log.write_text("| tokens | ours (us) | old (us) |\n|---|---|---|\n| 8 | 6.1 | 7.0 |\n")
    with pytest.raises(SystemExit) as ended:
        main(["import", str(log), "--column", f"ours (us)={meaning}", "--column", "old (us)=-",
              "--gpu", "MI355X", "--tp", "4", "--hidden", "7168", "--out", str(out)])  # fmt: skip
    assert ended.value.code == 0, capsys.readouterr().err
    table = measurement.read(out)
    assert (table.op.tolist(), table.algorithm.tolist()) == (["fused_ar_rmsnorm"], ["2stage"])


def test_the_command_writes_schema_1_and_refuses_to_overwrite(tmp_path, capsys):
    (tmp_path / "sweep.csv").write_text(SGLANG_CSV)
    out = tmp_path / "schema1.csv"
    arguments = ["import", str(tmp_path / "sweep.csv"), "--as", "sglang", "--dtype", "bf16",
                 "--gpu", "mi300x", "--out", str(out)]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "5 rows of sglang (CSV, report" in said
    assert f"6 results in {tmp_path / 'sweep.csv'}: 5 read, 1 left (no time (N/A): 1)" in said
    assert "not said by the file, options can: kernel_family (--kernel-family)" in said
    assert "timing (--timing)" in said
    assert "(--gpu)" not in said
    table = measurement.read(out)
    assert set(table.source) == {"sweep"}
    assert set(table.arch) == {"gfx942"}
    assert set(table.interconnect) == {"xgmi"}
    before = out.read_bytes()
    for more, message in [((), "exists; give --force"), (("--column", "x"), "NAME=OP")]:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *more, *(["--force"] if more else [])])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
        assert out.read_bytes() == before
