"""A stand-in for AITER on CPUs: its documented Python interface over torch.distributed's gloo.

Written from the description of AITER's API alone, none of its code. What AITER does that an adapter
can get wrong is kept: names, places and defaults of arguments; None where the custom op cannot run;
zeros inside ``graph_capture()`` when nothing is being captured; captured buffers registered only on
leaving it; shape limits of each stage; the byte rule of ``auto``; the environment variable read at
import. Rows measured with it are marked as such.

``AITER_STANDIN_FAULT`` makes it go wrong: ``wrong-1stage`` (one rank drops a peer in the 1-stage),
``none`` (the custom op never runs), ``disabled`` (no peer access).
"""

import os

import torch

from . import graphs

__version__ = os.environ.get("AITER_STANDIN_VERSION", "0.1.18")
__costmodel_standin__ = True


def rmsnorm2d_fwd_with_add(
    out, input, residual_in, residual_out, weight, epsilon, use_model_sensitive_rmsnorm=0
):
    def run():
        graphs.launched("add_rmsnorm2d_kernel")
        summed = input.float() + residual_in.float()
        residual_out.copy_(summed)
        scale = torch.rsqrt(summed.pow(2).mean(-1, keepdim=True) + epsilon)
        out.copy_(summed * scale * weight.float())

    graphs.issue(run)


def costmodel_device():
    return graphs.CpuDevice()
