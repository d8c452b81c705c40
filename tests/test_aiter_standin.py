"""The stand-in for AITER is as strict as AITER, and the adapter's assumptions are told from a tree.

What AITER does was read in its sources; here the stand-in is held to it, and to the list of what
the adapter assumes.
"""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the stand-in computes with torch")

from ranks import alone, torchrun

from costmodel.data import kernels
from costmodel.live.backends.aiter import assumptions
from costmodel.live.backends.aiter.compare import compare

STANDINS = Path(__file__).parent / "standins"

#: What AITER reads and the stand-in does not play: other GPUs, quantised ops, casts, the allocator.
NOT_PLAYED = {
    "AITER_AR_QUANT_MAX_BYTES", "AITER_AR_QUANT_NO_PREFILL_MAX_BYTES",
    "AITER_CUSTOM_AR_DISABLE_GFX1250", "AITER_CUSTOM_AR_FORCE_IPC", "AITER_CUSTOM_AR_FORCE_VMM",
    "AITER_QUICK_REDUCE_CAST_BF16_TO_FP16", "AITER_ROCM_VERSION", "CUDA_VISIBLE_DEVICES",
    "HIP_PATH",
}  # fmt: skip


def test_the_surface_of_the_standin_is_the_one_that_is_assumed():
    found = compare(STANDINS)
    assert found.version == "0.1.18"
    assert {f.what.removeprefix("variable ") for f in found.differences} == NOT_PLAYED
    assert {f.found for f in found.unread} == {"the tree does not carry the kernels' source"}


#: Everything below runs in one process whose group of two ranks is torch's fake one.
ONE_PROCESS = """
import io, json, os, sys, warnings
from contextlib import redirect_stdout
warnings.filterwarnings("ignore")
import torch, torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

def play(version, **environment):
    for name in [name for name in sys.modules if name.split(".")[0] == "aiter"]:
        del sys.modules[name]
    for name in [name for name in os.environ if name.startswith("AITER_")]:
        del os.environ[name]
    os.environ.update({"AITER_STANDIN_VERSION": version, "AITER_LOG_LEVEL": "ERROR", **environment})
    from aiter.dist.device_communicators.custom_all_reduce import CustomAllreduce
    return CustomAllreduce(dist.group.WORLD, "cuda")

def run(communicator, tokens, hidden, one, dtype=torch.bfloat16):
    x = torch.empty(tokens, hidden, dtype=dtype)
    kernels = sys.modules["aiter.graphs"]._launched
    kernels.clear()
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            result = communicator.custom_fused_ar_rms(x, x, x[0], 1e-6, one)
    except RuntimeError as error:
        return str(error).split(",")[0]
    if result is None:
        return "None"
    return said.getvalue().strip() or kernels[0].partition("<")[0].split("::")[-1]

dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
"""


def in_one_process(code):
    path = os.pathsep.join([str(STANDINS), os.getcwd()])
    out, error = alone(ONE_PROCESS + code, {**os.environ, "PYTHONPATH": path}, timeout=120)
    assert error == ""
    return json.loads(out.splitlines()[-1])


ONE, TWO = "allreduce_fusion_kernel_1stage", "reduce_scatter_cross_device_store"
THROWS, LOST = (
    "Token number is too large for " + ONE + " kernel",
    "fused allreduce rmsnorm shape error",
)
TOO = "fused allreduce rmsnorm: n does not fit"


def test_each_release_takes_throws_and_falls_back_as_its_kernels_do():
    """At every limit of the facts, and one beyond."""
    cases = [
        ("0.1.10.post2", 1, 1024, True, ONE), ("0.1.10.post2", 1, 2880, True, LOST),
        ("0.1.11", 1, 1536, True, TWO), ("0.1.11", 81, 1024, True, THROWS),
        ("0.1.11", 1, 2880, False, LOST), ("0.1.11", 1, 16384 + 512, False, LOST),
        ("0.1.12", 1, 2880, True, ONE), ("0.1.12", 1, 2880, False, TWO),
        ("0.1.16", 80, 2880, True, ONE), ("0.1.16", 81, 2880, True, THROWS),
        ("0.1.16", 81, 2880, False, TWO), ("0.1.17", 81, 2880, True, ONE),
        ("0.1.18", 1, 8192, True, ONE), ("0.1.18", 1, 8200, True, TWO),
        ("0.1.18", 1, 512, False, TWO), ("0.1.18", 1, 504, False, TOO),
        ("0.1.18", 1, 16384, False, TWO), ("0.1.18", 1, 16392, False, TOO),
        ("0.1.18", 1, 16392, True, TOO),
    ]  # fmt: skip
    given = json.dumps([case[:4] for case in cases])
    said = in_one_process(
        f"cases = json.loads('''{given}''')\n"
        "print(json.dumps([run(play(v), m, h, one) for v, m, h, one in cases]))"
    )
    assert [(*c[:4], s) for c, s in zip(cases, said, strict=True)] == cases
    for version, tokens, hidden, one, does in cases:  # the facts draw the same lines
        kernel = kernels.aiter(version)
        packs = hidden / 8
        taken = (
            packs <= kernel.fused_1stage_max_packs
            and hidden in (kernel.fused_1stage_hidden_dims or [hidden])
            and tokens <= (kernel.fused_1stage_max_tokens or tokens)
            if one
            else kernel.fused_2stage_min_packs <= packs <= kernel.fused_2stage_max_packs
            and packs % kernel.fused_2stage_pack_multiple == 0
        )
        assert taken == (does == (ONE if one else TWO)), (version, tokens, hidden, one)


def test_sizes_are_refused_as_the_release_and_its_variables_say():
    mib = 1 << 20
    cases = [
        ("0.1.11", {}, 64 * mib), ("0.1.12.post2", {}, 512 * mib), ("0.1.13", {}, 64 * mib),
        ("0.1.20.post1", {}, 64 * mib),
        ("0.1.17", {"AITER_CUSTOM_AR_MAX_SIZE": str(mib)}, 64 * mib),  # not read before 0.1.18
        ("0.1.18", {"AITER_CUSTOM_AR_MAX_SIZE": str(mib)}, mib),
        ("0.1.18", {"AITER_CUSTOM_AR_MAX_SIZE": str(128 * mib)}, 128 * mib),
        ("0.1.18", {"AITER_CUSTOM_AR_MAX_SIZE": str(2048 * mib)}, 64 * mib),  # above the pool
        ("0.1.18", {"AITER_CUSTOM_AR_MAX_SIZE": "0"}, 0),
    ]  # fmt: skip
    given = json.dumps([case[:2] for case in cases])
    code = f"""
cases = json.loads('''{given}''')
out = []
for version, environment in cases:
    c = play(version, **environment)
    sizes = [16, 1 << 20, 64 << 20, 128 << 20, 512 << 20]
    takes = lambda n: c.should_custom_ar(torch.empty(n, dtype=torch.uint8, device="meta"))
    taken, over = [takes(n) for n in sizes], [takes(n + 16) for n in sizes]
    out.append([n for n, t, o in zip(sizes, taken, over) if t and not o] or [0])
least = play("0.1.18", AITER_CUSTOM_AR_MIN_SIZE="65536")
out.append([least.should_custom_ar(torch.empty(n, dtype=torch.uint8)) for n in (65536, 65552)])
odd = play("0.1.18").should_custom_ar(torch.empty(24, dtype=torch.uint8))
print(json.dumps([*out, odd]))
"""
    *taken, least, odd = in_one_process(code)
    assert [t[0] for t in taken] == [case[2] for case in cases]
    assert (least, odd) == ([False, True], False)
    for version, environment, largest in cases:
        if not environment:
            assert kernels.aiter(version).custom_max_bytes == largest


def test_a_disabled_communicator_has_nothing_and_variables_count_from_their_release_on():
    names, forced = in_one_process(
        "faults = [play('0.1.18', AITER_STANDIN_FAULT=f) for f in ('disabled', 'nodes')]\n"
        "def forced(version):\n"
        "    play(version, AITER_AR_1STAGE='1')\n"
        "    from aiter.dist.device_communicators.communicator_cuda import CudaCommunicator\n"
        "    return CudaCommunicator._ar_1stage_override\n"
        "forced = [forced(version) for version in ('0.1.11', '0.1.12')]\n"
        "print(json.dumps([[sorted(vars(x)) for x in faults], forced]))"
    )
    assert names == [["_IS_CAPTURING", "_is_gfx1250", "disabled"]] * 2
    lacking = [a.name for a in assumptions.ATTRIBUTES if not a.always]
    assert lacking == ["world_size", "fully_connected", "_ptr", "rank_data", "_pool"]
    assert forced == [None, True]
    assert {v.name: v.since for v in assumptions.VARIABLES}["AITER_AR_1STAGE"] == "0.1.12"


#: On real processes: what only shows when ranks meet.
TOGETHER = """
import json, os, sys, warnings
warnings.filterwarnings("ignore")
import torch
from aiter import graphs
from aiter.dist import communication_op, parallel_state as state
rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
os.environ.pop("HIP_VISIBLE_DEVICES", None)
state.init_distributed_environment(ranks, rank, "env://", rank, "nccl")
state.ensure_model_parallel_initialized(ranks, 1)
c = state.get_tp_group().device_communicator.ca_comm
device, seen = graphs.CpuDevice(), {"visible": os.environ["HIP_VISIBLE_DEVICES"]}
torch.manual_seed(rank)
x = torch.randn(6, 1024).bfloat16()
residual, weight = torch.ones(6, 1024).bfloat16(), torch.ones(1024).bfloat16()
one, two = (c.custom_fused_ar_rms(x, residual, weight, 1e-6, use) for use in (True, False))
seen["same bits"] = all(torch.equal(a, b) for a, b in zip(one, two))
# tokens x packs is 129, no multiple of the ranks: the last pack is nobody's part
odd = torch.ones(1, 1032).bfloat16() * (1 + rank)
right, wrong = (c.custom_fused_ar_rms(odd, odd * 0, odd[0], 1e-6, use)[1] for use in (True, False))
seen["lost"] = (right != wrong).nonzero()[:, 1].tolist()
seen["stale"] = torch.equal(wrong[0, -8:], c._scratch[2048:2064].view(torch.bfloat16))
with state.graph_capture() as context:
    zeros = c.custom_fused_ar_rms(x, residual, weight, 1e-6, True)
    seen["zeros"] = not any(t.any() for t in zeros) and not c.custom_all_reduce(x).any()
    graph = device.graph()
    with device.capture(graph, context.stream):
        out = c.custom_fused_ar_rms(x, residual, weight, 1e-6, True)
    try:
        graph.replay()
    except RuntimeError as error:
        seen["before"] = "illegal access" in str(error)
graph.replay()
seen["after"] = torch.equal(out[0], one[0])
seen["slots"] = c._slots
lone = device.graph()
try:
    with device.capture(lone, context.stream):
        pass
except AssertionError:
    seen["alone"] = "refused"
small, large = torch.ones(1, 1024).bfloat16(), torch.ones(512, 1024).bfloat16()
run = communication_op.tensor_model_parallel_fused_allreduce_rmsnorm
for name, given in (("small", small), ("large", large)):
    names = device.kernels(lambda: run(given, given, weight, 1e-6))
    seen[name] = names[0].partition("<")[0].removeprefix("aiter::")
seen["plain"] = [
    device.kernels(lambda: communication_op.tensor_model_parallel_all_reduce(given))[0].partition("<")[0]
    for given in (small, large)
]
state.destroy_model_parallel()
state.destroy_distributed_environment()
if rank == 0:
    print("SEEN", json.dumps(seen))
"""


def together(tmp_path, ranks, **environment):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    done = torchrun(
        ranks, script, timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(STANDINS), os.getcwd()]),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("SEEN ")), done.stderr


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_shows_when_ranks_meet(tmp_path, ranks):
    seen, log = together(tmp_path, ranks)
    assert seen["visible"] == ",".join(map(str, range(ranks)))
    assert seen["same bits"]
    assert seen["lost"] == list(range(1024, 1032))  # of 129 packs, 128 are reduced
    assert seen["stale"]
    assert seen["zeros"]
    assert seen["before"]
    assert seen["after"]
    assert seen["slots"] == 1
    assert seen["alone"] == "refused"
    assert (seen["small"], seen["large"]) == (ONE, TWO)
    stages = ["aiter::cross_device_reduce_1stage", "aiter::cross_device_reduce_2stage"]
    assert seen["plain"] == (stages if ranks == 4 else stages[:1] * 2)
    assert log.count("[aiter] Registering 1 cuda graph addresses") == ranks


def test_variables_count_at_import_and_the_log_can_be_silenced(tmp_path):
    seen, log = together(tmp_path, 2, AITER_AR_1STAGE_MAX_KB="512", AITER_LOG_LEVEL="WARNING")
    assert (seen["small"], seen["large"]) == (TWO, TWO)  # 512 bytes, in spite of the name
    assert "Registering" not in log
