"""rccl-tests and nccl-tests, in the forms that their releases of 2017 to 2026 print."""

import json
from pathlib import Path

import pytest
from test_importers import RCCL

from costmodel.cli.main import main
from costmodel.data import measurement
from costmodel.data.importers import Said, account, read
from costmodel.errors import InputError

CASES = Path(__file__).parent / "cases"


def imported(path, kind="", **said):
    """Return the rows of a file as dictionaries of numbers and texts, and its account."""
    table, told = read(path, Said(**{"source": "mine", **said}), kind)
    assert len(table) == told.n_rows
    columns = {name: getattr(table, name).tolist() for name in table.columns}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [{k: None if v != v else v for k, v in row.items()} for row in rows], told


def of(tmp_path, text, kind="", **said):
    (tmp_path / "log").write_text(text, newline="")
    return imported(tmp_path / "log", kind, **said)


def column(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


def left(told):
    return {reason: one.count for reason, one in told.left.items()}


IN_PLACE = "in place, beside the out-of-place time"


# The files of tests/cases, whose README says what is right.


def test_old_table_without_a_root_column_and_with_part_of_its_devices():
    rows, told = imported(CASES / "nccl-old.log")
    assert column(rows, "latency_us", "bytes") == [(25.06, 8), (31.25, 1024), (18781, 134217728)]
    assert {row["world_size"] for row in rows} == {8}
    assert {(row["op"], row["gpu"], row["arch"], row["interconnect"]) for row in rows} == {
        ("all_reduce", "MI300X", "gfx942", "xgmi")
    }
    assert {row["kernel_family"] for row in rows} == {"rccl"}
    assert left(told) == {IN_PLACE: 3}
    assert any("the collective is not named" in note for note in told.notes)


def test_two_runs_over_two_hosts_are_told_apart_and_are_not_xgmi():
    rows, _ = imported(CASES / "rccl-ab.log")
    assert column(rows, "latency_us", "kernel_version", "interconnect", "world_size") == [
        (61.35, "", "network", 2),
        (60.00, "run 2: P2P off", "network", 2),
    ]
    with pytest.raises(InputError, match=r"rccl-ab.log:9: ranks on 2 hosts, --interconnect says"):
        imported(CASES / "rccl-ab.log", interconnect="xgmi")


@pytest.mark.parametrize(("name", "dtype"), [("rccl-modern", "fp32"), ("rccl-fp8", "f8e5m2")])
def test_modern_log(name, dtype):
    rows, told = imported(CASES / f"{name}.log")
    assert column(rows, "latency_us", "bytes") == [(76.26, 1048576), (1377.7, 268435456)]
    shared = ("world_size", "gpu", "dtype", "kernel_version", "timing", "statistic", "quality")
    assert set(column(rows, *shared)) == {
        (2, "MI350X", dtype, "RCCL version : 2.27.7-develop:0000000", "eager", "mean", "clean")
    }
    # 1.875 = 2 (16 - 1) / 16: the log was cut to two of its ranks.
    assert "busbw / algbw fits 16 ranks, the file states 2" in "; ".join(told.notes)


def test_json_of_rccl_tests():
    rows, told = imported(CASES / "rccl-output.json")
    assert column(rows, "latency_us", "bytes", "world_size", "op", "dtype", "kernel_family") == [
        (18.95, 131072, 8, "all_reduce", "fp32", "rccl")
    ]
    assert left(told) == {IN_PLACE: 1}
    assert rows[0]["interconnect"] == ""  # follows from a GPU, which the file does not say
    (row,), _ = imported(CASES / "rccl-output.json", gpu="MI300X")
    assert (row["gpu"], row["arch"], row["interconnect"]) == ("MI300X", "gfx942", "xgmi")


# Forms of the releases, each as its source prints it.

DEVICES = """\
# Using devices
#   Rank  0 Pid   7000 on      node-a device  0 [0x07] AMD Instinct MI300X
#   Rank  1 Pid   7001 on      node-a device  1 [0x1b] AMD Instinct MI300X
#   Rank  2 Pid   7002 on      node-a device  2 [0x27] AMD Instinct MI300X
#   Rank  3 Pid   7003 on      node-a device  3 [0x3a] AMD Instinct MI300X
"""
#: nccl-tests b188a15 (2017): milliseconds, no line of units, the error as "res".
Y2017 = """\
nThread 1 nGpus 4 minBytes 1048576 maxBytes 2097152 step: 2(factor) warmup iters: 5 iters: 20 validation: 1
# NCCL Tests compiled with NCCL 2.1
# Using devices
#   Rank  0 on    dgx device  0 [0x06] Tesla V100-SXM2-16GB
#   Rank  1 on    dgx device  1 [0x07] Tesla V100-SXM2-16GB
#   Rank  2 on    dgx device  2 [0x0a] Tesla V100-SXM2-16GB
#   Rank  3 on    dgx device  3 [0x0b] Tesla V100-SXM2-16GB

#                                                 out-of-place                    in-place
#      bytes             N    type      op     time  algbw  busbw      res     time  algbw  busbw      res
     1048576        262144   float     sum    0.123   8.52  12.79    2e-07    0.121   8.67  13.00    2e-07
     2097152        524288   float     sum    0.187  11.21  16.82    1e-01    0.186  11.27  16.91    1e-01

 Out of bounds values : 1 FAILED
 Avg bus bandwidth    : 14.88
"""
#: nccl-tests 2019 to 2021: a broadcast has a root and no redop, an all-gather neither.
Y2019_BROADCAST = f"""\
$ ./build/broadcast_perf -b 4K -e 4K -g 1
# nThread 1 nGpus 1 minBytes 4096 maxBytes 4096 step: 1048576(bytes) warmup iters: 5 iters: 20 validation: 1
#
{DEVICES}#
#                                             out-of-place                       in-place
#       size         count    type    root     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                     (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        4096          1024   float       0    11.11    0.37    0.37  0e+00    10.99    0.37    0.37  0e+00
"""
Y2019_GATHER = f"""\
$ ./build/all_gather_perf -b 4K -e 4K -g 1
# nThread 1 nGpus 1 minBytes 4096 maxBytes 4096 step: 1048576(bytes) warmup iters: 5 iters: 20 validation: 1
#
{DEVICES}#
#                                     out-of-place                       in-place
#       size         count    type     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)             (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        4096           256   float    22.22    0.18    0.14  0e+00    21.99    0.19    0.14  0e+00
"""
#: nccl-tests 9dae3d3 (2021): an all-to-all's redop is empty below its heading.
Y2021_ALLTOALL = f"""\
# nThread 1 nGpus 1 minBytes 4096 maxBytes 4096 step: 1048576(bytes) warmup iters: 5 iters: 20 validation: 1
#
{DEVICES}#
#                                                       out-of-place                       in-place
#       size         count      type   redop     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                       (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        4096           256     float            33.33    0.12    0.09  0e+00    32.99    0.12    0.09    N/A
"""
#: rccl-tests 2019 to 2022: an asterisk behind an error that is too large.
STARRED = f"""\
# nThread: 1 nGpus: 1 minBytes: 1024 maxBytes: 2048 step: 2(factor) warmupIters: 5 iters: 20 validation: 1
#
{DEVICES}#
#                                                       out-of-place                       in-place
#       size         count      type   redop     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                       (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        1024           512      half     sum    12.00    0.09    0.13  5e-04    11.50    0.09    0.13  5e-04
        2048          1024      half     sum    13.00    0.16    0.24  4e-01*   12.50    0.16    0.25  4e-01*
# Errors with asterisks indicate errors that have exceeded the maximum threshold.
# Out of bounds values : 1 FAILED
"""
#: rccl-tests 0500f2f (2022): several ranks a GPU.
RANKS_A_GPU = """\
# nThreads: 1 nGpus: 2 nRanks: 2 minBytes: 1024 maxBytes: 1024 step: 1048576(bytes) warmupIters: 5 iters: 20 validation: 1
#
# Using devices
#   Rank  0 Pid   7000 on      node-a device  0 [0000:07:00.0] AMD Instinct MI300X
#   Rank  1 Pid   7000 on      node-a device  0 [0000:07:00.0] AMD Instinct MI300X
#   Rank  2 Pid   7000 on      node-a device  1 [0000:1b:00.0] AMD Instinct MI300X
#   Rank  3 Pid   7000 on      node-a device  1 [0000:1b:00.0] AMD Instinct MI300X
#
#                                                       out-of-place                       in-place
#       size         count      type   redop     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                       (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        1024           512      half     sum    44.00    0.02    0.03  5e-04    43.50    0.02    0.03  5e-04
"""

HEAD = """\
# nccl-tests version 2.19.6 nccl-headers=22807 nccl-library=22903
# Collective test starting: {program}
# nThread 1 nGpus 1 minBytes 1024 maxBytes 2048 step: 2(factor) warmup iters: 1 iters: 20 agg iters: {agg} validation: 1 graph: {graph} unalign: 0
#
# Using devices
{devices}#
"""
H200 = "".join(
    f"#  Rank {i:2} Group  0 Pid   {900 + i} on   gpu-host device {i:2} [0000:{i:02x}:00] NVIDIA H200\n"
    for i in range(4)
)
#: nccl-tests 2.19.6 with -I 1 and -S 1: statistics of single iterations, and the time of day.
PER_ITERATION = (
    HEAD.format(program="all_reduce_perf", agg=1, graph=0, devices=H200)
    + """\
#                                                           out-of-place (+ per-iteration)                                in-place (+ per-iteration)
#       size         count      type   redop    root     time   algbw   busbw  #wrong    i_min    i_max    i_p99    i_cv%     time   algbw   busbw  #wrong    i_min    i_max    i_p99    i_cv%           timestamp
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)     (us)     (us)      (%)     (us)  (GB/s)  (GB/s)             (us)     (us)     (us)      (%)   %Y-%m-%d %H:%M:%S
        1024           256     float     sum      -1    10.50    0.10    0.15       0    10.01    12.31    12.31     4.20    10.40    0.10    0.15       0    10.00    12.00    12.00     4.00  2026-07-10 12:00:00
"""
)
#: rccl-tests of 2026 with HIP events and -A 1: one more time, and three columns behind.
HIP_EVENTS = """\
# rccl-tests version 2.18.0-abc1234 rccl-headers=22807 rccl-library=22807
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 8 minBytes 1024 maxBytes 2048 step: 2(factor) warmup iters: 1 iters: 20 agg iters: 1 validation: 1 graph: 0 unalign: 0
#
# Using devices
#  Rank  0 Group  0 Pid     41 on       node device  0 [0000:05:00] AMD Instinct MI355X
#
#                                                              out-of-place                             in-place
#       size         count      type   redop    root     time   hipevt   algbw   busbw  #wrong     time   hipevt   algbw   busbw  #wrong     algo      proto      nchannels
#        (B)    (elements)                               (us)     (us)  (GB/s)  (GB/s)             (us)     (us)  (GB/s)  (GB/s)
        1024           512  bfloat16     sum      -1    14.50    13.80    0.07    0.12       0    14.40    13.70    0.07    0.12       0    RING        LL          16
"""
ONE_PLACE = (
    HEAD.format(program="all_reduce_perf", agg=1, graph=1, devices=H200)
    + """\
#                                                              {place}
#       size         count      type   redop    root     {time}   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)
        1024           256     float     sum      -1     9.50    0.11    0.16      0
"""
)


@pytest.mark.parametrize(
    ("text", "expected", "shared", "reasons"),
    [
        (
            Y2017, [(123.0, "clean"), (187.0, "suspect")],
            {"op": "all_reduce", "world_size": 4, "gpu": "V100", "dtype": "fp32", "timing": "eager",
             "kernel_family": "nccl"}, {IN_PLACE: 2},
        ),
        (
            Y2019_BROADCAST, [(11.11, "clean")],
            {"op": "other", "world_size": 4, "kernel_version": "broadcast", "timing": "eager"},
            {IN_PLACE: 1},
        ),
        (
            Y2019_GATHER, [(22.22, "clean")],
            {"op": "other", "kernel_version": "all_gather", "gpu": "MI300X"}, {IN_PLACE: 1},
        ),
        (
            STARRED, [(12.0, "clean"), (13.0, "suspect")],
            {"op": "all_reduce", "world_size": 4, "dtype": "fp16", "kernel_family": "rccl"},
            {IN_PLACE: 2},
        ),
        (
            RANKS_A_GPU, [(44.0, "clean")],
            {"world_size": 4, "gpu": "MI300X", "interconnect": "shared GPUs"}, {IN_PLACE: 1},
        ),
        (
            PER_ITERATION, [(10.5, "clean")],
            {"world_size": 4, "gpu": "H200", "arch": "sm_90", "interconnect": "nvlink",
             "kernel_version": "NCCL 2.29.3"},
            {IN_PLACE: 1, "extremes of single iterations, beside their mean": 6},
        ),
        (
            HIP_EVENTS, [(14.5, "clean")],
            {"world_size": 8, "gpu": "MI355X", "interconnect": "xgmi", "dtype": "bf16",
             "kernel_version": "RCCL 2.28.7"},
            {IN_PLACE: 1, "time by HIP events, beside the time": 2},
        ),
        (
            ONE_PLACE.format(place="in-place", time="   time"), [(9.5, "clean")],
            {"kernel_version": "NCCL 2.29.3, in place", "timing": "graph"}, {},
        ),
        (
            ONE_PLACE.format(place="out-of-place", time="   time"), [(9.5, "clean")],
            {"kernel_version": "NCCL 2.29.3", "timing": "graph"}, {},
        ),
    ],
    ids=["2017", "2019-broadcast", "2019-all-gather", "starred", "ranks-a-gpu", "per-iteration",
         "hip-events", "in-place-only", "out-of-place-only"],
)  # fmt: skip
def test_releases(tmp_path, text, expected, shared, reasons):
    rows, told = of(tmp_path, text)
    assert column(rows, "latency_us", "quality") == expected
    for row in rows:
        assert {name: row[name] for name in shared} == shared
    assert left(told) == reasons


def test_an_empty_redop_moves_no_column(tmp_path):
    with pytest.raises(InputError, match="op not said: --op: 1"):
        of(tmp_path, Y2021_ALLTOALL)
    (row,), _ = of(tmp_path, Y2021_ALLTOALL, op="other")
    assert (row["latency_us"], row["world_size"]) == (33.33, 4)


def test_cpu_times_are_no_latencies(tmp_path):
    with pytest.raises(InputError, match=r"CPU time of the launch \(-C 1\), no latency: 1"):
        of(tmp_path, ONE_PLACE.format(place="out-of-place", time="cputime"))


LOG = RCCL.format(graph=0)


def test_eight_gpus_in_one_process_of_which_two_are_listed(tmp_path):
    rows, told = of(tmp_path, LOG)
    assert column(rows, "bytes", "latency_us", "quality") == [
        (1024, 12.34, "clean"), (2048, 12.50, "suspect"), (4096, 13.01, "clean"),
    ]  # fmt: skip
    shared = ("op", "dtype", "world_size", "gpu", "kernel_family", "timing", "rank_reduction")
    assert set(column(rows, *shared)) == {
        ("all_reduce", "bf16", 8, "MI300X", "rccl", "eager", "mean")
    }
    assert left(told) == {IN_PLACE: 4, "of 0 bytes": 1}
    assert any(note.startswith("1 rows with wrong results (#wrong > 0)") for note in told.notes)


@pytest.mark.parametrize(
    "prefix",
    ["[1,0]<stdout>:", "[1,0]<stdout>: ", "[prterun-node-7@1,0]<stdout>: ", "0: ", " 12: ", "[0] ",
     "[rank0]: ", "node-a: ", "worker-0.cluster: ", "2026-05-01T12:00:00.123456789Z ",
     "2026-05-01T12:00:00.1Z stdout F ", "Fri May  1 12:00:00 2026<stdout>:"],
)  # fmt: skip
def test_what_a_launcher_writes_before_a_line(tmp_path, prefix):
    plain, _ = of(tmp_path, LOG)
    prefixed, told = of(tmp_path, "".join(prefix + line for line in LOG.splitlines(True)))
    assert prefixed == plain
    assert told.n_left == 5


def test_two_programs_side_by_side_keep_their_own_tables(tmp_path):
    gather = LOG.replace("all_reduce", "all_gather").replace("12.34", "99.99")
    pairs = zip(LOG.splitlines(), gather.splitlines(), strict=True)
    rows, _ = of(tmp_path, "".join(f"0: {a}\n1: {b}\n" for a, b in pairs))
    assert column(rows, "op", "latency_us")[:2] == [("all_reduce", 12.34), ("other", 99.99)]


def test_several_collectives_and_runs_in_one_log(tmp_path):
    gather = LOG.replace("all_reduce", "all_gather").replace("sum", "none")
    again = LOG.replace("12.34", "12.35")
    rows, told = of(tmp_path, LOG + gather + "# with NCCL_PROTO=LL\n" + again)
    assert column(rows, "op", "kernel_version")[::3] == [
        ("all_reduce", "rccl-tests: Version develop:8dfeaa1"),
        ("other", "rccl-tests: Version develop:8dfeaa1, all_gather"),
        ("all_reduce", "rccl-tests: Version develop:8dfeaa1, run 2: with NCCL_PROTO=LL"),
    ]
    assert "all_gather: op 'other', which no model uses" in told.notes
    assert told.n_rows + told.n_left == 3 * 4 * 2


def test_cycles_redops_and_settings_are_told_apart(tmp_path):
    line = next(line for line in LOG.splitlines(True) if "12.34" in line)
    text = LOG.replace("agg iters: 1", "agg iters: 4").replace("graph: 0", "graph: 1")
    text = text.replace(line, f"{line}{line.replace(' sum', ' max')}# Testing 2 cycle.\n{line}")
    rows, _ = of(tmp_path, text)
    version = "rccl-tests: Version develop:8dfeaa1"
    assert column(rows, "kernel_version", "timing")[:3] == [
        (f"{version}, aggregated 4", "graph"),
        (f"{version}, redop max, aggregated 4", "graph"),
        (f"{version}, aggregated 4, cycle 2", "graph"),
    ]


def devices(hosts, ranks, groups=1):
    return "".join(
        f"#  Rank {r:2} Group {r % groups:2} Pid {100 + r} on  host-{r * hosts // ranks} device {r % 8:2} "
        f"[0000:{r:02x}:00] AMD Instinct MI325X\n"
        for r in range(ranks)
    )


@pytest.mark.parametrize(
    ("hosts", "ranks", "groups", "world_size", "interconnect"),
    [
        (1, 8, 1, 8, "xgmi"),
        (2, 16, 1, 16, "network"),
        (2, 2, 1, 2, "network"),
        (1, 8, 2, 4, "xgmi"),  # NCCL_TESTS_SPLIT: two groups of four
        (1, 64, 1, 64, ""),  # a partitioned GPU: no full mesh of links
    ],
)
def test_ranks_hosts_and_groups(tmp_path, hosts, ranks, groups, world_size, interconnect):
    text = LOG.replace("nGpus 8", "nGpus 1")
    start = text.index("#  Rank  0")
    end = text.index("#\n", start)
    rows, _ = of(tmp_path, text[:start] + devices(hosts, ranks, groups) + text[end:])
    assert set(column(rows, "world_size", "interconnect", "gpu")) == {
        (world_size, interconnect, "MI325X")
    }


def without_devices(text):
    return "".join(line for line in text.splitlines(True) if "  Rank " not in line)


def test_ranks_where_no_device_is_listed(tmp_path):
    rows, told = of(tmp_path, without_devices(LOG), gpu="MI300X")
    assert {row["world_size"] for row in rows} == {8}
    assert "no rank is listed: ranks from threads x GPUs, one process assumed" in told.notes
    one = without_devices(LOG).replace("nGpus 8", "nGpus 1")
    with pytest.raises(InputError, match="ranks not said: --world-size: 3"):
        of(tmp_path, one)
    command = "+ mpirun -np 4 --bind-to numa ./build/all_reduce_perf -b 8 -g 1 -a 3\n"
    rows, _ = of(tmp_path, command + one, gpu="MI300X")
    assert set(column(rows, "world_size", "rank_reduction")) == {(4, "max")}


def test_the_library_is_that_of_the_gpus_where_no_version_says(tmp_path):
    silent = LOG.replace("rccl-tests: Version develop:8dfeaa1\n", "")
    assert of(tmp_path, silent)[0][0]["kernel_family"] == "rccl"
    nvidia = silent.replace("AMD Instinct MI300X", "NVIDIA H100 80GB HBM3")
    row = of(tmp_path, nvidia)[0][0]
    assert (row["gpu"], row["kernel_family"], row["interconnect"]) == ("H100", "nccl", "nvlink")
    pcie = of(tmp_path, nvidia.replace("80GB HBM3", "PCIe"))[0][0]
    assert (pcie["gpu"], pcie["interconnect"]) == ("H100 PCIE", "")
    nothing = without_devices(silent)
    assert of(tmp_path, nothing)[0][0]["kernel_family"] == ""
    assert of(tmp_path, nothing, "nccl-tests")[0][0]["kernel_family"] == "nccl"


def test_other_output_around_the_tables(tmp_path):
    noise = "node-a:41:52 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/IPC\n" * 3000
    version = "node-a:41:41 [0] NCCL INFO RCCL version 2.22.3+hip6.4 HEAD:1a2b3c\n"
    rows, _ = of(tmp_path, noise + version + LOG.replace("\n", "\r\n"))
    assert len(noise) > 64 * 1024  # the format is found further on
    assert {row["kernel_version"] for row in rows} == {"RCCL version 2.22.3+hip6.4"}
    assert {row["world_size"] for row in rows} == {8}


def test_lines_that_are_cut_are_counted(tmp_path):
    text = LOG.replace("12.34    0.08    0.08      0", "12.34    0.08nodeA:41 [0] NCCL INFO")
    text += "        8192          4096  bfloat16     sum      -1    14.00\n"
    rows, told = of(tmp_path, text)
    assert len(rows) == 2
    assert left(told)["a line whose cells are not those of the header"] == 2


def test_a_log_that_does_not_name_its_collective(tmp_path):
    text = LOG.replace("# Collective test starting: all_reduce_perf\n", "")
    assert {row["op"] for row in of(tmp_path, text)[0]} == {"all_reduce"}
    # The size of a reduce-scatter is that of all ranks' elements.
    scatter = text.replace(" 512 ", "  64 ").replace(" 1024  bf", "  128  bf")
    scatter = scatter.replace(" 2048  bf", "  256  bf")
    with pytest.raises(InputError, match="op not said: --op: 3"):
        of(tmp_path, scatter)
    assert {row["op"] for row in of(tmp_path, scatter, op="other")[0]} == {"other"}


def test_a_log_without_its_line_of_units_is_refused(tmp_path):
    text = "".join(line for line in LOG.splitlines(True) if "(us)" not in line)
    with pytest.raises(InputError, match=r"no line of units with \(B\) and \(us\) above it: 4"):
        of(tmp_path, text)


# Files that the tests write.

RECORD = {"numCycle": 0, "name": "AllReduce", "nodes": 1, "ranks": 4, "ranksPerNode": 4,
          "gpusPerRank": 2, "size": 131072, "type": "bfloat16", "redop": "sum", "inPlace": 0,
          "time": 18.95, "algBw": 6.91, "busBw": 12.09, "wrong": "0"}  # fmt: skip
#: As the Reporter of rccl-tests writes them: with MPI a cell more than names.
CSV = """\
numCycle,collective,ranks,rankspernode,gpusperrank,size,type,redop,inplace,time,algbw,busbw,#wrong
0,AllReduce,2,16,8,1,131072,bfloat16,sum,0,18.950000,6.910000,12.090000,0
0,AllReduce,2,16,8,1,131072,bfloat16,sum,1,18.250000,7.180000,12.560000,0
1,AllReduce,2,16,8,1,131072,bfloat16,sum,0,19.100000,6.910000,12.090000,3
"""
CSV_ALONE = """\
numCycle,collective,gpus,size,type,redop,inplace,time,algbw,busbw,#wrong
0,AllReduce,8,131072,bfloat16,sum,0,18.950000,6.910000,12.090000,N/A
0,AllReduce,8,131072,bfloat16,sum,1,18.250000,7.180000,12.560000,N/A
"""


@pytest.mark.parametrize("write", [
    lambda records: "\n".join(map(json.dumps, records)),
    lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
    json.dumps,
    lambda records: json.dumps(records, indent=2),
])  # fmt: skip
def test_json_records_in_any_layout(tmp_path, write):
    records = [
        RECORD,
        RECORD | {"inPlace": 1, "time": 18.25},
        RECORD | {"name": "AllGather", "time": 30.5},
        RECORD | {"inPlace": 1, "size": 262144, "time": 21.5},  # -O 0: nothing out of place
        RECORD | {"size": 524288, "time": 25.0, "wrong": "12"},
    ]
    rows, told = of(tmp_path, write(records), gpu="MI300X")
    assert column(rows, "latency_us", "op", "kernel_version", "quality") == [
        (18.95, "all_reduce", "", "clean"),
        (30.5, "other", "AllGather", "clean"),
        (21.5, "all_reduce", "in place", "clean"),
        (25.0, "all_reduce", "", "suspect"),
    ]
    assert {row["world_size"] for row in rows} == {8}  # 4 processes with 2 GPUs each
    assert left(told) == {IN_PLACE: 1}


def test_csv_of_rccl_tests(tmp_path):
    rows, told = of(tmp_path, CSV, gpu="MI300X")
    shared = ("latency_us", "world_size", "interconnect", "kernel_version", "quality")
    assert column(rows, *shared) == [
        (18.95, 16, "network", "", "clean"),
        (19.10, 16, "network", "cycle 2", "suspect"),
    ]
    assert left(told) == {IN_PLACE: 1}
    ((row,), told) = of(tmp_path, CSV_ALONE, gpu="MI300X")
    assert (row["latency_us"], row["world_size"], row["interconnect"]) == (18.95, 8, "xgmi")


def report(**changes):
    """Return the object of -J 1, as src/util.cu of nccl-tests 2.19.6 writes it."""
    devices = [{"rank": r, "group": 0, "pid": 50 + r, "hostname": "gpu-host", "device": r,
                "device_hex": f"0000:{r:02x}:00", "device_info": "AMD Instinct MI300X"}
               for r in range(8)]  # fmt: skip
    place = {"time": 20.5, "alg_bw": 6.39, "bus_bw": 11.19, "nwrong": 0.0}
    statistics = {"skipped_iterations": 0, "min_us": 19.0, "max_us": 24.0, "avg_us": 20.5,
                  "p50_us": 20.4, "p95_us": 23.0, "p99_us": 24.0, "stdev_us": 1.0, "cv_pct": 5.0,
                  "times_us": [19.0, 24.0]}  # fmt: skip
    result = {
        "size": 131072,
        "count": 65536,
        "type": "bfloat16",
        "redop": "sum",
        "root": "    -1",
        "out_of_place": place,
        "out_of_place_per_iter": statistics,
        "in_place": place | {"time": 20.0},
        "actual_iterations": 20,
        "experiment_name": "",
    }
    return {
        "version": 3, "start_time": "2026-07-10 12:00:00",
        "args": ["/home/me/nccl-tests/build/all_reduce_perf", "-a", "3"], "env": ["TOKEN=secret"],
        "nccl_version": 22807,
        "config": {"nthreads": 1, "ngpus": 1, "graph": 2, "aggregated_iterations": 1,
                   "blocking_collectives": "false", "devices": devices},
        "results": [result, result | {"size": 262144, "count": 131072, "out_of_place": None}],
    } | changes  # fmt: skip


def test_json_of_nccl_tests(tmp_path):
    rows, told = of(tmp_path, json.dumps(report()))
    shared = ("op", "world_size", "gpu", "interconnect", "timing", "rank_reduction")
    assert set(column(rows, *shared)) == {("all_reduce", 8, "MI300X", "xgmi", "graph", "max")}
    assert column(rows, "latency_us", "kernel_version") == [
        (20.5, "RCCL version 2.28.7"), (20.0, "RCCL version 2.28.7, in place"),
    ]  # fmt: skip
    assert left(told) == {
        IN_PLACE: 1, "single iterations and their statistics, beside their mean": 9,
    }  # fmt: skip
    one = report()["config"] | {"ngpus": 8, "devices": report()["config"]["devices"][:1]}
    rows, _ = of(tmp_path, json.dumps(report(config=one)))
    assert {row["world_size"] for row in rows} == {8}  # a process lists its first device alone


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(report())[:-40], "truncated or not JSON"),
        (json.dumps(report(results=None)), "no list of results in it"),
        (json.dumps(report(results=[1, {"size": 1}])), "a result that is no record: 1"),
        ('{"busBw": 1}\n', "a record without size and time: 1"),
        ('{"busBw": 1, "size": 1e400, "time": "x"}\n', "no time: 1"),
        ('{"busBw": 1, "size": 1, "time": ' + "9" * 5000 + "}", "a number has too many digits"),
        ("numCycle,collective,size\n0,AllReduce\n", "cells are not those of the header: 1"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        of(tmp_path, text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def test_the_command_counts_what_it_read_and_asks_for_the_rest(tmp_path, capsys):
    out = tmp_path / "rows.csv"
    assert run("import", CASES / "rccl-output.json", "--out", out) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1 rows of rccl-tests-json (JSON or CSV that rccl-tests (-Z)")
    assert said[1].endswith(
        f"2 results in {CASES}/rccl-output.json: 1 read, 1 left ({IN_PLACE}: 1)"
    )
    assert "not said by the file, options can: gpu (--gpu)" in said[-2]
    assert "timing (--timing)" in said[-2]
    assert run("import", CASES / "rccl-output.json", "--out", out, "--force", "--gpu", "mi355x",
               "--arch", "gfx942") == 2  # fmt: skip
    assert "--gpu MI355X --arch gfx942: MI355X is gfx950" in capsys.readouterr().err
    assert set(measurement.read(out).gpu) == {""}  # as it was


def test_account_names_each_reason(tmp_path):
    _, told = of(tmp_path, LOG)
    assert list(account(told)) == [f"{IN_PLACE}: 4", "of 0 bytes: 1"]
