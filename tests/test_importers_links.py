"""TransferBench and rocm_bandwidth_test as rates of links; NCCL's tuner CSV."""

import csv
import re

import pytest

from costmodel.cli.main import main
from costmodel.data import links
from costmodel.data.importers import Said, convert, read
from costmodel.errors import InputError


def rates(tmp_path, text, kind="", **said):
    """Return the rates that a file gives, as the command writes them, and its account."""
    (tmp_path / "log").write_text(text)
    out = tmp_path / "links.csv"
    _, told = convert(tmp_path / "log", out, Said(**{"source": "mine", **said}), kind)
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == told.n_rows
    return rows, told


def cells(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


def left(told):
    return {reason: one.count for reason, one in told.left.items()}


# TransferBench, as its source prints: v1.52 (ReportResults), v1.60 (PrintResults), the presets.

TEST = """\
TransferBench v1.52
===============================================================
Test 1:
 Executor: GPU 00 |  94.000 GB/s |    1.428 ms |    134217728 bytes | 94.112  GB/s (sum)
     Transfer 00  |  47.056 GB/s |    1.426 ms |     67108864 bytes | G0 -> GPU00:008 -> G1
     Transfer 01  |  46.900 GB/s |    1.430 ms |     67108864 bytes | F0 -> DMA00.*:001 -> F2
      Iter 001    |  47.100 GB/s |    1.424 ms | CUs: 00:01
     Transfer 02  | 900.000 GB/s |    0.074 ms |     67108864 bytes | G0 -> GPU00:008 -> G0
     Transfer 03  |  20.000 GB/s |    3.355 ms |     67108864 bytes | C0 -> GPU00:008 -> G0
     Transfer 04  |  20.000 GB/s |    3.355 ms |     67108864 bytes | G0 -> GPU00:008 -> G0G1
 Aggregate (CPU)  |  80.000 GB/s |    1.677 ms |    134217728 bytes | Overhead: 0.251 ms
"""
BORDERS = """\
TransferBench v1.66.00
Test 1:
┌─────────────────┬─────────────┬──────────┬────────────────┬──────────────────┐
│ Executor: GPU 0 │ 47.056 GB/s │ 1.426 ms │ 67108864 bytes │ 47.056 GB/s (sum)│
│ Transfer 0      │ 47.056 GB/s │ 1.426 ms │ 67108864 bytes │ G0 -> G0:8 -> G1 │
└─────────────────┴─────────────┴──────────┴────────────────┴──────────────────┘
"""
OLD_CSV = """\
EnvVar,Value,Description,(TransferBench v1.23)
Test#,Transfer#,NumBytes,Src,Exe,Dst,CUs,BW(GB/s),Time(ms),SrcAddr,DstAddr
1,0,67108864,G0,G0,G1,4,33.520,2.002,0x7f00,0x7e00
1,1,67108864,C0,C0,G1,4,12.000,5.592,0x7f00,0x7e00
1,2,67108864
"""
A2A = """\
TransferBench v1.60
GPU-GFX All-To-All benchmark:
==========================
- Copying 67108864 bytes between directly connected pairs of GPUs using 8 CUs (6 Transfers)
Test 1:
 Executor: GPU 00 |  93.000 GB/s |    1.443 ms |    134217728 bytes | 93.882  GB/s (sum)
     Transfer 00  |  47.056 GB/s |    1.426 ms |     67108864 bytes | F0 -> GPU00:008 -> F1
     Transfer 01  |  46.826 GB/s |    1.433 ms |     67108864 bytes | F0 -> GPU00:008 -> F2

Summary: [67108864 bytes per Transfer]
==========================================================
SRC\\DST  GPU 00     GPU 01     GPU 02        STotal      Actual
GPU 00      N/A     47.056     46.826        93.882      93.652
GPU 01   47.126        N/A     46.432        93.558      92.864
GPU 02   46.935     46.900        N/A        93.835      93.800

RTotal   94.061     93.956     93.258       281.275      92.864      93.800

Average   bandwidth (GPU Timed):   46.879 GB/s
Aggregate bandwidth (GPU Timed):  281.275 GB/s
Aggregate bandwidth (CPU Timed):  240.000 GB/s
"""
P2P = """\
TransferBench v1.52
Bytes Per Direction 67108864
Unidirectional copy peak bandwidth GB/s [Local read / Remote write] (GPU-Executor: GFX)
 SRC+EXE\\DST    CPU 00       GPU 00    GPU 01
  CPU 00  ->     15.54         9.88      8.77

  GPU 00  ->     54.16      1618.31     47.60
  GPU 01  ->     54.10        47.58   1620.00
                           CPU->CPU  CPU->GPU  GPU->CPU  GPU->GPU
Averages (During UniDir):       N/A      9.32     54.13     47.59

Bidirectional copy peak bandwidth GB/s [Local read / Remote write] (GPU-Executor: GFX)
     SRC\\DST    CPU 00       GPU 00    GPU 01
  CPU 00  ->       N/A         9.00      8.00
  CPU 00 <-        N/A        30.00     31.00
  CPU 00 <->       N/A        39.00     39.00

  GPU 00  ->     30.00          N/A     46.10
  GPU 00 <-       9.00          N/A     46.20
  GPU 00 <->     39.00          N/A     92.30
"""
SCALING = """\
GPU-GFX Scaling benchmark:
==========================
- Copying 67108864 bytes from GPU 1 to other devices
- All numbers reported as GB/sec

NumCUs   CPU00        GPU00        GPU01
   1     14.11        20.30        20.25
   2     14.11        38.94        33.26
 Best    14.11(  1)   38.94(  2)   33.26(  2)
"""


# Presets over several ranks: src/client/Presets (NicPeerToPeer, NicAllToAll, NicRings, PodPeerToPeer,
# PodAllToAll, PodRing) and the details of Utilities.hpp, with borders, without, and as CSV.

RANKS = """\
TransferBench v1.66.00
Test 1:
 Executor: Rank 0 GPU 00 │  94.000 GB/s │ 1.4 ms │ 134217728 bytes │  94.112 GB/s (sum) [node-a]
Transfer 0    │  47.056 GB/s │    1.426 ms │     67108864 bytes │ R0G0 -> R0G0:8 -> R1G1
Transfer 1    │  46.900 GB/s │    1.430 ms │     67108864 bytes │ R0G0 -> R0G0:8 -> R1G0
Transfer 2    │  46.500 GB/s │    1.430 ms │     67108864 bytes │ R1G0 -> R1G0:8 -> R1G2
Transfer 3    │  46.400 GB/s │    1.430 ms │     67108864 bytes │ R1G0 -> R1N0.2:1 -> R1G2
Transfer 4    │  46.300 GB/s │    1.430 ms │     67108864 bytes │ G0 -> I0.1:1 -> G2
 Aggregate (CPU)  │  80.000 GB/s │    1.677 ms │    134217728 bytes │ Overhead 0.251 ms
"""
POD_P2P = """\
TransferBench v1.66.00
Bytes Per Direction 67108864
{way}directional copy peak bandwidth GB/s [Local read / Remote write] (GPU-Executor: GFX)
┌──────────────────────────┬─────────────────┬─────────────────┐
│ SRC+EXE\\DST              │ Rank 00         │ Rank 01         │
│             Mem Device   │ GPU 00   GPU 01 │ GPU 00   GPU 01 │
├──────────────────────────┼─────────────────┼─────────────────┤
│     Rank 00     GPU 00   │ 1618.31   47.60 │  45.10    45.20 │
│                 GPU 01   │   47.58 1620.00 │  45.30    45.40 │
├──────────────────────────┼─────────────────┼─────────────────┤
│     Rank 01     GPU 00   │   45.50   45.60 │    N/A    47.50 │
└──────────────────────────┴─────────────────┴─────────────────┘
"""
POD_COLUMNS = """\
TransferBench v1.66.00
Unidirectional copy peak bandwidth GB/s [Local read / Remote write] (GPU-Executor: GFX)
│ SRC Rank   SRC MEM │ DST Rank   DST MEM │ bw (GB/s) │
│  Rank 00    GPU 00 │  Rank 00    GPU 01 │     47.60 │
│  Rank 00    GPU 00 │  Rank 01    GPU 01 │     45.60 │
"""
POD_A2A = """\
TransferBench v1.66.00
GPU-GFX IntraPod All-To-All benchmark:
==============================
[67108864 bytes per Transfer] [GFX:8] [1 Read(s) 1 Write(s)] [MemType:default GPU] [NIC QueuePairs:0] [#Ranks:2]

--- Pod AllToAll Group 0 ---
  SRC+EXE\\DST              Rank 00          Rank 01
               Mem Device   GPU 00   GPU 01   GPU 00   GPU 01
      Rank 00      GPU 00      N/A    47.60    45.10    45.20
                   GPU 01    47.58      N/A    45.30    45.40
"""
POD_RING = """\
TransferBench v1.66.00
--- Pod Ring Group 0 ---
│ Src    Src │ Dst    Dst │ GFX BW            │
│ Rank   GPU │ Rank   GPU │ (GB/s)            │
│    0     0 │    0     1 │  47.60            │
│    0     1 │    1     0 │  45.10            │
│        MAX │            │  47.60            │
Aggregate bandwidth (CPU Timed):   90.000 GB/s
"""
NIC_P2P = """\
TransferBench v1.66.00
Unidirectional copy peak bandwidth GB/s (NIC RDMA Using Nearest Device)
SRC+EXE\\DST ,,, Rank 00 , Rank 01 ,
, NIC Device ,, mlx5_0 , mlx5_0 ,
,, Mem Device , GPU 00 , GPU 00 ,
 Rank 00 , mlx5_0 , GPU 00 , 48.10 , 47.90 ,
 Rank 01 , mlx5_0 , GPU 00 , 47.80 , 48.00 ,
Summary of top 10 fastest/slowest connection
 Fastest Bandwidth (GB/s) , Src , Dst , Slowest Bandwidth (GB/s) , Src , Dst ,
 48.10 , R00:mlx5_0 , R00:mlx5_0 , 47.80 , R01:mlx5_0 , R00:mlx5_0 ,
"""
NIC_A2A = """\
TransferBench v1.66.00
NIC All-To-All benchmark
========================
[67108864 bytes per Transfer] [Total Transfers: 2] [MemType:default GPU] [NIC QueuePairs:1] [#Ranks:2]

--- NIC AllToAll Plane 00 Group 00 (2 NICs) ---
│ Mem Device                          │ Rank 00 │ Rank 01 │                 │
│                                     │  GPU 00 │  GPU 00 │                 │
│                        SRC+EXE\\DST  │  mlx5_0 │  mlx5_0 │ STotal   Actual │
│    Rank 00     GPU 00        mlx5_0 │     N/A │   47.90 │  47.90    47.90 │
│    Rank 01     GPU 00        mlx5_0 │   47.80 │     N/A │  47.80    47.80 │
│                              RTotal │   47.80 │   47.90 │  95.70    95.70 │

Aggregate bandwidth (CPU Timed):   90.000 GB/s
"""
NIC_RINGS = """\
TransferBench v1.66.00
NIC Rings benchmark
==============================
1 parallel RDMA-write rings(s) using fine-grained GPU memory across 2 ranks
1 queue pairs per NIC.  67108864 bytes per Transfer.  All numbers are GB/s

                    │ GPU 00 │
                    │ NIC 00 │    TOTAL
 Rank   Name        │ mlx5_0 │   (GB/s)
    0   node-a      │  48.10 │    48.10
    1   node-b      │  47.90 │    47.90
         MAX (GB/s) │  48.10 │    48.10
         AVG (GB/s) │  48.00 │    48.00
         MIN (GB/s) │  47.90 │    47.90

Aggregate bandwidth (CPU Timed):   90.000 GB/s
"""
BEYOND_RANKS = "between ranks, or in a table of several, no link of one host"
BEYOND_NIC = "over a NIC, no link between GPUs"


def test_details_of_several_ranks_give_the_links_of_one_rank_alone(tmp_path):
    rows, told = rates(tmp_path, RANKS, gpu="MI300X")
    assert cells(rows, "gbps", "detail") == [
        ("46.5", "GPU0->GPU2, executor R1G0:8, on rank 1, TransferBench 1.66.00")
    ]
    assert left(told) == {
        "sum over the transfers of an executor": 1, BEYOND_RANKS: 2, BEYOND_NIC: 2,
        "sum over all transfers": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (POD_P2P.format(way="Uni"), {BEYOND_RANKS: 11}),
        (POD_P2P.format(way="Bi"), {BEYOND_RANKS: 11}),
        (POD_COLUMNS, {BEYOND_RANKS: 2}),
        (POD_A2A, {BEYOND_RANKS: 6}),
        (POD_RING, {BEYOND_RANKS: 3, "sum over all transfers": 1}),
        (NIC_P2P, {BEYOND_NIC: 6}),
        (NIC_A2A, {BEYOND_NIC: 10, "sum over all transfers": 1}),
        (NIC_RINGS, {BEYOND_NIC: 10, "sum over all transfers": 1}),
    ],
)
def test_tables_over_several_ranks_are_left_with_the_reason(tmp_path, text, counts):
    # Behind a test of one host, whose columns must not be taken for theirs, and before another.
    for log in (A2A + text + P2P, A2A + text.replace("│", " ") + P2P):
        rows, told = rates(tmp_path, log, gpu="MI300X")
        assert [row["gbps"] for row in rows] == [
            row["gbps"] for row in rates(tmp_path, A2A + P2P, gpu="MI300X")[0]
        ]
        alone = left(rates(tmp_path, A2A + P2P, gpu="MI300X")[1])
        more = {r: n - alone.get(r, 0) for r, n in left(told).items() if n != alone.get(r, 0)}
        assert more == counts


def test_a_log_of_such_tables_alone_is_refused_with_the_reason(tmp_path, capsys):
    (tmp_path / "pod.log").write_text(POD_P2P.format(way="Uni"))
    with pytest.raises(SystemExit) as ended:
        main(["import", str(tmp_path / "pod.log"), "--out", str(tmp_path / "out.csv")])
    assert ended.value.code == 2
    assert f"no row could be read from it ({BEYOND_RANKS}: 11)" in capsys.readouterr().err


def test_transfers_between_two_gpus(tmp_path):
    rows, told = rates(tmp_path, TEST, gpu="MI300X")
    assert cells(rows, "gbps", "bytes", "gpu", "arch") == [
        ("47.056", "67108864", "MI300X", "gfx942"), ("46.9", "67108864", "MI300X", "gfx942"),
    ]  # fmt: skip
    assert rows[0]["detail"] == "GPU0->GPU1, executor GPU00:008, TransferBench 1.52"
    assert left(told) == {
        "sum over the transfers of an executor": 1,
        "single iterations, beside their mean": 1,
        "within one GPU": 1,
        "not from one GPU to another": 2,
        "sum over all transfers": 1,
    }


def test_borders_and_csv(tmp_path):
    (row,), told = rates(tmp_path, BORDERS)
    assert (row["gbps"], row["detail"]) == (
        "47.056", "GPU0->GPU1, executor G0:8, TransferBench 1.66.00",
    )  # fmt: skip
    assert told.missing == {"gpu": 1}
    (row,), told = rates(tmp_path, OLD_CSV, gpu="MI250X")
    assert (row["gbps"], row["bytes"], row["arch"]) == ("33.52", "67108864", "gfx90a")
    assert left(told) == {
        "not from one GPU to another": 1, "a row whose cells are not those of the header": 1,
    }  # fmt: skip


def test_all_to_all_says_each_transfer_once(tmp_path):
    rows, told = rates(tmp_path, A2A, gpu="MI300X")
    assert [row["gbps"] for row in rows] == [
        "47.056", "46.826", "47.126", "46.432", "46.935", "46.9",
    ]  # fmt: skip
    assert {row["world_size"] for row in rows[2:]} == {"3"}
    assert rows[2]["detail"] == "GPU1->GPU0, all pairs concurrently, TransferBench 1.60"
    assert left(told) == {
        "sum over the transfers of an executor": 1, "a transfer above once more": 2, "no rate": 3,
        "sum over links": 12, "average over links": 1, "sum over all transfers": 2,
    }  # fmt: skip


def test_peer_to_peer_one_way_and_both(tmp_path):
    rows, told = rates(tmp_path, P2P, gpu="MI300X")
    assert [(row["gbps"], row["detail"].split(",")[0]) for row in rows] == [
        ("47.6", "GPU0->GPU1"), ("47.58", "GPU1->GPU0"),
        ("46.1", "GPU0->GPU1"), ("46.2", "GPU1->GPU0"),
    ]  # fmt: skip
    assert "one pair at a time" in rows[0]["detail"]
    assert "while the other direction runs too" in rows[2]["detail"]
    assert told.left["sum of both directions"].count == 4
    assert told.left["within one GPU"].count == 2


def test_scaling_names_the_compute_units(tmp_path):
    rows, told = rates(tmp_path, SCALING, gpu="MI300X")
    assert [(row["gbps"], row["detail"]) for row in rows] == [
        ("20.3", "GPU1->GPU0, 1 CUs, one pair at a time, TransferBench"),
        ("38.94", "GPU1->GPU0, 2 CUs, one pair at a time, TransferBench"),
    ]
    assert left(told) == {
        "not from one GPU to another": 2, "within one GPU": 2,
        "the best of the lines above once more": 3,
    }  # fmt: skip


# rocm_bandwidth_test 2.6.0, as rocm_bandwidth_test_report.cpp prints.

MATRIX = """\

          RocmBandwidthTest Version: 2.6.0

          Launch Command is: rocm_bandwidth_test -a

          Device: 0,  AMD EPYC 9534 64-Core Processor
          Device: 1,  AMD Instinct MI300X,  GPU-1234567890abcdef,  05:0.0
          Device: 2,  AMD Instinct MI300X,  GPU-234567890abcdef1,  15:0.0

          Inter-Device Access

          D/D       0         1         2

          0         1         1         1

          1         1         1         1

          2         1         1         1


          {way}directional copy peak bandwidth GB/s

          D/D       0           1           2

          0         N/A         53.871      53.905

          1         54.101      1201.5      48.962

          2         54.089      48.950      1199.8

"""
BY_SIZE = """\
          RocmBandwidthTest Version: 2.6.0

================    {way}directional Benchmark Result    ================
================ Src Device Id: {src} Src Device Type: {kind} ================
================ Dst Device Id: 2 Dst Device Type: Gpu ================

Data Size      Avg Time(us)   Avg BW(GB/s)   Min Time(us)   Peak BW(GB/s)
512 Bytes      10.500         0.049          10.000         0.051
64 KB          11.800         5.554          11.600         5.650
64 MB          1371.000       48.949         1370.600       48.963
"""


def test_matrix_of_rocm_bandwidth_test(tmp_path):
    rows, told = rates(tmp_path, MATRIX.format(way="Uni"))
    assert cells(rows, "gbps", "gpu", "arch", "world_size") == [
        ("48.962", "MI300X", "gfx942", "2"), ("48.95", "MI300X", "gfx942", "2"),
    ]  # fmt: skip
    assert rows[0]["detail"] == (
        "device 1->2, one pair at a time, peak, copy engine, rocm_bandwidth_test 2.6.0"
    )
    assert left(told) == {"no rate": 1, "not from one GPU to another": 4, "within one GPU": 2}
    with pytest.raises(InputError, match=r"no row could be read .*sum of both directions: 8"):
        rates(tmp_path, MATRIX.format(way="Bi"))
    devices = "\n".join(line for line in MATRIX.splitlines() if "Device:" not in line)
    with pytest.raises(InputError, match="no list of devices says which are GPUs: 8"):
        rates(tmp_path, devices.format(way="Uni"))


def test_a_matrix_that_was_pasted_reads_as_it_was_printed(tmp_path):
    pasted = re.sub(
        r"(?m)^ +(D/D|\d) +(.*?) *$", lambda m: "| " + " | ".join(m[0].split()) + " |", MATRIX
    )
    assert "| 1 | 54.101 | 1201.5 | 48.962 |" in pasted
    rows, told = rates(tmp_path, pasted.format(way="Uni"))
    assert cells(rows, "gbps") == [("48.962",), ("48.95",)]
    assert told.n_left == 7


def test_sizes_of_rocm_bandwidth_test(tmp_path):
    rows, told = rates(tmp_path, BY_SIZE.format(way="Uni", src=1, kind="Gpu"), gpu="MI300X")
    assert cells(rows, "gbps", "bytes") == [
        ("0.049", "512"), ("5.554", "65536"), ("48.949", "67108864"),
    ]  # fmt: skip
    assert "average" in rows[0]["detail"]
    assert left(told) == {
        "times of copies by the copy engines, no all-reduce": 6, "peak rate, beside the average": 3,
    }  # fmt: skip
    for changed, reason in [
        ({"way": "Bi", "src": 1, "kind": "Gpu"}, "sum of both directions: 3"),
        ({"way": "Uni", "src": 0, "kind": "Cpu"}, "not from one GPU to another: 3"),
        ({"way": "Uni", "src": 2, "kind": "Gpu"}, "within one GPU: 3"),
    ]:
        with pytest.raises(InputError, match=reason):
            rates(tmp_path, BY_SIZE.format(**changed))


def test_the_command_says_that_nothing_is_fitted_to_rates(tmp_path, capsys):
    (tmp_path / "log").write_text(MATRIX.format(way="Uni"))
    out = tmp_path / "links.csv"
    with pytest.raises(SystemExit) as ended:
        main(["import", str(tmp_path / "log"), "--out", str(out)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "2 rows of rocm-bandwidth-test" in said
    assert "9 results in" in said
    assert "note: rates of links (measurements/link_bandwidth.csv), which nothing" in said
    assert out.read_text().splitlines()[0] == ",".join(links.COLUMNS)
    with pytest.raises(InputError, match="states link rates, no latencies"):
        read(tmp_path / "log", Said())


# NCCL's tuner plugin.

PERFORMANCE = """\
collective,size_bytes,algorithm,protocol,channels,nodes,ranks,pipeOps,regBuff,cost_metric,bandwidth_gbps,latency_us
allreduce,1024,tree,simple,2,1,8,-1,-1,0.15,45.2,12.5
allreduce,1024,ring,ll,4,1,8,-1,1,0.12,52.1,10.8
broadcast,1024,tree,simple,-1,1,8,-1,-1,0.08,89.4,8.2
allreduce,1024,ring,simple,4,2,16,-1,-1,0.19,42.7,19.6
allreduce,1024,ring,simple,4,1,-1,-1,-1,0.19,42.7,19.5
allreduce,1024,ring,simple,4,1,8,-1,-1,0.19,42.7,
allreduce,1024
"""
CONFIGURATION = """\
# NCCL Tuner Configuration File (CSV Format)
# Format: collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks,numPipeOps,regBuff
allreduce,0,65536,tree,simple,2,1,-1,-1,-1
broadcast,0,32768,ring,ll128,-1,-1,-1
"""


def test_performance_data_of_the_tuner(tmp_path):
    (tmp_path / "data.csv").write_text(PERFORMANCE)
    table, told = read(tmp_path / "data.csv", Said(source="mine", gpu="MI300X"))
    assert table.latency_us.tolist() == [12.5, 10.8, 8.2, 19.6]
    assert table.op.tolist() == ["all_reduce", "all_reduce", "other", "all_reduce"]
    assert table.interconnect.tolist() == ["xgmi", "xgmi", "xgmi", "network"]
    assert table.kernel_version.tolist() == [
        "tree simple, 2 channels", "ring ll, 4 channels, registered", "tree simple, broadcast",
        "ring simple, 4 channels",
    ]  # fmt: skip
    assert set(table.kernel_family) == {"rccl"}
    assert left(told) == {
        "ranks not said: --world-size": 1, "no time": 1,
        "a line whose cells are not those of the header": 1,
    }  # fmt: skip


def test_a_configuration_of_the_tuner_has_no_latency(tmp_path):
    (tmp_path / "tuner.conf").write_text(CONFIGURATION)
    with pytest.raises(
        InputError, match="a choice of the tuner for a range of sizes, no latency: 2"
    ):
        read(tmp_path / "tuner.conf", Said(source="mine"))
