"""The AITER adapter against the stand-in of tests/standins, in processes that torchrun started.

What the stand-in keeps of the real thing is in its docstring. Nothing here ran on an AMD GPU.
"""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from ranks import alone
from ranks import torchrun as under_torchrun

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


def torchrun(*arguments, ranks=2, path=STANDINS, forked=True, **environment):
    """Run a command on ``ranks`` processes; return (exit code, output, lines of costmodel's own)."""
    done = under_torchrun(
        ranks, *arguments, forked=forked, timeout=90,
        env={**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith("costmodel: ")]
    return done.returncode, done.stdout, said


def test_all_arms_are_checked_measured_and_marked_as_of_a_standin(tmp_path):
    run = tmp_path / "run"
    code, out, _ = torchrun(
        *ENTRY, "--hidden", "1024", "--tokens", "1,480", "--arms", "1stage,2stage,auto,separate",
        *QUICK, "--seed", "7", "--out", run, forked=False,
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


OTHER = (
    "plain_1stage", "fp8_token_1stage", "fp8_token_2stage", "fp8_group_1stage", "fp8_group_2stage",
    "mxfp4_1stage", "mxfp4_2stage",
)  # fmt: skip


def test_other_ops_are_checked_and_measured_as_rows_of_their_own(tmp_path):
    run = tmp_path / "run"
    code, out, _ = torchrun(
        *ENTRY, "--hidden", "1024", "--tokens", "3", "--arms", ",".join((*OTHER, "plain_2stage")),
        *QUICK, "--seed", "7", "--out", run,
    )  # fmt: skip
    assert code == 0
    table = measurement.read(run / "measurements.csv")
    assert sorted(zip(table.op, table.algorithm, strict=True)) == [
        ("all_reduce", "1stage"),
        ("fused_ar_rmsnorm_quant_fp8", "1stage"), ("fused_ar_rmsnorm_quant_fp8", "2stage"),
        ("fused_ar_rmsnorm_quant_fp8_per_token", "1stage"),
        ("fused_ar_rmsnorm_quant_fp8_per_token", "2stage"),
        ("fused_ar_rmsnorm_quant_mxfp4", "1stage"), ("fused_ar_rmsnorm_quant_mxfp4", "2stage"),
    ]  # fmt: skip
    assert "plain_2stage  skipped: AITER's own dispatch does not take 2-stage at 6144 bytes" in out
    record = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    errors = {arm: result["worst_error"] for arm, result in record["arms"].items()}
    assert all(0.1 < errors[arm] < 1.0 for arm in OTHER[1:]), errors  # quantised, and no more


def test_a_rank_left_out_is_seen_behind_a_quantised_output(tmp_path):
    run = tmp_path / "run"
    code, out, _ = torchrun(
        *ENTRY, "--hidden", "1024", "--tokens", "2", "--arms", "fp8_group_1stage,mxfp4_1stage",
        *QUICK, "--out", run, AITER_STANDIN_FAULT="wrong-1stage",
    )  # fmt: skip
    assert code != 0
    assert "fp8_group_1stage  WRONG on rank 1" in out
    assert "mxfp4_1stage  WRONG on rank 1" in out
    assert (run / "measurements.csv").read_text().count("\n") == 1  # its header


def test_an_op_that_an_older_aiter_lacks_is_skipped_with_the_release_that_brought_it():
    for arm, since in (("fp8_token_1stage", "0.1.10.post3"), ("mxfp4_2stage", "0.1.16")):
        assert f"(it came with {since})" in older(arm, 4096)


@pytest.mark.parametrize(
    ("arm", "hidden_dim", "dtype", "message"),
    [
        ("fp8_group_1stage", 4160, "bf16", "in multiples of 128"),
        ("mxfp4_1stage", 4112, "bf16", "in multiples of 32"),
        ("fp8_token_1stage", 4096, "fp32", "takes bf16 and fp16"),
        ("fp8_token_1stage", 8200, "bf16", "hidden / 8 <= 1024"),
        ("plain_1stage", 4096, "bf16", None),
    ],
)
def test_what_the_other_ops_take(arm, hidden_dim, dtype, message):
    from costmodel.live.backends.aiter.adapter import AiterBackend
    from costmodel.live.backends.base import LiveShape

    backend = AiterBackend(4)
    backend._aiter = Found("0.1.18")
    reason = backend.reason_against(LiveShape(4, hidden_dim, dtype), arm)
    assert (reason is None) if message is None else (message in reason)


def older(arm, hidden_dim):
    """Return what the adapter says of an arm to an AITER whose communicator has the fused op alone."""
    from costmodel.live.backends.aiter.adapter import AiterBackend
    from costmodel.live.backends.base import LiveShape

    class Oldest:
        def should_custom_ar(self, input):
            return True

        def custom_fused_ar_rms(self, input, residual_inp, weight, eps, use_1stage):
            raise AssertionError

    backend = AiterBackend(2)
    backend._aiter, backend._communicator = Found("0.1.10.post2"), Oldest()
    return backend.reason_against(LiveShape(4, hidden_dim, "bf16"), arm)


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
        (
            ("--hidden", "1024"),
            {"AITER_STANDIN_FAULT": "none"},
            "nothing could be measured: AITER refuses it: its custom op returned nothing",
        ),
        (
            ("--hidden", "1024", "--arms", "auto"),
            {"AITER_AR_1STAGE": "1"},
            "AITER_AR_1STAGE=1 is set, which makes AITER's choice for it; unset it",
        ),
        (
            ("--hidden", "1024"),
            {"PYTORCH_HIP_ALLOC_CONF": "expandable_segments:True"},
            "PYTORCH_HIP_ALLOC_CONF=expandable_segments:True: AITER cannot give such memory",
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
    assert not (tmp_path / "run" / "measurements.csv").exists() or "nothing" in message


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
    out, error = alone(FIND, {**os.environ, "PYTHONPATH": str(path), **environment})
    return out.strip(), error.strip()


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
        ("0.1.10.post2", "1stage", 1, 4096, None),
        ("0.1.10.post1", "1stage", 1, 4096, "no 1-stage fused kernel (it came with 0.1.10.post2)"),
        ("0.1.10.post3", "1stage", 1, 2880, "AITER 0.1.10.post3 needs hidden in {512, 1024, 2048"),
        ("0.1.11", "1stage", 1, 2880, "AITER 0.1.11 needs hidden in {512, 1024, 2048, 4096}"),
        ("0.1.12", "1stage", 1, 2880, None),
        ("0.1.16", "1stage", 81, 4096, "1-stage kernel of AITER 0.1.16 needs"),
        ("0.1.16", "1stage", 81, 4096, "tokens <= 80"),
        ("0.1.17", "1stage", 81, 4096, None),
        ("0.1.18", "1stage", 1, 8192, None),
        ("0.1.18", "1stage", 1, 8200, "hidden / 8 <= 1024"),
        ("0.1.18", "2stage", 2, 8200, None),
        ("0.1.18", "2stage", 1, 16384, None),
        ("0.1.18", "2stage", 2, 16392, "hidden / 8 <= 2048"),
        ("0.1.18", "2stage", 2, 504, "hidden / 8 >= 64"),
        ("0.1.18", "2stage", 1, 512, None),
        ("0.1.18", "2stage", 1, 2888, "tokens x hidden / 8 a multiple of the ranks"),
        ("0.1.18", "2stage", 2, 2888, None),
        ("0.1.18", "2stage", 8192, 4096, None),
        ("0.1.18", "2stage", 8193, 4096, "at most 67108864 bytes a rank"),
        ("0.1.18", "1stage", 8193, 4096, "at most 67108864 bytes a rank"),
        ("0.1.12", "2stage", 8193, 4096, None),
        ("0.1.12", "2stage", 65537, 4096, "at most 536870912 bytes a rank"),
        ("0.1.13", "2stage", 8193, 4096, "at most 67108864 bytes a rank"),
        ("0.1.11", "2stage", 8193, 4096, "at most 67108864 bytes a rank"),
        ("0.1.18", "auto", 8193, 4096, None),  # AITER may have another way
        ("0.1.18", "separate", 8193, 4096, None),
        ("0.1.18", "separate", 1, 2884, "multiple of 8"),
        ("0.1.18", "auto", 1, 4096, None),
        ("0.1.13.dev4+g1a2b", "1stage", 81, 4096, "AITER 0.1.13 needs"),
        ("g1a2b", "1stage", 81, 2880, None),  # a commit, or no version: taken for the newest
        ("", "1stage", 81, 2880, None),
    ],
)
def test_the_limits_of_each_release(version, arm, tokens, hidden_dim, message):
    reason = reason_against(version, arm, tokens, hidden_dim)
    assert (reason is None) if message is None else (message in reason)


def test_a_communicator_that_disabled_itself_is_one_line():
    """Real AITER then leaves its constructor early, without the attributes of one that works."""
    from costmodel.errors import InputError
    from costmodel.live.backends.aiter.installation import Aiter

    group = SimpleNamespace(
        device_communicator=SimpleNamespace(ca_comm=SimpleNamespace(disabled=True))
    )
    with pytest.raises(InputError, match=r"disabled on 2 ranks \(fully connected: not asked\)"):
        Aiter.communicator(SimpleNamespace(get_tp_group=lambda: group), 2)


@pytest.mark.parametrize(
    ("given", "level"), [({}, "WARNING"), ({"AITER_LOG_LEVEL": "INFO"}, "INFO")]
)
def test_aiters_log_is_silent_unless_it_is_asked_for(given, level):
    script = FIND + "import os\nprint(os.environ['AITER_LOG_LEVEL'])"
    environment = {k: v for k, v in os.environ.items() if k != "AITER_LOG_LEVEL"}
    out, _ = alone(script, {**environment, "PYTHONPATH": str(STANDINS), **given})
    assert out.split()[-1] == level


class Sized:
    """A communicator that takes sizes within limits, as AITER 0.1.18's does."""

    _car_min_size, _car_max_size = 4096, 65536

    def should_custom_ar(self, input):
        size = input.numel() * input.element_size()
        return self._car_min_size < size <= self._car_max_size


def test_which_sizes_are_taken_the_installed_aiter_is_asked(monkeypatch):
    from costmodel.live.backends.aiter.adapter import AiterBackend
    from costmodel.live.backends.base import LiveShape

    monkeypatch.setenv("AITER_CUSTOM_AR_MIN_SIZE", "4096")
    backend = AiterBackend(2)
    backend._aiter, backend._communicator = Found("0.1.18"), Sized()

    def reason(arm, tokens):
        return backend.reason_against(LiveShape(tokens, 1024, "bf16"), arm)

    words = "more than 4096 and at most 65536 bytes a rank (AITER_CUSTOM_AR_MIN_SIZE set), not "
    assert [reason("2stage", tokens) for tokens in (4, 32)] == [None, None]
    assert reason("1stage", 2) == f"AITER's custom kernels take {words}4096"
    assert reason("2stage", 64).endswith(f"{words}131072")
    for arm in ("auto", "separate"):  # what they would run there is not what they run by default
        assert reason(arm, 4) is None
        assert reason(arm, 2).startswith("AITER would go another way here than by default")
    assert reason("separate", 65536) is None  # 128 MiB: by default it goes that way too


def test_a_process_whose_slots_are_used_up_leaves_the_rest_to_the_next():
    from costmodel.live.backends.aiter.adapter import AiterBackend

    backend = AiterBackend(2)
    assert backend.reason_to_stop(4 * 17) == ""
    backend._registered = 131_072 - 4 * 17
    assert backend.reason_to_stop(4 * 17) == (
        "AITER's 131072 slots for captured buffers are used up in this process"
    )


@pytest.mark.parametrize(
    ("environ", "arms", "note"),
    [
        ({}, "", ""),
        ({"AITER_AR_1STAGE_MAX_KB": "512"}, "auto", "makes AITER's choice for it"),
        ({"AITER_QUICK_REDUCE_QUANTIZATION": "NONE"}, "", ""),
        ({"AITER_QUICK_REDUCE_QUANTIZATION": "INT4"}, "auto separate", "lossy quick reduce"),
        ({"AITER_FLY_AR_MODE": "0"}, "", ""),
        ({"AITER_FLY_AR": "1"}, "auto separate", "FlyDSL"),
        ({"AITER_CUSTOM_AR_MAX_SIZE": "1"}, "", "moves the sizes"),
        ({"AITER_AR_QUANT_MAX_BYTES": "1"}, "", "quantising"),
    ],
)
def test_variables_that_change_what_runs_are_noticed(environ, arms, note):
    from costmodel.live.backends.aiter import variables
    from costmodel.live.backends.base import ARMS

    refused = {arm: variables.reason_against(arm, environ) for arm in ARMS}
    assert [arm for arm, reason in refused.items() if reason] == arms.split()
    notes = variables.notes(environ)
    assert len(notes) == bool(note)
    assert note in "".join(notes)


@pytest.mark.parametrize(
    ("setting", "on"),
    [
        ("expandable_segments:True", True),
        ("max_split_size_mb:64, expandable_segments:true", True),
        ("expandable_segments:False", False),
        ("max_split_size_mb:64", False),
        ("", False),
    ],
)
def test_expandable_segments_are_noticed(setting, on):
    from costmodel.live.backends.aiter.variables import expandable_segments

    assert bool(expandable_segments({"PYTORCH_CUDA_ALLOC_CONF": setting})) is on


def test_the_first_setting_of_the_allocator_counts():
    from costmodel.live.backends.aiter.variables import expandable_segments

    off, on = "expandable_segments:False", "expandable_segments:True"
    assert not expandable_segments({"PYTORCH_CUDA_ALLOC_CONF": off, "PYTORCH_ALLOC_CONF": on})


def test_what_aiter_imports_without_asking_for_it_is_named(tmp_path):
    shutil.copytree(STANDINS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "aiter" / "dist" / "utils.py").write_text("import yaml\n")
    (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError('No yaml', name='yaml')\n")
    _, error = find(tmp_path)
    assert error.endswith("cannot be imported: No yaml; pip install pyyaml")


GUARDED = """
import torch
from costmodel.live.backends.aiter.installation import _check_parameters, _signature
library = torch.library.Library("aiter", "FRAGMENT")
library.define("guarded(Tensor dummy, Tensor out, float epsilon, int model=0) -> ()")
def wrapper_custom(*args, **kwargs):
    return torch.ops.aiter.guarded(*args, **kwargs)
print(_signature("guarded", wrapper_custom), _signature("unknown", wrapper_custom))
_check_parameters("guarded", wrapper_custom, 3, {2: "model"})
_check_parameters("guarded", wrapper_custom, 4, {})
"""


def test_the_signature_behind_torchs_guard_is_read_from_the_schema():
    out, error = alone(GUARDED, dict(os.environ))
    assert out == "(out, epsilon, model) (hidden; verified by its call alone)\n"
    assert error.splitlines()[-1].endswith(
        "this AITER's guarded(out, epsilon, model) cannot take 4 arguments; the adapter knows "
        "0.1.10.post2 to 0.1.20.post1"
    )


def test_one_shape_that_aiter_refuses_does_not_end_the_run(tmp_path):
    """Above AITER's limits, and where its kernel throws though nothing said so beforehand."""
    standin = changed(
        tmp_path / "standin", "dist/device_communicators/custom_all_reduce.py",
        "        out, residual_out = torch.empty_like(input), torch.empty_like(input)\n",
        "        if use_1stage and tokens == 3:\n"
        "            raise RuntimeError('Token number is too large')\n"
        "        out, residual_out = torch.empty_like(input), torch.empty_like(input)\n",
    )  # fmt: skip
    run = tmp_path / "run"
    code, out, _ = torchrun(
        *ENTRY, "--hidden", "1024,2888,16400", "--tokens", "1,3", *QUICK, "--out", run, path=standin
    )
    assert code == 0
    rows = measurement.read(run / "measurements.csv")
    assert sorted(zip(rows.tokens, rows.hidden_dim, rows.algorithm, strict=True)) == [
        (1, 1024, "1stage"), (1, 1024, "2stage"), (1, 2888, "1stage"), (3, 1024, "2stage"),
    ]  # fmt: skip
    assert re.search(  # the shapes come in any order
        r"skipped: 1stage at 3 tokens x \d+ hidden bf16 and 1 more: AITER refuses it: Token", out
    )
    assert "the 2-stage kernel of AITER 0.1.18 needs" in out
    assert "hidden / 8 <= 1024" in out
