import os

import torch
import torch.distributed as dist

from ... import graphs
from .other_ops import OtherOps

FORCED = os.environ.get("AITER_AR_1STAGE")
FAULT = os.environ.get("AITER_STANDIN_FAULT", "")


def limit_bytes(world_size):
    return 128 * 7168 * 2 // world_size


class CustomAllreduce(OtherOps):
    def __init__(self):
        self.world_size = dist.get_world_size()
        self.fully_connected = True
        self.disabled = self.world_size not in (2, 4, 8) or FAULT == "disabled"

    def should_custom_ar(self, inp):
        return not self.disabled and inp.numel() * inp.element_size() % 16 == 0

    def custom_fused_ar_rms(
        self, input, residual, weight, eps, use_1stage, out_hidden_dim=0, gemma_norm=False
    ):
        if not self.should_custom_ar(input) or FAULT == "none":
            return None
        tokens, hidden_dim = input.shape
        assert input.is_contiguous() and residual.shape == input.shape
        assert weight.shape == (hidden_dim,)
        packs, rest = divmod(hidden_dim * input.element_size(), 16)
        assert rest == 0
        assert packs <= 1024 if use_1stage else packs >= 64, "unsupported hidden_dim"
        out, residual_out = torch.empty_like(input), torch.empty_like(input)
        if graphs.State.inside_graph_capture and graphs.State.graph is None:
            return out.zero_(), residual_out.zero_()

        def run():
            ranks, rank = dist.get_world_size(), dist.get_rank()
            if use_1stage:
                graphs.launched("allreduce_fusion_kernel_1stage")
                parts = [torch.empty_like(input) for _ in range(ranks)]
                dist.all_gather(parts, input)
                if FAULT == "wrong-1stage" and rank == 1:
                    parts = parts[1:]
                total = sum(part.float() for part in parts).to(input.dtype)
            else:
                graphs.launched("reduce_scatter_cross_device_store")
                graphs.launched("local_device_load_rmsnorm")
                received = torch.empty_like(input).view(-1)
                dist.all_to_all_single(received, input.view(-1))
                part = sum(piece.float() for piece in received.view(ranks, -1)).to(input.dtype)
                gathered = [torch.empty_like(part) for _ in range(ranks)]
                dist.all_gather(gathered, part)
                total = torch.cat(gathered).view_as(input)
            summed = total.float() + residual.float()
            residual_out.copy_(summed)
            scale = torch.rsqrt(summed.pow(2).mean(-1, keepdim=True) + eps)
            out.copy_(summed * scale * weight.float())

        graphs.issue(run)
        return out, residual_out
