"""Logs of rccl-tests and nccl-tests beside those of test_importers_collective, by hand."""

import pytest
from importing import column, left, of

IN_PLACE = "in place, beside the out-of-place time"
MI300X = "".join(
    f"#  Rank {n:2} Group  0 Pid {7000 + n:6} on     node-a device {n:2} [0000:{n:02x}:00] AMD Instinct MI300X\n"
    for n in range(8)
)
HEAD = """\
# Collective test starting: {program}_perf
# nThread 1 nGpus 1 minBytes 1024 maxBytes 8589934592 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1 validation: {checked} graph: 0
#
# Using devices
{devices}#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
"""
FOOT = "# Errors with asterisks indicate errors that have exceeded the maximum threshold.\n# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 0.15\n#\n"


def log(*lines, program="all_reduce", checked=1, devices=MI300X):
    return HEAD.format(program=program, checked=checked, devices=devices) + "".join(lines) + FOOT


def line(size, us, dtype="bfloat16", redop="sum", root="-1", wrong="0"):
    tail = f"{us:>8}    0.08    0.15 {wrong:>6}"
    return f"{size:>12} {size // 2:>13} {dtype:>9} {redop:>7} {root:>7} {tail} {tail}\n"


ERRORS = """\
# nThread 1 nGpus 8 minBytes 1024 maxBytes 1024 step: 2(factor) warmup iters: 5 iters: 20 validation: 0
#
# Using devices
#   Rank  0 Pid   7000 on     node-a device  0 [0x07] Tesla V100-SXM2-32GB
#
#                                                     out-of-place                       in-place
#       size         count    type   redop     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                     (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        1024           256   float     sum    25.10    0.04    0.07    N/A    24.90    0.04    0.07    N/A
"""
HOSTS = MI300X.replace("Rank  0", "Rank  8").replace("node-a", "node-b")
ONE = ("all_reduce", "8", "bf16")
OTHER = ("other", "8", "bf16")
#: Text, rows as (what a row says, its bytes, us, quality), reasons.
LOGS = {
    "checked": (log(line(1024, "12.34")), [(ONE, "1024", "12.34", "clean")], {IN_PLACE: 1}),
    "not checked": (
        log(line(1024, "12.34", wrong="N/A"), checked=0), [(ONE, "1024", "12.34", "clean")],
        {IN_PLACE: 1},
    ),
    "of 2020, not checked": (
        ERRORS, [(("all_reduce", "8", "fp32"), "1024", "25.1", "clean")], {IN_PLACE: 1},
    ),
    "times of all lengths": (
        log(line(1024, "9.87"), line(1 << 20, "123.4"), line(1 << 28, "12345"), line(1 << 33, "1.2e+06")),
        [(ONE, "1024", "9.87", "clean"), (ONE, "1048576", "123.4", "clean"),
         (ONE, "268435456", "12345", "clean"), (ONE, "8589934592", "1200000", "clean")],
        {IN_PLACE: 4},
    ),
    "all types": (
        log(*(line(1024, "12.34", dtype=t) for t in ("half", "float", "f8e4m3", "fp8_e5m2"))),
        [(("all_reduce", "8", d), "1024", "12.34", "clean")
         for d in ("fp16", "fp32", "f8e4m3", "fp8_e5m2")],
        {IN_PLACE: 4},
    ),
    "a reduction to a root": (
        log(line(1024, "12.34", root="0"), program="reduce"), [(OTHER, "1024", "12.34", "clean")],
        {IN_PLACE: 1},
    ),
    "sendrecv": (
        log(line(1024, "12.34"), program="sendrecv"), [(OTHER, "1024", "12.34", "clean")],
        {IN_PLACE: 1},
    ),
    "a type of no use to us among others": (
        log(line(1024, "12.34"), line(1024, "12.5", dtype="int8")),
        [(ONE, "1024", "12.34", "clean"), (("all_reduce", "8", "int8"), "1024", "12.5", "clean")],
        {IN_PLACE: 2},
    ),
    "two ranks that one host each has": (
        log(line(1024, "12.34"), devices=MI300X.splitlines(True)[0] + HOSTS.splitlines(True)[1]),
        [(("all_reduce", "2", "bf16"), "1024", "12.34", "clean")], {IN_PLACE: 1},
    ),
    "a run that stopped within a line": (
        log(line(1024, "12.34"))[: -len(FOOT)] + line(2048, "12.5")[:60] + "\n",
        [(ONE, "1024", "12.34", "clean")],
        {IN_PLACE: 1, "a line whose cells are not those of the header": 1},
    ),
    "lines of the library between": (
        log(line(1024, "12.34"), "node-a:7000:7040 [0] NCCL INFO Channel 00 : 0 -> 1 via P2P/IPC\n",
            line(2048, "12.5")),
        [(ONE, "1024", "12.34", "clean"), (ONE, "2048", "12.5", "clean")], {IN_PLACE: 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "read", "reasons"), LOGS.values(), ids=LOGS)
def test_logs(tmp_path, text, read, reasons):
    rows, account = of(tmp_path, text)
    assert account.kind == "rccl-tests"
    shown = column(rows, "op", "world_size", "dtype", "bytes", "latency_us", "quality")
    assert [(cells[:3], *cells[3:]) for cells in shown] == read
    assert left(account) == reasons
