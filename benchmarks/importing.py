"""How importing grows: processor time a MB and the most memory, of files of two sizes.

    python benchmarks/importing.py --megabytes 2 20

Prints a line a kind of file; the last column is the time a MB of the larger file over that of the
smaller, after the start of the command is taken off: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

KERNEL = "void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16, __hip_bfloat16, 8>(x)"
RCCL = """# nThread 1 nGpus 8 minBytes 1024 maxBytes 1024 step: 2(factor) warmup iters: 5 iters: 20
# Collective test starting: all_reduce_perf
#       size         count      type   redop    root     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)
"""


def rccl(rng: random.Random) -> Iterator[str]:
    while True:
        yield RCCL
        for power in range(10, 31):
            time_us = rng.uniform(9, 9999)
            yield f"{2**power:>12} {2**power // 2:>12} half sum -1 {time_us:>9.2f} 1.0 1.0 0\n"


def csv(rng: random.Random) -> Iterator[str]:
    yield "tokens,hidden,tp,dtype,fused_1stage_us,fused_2stage_us\n"
    while True:
        tokens = 2 ** rng.randrange(14)
        yield f"{tokens},7168,8,bf16,{rng.uniform(5, 99):.4f},{rng.uniform(5, 99):.4f}\n"


def log(rng: random.Random) -> Iterator[str]:
    while True:
        for _ in range(100):
            second, rate = rng.randrange(60), rng.uniform(1, 999)
            yield f"INFO 11-29 15:00:{second:02d} [x.py:1] Avg throughput: {rate:.1f} tokens/s\n"
        yield "\nTP8, hidden 7168, bf16\n\n| tokens | fused us |\n|--|--|\n"
        yield f"| 8 | {rng.uniform(5, 99):.4f} |\n\n"


def trace_csv(rng: random.Random) -> Iterator[str]:
    yield "Kind,Agent_Id,Queue_Id,Kernel_Name,Start_Timestamp,End_Timestamp\n"
    at = 1718123456789012345
    while True:
        at += 20000
        name = KERNEL if rng.random() < 0.05 else "Cijk_Ailk_Bljk_HHS_BH_MT128x128x32"
        yield f'KERNEL_DISPATCH,Agent 2,1,"{name}",{at},{at + 12000}\n'


def torch_trace(rng: random.Random) -> Iterator[str]:
    yield '{"distributedInfo": {"rank": 0, "world_size": 8}, "traceEvents": [\n'
    at = 1e9
    while True:
        at += 13.25
        event = {"ph": "X", "cat": "kernel", "name": KERNEL if rng.random() < 0.05 else "gemm",
                 "pid": 0, "tid": 7, "ts": at, "dur": 12.5}  # fmt: skip
        yield json.dumps(event) + ",\n"


def op_tests(rng: random.Random) -> Iterator[str]:
    while True:
        yield "[aiter] fused allreduce rmsnorm summary (markdown):\n"
        yield "| tp_size | shape | dtype | withGraph | fused_min_us | fused_max_us | fused_err |\n"
        yield "|--:|:--|:--|--:|--:|--:|--:|\n"
        for power in range(14):
            us = rng.uniform(5, 99)
            times = f"{us:.4f} | {us + 0.5:.4f}"
            yield f"| 8 | ({2**power}, 7168) | torch.bfloat16 | 1 | {times} | 0 |\n"


def tuner(rng: random.Random) -> Iterator[str]:
    yield "collective,size_bytes,algorithm,protocol,channels,nodes,ranks,latency_us\n"
    while True:
        protocol = rng.choice(("ll", "ll128", "simple"))
        size = 2 ** rng.randrange(10, 30)
        yield f"allreduce,{size},ring,{protocol},4,1,8,{rng.uniform(9, 9999):.4f}\n"


def records(rng: random.Random) -> Iterator[str]:
    while True:
        record = {"numCycle": 0, "name": "AllReduce", "nodes": 1, "ranks": 8, "ranksPerNode": 8,
                  "gpusPerRank": 1, "size": 2 ** rng.randrange(10, 30), "type": "bfloat16",
                  "redop": "sum", "inPlace": 0, "time": round(rng.uniform(9, 9999), 4),
                  "algBw": 1.0, "busBw": 1.0, "wrong": "0"}  # fmt: skip
        yield json.dumps(record) + "\n"


def transfers(rng: random.Random) -> Iterator[str]:
    yield "TransferBench v1.66.01\n"
    while True:
        yield "Test 1:\n"
        yield " Executor: GPU 00 | 48.1 GB/s | 1.394 ms | 67108864 bytes | 48.5 GB/s (sum)\n"
        for to in range(1, 8):
            rate = f"{rng.uniform(40, 50):.3f} GB/s |      1.382 ms |     67108864 bytes"
            yield f"     Transfer {to - 1:02d}  |   {rate} | G0 -> GPU0:4 -> G{to}\n"


KINDS: dict[str, Callable[[random.Random], Iterator[str]]] = {
    "rccl-tests": rccl, "CSV": csv, "log with tables": log, "rocprofv3 CSV": trace_csv,
    "torch trace": torch_trace, "AITER op_tests": op_tests, "NCCL's tuner": tuner,
    "rccl-tests JSON": records, "TransferBench": transfers,
}  # fmt: skip


def write(path: Path, kind: str, megabytes: float) -> None:
    """Write a file of so many MB; a trace is cut off there."""
    written = 0
    with path.open("w") as stream:
        for piece in KINDS[kind](random.Random(1)):
            stream.write(piece)
            written += len(piece)
            if written >= megabytes * 1e6:
                return


def cost(path: Path, out: Path) -> tuple[float, float]:
    """Return (processor seconds, most MB of memory) of importing a file."""
    command = [sys.executable, "-m", "costmodel", "import", str(path), "--gpu", "MI300X", "--force",
               "--out", str(out)]  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(running.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, path
    per_mb = 2**20 if sys.platform == "darwin" else 2**10
    return used.ru_utime + used.ru_stime, used.ru_maxrss / per_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, nargs=2, default=(2.0, 20.0))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    asked = parser.parse_args()
    small, large = asked.megabytes
    print(f"{'kind':16} {'s a MB':>8} {'MB of memory':>13} {'growth':>7}")
    with tempfile.TemporaryDirectory() as directory:
        path, out = Path(directory) / "file", Path(directory) / "out.csv"
        for kind in asked.kinds:
            costs = []
            for megabytes in (0.02, small, large):
                write(path, kind, megabytes)
                costs.append(cost(path, out))
            start = costs[0][0]
            each = [(s - start) / mb for (s, _), mb in zip(costs[1:], (small, large), strict=True)]
            print(f"{kind:16} {each[1]:8.2f} {costs[2][1]:13.0f} {each[1] / each[0]:7.2f}")


if __name__ == "__main__":
    main()
