"""The fused 2-stage's marks: processes that really wait for each other's parts, call after call.

In Triton's interpreter, a process a rank; signals and pushed rows are one file of each rank.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip(
    "triton", minversion="3.4", reason="triton 3.4 or newer is not installed: pip install triton"
)
torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

from kernels_without_gpu import Ranks, answer, element_type, in_interpreter

from costmodel.live.backends.base import LiveShape, Outputs
from costmodel.live.backends.reference import fused_reference, worst_error
from costmodel.live.backends.triton import kernels
from costmodel.live.backends.triton.launch import row_block, share_of

RACE = LiveShape(3, 72, "bf16")  # two parts of 64 columns and 8, the other ranks have none
CALLS = 6
MARK = b"\x00\x80"  # the bits of -0.0
ZEROS = slice(60, 68)  # columns whose sum is -0.0, in both parts


def shared(path: Path, dtype: torch.dtype) -> torch.Tensor:
    size = path.stat().st_size // dtype.itemsize
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype)


def race(rank: int, ranks: int, directory: Path) -> dict[str, object]:
    """Make calls as one rank, one after the other; each has operands of its own.

    Rank 0 takes its time before it looks, and the last rank before it pushes.
    """
    look, push = kernels.peek_row, kernels.push
    kernels.peek_row = lambda *given: (time.sleep(0.02 * (rank == 0)), look(*given))[1]
    kernels.push = lambda *given: (time.sleep(0.02 * (rank == ranks - 1)), push(*given))[1]
    pushed = [shared(directory / f"pushed-{peer}", torch.bfloat16) for peer in range(ranks)]
    signals = [shared(directory / f"signal-{peer}", torch.int32) for peer in range(ranks)]
    calls = [Ranks(ranks, RACE, slot=call) for call in range(CALLS)]
    for memory in calls:
        for peer in range(ranks):
            memory.given.inputs[peer][:, ZEROS] = -0.0
            memory.rows[kernels.INPUT.value][peer][:, ZEROS] = -0.0
            memory.table[kernels.PUSHED.value, peer] = pushed[peer].data_ptr()
            memory.table[kernels.SIGNAL.value, peer] = signals[peer].data_ptr()
    (directory / f"ready-{rank}").touch()
    while len(list(directory.glob("ready-*"))) < ranks:
        time.sleep(0.01)
    found: dict[str, object] = {"worst": []}
    for memory in calls:
        kernels.fused_two_stage[(1,)](
            memory.table, RACE.tokens, rank, 1e-6, 2000, HIDDEN=RACE.hidden_dim,
            BLOCK=row_block(RACE.hidden_dim), RANKS=ranks, LOCAL=1, SCOPE="sys", HIP=False,
            TYPE=element_type(RACE.dtype), **share_of(RACE.hidden_dim, ranks, 2),
        )  # fmt: skip
        own = Outputs(memory.outputs[rank], memory.residual_outs[rank])
        found["worst"].append(worst_error(own, fused_reference(memory.given), RACE.dtype))
    found["gave_up"] = int(signals[rank][kernels.ERROR.value])
    found["epoch"] = int(signals[rank][kernels.EPOCH.value])
    found["marked"] = bool((pushed[rank].view(torch.int16) == -(2**15)).all())
    return found


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_call_is_right_and_leaves_its_marks(tmp_path, ranks):
    for rank in range(ranks):
        (tmp_path / f"pushed-{rank}").write_bytes(MARK * (RACE.tokens * RACE.hidden_dim))
        (tmp_path / f"signal-{rank}").write_bytes(bytes(4 * kernels.SIGNAL_WORDS))
    started = [
        in_interpreter(__file__, str(rank), str(ranks), str(tmp_path)) for rank in range(ranks)
    ]
    try:
        answers = [answer(process) for process in started]
    finally:
        for process in started:
            process.kill()
    for found in answers:
        assert max(found["worst"]) <= 1.0
        assert found["gave_up"] == 0
        assert found["epoch"] == CALLS  # one barrier a call
        assert found["marked"]


if __name__ == "__main__":
    print(json.dumps(race(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
