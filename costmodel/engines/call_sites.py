"""Where each engine keeps the choice between the 1-stage and the 2-stage kernel."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, nearest
from ..model.shape import FUSED

FP8 = "fused_ar_rmsnorm_quant_fp8"


@dataclass(frozen=True)
class Place:
    """A function that chooses: file inside the package, qualified name, and the op it serves."""

    file: str
    function: str
    op: str = FUSED


@dataclass(frozen=True)
class Engine:
    """One engine: its import package, where checkouts keep that package, and its places.

    ``marks`` are files of which one tells the package from a namesake (PyPI's ``aiter`` is an
    async-iterator library). ``places`` go from newest to oldest; of those of one op, the first
    that chooses by itself is in force.
    """

    name: str
    title: str
    package: str
    checkout: str
    marks: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Files by which the package is known."""
        return ("__init__.py", *self.marks)


_SGLANG = "srt/distributed/parallel_state.py"
_VLLM_OPS = "_aiter_ops.py"
_VLLM_IMPL = "_rocm_aiter_fused_allreduce_rmsnorm"
_VLLM_SHARED = Place(
    "distributed/device_communicators/aiter_custom_all_reduce.py",
    "AiterCustomAllreduce.use_1stage_fused_ar_rms",
)
_AITER = "dist/device_communicators/communicator_cuda.py"

#: SGLang from 0.5.10, vLLM from 0.21.0 (one function per op, then from 0.3x one shared by all),
#: AITER from 0.1.10.post3.
ENGINES = (
    Engine(
        "sglang",
        "SGLang",
        "sglang",
        "python/sglang",
        (_SGLANG, "srt/server_args.py"),
        (
            Place(_SGLANG, "GroupCoordinator.fused_allreduce_rmsnorm"),
            Place(_SGLANG, "GroupCoordinator.fused_allreduce_rmsnorm_quant_per_group", FP8),
        ),
    ),
    Engine(
        "vllm",
        "vLLM",
        "vllm",
        "vllm",
        ("distributed/parallel_state.py", "_custom_ops.py", _VLLM_OPS, _VLLM_SHARED.file),
        (
            _VLLM_SHARED,
            Place(_VLLM_OPS, f"{_VLLM_IMPL}_impl"),
            Place(_VLLM_OPS, f"{_VLLM_IMPL}_quant_per_group_impl", FP8),
            Place(_VLLM_OPS, f"{_VLLM_IMPL}_quant_per_group_with_bf16_norm_impl", FP8),
        ),
    ),
    Engine(
        "aiter",
        "AITER",
        "aiter",
        "aiter",
        ("dist/parallel_state.py", _AITER),
        (
            Place(_AITER, "CudaCommunicator.fused_allreduce_rmsnorm"),
            Place(_AITER, "CudaCommunicator.fused_allreduce_rmsnorm_quant", FP8),
        ),
    ),
)


def engine(name: str) -> Engine:
    """Return an engine by name; raise :class:`InputError` for an unknown one."""
    for found in ENGINES:
        if found.name == name.lower():
            return found
    names = [e.name for e in ENGINES]
    raise InputError(f"unknown engine '{name}'{nearest(name, names)}; known: {', '.join(names)}")
