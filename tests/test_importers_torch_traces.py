"""Traces of torch's profiler as its releases write them since 1.8, by hand."""

import gzip
import json

import pytest
from importing import FUSED, GEMM, NONE_KNOWN, ONE, column, imported, left

from costmodel.data.importers.kernel_rows import ALONE
from costmodel.data.importers.launches import HALF

NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
GENERIC = "ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)"
SAME = ONE.replace("(aiter::R*)", "(aiter::RankData*)")
SCATTER = "void aiter::reduce_scatter_cross_device_store<__hip_bfloat16, 8>(aiter::RankData*)"
NORM = "void aiter::local_device_load_rmsnorm<__hip_bfloat16, 512, 2, false>(aiter::RankSignals)"
RCCL = ("all_reduce", "", "", "bf16")

ARGS = {"External id": 12, "queued": 0, "device": 0, "context": 0, "stream": 3, "correlation": 77,
        "registers per thread": 96, "shared memory": 0, "blocks per SM": 0.04,
        "warps per SM": 0.5, "grid": [12, 1, 1], "block": [896, 1, 1],
        "est. achieved occupancy %": 1}  # fmt: skip


def kernel(name=ONE, ts=5566.125, dur=12.5, **more):
    said = {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 3, "ts": ts, "dur": dur,
            "args": ARGS, **more}  # fmt: skip
    return {key: value for key, value in said.items() if value is not None}


OTHERS = [
    {"ph": "X", "cat": "cpu_op", "name": "aiter::allreduce_fusion_kernel_1stage", "pid": 71,
     "tid": 71, "ts": 5500.5, "dur": 40.25, "args": {"External id": 12}},
    {"ph": "X", "cat": "cuda_runtime", "name": "hipLaunchKernel", "pid": 71, "tid": 71,
     "ts": 5510.5, "dur": 4.25, "args": {"correlation": 77, "kernel": ONE}},
    {"ph": "s", "id": 77, "pid": 71, "tid": 71, "ts": 5510.5, "cat": "ac2g", "name": "ac2g"},
    {"ph": "f", "id": 77, "pid": 0, "tid": 3, "ts": 5566.125, "cat": "ac2g", "name": "ac2g",
     "bp": "e"},
    {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)", "pid": 0, "tid": 3,
     "ts": 5600.5, "dur": 2.5, "args": {"bytes": 16384}},
    {"ph": "X", "cat": "gpu_memset", "name": "Memset (Device)", "pid": 0, "tid": 3, "ts": 5610.5,
     "dur": 2.5},
    {"ph": "X", "cat": "gpu_user_annotation", "name": ONE, "pid": 0, "tid": 3, "ts": 5560.5,
     "dur": 20.5},
    {"ph": "X", "cat": "user_annotation", "name": "nccl:all_reduce", "pid": 71, "tid": 71,
     "ts": 5500.5, "dur": 44.25},
    {"ph": "X", "cat": "python_function", "name": "vllm/custom_ops.py(12): all_reduce", "pid": 71,
     "tid": 71, "ts": 5400.5, "dur": 300.25},
    {"ph": "i", "s": "p", "name": "Iteration Start: PyTorch Profiler", "pid": "Traces",
     "tid": "Trace PyTorch Profiler", "ts": 5000.0},
    {"ph": "M", "name": "process_name", "ts": 5000.0, "pid": 0, "tid": 0,
     "args": {"name": "python3"}},
]  # fmt: skip
ON_AMD = [{"id": n, "name": "AMD Instinct MI300X", "totalGlobalMem": 206141652992, "computeMajor": 9,
           "computeMinor": 4, "warpSize": 64} for n in range(8)]  # fmt: skip
ON_NVIDIA = [{"id": 0, "name": "NVIDIA H200", "computeMajor": 9, "computeMinor": 0}]


def trace(*events, others=OTHERS, **members):
    head = {"schemaVersion": 1, "deviceProperties": ON_AMD, "record_shapes": 0, "with_stack": 1}
    return json.dumps({**head, **members, "traceEvents": [*others, *events],
                       "traceName": "/tmp/t.json", "displayTimeUnit": "ms"})  # fmt: skip


#: As torch 1.8 wrote it: capital categories, a stream as a text, whole us, and no number of JSON.
TORCH_1_8 = """{
  "schemaVersion": 1,
  "traceEvents": [
  {
    "ph": "X", "cat": "Memcpy",
    "name": "Memcpy HtoD (Pageable -> Device)", "pid": 0, "tid": "stream 7",
    "ts": 1614800519473220, "dur": 0,
    "args": {
      "device": 0, "context": 1, "stream": 7, "bytes": 200, "memory bandwidth (GB/s)": inf
    }
  },
  {
    "ph": "X", "cat": "Kernel",
    "name": "%s", "pid": 0, "tid": "stream 7",
    "ts": 1614800519473300, "dur": 12,
    "args": {
      "queued": 0, "device": 0, "context": 1, "stream": 7, "correlation": 20003,
      "blocks per SM": inf, "warps per SM": -nan, "grid": [12, 1, 1], "block": [896, 1, 1]
    }
  }
]}
"""
COLLECTIVE = {"Collective name": "allreduce", "In msg nelems": 57344, "Out msg nelems": 57344,
              "Group size": 8, "dtype": "BFloat16", "Process Group Name": "3",
              "Process Group Description": "default_pg"}  # fmt: skip

#: Text, rows, reasons, the GPU.
TRACES = {
    "1.8": (TORCH_1_8 % ONE, [(FUSED, "12")], {}, ""),
    "2.x on ROCm, with all that stands beside": (trace(kernel()), [(FUSED, "12.5")], {}, "MI300X"),
    "2.x on CUDA": (
        trace(kernel(NCCL), deviceProperties=ON_NVIDIA), [(RCCL, "12.5")], {}, "H200",
    ),
    "times from a base": (
        trace(kernel(), baseTimeNanoseconds=1718123456000000000), [(FUSED, "12.5")], {}, "MI300X",
    ),
    "a rank of eight": (
        trace(kernel(), distributedInfo={"backend": "nccl", "rank": 3, "world_size": 8,
                                         "pg_count": 1, "nccl_version": "2.21.5"}),
        [(FUSED, "12.5")], {}, "MI300X",
    ),
    "the list alone": (json.dumps([*OTHERS, kernel()]), [(FUSED, "12.5")], {}, ""),
    "events before what is said of them": (
        json.dumps({"traceEvents": [kernel()], "deviceProperties": ON_AMD, "schemaVersion": 1}),
        [(FUSED, "12.5")], {}, "MI300X",
    ),
    "a launch of less than a microsecond": (
        trace(kernel(dur=0.9), kernel(dur=0)), [(FUSED, "0.9")], {"no duration": 1}, "MI300X",
    ),
    "one kernel under two spellings": (
        trace(*(kernel(name, ts=5000.5 + 100 * n) for n, name in enumerate([ONE, SAME] * 2))),
        [(FUSED, "12.5")],
        {"in the median of a row": 1, "the same row as one before, to the last digit": 1,
         "as the call before it": 1}, "MI300X",
    ),
    "halves of a call on two streams": (
        trace(kernel(SCATTER, ts=5000.5, tid=3), kernel(NORM, ts=5100.5, tid=4), kernel()),
        [(FUSED, "12.5")], {HALF: 2}, "MI300X",
    ),
    "nodes of a graph": (
        trace(*(kernel(ts=5000.5 + 100 * n, dur=12.5 + n,
                       args={**ARGS, "graph id": 8, "graph node id": 99 + n}) for n in range(3))),
        [(FUSED, "13.5")], {"in the median of a row": 2}, "MI300X",
    ),
    "a kernel without its duration": (
        trace(kernel(), kernel(dur=None)), [(FUSED, "12.5")], {"no duration": 1}, "MI300X",
    ),
    "a kernel without arguments": (
        trace(kernel(args=None), kernel(GEMM)), [(FUSED, "12.5")], {NONE_KNOWN: 1}, "MI300X",
    ),
    "numbers as texts": (
        trace(kernel(ts="5566.125", dur="12.5", pid="0", tid="3")), [(FUSED, "12.5")], {},
        "MI300X",
    ),
    "RCCL's one kernel, on a stream of its own": (
        trace(kernel(), kernel(GENERIC, dur=30.5, tid=9, args={**ARGS, **COLLECTIVE})),
        [(FUSED, "12.5"), (("all_reduce", "", "8", "bf16"), "30.5")], {}, "MI300X",
    ),
    "a description of a group that is empty": (
        trace(kernel(NCCL, args={**ARGS, **COLLECTIVE})).replace('"default_pg"', ""),
        [(RCCL, "12.5")], {}, "MI300X",
    ),
    "control characters in a name of Python's": (
        trace(kernel(), others=[{**OTHERS[8], "name": "S(1)#"}]).replace("#", "\x01\t"),
        [(FUSED, "12.5")], {}, "MI300X",
    ),
    "no number that is none in a text": (
        trace(kernel(), others=[{**OTHERS[0], "name": 'a": inf, "b": , c'}]), [(FUSED, "12.5")],
        {}, "MI300X",
    ),
    "the list alone, no number at its end": (
        json.dumps([kernel(), {**OTHERS[4], "args": {"GB/s": 0}}]).replace(": 0}}]", ": inf}}]"),
        [(FUSED, "12.5")], {}, "",
    ),
    "GPUs of two kinds": (
        trace(kernel(), deviceProperties=[*ON_AMD, *ON_NVIDIA]), [(FUSED, "12.5")], {}, "",
    ),
    "indented": (json.dumps(json.loads(trace(kernel())), indent=2), [(FUSED, "12.5")], {}, "MI300X"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "read", "reasons", "gpu"), TRACES.values(), ids=TRACES)
@pytest.mark.parametrize("name", ["rank3.1718.pt.trace.json", "rank3.1718.pt.trace.json.gz"])
def test_traces_of_releases(tmp_path, text, read, reasons, gpu, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    rows, account = imported(path)
    assert account.kind == "torch-trace"
    shown = column(rows, "op", "algorithm", "world_size", "dtype", "latency_us")
    assert [(cells[:4], cells[4]) for cells in shown] == read
    assert left(account) == reasons
    assert {row["gpu"] for row in rows} == {gpu}
    assert {(row["quality"], row["timing"]) for row in rows} == {("serving_trace", "profiler")}


def test_kernels_that_follow_no_all_reduce_are_left_where_the_first_stands(tmp_path):
    mhc = "void aiter::mhc_post_kernel<__hip_bfloat16, 4, 4, 256, true>(__hip_bfloat16*)"
    events = [kernel(mhc, ts=5000.5 + 100 * n, tid=9) for n in range(3)]
    (tmp_path / "t.json").write_text(trace(*events, kernel()))
    rows, account = imported(tmp_path / "t.json")
    assert column(rows, "latency_us") == ["12.5"]
    assert left(account) == {ALONE: 3}
    assert account.left[ALONE].first.endswith(f"t.json: event {len(OTHERS)}")


@pytest.mark.parametrize("before", range(262_140 - 16, 262_145 + 2, 3))
def test_no_number_is_found_wherever_the_file_is_cut_into_pieces(tmp_path, before):
    filler = json.dumps({"name": "x", "args": {"y": ""}})[:-4]
    text = '{"traceEvents": [' + filler
    text += '"' + "z" * (before - len(text) - 8) + '", "k": -inf}}, ' + json.dumps(kernel()) + "]}"
    (tmp_path / "t.json").write_text(text)
    rows, account = imported(tmp_path / "t.json")
    assert column(rows, "latency_us") == ["12.5"]
    assert not account.notes or not any("ends too early" in note for note in account.notes)
