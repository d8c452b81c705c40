"""The back end of FlashInfer's fused op: what it refuses, and its own part over a stand-in.

The kernels themselves need two NVIDIA GPUs (see tests/flashinfer_standin.py for what is played).
"""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the live back ends compute with torch")

from test_live_aiter import QUICK, torchrun

from costmodel.data import measurement
from costmodel.live.backends.base import ARMS, PLAIN_STAGES, LiveShape
from costmodel.live.backends.flashinfer.adapter import FUSED_ARMS, FlashInferBackend

TESTS = Path(__file__).parent
STANDIN = (str(TESTS / "flashinfer_standin.py"), "measure", "--backend", "flashinfer")
ALL = ",".join((*FUSED_ARMS, *PLAIN_STAGES))


def measured(tmp_path, *more, arms=ALL, tokens="3", **environment):
    run = tmp_path / "run"
    code, out, said = torchrun(
        *STANDIN, "--hidden", "1024", "--tokens", tokens, "--seed", "7", *QUICK, *more,
        "--arms", arms, "--out", run, ranks=2, path=TESTS.parent, **environment,
    )  # fmt: skip
    found = run / "samples.jsonl"
    records = (
        [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    )
    return code, out, said, records


@pytest.mark.parametrize("timing", ["graph", "eager"])
def test_every_arm_is_right_call_after_call_and_a_row_of_its_own(tmp_path, timing):
    # the larger shape comes second, and needs a larger workspace than the first has
    code, out, said, records = measured(tmp_path, "--timing", timing, tokens="3,6")
    assert code == 0, (out[-2000:], said)
    assert "allocated ipc_handles" not in out
    assert all(arm["correct"] for record in records for arm in record["arms"].values())
    rows = measurement.read(tmp_path / "run" / "measurements.csv")
    assert sorted(set(zip(rows.op, rows.algorithm, rows.kernel_family, strict=True))) == [
        ("all_reduce", "1stage", "flashinfer-standin"),
        ("all_reduce", "2stage", "flashinfer-standin"),
        ("fused_ar_rmsnorm", "1stage", "flashinfer-standin"),
        ("fused_ar_rmsnorm", "2stage", "flashinfer-standin"),
        ("fused_ar_rmsnorm", "auto", "flashinfer-standin"),
    ]
    assert len(rows) == 10
    assert set(rows.kernel_version) == {"FlashInfer 0.6.4"}
    assert set(rows.interconnect) == {"standin"}
    assert set(rows.quality) == {"suspect"}
    assert set(rows.timing) == {timing}
    kernels = {arm: result["kernels"] for arm, result in records[0]["arms"].items()}
    assert "oneshot_lamport<(flashinfer" in kernels["1stage"][0]
    assert "twoshot_sync<(flashinfer" in kernels["2stage"][0]
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["backend"]["programmatic dependent launch"] == "off"
    assert environment["backend"]["multicast"]["TORCH_SYMM_MEM_DISABLE_MULTICAST"] in ("1", "")


def test_its_two_shot_needs_more_tokens_than_ranks(tmp_path):
    code, _, _, records = measured(tmp_path, tokens="2", arms="1stage,2stage,plain_2stage")
    assert code == 0
    said = "FlashInfer's 2-stage takes 3 tokens at least"
    assert records[0]["skipped"] == {"2stage": said, "plain_2stage": said}
    assert list(records[0]["arms"]) == ["1stage"]


def test_a_peer_left_out_is_seen(tmp_path):
    code, out, _, records = measured(
        tmp_path, arms="1stage,plain_1stage,2stage", FLASHINFER_STANDIN_FAULT="left-out"
    )
    assert code != 0
    assert "1stage  WRONG on rank 1" in out
    assert "plain_1stage  WRONG on rank 1" in out
    assert records[0]["arms"]["2stage"]["correct"]


def test_a_two_shot_that_ran_the_one_shot_is_not_timed(tmp_path):
    code, _, _, records = measured(tmp_path, arms="1stage,2stage", FLASHINFER_STANDIN_FAULT="same")
    assert code == 0
    said = records[0]["skipped"]["2stage"]
    assert said.startswith("2-stage was asked for and 1-stage ran on rank 0: void flashinfer::")
    assert list(records[0]["arms"]) == ["1stage"]


def test_kernels_that_do_not_compile_are_one_line(tmp_path):
    code, _, said, records = measured(tmp_path, FLASHINFER_STANDIN_FAULT="no-nvcc")
    assert code != 0
    assert records == []
    assert said == [
        "costmodel: error: flashinfer refuses it on rank 1: Ninja build failed. Ninja output:; "
        "FlashInfer compiles its kernels with nvcc at first use"
    ]


@pytest.mark.parametrize("ranks", [2, 8])
def test_what_its_kernels_do_not_take_is_refused(ranks):
    backend = FlashInferBackend(ranks)
    for arm in set(ARMS) - {*FUSED_ARMS, *PLAIN_STAGES}:
        assert backend.reason_against(LiveShape(64, 2880, "bf16"), arm) == (
            "flashinfer runs 1stage, 2stage, auto, plain_1stage, plain_2stage"
        )
    for arm in (*FUSED_ARMS, *PLAIN_STAGES):
        for dtype in ("bf16", "fp16", "fp32"):
            assert backend.reason_against(LiveShape(64, 2880, dtype), arm) is None
    for arm in FUSED_ARMS:
        assert "hidden % 8 == 0" in backend.reason_against(LiveShape(64, 2884, "bf16"), arm)
    assert "hidden % 4 == 0" in backend.reason_against(LiveShape(64, 2882, "fp32"), "auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_what_it_lacks_is_one_line_for_all_ranks(tmp_path):
    code, _, lines = torchrun(
        "-m", "costmodel", "measure", "--backend", "flashinfer", "--tp", "2", "--hidden", "1024",
        "--tokens", "3", "--out", tmp_path / "run", ranks=2, path=TESTS.parent,
    )  # fmt: skip
    assert code != 0
    assert len(lines) == 1
    assert lines[0] == (
        "costmodel: error: back end flashinfer needs FlashInfer, which is not installed; "
        "pip install flashinfer-python"
    )
    assert not (tmp_path / "run").exists()
