"""AITER's communicator as what an engine offers: both arms of the fused op on buffers of its own.

Written from AITER's source (``CustomAllreduce``: ``custom_fused_ar_rms`` with its ``use_1stage``,
and ``capture()``, which registers what was captured); no AMD GPU ran it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...model.shape import ONE_STAGE, TWO_STAGE
from ...units import read_dtype
from ..backends.base import EPSILON
from ..backends.reference import torch_dtype

#: What an object has that is one.
FUSED_CALL = "custom_fused_ar_rms"


class CommunicatorCalls:
    """Calls of the fused op through a communicator, by arm."""

    def __init__(self, communicator: Any, dtype: str) -> None:
        self._communicator = communicator
        self._dtype = torch_dtype(read_dtype(dtype))
        self._buffers: tuple[Any, Any, Any] | None = None

    def ops(self) -> dict[str, Callable[[int, int], object]]:
        """Return the two functions that :func:`.offered.offered` takes."""
        return {
            ONE_STAGE: lambda tokens, hidden: self._call(tokens, hidden, True),
            TWO_STAGE: lambda tokens, hidden: self._call(tokens, hidden, False),
        }

    def _call(self, tokens: int, hidden: int, use_1stage: bool) -> object:
        given, residual, weight = self._at_least(tokens * hidden, hidden)
        size = (tokens, hidden)
        result = getattr(self._communicator, FUSED_CALL)(
            given[: tokens * hidden].view(size), residual[: tokens * hidden].view(size),
            weight[:hidden], EPSILON, use_1stage,
        )  # fmt: skip
        if result is None:  # it declines what it does not take
            raise RuntimeError("the communicator does not run its fused op")
        return result

    def _at_least(self, elements: int, hidden: int) -> tuple[Any, Any, Any]:
        """Return input, residual and weight; they grow outside captures: a first call is eager."""
        import torch

        held = self._buffers
        if held is None or held[0].numel() < elements or held[2].numel() < hidden:
            device = getattr(self._communicator, "device", None) or "cpu"
            kind = self._dtype
            held = (
                torch.zeros(elements, dtype=kind, device=device),
                torch.zeros(elements, dtype=kind, device=device),
                torch.ones(hidden, dtype=kind, device=device),
            )
            self._buffers = held
        return held
