"""Outputs of harnesses in another dress: pasted as markdown or HTML, without signs, as a list."""

import json

import pytest
import test_importers_collective as collective
from importing import briefly, left, of

IN_PLACE = "in place, beside the out-of-place time"
COLLECTIVE = """\
| size (B) | count | type | redop | root | time (us) | algbw (GB/s) | busbw (GB/s) | #wrong | time (us) | algbw | busbw | #wrong |
|--|--|--|--|--|--|--|--|--|--|--|--|--|
| 1024 | 512 | bfloat16 | sum | -1 | 12.5 | 0.08 | 0.14 | 0 | 12.1 | 0.08 | 0.15 | 0 |
| 2048 | 1024 | bfloat16 | sum | -1 | 13.5 | 0.15 | 0.27 | 3 | 13.1 | 0.16 | 0.27 | 0 |
"""
UNSIGNED = """\
       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        1024           512  bfloat16     sum      -1    12.50    0.08    0.14      0    12.10    0.08    0.15      0
"""
ROCM = [("world_size", "8"), ("mode", "graph"), ("dtype", "bf16"), ("implementation", "aiter"),
        ("size_bytes", "1024"), ("latency_ms", "0.0061"), ("available", "True")]  # fmt: skip
RUN = {"world_size": 8, "dtype": "torch.bfloat16", "hidden_size": 8192,
       "results": {"32": {"timings": {"ca_1stage": 0.0101}}}}  # fmt: skip


def html(cells):
    lines = ["".join(f"<td>{cell[at]}</td>" for cell in cells) for at in (0, 1)]
    return "<table>\n" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>\n"


def markdown(cells):
    names, values = (" | ".join(cell[at] for cell in cells) for at in (0, 1))
    return f"| {names} |\n{'|--' * len(cells)}|\n| {values} |\n"


TRT = [("world_size", "8"), ("dtype", "bfloat16"), ("size", "8192"), ("num_tokens", "1"),
       ("hidden_size", "4096"), ("strategy", "AllReduceStrategy.ONESHOT"),
       ("fusion", "AllReduceFusionOp.RESIDUAL_RMS_NORM"), ("time (us)", "7.1")]  # fmt: skip
TUNER = [("collective", "allreduce"), ("size_bytes", "1024"), ("algorithm", "tree"),
         ("protocol", "ll"), ("ranks", "8"), ("latency_us", "10.1")]  # fmt: skip
LINE = "num_tokens: 1, hidden_size: 4096, strategy: {}, fusion: RESIDUAL_RMS_NORM, time (us): {}\n"
ROCM_ROW = "plain - 8 - - bf16 1024 6.1 graph clean"
PASTED = {
    "a table of rccl-tests": (
        "rccl-tests all_reduce on 8xMI300X, graph\n\n" + COLLECTIVE, {}, "table",
        ["plain - 8 - - bf16 1024 12.5 graph clean"],
        {IN_PLACE: 2, "wrong result: #wrong is above 0": 1},
    ),
    "a table of nccl-tests in words": (
        "### nccl-tests AllReduce 8xH200, bf16\n| Size | Out-of-place time (us) | In-place time (us) |\n"
        "|--|--|--|\n| 1 KiB | 12.5 | 12.1 |\n", {}, "table",
        ["plain - 8 - - bf16 1024 12.5 - clean"], {IN_PLACE: 1},
    ),
    "without the sign before its header": (
        UNSIGNED, {"op": "all_reduce", "world_size": "8"}, "rccl-tests",
        ["plain - 8 - - bf16 1024 12.5 - clean"], {IN_PLACE: 1},
    ),
    "SGLang's CSV as HTML": (html(ROCM), {}, "sglang", [ROCM_ROW], {}),
    "SGLang's CSV as markdown": (markdown(ROCM), {}, "sglang", [ROCM_ROW], {}),
    "TensorRT-LLM's CSV as markdown": (
        markdown(TRT), {"gpu": "H200", "timing": "graph"}, "trtllm",
        ["fused 1stage 8 1 4096 bf16 8192 7.1 graph clean"], {},
    ),
    "NCCL's tuner as markdown": (
        markdown(TUNER), {"gpu": "MI300X"}, "nccl-tuner", ["plain - 8 - - - 1024 10.1 - clean"], {},
    ),
    "NCCL's tuner with semicolons": (
        ";".join(dict(TUNER)) + "\n" + ";".join(dict(TUNER).values()).replace(".", ",") + "\n",
        {"gpu": "MI300X"}, "nccl-tuner", ["plain - 8 - - - 1024 10.1 - clean"], {},
    ),
    "TensorRT-LLM's lines with names of an enumeration": (
        "world_size=8 dtype=bfloat16\n" + LINE.format("ONESHOT", 7.1)
        + LINE.format("AllReduceStrategy.TWOSHOT", 8.1), {"gpu": "H200"}, "trtllm",
        ["fused 1stage 8 1 4096 bf16 8192 7.1 - clean", "fused 2stage 8 1 4096 bf16 8192 8.1 - clean"],
        {},
    ),
    "runs of vLLM in a list": (
        json.dumps([RUN, {**RUN, "world_size": 4}]), {}, "vllm",
        ["plain 1stage 8 32 8192 bf16 524288 10.1 graph clean",
         "plain 1stage 4 32 8192 bf16 524288 10.1 graph clean"], {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said", "kind", "rows", "reasons"), PASTED.values(), ids=PASTED
)  # fmt: skip
def test_what_was_pasted_reads_as_what_was_written(tmp_path, text, said, kind, rows, reasons):
    found, told = of(tmp_path, text, **said)
    assert (told.kind, briefly(found), left(told)) == (kind, rows, reasons)


@pytest.mark.parametrize(
    ("who", "what", "row"),
    [
        ("backend", "aiter custom_ar", "fused - 8 8 4096 bf16 65536 9.1 - clean"),
        ("kernel", "aiter custom_ar", None),  # two ops
        ("kernel", "aiter", "fused - 8 8 4096 bf16 65536 9.1 - clean"),
    ],
)
def test_two_labels_of_a_line_that_say_two_ops_leave_it(tmp_path, who, what, row):
    text = f"| op | {who} | tp | tokens | hidden | us |\n|--|--|--|--|--|--|\n"
    text += f"| fused AR+RMSNorm | {what} | 8 | 8 | 4096 | 9.1 |\n| allreduce | - | 8 | 8 | 4096 | 7 |\n"
    rows, told = of(tmp_path, text, dtype="bf16")
    plain = "plain - 8 8 4096 bf16 65536 7 - clean"
    assert briefly(rows) == [row, plain] if row else [plain]
    both = "'fused AR+RMSNorm' and 'aiter custom_ar' say two ops: --op"
    assert left(told) == ({} if row else {both: 1})


@pytest.mark.parametrize(
    "data",
    [
        {"tokens": [8, 16], "fused_1stage_us": [9.1, 9.2]},
        {"tp": 8, "tokens": [8, 16], "fused_1stage_us": [9.1, 9.2]},
        {"columns": ["tokens", "fused_1stage_us"], "index": [0, 1], "data": [[8, 9.1], [16, 9.2]]},
        {"tokens": {"0": 8, "1": 16}, "fused_1stage_us": {"0": 9.1, "1": 9.2}},
        {"0": {"tokens": 8, "fused_1stage_us": 9.1}, "1": {"tokens": 16, "fused_1stage_us": 9.2}},
        {"schema": {"fields": []}, "data": [{"tokens": 8, "fused_1stage_us": 9.1},
                                            {"tokens": 16, "fused_1stage_us": 9.2}]},
    ],
    ids=["lists", "beside a constant", "split", "columns", "index", "table"],
)  # fmt: skip
def test_frames_as_json(tmp_path, data):
    rows, told = of(tmp_path, json.dumps(data), world_size="8", hidden_dim="7168")
    assert [(r["tokens"], r["latency_us"]) for r in rows] == [("8", "9.1"), ("16", "9.2")]
    assert told.n_left == 0


RECORDS = "".join(
    json.dumps(collective.RECORD | {"size": size, "time": time}) + "\n"
    for size, time in ((1024, 9.5), (2048, 10.5))
)
OF_RECORDS = ["plain - 8 - - bf16 1024 9.5 - clean", "plain - 8 - - bf16 2048 10.5 - clean"]
REPORT = json.dumps(collective.report(), indent=1)
OF_REPORT = [
    "plain - 8 - - bf16 131072 20.5 graph clean",
    "plain - 8 - - bf16 262144 20 graph clean",
]
BESIDE = "single iterations and their statistics, beside their mean"
ALONE = collective.CSV_ALONE
OF_ALONE = ["plain - 8 - - bf16 131072 18.95 - clean"]
BARS = [f"| {line.replace(',', ' | ')} |\n" for line in ALONE.splitlines()]
FILES = {
    "records behind mpirun": (
        "".join(f"[1,0]<stdout>:{line}\n" for line in RECORDS.splitlines()), OF_RECORDS, {},
    ),
    "records among lines of a log": (f"NCCL version 2.22.3\n{RECORDS}NCCL WARN x\n", OF_RECORDS, {}),
    "records, the last one cut": (
        RECORDS + RECORDS[:60], OF_RECORDS, {"a line that is no JSON object": 1},
    ),
    "an object in a comment": (
        "On MI300X:\n" + "".join(f"> {line}\n" for line in ("```json", *REPORT.splitlines(), "```")),
        OF_REPORT, {BESIDE: 9, IN_PLACE: 1},
    ),
    "objects of two runs": (
        REPORT + "\n" + REPORT.replace("20.5", "21.5"),
        [*OF_REPORT, OF_REPORT[0].replace("20.5", "21.5")],
        {BESIDE: 18, IN_PLACE: 2, "the same row as one before, to the last digit": 1},
    ),
    "CSV behind a log": (f"# nThread 1 nGpus 8\n{ALONE}", OF_ALONE, {IN_PLACE: 1}),
    "CSV as markdown": (f"{BARS[0]}{'|--' * 11}|\n{''.join(BARS[1:])}", OF_ALONE, {IN_PLACE: 1}),
    "CSV with semicolons": (
        ALONE.replace(",", ";").replace(".", ","), OF_ALONE, {IN_PLACE: 1},
    ),
    "CSV of two runs": (
        ALONE + ALONE.replace("131072", "262144"),
        [*OF_ALONE, OF_ALONE[0].replace("131072", "262144")], {IN_PLACE: 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "rows", "reasons"), FILES.values(), ids=FILES)
def test_files_of_the_collective_tests_as_people_have_them(tmp_path, text, rows, reasons):
    found, told = of(tmp_path, text, gpu="MI300X")
    assert told.kind == "rccl-tests-json"
    assert briefly(found) == rows
    assert left(told) == reasons


def test_a_column_names_the_collective(tmp_path):
    lines = "AllReduce,8,1024,bf16,9.5\nAllGather,8,1024,bf16,8.5\n"
    rows, told = of(tmp_path, f"collective,ranks,bytes,dtype,time_us\n{lines}")
    assert briefly(rows) == ["plain - 8 - - bf16 1024 9.5 - clean"]
    assert left(told) == {"no op of schema 1: AllGather": 1}
