"""Profiles in the forms that their tools print or that people paste, and why some hold nothing."""

import json

import pytest
from importing import GEMM, ONE, column, left, of

from costmodel.errors import InputError

READ = "aiter::allreduce_fusion_kernel_1stage<bf16, bf16, 8>"
NSYS = " Time (%)  Total Time (ns)  Instances  Avg (ns)  Med (ns)  Min (ns)  Max (ns)  StdDev (ns)"
STATISTICS = {
    "nsys on a console": (
        " ** CUDA API Summary (cuda_api_sum):\n\n Time (%)  Total Time (ns)  Num Calls  Avg (ns)  "
        "Name\n --------  ---------------  ---------  --------  ----\n     98.9       1,195,850     "
        "    1  1,195,850.0   cudaLaunchKernel\n\n ** CUDA GPU Kernel Summary (cuda_gpu_kern_sum):"
        f"\n\n{NSYS}  Name\n --------  ---------------  ---------  --------  --------  --------  "
        "--------  -----------  ----\n     55.0        1,200,000        100  12,000.0  11,900.0    "
        f"10,000    20,000        900.0  {ONE}\n     45.0          981,818        100   9,818.0   "
        f"9,800.0     9,000    10,000        100.0  {GEMM}\n\n ** CUDA GPU MemOps Summary\n",
        "11.9", "median", 1,
    ),
    "nsys without averages": (
        '** CUDA GPU Kernel Summary:\n"Time (%)","Total Time (ns)","Instances","Name"\n'
        f'"100.0","1,200,000","100","{ONE}"\n', "12", "mean", 0,
    ),
    "nsys as a grid": (
        "+----+------+\n| Time (%) | Total Time (ns) | Instances | Avg (ns) | Name |\n+----+------+\n"
        f"| 55.0 | 1,200,000 | 100 | 12,000.0 | {ONE} |\n+----+------+\n", "12", "mean", 0,
    ),
    "pasted, by kernel": (
        "| Kernel | Calls | Total (us) | Avg (us) | % |\n|--|--|--|--|--|\n"
        f"| `{ONE}` | 100 | 1200 | 12.0 | 55 |\n\nand more\n", "12", "mean", 0,
    ),
    "pasted, in other words": (
        "kernel\tcalls\tmean_us\tshare\n" f"{ONE}\t100\t12.0\t55 %\n", "12", "mean", 0,
    ),
    "units in cells": (
        f"Name,Calls,Avg (us)\n\"{ONE}\",100,12.0us\n", "12", "mean", 0,
    ),
    "a pasted table of torch": (
        "| Name | Self CUDA | # of Calls | CUDA time avg |\n|--|--|--|--|\n"
        f"| {ONE} | 1.2ms | 100 | 12.0us |\n| {GEMM} | 1.2ms | 100 | 12.0us |\n\nnothing more\n",
        "12", "mean", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "latency", "statistic", "others"), STATISTICS.values(), ids=STATISTICS
)
def test_statistics_as_they_are_printed_and_pasted(tmp_path, text, latency, statistic, others):
    # What stands above says a shape, which must not make a clean latency of a profile.
    rows, told = of(tmp_path, "TP8, hidden 7168, bf16, 8 tokens\n\n" + text, gpu="MI300X")
    assert column(rows, "latency_us", "statistic", "quality", "tokens") == [
        (latency, statistic, "serving_trace", "")
    ]
    assert rows[0]["kernel_version"] == f"{READ}, 100 calls"
    assert sum(left(told).values()) == others


@pytest.mark.parametrize("name", ["# of Calls (all)", "# of Calls x"])
def test_a_column_of_calls_by_another_name_is_none(tmp_path, name):
    text = f"| Name | Self CUDA | {name} | CUDA time avg |\n|--|--|--|--|\n| {ONE} | 1ms | 9 | 12us |\n"
    with pytest.raises(InputError, match="no row could be read"):
        of(tmp_path, text, gpu="MI300X")


def event(**changed):
    """Return a kernel of torch's trace as JSON."""
    plain = {"ph": "X", "cat": "kernel", "name": ONE, "pid": 0, "tid": 7, "ts": 1.5, "dur": 12.25}
    return json.dumps({k: v for k, v in {**plain, **changed}.items() if v is not None})


def rccl(collective, elements, **also):
    args = {"Collective name": collective, "In msg nelems": elements, "dtype": "BFloat16",
            "Group size": 8, **also}  # fmt: skip
    return event(name="ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)", args=args)


def test_the_collective_of_rccls_one_kernel_is_what_torch_says(tmp_path):
    events = [rccl("allreduce", 8192), rccl("_allgather_base", 8192), rccl("allreduce", 4096)]
    rows, _ = of(tmp_path, f'{{"traceEvents": [{", ".join(events)}]}}', gpu="MI300X")
    assert column(rows, "op", "kernel_family", "world_size", "dtype") == [
        ("all_reduce", "rccl", "8", "bf16"), ("other", "rccl", "", ""),
        ("all_reduce", "rccl", "8", "bf16"),
    ]  # fmt: skip
    assert "8192 elements" in rows[0]["kernel_version"]
    with pytest.raises(InputError, match="the name does not say which op it is"):
        of(tmp_path, f'{{"traceEvents": [{rccl("allreduce; x", 8192)}]}}')


def test_events_without_a_category_and_numbers_as_texts(tmp_path):
    """As rpd2tracing and rocprof write them."""
    api = event(cat=None, name="hipLaunchKernel", pid="1", ts="1.0", dur="3")
    kernel = event(cat=None, pid="0", tid="0", ts="1000.5", dur="12")
    text = f'{{"traceEvents": [{{}},\n{api},\n{kernel}\n]}}\n'
    rows, told = of(tmp_path, text, gpu="MI300X")
    assert column(rows, "latency_us", "op") == [("12", "fused_ar_rmsnorm")]
    assert told.n_left == 0


@pytest.mark.parametrize("events", ["", event(cat="cpu_op", name="aten::add")])
def test_a_trace_without_kernels_says_so(tmp_path, events):
    with pytest.raises(InputError, match=r"none of its [01] events is a kernel on a GPU"):
        of(tmp_path, f'{{"traceEvents": [{events}]}}')


def test_a_dispatch_with_a_line_for_each_counter_is_one_launch(tmp_path):
    header = "Correlation_Id,Dispatch_Id,Agent_Id,Queue_Id,Process_Id,Kernel_Name,Counter_Name,"
    line = '{0},{0},4,1,100,"' + ONE + '",{1},640,{2},{3}\n'
    text = header + "Counter_Value,Start_Timestamp,End_Timestamp\n"
    for dispatch, start, end in ((1, 1000, 13000), (2, 20000, 34000)):
        for counter in ("SQ_WAVES", "GRBM_COUNT"):
            text += line.format(dispatch, counter, start, end)
    rows, told = of(tmp_path, text)
    assert column(rows, "latency_us") == ["13"]
    assert rows[0]["kernel_version"].endswith("2 launches")
    assert left(told) == {"another counter of the same dispatch": 2, "in the median of a row": 1}
    assert any("counters were read" in note for note in told.notes)
