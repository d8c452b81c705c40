"""Files that releases of rccl-tests (-Z json, -Z csv) and nccl-tests (-J) write, by hand."""

import json

import pytest
from importing import column, left, of
from test_importers_collective import IN_PLACE, RECORD, report

BESIDE = "single iterations and their statistics, beside their mean"
#: As the Reporter writes a list: an object a line, brackets on lines of their own.
LINE = (
    '{{"numCycle":{cycle}, "name":"{name}", {where}, "size":{size}, "type":"bfloat16", '
    '"redop":"sum", "inPlace":{place}, "time":{us:f}, "algBw":1.2, "busBw":2.1, "wrong":"{wrong}"}}'
)
MPI = '"nodes":1, "ranks":8, "ranksPerNode":8, "gpusPerRank":1'
TWO_HOSTS = '"nodes":2, "ranks":16, "ranksPerNode":8, "gpusPerRank":1'


def line(us, **changed):
    said = {"cycle": 0, "name": "AllReduce", "where": MPI, "size": 16384, "place": 0, "wrong": 0}
    return LINE.format(us=us, **{**said, **changed})


def listed(*lines):
    return "[\n" + ",\n".join(lines) + "\n]\n"


CSV_OF_2024 = "numCycle,collective,ranks,rankspernode,gpusperrank,size,type,redop,inplace,time,algbw,busbw,#wrong\n"
CSV_OF_2026 = CSV_OF_2024.replace(
    "ranks,rankspernode,gpusperrank", "nodes,ranks,ranksPerNode,gpusPerRank"
)
CSV_ALONE = CSV_OF_2024.replace("ranks,rankspernode,gpusperrank", "gpus")
(FIRST, SECOND) = report()["results"]


def statistics(processes):
    """Return a result with the times of single iterations, and those of each process, as 2.20 does."""
    times = {"skipped_iterations": 0, "min_us": 19.0, "max_us": 24.0, "times_us": [19.0, 24.0],
             "per_process_max_times_us": [[19.0, 23.5]] * processes}  # fmt: skip
    return {**FIRST, "out_of_place_per_iter": times,
            "tuning": {"implementation": "Coll", "algo": "RING", "proto": "LL", "#channels": 16}}  # fmt: skip


def nccl(results=(FIRST,), config=(), **changes):
    changed = {**report()["config"], **dict(config)}
    return json.dumps(report(results=list(results), config=changed, **changes))


ONE = ("all_reduce", "8", "bf16", "xgmi", "clean")
#: Text, rows as (what a row says, its us), reasons.
FILES = {
    "JSON of a run with MPI": (
        listed(line(18.95), line(18.25, place=1)), [(ONE, "18.95")], {IN_PLACE: 1},
    ),
    "JSON of a run without MPI": (
        listed(line(18.95, where='"gpus":8')), [(ONE, "18.95")], {},
    ),
    "JSON of a process with two GPUs": (
        listed(line(18.95, where='"nodes":1, "ranks":4, "ranksPerNode":4, "gpusPerRank":2')),
        [(ONE, "18.95")], {},
    ),
    "JSON of two hosts": (
        listed(line(48.5, where=TWO_HOSTS)),
        [(("all_reduce", "16", "bf16", "network", "clean"), "48.5")], {},
    ),
    "JSON of cycles": (
        listed(line(18.95), line(19.5, cycle=1)), [(ONE, "18.95"), (ONE, "19.5")], {},
    ),
    "JSON of results that are wrong, and not checked": (
        listed(line(18.95, wrong="3"), line(28.5, size=32768, wrong="N/A")),
        [((*ONE[:4], "suspect"), "18.95"), (ONE, "28.5")], {},
    ),
    "JSON of other collectives": (
        listed(line(18.95), line(9.5, name="AllGather"), line(8.5, name="ReduceScatter")),
        [(ONE, "18.95"), (("other", *ONE[1:]), "9.5"), (("other", *ONE[1:]), "8.5")], {},
    ),
    "JSON that is cut": (
        listed(line(18.95), line(28.5, size=32768))[:-40], [(ONE, "18.95")],
        {"a line that is no JSON object": 1},
    ),
    "JSON, its records a line each": (
        "\n".join(json.dumps(RECORD | {"time": us, "size": 1024 * us}) for us in (16, 32)),
        [(ONE, "16"), (ONE, "32")], {},
    ),
    "CSV of 2024, its nodes without a name": (
        CSV_OF_2024 + "0,AllReduce,1,8,8,1,16384,bfloat16,sum,0,18.950000,0.86,1.51,0\n"
        "0,AllReduce,1,8,8,1,16384,bfloat16,sum,1,18.250000,0.89,1.57,0\n",
        [(ONE, "18.95")], {IN_PLACE: 1},
    ),
    "CSV of 2026": (
        CSV_OF_2026 + "0,AllReduce,1,8,8,1,16384,bfloat16,sum,0,18.950000,0.86,1.51,0\n",
        [(ONE, "18.95")], {},
    ),
    "CSV without MPI": (
        CSV_ALONE + "0,AllReduce,8,16384,bfloat16,sum,0,18.950000,0.86,1.51,N/A\n",
        [(ONE, "18.95")], {},
    ),
    "CSV with a column of the user's": (
        CSV_OF_2026.replace(",#wrong", ",busbwfactor,#wrong")
        + "0,AllReduce,1,8,8,1,16384,bfloat16,sum,0,18.950000,0.86,1.51,1.75,2\n",
        [((*ONE[:4], "suspect"), "18.95")], {},
    ),
    "CSV without a time": (
        CSV_OF_2026 + "0,AllReduce,1,8,8,1,16384,bfloat16,sum,0,0.000000,inf,inf,0\n"
        "0,AllReduce,1,8,8,1,32768,bfloat16,sum,0,28.500000,1.1,2.0,0\n",
        [(ONE, "28.5")], {"no time": 1},
    ),
    "report of one place": (nccl([SECOND]), [(ONE, "20")], {}),
    "report of both": (nccl([FIRST | {"out_of_place_per_iter": None}]), [(ONE, "20.5")], {IN_PLACE: 1}),
    "report of single iterations and processes": (
        nccl([statistics(8)], version=4), [(ONE, "20.5")], {IN_PLACE: 1, BESIDE: 4 + 8 * 2},
    ),
    "report with its devices beside the options": (
        nccl([SECOND], {"devices": None}, devices=report()["config"]["devices"]),
        [(ONE, "20")], {},
    ),
    "report of results that are wrong": (
        nccl([SECOND | {"in_place": {"time": 20.0, "alg_bw": 6.5, "bus_bw": 11.4, "nwrong": 4.0}}]),
        [((*ONE[:4], "suspect"), "20")], {},
    ),
    "report of another program": (
        nccl([SECOND], args=["./build/all_gather_perf"]), [(("other", *ONE[1:]), "20")], {},
    ),
    "report of the time of the launch": (
        nccl([SECOND, SECOND | {"in_place": {"cputime": 3.0, "nwrong": 0.0}}]),
        [(ONE, "20")], {"CPU time of the launch (-C 1), no latency": 1},
    ),
    "report of a graph": (nccl([SECOND], {"graph": 20}), [(ONE, "20")], {}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "read", "reasons"), FILES.values(), ids=FILES)
def test_files_of_releases(tmp_path, text, read, reasons):
    rows, account = of(tmp_path, text, gpu="MI300X")
    assert account.kind == "rccl-tests-json"
    shown = column(rows, "op", "world_size", "dtype", "interconnect", "quality", "latency_us")
    assert [(cells[:5], cells[5]) for cells in shown] == read
    assert left(account) == reasons
