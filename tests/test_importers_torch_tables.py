"""Tables of torch's profiler: ``key_averages().table()`` as printed, cut, logged, and with more columns."""

from __future__ import annotations

import pytest
from importing import briefly, of

from costmodel.errors import InputError

ONE = "void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16, __hip_bfloat16, 8>(aiter::RankData*)"
SCATTER = "void aiter::reduce_scatter_cross_device_store<__hip_bfloat16, 8>(aiter::RankData*, int)"
LOCAL = "void aiter::local_device_load_rmsnorm_512n<__hip_bfloat16, 1>(aiter::RankSignals, int)"
PLAIN = "void aiter::cross_device_reduce_1stage<__hip_bfloat16, 8, false>(aiter::RankData*)"
GEMM = "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV"


def table(*lines, width=100, device="CUDA", more=()):
    """A table as torch's profiler prints it, from (name, time, calls); ``more`` (column, cell)."""
    head = ["Name", "Self CPU %", "Self CPU", "CPU total %", "CPU total", "CPU time avg"]
    if device:
        head += [f"Self {device}", f"Self {device} %", f"{device} total", f"{device} time avg"]
    head += [column for column, _ in more if "Mem" in column] + ["# of Calls"]
    head += [column for column, _ in more if "Mem" not in column]
    rule = "  ".join("-" * w for w in (width, *[max(12, len(c)) for c in head[1:]])) + "  "
    extra = dict(more)
    text = [rule, None, rule]
    for name, time, calls in lines:
        shown = name if len(name) <= width else name[: width - 3] + "..."
        told = {"Name": shown, "# of Calls": str(calls), **extra}
        told |= {c: time for c in head if device and c.startswith((f"Self {device}", device))}
        told |= {c: "9.00%" for c in head if c.endswith("%")} | extra
        text.append([told.get(c, "0.000us") for c in head])
    text[1] = head
    foot = [rule, "Self CPU time total: 1.234ms"]
    foot += [f"Self {device} time total: 3.1ms", ""] if device else [""]
    return "\n".join(
        row
        if isinstance(row, str)
        else f"{row[0]:>{width}}  "
        + "  ".join(f"{c:>{max(12, len(h))}}" for c, h in zip(row[1:], head[1:], strict=True))
        + "  "
        for row in [*text, *foot]
    )


FUSED_12 = "fused 1stage 8 - - bf16 - 12.5 profiler serving_trace"
PLAIN_9 = "plain 1stage 8 - - bf16 - 9 profiler serving_trace"
TWELVE = (ONE, "12.500us", 40)
NINE = (PLAIN, "9.000us", 2)
#: Text, rows, and how many lines are left.
TABLES = {
    "wide": (table(TWELVE, (GEMM, "1.000ms", 3), width=120), [FUSED_12], 1),
    "cut, both phases": (
        table((SCATTER, "104.1us", 40), (LOCAL, "4.6us", 40), width=55),
        ["reduce_scatter_phase 2stage - - - - - 104.1 profiler serving_trace",
         "local_rmsnorm_phase 2stage - - - - - 4.6 profiler serving_trace"],
        0,
    ),
    "milliseconds": (
        table((PLAIN, "1.250ms", 2)),
        ["plain 1stage 8 - - bf16 - 1250 profiler serving_trace"], 0,
    ),
    "seconds": (
        table((PLAIN, "0.002s", 2)),
        ["plain 1stage 8 - - bf16 - 2000 profiler serving_trace"], 0,
    ),
    "in a log": ("INFO 10-11 start\n" * 3000 + table(NINE), [PLAIN_9], 0),
    "two tables": (table(NINE) + table(TWELVE, width=120), [PLAIN_9, FUSED_12], 0),
    "XPU's words": (table(NINE, device="XPU"), [PLAIN_9], 0),
    "memory": (
        table(NINE, more=[("CPU Mem", "0 b"), ("Self CPU Mem", "-8 b"), ("CUDA Mem", "1.00 Kb"),
                          ("Self CUDA Mem", "1.00 Kb")]),
        [PLAIN_9], 0,
    ),
    "flops": (table(NINE, more=[("Total GFLOPs", "--")]), [PLAIN_9], 0),
    "input shapes": (
        table(NINE, more=[("Input Shapes", "[[64, 7168], [64, 7168]]")]), [PLAIN_9], 0,
    ),
    "source location": (
        table(NINE, more=[("Source Location", "model.py(12): forward")]), [PLAIN_9], 0,
    ),
    "each line of the log prefixed": (
        "\n".join(f"(Worker_TP0 pid=77) {line}" for line in table(NINE).splitlines()),
        [PLAIN_9], 0,
    ),
    "fenced": (f"Profile of a decode step\n\n```\n{table(NINE)}\n```\n", [PLAIN_9], 0),
    "lines of Windows": (table(NINE).replace("\n", "\r\n"), [PLAIN_9], 0),
    "indented, as in a list": (
        "\n".join(f"    {line}" for line in table(NINE).splitlines()), [PLAIN_9], 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "left"), TABLES.values(), ids=TABLES)
def test_tables_of_torch(tmp_path, text, expected, left):
    rows, told = of(tmp_path, text)
    assert told.kind == "torch-table"
    assert briefly(rows) == expected
    assert told.n_left == left


def test_a_name_that_is_cut_before_it_tells_is_left(tmp_path):
    with pytest.raises(InputError, match="its name is cut short"):
        of(tmp_path, table(TWELVE, width=15))


def test_a_table_of_the_cpu_alone_has_no_time_of_a_kernel(tmp_path):
    with pytest.raises(InputError, match="no call, or no time of one"):
        of(tmp_path, table(NINE, device=""))


def test_a_table_that_torch_itself_prints(tmp_path):
    torch = pytest.importorskip("torch")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(3):
            with torch.profiler.record_function(ONE):
                torch.ones(10).sum()
    text = seen.key_averages().table(max_name_column_width=200)
    # Without a GPU there is no device column: the time is not the kernel's, and no row is made.
    with pytest.raises(InputError, match="no call, or no time of one"):
        of(tmp_path, text)
    rows, _ = of(tmp_path, text.replace("CPU time avg", "CUDA time avg"))
    assert [row["algorithm"] for row in rows] == ["1stage"]
    assert "3 calls" in rows[0]["kernel_version"]
