"""Every output reads alike behind what a launcher, a collector of logs or a quotation adds."""

import pytest
from importing import column, left, of
from test_importers_collective import CASES
from test_importers_tables_fuzz import SAMPLES

from costmodel.errors import InputError

#: What is written before each line of a program.
PREFIXES = {
    "mpirun": "[1,0]<stdout>:", "prterun": "[prterun-h-123@1,0]<stdout>: ", "srun": "0: ",
    "torchrun": "[rank0]: ", "pdsh": "node-1: ", "a host in brackets": "[node-1] ",
    "Kubernetes": "[pod/worker-0/main] ",
    "a container's log": "2024-05-06T10:11:12.123456789Z stdout F ", "a quotation": "> ",
    "colours": "\x1b[0m", "two of them": "2024-05-06T10:11:12.1Z stdout F [1,0]<stdout>:",
}  # fmt: skip
#: What a logger writes there.
LOGGERS = {
    "vLLM": "INFO 08-20 10:00:00 [benchmark_device_communicators.py:400] ",
    "vLLM's worker": "\x1b[1;36m(VllmWorker TP0 pid=3302)\x1b[0;0m ",
    "SGLang": "[2025-08-20 10:00:00 TP0] ",
    "logging": "2025-08-20 10:00:00,123 - INFO - ",
    "logging, with a name": "2025-08-20 10:00:00,123 INFO benchmark: ",
    "logging, its default": "INFO:root:",
    "a CI's clock": "[2025-08-20T10:00:00Z] ",
    "a clock": "[10:00:00] ",
}
#: JSON is no program's output line by line.
TEXTS = {
    **{name: sample for name, sample in SAMPLES.items() if not sample[0].lstrip().startswith(("{", "[{"))},
    **{name: ((CASES / name).read_text(), {}) for name in ("rccl-modern.log", "nccl-old.log")},
}  # fmt: skip


def prefixed(text):
    """Return whether a launcher's prefix stands before some line already."""
    begins = ("[1,", "[rank", "[default", "0: ", "(")
    return any(line.startswith(begins) or "\r" in line for line in text.splitlines())


@pytest.mark.parametrize("name", [name for name in TEXTS if not prefixed(TEXTS[name][0])])
def test_a_prefix_changes_nothing(tmp_path, name):
    text, said = TEXTS[name]
    lines = text.splitlines()
    rows, account = of(tmp_path, text, **said)
    for prefix in PREFIXES.values():
        again, told = of(tmp_path, "".join(f"{prefix}{line}\n" for line in lines), **said)
        assert (again, told.kind, left(told)) == (rows, account.kind, left(account)), prefix


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_table_behind_a_logger_is_read_and_a_serving_log_says_nothing(tmp_path, logger):
    prefix = LOGGERS[logger]
    for name in ("vllm-communicators-console.log", "sglang-all-reduce-console.log"):
        text, said = SAMPLES[name]
        again, told = of(
            tmp_path, "".join(f"{prefix}{line}\n" for line in text.splitlines()), **said
        )
        assert (again, told.n_left) == (of(tmp_path, text, **said)[0], 0), name
    served = (
        f"{prefix}tp 4\n" * 9 + "\nhidden 7168\n\n| tokens | fused us |\n|--|--|\n| 8 | 9.1 |\n"
    )
    if "10:00:00" in prefix:
        with pytest.raises(InputError, match="ranks not said: --world-size"):
            of(tmp_path, served)


def test_tables_of_several_ranks_are_said(tmp_path):
    table = "TP2, hidden 7168\n| tokens | fused us |\n|--|--|\n| 8 | 9.1 |\n"
    ranks = [
        "".join(f"[1,{rank}]<stdout>:{line}\n" for line in table.splitlines()) for rank in "01"
    ]
    _, account = of(tmp_path, ranks[0])
    assert account.notes == []
    both = ranks[0] + ranks[1].replace("9.1", "9.7")
    assert column(of(tmp_path, both)[0], "latency_us", "rank_reduction") == [("9.7", "max")]
    _, account = of(tmp_path, both.replace("<stdout>:| 8 | 9.7", "<stdout>:| 16 | 9.7"))
    assert account.notes[-1].startswith("tables of 2 ranks stand in it")


RCCL = """# nThread 1 nGpus 4 minBytes 1024 maxBytes 1024 step: 2(factor) warmup iters: 5 iters: 20 graph: 0
# Collective test starting: all_reduce_perf
#       size         count      type   redop    root     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)
        1024           512      half     sum      -1    12.34    0.08    0.12      0
"""


@pytest.mark.parametrize(
    "prefix", ["INFO:root:", "worker-1  | ", "> ", "2024-05-06 10:11:{},1 - INFO - "]
)
def test_the_lines_of_the_tests_are_known_behind_any_prefix(tmp_path, prefix):
    text = "".join(f"{prefix.format(n)}{line}\n" for n, line in enumerate(RCCL.splitlines(), 11))
    rows, account = of(tmp_path, text)
    assert column(rows, "latency_us", "world_size", "timing") == [("12.34", "4", "eager")]
    assert (account.kind, account.n_left) == ("rccl-tests", 0)


def test_streams_behind_other_words_are_kept_apart(tmp_path):
    lines = RCCL.splitlines()
    text = "".join(
        f"worker-1 | {line}\nworker-2 | {line.replace('12.34', '15.67')}\n" for line in lines
    )
    rows, _ = of(tmp_path, text)
    assert column(rows, "latency_us") == ["12.34", "15.67"]


def test_tables_that_each_rank_prints_are_calls_of_all_ranks(tmp_path):
    heading = ["TP2 MI300X bf16 hidden 7168", "", "| tokens | fused 1stage us |", "|--|--|"]
    of_ranks = [[*heading, f"| 8 | 9.{rank} |", f"| 16 | 9.{7 - rank} |"] for rank in range(2)]
    behind = [[f"[rank{rank}]: {line}" for line in of_ranks[rank]] for rank in range(2)]
    one_by_one = [line for lines in behind for line in lines]
    interleaved = [line for pair in zip(*behind, strict=True) for line in pair]
    torn = [line for first in (behind[0][:5], behind[1], behind[0][5:]) for line in first]
    for lines in (one_by_one, interleaved, torn):
        rows, told = of(tmp_path, "\n".join(lines) + "\n")
        assert column(rows, "tokens", "latency_us", "rank_reduction") == [
            ("8", "9.1", "max"), ("16", "9.7", "max"),
        ]  # fmt: skip
        assert left(told) == {"of another rank, beside the slowest": 2}
    rows, told = of(tmp_path, "\n".join(one_by_one[:-1]) + "\n")  # a rank without one of its calls
    assert len(rows) == 3
    assert any("keep the lines of one rank" in note for note in told.notes)
