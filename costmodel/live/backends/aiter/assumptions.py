"""What the adapter assumes of AITER, as data: :mod:`.compare` holds it against a real tree.

Written from AITER's sources at its tags v0.1.10.post2 to v0.1.20.post1 and at e404860
(https://github.com/ROCm/aiter, ``aiter/dist`` and ``aiter/ops``). The limits of the kernels are
facts of their own: :class:`~costmodel.data.kernels.Kernel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ....model.shape import ONE_STAGE, TWO_STAGE

#: Where things live.
PARALLEL_STATE = "aiter.dist.parallel_state"
COMMUNICATION = "aiter.dist.communication_op"
CUSTOM_ALL_REDUCE = "aiter.dist.device_communicators.custom_all_reduce"
COMMUNICATOR = "aiter.dist.device_communicators.communicator_cuda"

#: World sizes for which a run may ask.
WORLD_SIZES = (2, 4, 8)

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Function:
    """A function or ``Class.method`` that the adapter calls.

    ``positional`` names what it passes by place (``a|b`` where AITER has renamed a parameter and
    the value is right under both names), ``keywords`` what it passes by name; ``left_out`` are
    optional parameters that it does not pass, with the default that it counts on, as source text.
    ``since`` is the release that brought it, "" where the first that is known has it.
    """

    module: str
    name: str
    positional: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    since: str = ""


#: By the name under which :class:`~.installation.Aiter` holds it.
FUNCTIONS = {
    "set_custom_all_reduce": Function(PARALLEL_STATE, "set_custom_all_reduce", ("enable",)),
    "init_distributed_environment": Function(
        PARALLEL_STATE,
        "init_distributed_environment",
        (),
        ("world_size", "rank", "distributed_init_method", "local_rank", "backend"),
        {"data_parallel_size": "1", "data_parallel_rank": "0"},
    ),
    "ensure_model_parallel_initialized": Function(
        PARALLEL_STATE,
        "ensure_model_parallel_initialized",
        ("tensor_model_parallel_size", "pipeline_model_parallel_size"),
        (),
        {
            "decode_context_model_parallel_size": "1",
            "backend": "None",
            "data_parallel_size": "1",
            "prefill_context_model_parallel_size": "1",
            "custom_group_config": "None",
        },
    ),
    "get_tp_group": Function(PARALLEL_STATE, "get_tp_group"),
    "graph_capture": Function(PARALLEL_STATE, "graph_capture"),
    "destroy_model_parallel": Function(PARALLEL_STATE, "destroy_model_parallel"),
    "destroy_distributed_environment": Function(PARALLEL_STATE, "destroy_distributed_environment"),
    "all_reduce": Function(
        COMMUNICATION,
        "tensor_model_parallel_all_reduce",
        ("input_",),
        (),
        {"use_new": "True", "open_fp8_quant": "False", "prefill_support": "False"},
    ),
    "fused_auto": Function(
        COMMUNICATION,
        "tensor_model_parallel_fused_allreduce_rmsnorm",
        ("input_", "residual_inp_", "weight_", "eps"),
        (),
        {"prefill_support": "False", "x_pad_to_multiple": "0", "gemma_norm": "False"},
    ),
    # The seventh is given as 0, which is right under both meanings; gemma_norm from 0.1.17 on.
    "add_rmsnorm": Function(
        "aiter",
        "rmsnorm2d_fwd_with_add",
        (
            "out", "input", "residual_in", "residual_out", "weight", "epsilon",
            "use_model_sensitive_rmsnorm|gemma_norm",
        ),
        (),
        {"use_model_sensitive_rmsnorm": "0"},
    ),
}  # fmt: skip

#: The methods of the communicator.
METHODS = {
    "custom_fused_ar_rms": Function(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.custom_fused_ar_rms",
        ("input", "residual_inp", "weight", "eps", "use_1stage"),
        (),
        {"out_hidden_dim": "0", "gemma_norm": "False"},
    ),
    "custom_all_reduce": Function(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.custom_all_reduce",
        ("input",),
        (),
        {"use_new": "True", "open_fp8_quant": "False"},
    ),
    "custom_fused_ar_rms_quant": Function(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.custom_fused_ar_rms_quant",
        ("input", "residual_inp", "weight", "eps", "use_1stage"),
        (),
        {"gemma_norm": "False", "emit_bf16": "False"},
        "0.1.10.post3",
    ),
    "custom_fused_ar_rms_per_group_quant": Function(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.custom_fused_ar_rms_per_group_quant",
        ("input", "residual_inp", "weight", "eps", "group_size", "use_1stage"),
        (),
        {"emit_bf16": "False", "transpose_scale": "False"},
        "0.1.14",
    ),
    "custom_fused_ar_rms_mxfp4_quant": Function(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.custom_fused_ar_rms_mxfp4_quant",
        ("input", "residual_inp", "weight", "eps", "use_1stage"),
        (),
        {"emit_bf16": "False"},
        "0.1.16",
    ),
    "should_custom_ar": Function(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.should_custom_ar",
        ("inp",),
        (),
        {"prefill_support": "False"},
    ),
}


def _mhc_op(name: str) -> Function:
    positional = (
        "_fa", "inp", "next_residual", "residual_in", "post_layer_mix", "comb_res_mix", "use_new",
        "open_fp8_quant", "reg_ptr", "reg_bytes",
    )  # fmt: skip
    return Function("aiter.ops.custom_all_reduce", name, positional, since="0.1.17")


#: The fused all-reduce + mHC, by stage.
MHC_OPS = {
    ONE_STAGE: _mhc_op("fused_allreduce_mhc_post_one_stage"),
    TWO_STAGE: _mhc_op("fused_allreduce_mhc_post_split"),
}


@dataclass(frozen=True)
class Attribute:
    """An attribute that the adapter reads.

    ``always`` tells that a communicator which disabled itself has it too: the constructor sets it
    before it may return early. ``since`` is the release that brought it.
    """

    module: str
    owner: str
    name: str
    always: bool = True
    since: str = ""


ATTRIBUTES = (
    Attribute(PARALLEL_STATE, "GroupCoordinator", "device_communicator"),
    Attribute(COMMUNICATOR, "CudaCommunicator", "ca_comm"),
    Attribute(CUSTOM_ALL_REDUCE, "CustomAllreduce", "disabled"),
    Attribute(CUSTOM_ALL_REDUCE, "CustomAllreduce", "world_size", always=False),
    Attribute(CUSTOM_ALL_REDUCE, "CustomAllreduce", "fully_connected", always=False),
    Attribute(CUSTOM_ALL_REDUCE, "CustomAllreduce", "_IS_CAPTURING"),
    Attribute(CUSTOM_ALL_REDUCE, "CustomAllreduce", "_ptr", always=False),
    Attribute(CUSTOM_ALL_REDUCE, "CustomAllreduce", "rank_data", always=False),
    Attribute(CUSTOM_ALL_REDUCE, "CustomAllreduce", "_pool", always=False, since="0.1.14"),
    Attribute(CUSTOM_ALL_REDUCE, "CustomAllreduce", "_is_gfx1250", since="0.1.18"),
)


@dataclass(frozen=True)
class Behaviour:
    """Something that a function does: it calls one of ``any_of``, which stands for ``means``."""

    module: str
    name: str
    any_of: tuple[str, ...]
    means: str


CALLS = (
    Behaviour(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.custom_fused_ar_rms",
        ("is_current_stream_capturing",),
        "under graph_capture() it runs only while a stream is being captured",
    ),
    Behaviour(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.custom_fused_ar_rms",
        ("zeros", "zeros_like"),
        "under graph_capture(), outside a capture, it gives zeros",
    ),
    Behaviour(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.custom_fused_ar_rms",
        ("should_custom_ar",),
        "sizes that should_custom_ar refuses give None",
    ),
    Behaviour(
        CUSTOM_ALL_REDUCE,
        "CustomAllreduce.capture",
        ("flush_graph_buffers", "register_graph_buffers"),
        "leaving graph_capture() registers the captured buffers",
    ),
    Behaviour(
        PARALLEL_STATE,
        "GroupCoordinator.graph_capture",
        ("capture",),
        "graph_capture() enters the communicator's own",
    ),
)

#: From here on ``destroy_model_parallel`` clears every group that ``initialize_model_parallel``
#: wants clear; before, those of data and expert parallel ranks stayed.
REGROUPS = "0.1.11"

#: When a variable is read: as the module is imported, or each time that a function runs.
AT_IMPORT, IN_A_CALL = "at import", "in a call"


@dataclass(frozen=True)
class AssumedVariable:
    """An environment variable that the modules of :data:`READERS` read from ``since`` on."""

    name: str
    since: str
    when: str = IN_A_CALL


#: Modules that decide which kernel runs, and so whose variables count.
READERS = (
    PARALLEL_STATE,
    COMMUNICATOR,
    CUSTOM_ALL_REDUCE,
    "aiter.dist.device_communicators.quick_all_reduce",
    "aiter.dist.device_communicators.rocm_version",
)

_FIRST = "0.1.10.post2"

VARIABLES = (
    AssumedVariable("AITER_AR_1STAGE", "0.1.12", AT_IMPORT),
    AssumedVariable("AITER_AR_1STAGE_MAX_KB", "0.1.17", AT_IMPORT),
    AssumedVariable("AITER_AR_QUANT_MAX_BYTES", "0.1.17", AT_IMPORT),
    AssumedVariable("AITER_AR_QUANT_NO_PREFILL_MAX_BYTES", "0.1.17", AT_IMPORT),
    AssumedVariable("AITER_CUSTOM_AR_MAX_SIZE", "0.1.18"),
    AssumedVariable("AITER_CUSTOM_AR_MIN_SIZE", "0.1.18"),
    AssumedVariable("AITER_CUSTOM_AR_DISABLE_GFX1250", "0.1.18"),
    AssumedVariable("AITER_CUSTOM_AR_FORCE_IPC", "0.1.18"),
    AssumedVariable("AITER_CUSTOM_AR_FORCE_VMM", "0.1.18"),
    AssumedVariable("AITER_QUICK_REDUCE_CAST_BF16_TO_FP16", _FIRST),
    AssumedVariable("AITER_QUICK_REDUCE_MAX_SIZE_BYTES_MB", _FIRST),
    AssumedVariable("AITER_QUICK_REDUCE_QUANTIZATION", _FIRST),
    AssumedVariable("AITER_ROCM_VERSION", "0.1.18"),
    AssumedVariable("CUDA_VISIBLE_DEVICES", _FIRST),
    AssumedVariable("HIP_PATH", "0.1.18"),
    AssumedVariable("HIP_VISIBLE_DEVICES", _FIRST),
    AssumedVariable("PYTORCH_ALLOC_CONF", "0.1.20", AT_IMPORT),
    AssumedVariable("PYTORCH_CUDA_ALLOC_CONF", "0.1.20", AT_IMPORT),
    AssumedVariable("PYTORCH_HIP_ALLOC_CONF", "0.1.20", AT_IMPORT),
)
