"""A stand-in for AITER on CPUs: its Python interface over torch.distributed's gloo.

Written from what AITER does, none of its code, and meant to be as strict: an adapter that works
here makes none of these mistakes there. It plays the release of ``AITER_STANDIN_VERSION``, else of
the ``amd-aiter`` distribution on the path, else 0.1.18. Kept are

- names, places and defaults of arguments, and a guard that hides a signature;
- a communicator that disabled itself has no ``world_size`` and no ``fully_connected``;
- inputs above 64 MiB (512 MiB in 0.1.12), or outside ``AITER_CUSTOM_AR_MIN_SIZE`` and
  ``AITER_CUSTOM_AR_MAX_SIZE`` (from 0.1.18), give None; the variable counts when the communicator
  is made, ``AITER_AR_1STAGE`` and ``AITER_AR_1STAGE_MAX_KB`` (bytes!) count at import;
- a 1-stage that does not take the row falls back to 2-stage without a word; before 0.1.17 it throws
  above 80 tokens;
- a 2-stage throws for rows of fewer than 64 packs or more than 2048; before 0.1.12 it prints a line
  for rows that are not whole KiB and leaves the outputs as they were;
- the 2-stage's lost tail: where tokens x packs is no multiple of the ranks, the last packs keep
  what the scratch buffer held;
- both stages sum in rank order in fp32 and round once, so they give the same bits;
- zeros inside ``graph_capture()`` when nothing is being captured; captured buffers are registered
  by all ranks together on leaving it, each call takes one of 131,072 slots, and a replay before
  that is an illegal access; two lines of log, which ``AITER_LOG_LEVEL`` silences;
- every so many neighbouring ranks form a tensor-parallel group, made by all processes together;
  before 0.1.11 ``destroy_model_parallel`` leaves groups that cannot be made again;
- the fused mHC ops, from 0.1.17: eagerly they take AITER's registered buffer, in a capture none;
- ``HIP_VISIBLE_DEVICES`` is set where it was not; expandable segments cannot be registered before
  0.1.20; there is no ``__version__``; quick reduce takes over where it is switched on.

Rows measured with it are marked as such. ``AITER_STANDIN_FAULT`` (a list) makes it go wrong:
``wrong-1stage`` (one rank drops a peer in the 1-stage), ``none`` (the custom op never runs),
``disabled`` (the extension is not loaded), ``nodes`` (ranks on several nodes), ``yaml`` (a missing
import), ``falls-back`` (1-stage runs 2-stage's kernels), ``one-kernel`` (both stages run kernels of
one unknown name), ``leak`` (1 MiB is lost with every registration), ``no-capture`` (nothing can be
captured), ``slots`` (only 64 can be registered), ``slow-link`` (from GPU 0 to 1), ``gfx1250`` (such
a GPU: at most 4 ranks, LL up to a size in the plain all-reduce), ``ll128`` (a plain all-reduce that
pushes, as that of a newer AITER may).
"""

import os

import torch

from . import graphs
from .versions import VERSION

if os.environ.get("AITER_STANDIN_VERSION"):
    __version__ = VERSION
__costmodel_standin__ = True


def _guarded(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@_guarded
def rmsnorm2d_fwd_with_add(
    out,
    input,
    residual_in,
    residual_out,
    weight,
    epsilon,
    gemma_norm=False,
    use_model_sensitive_rmsnorm=0,
):
    assert not gemma_norm
    assert out.is_contiguous()
    assert residual_out.is_contiguous()

    def run():
        graphs.launched("aiter::add_rmsnorm_quant_kernel<__bf16>")
        summed = input.float() + residual_in.float()
        residual_out.copy_(summed)
        scale = torch.rsqrt(summed.pow(2).mean(-1, keepdim=True) + epsilon)
        out.copy_(summed * scale * weight.float())

    graphs.issue(run)


def costmodel_device():
    return graphs.CpuDevice()
