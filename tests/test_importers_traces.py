"""Traces of dispatches as releases of rocprof, rocprofv2 and rocprofv3 write them, by hand.

Column sets are those of the tools' documentation: rocprof's manual, the manual of rocprofv2's file
plugin and its changelog, rocprofv3's user guide of ROCm 6.2 to 7.x.
"""

import gzip
import json
import sqlite3
from contextlib import closing

import pytest
from importing import FUSED, GEMM, NONE_KNOWN, ONE, column, imported, left

from costmodel.errors import InputError

PLAIN = "void aiter::cross_device_reduce_1stage<__hip_bfloat16, 8, false>(aiter::RankData*)"
MANGLED = "_ZN5aiter26cross_device_reduce_1stageIDF16bLi8ELb0EEEvPNS_8RankDataE"
REDUCED = ("all_reduce", "1stage", "8", "bf16")
GRID = "12 x 896"


def told(tmp_path, content, name, kind="", **said):
    """Return of each row (what its kernel's name says, us, version), and what was left."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows, account = imported(path, kind, **said)
    assert {row["quality"] for row in rows} <= {"serving_trace"}
    assert {row["timing"] for row in rows} <= {"profiler"}
    shown = column(rows, "op", "algorithm", "world_size", "dtype", "latency_us", "kernel_version")
    return [(cells[:4], cells[4], cells[5]) for cells in shown], account


def brief(found):
    """Return (what the name says, us, whether the size of the grid was read) of each row."""
    return [(says, us, GRID in version) for says, us, version in found]


ROCM_6_3 = (
    '"Kind","Agent_Id","Queue_Id","Thread_Id","Dispatch_Id","Kernel_Id","Kernel_Name",'
    '"Correlation_Id","Start_Timestamp","End_Timestamp","Private_Segment_Size",'
    '"Group_Segment_Size","Workgroup_Size_X","Workgroup_Size_Y","Workgroup_Size_Z",'
    '"Grid_Size_X","Grid_Size_Y","Grid_Size_Z"\n'
)
ROCM_7 = (
    '"Kind","Agent_Id","Queue_Id","Stream_Id","Thread_Id","Dispatch_Id","Kernel_Id",'
    '"Kernel_Name","Correlation_Id","Start_Timestamp","End_Timestamp","LDS_Block_Size",'
    '"Scratch_Size","VGPR_Count","Accum_VGPR_Count","SGPR_Count","Workgroup_Size_X",'
    '"Workgroup_Size_Y","Workgroup_Size_Z","Grid_Size_X","Grid_Size_Y","Grid_Size_Z"\n'
)
COUNTERS_7 = (
    '"Correlation_Id","Dispatch_Id","Agent_Id","Queue_Id","Process_Id","Thread_Id","Grid_Size",'
    '"Kernel_Id","Kernel_Name","Workgroup_Size","LDS_Block_Size","Scratch_Size","VGPR_Count",'
    '"Accum_VGPR_Count","SGPR_Count","Counter_Name","Counter_Value","Start_Timestamp",'
    '"End_Timestamp"\n'
)
COUNTERS_6_3 = COUNTERS_7.replace('"Kernel_Id",', "").replace('"Accum_VGPR_Count",', "")
ROCPROF_OLD = (
    "Index,KernelName,gpu-id,queue-id,queue-index,pid,tid,grd,wgr,lds,scr,vgpr,sgpr,fbar,sig,"
    "WriteSize,DispatchNs,BeginNs,EndNs,CompleteNs\n"
)
ROCPROF_STATS = (
    "Index,KernelName,gpu-id,queue-id,queue-index,pid,tid,grd,wgr,lds,scr,arch_vgpr,accum_vgpr,"
    "sgpr,wave_size,sig,obj,DispatchNs,BeginNs,EndNs,CompleteNs,DurationNs\n"
)
ROCPROFV2_OLD = (
    "Dispatch_ID,GPU_ID,Queue_ID,Queue_Index,PID,TID,GRD,WGR,LDS,SCR,Arch_VGPR,ACCUM_VGPR,SGPR,"
    "Wave_Size,SIG,OBJ,Kernel_Name,Start_Timestamp,End_Timestamp,Correlation_ID,GRBM_COUNT\n\n"
)
ROCPROFV2 = (
    "Dispatch_ID,GPU_ID,Queue_ID,PID,TID,Grid_Size,Workgroup_Size,LDS_Per_Workgroup,"
    "Scratch_Per_Workitem,Arch_VGPR,Accum_VGPR,SGPR,Wave_Size,Kernel_Name,Start_Timestamp,"
    "End_Timestamp,Correlation_ID,SQ_WAVES,GRBM_COUNT\n"
)
V1_FORM = (
    "Index,KernelName,gpu-id,queue-id,queue-index,pid,tid,grd,wgr,lds,scr,arch_vgpr,accum_vgpr,"
    "sgpr,wave_size,DispatchNs,BeginNs,EndNs,CompleteNs\n\n"
)
ROCPD2CSV = '"Guid",' + ROCM_7.replace("LDS_B", "Lds_B").replace("VGPR", "Vgpr").replace(
    "SGPR", "Sgpr"
)

SIZES = "896,1,1,10752,1,1"
CSV = {
    "rocprofv3 6.3": (
        ROCM_6_3
        + f'"KERNEL_DISPATCH",4,1,70,1,2,"{GEMM}",1,1614963487781917,1614963487791997,0,0,{SIZES}\n'
        f'"KERNEL_DISPATCH",4,1,70,2,9,"{ONE}",2,1614963488155186,1614963488167186,0,0,{SIZES}\n',
        [(FUSED, "12", True)], {NONE_KNOWN: 1},
    ),
    "rocprofv3 7, GPUs by their type": (
        ROCM_7
        + f'"KERNEL_DISPATCH","GPU 3",17,26,84,101,49,"{ONE}",101,1551401624448706,'
        f"1551401624459226,0,0,8,0,16,{SIZES}\n",
        [(FUSED, "10.52", True)], {},
    ),
    "rocprofv3 7, out of order": (
        ROCM_7 + "".join(
            f'"KERNEL_DISPATCH","Agent 7",1,0,84,{n},49,"{ONE}",{n},{at},{at + took},0,0,8,0,16,{SIZES}\n'
            for n, at, took in ((3, 1551401624990000, 13000), (1, 1551401624440000, 11000),
                                (2, 1551401624700000, 12000))
        ),
        [(FUSED, "12", True)], {"in the median of a row": 2},
    ),
    "rocprofv3 7, names as the compiler has them": (
        ROCM_7
        + f'"KERNEL_DISPATCH","Agent 7",1,0,84,1,49,"{MANGLED}.kd",1,1551401624448706,'
        f"1551401624457456,0,0,8,0,16,{SIZES}\n",
        [(REDUCED, "8.75", True)], {},
    ),
    "rocprofv3 7, names cut to the function": (
        ROCM_7
        + '"KERNEL_DISPATCH","Agent 7",1,0,84,1,49,"cross_device_reduce_1stage",1,'
        f"1551401624448706,1551401624457456,0,0,8,0,16,{SIZES}\n",
        [(("all_reduce", "1stage", "", ""), "8.75", True)], {},
    ),
    "rocprofv3 7, a dispatch whose time was not taken": (
        ROCM_7
        + f'"KERNEL_DISPATCH","Agent 7",1,0,84,1,49,"{ONE}",1,0,0,0,0,8,0,16,{SIZES}\n'
        f'"KERNEL_DISPATCH","Agent 7",1,0,84,2,49,"{ONE}",2,1551401624448706,1551401624459226,'
        f"0,0,8,0,16,{SIZES}\n",
        [(FUSED, "10.52", True)], {"no duration": 1},
    ),
    "rocprofv3 6.3, counters": (
        COUNTERS_6_3 + "".join(
            f'1,1,4,1,36,36,10752,"{ONE}",896,0,0,12,16,"{counter}",16384,2228955885095594,'
            "2228955885119754\n"
            for counter in ("SQ_WAVES", "GRBM_COUNT")
        ),
        [(FUSED, "24.16", True)], {"another counter of the same dispatch": 1},
    ),
    "rocprofv3 7, counters": (
        COUNTERS_7
        + f'1,1,"Agent 1",2,32,32,10752,5,"{ONE}",896,0,0,12,4,32,"VALUBusy",2.48e-02,'
        "1569115829711253,1569115829744144\n"
        f'2,2,"Agent 1",2,32,32,2048,4,"{GEMM}",256,0,0,28,4,32,"VALUBusy",2.48342814e-02,'
        "1569115829820780,1569115829827030\n",
        [(FUSED, "32.891", True)], {NONE_KNOWN: 1},
    ),
    "rocpd2csv": (
        ROCPD2CSV
        + '"00006409-00d1-70d1-a5cb-b5ab88214544","KERNEL_DISPATCH","Agent 4",1,0,71,1,3,'
        f'"{PLAIN}",1,1678314002982197,1678314002991197,8456,0,16,0,32,{SIZES}\n',
        [(REDUCED, "9", True)], {},
    ),
    "rocprof, first releases, with a counter": (
        ROCPROF_OLD
        + f'0,"{ONE} [clone .kd]",0,1,0,16,17,10752,896,4096,0,16,32,0,0x7fa90163e700,4,'
        "4556288436792544,4556288440165491,4556288440211571,4556288440226587\n",
        [(FUSED, "46.08", True)], {},
    ),
    "rocprof --stats, mangled": (
        ROCPROF_STATS
        + f'0,"{MANGLED}.kd",0,0,0,41,41,10752,896,0,0,20,4,16,64,0x0,0x7f2b,900,1000,10000,'
        "10900,9000\n",
        [(REDUCED, "9", True)], {},
    ),
    "rocprof, times alone": (
        "Index,KernelName,DispatchNs,BeginNs,EndNs,CompleteNs\n"
        f'0,"{ONE} [clone .kd]",1,1000,13500,13599\n1,"{GEMM}.kd",2,20000,20090,20199\n',
        [(FUSED, "12.5", False)], {NONE_KNOWN: 1},
    ),
    "rocprofv2, first releases": (
        ROCPROFV2_OLD
        + f'1,4,1,1,15,15,10752,896,0,0,8,0,16,64,140464978048000,1,"{ONE} (.kd)",'
        "140469300947216,140469300960216,33,12637.000000\n",
        [(FUSED, "13", True)], {},
    ),
    "rocprofv2, first releases, counters without a start": (
        ROCPROFV2_OLD
        + f'1,4,1,1,15,15,10752,896,0,0,8,0,16,64,140464978048000,1,"{ONE} (.kd)",0,'
        "140469300947216,33,12637.000000\n"
        f'2,4,1,1,15,15,10752,896,0,0,8,0,16,64,140464978048000,1,"{ONE} (.kd)",'
        "140469300957216,140469300968216,34,12637.000000\n",
        [(FUSED, "11", True)], {"no duration": 1},
    ),
    "rocprofv2, counters": (
        ROCPROFV2
        + f'0,1,1,41,41,10752,896,0,0,8,0,16,64,"{PLAIN}",671599758568,671599767568,0,'
        "65536.000000,398333.000000\n",
        [(REDUCED, "9", True)], {},
    ),
    "rocprofv2 in the form of rocprof": (
        V1_FORM
        + f'0,"{PLAIN}",1,0,0,41,41,10752,896,0,0,8,0,16,64,0,671599758568,671599767068,0\n',
        [(REDUCED, "8.5", True)], {},
    ),
    "rocprofv2, calls beside what they launch": (
        "Domain,Function,Kernel_Name,Start_Timestamp,End_Timestamp,Correlation_ID\n\n"
        "HIP_API_DOMAIN,hipMalloc,,316678074105702,316678074130851,2\n"
        f'HIP_API_DOMAIN,hipLaunchKernel,"{PLAIN}",316678074131382,316678074136111,3\n'
        f'HIP_OPS_DOMAIN,KernelExecution,"{PLAIN}",316678074139000,316678074148000,3\n',
        [(REDUCED, "9", False)], {"a call of the interface, no dispatch": 2},
    ),
    "read and written again by pandas": (
        "," + ROCM_6_3.replace('"', "")
        + f'0,KERNEL_DISPATCH,4,1,70,2,9,"{ONE}",2,1614963488155186,1614963488167186,0,0,{SIZES}\n',
        [(FUSED, "12", True)], {},
    ),
    "traces of the interface behind it": (
        ROCM_6_3
        + f'"KERNEL_DISPATCH",4,1,70,2,9,"{ONE}",2,1614963488155186,1614963488167186,0,0,{SIZES}\n'
        '"Domain","Function","Process_Id","Thread_Id","Correlation_Id","Start_Timestamp",'
        '"End_Timestamp"\n'
        '"HIP_RUNTIME_API","hipLaunchKernel",71,71,1,1614963488100000,1614963488155000\n',
        [(FUSED, "12", True)], {"not the 18 cells of the header": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "read", "reasons"), CSV.values(), ids=CSV)
@pytest.mark.parametrize("packed", [False, True])
def test_dispatches_as_csv(tmp_path, text, read, reasons, packed):
    content, name = (gzip.compress(text.encode()), "t.csv.gz") if packed else (text, "t.csv")
    found, account = told(tmp_path, content, name)
    assert account.kind == "kernel-trace"
    assert brief(found) == read
    assert left(account) == reasons


@pytest.mark.parametrize("header", [ROCM_6_3, ROCM_7, COUNTERS_7, ROCPROF_STATS, ROCPROFV2_OLD])
def test_a_trace_of_its_header_alone_holds_no_row(tmp_path, header):
    with pytest.raises(InputError, match="no row could be read"):
        told(tmp_path, header, "t.csv")


WITHOUT_TIMES = {
    "rocprofv3 6.2, counters": COUNTERS_6_3.replace(',"Start_Timestamp","End_Timestamp"', "")
    + f'0,1,1,139892123975680,56,56,10752,"{ONE}",896,0,0,8,16,"SQ_WAVES",65536\n',
    "rocprof without --timestamp on": "Index,KernelName,gpu-id,queue-id,queue-index,pid,tid,grd,"
    "wgr,lds,scr,arch_vgpr,accum_vgpr,sgpr,wave_size,sig,obj,SQ_WAVES\n"
    f'0,"{ONE} [clone .kd]",0,0,0,41,41,10752,896,0,0,20,4,16,64,0x0,0x7f2b,65536\n',
}


@pytest.mark.parametrize("text", WITHOUT_TIMES.values(), ids=WITHOUT_TIMES)
def test_counters_without_times_are_no_latencies(tmp_path, text):
    with pytest.raises(InputError, match="no times of the dispatches"):
        told(tmp_path, text, "t.csv")


def dispatch(kernel=1, start=4484384343929154, took=12000, agent=4, **more):
    """Return a dispatch as rocprofv3 writes it."""
    info = {
        "size": 64, "agent_id": {"handle": agent}, "queue_id": {"handle": 1}, "kernel_id": kernel,
        "dispatch_id": 1, "private_segment_size": 0, "group_segment_size": 0,
        "workgroup_size": {"x": 896, "y": 1, "z": 1}, "grid_size": {"x": 10752, "y": 1, "z": 1},
    }  # fmt: skip
    return {
        "size": 128, "kind": 11, "operation": 2, "thread_id": 71,
        "correlation_id": {"internal": 9, "external": 0}, "start_timestamp": start,
        "end_timestamp": start + took, "dispatch_info": info, **more,
    }  # fmt: skip


def symbol(number=1, name=ONE, **names):
    named = {"kernel_name": "x.kd", "formatted_kernel_name": name, "demangled_kernel_name": name}
    return {"size": 80, "kernel_id": number, "code_object_id": 3, **(names or named)}


CPU = {"size": 296, "id": {"handle": 1}, "type": 1, "name": "AMD EPYC 9575F", "product_name": ""}
MI300X = {"size": 296, "id": {"handle": 4}, "type": 2, "name": "gfx942",
          "product_name": "AMD Instinct MI300X", "model_name": "aqua_vanjaram"}  # fmt: skip
MI355X = {**MI300X, "id": {"handle": 5}, "name": "gfx950", "product_name": "AMD Instinct MI355X"}
HIP = {"size": 64, "kind": 9, "operation": 1, "start_timestamp": 1, "end_timestamp": 2}


def process(dispatches, symbols=None, agents=(CPU, MI300X), counters=(), **records):
    return {
        "metadata": {"pid": 71, "init_time": 1, "fini_time": 9, "command": ["python", "x.py"]},
        "agents": list(agents), "counters": [], "code_objects": [], "host_functions": [],
        "strings": {"callback_records": [], "buffer_records": [{"kind": "KERNEL_DISPATCH"}]},
        "kernel_symbols": [{"kernel_id": 0}, symbol()] if symbols is None else symbols,
        "callback_records": {"counter_collection": list(counters)},
        "buffer_records": {"kernel_dispatch": list(dispatches), **records},
    }  # fmt: skip


def counted(number=9, **more):
    """Return a dispatch that was counted: once for each pass."""
    one = dispatch(**more)
    data = {key: one[key] for key in ("size", "start_timestamp", "end_timestamp", "dispatch_info")}
    data["correlation_id"] = {"internal": number, "external": 0}
    data["dispatch_info"]["dispatch_id"] = number
    return {
        "dispatch_data": data, "records": [{"counter_id": {"handle": 333}, "value": 12.5}],
        "thread_id": 71, "arch_vgpr_count": 32, "sgpr_count": 16, "lds_block_size_v": 0,
    }  # fmt: skip


TRACES = {
    "one GPU": ([process([dispatch()])], [(FUSED, "12", True)], {}, "MI300X"),
    "calls and copies beside it": (
        [process([dispatch()], hip_api=[HIP], memory_copy=[HIP], marker_api=[HIP], rccl_api=[HIP])],
        [(FUSED, "12", True)], {}, "MI300X",
    ),
    "symbols without ids, in their order": (
        [process([dispatch(1)], [{}, {"formatted_kernel_name": PLAIN}])],
        [(REDUCED, "12", True)], {}, "MI300X",
    ),
    "a name as the compiler has it alone": (
        [process([dispatch()], [symbol(kernel_name=MANGLED + ".kd", formatted_kernel_name="")])],
        [(REDUCED, "12", True)], {}, "MI300X",
    ),
    "a name cut to the function alone": (
        [process([dispatch()], [symbol(truncated_kernel_name="cross_device_reduce_1stage")])],
        [(("all_reduce", "1stage", "", ""), "12", True)], {}, "MI300X",
    ),
    "a kernel that no symbol names": (
        [process([dispatch(), dispatch(7)])], [(FUSED, "12", True)], {NONE_KNOWN: 1}, "MI300X",
    ),
    "nodes of a graph": (
        [process([
            dispatch(start=4484384343929154 + 50000 * n, took=12000 + 1000 * n,
                     graph_exec_id=1, graph_node_id=n, stream_id={"handle": 3})
            for n in range(3)
        ])],
        [(FUSED, "13", True)], {"in the median of a row": 2}, "MI300X",
    ),
    "GPUs of two kinds": (
        [process([dispatch()], agents=(CPU, MI300X, MI355X))], [(FUSED, "12", True)], {}, "",
    ),
    "a GPU without a product's name": (
        [process([dispatch()], agents=(CPU, {**MI300X, "product_name": ""}))],
        [(FUSED, "12", True)], {}, "",
    ),
    "several processes, ids of their own": (
        [process([dispatch()]), process([dispatch(3, 4484384344929154, 9000)], [symbol(3, PLAIN)])],
        [(FUSED, "12", True), (REDUCED, "9", True)], {}, "MI300X",
    ),
    "a process that launched nothing": (
        [process([], []), process([dispatch()])], [(FUSED, "12", True)], {}, "MI300X",
    ),
    "a dispatch without its times": (
        [process([dispatch(), dispatch(start=0, took=0)])],
        [(FUSED, "12", True)], {"no duration": 1}, "MI300X",
    ),
    "counters alone": (
        [process([], counters=[counted(), counted(10, kernel=8)])],
        [(FUSED, "12", True)], {NONE_KNOWN: 1}, "MI300X",
    ),
    "counters beside the dispatches": (
        [process([dispatch()], counters=[counted()])], [(FUSED, "12", True)], {}, "MI300X",
    ),
    "counters in two passes": (
        [process([], counters=[counted(), counted(took=12500)])],
        [(FUSED, "12", True)], {"another counter of the same dispatch": 1}, "MI300X",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("processes", "read", "reasons", "gpu"), TRACES.values(), ids=TRACES)
@pytest.mark.parametrize("indent", [None, 4])
def test_dispatches_as_json(tmp_path, processes, read, reasons, gpu, indent):
    text = json.dumps({"rocprofiler-sdk-tool": processes}, indent=indent)
    found, account = told(tmp_path, text, "71_results.json")
    assert account.kind == "rocprofv3-json"
    assert brief(found) == read
    assert left(account) == reasons
    rows, _ = imported(tmp_path / "71_results.json")
    assert set(column(rows, "gpu")) == {gpu}
    counters = any(p["callback_records"]["counter_collection"] for p in processes)
    alone = counters and not processes[0]["buffer_records"]["kernel_dispatch"]
    assert any("counters were read" in note for note in account.notes) == alone


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({"rocprofiler-sdk-tool": [process([dispatch()])]})[:-70], "truncated or not"),
        (json.dumps({"rocprofiler-sdk-tool": [process([])]}), "no row could be read"),
        (json.dumps({"rocprofiler-sdk-tool": []}), "no row could be read"),
    ],
)
def test_json_without_a_dispatch_says_so(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        told(tmp_path, text, "71_results.json")


#: Tables of rocprofv3's databases: name, columns. ``rocpd_timestamp`` and ``rocpd_track`` hold the
#: times and places from schema 4 on.
SIZE_COLUMNS = ", ".join(f"{what}_size_{axis}" for what in ("workgroup", "grid") for axis in "xyz")
SYMBOLS = "id, guid, nid, pid, code_object_id, kernel_name, display_name, kernel_object"
AGENTS = "id, guid, nid, pid, type, absolute_index, name, model_name, vendor_name, product_name"
SCHEMA_3 = {
    "rocpd_info_kernel_symbol": SYMBOLS, "rocpd_info_agent": AGENTS,
    "rocpd_kernel_dispatch": "id, guid, nid, pid, tid, agent_id, kernel_id, dispatch_id, queue_id,"
    f' stream_id, start, "end", {SIZE_COLUMNS}, region_name_id, event_id, extdata',
}  # fmt: skip
SCHEMA_4 = {
    "rocpd_info_kernel_symbol": SYMBOLS,
    "rocpd_info_agent": f"{AGENTS}, generic_name",
    "rocpd_track": "id, nid, ppid, pid, tid, agent_id, queue_id, stream_id, name_id, extdata",
    "rocpd_timestamp": "id, value, phase, track_id",
    "rocpd_kernel_dispatch": "id, track_id, kernel_id, dispatch_id, start_id, end_id, "
    f"{SIZE_COLUMNS}, region_name_id, event_id, extdata",
}
DISPLAYED = {"id": 1, "kernel_name": MANGLED + ".kd", "display_name": ONE}
AGENT = {"id": 4, "type": "GPU", "name": "gfx942", "product_name": "AMD Instinct MI300X"}
HOST = {"id": 0, "type": "CPU", "name": "AMD EPYC 9575F", "product_name": "AMD EPYC 9575F"}
SIZES_OF_ONE = {"workgroup_size_x": 896, "workgroup_size_y": 1, "workgroup_size_z": 1,
                "grid_size_x": 10752, "grid_size_y": 1, "grid_size_z": 1}  # fmt: skip


def ran(number=1, start=1678314002982197, took=12000, **more):
    """Return a dispatch of schema 3."""
    return {"id": number, "nid": 1, "pid": 71, "tid": 71, "agent_id": 4, "kernel_id": 1,
            "dispatch_id": number, "queue_id": 1, "stream_id": 0, "start": start,
            "end": start + took, **SIZES_OF_ONE, **more}  # fmt: skip


def ran_4(number=1, at=(1, 2), **more):
    """Return a dispatch of schema 4, whose times have ids."""
    return {"id": number, "track_id": 1, "kernel_id": 1, "dispatch_id": number, "start_id": at[0],
            "end_id": at[1], **SIZES_OF_ONE, **more}  # fmt: skip


TRACK = {"id": 1, "nid": 1, "pid": 71, "tid": 71, "agent_id": 4, "queue_id": 1, "stream_id": 0}
TIMES = [{"id": n, "value": 1678314002982197 + at, "track_id": 1}
         for n, at in ((1, 0), (2, 12000), (3, 50000), (4, 63000))]  # fmt: skip


def database(path, schema, rows, suffix="_00006409_00d1_70d1_a5cb_b5ab88214544"):
    """Write rows by table into a database, with the views that rocprofv3 puts over its tables."""
    with closing(sqlite3.connect(path)) as open_one:
        for table, columns in schema.items():
            open_one.execute(f'CREATE TABLE IF NOT EXISTS "{table}{suffix}" ({columns})')
            if suffix:
                open_one.execute(
                    f'CREATE VIEW IF NOT EXISTS {table} AS SELECT * FROM "{table}{suffix}"'
                )
        for table, entries in rows.items():
            for entry in entries:
                names, marks = ", ".join(f'"{n}"' for n in entry), ", ".join("?" for _ in entry)
                open_one.execute(
                    f'INSERT INTO "{table}{suffix}" ({names}) VALUES ({marks})', [*entry.values()]
                )
        open_one.commit()


def filled(*dispatches, symbols=(DISPLAYED,), agents=(HOST, AGENT), **others):
    return {"rocpd_kernel_dispatch": dispatches, "rocpd_info_kernel_symbol": symbols,
            "rocpd_info_agent": agents, **others}  # fmt: skip


RPD = {
    "rocpd_string": "id INTEGER PRIMARY KEY, string TEXT",
    "rocpd_op": 'id, gpuId, queueId, sequenceId, start, "end", description_id, opType_id',
}
RPD_OLD = RPD | {
    "rocpd_op": 'id, gpuId, queueId, sequenceId, completionSignal, start, "end", description_id, '
    "opType_id",
    "rocpd_api": 'id, pid, tid, start, "end", apiName_id, args_id',
}
OPS = {
    "rocpd_string": [{"id": 1, "string": "KernelExecution"}, {"id": 2, "string": ONE},
                     {"id": 3, "string": "CopyDeviceToDevice"}, {"id": 4, "string": ""}],
    "rocpd_op": [
        {"id": 1, "gpuId": 0, "queueId": 0, "sequenceId": 1, "start": 1000, "end": 13000,
         "description_id": 2, "opType_id": 1},
        {"id": 2, "gpuId": 0, "queueId": 0, "sequenceId": 2, "start": 14000, "end": 15000,
         "description_id": 4, "opType_id": 3},
    ],
}  # fmt: skip
NO_NAME = {"id": 1, "kernel_name": MANGLED + ".kd", "display_name": None}

DATABASES = {
    "schema 3": ([(SCHEMA_3, filled(ran()))], [(FUSED, "12", True)], {}, "MI300X"),
    "schema 3, a name as the compiler has it alone": (
        [(SCHEMA_3, filled(ran(), symbols=[NO_NAME]))], [(REDUCED, "12", True)], {}, "MI300X",
    ),
    "schema 3, an empty name": (
        [(SCHEMA_3, filled(ran(), symbols=[NO_NAME | {"display_name": ""}]))],
        [(REDUCED, "12", True)], {}, "MI300X",
    ),
    "schema 3, a kernel without a symbol": (
        [(SCHEMA_3, filled(ran(), ran(2, kernel_id=9)))],
        [(FUSED, "12", True)], {NONE_KNOWN: 1}, "MI300X",
    ),
    "schema 3, times not taken": (
        [(SCHEMA_3, filled(ran(2, start=0, took=0), ran()))],
        [(FUSED, "12", True)], {"no duration": 1}, "MI300X",
    ),
    "schema 3, out of order": (
        [(SCHEMA_3, filled(ran(2, 1678314003982197, 13000), ran(took=11000),
                           ran(3, 1678314004982197)))],
        [(FUSED, "12", True)], {"in the median of a row": 2}, "MI300X",
    ),
    "schema 3, GPUs of two kinds": (
        [(SCHEMA_3, filled(ran(), agents=(AGENT, AGENT | {"product_name": "AMD Instinct MI355X"})))],
        [(FUSED, "12", True)], {}, "",
    ),
    "schema 3, a GPU without a product's name": (
        [(SCHEMA_3, filled(ran(), agents=(AGENT | {"product_name": ""},)))],
        [(FUSED, "12", True)], {}, "",
    ),
    "schema 3, grids not said": (
        [(SCHEMA_3, filled(ran(grid_size_x=None)))], [(FUSED, "12", False)], {}, "MI300X",
    ),
    "schema 3, two processes in one file": (
        [(SCHEMA_3, filled(ran()), "_0001_a"),
         (SCHEMA_3, filled(ran(pid=72, took=9000), symbols=[NO_NAME]), "_0002_b")],
        [(FUSED, "12", True), (REDUCED, "9", True)], {}, "MI300X",
    ),
    "schema 3, tables without an id": (
        [(SCHEMA_3, filled(ran()), "")], [(FUSED, "12", True)], {}, "MI300X",
    ),
    "schema 4": (
        [(SCHEMA_4, filled(ran_4(), ran_4(2, (3, 4)), rocpd_track=[TRACK], rocpd_timestamp=TIMES))],
        [(FUSED, "12.5", True)], {"in the median of a row": 1}, "MI300X",
    ),
    "schema 4, times that are missing": (
        [(SCHEMA_4, filled(ran_4(), ran_4(2, (3, None)), ran_4(3, (8, 9)), rocpd_track=[TRACK],
                           rocpd_timestamp=TIMES))],
        [(FUSED, "12", True)], {"no duration": 2}, "MI300X",
    ),
    "rpd": ([(RPD, OPS, "")], [(FUSED, "12", False)], {NONE_KNOWN: 1}, ""),
    "rpd, first releases": ([(RPD_OLD, OPS, "")], [(FUSED, "12", False)], {NONE_KNOWN: 1}, ""),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "read", "reasons", "gpu"), DATABASES.values(), ids=DATABASES)
def test_dispatches_in_a_database(tmp_path, parts, read, reasons, gpu):
    for schema, rows, *suffix in parts:
        database(tmp_path / "71_results.db", schema, rows, *suffix)
    found, account = told(tmp_path, (tmp_path / "71_results.db").read_bytes(), "copy.db")
    assert account.kind == "rocpd"
    assert brief(found) == read
    assert left(account) == reasons
    assert set(column(imported(tmp_path / "copy.db")[0], "gpu")) == {gpu}


@pytest.mark.parametrize("table", ["rocpd_info_kernel_symbol", "rocpd_track", "rocpd_timestamp"])
def test_a_database_that_lacks_a_table_says_so(tmp_path, table):
    rows = filled(ran_4(), rocpd_track=[TRACK], rocpd_timestamp=TIMES)
    database(tmp_path / "t.db", SCHEMA_4, rows, "_1")
    with closing(sqlite3.connect(tmp_path / "t.db")) as open_one:
        open_one.execute(f"DROP TABLE {table}_1")
        open_one.execute(f"CREATE VIEW {table}_1 AS SELECT 1 AS id")
    with pytest.raises(InputError, match="without rocpd's tables"):
        imported(tmp_path / "t.db")
