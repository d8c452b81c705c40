"""Patched functions under torch.compile: one graph, no file read while it traces, same decisions.

SGLang's function is traced when a model is compiled; vLLM's and AITER's stand inside custom ops.
Here each is traced, with Dynamo's backend that runs the graph as it is, and by Inductor once.
"""

from __future__ import annotations

import builtins
import importlib.metadata
import itertools
import json
import pathlib
import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest
from emitted import RULES, emit
from engines.shapes import SHAPES
from test_emit_by_arch import BY_ARCH, by_arch, every_pair, topology, with_ids
from test_emit_runtime_table import NAME, consulting

torch = pytest.importorskip("torch", reason="torch.compile traces")

HIDDEN = 4096
OWNERS = {
    "sglang_bytes": ("GroupCoordinator", "fused_allreduce_rmsnorm"),
    "aiter_limit": ("CudaCommunicator", "fused_allreduce_rmsnorm"),
    "vllm_method": ("AiterCustomAllreduce", "use_1stage_fused_ar_rms"),
}
_NUMBERS = itertools.count()
MODES = [{"fullgraph": True}, {"fullgraph": True, "dynamic": True}, {}]


class Communicator:
    """Takes every call, and gives back twice the input from 1-stage, three times from 2-stage."""

    disabled, fully_connected, group = False, True, None

    def __init__(self, world_size):
        self.world_size = world_size

    def should_custom_ar(self, given):
        return True

    def custom_fused_ar_rms(self, given, residual, weight, eps, use_1stage):
        return (given * 2 if use_1stage else given * 3), residual


@pytest.fixture
def loaded(monkeypatch):
    """Return a function that imports a text and gives a function of x that uses its choice."""
    setting = SimpleNamespace(is_set=lambda: False, get=lambda: False)
    environ, utils = ModuleType("sglang.srt.environ"), ModuleType("sglang.srt.utils")
    environ.envs = SimpleNamespace(SGLANG_USE_1STAGE_ALLREDUCE=setting)
    utils.is_gfx95_supported = utils.is_hip = lambda: False
    for module in (ModuleType("sglang"), ModuleType("sglang.srt"), environ, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def load(shape, text, world_size, file="engine.py"):
        # A name of its own: Dynamo keeps modules by name.
        module = ModuleType(f"engine_{next(_NUMBERS)}")
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(text, "engine.py", "exec"), module.__dict__)
        owner, function = OWNERS[shape]
        comm = Communicator(world_size)
        given = (comm,) if shape == "vllm_method" else (world_size, comm)
        made = getattr(module, owner)(*given)
        method = getattr(made, function)

        def call(x):
            if shape == "vllm_method":
                return x * 2 if method(x) else x * 3
            return method(x, x, x, 1e-6)[0]

        return call, comm

    return load


def took(call, tokens):
    """Return the batches of those given for which 1-stage ran."""
    factors = [call(torch.ones(n, HIDDEN, dtype=torch.bfloat16))[0, 0].item() for n in tokens]
    assert set(factors) <= {2, 3}
    return [n for n, factor in zip(tokens, factors, strict=True) if factor == 2]


@pytest.fixture(params=MODES, ids=str)
def compiled(request):
    torch._dynamo.reset()
    # Which vector instructions a CPU has says nothing of a rule, and to find out takes longest.
    with torch._inductor.config.patch({"cpp.vec_isa_ok": False}):
        yield lambda call: torch.compile(call, **{"backend": "eager", **request.param})


INDUCTOR = pytest.param(
    {"backend": "inductor", "fullgraph": True, "dynamic": True},
    marks=pytest.mark.skipif(
        shutil.which("c++") is None, reason="Inductor's CPU code needs a C++ compiler"
    ),
)


#: Both sides of every cutoff below, and back: a graph that was made is used again.
TOKENS = (1, 8, 16, 17, 28, 29, 56, 57, 79, 17, 1)


@pytest.mark.parametrize("shape", OWNERS)
def test_a_rule_is_traced_into_one_graph(shape, compiled, loaded, tmp_path):
    text = emit(SHAPES[shape].package(tmp_path), RULES["recommended"]).patched
    for world_size in (2, 4, 8):
        call, _ = loaded(shape, text, world_size)
        assert took(compiled(call), TOKENS) == took(call, TOKENS)
    assert took(call, TOKENS) == [1, 8, 16, 17, 28, 17, 1] or shape == "vllm_method"


@pytest.mark.parametrize("compiled", [INDUCTOR], indirect=True)
@pytest.mark.parametrize("shape", OWNERS)
def test_inductors_code_decides_as_the_rule(shape, compiled, loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    text = emit(SHAPES[shape].package(tmp_path / "site"), RULES["recommended"]).patched
    call, _ = loaded(shape, text, 8)
    assert took(compiled(call), TOKENS) == took(call, TOKENS)
    assert list((tmp_path / "inductor").rglob("*.cpp"))


@pytest.mark.parametrize("compiled", [*MODES, INDUCTOR], indirect=True, ids=str)
@pytest.mark.parametrize("shape", OWNERS)
def test_rules_by_host_read_the_topology_at_import_alone(
    shape, compiled, loaded, tmp_path, monkeypatch
):
    text = by_arch(SHAPES[shape].package(tmp_path / "site"), BY_ARCH).patched
    found = with_ids(topology(tmp_path / "nodes", every_pair(8)), 0x74A1)
    text = text.replace("/sys/class/kfd/kfd/topology/nodes", str(found))
    call, _ = loaded(shape, text, 8)
    no_reading(monkeypatch, found)
    assert took(compiled(call), TOKENS) == took(call, TOKENS) == [1, 8, 16, 17, 17, 1]


def no_reading(monkeypatch, *below):
    """Refuse to read files at or below some paths; a compiler reads its own."""

    def guarded(read):
        def ask(file, *given, **named):
            for path in below:
                assert not str(file).startswith(str(path)), f"{file} is read"
            return read(file, *given, **named)

        return ask

    monkeypatch.setattr(pathlib.Path, "read_text", guarded(pathlib.Path.read_text))
    monkeypatch.setattr(builtins, "open", guarded(builtins.open))


@pytest.mark.parametrize("compiled", [*MODES, INDUCTOR], indirect=True, ids=str)
@pytest.mark.parametrize("shape", OWNERS)
def test_a_traced_call_takes_what_an_earlier_one_read(
    shape, compiled, loaded, tmp_path, monkeypatch
):
    (text,) = consulting(SHAPES[shape].package(tmp_path / "site")).patched.values()
    text = text.replace("/sys/class/kfd/kfd", str(tmp_path / "kfd"))
    link = tmp_path / "kfd/topology/nodes/1/io_links/0/properties"
    link.parent.mkdir(parents=True)
    link.write_text("type 11\n")
    entry = {"arch": "gfx942", "fabric": "xgmi", "world_size": 8, "op": "fused_ar_rmsnorm",
             "dtype": "bfloat16", "kernel_family": "aiter", "aiter_from": "0.1.10",
             "aiter_before": None, "hidden_dims": [HIDDEN], "machine": None,
             "max_bytes": 28 * HIDDEN * 2}  # fmt: skip
    file = tmp_path / NAME
    file.parent.mkdir()
    file.write_text(json.dumps({"schema": "costmodel/table/2", "entries": [entry]}))
    gpu = SimpleNamespace(name="AMD Instinct MI300X", gcnArchName="gfx942:sramecc+")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    version = importlib.metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version", lambda name: "0.1.20" if "aiter" in name else version(name)
    )
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: 0)

    def alone(out, given, group):
        out[:] = [given] * len(out)

    monkeypatch.setattr(torch.distributed, "all_gather_object", alone)
    call, comm = loaded(shape, text, 8, tmp_path / "engine.py")
    comm.group = object()
    own = took(loaded(shape, text, 8)[0], TOKENS)
    traced = compiled(call)
    assert took(traced, TOKENS) == own
    assert not hasattr(comm, "_tuned_max_sizes")
    assert took(call, TOKENS) == [1, 8, 16, 17, 28, 17, 1]
    no_reading(monkeypatch, tmp_path)
    assert took(traced, TOKENS) == [1, 8, 16, 17, 28, 17, 1]
    assert len(comm._tuned_max_sizes) == 1
