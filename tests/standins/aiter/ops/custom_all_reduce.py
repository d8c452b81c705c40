"""The stand-in's fused all-reduce + mHC: compiled functions that take a communicator's pointer."""

from .. import graphs
from ..dist.device_communicators.custom_all_reduce import BY_POINTER, PACK_BYTES, element_name
from ..versions import FAULTS, since


def _mhc(pointer, inp, into, streams, post, comb, use_new, open_fp8_quant, reg, split):
    communicator = BY_POINTER[pointer]
    assert use_new
    assert not open_fp8_quant
    (tokens, hidden), packs = inp.shape, inp.shape[-1] * inp.element_size() // PACK_BYTES
    assert streams.shape == into.shape == (tokens, 4, hidden)
    assert post.shape == (tokens, 4)
    assert comb.shape == (tokens, 4, 4)
    if inp.element_size() != 2:
        raise RuntimeError("fused AR+MHC post only supports fp16/bf16 activations")
    if packs > 512 and not split:
        raise RuntimeError("AR+MHC post epilogue hidden dim too large for two-way CTA")
    if split:
        block = next((block for block in (1024, 512, 256) if hidden % block == 0), 0)
        if not block:
            raise RuntimeError("hidden_size must be divisible by 256")
        if hidden < 2 * block:
            raise RuntimeError("hidden_size must be >= residual_block * 2 stages prefetch")
    if not graphs.is_current_stream_capturing():
        pool = communicator._pool["input"]
        if reg != (pool.data_ptr, pool.max_size):
            raise RuntimeError("buffer address is not registered!")
    elif reg != (0, 0):
        raise RuntimeError("a capture copies its input, which would be timed")
    name, ranks = element_name(inp), communicator.world_size

    def run():
        if split:
            total = communicator._scattered(inp)
            graphs.launched(f"aiter::mhc_post_kernel<{name}, 256>")
        else:
            graphs.launched(f"aiter::allreduce_mhc_post_large_m_kernel<{name}, {ranks}, 4, false>")
            drop = int("wrong-1stage" in FAULTS and communicator.rank == 1)
            total = communicator._sum(inp, drop)
        for j in range(4):
            mixed = total.float() * post[:, j, None]
            for i in range(4):
                mixed += comb[:, i, j, None] * streams[:, i].float()
            into[:, j] = mixed.to(into.dtype)

    communicator._issue(run)


if since(0, 1, 17):

    def fused_allreduce_mhc_post_one_stage(
        _fa, inp, next_residual, residual_in, post_layer_mix, comb_res_mix,
        use_new=True, open_fp8_quant=False, reg_ptr=0, reg_bytes=0,
    ):  # fmt: skip
        _mhc(
            _fa, inp, next_residual, residual_in, post_layer_mix, comb_res_mix,
            use_new, open_fp8_quant, (reg_ptr, reg_bytes), False,
        )  # fmt: skip

    def fused_allreduce_mhc_post_split(
        _fa, inp, next_residual, residual_in, post_layer_mix, comb_res_mix,
        use_new=True, open_fp8_quant=False, reg_ptr=0, reg_bytes=0,
    ):  # fmt: skip
        _mhc(
            _fa, inp, next_residual, residual_in, post_layer_mix, comb_res_mix,
            use_new, open_fp8_quant, (reg_ptr, reg_bytes), True,
        )  # fmt: skip
