"""What an arm ran, by the names of its kernels: arms that ran something else are not timed."""

import json
import os
import sys
import types

import pytest
from test_live_aiter import ENTRY, KERNELS, QUICK, torchrun

from costmodel.data import measurement
from costmodel.live.run.proof import distinct, refusals

ONE, *TWO = KERNELS
PLAIN, NORM = "aiter::cross_device_reduce_1stage<__bf16, 2>", "aiter::add_rmsnorm_quant_kernel<x>"


def refused(world_size=2, **ran):
    return refusals({arm.strip("_"): names for arm, names in ran.items()}, world_size)


def test_arms_that_ran_their_own_kernels_are_timed():
    assert refused(_1stage=[[ONE]], _2stage=[TWO * 4], auto=[[ONE]], separate=[[PLAIN, NORM]]) == {}
    assert refused(_1stage=[[], []], _2stage=[[], []]) == {}  # nothing can be read
    assert refused(_1stage=[["a"]], _2stage=[["b", "c"]]) == {}  # unknown to every table
    assert refused(_1stage=[[ONE, "fill"]], _2stage=[["fill", *TWO]]) == {}


def test_a_stage_that_fell_back_is_named_with_what_ran():
    said = refused(_1stage=[TWO * 2], _2stage=[TWO * 2])
    assert list(said) == ["1stage"]
    assert said["1stage"] == f"1-stage was asked for and 2-stage ran: {', '.join(TWO)}"
    said = refused(_1stage=[[ONE], TWO], _2stage=[TWO, TWO])
    assert said["1stage"].startswith("1-stage was asked for and 2-stage ran on rank 1: ")
    assert refused(_2stage=[[ONE]])["2stage"].startswith("2-stage was asked for and 1-stage ran")


@pytest.mark.parametrize(
    ("arm", "names", "says"),
    [
        ("_2stage", TWO[:1], "half of a 2-stage call ran"),
        ("_1stage", [PLAIN], "1-stage was asked for and another op ran"),
        ("_1stage", ["ncclDevKernel_Generic_1", NORM], "1-stage was asked for and another op ran"),
        ("_1stage", [ONE.replace("2, f", "8, f")], "a kernel for 8 ranks ran, not for 2"),
        ("separate", [ONE], "a fused kernel ran"),
    ],
)
def test_what_else_is_no_proof(arm, names, says):
    (reason,) = refused(**{arm: [names]}).values()
    assert reason.startswith(says)


def test_two_arms_that_are_one_kernel_are_both_named():
    said = refused(_1stage=[["k", "k"]], _2stage=[["k"]], auto=[["k"]])
    assert said == {
        "1stage": "it ran the same kernels as 2-stage: k",
        "2stage": "it ran the same kernels as 1-stage: k",
    }


def test_names_are_kept_once_in_order():
    assert distinct([*TWO, *TWO, ONE]) == (*TWO, ONE)


def measured(tmp_path, fault="", code=0, **environment):
    run = tmp_path / "run"
    done, out, _ = torchrun(
        *ENTRY, "--hidden", "1024", "--tokens", "2", *QUICK, "--out", run, "--arms",
        "1stage,2stage,auto,separate", AITER_STANDIN_FAULT=fault, AITER_LOG_LEVEL="ERROR",
        **environment,
    )  # fmt: skip
    assert (done != 0) == code, out
    record = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    return out, record, measurement.read(run / "measurements.csv")


def test_the_record_holds_the_kernels_of_every_arm(tmp_path):
    _, record, _ = measured(tmp_path)
    kernels = {arm: result["kernels"] for arm, result in record["arms"].items()}
    assert kernels["1stage"] == kernels["auto"] == [ONE]
    assert kernels["2stage"] == TWO
    assert kernels["separate"] == [PLAIN, "aiter::add_rmsnorm_quant_kernel<__bf16>"]


def test_a_one_stage_that_fell_back_is_skipped_and_the_others_are_timed(tmp_path):
    out, record, table = measured(tmp_path, "falls-back")
    assert (
        "1stage    skipped: 1-stage was asked for and 2-stage ran on rank 0: aiter::reduce" in out
    )
    assert record["skipped"]["1stage"].endswith(TWO[1])
    assert [*record["arms"]] == ["2stage", "auto", "separate"]
    assert "1stage" not in set(table.algorithm)
    assert len(table) == 3


def test_a_compiled_kernel_older_than_its_source_is_not_timed(tmp_path):
    source = tmp_path / "csrc" / "include" / "custom_all_reduce.cuh"
    built = tmp_path / "jit" / "module_custom_all_reduce.so"
    for file, when in ((source, 1.8e9), (built, 1.7e9)):
        file.parent.mkdir(parents=True)
        file.write_text("")
        os.utime(file, (when, when))
    code, _, said = torchrun(
        *ENTRY, "--hidden", "1024", "--tokens", "2", *QUICK, "--out", tmp_path / "run",
        AITER_META_DIR=str(tmp_path), AITER_JIT_DIR=str(tmp_path / "jit"), AITER_LOG_LEVEL="ERROR",
    )  # fmt: skip
    assert code != 0
    assert len(said) == 1
    assert (
        "AITER's compiled module_custom_all_reduce.so (2023-11-14 22:13 UTC) is older than its "
        "source custom_all_reduce.cuh (2027-01-15 08:00 UTC), so the installed kernels would not "
        "run; set AITER_REBUILD=1 once" in said[0]
    )


def test_a_module_unpacked_with_its_sources_is_not_old(tmp_path, monkeypatch):
    from costmodel.live.backends.aiter import kernel_cache

    core = types.ModuleType("aiter.jit.core")
    core.get_user_jit_dir, core.AITER_CSRC_DIR = lambda: str(tmp_path), str(tmp_path / "csrc")
    monkeypatch.setitem(sys.modules, "aiter.jit.core", core)
    assert kernel_cache.stale() == ""  # neither is there
    (tmp_path / "csrc" / "kernels").mkdir(parents=True)
    source = tmp_path / "csrc" / "kernels" / "custom_all_reduce.cu"
    source.write_text("")
    assert kernel_cache.stale() == ""  # it will be built
    (tmp_path / kernel_cache.MODULE).write_text("")
    now = source.stat().st_mtime
    os.utime(tmp_path / kernel_cache.MODULE, (now - 599, now - 599))
    assert kernel_cache.stale() == ""
    os.utime(tmp_path / kernel_cache.MODULE, (now - 601, now - 601))
    assert "is older than its source custom_all_reduce.cu" in kernel_cache.stale()
