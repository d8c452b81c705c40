"""AITER's op_tests and its FlyDSL tuner, as their sources print and write them."""

from pathlib import Path

import pytest
from importing import briefly, column, imported, left, of

from costmodel.data.importers import aiter as reader
from costmodel.data.importers.text_file import TextFile
from costmodel.errors import InputError

CASES = Path(__file__).parent / "cases"
MAXIMUM = "minimum and maximum over the ranks are one call: the maximum is the latency"


def test_the_slowest_rank_is_the_latency_and_err_decides_the_quality():
    rows, told = imported(CASES / "aiter-fused-ar-rms.log", gpu="MI355X")
    assert briefly(rows) == [
        "fused - 8 16 7168 bf16 229376 12.6 graph clean",
        "fp8 - 8 16 7168 bf16 229376 13.9 graph clean",
        "fused - 8 64 7168 bf16 917504 17.4 graph suspect",
        "fp8 - 8 64 7168 bf16 917504 18.9 graph clean",
    ]
    assert set(column(rows, "kernel_family", "statistic", "rank_reduction", "interconnect")) == {
        ("aiter", "mean", "max", "xgmi")
    }
    assert told.n_left == 0
    assert {MAXIMUM, "1 suspect, with the line: fused_err 0.012 (6)"} <= set(told.notes)


PLAIN = """\
[aiter] start dump
\x1b[33m[aiter] RANK: 0 8 init_process_group...\x1b[0m
[aiter] test_allreduce_custom: shape=(2, 7168) dtype=torch.bfloat16 withGraph=True     6.11[checkAllclose atol=0.01 rtol=0.01 \x1b[32mpassed~\x1b[0m]
[aiter] custom allreduce summary (markdown):
|   tp_size | shape       | dtype          | withGraph   |   min_us |   max_us |   err |
|----------:|:------------|:---------------|:------------|---------:|---------:|------:|
|         8 | (2, 7168)   | torch.float16  | True        |  5.91    |     6.42 |     0 |
|         8 | (128, 8192) | torch.bfloat16 | False       | 25.01    |    26.3  |   0.2 |
"""
GROUP = """\
[aiter] custom group comm ops summary (markdown):
| test           | withGraph   |   ar_min_us |   ar_max_us |   ar_err |   ag_min_us |   ag_max_us |   ag_err |   rs_min_us |   rs_max_us |   rs_err |
|:---------------|:------------|------------:|------------:|---------:|------------:|------------:|---------:|------------:|------------:|---------:|
| custom_tp      | True        |        20.1 |        21.5 |        0 |        30.1 |        31.5 |        0 |        15.1 |        16.5 |        0 |
| multi_group:dp | False       |        40.1 |        41.5 |     0.01 |        30.1 |        31.5 |        0 |        15.1 |        16.5 |        0 |
"""
PER_GROUP = """\
[aiter] fused AR+RMSNorm+per-group-quant summary (markdown):
|   tp_size | shape      | dtype          |   group_size | withGraph   | emit_bf16   | transpose_scale   |   per_group_min_us |   per_group_max_us |   per_group_err |   bf16_vs_fp8 |
|----------:|:-----------|:---------------|-------------:|:------------|:------------|:------------------|-------------------:|-------------------:|----------------:|--------------:|
|         8 | (13, 4096) | torch.bfloat16 |          128 | True        | False       | False             |               10.1 |               11.4 |               0 |        0      |
|         8 | (13, 4096) | torch.bfloat16 |          128 | True        | True        | False             |               10.5 |               11.9 |          0.0002 |        0.0312 |
"""
CSV = """\
tp_size,pp_size,shape,dtype,withGraph,distributed_init_method,fused_min_us,fused_max_us,fused_err
8,1,"(13, 2880)",torch.bfloat16,False,tcp://192.0.2.1:3444,11.2,12.8,0.0
8,1,"(13, 2880)",torch.bfloat16,True,tcp://192.0.2.1:3444,7.2,7.8,0.06
"""
BEHIND_RANKS = """\
[rank0]: |   tp_size | shape      | dtype   | withGraph   |   fused_min_us |   fused_max_us |   fused_err |
[rank0]: |----------:|:-----------|:--------|:------------|---------------:|---------------:|------------:|
[rank0]: |         4 | (16, 2048) | torch.bfloat16 | 1    |            6.1 |            6.6 |           0 |
"""
MHC = """\
# AR + mhc_post only (split vs fused epilogue)
# warmup=10 bench_warmup=5 bench_iters=20
# graph capture: split via registered AR; fused reg_ptr=0 (registered=True)
# metric=rank-max mean (us)

## TP=4 graph-on
M\tsplit\tfused\tsaved\tspeedup
8\t25.1\t15.2\t9.9\t+39.4%

## TP=4 graph-off
M\tbytes\tsplit\t1stage\t2stage\tauto\tauto_path\tbest
8\t65536\t35.1\t25.2\t27.9\t25.3\t1stage\t1stage

"""
AGAINST_RCCL = """
-------------------------------------------------------------
    Size |            Shape |   AITER (us) |    RCCL (us)
-------------------------------------------------------------
  128 MB |    (8192, 8192) |        501.2 |        622.1
    1 GB |   (65536, 8192) |       4010.5 |       5100.0
-------------------------------------------------------------
  dtype=bf16  hidden=8192  tp=8  mode=eager
  warmup=5  iters=20  metric=avg of per-iter max latency across 8 GPUs

"""
MXFP4 = """\
[aiter] fused AR+RMSNorm+MXFP4 row: {'tp_size': 8, 'shape': (1, 4096), 'dtype': 'bfloat16', 'emit_bf16': False, 'stage_override': '1', 'expected_path': 'direct_1stage', 'min_us': 9.1, 'max_us': 9.9, 'mxfp4_dequant_err': 0.0, 'residual_err': 0, 'bf16_err': 0.0}
[aiter] fused AR+RMSNorm+MXFP4 row: {'tp_size': 8, 'shape': (16, 7168), 'dtype': 'bfloat16', 'emit_bf16': True, 'stage_override': 'auto', 'expected_path': 'direct_2stage', 'min_us': 12.1, 'max_us': 12.9, 'mxfp4_dequant_err': 0.001, 'residual_err': 0, 'bf16_err': 0.0}
[aiter] fused AR+RMSNorm+MXFP4 row: {'tp_size': 8, 'shape': (128, 7168), 'dtype': 'bfloat16', 'emit_bf16': False, 'stage_override': 'auto', 'expected_path': 'fallback', 'min_us': 29.1, 'max_us': 29.9, 'mxfp4_dequant_err': 0.0, 'residual_err': 0, 'bf16_err': 0.0}
[aiter] fused AR+RMSNorm+MXFP4 row: {'tp_size': 8, 'shape': (2, 4096), 'dtype': 'bfloat16', 'emit_bf16': False, 'stage_override': 'auto', 'expected_path': 'direct_1stage', 'min_us': 9.1, 'max_us': 9.8, 'mxfp4_dequant_err': 0.2, 'residual_err': 0, 'bf16_err': 0.0}
"""
ORDER = "".join(
    f"{{'shape': ({m}, 7168), 'rank': {rank}, 'max_abs_err': 0.0, 'first_bad': {bad}, "
    f"'p50_us': {11 + rank / 10}, 'p90_us': 13.0, 'p99_us': 14.0}}\n"
    for m, bad in ((16, -1), (32, 3))
    for rank in range(8)
)


def checks(test, atol, times, verdict="\x1b[32mpassed~\x1b[0m"):
    return "".join(
        f"[aiter] {test}: shape=(16, 7168) dtype=torch.bfloat16 withGraph=True {us:>8.2f}"
        f"[checkAllclose atol={atol} rtol={atol} {verdict}]\n"
        for us in times
    )


LINES = (
    checks("test_fused_ar_rmsnorm", 0.01, (11.0, 11.7, 11.2, 11.1))
    + checks("test_fused_ar_rmsnorm", 0.05, (12.0, 12.7, 12.2, 12.1))
    + checks("test_allreduce_custom", 0.01, (6.0, 6.1, 6.2, 6.3), "\x1b[33mwarning!\x1b[0m")
    + checks("test_allgather_custom", 0.01, (6.0, 6.1, 6.2, 6.3))
    + checks("test_allreduce_custom", 0.01, (7.0, 7.1), "\x1b[31mfailed!\x1b[0m")
)
OLD = """\
| shape      | dtype          | withGraph   | tp_size | min_us | max_us | err |
|:-----------|:---------------|:------------|:--|---:|---:|---:|
| (13, 2880) | torch.bfloat16 | True        | 2 | 4.1 | 4.4 | 0 |
"""

INPUTS = {
    "plain, graph and wrong": (
        PLAIN, {"algorithm": "1stage"}, ["plain 1stage 8 2 7168 fp16 28672 6.42 graph clean"],
        {"wrong result: err above AITER's limit of 0.05": 1},
    ),
    "group": (
        GROUP, {"tokens": "128", "hidden_dim": "8192", "dtype": "bf16", "world_size": "4"},
        ["plain - 4 128 8192 bf16 2097152 21.5 graph clean",
         "plain - 4 128 8192 bf16 2097152 41.5 eager suspect"],
        {"no op of schema 1: ag_max_us": 2, "no op of schema 1: rs_max_us": 2},
    ),
    "per group quantised": (
        PER_GROUP, {},
        ["fp8 - 8 13 4096 bf16 106496 11.4 graph clean", "fp8 - 8 13 4096 bf16 106496 11.9 graph suspect"],
        {},
    ),
    "CSV": (
        CSV, {}, ["fused - 8 13 2880 bf16 74880 12.8 eager clean"],
        {"wrong result: fused_err above AITER's limit of 0.05": 1},
    ),
    "behind ranks": (BEHIND_RANKS, {}, ["fused - 4 16 2048 bf16 65536 6.6 graph clean"], {}),
    "hyper-connections": (
        MHC, {"hidden_dim": "4096", "dtype": "bf16"},
        ["mhc - 4 8 4096 bf16 65536 15.2 graph clean", "mhc 1stage 4 8 4096 bf16 65536 25.2 eager clean",
         "mhc 2stage 4 8 4096 bf16 65536 27.9 eager clean", "mhc auto 4 8 4096 bf16 65536 25.3 eager clean"],
        {"no op of schema 1: split, mHC": 2},
    ),
    "against RCCL": (
        AGAINST_RCCL, {},
        ["plain - 8 8192 8192 bf16 134217728 501.2 eager clean",
         "plain - 8 8192 8192 bf16 134217728 622.1 eager clean",
         "plain - 8 65536 8192 bf16 1073741824 4010.5 eager clean",
         "plain - 8 65536 8192 bf16 1073741824 5100 eager clean"],
        {},
    ),
    "MXFP4 records": (
        MXFP4, {},
        ["mxfp4 1stage 8 1 4096 bf16 8192 9.9 - clean", "mxfp4 2stage 8 16 7168 bf16 229376 12.9 - suspect"],
        {"no op of schema 1: the fallback, fused op and quantisation apart": 1,
         "wrong result: mxfp4_dequant_err above AITER's limit of 0.05": 1},
    ),
    "memory order, a record a rank": (
        ORDER, {}, ["fused - 8 16 7168 bf16 229376 11.7 eager clean"], {"wrong result: first_bad": 1},
    ),
    "checks without a summary": (
        LINES, {},
        ["fused - 4 16 7168 bf16 229376 11.7 graph clean", "fp8 - 4 16 7168 bf16 229376 12.7 graph clean",
         "plain - 4 16 7168 bf16 229376 6.3 graph suspect"],
        {"no op of schema 1: test_allgather_custom": 1, "wrong result: checkAllclose failed": 1},
    ),
    "a table whose op is said": (
        OLD, {"op": "fused_ar_rmsnorm", "algorithm": "1stage"},
        ["fused 1stage 2 13 2880 bf16 74880 4.4 graph clean"], {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said", "expected", "left_of_it"), INPUTS.values(), ids=INPUTS)
def test_outputs_of_the_tests(tmp_path, text, said, expected, left_of_it):
    rows, told = of(tmp_path, text, **said)
    assert told.kind == "aiter"
    assert briefly(rows) == expected
    assert left(told) == left_of_it
    assert set(column(rows, "rank_reduction")) == {"max"}


def test_states_of_a_kernel_are_told_apart(tmp_path):
    rows, _ = of(tmp_path, PER_GROUP)
    assert column(rows, "kernel_version") == [
        "group_size 128, emit_bf16 False, transpose_scale False",
        "group_size 128, emit_bf16 True, transpose_scale False",
    ]
    rows, _ = of(tmp_path, AGAINST_RCCL)
    assert column(rows, "kernel_family") == ["aiter", "rccl"] * 2


@pytest.mark.parametrize(
    ("caption", "shape"),
    [("allgather summary (markdown):", "(128, 8192)"), ("fused qknorm allreduce summary (markdown):", "(1, 3, 5, 1)"),
     ("=== reduce_scatter summary ===", "(128, 8192)")],
)  # fmt: skip
def test_other_ops_are_left(tmp_path, caption, shape):
    text = (
        f"{caption}\n| tp_size | shape | dtype | withGraph | min_us | max_us | err |\n|-:|:-|:-|:-|-:|-:|-:|\n"
        f"| 8 | {shape} | torch.bfloat16 | False | 5.9 | 6.4 | 0 |\n"
    )
    with pytest.raises(InputError, match=r"no op of schema 1: .*: 1"):
        of(tmp_path, text)


# The FlyDSL tuner.

ARMS = ("fused_cdr_1stage", "fused_cdr_2stage", "separate_cdr", "separate_rccl")


def sweep(*lines, candidates=(*ARMS, "fused_fly_1stage", "fused_fly_1stage_a1_g64_k2")):
    """Return a CSV as _write_raw_csv of bench_comm_allreduce.py writes it."""
    columns = [
        f"{c} {what}"
        for c in candidates
        for what in ("us", "busbw GB/s", "median us", "variant", "SQNR dB", "exact", "spread us")
    ]
    head = ["gfx", "dtype", "TP", "M", "K", "payload size (KiB)", "_nbytes", "kernel", "naive",
            "prod path", *columns, "timing", "graph inner", "fly accuracy"]  # fmt: skip
    text = [",".join(head)]
    for tp, m, k, timing, results in lines:
        cells = ["gfx942", "bfloat16", tp, m, k, m * k * 2 / 1024, m * k * 2, "1stage", "1stage",
                 "cdr_fused:1stage"]  # fmt: skip
        for us, sqnr in results:
            cells += [us, 18.0, us, "", sqnr, True, 0.1] if us else [""] * 7
        text.append(",".join(map(str, [*cells, timing, 10, "fast"])))
    return "\n".join(text) + "\n"


def test_a_sweep_of_the_tuner(tmp_path):
    text = sweep(
        (
            8,
            8,
            7168,
            "graph",
            [(11.21, 55.1), (12.31, 55.0), (17.1, 54.9), (31.2, 51), (9.9, 54), (9.7, 54)],
        ),
        (
            4,
            512,
            7168,
            "eager",
            [(0, 0), (82.31, 35.0), (97.1, "inf"), (131.2, "nan"), (0, 0), (59.7, 54)],
        ),
    )
    rows, told = of(tmp_path, text, gpu="MI325X")
    assert told.kind == "flydsl"
    assert briefly(rows) == [
        "fused 1stage 8 8 7168 bf16 114688 11.21 graph clean",
        "fused 2stage 8 8 7168 bf16 114688 12.31 graph clean",
        "separate auto 8 8 7168 bf16 114688 17.1 graph clean",
        "separate - 8 8 7168 bf16 114688 31.2 graph clean",
        "separate auto 4 512 7168 bf16 7340032 97.1 eager clean",
        "separate - 4 512 7168 bf16 7340032 131.2 eager suspect",
    ]
    assert set(column(rows, "gpu", "arch", "interconnect", "statistic", "rank_reduction")) == {
        ("MI325X", "gfx942", "xgmi", "mean", "max")
    }
    assert column(rows, "kernel_family") == ["aiter", "aiter", "aiter", "rccl", "aiter", "rccl"]
    assert left(told) == {
        "another kernel: fused_fly_1stage": 4, "no time: not applicable there": 1,
        "wrong result: SQNR below the harness's floor of 40 dB": 1,
    }  # fmt: skip


#: The columns that were announced, a line of each form; a name of two words beside one of one.
ANNOUNCED = """
TP,K,M,_nbytes,timing,prod path,fused_cdr_1stage us,fused_cdr_1stage median us,fused_cdr_1stage SQNR dB,fused_cdr_1stage variant,fused_cdr_2stage us,fused_cdr_2stage SQNR dB,separate_cdr us
4,7168,8,114688,graph,fused_cdr_1stage,8.1,8.0,55.1,naive,12.1,55,14
8,7168,16,229376,graph,fused_cdr_1stage,9.1,9.0,FAIL,naive,N/A,N/A,14.5
""".strip()


def announced(form):
    header, *rows = [line.split(",") for line in ANNOUNCED.splitlines()]
    if form == "csv":
        return ANNOUNCED + "\n"
    if form == "tabs":
        return ANNOUNCED.replace(",", "\t") + "\n"
    if form == "markdown":
        lines = [header, ["--"] * len(header), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    index = ["", "0", "1"] if form == "console with an index" else None
    return "".join(
        (f"{index[n]:<1} " if index else "")
        + " ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + "\n"
        for n, line in enumerate([header, *rows])
    )  # fmt: skip


@pytest.mark.parametrize("form", ["csv", "tabs", "markdown", "console", "console with an index"])
def test_the_announced_columns_in_every_form(tmp_path, form):
    rows, told = of(tmp_path, announced(form), gpu="MI325X", dtype="bf16")
    assert told.kind == "flydsl"
    assert briefly(rows) == [
        "fused 1stage 4 8 7168 bf16 114688 8.1 graph clean",
        "fused 2stage 4 8 7168 bf16 114688 12.1 graph clean",
        "separate auto 4 8 7168 bf16 114688 14 graph clean",
        "separate auto 8 16 7168 bf16 229376 14.5 graph clean",
    ]
    assert column(rows, "kernel_version")[0] == "variant naive"
    assert left(told) == {"wrong result: SQNR is FAIL": 1, "no time: not applicable there": 1}


def test_what_stands_around_a_table_of_the_tuner_fills_its_columns(tmp_path):
    rows, _ = of(
        tmp_path,
        """MI325X, TP8, K=7168, graph

| M | _nbytes | fused_cdr_1stage us | fused_cdr_2stage us | prod path |
|--|--|--|--|--|
| 8 | 114688 | **8.1** | 12.1 us | fused_cdr_1stage |
| 512 | 9999 | 88.1 | **42.1** | fused_cdr_2stage |
""",
    )
    assert briefly(rows) == [
        "fused 1stage 8 8 7168 - 114688 8.1 graph clean",
        "fused 2stage 8 8 7168 - 114688 12.1 graph clean",
    ]


def test_a_sweep_of_the_plain_all_reduce(tmp_path):
    text = sweep(
        (4, 8, 7168, "graph", [(6.1, 55), (7.0, 55), (20.1, 51), (9.0, 30), (8.0, 18)]),
        candidates=("cdr", "cdr_naive", "rccl", "qr_int4", "fly_int4_ring_st8_int6"),
    )
    rows, told = of(tmp_path, text)
    assert briefly(rows) == [
        "plain 1stage 4 8 7168 bf16 114688 6.1 graph clean",
        "plain - 4 8 7168 bf16 114688 20.1 graph clean",
    ]
    assert left(told) == {
        "another kernel: cdr_naive": 1, "another kernel: qr": 1, "another kernel: fly_int4_ring": 1,
    }  # fmt: skip


def test_a_candidate_is_an_arm_when_the_user_says_so(tmp_path):
    text = sweep((8, 8, 7168, "graph", [(9.0, 54)]), candidates=("fused_fly_1stage",))
    rows, _ = of(tmp_path, text, columns={"fused_fly_1stage": "fused_ar_rmsnorm:1stage"})
    assert briefly(rows) == ["fused 1stage 8 8 7168 bf16 114688 9 graph clean"]


def test_a_cut_line_and_a_wrong_size_are_left(tmp_path):
    whole = sweep(
        (
            8,
            8,
            7168,
            "graph",
            [(11.2, 55), (12.3, 55), (17.1, 55), (31.2, 51), (9.9, 54), (9.7, 54)],
        )
    )
    header, line, _ = whole.split("\n")
    cut = ",".join(line.split(",")[:20])
    rows, told = of(
        tmp_path, "\n".join([header, line, cut, line.replace(",114688,", ",114000,")]) + "\n"
    )
    assert len(rows) == 4
    assert told.n_rows + told.n_left == 3 * 6
    assert left(told)["bytes are not tokens x hidden size x element size"] == 4


REPORT = """\
# aiter all-reduce benchmark

- generated: 2026-09-20 10:00:00 UTC
- device: AMD Instinct MI325X [gfx942:sramecc+:xnack-, 304 CU, 256 GiB]
- arch: gfx942 (8 GPU(s) visible)
- peer links: xGMI
- timing: **graph** -- `us` is HIP-graph replay (10 collectives per capture)
- command: bench_comm_allreduce.py --fusion ar_rmsnorm -tp 8 4

## bf16 summary

|   TP |   M |    K |   payload size (KiB) | prod collective   |   prod time (us) | fastest collective   |   fastest time (us) |
|-----:|----:|-----:|---------------------:|:------------------|-----------------:|:---------------------|--------------------:|
|    8 |   8 | 7168 |                  112 | cdr:1stage        |             11.2 | fused_fly_1stage     |                 9.9 |

## bf16 latency & accuracy by case

### TP8, bfloat16, M=8, K=7168, 112 KiB, kernel=1stage, prod=cdr:1stage

| candidate        | us    |   vs cdr |   SQNR dB |   busbw GB/s |   spread us | variant    |
|:-----------------|:------|---------:|----------:|-------------:|------------:|:-----------|
| fused_cdr_1stage | 11.21 |    1.525 |      55.1 |        17.91 |         0.3 | n/a        |
| fused_cdr_2stage | n/a   |    n/a   |     n/a   |        n/a   |         n/a | n/a        |
| fused_fly_1stage | 9.9   |    1.727 |      54   |        20.27 |         0.1 | one_shot/x |

### TP4, bfloat16, M=16, K=4096, 128 KiB, kernel=1stage, prod=cdr:1stage

| candidate    |    us |   vs cdr |   SQNR dB |   busbw GB/s |   spread us |
|:-------------|------:|---------:|----------:|-------------:|------------:|
| separate_cdr | 17.1  |    1     |      12.1 |        17.91 |         0.3 |
| cdr          |  7.1  |    1     |      55.1 |        17.91 |         0.3 |
"""


def test_a_report_of_the_tuner(tmp_path):
    rows, told = of(tmp_path, REPORT)
    assert told.kind == "flydsl"
    assert briefly(rows) == [
        "fused 1stage 8 8 7168 bf16 114688 11.21 graph clean",
        "plain 1stage 4 16 4096 bf16 131072 7.1 graph clean",
    ]
    assert set(column(rows, "gpu", "arch", "interconnect")) == {("MI325X", "gfx942", "xgmi")}
    assert left(told) == {
        "no time: not applicable there": 1, "another kernel: fused_fly_1stage": 1,
        "wrong result: SQNR below the harness's floor of 40 dB": 1,
    }  # fmt: skip


def test_a_shape_without_an_end_is_no_record(tmp_path):
    path = tmp_path / "aiter.log"
    path.write_text(
        "{'shape': (1e999, 7168), 'p50_us': 9.5}\n{'shape': (8, 7168), 'p50_us': 9.5}\n"
    )
    found = list(reader._records(TextFile(path)))
    assert found[0]["left"] == "a record that is not understood"
