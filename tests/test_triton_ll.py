"""The 1-stage with flags in its data, without a GPU: its compiled code, numbers, and real races.

Ranks that are processes of their own, each in Triton's interpreter over memory that all map, push
and poll for each other call after call, at paces of their own.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

triton = pytest.importorskip(
    "triton", minversion="3.4", reason="triton 3.4 or newer is not installed: pip install triton"
)
torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

from kernels_without_gpu import (
    TARGETS,
    Ranks,
    answer,
    compiled_for,
    element_type,
    in_interpreter,
    spilled,
)
from replays import right_replay_after_replay

from costmodel.live.backends.base import CannotRun, LiveShape, Outputs
from costmodel.live.backends.reference import fused_reference, worst_error
from costmodel.live.backends.triton import kernels, ll
from costmodel.live.backends.triton.adapter import TritonBackend
from costmodel.live.backends.triton.launch import row_block, row_threads
from costmodel.units import element_bytes

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

CASES = [
    *((ranks, hidden, "bf16") for ranks in (2, 4, 8) for hidden in (2880, 7168)),
    (8, 8192, "fp16"),
    (4, 4096, "fp32"),
]


# -- compiled ahead of time -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def built():
    """Compile each case once for all tests of this file, as the back end launches it."""
    done = {}

    def build(target: str, ranks: int, hidden: int, dtype: str):
        key = (target, ranks, hidden, dtype)
        if key not in done:
            block, threads = row_block(hidden), row_threads(hidden, ranks)
            constants = {
                "HIDDEN": hidden, "BLOCK": block, "RANKS": ranks, "LOCAL": ranks,
                "SOURCES": ll.sources_at_once(ranks, block, threads, dtype),
                "PROBED": ll.probed_first(ranks, hidden, dtype),
                "TYPE": element_type(dtype), "HIP": target != "sm_90",
            }  # fmt: skip
            done[key] = compiled_for(target, ll.fused_one_stage_ll, constants, threads)
        return done[key]

    return build


def accesses(kernel, target: str) -> list[str]:
    """Return the loads and stores of device memory in the order of the text, with modifiers."""
    if target == "sm_90":
        found = re.findall(r"((?:ld|st)\.(?:volatile\.)?global[\w.]*)\s", kernel.asm["ptx"])
        return found
    line = r"^\s+((?:global|buffer|flat)_(?:load|store)\w+)[^\n;]*?(\bsc0 sc1\b)?\s*(?:;[^\n]*)?$"
    return [
        " ".join(filter(None, pair))
        for pair in re.findall(line, kernel.asm["amdgcn"], flags=re.MULTILINE)
    ]


def words_moved(target: str) -> tuple[str, str, str]:
    """Return how a probe (one whole word), a look and a push (two each) read."""
    if target == "sm_90":
        return "ld.volatile.global.b64", "ld.volatile.global.v2.b64", "st.global.v2.b64"
    marked = "sc0 sc1"
    return (
        f"global_load_dwordx2 {marked}",
        f"global_load_dwordx4 {marked}",
        f"buffer_store_dwordx4 {marked}",
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("ranks", "hidden", "dtype"), CASES)
def test_words_are_never_split(built, target, ranks, hidden, dtype):
    """Looks and pushes are of two whole words each; nothing else bypasses the caches."""
    found = accesses(built(target, ranks, hidden, dtype), target)
    probe, look, push = words_moved(target)
    threads = row_threads(hidden, ranks)
    pairs = -(-hidden * element_bytes(dtype) // 4 // 2 // threads)
    together = ll.sources_at_once(ranks, row_block(hidden), threads, dtype)
    assert found.count(look) >= pairs * together
    assert found.count(push) >= pairs * (ranks - 1)
    marked = [access for access in found if "volatile" in access or "sc0" in access]
    probed = {probe} if ll.probed_first(ranks, hidden, dtype) else set()
    assert set(marked) - {push} == {look} | probed
    words = [access for access in found if re.search(r"^st.*b64|store_dwordx2", access)]
    assert set(words) <= {push}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("ranks", "hidden", "dtype"), CASES)
def test_all_is_pushed_before_the_first_poll_and_polls_stay_in_their_loops(
    built, target, ranks, hidden, dtype
):
    kernel = built(target, ranks, hidden, dtype)
    found = accesses(kernel, target)
    *polls, push = words_moved(target)
    polls = [poll for poll in polls if poll in found]
    last_push = len(found) - 1 - found[::-1].index(push)
    assert last_push < min(map(found.index, polls))
    label = r"^\$L__BB\w+:" if target == "sm_90" else r"^\.LBB\w+:"
    jump = r"(?:bra(?:\.uni)?|s_cbranch_\w+|s_branch)\s+(\S+?);?\s*(?:;.*)?$"
    text = kernel.asm["ptx" if target == "sm_90" else "amdgcn"]
    for poll in polls:
        mnemonic, *marks = poll.split(" ", 1)
        pattern = re.escape(mnemonic) + (r"[^\n;]*" + marks[0] if marks else r"\s")
        where = [match.start() for match in re.finditer(pattern, text)]
        starts = re.findall(label, text[: where[0]], flags=re.MULTILINE)[-2:]
        back = set(re.findall(jump, text[where[-1] :], flags=re.MULTILINE))
        assert back & {name[:-1] for name in starts}, f"{poll} left its loop"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("ranks", "hidden", "dtype"), CASES)
def test_nothing_spills(built, tmp_path, target, ranks, hidden, dtype):
    assert spilled(built(target, ranks, hidden, dtype), target, tmp_path) == []


@pytest.mark.parametrize("target", TARGETS)
def test_there_is_no_barrier_between_ranks_and_no_order(built, target):
    kernel = built(target, 8, 7168, "bf16")
    text = kernel.asm["ptx" if target == "sm_90" else "amdgcn"]
    assert not re.search(r"\batom|\bred\.|_atomic_|release|acquire|fence|membar|wbl2|_inv\b", text)


# -- in the interpreter ---------------------------------------------------------------------------

#: (ranks, tokens, hidden, dtype, programs): as in test_triton_kernels.
NUMBERS = [(2, 3, 40, "bf16", 2), (8, 3, 40, "fp16", 1), (4, 5, 64, "fp32", 2)]


def push_table(buffers: list[torch.Tensor]) -> torch.Tensor:
    return torch.tensor([buffer.data_ptr() for buffer in buffers], dtype=torch.int64)


def options(shape: LiveShape, ranks: int, local: int) -> dict:
    return {
        "HIDDEN": shape.hidden_dim, "BLOCK": row_block(shape.hidden_dim), "RANKS": ranks,
        "LOCAL": local, "SOURCES": ranks // 2, "PROBED": ranks > 2, "TYPE": element_type(shape.dtype),
        "HIP": False,
    }  # fmt: skip


def errors_of(memory: Ranks) -> list[int]:
    return [int(signal[kernels.ERROR.value]) for signal in memory.signals]


def worst(memory: Ranks, dtype: str, ranks: range) -> float:
    reference = fused_reference(memory.given)
    both = [Outputs(memory.outputs[r], memory.residual_outs[r]) for r in ranks]
    return max(worst_error(pair, reference, dtype) for pair in both)


def interpreted() -> dict[str, object]:
    """What the interpreter finds with all ranks in one launch, one program after the other.

    Nobody can wait for a program that has not run: the first launch pushes, and gives up; then the
    epochs are set back, and the second one finds all words.
    """
    found: dict[str, list] = {"worst": [], "gave_up": [], "epochs": [], "stale": [], "same": []}
    for ranks, tokens, hidden, dtype, programs in NUMBERS:
        shape = LiveShape(tokens, hidden, dtype)
        memory = Ranks(ranks, shape)
        size = ll.buffer_bytes(shape, ranks)
        buffers = [torch.zeros(size, dtype=torch.uint8) for _ in range(ranks)]
        epochs = torch.zeros(programs * ranks + 1, dtype=torch.int32)
        launch = ll.fused_one_stage_ll[(programs * ranks,)]
        arguments = (memory.table, push_table(buffers), epochs, tokens, 0, ranks, 1e-6, 2)
        launch(*arguments, **options(shape, ranks, ranks))
        given_up = errors_of(memory)
        epochs.zero_()
        for signal in memory.signals:
            signal[kernels.ERROR.value] = 0
        launch(*arguments, **options(shape, ranks, ranks))
        found["worst"].append(worst(memory, dtype, range(ranks)))
        found["gave_up"].append([given_up, errors_of(memory)])
        found["epochs"].append(epochs.tolist())
        # two calls later the slot holds old words, and the peers' new ones do not come
        epochs.fill_(2)
        ll.fused_one_stage_ll[(programs,)](*arguments, **options(shape, ranks, 1))
        found["stale"].append(errors_of(memory))

        again = Ranks(ranks, shape)
        again.let_everybody_have_arrived()
        constants = {**options(shape, ranks, ranks), "SCOPE": "gpu"}
        del constants["SOURCES"]
        kernels.fused_one_stage[(programs * ranks,)](again.table, tokens, 0, 1e-6, 3, **constants)
        pairs = zip(memory.residual_outs, again.residual_outs, strict=True)
        found["same"].append(all(bool(torch.equal(*pair)) for pair in pairs))
    return found


@pytest.fixture(scope="module")
def findings():
    return answer(in_interpreter(__file__, "alone"))


@pytest.mark.parametrize("index", range(len(NUMBERS)), ids=lambda i: "-".join(map(str, NUMBERS[i])))
def test_numbers_agree_with_the_reference_and_the_sum_with_the_1_stage_to_the_bit(findings, index):
    assert findings["worst"][index] <= 1.0
    assert findings["same"][index]


@pytest.mark.parametrize("index", range(len(NUMBERS)), ids=lambda i: "-".join(map(str, NUMBERS[i])))
def test_a_wait_for_words_that_never_come_gives_up_and_says_so(findings, index):
    """In the first launch the last rank found the others' words, the first ones none."""
    ranks, programs = NUMBERS[index][0], NUMBERS[index][-1]
    assert findings["gave_up"][index] == [[1] * (ranks - 1) + [0], [0] * ranks]
    assert findings["epochs"][index] == [1] * programs * ranks + [0]


@pytest.mark.parametrize("index", range(len(NUMBERS)), ids=lambda i: "-".join(map(str, NUMBERS[i])))
def test_words_of_two_calls_ago_are_not_taken_for_new_ones(findings, index):
    assert findings["stale"][index] == [1] + [0] * (NUMBERS[index][0] - 1)


# -- processes that wait for each other -----------------------------------------------------------

RACE = LiveShape(3, 40, "bf16")
RACE_CALLS = 8


def race(rank: int, ranks: int, directory: Path) -> dict[str, object]:
    """Make calls as one rank, one after the other; each has operands of its own.

    Rank 0 takes its time before it looks: the others have gone on to their next call by then, and
    have pushed its rows (by one program: the interpreter runs them in turn).
    """
    look = ll.peek_row
    ll.peek_row = lambda *given: (time.sleep(0.02 * (rank == 0)), look(*given))[1]
    size = ll.buffer_bytes(RACE, ranks)
    buffers = [
        torch.from_file(str(directory / f"{peer}"), shared=True, size=size, dtype=torch.uint8)
        for peer in range(ranks)
    ]
    addresses, epochs = push_table(buffers), torch.zeros(1, dtype=torch.int32)
    calls = [Ranks(ranks, RACE, slot=call) for call in range(RACE_CALLS)]
    (directory / f"ready-{rank}").touch()
    while len(list(directory.glob("ready-*"))) < ranks:
        time.sleep(0.01)
    largest = 0.0
    for memory in calls:
        ll.fused_one_stage_ll[(1,)](
            memory.table, addresses, epochs, RACE.tokens, rank, ranks, 1e-6, 300,
            **options(RACE, ranks, 1),
        )  # fmt: skip
        if errors_of(memory)[rank]:
            return {"worst": largest, "gave_up": True}
        largest = max(largest, worst(memory, RACE.dtype, range(rank, rank + 1)))
    return {"worst": largest, "gave_up": False}


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.campaign)])
def test_ranks_that_really_wait_for_each_other_are_right_call_after_call(tmp_path, ranks):
    for rank in range(ranks):
        (tmp_path / str(rank)).write_bytes(bytes(ll.buffer_bytes(RACE, ranks)))
    started = [
        in_interpreter(__file__, "race", str(rank), str(ranks), str(tmp_path))
        for rank in range(ranks)
    ]
    try:
        found = [answer(process) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [each["gave_up"] for each in found] == [False] * ranks
    assert max(each["worst"] for each in found) <= 1.0


# -- launches -------------------------------------------------------------------------------------


def test_too_large_a_buffer_is_refused_in_one_line():
    assert ll.buffer_bytes(LiveShape(128, 7168, "bf16"), 8) <= ll.MAX_BUFFER_BYTES
    with pytest.raises(CannotRun, match=r"take 112 MiB a rank at 256 tokens .* 64 MiB") as caught:
        ll.buffer_bytes(LiveShape(256, 7168, "bf16"), 8)
    assert "\n" not in str(caught.value)


def test_probes_go_ahead_of_long_looks_alone():
    cases = ((2, 2880), (2, 8192), (4, 2880), (4, 7168), (8, 2880), (8, 7168))
    assert [ll.probed_first(*case, "bf16") for case in cases] == [False] * 3 + [True] * 3


def test_too_long_a_row_is_refused_in_one_line():
    with pytest.raises(
        CannotRun, match=r"up to 16384 bytes, not with the 18432 of hidden 9216"
    ) as e:
        ll.buffer_bytes(LiveShape(1, 9216, "bf16"), 2)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("hidden", [64, 2880, 4096, 8192])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_asked_together_divide_all_of_them(hidden, dtype, ranks):
    block, threads = row_block(hidden), row_threads(hidden, ranks)
    together = ll.sources_at_once(ranks, block, threads, dtype)
    assert ranks % together == 0
    assert together == 1 or together * block * element_bytes(dtype) // 4 // threads <= 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("timing", ["graph", "eager"])
@pytest.mark.parametrize(
    "shape", [LiveShape(1, 7168, "bf16"), LiveShape(100, 2880, "fp16")], ids=str
)
def test_it_is_right_on_the_gpu_replay_after_replay(ranks, timing, shape):
    backend = TritonBackend(ranks)
    backend.set_up()
    backend.prepare(shape, slots=2, seed=1)
    timed = backend.capture_launches([backend.one_stage_ll_launch()], 4, timing)
    right_replay_after_replay(backend, timed, shape)
    timed.close()
    backend.close()


if __name__ == "__main__":
    if sys.argv[1] == "alone":
        print(json.dumps(interpreted()))
    else:
        print(json.dumps(race(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
