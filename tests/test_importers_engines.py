"""The all-reduce benchmarks of SGLang and vLLM, as their sources print and write them."""

import json
from pathlib import Path

import pytest
from importing import briefly, column, imported, left, of

CASES = Path(__file__).parent / "cases"


# The files of tests/cases, whose README says what is right.


def test_sglang_csv_of_the_fused_op():
    rows, told = imported(CASES / "sglang-fused-ar-rms.csv", gpu="MI300X")
    assert briefly(rows) == [
        "separate - 8 2048 2880 bf16 11796480 412.33 eager clean",
        "fused - 8 2048 2880 bf16 11796480 380.51 eager clean",
        "separate - 8 1 2880 bf16 5760 19.84 graph clean",
        "fused - 8 1 2880 bf16 5760 14.02 graph clean",
        "separate - 8 16 2880 bf16 92160 21.1 graph suspect",
        "fused - 8 16 2880 bf16 92160 16.2 graph suspect",
        "separate - 8 16 8192 bf16 262144 23.1 graph clean",
    ]
    assert set(column(rows, "statistic", "rank_reduction", "kernel_family")) == {
        ("median", "mean", "aiter")
    }
    assert left(told) == {"no time": 1}
    assert any(note.startswith("2 suspect") and "max=0.250000" in note for note in told.notes)


def test_sglang_console_of_the_plain_op():
    rows, told = imported(CASES / "sglang-all-reduce-console.log")
    assert column(rows, "world_size", "bytes", "latency_us", "kernel_family") == [
        ("4", "32768", "49", "sglang"), ("4", "32768", "90", "torch_symm_mem"),
        ("4", "131072", "49", "sglang"), ("4", "131072", "47", "torch_symm_mem"),
        ("4", "1048576", "44", "sglang"), ("4", "1048576", "45", "torch_symm_mem"),
    ]  # fmt: skip
    assert set(column(rows, "op", "dtype", "statistic", "rank_reduction", "timing")) == {
        ("all_reduce", "fp16", "mean", "mean", "eager")
    }
    assert told.n_left == 0


def test_vllm_console_and_json_say_the_same():
    rows, told = imported(CASES / "vllm-communicators-console.log")
    assert briefly(rows)[:5] == [
        "plain 1stage 4 32 8192 bf16 524288 10 graph clean",
        "plain 2stage 4 32 8192 bf16 524288 17 graph clean",
        "plain - 4 32 8192 bf16 524288 21 graph clean",
        "plain - 4 32 8192 bf16 524288 15 graph clean",
        "plain 2stage 4 32 8192 bf16 524288 16 graph clean",
    ]
    assert (len(rows), told.n_left) == (10, 0)
    of_json, told = imported(CASES / "vllm-communicators.json")
    assert (len(of_json), told.n_left) == (7, 0)
    assert all(row in rows for row in of_json)


CONSOLE = """\
Config: world_size=8, dtype=torch.bfloat16, residual_mode=self, warmup=10, iters=30, repeats=5

========================================================================================
Mode: prefill(eager)
| Shape | Input bytes/rank | Split p50 (us) | Fused p50 (us) | Speedup | Fused available | Correctness |
|:------|-----------------:|---------------:|---------------:|--------:|:----------------|:------------|
| 2048x8192 | 33554432 | 412.3 | N/A | N/A | False | PASS |

========================================================================================
Mode: decode(graph)
| Shape | Input bytes/rank | Split p50 (us) | Fused p50 (us) | Speedup | Fused available | Correctness |
|:------|-----------------:|---------------:|---------------:|--------:|:----------------|:------------|
| 1x8192 | 16384 | 19.8 | 14.0 | 1.414x | True | PASS |
| 4x8192 | 65536 | 20.8 | 15.0 | 1.387x | True | out=FAIL(max=0.250000,mean=0.010000), residual=PASS |

Saved CSV to: x.csv
"""
QUANTISED = """\
Config: world_size=4, dtype=torch.bfloat16, group_size=128
  1-stage boundary: total_bytes <= 128KB (M <= 16 for hidden=4096 bf16)
  2-stage boundary: total_bytes <= 512KB (M <= 64 for hidden=4096 bf16)
  fallback: fused_ar_rms + per_group_quant (2 kernels) when single-kernel path is unavailable

========================================================================================
Mode: decode(graph)
| Shape | Bytes/rank | Split(3k) us | Fused2(2k) us | Fused1(1k) us | Fused1+bf16(1k) us | Speedup(2k) | Corr fp8 | Corr bf16 |
|:------|----------:|-----------:|------------:|-----------:|-----------:|-----------:|:---------|:----------|
| 1x4096 | 8192 | 25.1 | 19.0 | 12.1 | 12.9 | 1.32x | PASS | PASS(bf16_diff=0.031) |
| 512x4096 | 4194304 | 65.1 | 49.0 | N/A | N/A | 1.32x | N/A | N/A |
"""
QUANTISED_CSV = """\
quant,mode,shape,m,n,bytes_per_rank,split_us,fused2_us,fused1_us,fused1bf16_us,fused1_available,fused2_available,fused1bf16_available,correctness,correctness_bf16
per_group,graph,1x4096,1,4096,8192,25.1,19.0,12.1,12.9,True,True,True,PASS,PASS(bf16_diff=0.031)
per_token,graph,1x4096,1,4096,8192,25.2,19.1,12.2,,True,True,,"FAIL_fp8(max_diff=1.2,rel=0.4)",
"""
ROCM_CSV = """\
world_size,mode,dtype,implementation,size_bytes,size,latency_ms,available,aggregation,warmup,iters_small,iters_large
8,graph,bf16,rccl,1024,1 KiB,,False,slowest_rank_average,20,101,101
8,graph,bf16,sgl-v1,1024,1 KiB,0.00812,True,slowest_rank_average,20,101,101
8,graph,bf16,sgl-v2,1024,1 KiB,0.00712,True,slowest_rank_average,20,101,101
8,graph,bf16,aiter,1024,1 KiB,0.00612,True,slowest_rank_average,20,101,101
8,graph,bf16,qr-int4,1048576,1 MiB,0.02612,True,slowest_rank_average,20,101,101
"""
ROCM_REPORT = """\
# ROCm unfused all-reduce benchmark

Per-call GPU-event latency in milliseconds. The primary metric is the slowest rank's mean.

## Summary

| TP | Mode | Dtype | Available | Most lossless wins | Most QR wins | QR faster sizes |
| --- | --- | --- | --- | --- | --- | --- |
| TP8 | graph | bf16 | 3/11 | aiter (5) | qr-int4 (2) | 2/5 |

## TP8 · Graph · BF16

Aggregation: `slowest_rank_average` · warmups: 20 · timed iterations: 101 small / 101 large

### Availability

| Implementation | Family | Measured rows | Measured range |
| --- | --- | --- | --- |
| rccl | lossless | 0/2 | — |

### Lossless latency (ms)

| Size | rccl | pynccl | sgl-v1 | aiter | torch-symm-mem |
| --- | --- | --- | --- | --- | --- |
| 1 KiB | — | 0.0210 | 0.0081 | 0.0061 | — |

### QuickReduce latency (ms)

| Size | qr-fp | qr-fp8 | qr-int4 |
| --- | --- | --- | --- |
| 1 KiB | — | — | 0.0261 |

### Best implementation by size

| Size | Best lossless | Lossless ms | Best QR | QR ms | QR speedup | Overall |
| --- | --- | --- | --- | --- | --- | --- |
| 1 KiB | aiter | 0.0061 | qr-int4 | 0.0261 | 0.234x | aiter |

## TP2 · Eager · FP16

### Lossless latency (ms)

| Size | rccl | aiter |
| --- | --- | --- |
| 2 MiB | 0.1 | 0.0461 |
"""
ROCM_CONSOLE = """\
[aiter] 1 KiB: 0.006 ms (slowest-rank avg; rank-mean=0.006, sample-min=0.005, sample-max=0.008)

Results (graph; slowest-rank average ms; None = unavailable)
    1 KiB: rccl=None, aiter=0.0061, sgl-v1=0.0081
    1 MiB: rccl=0.1, aiter=0.0261, sgl-v1=None
Saved CSV to x
"""
AITER_CONSOLE = """\
Initialized PG backend=gloo world_size=8
Device: cuda:0
SGLang available: True, Aiter available: True
[SGLang] 32K: 0.049 ms (avg across ranks)
[Aiter] 32K: 0.039 ms (avg across ranks)

Results (avg ms across ranks; None = disabled/unavailable):
    Size    SGLang(ms)    Aiter(ms)
-----------------------------------
     32K         0.049        0.039
     64M          None        1.039
"""
MESSAGES = """\
sz=1024, dtype=torch.bfloat16: correctness check PASS!
| msg_size   |   torch eager time |   symm mem eager time |   symm mem graph time |   pynccl graph time |
|------------|--------------------|-----------------------|-----------------------|---------------------|
| 2.0 KiB    |            51.2    |               20.1    |               9.1     |             15.2    |
| 1.0 MiB    |            71.2    |               40.1    |              19.1     |             35.2    |
"""
MSCCLPP = """\
| msg_size | torch eager time | msccl eager time | msccl graph time | pynccl graph time |
| --- | --- | --- | --- | --- |
| 2.0 KiB | 51.2 | 20.1 | 9.1 | 15.2 |
"""
SUMS = """\
======================================================================
RS+AG Benchmark: Custom vs Naive vs Custom AR
======================================================================
Available GPUs: 8
Requested TP size: 4
Using TP size: 4

======================================================================
RESULTS
======================================================================
Batch Size   Naive RS+AG     Custom RS+AG    Custom AR       Speedup
----------------------------------------------------------------------
1                 0.123ms      0.100ms         0.050ms     1.23x
50                0.223ms      0.200ms             N/A     1.12x
"""
NO_OP = "no op of schema 1: "

SGLANG = {
    "fused, console": (
        CONSOLE, {},
        ["separate - 8 2048 8192 bf16 33554432 412.3 eager clean",
         "separate - 8 1 8192 bf16 16384 19.8 graph clean", "fused - 8 1 8192 bf16 16384 14 graph clean",
         "separate - 8 4 8192 bf16 65536 20.8 graph suspect", "fused - 8 4 8192 bf16 65536 15 graph suspect"],
        {"no time (N/A)": 1},
    ),
    "fused, console behind a launcher": (
        "".join(f"[rank0]: {line}\n" for line in CONSOLE.splitlines()[:8]), {},
        ["separate - 8 2048 8192 bf16 33554432 412.3 eager clean"], {"no time (N/A)": 1},
    ),
    "quantised, console": (
        QUANTISED, {},
        ["fp8 - 4 1 4096 bf16 8192 12.1 graph clean", "fp8 - 4 1 4096 bf16 8192 12.9 graph clean"],
        {f"{NO_OP}Split(3k) us": 2, f"{NO_OP}Fused2(2k) us": 2, "no time (N/A)": 2},
    ),
    "quantised, CSV": (
        QUANTISED_CSV, {"world_size": "4", "dtype": "bf16"},
        ["fp8 - 4 1 4096 bf16 8192 12.1 graph clean", "fp8 - 4 1 4096 bf16 8192 12.9 graph clean",
         "fp8 - 4 1 4096 bf16 8192 12.2 graph suspect"],
        {f"{NO_OP}split_us": 2, f"{NO_OP}fused2_us": 2, "no time": 1},
    ),
    "ROCm, CSV": (
        ROCM_CSV, {},
        ["plain - 8 - - bf16 1024 8.12 graph clean", "plain - 8 - - bf16 1024 7.12 graph clean",
         "plain - 8 - - bf16 1024 6.12 graph clean", "plain - 8 - - bf16 1048576 26.12 graph clean"],
        {"no time": 1},
    ),
    "ROCm, report": (
        ROCM_REPORT, {},
        ["plain - 8 - - bf16 1024 21 graph clean", "plain - 8 - - bf16 1024 8.1 graph clean",
         "plain - 8 - - bf16 1024 6.1 graph clean", "plain - 8 - - bf16 1024 26.1 graph clean",
         "plain - 2 - - fp16 2097152 100 eager clean", "plain - 2 - - fp16 2097152 46.1 eager clean"],
        {"no time (—)": 4},
    ),
    "ROCm, console": (
        ROCM_CONSOLE, {"world_size": "8", "dtype": "fp16"},
        ["plain - 8 - - fp16 1024 6.1 graph clean", "plain - 8 - - fp16 1024 8.1 graph clean",
         "plain - 8 - - fp16 1048576 100 graph clean", "plain - 8 - - fp16 1048576 26.1 graph clean"],
        {"no time (None)": 2},
    ),
    "AITER against SGLang": (
        AITER_CONSOLE, {},
        ["plain - 8 - - fp16 32768 49 eager clean", "plain - 8 - - fp16 32768 39 eager clean",
         "plain - 8 - - fp16 67108864 1039 eager clean"],
        {"no time (None)": 1},
    ),
    "symmetric memory": (
        MESSAGES, {"world_size": "8"},
        ["plain - 8 - - bf16 2048 51.2 eager clean", "plain - 8 - - bf16 2048 20.1 eager clean",
         "plain - 8 - - bf16 2048 9.1 graph clean", "plain - 8 - - bf16 2048 15.2 graph clean",
         "plain - 8 - - bf16 1048576 71.2 eager clean", "plain - 8 - - bf16 1048576 40.1 eager clean",
         "plain - 8 - - bf16 1048576 19.1 graph clean", "plain - 8 - - bf16 1048576 35.2 graph clean"],
        {},
    ),
    "MSCCL++": (
        MSCCLPP, {"world_size": "8"},
        ["plain - 8 - - bf16 2048 51.2 eager clean", "plain - 8 - - bf16 2048 20.1 eager clean",
         "plain - 8 - - bf16 2048 9.1 graph clean", "plain - 8 - - bf16 2048 15.2 graph clean"],
        {},
    ),
    "reduce-scatter and all-gather": (
        SUMS, {}, ["plain - 4 1 16384 bf16 32768 50 eager clean"],
        {f"{NO_OP}Naive RS+AG": 2, f"{NO_OP}Custom RS+AG": 2, "no time (N/A)": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said", "expected", "left_of_it"), SGLANG.values(), ids=SGLANG)
def test_outputs_of_sglang(tmp_path, text, said, expected, left_of_it):
    rows, told = of(tmp_path, text, **said)
    assert told.kind == "sglang"
    assert briefly(rows) == expected
    assert left(told) == left_of_it


def test_implementations_are_told_apart(tmp_path):
    rows, _ = of(tmp_path, ROCM_CSV)
    assert column(rows, "kernel_family", "kernel_version") == [
        ("sglang", "sgl-v1"), ("sglang", "sgl-v2"), ("aiter", ""), ("quickreduce", "qr-int4"),
    ]  # fmt: skip
    assert set(column(rows, "rank_reduction", "statistic")) == {("max", "mean")}
    rows, _ = of(tmp_path, QUANTISED)
    assert column(rows, "kernel_version") == ["fp8", "fp8 and bf16"]


COMMUNICATORS = {
    "world_size": 8, "dtype": "torch.bfloat16", "hidden_size": 8192, "sequence_lengths": [16],
    "results": {"16": {"timings": {
        "ca_1stage": 0.01012, "ca_2stage": 0.0123, "push_ar": 0.009, "pynccl": 0.03, "pynccl-symm": 0.025,
        "flashinfer_trtllm": 0.011, "quick_x": 0.02, "symm_mem_multimem": None,
    }, "speedup_info": "x"}},
}  # fmt: skip
COMMUNICATORS_CONSOLE = """\
INFO 08-20 10:00:00 [benchmark_device_communicators.py:480] Benchmarking sequence length: 16

==================================================================================================
Device Communicator Benchmark Results
World Size: 2, Data Type: torch.bfloat16, Hidden Size: 8192
==================================================================================================
Tensor Shape        Tensor Size    ca_1stage           ca_2stage           flashinfer_trtllm   pynccl              pynccl-symm         Best (Speedup vs PyNccl)
-------------------------------------------------------------------------------------------------------------------------------------------------------------------
(16, 8192)          0.25 MB        0.006               0.008               N/A                 0.021               0.019               ca_1stage (3.50x)
(2048, 8192)        32.00 MB       N/A                 N/A                 0.310               0.321               0.319               flashinfer_trtllm (1.04x)
==================================================================================================
All times are in milliseconds (ms) per allreduce operation
Speedup column shows: fastest_algorithm (speedup_vs_pynccl)
"""
COLLECTIVE = """\
# FlashInfer Fused Collective Operations Benchmark Results

**World Size:** 8
**Hidden Dimension:** 7168
**Warmup Iterations:** 5
**Benchmark Trials:** 20
**Quantization Modes:** fp8,none

---

## Configuration: num_tokens=128, dtype=torch.bfloat16, with residual
**Input Size:** 1.75 MB

| Operation                                                   | Time (ms)   | Speedup   |
|:------------------------------------------------------------|:------------|:----------|
| Standard Allreduce Custom Rms Norm                          | 0.061       | 0.95x     |
| Standard Allreduce Rmsnorm Native Compiled                  | 0.058       | baseline  |
| Flashinfer Trtllm Fused Allreduce Rmsnorm Oneshot           | 0.033       | 1.76x     |
| Flashinfer Mnnvl Fused Allreduce Rmsnorm Twoshot            | FAILED      | FAILED    |
| Standard Allreduce Rmsnorm Fp8 Quant Native Compiled        | 0.066       | baseline  |
| Flashinfer Trtllm Fused Allreduce Rmsnorm Fp8 Quant Oneshot | 0.036       | 1.83x     |

## Configuration: num_tokens=512, dtype=torch.float16, with residual
**Input Size:** 7.00 MB

| Operation                                                   | Time (ms)   | Speedup   |
|:------------------------------------------------------------|:------------|:----------|
| Flashinfer Trtllm Fused Allreduce Rmsnorm Twoshot           | 0.055       | 1.76x     |

## Configuration: num_tokens=128, dtype=torch.bfloat16, no residual
**Input Size:** 1.75 MB

| Operation                                                   | Time (ms)   | Speedup   |
|:------------------------------------------------------------|:------------|:----------|
| Standard Allreduce Custom Rms Norm                          | 0.055       | 0.95x     |
"""
COLLECTIVE_CONSOLE = """\
INFO 08-20 10:00:00 [benchmark_fused_collective.py:900] Running benchmark with world_size=8, rank=0

================================================================================
Results: num_tokens=128, hidden_dim=8192 (input size: 2.00 MB)
dtype=torch.bfloat16, residual=yes, quant_modes=fp8,none
================================================================================
Operation                                          Time (ms)    Speedup
--------------------------------------------------------------------------------
flashinfer_trtllm_fused_allreduce_rmsnorm_twoshot  FAILED       FAILED
standard_allreduce_custom_rms_norm                 0.061        0.95x
flashinfer_trtllm_fused_allreduce_rmsnorm_oneshot  0.033        1.76x
standard_allreduce_rmsnorm_fp8_quant_native_compiled 0.070        baseline
flashinfer_trtllm_fused_allreduce_rmsnorm_fp8_quant_oneshot 0.036        1.94x

================================================================================
Results: num_tokens=128, hidden_dim=8192 (input size: 2.00 MB)
dtype=torch.bfloat16, residual=no, quant_modes=fp8,none
================================================================================
Operation                                          Time (ms)    Speedup
--------------------------------------------------------------------------------
standard_allreduce_custom_rms_norm                 0.051        0.95x
"""
SGLANGS_COPY = """\
# FlashInfer Fused Collective Operations Benchmark Results

**World Size:** 2
**Hidden Dimension:** 1024
**Quantization Mode:** none

---


## Configuration: seq_len=1024, dtype=bfloat16, with residual

| Operation | Time (ms) | Speedup |
|-----------|-----------|---------|
| Standard Allreduce Rmsnorm | 0.024 |0.98x |
| Flashinfer Fused Allreduce Rmsnorm Oneshot | 0.011 |2.19x |

"""
SGLANGS_COPY_CONSOLE = """\
Running benchmark with world_size=2, rank=0
================================================================================
Results: seq_len=1024, hidden_dim=1024
dtype=torch.bfloat16, residual=yes, quant_mode=none
================================================================================
Operation                                          Time (ms)    Speedup
--------------------------------------------------------------------------------
standard_allreduce_rmsnorm                         0.024        0.98x
standard_allreduce_rmsnorm_native_compiled         0.023        baseline
flashinfer_fused_allreduce_rmsnorm_oneshot         0.011        2.19x
flashinfer_fused_allreduce_rmsnorm_twoshot         0.041        0.57x
"""
#: As the newest release writes it; a time that is none is NaN there.
RUN = {
    "world_size": 4, "dtype": "torch.bfloat16", "hidden_size": 8192, "sequence_lengths": [128, 512],
    "num_warmup": 5, "num_trials": 50, "cuda_graph_capture_cycles": 10,
    "results": {"128": {"timings": {"ca_1stage": 0.0142, "ca_2stage": 0.0131, "pynccl": float("nan"),
                                    "symm_mem_two_shot": 0.02}, "speedup_info": "ca_2stage (N/A)"},
                "512": {"timings": {}, "speedup_info": "N/A"}},
}  # fmt: skip
FAILURE = (
    "ERROR 08-20 10:00:01 [benchmark_device_communicators.py:301] CUDA graph benchmark failed: x"
)
WITHOUT = "without residual: another op than the fused one"

VLLM = {
    "communicators, JSON": (
        json.dumps(COMMUNICATORS),
        ["plain 1stage 8 16 8192 bf16 262144 10.12 graph clean", "plain 2stage 8 16 8192 bf16 262144 12.3 graph clean",
         "plain - 8 16 8192 bf16 262144 9 graph clean", "plain - 8 16 8192 bf16 262144 30 graph clean",
         "plain - 8 16 8192 bf16 262144 25 graph clean", "plain - 8 16 8192 bf16 262144 11 graph clean"],
        {"not all-reduce: quick_x": 1, "no time": 1},
    ),
    "communicators, console": (
        COMMUNICATORS_CONSOLE,
        ["plain 1stage 2 16 8192 bf16 262144 6 graph clean", "plain 2stage 2 16 8192 bf16 262144 8 graph clean",
         "plain - 2 16 8192 bf16 262144 21 graph clean", "plain - 2 16 8192 bf16 262144 19 graph clean",
         "plain - 2 2048 8192 bf16 33554432 310 graph clean", "plain - 2 2048 8192 bf16 33554432 321 graph clean",
         "plain - 2 2048 8192 bf16 33554432 319 graph clean"],
        {"no time (N/A)": 3},
    ),
    "communicators, console behind ranks": (
        "".join(f"[rank0]: {line}\n" for line in COMMUNICATORS_CONSOLE.splitlines()[3:9]),
        ["plain 1stage 2 16 8192 bf16 262144 6 graph clean", "plain 2stage 2 16 8192 bf16 262144 8 graph clean",
         "plain - 2 16 8192 bf16 262144 21 graph clean", "plain - 2 16 8192 bf16 262144 19 graph clean"],
        {"no time (N/A)": 1},
    ),
    "fused collective, markdown": (
        COLLECTIVE,
        ["separate - 8 128 7168 bf16 1835008 61 graph clean", "separate - 8 128 7168 bf16 1835008 58 graph clean",
         "fused 1stage 8 128 7168 bf16 1835008 33 graph clean", "fp8 1stage 8 128 7168 bf16 1835008 36 graph clean",
         "fused 2stage 8 512 7168 fp16 7340032 55 graph clean"],
        {"no time (FAILED)": 1, WITHOUT: 1, f"{NO_OP}Standard Allreduce Rmsnorm Fp8 Quant Native Compiled": 1},
    ),
    "fused collective, console": (
        COLLECTIVE_CONSOLE,
        ["separate - 8 128 8192 bf16 2097152 61 graph clean", "fused 1stage 8 128 8192 bf16 2097152 33 graph clean",
         "fp8 1stage 8 128 8192 bf16 2097152 36 graph clean"],
        {"no time (FAILED)": 1, WITHOUT: 1, f"{NO_OP}standard_allreduce_rmsnorm_fp8_quant_native_compiled": 1},
    ),
    "SGLang's copy, markdown": (
        SGLANGS_COPY,
        ["separate - 2 1024 1024 bf16 2097152 24 graph clean", "fused 1stage 2 1024 1024 bf16 2097152 11 graph clean"],
        {},
    ),
    "SGLang's copy, console": (
        SGLANGS_COPY_CONSOLE,
        ["separate - 2 1024 1024 bf16 2097152 24 graph clean", "separate - 2 1024 1024 bf16 2097152 23 graph clean",
         "fused 1stage 2 1024 1024 bf16 2097152 11 graph clean", "fused 2stage 2 1024 1024 bf16 2097152 41 graph clean"],
        {},
    ),
    "communicators, JSON of several runs behind each other": (
        f"{json.dumps(RUN, indent=2)}\n{json.dumps(RUN | {'world_size': 8}, indent=2)}\n",
        [f"plain {arm} {n} 128 8192 bf16 2097152 {us} graph clean"
         for n in (4, 8) for arm, us in (("1stage", 14.2), ("2stage", 13.1), ("2stage", 20))],
        {"no time": 2},
    ),
    "communicators, JSON in a comment": (
        f"MI300X:\n\n> ```json\n> {json.dumps(RUN)}\n> ```\n",
        [f"plain {arm} 4 128 8192 bf16 2097152 {us} graph clean"
         for arm, us in (("1stage", 14.2), ("2stage", 13.1), ("2stage", 20))],
        {"no time": 1},
    ),
    "communicators, console with colours and errors": (
        "".join(f"\x1b[1;36m(Worker pid=12)\x1b[0;0m {line}\n" for line in
                COMMUNICATORS_CONSOLE.replace("(2048", f"{FAILURE}\n(2048").splitlines()),
        ["plain 1stage 2 16 8192 bf16 262144 6 graph clean", "plain 2stage 2 16 8192 bf16 262144 8 graph clean",
         "plain - 2 16 8192 bf16 262144 21 graph clean", "plain - 2 16 8192 bf16 262144 19 graph clean",
         "plain - 2 2048 8192 bf16 33554432 310 graph clean", "plain - 2 2048 8192 bf16 33554432 321 graph clean",
         "plain - 2 2048 8192 bf16 33554432 319 graph clean"],
        {"no time (N/A)": 3},
    ),
    "communicators, pasted as markdown": (
        "Device Communicator Benchmark Results, World Size: 4, Hidden Size: 8192, bf16\n\n"
        "| Tensor Shape | Tensor Size | ca_1stage | pynccl | Best (Speedup vs PyNccl) |\n|--|--|--|--|--|\n"
        "| (16, 8192) | 0.25 MB | 0.006 | 0.021 | ca_1stage (3.5x) |\n",
        ["plain 1stage 4 16 8192 bf16 262144 6 graph clean", "plain - 4 16 8192 bf16 262144 21 graph clean"],
        {},
    ),
    "fused collective, fp4 and a failure": (
        COLLECTIVE_CONSOLE.replace("fp8", "fp4").replace("0.036 ", "FAILED "),
        ["separate - 8 128 8192 bf16 2097152 61 graph clean", "fused 1stage 8 128 8192 bf16 2097152 33 graph clean"],
        {"no time (FAILED)": 1, WITHOUT: 1, f"{NO_OP}standard_allreduce_rmsnorm_fp4_quant_native_compiled": 1,
         f"{NO_OP}flashinfer_trtllm_fused_allreduce_rmsnorm_fp4_quant_oneshot": 1},
    ),
    "two sizes of ranks appended": (
        SGLANGS_COPY + SGLANGS_COPY.replace("**World Size:** 2", "**World Size:** 4"),
        [f"{arm} {n} 1024 1024 bf16 2097152 {us} graph clean" for n in (2, 4)
         for arm, us in (("separate -", 24), ("fused 1stage", 11))],
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "left_of_it"), VLLM.values(), ids=VLLM)
def test_outputs_of_vllm(tmp_path, text, expected, left_of_it):
    rows, told = of(tmp_path, text)
    assert told.kind == "vllm"
    assert briefly(rows) == expected
    assert left(told) == left_of_it
    assert set(column(rows, "statistic", "rank_reduction")) == {("mean", "rank0")}


def test_the_user_says_what_a_communicator_is(tmp_path):
    rows, told = of(
        tmp_path, json.dumps(COMMUNICATORS), columns={"quick_x": "all_reduce", "pynccl": "-"}
    )
    assert len(rows) == 6
    assert left(told) == {"not all-reduce: pynccl": 1, "no time": 1}
