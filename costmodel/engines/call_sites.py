"""Where each engine keeps the choice between the 1-stage and the 2-stage kernel."""

from __future__ import annotations

from msgspec import Struct

from ..errors import InputError, nearest
from ..model.shape import FP8, FP8_PER_TOKEN, FUSED, MHC, MXFP4

#: Ops into whose choice no rule is written: why, and what to do instead.
NOT_WRITTEN = {
    MXFP4: (
        "two gates decide there, one for each stage, by tokens and hidden size; the kernel throws "
        "on what neither takes, which runs as the fused op and a quantising kernel, so a cutoff in "
        "bytes would not do; change the gates by hand (costmodel audit shows their lines), or "
        "allow one stage alone with AITER_AR_1STAGE, which holds for the other fused ops too"
    ),
    MHC: (
        "AITER chooses there in C++ (kSplitMinBytes in csrc/kernels/fused_ar_mhc_post.cu: with 4 "
        "ranks or more the split path above it), so no Python decides; change that constant and "
        "build AITER again (costmodel audit shows its line)"
    ),
}


class CallSite(Struct, frozen=True):
    """A function that chooses: file inside the package, qualified name, and the op it serves."""

    file: str
    function: str
    op: str = FUSED


class ServingEngine(Struct, frozen=True):
    """One engine: its import package, where checkouts keep that package, and its call sites.

    ``marks`` are files of which one tells the package from a namesake (PyPI's ``aiter`` is an
    async-iterator library). ``call_sites`` go from newest to oldest; of those of one op, the
    first that chooses by itself is in force.
    """

    name: str
    title: str
    package: str
    checkout: str
    marks: tuple[str, ...]
    call_sites: tuple[CallSite, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Files by which the package is known."""
        return ("__init__.py", *self.marks)

    @property
    def ops(self) -> tuple[str, ...]:
        """Ops that it has a call site for."""
        return tuple(dict.fromkeys(site.op for site in self.call_sites))


_SGLANG = "srt/distributed/parallel_state.py"
_VLLM_OPS = "_aiter_ops.py"
_VLLM_IMPL = "_rocm_aiter_fused_allreduce_rmsnorm"
_VLLM_SHARED = CallSite(
    "distributed/device_communicators/aiter_custom_all_reduce.py",
    "AiterCustomAllreduce.use_1stage_fused_ar_rms",
)
_AITER = "dist/device_communicators/communicator_cuda.py"

#: SGLang from 0.5.10, vLLM from 0.21.0 (one function per op, then from 0.3x one shared by all),
#: AITER from 0.1.10.post2.
SERVING_ENGINES = (
    ServingEngine(
        "sglang",
        "SGLang",
        "sglang",
        "python/sglang",
        (_SGLANG, "srt/server_args.py"),
        (
            CallSite(_SGLANG, "GroupCoordinator.fused_allreduce_rmsnorm"),
            CallSite(_SGLANG, "GroupCoordinator.fused_allreduce_rmsnorm_quant_per_group", FP8),
        ),
    ),
    ServingEngine(
        "vllm",
        "vLLM",
        "vllm",
        "vllm",
        ("distributed/parallel_state.py", "_custom_ops.py", _VLLM_OPS, _VLLM_SHARED.file),
        (
            _VLLM_SHARED,
            CallSite(_VLLM_OPS, f"{_VLLM_IMPL}_impl"),
            CallSite(_VLLM_OPS, f"{_VLLM_IMPL}_quant_per_group_impl", FP8),
            CallSite(_VLLM_OPS, f"{_VLLM_IMPL}_quant_per_group_with_bf16_norm_impl", FP8),
        ),
    ),
    ServingEngine(
        "aiter",
        "AITER",
        "aiter",
        "aiter",
        ("dist/parallel_state.py", _AITER),
        (
            CallSite(_AITER, "CudaCommunicator.fused_allreduce_rmsnorm"),
            CallSite(_AITER, "CudaCommunicator.fused_allreduce_rmsnorm_quant_per_group", FP8),
            CallSite(_AITER, "CudaCommunicator.fused_allreduce_rmsnorm_quant", FP8_PER_TOKEN),
            CallSite(_AITER, "CudaCommunicator.fused_allreduce_rmsnorm_mxfp4_quant", MXFP4),
        ),
    ),
)


def serving_engine(name: str) -> ServingEngine:
    """Return a serving engine by name; raise :class:`InputError` for an unknown one."""
    for engine in SERVING_ENGINES:
        if engine.name == name.lower():
            return engine
    names = [e.name for e in SERVING_ENGINES]
    raise InputError(f"unknown engine '{name}'{nearest(name, names)}; known: {', '.join(names)}")
