import os

import torch
import torch.distributed as dist

from ... import graphs


class QuickAllReduce:
    """Quantised: what it gives is near, and no more."""

    _MIN_SIZE = 1 << 20

    def __init__(self, group):
        self.group = group
        self.disabled = os.environ.get("AITER_QUICK_REDUCE_QUANTIZATION", "NONE") == "NONE"
        self.qr_max_size = int(os.environ.get("AITER_QUICK_REDUCE_MAX_SIZE_BYTES_MB", "2048")) << 20

    def should_quick_allreduce(self, inp):
        size = inp.numel() * inp.element_size()
        return not self.disabled and self._MIN_SIZE <= size <= self.qr_max_size

    def quick_all_reduce(self, inp):
        out = torch.empty_like(inp)

        def run():
            graphs.launched("aiter::allreduce_prototype_twoshot")
            parts = [torch.empty_like(inp) for _ in range(dist.get_world_size(self.group))]
            dist.all_gather(parts, inp, group=self.group)
            out.copy_(sum((part.float() * 8).round() / 8 for part in parts))

        graphs.issue(run)
        return out
