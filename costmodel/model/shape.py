"""The shape of one call: what is reduced, over how many ranks.

``bytes`` always means the input tensor's size on one rank, tokens x hidden_dim x element size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, nearest
from ..units import element_bytes

#: Operations that the model covers.
ALL_REDUCE = "all_reduce"
FUSED = "fused_ar_rmsnorm"
SEPARATE = "ar_then_rmsnorm"
OPS = (ALL_REDUCE, FUSED, SEPARATE)

#: Algorithms, by the number of cross-GPU stages.
ONE_STAGE = "1stage"
TWO_STAGE = "2stage"
ALGORITHMS = (ONE_STAGE, TWO_STAGE)

WORLD_SIZES = (2, 4, 8)


@dataclass(frozen=True)
class Shapes:
    """One op and dtype over arrays of ``tokens``, ``hidden_dim`` and ``world_size``.

    The three arrays have one common shape (use :meth:`of` to broadcast). int64.
    """

    op: str
    dtype: str
    tokens: NDArray[np.int64]
    hidden_dim: NDArray[np.int64]
    world_size: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        tokens: ArrayLike,
        hidden_dim: ArrayLike,
        world_size: ArrayLike,
        *,
        op: str = FUSED,
        dtype: str = "bf16",
    ) -> Shapes:
        """Broadcast the three arrays and check them.

        Raises :class:`InputError` for an unknown op, dtype or world size and for sizes below 1.
        """
        if op not in OPS:
            raise InputError(
                f"unknown op '{op}': the model knows {', '.join(OPS)}{nearest(op, OPS)}"
            )
        element_bytes(dtype)
        t, h, n = np.broadcast_arrays(
            np.asarray(tokens, np.int64),
            np.asarray(hidden_dim, np.int64),
            np.asarray(world_size, np.int64),
        )
        if t.size and int(t.min()) < 1:
            raise InputError(f"tokens must be 1 or more, got {int(t.min())}")
        if h.size and int(h.min()) < 1:
            raise InputError(f"hidden_dim must be 1 or more, got {int(h.min())}")
        known_size = (n == 2) | (n == 4) | (n == 8)
        if not known_size.all():
            bad = int(n[~known_size].flat[0])
            raise InputError(f"unknown world size {bad}: the kernels run on 2, 4 or 8 ranks")
        return cls(op, dtype, t, h, n)

    @property
    def bytes(self) -> NDArray[np.int64]:
        """Input bytes on one rank."""
        return self.tokens * self.hidden_dim * element_bytes(self.dtype)

    def select(self, calls: NDArray[Any] | slice) -> Shapes:
        """Return the calls of a mask or an index, of flat arrays."""
        return Shapes(
            self.op, self.dtype, self.tokens[calls], self.hidden_dim[calls], self.world_size[calls]
        )

    def __len__(self) -> int:
        return self.tokens.size
