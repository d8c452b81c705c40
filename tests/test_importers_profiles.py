"""Profiles: statistics and traces of kernels, as serving traces by kernel name."""

import gzip
import json
import random
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from test_importers_torch_tables import TABLES

from costmodel.cli.main import main
from costmodel.data.importers import Said, read
from costmodel.errors import InputError

CASES = Path(__file__).parent / "cases"

ONE = "void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16, __hip_bfloat16, 8>(aiter::RankData*)"
SCATTER = "void aiter::reduce_scatter_cross_device_store<__hip_bfloat16, 8>(aiter::RankData*, int)"
LOCAL = "void aiter::local_device_load_rmsnorm_512n<__hip_bfloat16, 1>(aiter::RankSignals, int)"
PLAIN = "void aiter::cross_device_reduce_1stage<__hip_bfloat16, 8, false>(aiter::RankData*)"
PUSH = "void sglang::all_reduce_1shot_push_kernel<__nv_bfloat16, 4u, true>(x)"
GEMM = "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV"
MANGLED = "_ZN5aiter26cross_device_reduce_1stageIDF16bLi8ELb0EEEvPNS_8RankDataE.kd"


def imported(tmp_path, text, name="file.csv", kind="", **said):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows, account = read(path, Said(source="s", **said), kind)
    assert len(rows) == account.n_rows
    return rows, account


def brief(rows):
    """Return (op, algorithm, ranks, dtype, us) of every row, nan as 0."""
    columns = (rows.op, rows.algorithm, rows.world_size, rows.dtype, rows.latency_us)
    return [
        (o, a, int(n) if n == n else 0, d, round(us, 3))
        for o, a, n, d, us in zip(*(c.tolist() for c in columns), strict=True)
    ]


def always(rows):
    """What holds of every row of a profile."""
    assert set(rows.quality.tolist()) <= {"serving_trace"}
    assert set(rows.timing.tolist()) <= {"profiler"}


# -- statistics ---------------------------------------------------------------------------------


def test_the_case_of_rocprof():
    rows, account = read(CASES / "rocprof-stats.csv", Said(source="s", gpu="MI300X"))
    always(rows)
    assert brief(rows) == [
        ("reduce_scatter_phase", "2stage", 8, "bf16", 104.109),
        ("local_rmsnorm_phase", "2stage", 0, "bf16", 4.603),
        ("fused_ar_rmsnorm", "1stage", 8, "bf16", 10.0),
    ]
    assert rows.statistic.tolist() == ["mean"] * 3
    assert rows.kernel_family.tolist() == ["aiter"] * 3
    assert rows.arch.tolist() == ["gfx942"] * 3
    assert rows.kernel_version[0] == "aiter::reduce_scatter_cross_device_store<bf16, 8>, 8906 calls"
    assert account.kind == "kernel-stats"
    assert account.n_left == 0


ROCPROFV3 = '"Name","Calls","TotalDurationNs","AverageNs","Percentage","MinNs","MaxNs","StdDev"\n'
ROCPROF = '"Name","Calls","TotalDurationNs","AverageNs","Percentage"\n'
NSYS = "Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name\n"
NSYS_OLD = '"Time(%)","Total Time (ns)","Instances","Average","Minimum","Maximum","Name"\n'
RPD = "Name,TotalCalls,TotalDuration,Ave,Percentage\n"
NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"

STATISTICS = {
    "rocprofv3": (ROCPROFV3 + f'"{ONE}",40,480000,12000.000000,9.5,9000,15000,812.5\n', [("fused_ar_rmsnorm", "1stage", 8, "bf16", 12.0)]),
    "mangled": (ROCPROFV3 + f'"{MANGLED}",23,205401,8930.5,45.4,8520,11640,681\n', [("all_reduce", "1stage", 8, "bf16", 8.931)]),
    "fp8": (ROCPROF + '"void aiter::allreduce_fusion_kernel_1stage<__bf16, _BitInt(8), 8, false>(x)",4,40000,10000,1\n', [("fused_ar_rmsnorm_quant_fp8", "1stage", 8, "bf16", 10.0)]),
    "truncated names": (ROCPROFV3 + '"reduce_scatter_cross_device_store",10,100000,10000,50,1,1,1\n', [("reduce_scatter_phase", "2stage", 0, "", 10.0)]),
    "byte order mark, CRLF": ("\ufeff" + ROCPROF.replace("\n", "\r\n") + f'"{PLAIN}",2,20000,10000,1\r\n', [("all_reduce", "1stage", 8, "bf16", 10.0)]),
    "log around it": ("ROCProfiler: 10 contexts collected\n\n" + ROCPROF + f'"{PLAIN}",2,20000,10000,1\n', [("all_reduce", "1stage", 8, "bf16", 10.0)]),
    "two files in one": (ROCPROF + f'"{PLAIN}",2,20000,10000,1\n' + NSYS + f'1.0,33000,3,11000.0,10500.0,9000,12000,10.1,"{ONE}"\n', [("all_reduce", "1stage", 8, "bf16", 10.0), ("fused_ar_rmsnorm", "1stage", 8, "bf16", 10.5)]),
    "nsys, median": (NSYS + f'31.0,33000,3,11000.0,10500.0,9000,12000,10.1,"{NCCL}"\n', [("all_reduce", "", 0, "bf16", 10.5)]),
    "nsys, old": (NSYS_OLD + f'31.0,33000,3,11000.0,9000,12000,"{PUSH}"\n', [("all_reduce", "1stage", 4, "bf16", 11.0)]),
    "rpd in us": (RPD + f'"{ONE}",52224,125822.5,24.09,18.8\n', [("fused_ar_rmsnorm", "1stage", 8, "bf16", 24.09)]),
    "names with lines": ("kernel_name,total_calls,average_ns\n" + f'"{PLAIN}",4,12000\n', [("all_reduce", "1stage", 8, "bf16", 12.0)]),
    "no average": (ROCPROF + f'"{PLAIN}",4,48000,,1\n', [("all_reduce", "1stage", 8, "bf16", 12.0)]),
}  # fmt: skip


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics_of_kernels(tmp_path, case):
    text, expected = STATISTICS[case]
    rows, account = imported(tmp_path, text)
    always(rows)
    assert brief(rows) == expected
    assert account.kind == "kernel-stats"
    assert rows.statistic[-1] == ("median" if "Med (ns)" in text else "mean")


PASTED = {
    "semicolons": lambda cells: ";".join(cells),
    "tabs": lambda cells: "\t".join(cells),
    "spaced": lambda cells: " , ".join(f'"{cell}"' for cell in cells).replace(" , ", ", "),
    "markdown": lambda cells: "| " + " | ".join(cells) + " |",
}


@pytest.mark.parametrize("form", PASTED)
def test_statistics_that_were_pasted_are_statistics_still(tmp_path, form):
    lines = [["Name", "Calls", "TotalDurationNs", "AverageNs", "Percentage"],
             [ONE, "100", "1250000", "12500", "10"], [GEMM, "5", "10", "2", "1"]]  # fmt: skip
    text = "".join(PASTED[form](cells) + "\n" for cells in lines)
    if form == "markdown":
        text = text.replace("\n", "\n|---|--:|--:|--:|--:|\n", 1) + "\nThat is 20 % of a step.\n"
    rows, account = imported(tmp_path, text)
    always(rows)
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 12.5)]
    assert (account.kind, account.n_left) == ("kernel-stats", 1)


def test_the_summary_that_rocprofv3_prints(tmp_path):
    head = (
        "| NAME | DOMAIN | CALLS | DURATION (nsec) | AVERAGE (nsec) | PERCENT (INC) | MIN (nsec) |"
    )
    text = f"ROCPROFV3 SUMMARY:\n\n{head}\n|------|---|--:|--:|--:|--:|--:|\n"
    text += f"| {ONE} | KERNEL_DISPATCH | 100 | 1250000 | 1.250e+04 | 10.0 | 9000 |\n"
    rows, account = imported(tmp_path, text)
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 12.5)]
    assert (account.kind, account.n_left) == ("kernel-stats", 0)


def test_every_line_of_statistics_is_a_row_or_left_with_its_reason(tmp_path):
    text = ROCPROF + "".join(
        f'"{name}",{calls},1000,{average},1\n'
        for name, calls, average in [
            (ONE, 4, 250), (GEMM, 4, 250), (PLAIN, 0, 250), (PLAIN, 4, "nan"), (PLAIN, 4, "1e400"),
            ("void aiter::allreduce_fusion_kernel_1st...", 4, 250),
            ("ncclDevKernel_Generic_4(x)", 4, 250),
            ("void aiter::add_rmsnorm_quant_kernel<float>(x)", 4, 250),
        ]
    ) + f'"{ONE}",4\n"{ONE}\n'  # fmt: skip
    rows, account = imported(tmp_path, text)
    assert (len(rows), account.n_left) == (1, 9)
    reasons = {reason: left.count for reason, left in account.left.items()}
    assert reasons == {
        "no all-reduce kernel that is known by its name": 1,
        "no call, or no time of one": 3,
        "its name is cut short, so that it is no all-reduce kernel that is known": 1,
        "the name does not say which op it is: --column NAME=OP": 1,
        "a local kernel by itself, no all-reduce": 1,
        "not the 5 cells of the header": 2,
    }


def test_what_a_name_does_not_say_is_said_by_column(tmp_path):
    text = (
        ROCPROF
        + '"ncclDevKernel_Generic_4(x)",4,1000,250,1\n"allreduce_fusion_kernel_1stage",4,1000,250,1\n'
    )
    said = {"ncclDevKernel_Generic_4": "all_reduce", "allreduce_fusion_kernel_1stage": "-"}
    rows, account = imported(tmp_path, text, columns=said)
    assert brief(rows) == [("all_reduce", "", 0, "", 0.25)]
    assert rows.kernel_family.tolist() == ["rccl"]
    assert list(account.left) == ["left out by --column"]


def test_nccl_on_amd_is_rccl(tmp_path):
    nsys = NSYS + f'31.0,33000,3,11000.0,10500.0,9000,12000,10.1,"{NCCL}"\n'
    assert imported(tmp_path, nsys)[0].kernel_family.tolist() == ["nccl"]
    assert imported(tmp_path, nsys, gpu="MI300X")[0].kernel_family.tolist() == ["rccl"]
    rocprof = ROCPROF + f'"{NCCL}",4,1000,250,1\n'
    assert imported(tmp_path, rocprof)[0].kernel_family.tolist() == ["rccl"]
    trace = rocprofv3([(0, NCCL, 0, 9, (12,))])
    assert imported(tmp_path, trace)[0].kernel_family.tolist() == ["rccl"]


def test_a_version_that_is_said_stands_before_the_kernel(tmp_path):
    rows, account = imported(
        tmp_path, ROCPROF + f'"{PLAIN}",2,20000,10000,1\n', kernel_version="aiter 0.1.19"
    )
    assert (
        rows.kernel_version[0]
        == "aiter 0.1.19, aiter::cross_device_reduce_1stage<bf16, 8, false>, 2 calls"
    )
    assert "kernel_version" not in account.missing


def test_the_user_is_asked_and_contradicted(tmp_path):
    text = ROCPROF + f'"{PLAIN}",2,20000,10000,1\n'
    assert "kernel_version" in imported(tmp_path, text)[1].missing
    with pytest.raises(InputError, match="the file says world_size 8, --world-size says 4"):
        imported(tmp_path, text, world_size="4")


def test_the_command_names_the_format_and_takes_nothing_as_clean(tmp_path, capsys):
    out = tmp_path / "rows.csv"
    with pytest.raises(SystemExit) as ended:
        main(["import", str(CASES / "rocprof-stats.csv"), "--gpu", "MI300X", "--out", str(out)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("3 rows of kernel-stats")
    assert "3 read, 0 left" in said
    assert "taken as clean" not in said
    assert out.read_text().count("serving_trace") == 3


# -- traces -------------------------------------------------------------------------------------

#: Arrivals of eight ranks in us, the last one at 64, and what the collective then takes.
ARRIVALS = (0.0, 7.0, 64.0, 12.0, 30.0, 3.5, 41.0, 22.0)
TAKES = 10.0


def collective(at, name=ONE, takes=TAKES, arrivals=ARRIVALS, grid=(12, 1, 1), ends=(0.0,) * 8):
    """Give (rank, name, start, duration, grid) of one call in which all ranks leave together."""
    last = max(arrivals)
    return [
        (rank, name, at + a, last - a + takes + e, grid)
        for rank, (a, e) in enumerate(zip(arrivals, ends, strict=False))
    ]


def event(rank, name, start, duration, grid=(12, 1, 1), **more):
    return {
        "ph": "X", "cat": "kernel", "name": name, "pid": rank, "tid": 7, "ts": start,
        "dur": duration, "args": {"grid": list(grid), "block": [896, 1, 1], "stream": 7}, **more,
    }  # fmt: skip


def chrome(events, **members):
    others = [
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 0, "dur": 5},
        {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "python"}},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy DtoD", "pid": 0, "tid": 7, "ts": 1, "dur": 2},
    ]  # fmt: skip
    head = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "AMD Instinct MI300X"}]}
    return json.dumps({**head, **members, "traceEvents": [*others, *events], "traceName": "t"})


def launches_of(calls):
    return [event(*launch) for call in calls for launch in call]


def test_waiting_for_the_last_rank_is_taken_off(tmp_path):
    calls = [collective(1000.0 * k, takes=10.0 + k % 3) for k in range(9)]
    rows, account = imported(tmp_path, chrome(launches_of(calls)), "trace.json")
    always(rows)
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 11.0)]
    assert rows.statistic.tolist() == ["median"]
    assert rows.rank_reduction.tolist() == ["max, wait for the last rank taken off"]
    assert rows.gpu.tolist() == ["MI300X"]
    assert "12 x 896, 72 launches" in rows.kernel_version[0]
    assert (account.kind, account.n_rows, account.n_left) == ("torch-trace", 1, 71)
    assert "64 us for the first one" in account.notes[0]


def test_two_launches_of_a_call_are_summed(tmp_path):
    calls = []
    for k in range(5):
        call = collective(1000.0 * k, SCATTER, takes=20.0)
        calls += [
            call,
            [(r, LOCAL, start + us + 1.5, 4.0, (12, 1, 1)) for r, _, start, us, _ in call],
        ]
    rows, account = imported(tmp_path, chrome(launches_of(calls)), "trace.json")
    assert brief(rows) == [("fused_ar_rmsnorm", "2stage", 8, "bf16", 24.0)]
    assert rows.kernel_version[0].startswith(
        "aiter::reduce_scatter_cross_device_store<bf16, 8> + aiter::local_device_load_rmsnorm_512n<bf16, 1>"
    )
    assert {r: left.count for r, left in account.left.items()} == {
        "in the median of a row": 39,
        "second launch of a call, summed with its first": 40,
    }


def test_halves_of_a_call_are_left_with_the_reason(tmp_path):
    events = [event(0, SCATTER, 0, 9), event(0, LOCAL, 10, 4), event(0, SCATTER, 20, 9), event(0, ONE, 30, 8), event(0, LOCAL, 40, 4), event(0, SCATTER, 50, 9)]  # fmt: skip
    rows, account = imported(tmp_path, chrome(events), "trace.json")
    assert [row[:2] for row in brief(rows)] == [
        ("fused_ar_rmsnorm", "2stage"),
        ("fused_ar_rmsnorm", "1stage"),
    ]
    assert (
        account.left["one of the two launches of a 2-stage call, the other is not beside it"].count
        == 3
    )


def test_launches_on_other_streams_do_not_come_between(tmp_path):
    events = [event(0, SCATTER, 0, 9), event(0, PLAIN, 9.5, 3, tid=9), event(0, LOCAL, 10, 4)]
    rows, _ = imported(tmp_path, chrome(events), "trace.json")
    assert sorted(row[:2] for row in brief(rows)) == [
        ("all_reduce", "1stage"),
        ("fused_ar_rmsnorm", "2stage"),
    ]


def test_sizes_are_kept_apart_by_their_grids(tmp_path):
    events = [event(0, ONE, 100 * k, 8 + 2 * (k % 2), (4 + 4 * (k % 2), 1, 1)) for k in range(10)]
    rows, _ = imported(tmp_path, chrome(events, distributedInfo={"rank": 3}), "trace.json")
    assert [row[4] for row in brief(rows)] == [8.0, 10.0]
    assert rows.rank_reduction.tolist() == ["rank3", "rank3"]


def test_clocks_that_are_not_common_are_said_and_the_shortest_duration_taken(tmp_path):
    drift = (0, 500.0, -300.0, 40.0, 0, 0, 0, 0)
    calls = [
        [
            (rank, name, start + drift[rank], us, grid)
            for rank, name, start, us, grid in collective(10000.0 * k)
        ]
        for k in range(5)
    ]
    rows, account = imported(tmp_path, chrome(launches_of(calls)), "trace.json")
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 10.0)]
    assert rows.rank_reduction.tolist() == ["min, the last rank does not wait"]
    assert "clocks are not common" in account.notes[0]
    assert "in 5 of 5 calls a rank ends before the last one starts" in account.notes[0]


def test_where_the_wait_cannot_be_taken_off_it_is_said(tmp_path):
    four = [collective(1000.0 * k, arrivals=ARRIVALS[:4]) for k in range(3)]
    rows, account = imported(tmp_path, chrome(launches_of(four)), "trace.json")
    assert rows.rank_reduction.tolist() == ["pooled over ranks"]
    assert "the trace has 4 of its 8 ranks" in account.notes[0]
    push = [collective(1000.0 * k, PUSH, arrivals=ARRIVALS[:4]) for k in range(3)]
    assert (
        "do not wait for each other at its start"
        in imported(tmp_path, chrome(launches_of(push)), "t.json")[1].notes[0]
    )
    uneven = [*launches_of([collective(0.0), collective(1000.0)]), event(0, ONE, 2000, 9)]
    assert "its ranks have 2 to 3 calls" in imported(tmp_path, chrome(uneven), "t.json")[1].notes[0]


def test_a_merged_trace_of_sglang_has_a_rank_in_each_pid(tmp_path):
    events = [
        {**e, "pid": f"[TP{e['pid']:02d}] 0"}
        for e in launches_of([collective(0.0), collective(500.0)])
    ]
    rows, _ = imported(tmp_path, json.dumps({"traceEvents": events}), "merged.trace.json")
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 10.0)]


def test_compressed_bare_and_long_stamped_traces(tmp_path):
    events = launches_of([collective(1718123456789012.0), collective(1718123456799012.345)])
    plain = json.dumps(events, indent=1)
    for name, content in (("t.json", plain), ("t.json.gz", gzip.compress(plain.encode()))):
        rows, account = imported(tmp_path, content, name)
        assert account.kind == "torch-trace"
        (row,) = brief(rows)
        assert row[4] == pytest.approx(10.0, abs=0.5)  # these stamps carry a quarter of a us
    text = '{"traceEvents": [' + ",".join(
        f'{{"ph":"X","cat":"kernel","name":"{PLAIN}","pid":0,"tid":1,"ts":1718123456789012.{n:03},"dur":{8 + n}.125}}'
        for n in range(3)
    ) + "]}"  # fmt: skip
    assert [row[4] for row in brief(imported(tmp_path, text, "t.json")[0])] == [9.125]


def test_a_trace_that_is_cut_off_gives_what_it_holds(tmp_path):
    text = chrome(launches_of([collective(0.0), collective(500.0)]))
    whole = text.index('"traceName"')
    for end in (whole - 4, whole - 60, text.index(ONE) + 2000):
        rows, account = imported(tmp_path, text[:end], "trace.json")
        assert len(rows) >= 1
        assert any("ends too early" in note for note in account.notes)


ROCPROFV3_TRACE = '"Kind","Agent_Id","Queue_Id","Stream_Id","Thread_Id","Dispatch_Id","Kernel_Id","Kernel_Name","Correlation_Id","Start_Timestamp","End_Timestamp","LDS_Block_Size","Scratch_Size","VGPR_Count","Accum_VGPR_Count","SGPR_Count","Workgroup_Size_X","Workgroup_Size_Y","Workgroup_Size_Z","Grid_Size_X","Grid_Size_Y","Grid_Size_Z"\n'
ROCPROFV3_FIRST = '"Kind","Agent_Id","Queue_Id","Kernel_Id","Kernel_Name","Correlation_Id","Start_Timestamp","End_Timestamp","Private_Segment_Size","Group_Segment_Size","Workgroup_Size_X","Workgroup_Size_Y","Workgroup_Size_Z","Grid_Size_X","Grid_Size_Y","Grid_Size_Z"\n'
ROCPD2CSV = '"Guid",' + ROCPROFV3_TRACE
ROCPROF_TRACE = "Index,KernelName,gpu-id,queue-id,queue-index,pid,tid,grd,wgr,lds,scr,arch_vgpr,accum_vgpr,sgpr,wave_size,sig,obj,DispatchNs,BeginNs,EndNs,CompleteNs\n"
ROCPROFV2 = "Dispatch_ID,GPU_ID,Queue_ID,PID,TID,Grid_Size,Workgroup_Size,Kernel_Name,Start_Timestamp,End_Timestamp,Correlation_ID\n"
EPOCH = 1_718_123_456_789_012_345


def stamps(start, duration):
    return EPOCH + round(start * 1000), EPOCH + round((start + duration) * 1000)


def rocprofv3(launches, header=ROCPROFV3_TRACE, guid=""):
    lines = []
    for n, (rank, name, start, us, grid) in enumerate(launches):
        begin, end = stamps(start, us)
        lines.append(
            f'{guid}"KERNEL_DISPATCH","Agent {rank + 2}",1,0,70,{n},33,"{name}",{n},{begin},{end},0,0,12,4,48,896,1,1,{grid[0] * 896},1,1'
        )
    return header + "\n".join(lines) + "\n"


def rocprofv3_first(launches):
    lines = []
    for n, (rank, name, start, us, grid) in enumerate(launches):
        begin, end = stamps(start, us)
        lines.append(
            f'"KERNEL_DISPATCH",{rank},139690710949888,15,"{name}",{n},{begin},{end},0,0,896,1,1,{grid[0] * 896},1,1'
        )
    return ROCPROFV3_FIRST + "\n".join(lines) + "\n"


def rocprof(launches):
    lines = []
    for n, (rank, name, start, us, grid) in enumerate(launches):
        begin, end = stamps(start, us)
        lines.append(
            f'{n},"{name} [clone .kd]",{rank},0,0,41,41,{grid[0] * 896},896,0,0,20,4,16,64,0x0,0x7f2b,{begin - 900},{begin},{end},{end + 900}'
        )
    return ROCPROF_TRACE + "\n".join(lines) + "\n"


def rocprofv2(launches):
    lines = []
    for n, (rank, name, start, us, grid) in enumerate(launches):
        begin, end = stamps(start, us)
        lines.append(f'{n},{rank},1,41,41,{grid[0] * 896},896,"{name}",{begin},{end},{n}')
    return ROCPROFV2 + "\n".join(lines) + "\n"


def rocprofv3_json(launches):
    names = list(dict.fromkeys(launch[1] for launch in launches))
    dispatches = []
    for rank, name, start, us, grid in launches:
        begin, end = stamps(start, us)
        info = {
            "agent_id": {"handle": 100 + rank}, "queue_id": {"handle": 1}, "kernel_id": names.index(name) + 7,
            "workgroup_size": {"x": 896, "y": 1, "z": 1}, "grid_size": {"x": grid[0] * 896, "y": 1, "z": 1},
        }  # fmt: skip
        dispatches.append({"start_timestamp": begin, "end_timestamp": end, "dispatch_info": info})
    symbols = [{"kernel_id": n + 7, "formatted_kernel_name": name} for n, name in enumerate(names)]
    agents = [
        {"type": 1, "product_name": "EPYC"},
        {"type": 2, "product_name": "AMD Instinct MI355X"},
    ]
    record = {
        "agents": agents,
        "kernel_symbols": symbols,
        "buffer_records": {"kernel_dispatch": dispatches},
    }
    return json.dumps({"rocprofiler-sdk-tool": [record]})


def rocpd(launches, path, suffix="_00006409_00d1"):
    database = sqlite3.connect(path)
    database.execute(
        f'CREATE TABLE "rocpd_info_kernel_symbol{suffix}" (id INTEGER, kernel_name TEXT, display_name TEXT)'
    )
    database.execute(
        f'CREATE TABLE "rocpd_kernel_dispatch{suffix}" (id INTEGER, nid INTEGER, pid INTEGER, tid INTEGER, agent_id INTEGER, kernel_id INTEGER, queue_id INTEGER, stream_id INTEGER, start BIGINT, end BIGINT, workgroup_size_x INTEGER, workgroup_size_y INTEGER, workgroup_size_z INTEGER, grid_size_x INTEGER, grid_size_y INTEGER, grid_size_z INTEGER)'
    )
    names = list(dict.fromkeys(launch[1] for launch in launches))
    for n, name in enumerate(names):
        database.execute(
            f'INSERT INTO "rocpd_info_kernel_symbol{suffix}" VALUES (?, ?, ?)', (n, name, name)
        )
    for n, (rank, name, start, us, grid) in enumerate(launches):
        database.execute(
            f'INSERT INTO "rocpd_kernel_dispatch{suffix}" VALUES (?, 1, 41, 1, ?, ?, 1, 0, ?, ?, 896, 1, 1, ?, 1, 1)',
            (n, rank, names.index(name), *stamps(start, us), grid[0] * 896),
        )  # fmt: skip
    database.commit()
    database.close()


def rpd(launches, path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE rocpd_string (id INTEGER PRIMARY KEY, string TEXT)")
    database.execute(
        "CREATE TABLE rocpd_op (id INTEGER PRIMARY KEY, gpuId INTEGER, queueId INTEGER, start INTEGER, end INTEGER, description_id INTEGER, opType_id INTEGER)"
    )
    for n, (rank, name, start, us, _) in enumerate(launches):
        database.execute("INSERT INTO rocpd_string VALUES (?, ?)", (n, name))
        database.execute(
            "INSERT INTO rocpd_op VALUES (?, ?, 0, ?, ?, ?, 0)", (n, rank, *stamps(start, us), n)
        )
    database.commit()
    database.close()


def eight_ranks():
    """Five calls of each arm on eight ranks, with a GEMM between."""
    launches = []
    for k in range(5):
        launches += collective(1000.0 * k, takes=10.0)
        second = collective(1000.0 * k + 300, SCATTER, takes=20.0)
        launches += [
            *second,
            *((r, LOCAL, start + us + 1.5, 4.0, grid) for r, _, start, us, grid in second),
        ]
        launches += [(r, GEMM, 1000.0 * k + 600, 50.0, (304, 1, 1)) for r in range(8)]
    return launches


WRITERS = {
    "rocprofv3": ("kernel-trace", rocprofv3),
    "rocprofv3, first releases": ("kernel-trace", rocprofv3_first),
    "rocpd2csv": ("kernel-trace", lambda ls: rocprofv3(ls, ROCPD2CSV, '"00006409-00d1",')),
    "rocprof": ("kernel-trace", rocprof),
    "rocprofv2": ("kernel-trace", rocprofv2),
    "rocprofv3, JSON": ("rocprofv3-json", rocprofv3_json),
    "torch": ("torch-trace", lambda ls: chrome([event(*launch) for launch in ls])),
    "rocpd": ("rocpd", rocpd),
    "rocpd, no id": ("rocpd", lambda ls, path: rocpd(ls, path, "")),
    "rpd": ("rocpd", rpd),
}  # fmt: skip


def written(tmp_path, case, launches):
    kind, writer = WRITERS[case]
    path = (
        tmp_path
        / f"{kind}.{'db' if kind == 'rocpd' else 'json' if 'json' in kind or 'torch' in kind else 'csv'}"
    )
    if kind == "rocpd":
        writer(launches, path)
    else:
        path.write_text(writer(launches))
    return path, kind


@pytest.mark.parametrize("case", WRITERS)
def test_one_run_reads_alike_in_every_format(tmp_path, case):
    path, kind = written(tmp_path, case, eight_ranks())
    rows, account = read(path, Said(source="s"))
    always(rows)
    assert account.kind == kind
    assert brief(rows) == [
        ("fused_ar_rmsnorm", "1stage", 8, "bf16", 10.0),
        ("fused_ar_rmsnorm", "2stage", 8, "bf16", 24.0),
    ]
    assert set(rows.rank_reduction.tolist()) == {"max, wait for the last rank taken off"}
    assert account.n_rows + account.n_left == len(eight_ranks())
    assert account.left["no all-reduce kernel that is known by its name"].count == 40
    assert ("12 x 896" in rows.kernel_version[0]) == (case != "rpd")


def test_a_grid_that_is_no_whole_number_of_workgroups_is_not_said(tmp_path):
    said = []
    for items in (12 * 896, 12 * 896 + 1):
        text = rocprofv3_json([(0, ONE, 0, 9, (12,))]).replace(f'"x": {12 * 896}', f'"x": {items}')
        rows, _ = imported(tmp_path, text, "out.json")
        said.append("12 x 896" in rows.kernel_version[0])
    assert said == [True, False]


def test_lines_of_a_trace_that_are_no_launch_are_left(tmp_path):
    text = rocprofv3([(0, ONE, 0, 9, (12,)), (0, ONE, 20, -3, (12,)), (0, ONE, 40, 0, (12,))])
    text += text.splitlines()[1].replace(str(stamps(0, 9)[1]), "x") + '\n"KERNEL_DISPATCH",1\n'
    rows, account = imported(tmp_path, text)
    assert len(rows) == 1
    reasons = {reason: left.count for reason, left in account.left.items()}
    assert reasons == {"no duration": 3, "not the 22 cells of the header": 1}


def test_a_trace_of_the_published_decode_step(tmp_path):
    # vLLM #52911: arrivals 64.2 us apart, kernel times 10.5 to 72.2 us, 10.2 us without the wait.
    arrivals = (0.0, 64.2, 20.1, 33.3, 5.2, 48.0, 61.9, 12.7)
    launches = [x for k in range(20) for x in collective(1000.0 * k, takes=10.2, arrivals=arrivals)]
    rows, _ = imported(tmp_path, chrome([event(*launch) for launch in launches]), "t.json")
    assert brief(rows) == [("fused_ar_rmsnorm", "1stage", 8, "bf16", 10.2)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", '{"traceEvents": 7}', "no row could be read"),
        ("t.json", '{"traceEvents": [{"a": ' + "[" * 200_000, "nested too deeply"),
        ("t.json", '{"traceEvents": [{"a": "' + "x" * 1_500_000, "more than 1048576 characters"),
        ("t.json", '{"traceEvents": [x]}', "not JSON|no JSON"),
        ("t.json", '{"rocprofiler-sdk-tool": {}}', "no list 'rocprofiler-sdk-tool'"),
        ("t.json", '{"rocprofiler-sdk-tool": [', "truncated or not JSON"),
        ("t.db", b"SQLite format 3\x00" + b"\x00" * 5000, "not a rocpd database, or damaged"),
        ("t.csv", ROCPROF, "no row could be read"),
        ("t.csv", ROCPROFV3_TRACE, "no row could be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as caught:
        imported(tmp_path, content, name)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_a_database_of_something_else(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE VIEW rocpd_kernel_dispatch AS WITH RECURSIVE r(start) AS (SELECT 1 UNION ALL SELECT start FROM r) SELECT * FROM r"
        )
    with pytest.raises(InputError, match="without rocpd's tables"):
        read(path, Said(source="s"))


def test_a_large_trace_needs_little_memory_and_linear_time(tmp_path):
    noise = json.dumps(
        {
            "ph": "X",
            "cat": "cpu_op",
            "name": "aten::mm",
            "pid": 1,
            "tid": 1,
            "ts": 0,
            "dur": 5,
            "args": {"x": "y" * 200},
        }
    )
    path = tmp_path / "large.json.gz"
    with gzip.open(path, "wt", compresslevel=1) as stream:
        stream.write('{"traceEvents": [' + json.dumps(event(0, ONE, 0, 9)))
        for _ in range(15_000):
            stream.write("," + noise)
        stream.write("]}")
    tracemalloc.start()
    rows, _ = read(path, Said(source="s"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 1
    assert peak < 4e6  # of 5 MB of text


# -- any file -----------------------------------------------------------------------------------


#: Mutations of each sample; some thousands were tried.
MUTATIONS = 25


def samples(tmp_path):
    """Return a sample of each format by its name, as (suffix, bytes)."""
    launches = eight_ranks()[:60]
    found = {
        "stats": (".csv", (CASES / "rocprof-stats.csv").read_bytes()),
        "nsys": (".csv", STATISTICS["nsys, median"][0].encode()),
        "table": (".txt", TABLES["wide"][0].encode()),
        "gz": (".json.gz", gzip.compress(chrome([event(*x) for x in launches]).encode())),
    }
    for case in WRITERS:
        path, _ = written(tmp_path, case, launches)
        found[case] = (path.suffix, path.read_bytes())
        path.unlink()
    return found


def mutated(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, kind = rng.randrange(len(content) + 1), rng.randrange(6)
        if kind == 0:
            content[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del content[at : at + rng.choice((1, 3, 50, 500))]
        elif kind == 2:
            content[at:at] = rng.choice(
                (
                    b"{0}",
                    b'"',
                    b",",
                    b"\n",
                    b"\x00",
                    b"\x1b[31m",
                    b"9" * 400,
                    b"1e999",
                    b"nan",
                    b"-",
                    b"]",
                    b"}",
                    b"[" * 50,
                    b"\xff",
                )
            )
        elif kind == 3:
            piece = content[at : at + rng.choice((5, 80, 400))]
            content[at:at] = piece * rng.choice((1, 3))
        elif kind == 4:
            content = content[:at] or bytearray(b"x")
        else:
            other = rng.randrange(len(content) + 1)
            content[at : at + 20] = content[other : other + 20]
    return bytes(content)


@pytest.mark.campaign
def test_mutated_profiles_are_read_or_refused_in_one_line(tmp_path, capsys):
    rng = random.Random(11)
    found = samples(tmp_path)
    for count in range(MUTATIONS * len(found)):
        name = list(found)[count % len(found)]
        suffix, content = found[name]
        path = tmp_path / f"mutated{suffix}"
        path.write_bytes(mutated(content, rng))
        out = tmp_path / "rows.csv"
        with pytest.raises(SystemExit) as ended:
            main(["import", str(path), "--out", str(out), "--force"])
        said = capsys.readouterr()
        assert ended.value.code in (0, 2), (name, said.err)
        assert len(said.err) < 600
        assert all(line.isprintable() for line in (said.out + said.err).splitlines())
        if ended.value.code == 0:
            assert "results in" in said.out
