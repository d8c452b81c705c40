"""The workload over which a rule is judged: captured decode batch sizes crossed with hidden sizes.

Engines capture graphs at fixed batch sizes and pad to them, so these are the only token counts at
which a decode step calls the op (vLLM ``cudagraph_capture_sizes``, SGLang ``cuda_graph_bs``).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..errors import InputError
from .ranges import sizes


def captured_batch_sizes() -> NDArray[np.int64]:
    """Return 1, 2, 4, then multiples of 8 to 256, then of 16 to 512."""
    return np.array([1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)], np.int64)


class Workload(Struct, frozen=True):
    """Calls as (tokens, hidden_dim, weight), flat arrays of equal length; weights sum to 1."""

    tokens: NDArray[np.int64]
    hidden_dim: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        hidden_dims: Iterable[int],
        tokens: Iterable[int] | None = None,
        token_weight: Iterable[float] | None = None,
    ) -> Workload:
        """Cross token counts (default: captured batch sizes) with hidden sizes.

        Each hidden size weighs the same; token counts weigh ``token_weight`` or the same. Raises
        :class:`InputError` for no calls, sizes that no call has and weights that are none.
        """
        hidden = np.unique(sizes(list(hidden_dims), "hidden_dim"))
        batch = captured_batch_sizes() if tokens is None else sizes(list(tokens), "tokens")
        if not hidden.size or not batch.size:
            raise InputError("a workload needs at least one token count and one hidden size")
        share = np.ones(batch.size) if token_weight is None else np.array(list(token_weight), float)
        if share.shape != batch.shape:
            raise InputError(f"{share.size} weights for {batch.size} token counts")
        if not (share >= 0).all() or not 0 < share.sum() < np.inf:
            raise InputError("token weights must be 0 or more, finite, and not all 0")
        t, h = (a.ravel() for a in np.meshgrid(batch, hidden, indexing="ij"))
        w = np.repeat(share / share.sum(), hidden.size)
        return cls(t, h, w / w.sum())

    def hidden_dims(self) -> list[int]:
        """Return the hidden sizes, ascending."""
        return sorted(set(self.hidden_dim.tolist()))

    def token_counts(self) -> NDArray[np.int64]:
        """Return the token counts, ascending, each once."""
        return np.unique(self.tokens)

    def select(self, calls: NDArray[np.bool_]) -> Workload:
        """Return the calls of a mask; their weights sum to 1 again."""
        weight = self.weight[calls]
        return Workload(self.tokens[calls], self.hidden_dim[calls], weight / weight.sum())


def snap_tokens(
    max_bytes: int,
    hidden_dim: int,
    element_bytes: int,
    tokens: NDArray[np.int64] | None = None,
) -> tuple[int, int | None]:
    """Return the last token count within ``max_bytes`` (or 0) and the first above (or None).

    Of ``tokens``, ascending (default: captured batch sizes).
    """
    batch = captured_batch_sizes() if tokens is None else tokens
    below = batch[batch * hidden_dim * element_bytes <= max_bytes]
    above = batch[batch * hidden_dim * element_bytes > max_bytes]
    return (int(below[-1]) if below.size else 0), (int(above[0]) if above.size else None)
