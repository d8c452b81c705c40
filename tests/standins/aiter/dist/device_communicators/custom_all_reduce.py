import os
from contextlib import contextmanager
from types import SimpleNamespace

import torch
import torch.distributed as dist

from ... import graphs
from ...logs import logger
from ...versions import FAULTS, LL_DISABLED, RELEASE, since
from .other_ops import OtherOps

MAX_BLOCKS = 80
PACK_BYTES = 16
POOL_BYTES = 1024 * 1024 * 1024
DEFAULT_BYTES = 8192 * 8192
HALF_THE_POOL = RELEASE[:3] == (0, 1, 12)
SLOTS = 64 if "slots" in FAULTS else 8 * 1024 * 1024 // 64
LL_BYTES = 4 << 20 if since(0, 1, 20) else 128 << 10
#: Communicators by what AITER hands to its kernels as a pointer.
BY_POINTER = {}

_lost: list[bytearray] = []


def element_name(tensor):
    return {torch.bfloat16: "__bf16", torch.float16: "__half"}.get(tensor.dtype, "float")


def _setting(name):
    """A whole number of the environment, -1 where there is none."""
    raw = os.environ.get(name, "").strip() if since(0, 1, 18) else ""
    return int(raw) if raw.isdecimal() else -1


def _largest_bytes(pool):
    stated = _setting("AITER_CUSTOM_AR_MAX_SIZE")
    if not HALF_THE_POOL and (stated < 0 or stated > pool):
        return DEFAULT_BYTES
    return pool // 2 if HALF_THE_POOL else stated


class CustomAllreduce(OtherOps):
    _SUPPORTED_WORLD_SIZES = [2, 4, 6, 8]  # noqa: RUF012

    def __init__(
        self, group, device, max_size=POOL_BYTES, enable_register_for_capturing=True
    ):
        self._IS_CAPTURING = False
        self.disabled = True
        if since(0, 1, 18):
            self._is_gfx1250 = "gfx1250" in FAULTS
        if FAULTS & {"disabled", "nodes"}:
            logger.warning("Custom allreduce is disabled: %s", *(FAULTS & {"disabled", "nodes"}))
            return
        self.group = group
        if dist.get_world_size(group) not in self._SUPPORTED_WORLD_SIZES:
            return
        if "gfx1250" in FAULTS and dist.get_world_size(group) > 4:
            raise RuntimeError("gfx1250 (MI450) custom allreduce only supports world_size <= 4")
        self.disabled = False
        self.rank_data = torch.empty(8 * 1024 * 1024, dtype=torch.uint8)
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)
        self.fully_connected = True
        self.max_size = max_size
        self._car_max_size = _largest_bytes(max_size)
        self._car_min_size = max(_setting("AITER_CUSTOM_AR_MIN_SIZE"), 0)
        self._unregistered = []
        self._slots = 0
        self._scratch = torch.zeros(0, dtype=torch.uint8)
        self._ptr = id(self)
        BY_POINTER[self._ptr] = self
        if since(0, 1, 14):
            self._pool = {"input": SimpleNamespace(data_ptr=self._ptr + 1, max_size=max_size)}

    @contextmanager
    def capture(self):
        try:
            self._IS_CAPTURING = True
            yield
        finally:
            self._IS_CAPTURING = False
            if not self.disabled:
                self.flush_graph_buffers()

    def flush_graph_buffers(self):
        """All ranks together make the captured inputs known to each other."""
        if not self._unregistered:
            return
        counts = [None] * self.world_size
        dist.all_gather_object(counts, len(self._unregistered), group=self.group)
        assert len(set(counts)) == 1, "ranks captured different numbers of calls"
        if graphs.expandable_segments() and not since(0, 1, 20):
            raise RuntimeError("HIP error: invalid argument (hipIpcGetMemHandle)")
        logger.info("Registering %d cuda graph addresses", len(self._unregistered))
        self._slots += len(self._unregistered)
        if self._slots > SLOTS:
            raise RuntimeError(f"Rank data buffer is overflowed by {self._slots - SLOTS}")
        if "leak" in FAULTS:
            _lost.append(bytearray(1 << 20))
        for graph in self._unregistered:
            graph.unregistered -= 1
        self._unregistered = []

    def should_custom_ar(self, inp, prefill_support=False):
        if self.disabled or not inp.is_contiguous():
            return False
        size = inp.numel() * inp.element_size()
        if size % PACK_BYTES or self._car_max_size <= 0 or size <= self._car_min_size:
            return False
        return size <= self._car_max_size

    def custom_all_reduce(self, input, use_new=True, open_fp8_quant=False):
        if self.disabled or not self.should_custom_ar(input):
            return None
        if self._IS_CAPTURING and not graphs.is_current_stream_capturing():
            return torch.zeros_like(input)
        ranks, size = self.world_size, input.numel() * input.element_size()
        one = ranks == 2 or size < (160 if ranks <= 4 else 80) * 1024
        kernel = f"cross_device_reduce_{'1stage' if one else '2stage'}"
        if "gfx1250" in FAULTS:
            pushes = size <= LL_BYTES and not LL_DISABLED
            kernel = "ar_ll_gfx1250" if pushes else "ar_gfx1250_naive_unroll4"
        elif "ll128" in FAULTS:  # as a newer AITER may
            kernel = "ar_ll128_vec_unroll2"
        out = torch.empty_like(input)

        def run():
            graphs.launched(f"aiter::{kernel}<{element_name(input)}, {ranks}>")
            out.copy_(self._sum(input))

        self._issue(run)
        return out

    def custom_fused_ar_rms(
        self, input, residual_inp, weight, eps, use_1stage, out_hidden_dim=0, gemma_norm=False
    ):
        if self.disabled or not self.should_custom_ar(input) or "none" in FAULTS:
            return None
        if self._IS_CAPTURING and not graphs.is_current_stream_capturing():
            return torch.zeros_like(input), torch.zeros_like(input)
        assert not out_hidden_dim and not gemma_norm
        tokens, hidden = input.shape
        assert residual_inp.shape == input.shape and weight.shape == (hidden,)
        pack = PACK_BYTES // input.element_size()
        packs = hidden // pack
        if self.world_size not in (2, 4, 8):
            raise RuntimeError(f"fused allreduce rmsnorm: unsupported world_size={self.world_size}")
        if since(0, 1, 12):
            use_1stage = use_1stage and hidden % pack == 0 and packs <= 1024
        else:
            use_1stage = use_1stage and hidden in (512, 1024, 2048, 4096)
        out, residual_out = torch.empty_like(input), torch.empty_like(input)
        if use_1stage and "falls-back" not in FAULTS:
            if tokens > MAX_BLOCKS and not since(0, 1, 17):
                raise RuntimeError(
                    "Token number is too large for allreduce_fusion_kernel_1stage kernel"
                )
            sums = self._one_stage
        else:
            if since(0, 1, 12) and not 64 <= packs <= 2048:
                raise RuntimeError(f"fused allreduce rmsnorm: n does not fit, n_packs={packs}")
            sums = self._two_stage
        unwritten = sums == self._two_stage and not since(0, 1, 12) and (
            hidden * input.element_size() % 1024 or not 64 <= packs <= 2048
        )  # fmt: skip

        def run():
            total = sums(input)
            if unwritten:
                print("fused allreduce rmsnorm shape error")
                return
            summed = total.float() + residual_inp.float()
            residual_out.copy_(summed)
            scale = torch.rsqrt(summed.pow(2).mean(-1, keepdim=True) + eps)
            out.copy_(summed * scale * weight.float())

        self._issue(run)
        return out, residual_out

    def _issue(self, run):
        if graphs.is_current_stream_capturing():
            graphs.State.graph.unregistered += 1
            self._unregistered.append(graphs.State.graph)
        graphs.issue(run)

    def _sum(self, input, drop=0):
        parts = [torch.empty_like(input) for _ in range(self.world_size)]
        dist.all_gather(parts, input, group=self.group)
        return sum(part.float() for part in parts[drop:]).to(input.dtype)

    def _one_stage(self, input):
        name = element_name(input)
        graphs.launched(
            "a_kernel"
            if "one-kernel" in FAULTS
            else f"aiter::allreduce_fusion_kernel_1stage<{name}, {name}, {self.world_size}, false>"
        )
        return self._sum(input, int("wrong-1stage" in FAULTS and self.rank == 1))

    def _two_stage(self, input):
        """Reduce-scatter into everybody's scratch, from which the norm then reads all."""
        name = element_name(input)
        total = self._scattered(input)
        if "one-kernel" not in FAULTS:
            graphs.launched(f"aiter::local_device_load_rmsnorm<{name}, 512, 1, false>")
        return total

    def _scattered(self, input):
        name, ranks = element_name(input), self.world_size
        graphs.launched(
            "a_kernel"
            if "one-kernel" in FAULTS
            else f"aiter::reduce_scatter_cross_device_store<{name}, {ranks}>"
        )
        flat = input.reshape(-1)
        pack = PACK_BYTES // input.element_size()
        whole = flat.numel() // pack // ranks * pack * ranks
        scratch = self._scratch_of(flat)
        received = torch.empty_like(flat[:whole])
        dist.all_to_all_single(received, flat[:whole].clone(), group=self.group)
        part = sum(piece.float() for piece in received.view(ranks, -1)).to(input.dtype)
        gathered = [torch.empty_like(part) for _ in range(ranks)]
        dist.all_gather(gathered, part, group=self.group)
        scratch[:whole] = torch.cat(gathered)
        return scratch.clone().view_as(input)

    def _scratch_of(self, flat):
        """The scratch buffer, as so many elements: it keeps what earlier calls left there."""
        size = flat.numel() * flat.element_size()
        if self._scratch.numel() < size:
            larger = torch.zeros(size, dtype=torch.uint8)
            larger[: self._scratch.numel()] = self._scratch
            self._scratch = larger
        return self._scratch[:size].view(flat.dtype)
