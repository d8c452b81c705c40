from .parallel_state import get_tp_group


def tensor_model_parallel_all_reduce(
    input_, use_new=True, open_fp8_quant=False, prefill_support=False
):
    return get_tp_group().device_communicator.all_reduce(
        input_, use_new, open_fp8_quant, prefill_support
    )


def tensor_model_parallel_fused_allreduce_rmsnorm(
    input_,
    residual_inp_,
    weight_,
    eps,
    prefill_support=False,
    x_pad_to_multiple=0,
    gemma_norm=False,
):
    assert not x_pad_to_multiple and not gemma_norm
    return get_tp_group().device_communicator.fused_allreduce_rmsnorm(
        input_, residual_inp_, weight_, eps, prefill_support
    )
