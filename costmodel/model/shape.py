"""The shape of one call: what is reduced, over how many ranks.

``bytes`` always means the input tensor's size on one rank, tokens x hidden_dim x element size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import ArrayLike, NDArray

from ..data import ops
from ..data.ranges import sizes
from ..errors import InputError, nearest
from ..units import element_bytes, read_dtype

#: Operations that the model covers; :mod:`costmodel.data.ops` has the whole vocabulary.
ALL_REDUCE = "all_reduce"
FUSED = "fused_ar_rmsnorm"
SEPARATE = "ar_then_rmsnorm"
OPS = (ALL_REDUCE, FUSED, SEPARATE)

#: Operations that engines choose kernels for and no model covers.
FP8 = "fused_ar_rmsnorm_quant_fp8"
FP8_PER_TOKEN = "fused_ar_rmsnorm_quant_fp8_per_token"
MXFP4 = "fused_ar_rmsnorm_quant_mxfp4"
MHC = "fused_ar_mhc"

#: Algorithms, by the number of cross-GPU stages.
ONE_STAGE = "1stage"
TWO_STAGE = "2stage"
ALGORITHMS = (ONE_STAGE, TWO_STAGE)

#: The third arm beside the fused op: an all-reduce, by its own dispatch, then an RMSNorm.
SEPARATE_OPS = "separate"
ARMS = (*ALGORITHMS, SEPARATE_OPS)

#: What may run where a rule does not run 1-stage: engines differ by call site.
OTHERWISE = (TWO_STAGE, SEPARATE_OPS)

#: More arms of the plain op: one-shot kernels of AITER that push their data with flags in it, and
#: wait for no rank. Each is a family of kernels with a calibration of its own.
LL, LL128 = "ll", "ll128"
PUSHED = (LL, LL128)

#: Arms that machines run faster or slower beside 1-stage than the model says.
CONTRASTED = (*OTHERWISE, *PUSHED)

#: The arms that an op has beside its two algorithms.
BESIDE = {FUSED: (SEPARATE_OPS,), ALL_REDUCE: PUSHED}

#: What they are called in sentences.
SPOKEN = {
    ONE_STAGE: "1-stage", TWO_STAGE: "2-stage", SEPARATE_OPS: "separate ops",
    LL: "LL", LL128: "LL128",
}  # fmt: skip

WORLD_SIZES = (2, 4, 8)

#: Least number of calls among which those of one world size are looked for together.
STRETCH = 1 << 14


def read_op(name: str) -> str:
    """Return the operation that a name stands for: ``fused``, ``plain``, ``mxfp4``, ...

    Raises :class:`InputError` for what is none, or only a phase of one.
    """
    key = op_key(name)
    known = ops.chosen()
    if key not in (op.name for op in known):
        spelled = [word for op in known for word in (op.name, *op.names)]
        short = ", ".join(op.names[0] for op in known)
        raise InputError(f"unknown op '{name}'{nearest(name, spelled)}; one of {short}")
    return key


def op_key(name: str) -> str:
    """Return an operation's own name; what is none comes back in the form of one."""
    key = re.sub(r"[\s-]+", "_", name.strip().lower())
    return next((op.name for op in ops.chosen() if key in op.names), key)


def modelled_op(name: str) -> str:
    """Return the operation that a name stands for: ``fused``, ``plain``, ``all-reduce``, ...

    Raises :class:`InputError` for an operation that no model covers: its latency is not that of
    another op.
    """
    op = read_op(name)
    if op not in OPS:
        raise InputError(
            f"no model covers {ops.vocabulary()[op].title} ({op}); models cover {', '.join(OPS)}"
        )
    return op


def read_algorithm(name: str) -> str:
    """Return the algorithm that a name stands for: ``1-stage``, ``one_stage``, ``2stage``, ...

    Raises :class:`InputError` for anything but the two.
    """
    if name in ALGORITHMS:
        return name
    key = re.fullmatch(r"(1|one|2|two)[\s_-]*(stage|shot)?", name.strip().lower())
    if key is None:
        raise InputError(
            f"unknown algorithm '{name}'{nearest(name, ALGORITHMS)}; {ONE_STAGE} or {TWO_STAGE}"
        )
    return ONE_STAGE if key[1] in ("1", "one") else TWO_STAGE


def read_arm(name: str) -> str:
    """Return the arm that a name stands for: an algorithm, or ``ll`` or ``ll128`` in any case.

    Raises :class:`InputError` for anything else.
    """
    key = name.strip().lower()
    if key in PUSHED:
        return key
    try:
        return read_algorithm(name)
    except InputError:
        known = (*ALGORITHMS, *PUSHED)
        raise InputError(
            f"unknown algorithm '{name}'{nearest(key, known)}; one of {', '.join(known)}"
        ) from None


class Shapes(Struct, frozen=True):
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
        """Broadcast the three arrays and check them; op and dtype go by any name of theirs.

        Raises :class:`InputError` for an unknown op, dtype or world size and for sizes below 1.
        """
        op, dtype = modelled_op(op), read_dtype(dtype)
        arrays = [
            sizes(values, name)
            for values, name in (
                (tokens, "tokens"), (hidden_dim, "hidden_dim"), (world_size, "world_size")
            )
        ]  # fmt: skip
        try:
            t, h, n = np.broadcast_arrays(*arrays)
        except ValueError:
            of = ", ".join(str(a.shape) for a in arrays)
            raise InputError(
                f"tokens, hidden_dim and world_size of shapes {of} do not go together"
            ) from None
        known_size = (n == 2) | (n == 4) | (n == 8)
        if not known_size.all():
            bad = int(n[~known_size].flat[0])
            raise InputError(f"unknown world size {bad}: the kernels run on 2, 4 or 8 ranks")
        return cls(op, dtype, t, h, n)

    @property
    def bytes(self) -> NDArray[np.int64]:
        """Input bytes on one rank."""
        return self.tokens * self.hidden_dim * self.element_bytes

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return element_bytes(self.dtype)

    def select(self, calls: NDArray[Any] | slice) -> Shapes:
        """Return the calls of a mask or an index, of flat arrays."""
        return Shapes(
            self.op, self.dtype, self.tokens[calls], self.hidden_dim[calls], self.world_size[calls]
        )

    def distinct_bytes(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return a call of each number of bytes, and which of these each call is like; flat."""
        _, first, which = np.unique(self.bytes, return_index=True, return_inverse=True)
        return first, which

    def blocks(self, most: int) -> Iterator[tuple[NDArray[np.intp] | slice, Shapes]]:
        """Yield places of at most so many calls of one world size, and those calls, of flat arrays.

        What depends on ranks alone is then one number, and a block's arrays stay in the cache.
        """
        # A stretch at a time, so that what is picked from and put back to is in the cache too.
        stretch = max(2 * most, STRETCH)
        for first in range(0, len(self), stretch):
            here = self.world_size[first : first + stretch]
            for n in WORLD_SIZES:
                places = np.flatnonzero(here == n)
                places += first
                for start in range(0, places.size, most):
                    block = places[start : start + most]
                    run = slice(int(block[0]), int(block[-1]) + 1)
                    which = run if run.stop - run.start == block.size else block
                    tokens = self.tokens[which]
                    ranks = np.broadcast_to(np.int64(n), tokens.shape)
                    yield (
                        which,
                        replace(
                            self, tokens=tokens, hidden_dim=self.hidden_dim[which], world_size=ranks
                        ),
                    )

    def __len__(self) -> int:
        return self.tokens.size
