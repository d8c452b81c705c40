"""The AITER adapter against the stand-in of tests/standins, in processes that torchrun started.

What the stand-in keeps of the real thing is in its docstring. Nothing here ran on an AMD GPU.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the live back ends compute with torch")

from costmodel.data import measurement

STANDINS = Path(__file__).parent / "standins"
ENTRY = ("-m", "costmodel", "measure", "--backend", "aiter")
#: Kernels of the stand-in for bf16 on 2 ranks: 1-stage's, and the two of 2-stage.
KERNELS = (
    "aiter::allreduce_fusion_kernel_1stage<__bf16, __bf16, 2, false>",
    "aiter::reduce_scatter_cross_device_store<__bf16, 2>",
    "aiter::local_device_load_rmsnorm<__bf16, 512, 1, false>",
)
QUICK = ("--rounds", "4", "--samples", "2", "--slots", "2", "--calls", "4")


def torchrun(*arguments, ranks=2, path=STANDINS, **environment):
    """Run a command on ``ranks`` processes; return (exit code, output, lines of costmodel's own)."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **environment},
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("costmodel: ")]
    return done.returncode, done.stdout, said


def test_all_arms_are_checked_measured_and_marked_as_of_a_standin(tmp_path):
    run = tmp_path / "run"
    code, out, _ = torchrun(
        *ENTRY, "--hidden", "1024", "--tokens", "1,480", "--arms", "1stage,2stage,auto,separate",
        *QUICK, "--seed", "7", "--out", run,
    )  # fmt: skip
    assert code == 0
    assert "aiter 0.1.18 at" in out
    assert "A STAND-IN: these numbers are of no GPU" in out
    assert "custom_fused_ar_rms(input, residual_inp, weight, eps, use_1stage, " in out
    assert "custom all-reduce enabled on 2 ranks, fully connected: True" in out
    for arm in ("forced 1stage", "forced 2stage", "auto", "separate"):
        for how in ("captured into a graph and replayed", "called eagerly"):
            assert f"{arm}, {how}, agrees with the fp32 reference on all ranks" in out
    one_stage, *two_stage = KERNELS
    assert f"forced 1stage ran {one_stage}" in out
    assert f"forced 2stage ran {', '.join(two_stage)}" in out
    table = measurement.read(run / "measurements.csv")
    assert len(table) == 8
    assert set(table.interconnect) == {"standin"}
    assert set(table.quality) == {"suspect"}
    assert set(table.kernel_family) == {"aiter-standin"}
    assert set(table.timing) == {"graph"}
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    # 1 and 480 tokens lie on either side of AITER's rule, 128 * 7168 * 2 // 2 bytes
    kernels = {line["point"]["tokens"]: line["arms"]["auto"]["kernels"] for line in lines}
    assert kernels[1] == [one_stage]
    assert kernels[480] == two_stage


def test_eager_on_request_is_labelled(tmp_path):
    run = tmp_path / "run"
    code, _, _ = torchrun(
        *ENTRY, "--hidden", "1024", "--tokens", "2", "--timing", "eager", *QUICK, "--out", run
    )
    assert code == 0
    assert set(measurement.read(run / "measurements.csv").timing) == {"eager"}


def test_a_wrong_stage_is_reported_by_the_check_and_never_timed(tmp_path):
    run = tmp_path / "run"
    code, out, _ = torchrun(
        *ENTRY, "--hidden", "1024", "--tokens", "2", *QUICK, "--out", run,
        AITER_STANDIN_FAULT="wrong-1stage",
    )  # fmt: skip
    assert code != 0
    assert "forced 1stage, called eagerly, DISAGREES with the fp32 reference on some rank" in out
    assert "forced 2stage, called eagerly, agrees with the fp32 reference" in out
    assert "1stage    WRONG on rank 1" in out
    assert set(measurement.read(run / "measurements.csv").algorithm) == {"2stage"}


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--hidden", "1024"), {"AITER_STANDIN_FAULT": "disabled"}, "all-reduce is disabled on 2"),
        (("--hidden", "1024"), {"AITER_STANDIN_FAULT": "none"}, "its custom op returned nothing"),
        (
            ("--hidden", "1024", "--arms", "auto"),
            {"AITER_AR_1STAGE": "1"},
            "AITER_AR_1STAGE is set, so AITER does not choose; unset it",
        ),
    ],
)
def test_bad_input_is_said_once(tmp_path, arguments, environment, message):
    code, _, said = torchrun(
        *ENTRY, *arguments, "--tokens", "1", "--out", tmp_path / "run", **environment
    )
    assert code != 0
    assert len(said) == 1
    assert said[0].startswith("costmodel: error: ")
    assert message in said[0]
    assert not (tmp_path / "run").exists()


FIND = """
import sys
from costmodel.errors import InputError
from costmodel.live.backends.aiter.installation import find
try:
    found = find()
except InputError as error:
    sys.exit(str(error))
print(found.version)
"""


def find(path, **environment):
    done = subprocess.run(
        [sys.executable, "-c", FIND],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path), **environment},
    )
    return done.stdout.strip(), done.stderr.strip()


def test_no_aiter_at_all(tmp_path):
    _, error = find(tmp_path)
    assert error.startswith("AITER is not installed; run inside a ROCm container")


def test_the_other_library_of_that_name_is_named(tmp_path):
    """PyPI's aiter, as its wheel lies on disk: a package, and metadata that say what it is."""
    (tmp_path / "aiter").mkdir()
    (tmp_path / "aiter" / "__init__.py").write_text("import a_module_that_is_not_there\n")
    information = tmp_path / "aiter-0.13.20191203.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: aiter\nVersion: 0.13.20191203\n"
        "Summary: Useful patterns building upon asynchronous iterators.\n"
    )
    _, error = find(tmp_path)
    assert error == (
        f"the 'aiter' at {tmp_path / 'aiter'} is not AITER but another library (version "
        "0.13.20191203, 'Useful patterns building upon asynchronous iterators.'); uninstall it, "
        "and use AITER from a ROCm container or github.com/ROCm/aiter"
    )


def changed(tmp_path, file, old, new):
    """Copy the stand-in, with one text of one file replaced, to a place of its own."""
    shutil.copytree(STANDINS, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "aiter" / file).read_text()
    assert old in text
    (tmp_path / "aiter" / file).write_text(text.replace(old, new))
    return tmp_path


def test_aiter_without_rocm_says_what_torch_is_built_for(tmp_path):
    _, error = find(changed(tmp_path, "__init__.py", "__costmodel_standin__ = True", ""))
    assert error.startswith("back end aiter needs a ROCm build of torch and AMD GPUs; this torch")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("dist/parallel_state.py", "local_rank=-1, ", "", "has no local_rank"),
        (
            "dist/communication_op.py",
            "    eps,\n    prefill_support=False",
            "    eps,\n    s,\n    prefill_support=False",
            "cannot take 4 arguments",
        ),
        (
            "dist/communication_op.py",
            "def tensor_model_parallel_all_r",
            "def r",
            "has no aiter.dist",
        ),
    ],
)
def test_another_interface_is_named(tmp_path, file, old, new, message):
    _, error = find(changed(tmp_path, file, old, new))
    assert error.startswith("this AITER")
    assert message in error
    assert len(error.splitlines()) == 1


class Found:
    """As much of a found AITER as the limits depend on."""

    forced = ""

    def __init__(self, version):
        self.version = version


def reason_against(version, arm, tokens, hidden_dim):
    from costmodel.live.backends.aiter.adapter import AiterBackend
    from costmodel.live.backends.base import LiveShape

    backend = AiterBackend(2)
    backend._aiter = Found(version)
    return backend.reason_against(LiveShape(tokens, hidden_dim, "bf16"), arm)


@pytest.mark.parametrize(
    ("version", "arm", "tokens", "hidden_dim", "message"),
    [
        ("0.1.10.post3", "1stage", 1, 2880, "AITER 0.1.10.post3 takes hidden_dim (512, 1024, 2048"),
        ("0.1.11", "1stage", 1, 2880, "AITER 0.1.11 takes hidden_dim (512, 1024, 2048, 4096) only"),
        ("0.1.12", "1stage", 1, 2880, None),
        ("0.1.16", "1stage", 81, 4096, "1-stage kernel of AITER 0.1.16 takes at most 80 tokens"),
        ("0.1.17", "1stage", 81, 4096, None),
        ("0.1.18", "1stage", 1, 8192, None),
        ("0.1.18", "1stage", 1, 8200, "hidden_dim up to 8192"),
        ("0.1.18", "2stage", 1, 8200, None),
        ("0.1.18", "2stage", 1, 16384, None),
        ("0.1.18", "2stage", 1, 16392, "hidden_dim up to 16384"),
        ("0.1.18", "2stage", 1, 504, "hidden_dim from 512 on"),
        ("0.1.18", "2stage", 1, 512, None),
        ("0.1.18", "2stage", 8192, 4096, None),
        ("0.1.18", "2stage", 8193, 4096, "at most 67108864 bytes a rank"),
        ("0.1.18", "1stage", 8193, 4096, "at most 67108864 bytes a rank"),
        ("0.1.18", "auto", 8193, 4096, None),  # AITER may have another way
        ("0.1.18", "separate", 8193, 4096, None),
        ("0.1.18", "separate", 1, 2884, "multiple of 8"),
        ("0.1.18", "auto", 1, 4096, None),
        ("0.1.13.dev4+g1a2b", "1stage", 81, 4096, "AITER 0.1.13 takes at most 80 tokens"),
        ("g1a2b", "1stage", 81, 2880, None),  # a commit, or no version: taken for the newest
        ("", "1stage", 81, 2880, None),
    ],
)
def test_the_limits_of_each_release(version, arm, tokens, hidden_dim, message):
    reason = reason_against(version, arm, tokens, hidden_dim)
    assert (reason is None) if message is None else (message in reason)


def test_another_size_limit_is_left_to_aiter(monkeypatch):
    monkeypatch.setenv("AITER_CUSTOM_AR_MAX_SIZE", str(128 << 20))
    assert reason_against("0.1.18", "2stage", 8193, 4096) is None
