"""vLLM's present shape: one predicate that every op asks."""

import torch


class AiterCustomAllreduce:
    MAX_SIZE: int = 8192 * 1024 * 8 * 2

    def __init__(self, impl) -> None:
        self._impl = impl

    @property
    def disabled(self) -> bool:
        return self._impl.disabled

    def use_1stage_fused_ar_rms(self, inp: torch.Tensor) -> bool:
        """Rows of 16-byte packs, at most 1024 packs a row, at most 80 tokens."""
        hidden_dim = inp.shape[-1]
        # Token cap first: prefill-sized inputs leave here with one comparison.
        if inp.numel() // hidden_dim > 80:
            return False
        if inp.dtype not in (torch.bfloat16, torch.float16):
            return False
        pack_size = 16 // inp.element_size()
        if hidden_dim % pack_size != 0 or hidden_dim // pack_size > 1024:
            return False
        ca = self._impl
        world_size = ca.world_size
        if world_size == 2:
            return True
        if not ca.fully_connected:
            return False
        total_bytes = inp.numel() * inp.element_size()
        if world_size <= 4:
            return total_bytes < 256 * 1024
        if world_size <= 8:
            return total_bytes < 128 * 1024
        return False
