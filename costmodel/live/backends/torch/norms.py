"""The separate add + RMSNorm that follows an all-reduce: torch.compile's, or the project's own.

Both write into buffers that are given, so that a captured call owns no memory of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ....errors import InputError
from ..base import EPSILON, LiveShape
from ..triton.adapter import KERNELS_REVISION

#: The norms by the name of ``--norm``.
COMPILED, TRITON = "compiled", "triton"


class Norm(ABC):
    """One norm for one shape."""

    @abstractmethod
    def bound(self, summed: Any, slot: Any) -> Callable[[], None]:
        """Return what issues the norm of ``summed`` (tokens, hidden) with a slot's buffers."""


class Compiled(Norm):
    """What ``torch.compile`` makes of the norm written in plain torch: one kernel, by inductor."""

    def __init__(self, shape: LiveShape) -> None:
        import torch
        import torch._dynamo
        import torch._inductor.config

        torch._inductor.config.compile_threads = 1  # no pool of processes beside a rank
        torch._dynamo.reset()  # past 8 shapes of one function it would quietly run it uncompiled
        self._run = torch.compile(add_rms_norm, fullgraph=True, dynamic=False)

    def bound(self, summed: Any, slot: Any) -> Callable[[], None]:
        """See :meth:`Norm.bound`."""
        return lambda: self._run(summed, slot.residual, slot.weight, slot.output, slot.residual_out)


def add_rms_norm(summed: Any, residual: Any, weight: Any, output: Any, residual_out: Any) -> None:
    """Add and normalize in fp32, rounding once into each of the two outputs."""
    import torch

    added = summed.float() + residual.float()
    scale = torch.rsqrt(added.pow(2).mean(-1, keepdim=True) + EPSILON)
    residual_out.copy_(added)
    output.copy_(added * scale * weight.float())


class OwnKernel(Norm):
    """The project's Triton kernel, which is also the norm of the Triton back end's separate ops."""

    def __init__(self, shape: LiveShape) -> None:
        from ..triton import kernels
        from ..triton.adapter import norm_launch

        self._rows = kernels
        self._launch = norm_launch(shape, (0,), 1)

    def bound(self, summed: Any, slot: Any) -> Callable[[], None]:
        """See :meth:`Norm.bound`; a pointer table of one rank."""
        import torch

        rows = self._rows
        table = torch.zeros((rows.TABLE_ROWS, 1), dtype=torch.int64)
        table[rows.GATHERED.value, 0] = summed.data_ptr()
        table[rows.RESIDUAL.value, 0] = slot.residual.data_ptr()
        table[rows.WEIGHT.value, 0] = slot.weight.data_ptr()
        table[rows.OUTPUT.value, 0] = slot.output.data_ptr()
        table[rows.RESIDUAL_OUT.value, 0] = slot.residual_out.data_ptr()
        on_device = table.to(summed.device)
        return lambda: self._launch(on_device)


NORMS: dict[str, Callable[[LiveShape], Norm]] = {COMPILED: Compiled, TRITON: OwnKernel}


def version(norm: str) -> str:
    """Return a norm in the words of ``kernel_version``.

    Raises :class:`InputError` where triton, of which both are made on a GPU, is missing.
    """
    try:
        import triton
    except ImportError:
        raise InputError(
            f"--norm {norm} is compiled by triton, which is not installed; pip install triton"
        ) from None
    by = "torch.compile" if norm == COMPILED else f"triton kernels {KERNELS_REVISION}"
    return f"norm by {by}, triton {triton.__version__}"


def reason_against(norm: str, shape: LiveShape) -> str:
    """Return why a norm cannot run a shape, "" where it can."""
    from ....units import PACK_BYTES, element_bytes
    from ..triton.launch import MAX_HIDDEN

    pack = PACK_BYTES // element_bytes(shape.dtype)
    if norm == TRITON and (shape.hidden_dim % pack or shape.hidden_dim > MAX_HIDDEN):
        return (
            f"the norm triton takes hidden_dim in multiples of {pack} up to {MAX_HIDDEN}; "
            "--norm compiled takes any"
        )
    return ""
