"""The back end of torch's own all-reduces: what it refuses, and its own part over a stand-in.

The ops themselves need GPUs (see tests/torch_standin.py for what is played here).
"""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the live back ends compute with torch")

from test_live_aiter import QUICK, torchrun

from costmodel.cli.main import main
from costmodel.data import measurement
from costmodel.live.backends.base import ARMS, LiveShape, load, op_and_algorithm
from costmodel.live.backends.torch.adapter import TorchBackend
from costmodel.live.run.proof import refusals

TESTS = Path(__file__).parent
STANDIN = (str(TESTS / "torch_standin.py"), "measure", "--backend", "torch")
REAL = ("-m", "costmodel", "measure", "--backend", "torch")
ALL = "separate_1stage,separate_2stage,separate,plain_1stage,plain_2stage"
SHAPE = ("--hidden", "1024", "--tokens", "3", "--seed", "7")


def measured(tmp_path, arms, *more, ranks=2, **environment):
    run = tmp_path / "run"
    code, out, said = torchrun(
        *STANDIN, *SHAPE, *QUICK, *more, "--arms", arms, "--out", run, ranks=ranks, path=TESTS.parent,
        **environment,
    )  # fmt: skip
    lines = (run / "samples.jsonl").read_text().splitlines() if code == 0 or run.exists() else []
    return code, out, said, json.loads(lines[0]) if lines else {}


@pytest.mark.parametrize("timing", ["graph", "eager"])
def test_every_arm_is_right_call_after_call_and_a_row_of_its_own(tmp_path, timing):
    code, out, said, record = measured(tmp_path, ALL, "--timing", timing)
    assert code == 0, (out[-2000:], said)
    assert "skipped" not in record
    assert all(result["correct"] for result in record["arms"].values())
    rows = measurement.read(tmp_path / "run" / "measurements.csv")
    assert sorted(zip(rows.op, rows.algorithm, rows.kernel_family, strict=True)) == [
        ("all_reduce", "1stage", "torch_symm_mem-standin"),
        ("all_reduce", "2stage", "torch_symm_mem-standin"),
        ("ar_then_rmsnorm", "", "nccl-standin"),
        ("ar_then_rmsnorm", "1stage", "torch_symm_mem-standin"),
        ("ar_then_rmsnorm", "2stage", "torch_symm_mem-standin"),
    ]
    assert set(rows.quality) == {"suspect"}
    assert set(rows.interconnect) == {"standin"}
    assert set(rows.timing) == {timing}
    norm = "triton_red_fused__to_copy_add_copy_copy__mean_mul_pow_rsqrt_0"
    kernels = {arm: result["kernels"] for arm, result in record["arms"].items()}
    for arm, names in kernels.items():
        assert names[1:] == ([norm] if "separate" in arm else [])
    assert kernels["separate"][0].startswith("ncclDevKernel_AllReduce_Sum_bf16_RING_LL")


def test_without_arms_it_runs_the_two_that_it_forces_and_it_resumes(tmp_path):
    run = tmp_path / "run"
    code, out, said = torchrun(*STANDIN, *SHAPE, *QUICK, "--out", run, ranks=2, path=TESTS.parent)
    assert code == 0, (out[-2000:], said)
    record = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    assert list(record["arms"]) == ["separate_1stage", "separate_2stage"]
    labels = json.loads((run / "run.json").read_text())["labels"]
    assert labels["separate_family"] == "nccl-standin"
    code, out, _ = torchrun(*STANDIN, "--resume", "--out", run, ranks=2, path=TESTS.parent)
    assert code == 0, out[-2000:]


def test_a_peer_left_out_is_seen(tmp_path):
    code, out, _, record = measured(
        tmp_path, "separate_1stage,plain_1stage,separate_2stage", TORCH_STANDIN_FAULT="left-out"
    )
    assert code != 0
    assert "separate_1stage  WRONG on rank 1" in out
    assert "plain_1stage  WRONG on rank 1" in out
    assert record["arms"]["separate_2stage"]["correct"]


def test_a_two_shot_that_ran_the_one_shot_is_not_timed(tmp_path):
    code, _, _, record = measured(
        tmp_path, "separate_1stage,separate_2stage", TORCH_STANDIN_FAULT="same"
    )
    assert code == 0
    said = record["skipped"]["separate_2stage"]
    assert said.startswith(
        "2-stage was asked for and 1-stage ran on rank 0: void one_shot_all_reduce_kernel<c10::BFloat16"
    )
    assert list(record["arms"]) == ["separate_1stage"]


def test_a_norm_that_does_not_compile_on_one_rank_is_one_line_on_all(tmp_path):
    code, _, _, record = measured(
        tmp_path, "separate_1stage,plain_1stage", TORCH_STANDIN_FAULT="no-norm"
    )
    assert code == 0
    assert record["skipped"] == {
        "separate_1stage": "torch refuses it on rank 1: no compiler; --norm triton is the other norm"
    }
    assert list(record["arms"]) == ["plain_1stage"]


def test_it_looks_through_its_own_stages(tmp_path):
    code, out, said = torchrun(
        str(TESTS / "torch_standin.py"), "doctor", "--backend", "torch", "--tp", "2", "--out",
        tmp_path, ranks=2, path=TESTS.parent,
    )  # fmt: skip
    assert code == 0, (out[-2000:], said)
    found = json.loads((tmp_path / "environment.json").read_text())["doctor"]
    by = {check["name"]: check for check in found}
    assert "both agree with the fp32 reference on all ranks" in by["stages"]["seen"]
    assert set(by["stages"]["details"]["kernels"]) == {"separate_1stage", "separate_2stage"}
    assert by["graph"]["status"] == "ok"


def refused(shape, arm, ranks=2, norm="compiled"):
    backend = TorchBackend(ranks)
    backend.norm = norm
    return backend.reason_against(shape, arm)


FUSED_ARMS = tuple(a for a in ARMS if a not in (*ALL.split(","),))


def test_what_torch_does_not_have_is_refused():
    for arm in FUSED_ARMS:
        said = refused(LiveShape(4, 2880, "bf16"), arm)
        assert said.startswith("torch has no fused op and no dispatch rule; it runs separate")
    for arm in ALL.split(","):
        assert refused(LiveShape(4, 2880, "bf16"), arm) is None
        assert refused(LiveShape(4, 2880, "fp32"), arm) is None


@pytest.mark.parametrize("ranks", [2, 8])
def test_what_its_ops_do_not_take_is_refused_and_nccl_takes_it(ranks):
    for shape in (LiveShape(4, 2880, "fp16"), LiveShape(3, 2881, "bf16")):
        words = "takes bf16 and fp32, input bytes a multiple of 4"
        said = f"torch's 1-stage all-reduce over symmetric memory {words}"
        assert refused(shape, "separate_1stage", ranks) == said
        assert refused(shape, "plain_2stage", ranks) == said.replace("1-stage", "2-stage")
        assert refused(shape, "separate", ranks) is None
    assert refused(LiveShape(2, 2881, "bf16"), "separate_1stage", ranks) is None


def test_the_norm_of_the_project_takes_its_own_rows():
    for hidden in (2884, 32768):
        said = refused(LiveShape(2, hidden, "bf16"), "separate", norm="triton")
        assert said == (
            "the norm triton takes hidden_dim in multiples of 8 up to 16384; "
            "--norm compiled takes any"
        )
        assert refused(LiveShape(2, hidden, "bf16"), "plain_1stage", norm="triton") is None


def test_one_process_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*REAL[2:], "--tp", "2", *SHAPE, "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "costmodel: error: back end torch needs one process a GPU; start it as torchrun "
        "--nproc-per-node=2 -m costmodel measure ...\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
@pytest.mark.parametrize(
    ("tp", "said"),
    [
        ("2", "back end torch needs CUDA or ROCm GPUs that torch can use; this torch"),
        ("4", "--tp is 4, but torchrun started 2 processes; make them equal"),
    ],
)
def test_what_it_lacks_is_one_line_for_all_ranks(tmp_path, tp, said):
    code, _, lines = torchrun(
        *REAL, "--tp", tp, *SHAPE, "--out", tmp_path / "run", ranks=2, path=TESTS.parent
    )
    assert code != 0
    assert len(lines) == 1
    assert lines[0].startswith("costmodel: error: ")
    assert said in lines[0]
    assert not (tmp_path / "run").exists()


def test_there_is_no_rule_of_the_fused_op_to_learn_from_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--backend", "torch", "--tp", "2", "--model", "gpt-oss-120b", "--for", "sglang",
              "--budget", "20", "--out", str(tmp_path / "run")])  # fmt: skip
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "costmodel: error: back end torch cannot force both stages of fused_ar_rmsnorm at one "
        "shape, so it cannot be tuned there; it can those of all_reduce\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backend", ["aiter", "gloo", "replay", "triton"])
def test_other_back_ends_do_not_force_the_stage_of_separate_ops(backend, monkeypatch):
    monkeypatch.setenv("COSTMODEL_REPLAY", "MI355X")
    made = load(backend)(2)
    made._aiter = object()
    for arm in ("separate_1stage", "separate_2stage"):
        assert made.reason_against(LiveShape(4, 2880, "bf16"), arm)


def test_a_separate_arm_of_one_stage_is_proved_by_its_all_reduce():
    assert op_and_algorithm("separate_2stage") == ("ar_then_rmsnorm", "2stage")
    one = "void (anonymous namespace)::one_shot_all_reduce_kernel<c10::BFloat16, 16, 2>(x)"
    fused = "aiter::allreduce_fusion_kernel_1stage<__bf16, __bf16, 2, false>"
    norm = "triton_per_fused__to_copy_add_copy_copy__mean_mul_pow_rsqrt_0"
    assert refusals({"separate_1stage": [[one, norm], [one, norm]]}, 2) == {}
    wrong = refusals({"separate_2stage": [[one, norm]]}, 2)["separate_2stage"]
    assert wrong.startswith("2-stage was asked for and 1-stage ran: ")
    assert refusals({"separate_1stage": [[fused]]}, 2)["separate_1stage"].startswith("a fused")
