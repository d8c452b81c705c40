"""AITER's arms beside the fused op: what pushes, the mixing of streams, the norm of separate ops."""

import json

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.data import kernels as known_kernels
from costmodel.data import measurement
from costmodel.live.backends.base import ARMS, PUSHED, LiveShape, arm_of, load, op_and_algorithm
from costmodel.live.run.proof import refusals
from costmodel.model.shape import ALL_REDUCE
from tests.test_live_aiter import ENTRY, QUICK, Found, torchrun

SHAPE = ("--hidden", "1536", "--tokens", "4", "--seed", "7")


def measured(tmp_path, arms, *more, ranks=2, **environment):
    """Measure arms at one shape; return (rows, kernels by arm, reasons of those skipped)."""
    run = tmp_path / "run"
    code, out, said = torchrun(
        *ENTRY, *SHAPE, "--arms", arms, *QUICK, *more, "--out", run, ranks=ranks, **environment
    )
    assert code == 0, (out[-2000:], said)
    rows = measurement.read(run / "measurements.csv")
    record = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    kernels = {arm: result["kernels"] for arm, result in record["arms"].items()}
    names = sorted(zip(rows.op, rows.algorithm, rows.kernel_family, strict=True))
    return names, kernels, record.get("skipped", {})


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.campaign)])
def test_both_stages_of_the_fused_mhc_run_their_own_kernels(tmp_path, ranks):
    rows, kernels, skipped = measured(tmp_path, "mhc_1stage,mhc_2stage", ranks=ranks)
    assert rows == [
        ("fused_ar_mhc", "1stage", "aiter-standin"), ("fused_ar_mhc", "2stage", "aiter-standin"),
    ]  # fmt: skip
    assert kernels == {
        "mhc_1stage": [f"aiter::allreduce_mhc_post_large_m_kernel<__bf16, {ranks}, 4, false>"],
        "mhc_2stage": [
            f"aiter::reduce_scatter_cross_device_store<__bf16, {ranks}>",
            "aiter::mhc_post_kernel<__bf16, 256>",
        ],
    }
    assert skipped == {}


def test_a_rank_that_the_mixing_leaves_out_is_seen(tmp_path):
    code, out, _ = torchrun(
        *ENTRY, *SHAPE, "--arms", "mhc_1stage", *QUICK, "--out", tmp_path / "run",
        AITER_STANDIN_FAULT="wrong-1stage",
    )  # fmt: skip
    assert code != 0
    assert "mhc_1stage  WRONG on rank 1" in out


def test_one_wrong_stream_of_four_is_seen():
    import torch

    from costmodel.live.backends.aiter.mhc import Mixing

    torch.manual_seed(1)
    residual, weight, x = torch.randn(3, 64), torch.ones(64), torch.randn(3, 64)
    mixing = Mixing(residual)
    kept = torch.einsum("tij,tih->tjh", mixing.comb, mixing.streams)
    written = x.unsqueeze(1) * mixing.post.unsqueeze(-1) + kept
    right = mixing.read(written, residual, weight)
    assert torch.allclose(right.residual_out, x + residual, atol=1e-5)
    for stream in range(4):
        for wrong in (0.0, float("nan")):
            spoiled = written.clone()
            spoiled[1, stream, 5] = wrong
            off = mixing.read(spoiled, residual, weight).residual_out - (x + residual)
            assert not (off[1, 5].abs() < 0.01)
            assert off[0].abs().max() < 1e-5


def test_the_norm_of_separate_ops_is_the_one_named(tmp_path):
    rows, kernels, _ = measured(tmp_path, "separate,1stage", "--norm", "vllm")
    assert ("ar_then_rmsnorm", "", "aiter-standin") in rows
    assert kernels["separate"] == [
        "aiter::cross_device_reduce_1stage<__bf16, 2>",
        "vllm::fused_add_rms_norm_kernel<__hip_bfloat16, 8>",
    ]
    run = tmp_path / "run"
    settings = json.loads((run / "run.json").read_text())
    assert settings["norm"] == "vllm"
    assert settings["id"].startswith("aiter-vllm-norm-tp2-")
    code, out, _ = torchrun(*ENTRY, "--resume", "--out", run)
    assert code == 0
    assert "separate ops end in vllm._custom_ops.fused_add_rms_norm(input, residual," in out
    code, _, said = torchrun(*ENTRY, "--resume", "--norm", "aiter", "--out", run)
    assert code != 0
    assert "--resume: --norm is aiter, the run in" in said[0]


def test_a_norm_in_place_that_adds_nothing_is_seen(tmp_path):
    import shutil

    from tests.test_live_aiter import STANDINS

    standin = tmp_path / "standin"
    shutil.copytree(STANDINS, standin)
    file = standin / "vllm" / "_custom_ops.py"
    text = file.read_text()
    assert "        residual.copy_(summed)\n" in text
    file.write_text(text.replace("        residual.copy_(summed)\n", ""))
    code, out, _ = torchrun(
        *ENTRY, *SHAPE, "--arms", "separate", "--norm", "vllm", *QUICK, "--out", tmp_path / "run",
        path=standin,
    )  # fmt: skip
    assert code != 0
    assert "separate  WRONG on rank" in out


@pytest.mark.parametrize(
    ("backend", "norm", "said"),
    [
        ("aiter", "sglang", "--norm sglang: aiter offers aiter, vllm"),
        ("gloo", "vllm", "--norm vllm: gloo has one norm alone"),
    ],
)
def test_a_norm_that_is_not_on_offer_is_one_line(tmp_path, capsys, backend, norm, said):
    from costmodel.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["measure", "--backend", backend, "--tp", "2", "--norm", norm, "--hidden", "512",
              "--tokens", "1", "--out", str(tmp_path / "run")])  # fmt: skip
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"costmodel: error: {said}\n"


def test_without_vllm_its_norm_is_refused_before_anything_runs(tmp_path):
    import shutil

    from tests.test_live_aiter import STANDINS

    shutil.copytree(STANDINS / "aiter", tmp_path / "standin" / "aiter")
    code, _, said = torchrun(
        *ENTRY, *SHAPE, "--arms", "separate", "--norm", "vllm", "--out", tmp_path / "run",
        path=tmp_path / "standin",
    )  # fmt: skip
    assert code != 0
    assert len(said) == 1
    assert "--norm vllm calls vllm._custom_ops.fused_add_rms_norm, which is not here" in said[0]
    assert not (tmp_path / "run").exists()


def test_on_gfx1250_the_plain_all_reduce_pushes_and_has_a_family_of_its_own(tmp_path):
    rows, kernels, skipped = measured(
        tmp_path, "plain_1stage,plain_ll,plain_ll128,mhc_1stage", AITER_STANDIN_FAULT="gfx1250"
    )
    assert rows == [("all_reduce", "1stage", "aiter-standin-ll")]
    assert kernels == {"plain_ll": ["aiter::ar_ll_gfx1250<__bf16, 2>"]}
    assert skipped["plain_1stage"].startswith("AITER's plain all-reduce for gfx1250 has other")
    assert skipped["plain_ll128"] == "AITER 0.1.18 has LL alone"
    assert "other GPUs than gfx1250" in skipped["mhc_1stage"]


def test_what_a_newer_aiter_pushes_is_told_by_the_kernels_that_ran(tmp_path):
    rows, kernels, skipped = measured(
        tmp_path, "plain_ll,plain_ll128", AITER_STANDIN_VERSION="0.1.21",
        AITER_STANDIN_FAULT="ll128",
    )  # fmt: skip
    assert rows == [("all_reduce", "1stage", "aiter-standin-ll128")]
    assert list(kernels) == ["plain_ll128"]
    assert skipped["plain_ll"].startswith("plain_ll was asked for and LL128 ran on rank 0: aiter::")


@pytest.mark.parametrize(
    ("version", "arm", "shape", "message"),
    [
        ("0.1.18", "mhc_1stage", (1, 4096, "bf16"), None),
        ("0.1.18", "mhc_1stage", (1, 4104, "bf16"), "takes hidden / 8 up to 512"),
        ("0.1.18", "mhc_1stage", (1, 4096, "fp16"), None),
        ("0.1.18", "mhc_1stage", (1, 1024, "fp32"), "takes bf16 and fp16"),
        ("0.1.18", "mhc_2stage", (1, 7168, "bf16"), None),
        ("0.1.18", "mhc_2stage", (1, 7168, "fp32"), "takes bf16 and fp16"),
        ("0.1.18", "mhc_2stage", (1, 2888, "bf16"), "a multiple of ranks"),
        ("0.1.18", "mhc_2stage", (4, 2880, "bf16"), "takes hidden_dim in multiples of 256"),
        ("0.1.18", "mhc_2stage", (4, 256, "bf16"), "in blocks of 256, and no row of one"),
        ("0.1.18", "mhc_2stage", (4, 512, "bf16"), "in blocks of 512, and no row of one"),
        ("0.1.18", "mhc_2stage", (4, 768, "bf16"), None),
        ("0.1.18", "mhc_2stage", (4, 1024, "bf16"), None),
        ("0.1.20.post1", "plain_ll", (1, 4096, "bf16"), "AITER 0.1.20.post1 pushes on gfx1250"),
        ("0.1.20.post1", "plain_ll128", (1, 4096, "bf16"), "AITER 0.1.20.post1 pushes on gfx1250"),
        ("0.1.21", "plain_ll", (1, 4096, "bf16"), None),
    ],
)
def test_what_these_arms_take(version, arm, shape, message):
    from costmodel.live.backends.aiter.adapter import AiterBackend

    backend = AiterBackend(4)
    backend._aiter = Found(version)
    reason = backend.reason_against(LiveShape(*shape), arm)
    assert (reason is None) if message is None else (message in reason)


@pytest.mark.parametrize(
    ("release", "tokens", "taken"),
    [("0.1.18", 16, True), ("0.1.18", 17, False), ("0.1.20", 17, True), ("0.1.20", 513, False)],
)
def test_how_much_gfx1250_pushes_is_the_releases(release, tokens, taken):
    from types import SimpleNamespace

    from costmodel.data import kernels
    from costmodel.live.backends.aiter.arms import reason_against

    card = SimpleNamespace(_is_gfx1250=True, custom_all_reduce=None)
    shape = LiveShape(tokens, 4096, "bf16")
    reason = reason_against("plain_ll", shape, 4, card, kernels.aiter(release))
    assert (reason == "") is taken, reason


@pytest.mark.parametrize(
    ("arch", "hidden_dim", "taken"),
    [
        ("gfx942", 1024, True),
        ("gfx950", 1024, False),
        ("gfx950", 1536, True),
        ("gfx950", 2048, True),
    ],
)
def test_a_row_of_the_mixing_has_two_blocks_on_its_arch(arch, hidden_dim, taken):
    from costmodel.live.backends.aiter.mhc import reason_against

    shape = LiveShape(4, hidden_dim, "bf16")
    reason = reason_against(shape, "2stage", 4, None, arch)
    assert (reason == "") is taken, reason


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_the_self_check_leaves_no_arm_out_for_its_shape(arch):
    from costmodel.live.backends.aiter import mhc
    from costmodel.live.backends.aiter.adapter import AiterBackend
    from costmodel.live.backends.aiter.self_check import CHECK_SHAPE

    for ranks in (2, 4, 8):
        for stage in ("1stage", "2stage"):
            assert mhc.reason_against(CHECK_SHAPE, stage, ranks, None, arch) == ""
        for version in ("0.1.10.post2", "0.1.12", "0.1.17", "0.1.20.post1"):
            backend = AiterBackend(ranks)
            backend._aiter = Found(version)
            arms = ("1stage", "2stage", "fp8_token_1stage", "fp8_group_2stage", "mxfp4_2stage")
            assert [backend.reason_against(CHECK_SHAPE, arm) for arm in arms] == [None] * 5


def test_an_aiter_without_the_mixing_says_what_brought_it(tmp_path):
    _, _, skipped = measured(
        tmp_path, "1stage,mhc_1stage,mhc_2stage", AITER_STANDIN_VERSION="0.1.16"
    )
    for arm, name in (("mhc_1stage", "one_stage"), ("mhc_2stage", "split")):
        assert skipped[arm] == (
            f"this AITER has no fused_allreduce_mhc_post_{name} (it came with 0.1.17)"
        )


def test_a_switch_against_pushing_is_noticed():
    from costmodel.live.backends.aiter import variables

    off = {"AITER_CUSTOM_AR_DISABLE_LL": "1"}
    assert "keeps the plain all-reduce from pushing" in variables.reason_against("plain_ll", off)
    assert variables.reason_against("plain_1stage", off) == ""
    assert variables.reason_against("plain_ll", {"AITER_CUSTOM_AR_DISABLE_LL": "0"}) == ""


MIXED = "aiter::allreduce_mhc_post_large_m_kernel<__bf16, 2, 4, false>"
PLAIN = "aiter::cross_device_reduce_1stage<__bf16, 2>"
PUSH, PUSH128 = "aiter::ar_ll_gfx1250<__bf16, 2>", "aiter::ar_ll128_vec_unroll2<__bf16, 2>"


@pytest.mark.parametrize(
    ("arm", "names", "said"),
    [
        ("mhc_1stage", [MIXED], ""),
        ("mhc_1stage", [PLAIN], "another op ran"),
        ("plain_1stage", [PLAIN], ""),
        ("plain_1stage", [PUSH], "LL ran"),
        ("plain_1stage", [MIXED], "another op ran"),
        ("plain_ll", [PUSH], ""),
        ("plain_ll", [PUSH128], "LL128 ran"),
        ("plain_ll", [PLAIN], "no kernel of that name ran"),
        ("plain_ll", [], "no kernel of that name ran"),
        ("plain_ll128", [PUSH128], ""),
    ],
)
def test_names_of_kernels_say_whether_an_arm_ran_its_own(arm, names, said):
    reasons = refusals({arm: [names, names]}, 2)
    assert said in reasons.get(arm, "")
    assert bool(said) == bool(reasons)


def test_every_op_and_algorithm_has_one_arm_and_one_that_pushes_is_not_it():
    for arm in set(ARMS) - set(PUSHED):
        assert arm_of(*op_and_algorithm(arm)) == arm
    for arm in PUSHED:
        assert arm_of(*op_and_algorithm(arm)) == "plain_1stage"


@pytest.mark.parametrize(("family", "name"), known_kernels.OTHER_BACKENDS.items())
def test_back_ends_of_other_kernels_can_force_what_plans_say_that_they_can(family, name):
    backend = load(name)
    assert backend.kernel_family == family
    assert ALL_REDUCE in backend.forced_ops
